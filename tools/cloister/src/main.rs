//! `cloister`: the tool on the developer's or operator's workstation. Checks and packs VM bundles,
//! shows what is in them, and runs them in QEMU.
//!
//! Every error is one line on standard error that says what and where. Exit status: 0 done, 1 the
//! machine ran and not all went well, 2 bad usage, configuration or input file, 124 timed out.

#![forbid(unsafe_code)]

mod assign;
mod audit;
mod bench;
mod error;
mod file;
mod flatten;
mod guest_image;
mod inspect;
mod pack;
mod panics;
mod run;
mod size;
mod vmfile;

use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use error::{Error, Result};

#[derive(Parser)]
#[command(
    name = "cloister",
    version,
    about = "VM bundles for the Cloister hypervisor, and QEMU to run them"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check VM descriptions (TOML) and pack them, kernels and initrds included, into a bundle
    Bundle {
        /// One VM each
        #[arg(required = true, value_name = "VM.toml")]
        vms: Vec<PathBuf>,
        /// The bundle's file
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Check a bundle and print what it holds
    Inspect {
        /// The bundle's file
        bundle: PathBuf,
    },
    /// Start VMs under Cloister in QEMU
    Run(Box<run::RunArgs>),
    GuestImage(Box<guest_image::ImageArgs>),
    /// Turn an ELF program linked at 0 into a flat image
    Flatten {
        /// The program
        elf: PathBuf,
        /// The image
        output: PathBuf,
    },
    /// Measure, side by side with KVM on the same emulated machine
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Count lines and unsafe blocks of the workspace in the current folder
    #[command(hide = true)]
    Audit,
    /// Find every panic left in the linked payload and compare with the list of those allowed
    #[command(hide = true)]
    Panics {
        /// The payload, with symbols
        elf: PathBuf,
        /// The list
        list: PathBuf,
    },
}

/// Prints a line about what is being done.
fn progress(message: impl Display) {
    eprintln!("cloister: {message}");
}

fn main() -> ExitCode {
    let result = match Cli::try_parse() {
        Ok(cli) => execute(cli.command),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
            _ => Err(usage(&error)),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cloister: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// Clap's message without its usage summary, which would take several lines.
fn usage(error: &clap::Error) -> Error {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or(&text);
    Error::config(format_args!(
        "{} (see --help)",
        message.trim_start_matches("error: ").trim()
    ))
}

fn execute(command: Command) -> Result<()> {
    match command {
        Command::Bundle { vms, output } => {
            let vms = vms
                .iter()
                .map(|p| vmfile::read(p))
                .collect::<Result<Vec<_>>>()?;
            let devices = assign::assign(&vms)?;
            let bytes = pack::pack(&vms, &devices)?;
            fs::write(&output, &bytes).map_err(|e| Error::file(&output, &e))?;
            for image in &devices.images {
                let (path, serial) = (image.path.display(), &image.serial);
                progress(format_args!(
                    "not packed: {path}, expected as disk '{serial}'"
                ));
            }
            progress(format_args!(
                "{}: {}",
                output.display(),
                pack::describe(&bytes, vms.len())
            ));
            Ok(())
        }
        Command::Inspect { bundle } => {
            let (bytes, report) = inspect::file(&bundle)?;
            let count = report.vms.len() + report.broken.len();
            println!("{}: {}", bundle.display(), pack::describe(&bytes, count));
            print!("{}", report.text);
            match report.broken.split_last() {
                None => Ok(()),
                Some((last, others)) => {
                    for broken in others {
                        progress(format_args!("{}: {broken}", bundle.display()));
                    }
                    Err(Error::config(format_args!("{}: {last}", bundle.display())))
                }
            }
        }
        Command::Run(args) => run::run(&args),
        Command::GuestImage(args) => guest_image::run(&args),
        Command::Flatten { elf, output } => {
            progress(flatten::run(&elf, &output)?);
            Ok(())
        }
        Command::Bench(bench) => bench::run(&bench),
        Command::Audit => audit::run(),
        Command::Panics { elf, list } => panics::run(&elf, &list),
    }
}
