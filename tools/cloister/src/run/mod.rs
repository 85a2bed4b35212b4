//! `cloister run`: builds the bundle, starts QEMU with it, carries the console, and turns what the
//! hostvisor says at the end into an exit status.

mod args;
mod console;
mod machine;
mod qemu;
mod verdict;

pub(crate) use args::RunArgs;

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use bundle::Format;

use crate::error::{Error, Result};
use crate::vmfile::VmFile;
use crate::{assign, inspect, pack, progress, vmfile};

/// Carries out `cloister run`.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("cloister-")
        .tempdir()
        .map_err(|e| Error::file(&std::env::temp_dir(), &e))?;
    let (bundle, report, about) = bundle(args, folder.path())?;
    if let Some(broken) = report.broken.first() {
        return Err(Error::config(broken));
    }
    if let Some(name) = args.console.as_deref().filter(|&name| name != "shell")
        && !report.names.iter().any(|known| known == name)
    {
        return Err(Error::config(format_args!(
            "--console {name}: no VM has this name"
        )));
    }
    if !args.no_memory_check {
        let size = bundle
            .as_ref()
            .map_or(0, |b| fs::metadata(b).map_or(0, |m| m.len()));
        machine::check_memory(args.memory, &report.autostart, size)?;
    }
    let payload = payload(args)?;
    let interactive = args.interactive
        || (std::io::stdin().is_terminal() && args.timeout.is_none() && !args.exit_when_idle);
    let qemu = qemu::find(&args.qemu)?;
    let command = qemu::arguments(args, &payload, bundle.as_deref(), !interactive);
    progress(format_args!("bundle: {about}"));
    progress(format_args!(
        "starting {}: {} CPUs ({}), {} of memory",
        qemu.version, args.cpus, args.cpu, args.memory
    ));
    console::run(&qemu, &command, args, interactive)
}

/// The bundle's file (made in `folder` unless `--bundle` names one; none for `--empty`), checked, and
/// a few words about it.
fn bundle(args: &RunArgs, folder: &Path) -> Result<(Option<PathBuf>, inspect::Report, String)> {
    if let Some(path) = &args.bundle {
        let (bytes, report) = inspect::file(path)?;
        let about = pack::describe(&bytes, report.names.len());
        return Ok((Some(path.clone()), report, about));
    }
    let vms = vms(args)?;
    if vms.is_empty() {
        if !args.empty {
            return Err(Error::config(
                "run: no VM given: --kernel, --vm, --flat or --bundle (or --empty for the shell alone)",
            ));
        }
        return Ok((None, inspect::Report::default(), "none".to_owned()));
    }
    let bytes = pack::pack(&vms, &assign::assign(&vms)?)?;
    let report = inspect::bundle(&bytes).map_err(Error::config)?;
    let path = folder.join("bundle");
    fs::write(&path, &bytes).map_err(|e| Error::file(&path, &e))?;
    Ok((Some(path), report, pack::describe(&bytes, vms.len())))
}

/// The VMs that the command line names, in its order: --kernel, then --vm, then --flat.
fn vms(args: &RunArgs) -> Result<Vec<VmFile>> {
    let mut vms = Vec::new();
    vms.extend(args.guest.vm());
    for path in &args.vm {
        vms.push(vmfile::read(path)?);
    }
    for path in &args.flat {
        let vm = vmfile::read(path)?;
        if !matches!(vm.format, Format::Flat) {
            return Err(Error::config(format_args!(
                "{}: --flat wants format = \"flat\" (use --vm for Linux)",
                vm.origin.at("format")
            )));
        }
        vms.push(vm);
    }
    Ok(vms)
}

/// The payload image: `--payload`, or the one that was built together with this tool.
fn payload(args: &RunArgs) -> Result<PathBuf> {
    let path = args.payload.clone().unwrap_or_else(|| {
        std::env::current_exe()
            .ok()
            .and_then(|exe| Some(exe.parent()?.parent()?.join("cloister.img")))
            .filter(|beside| beside.exists())
            .unwrap_or_else(|| PathBuf::from("build/cloister.img"))
    });
    let image = fs::read(&path).map_err(|e| {
        Error::config(format_args!(
            "payload {}: {} (build it with 'make build', or name it with --payload)",
            path.display(),
            crate::error::io_reason(&e)
        ))
    })?;
    bundle::image::Header::read(&image)
        .map_err(|e| Error::config(format_args!("payload {}: {e}", path.display())))?;
    Ok(path)
}
