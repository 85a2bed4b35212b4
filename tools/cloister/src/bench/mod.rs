//! `cloister bench`: the comparison with KVM, on one emulated machine (docs/benchmarks.md).

mod app;
mod contender;
mod document;
mod emulator;
mod guard;
mod job;
mod operation;
mod plot;
mod projection;
mod report;
mod results;
mod sample;
mod versions;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use crate::error::{Error, Result};
use crate::progress;
use contender::Contender;
use emulator::Paths;
use guard::Baseline;
use job::Job;
use results::{ContenderResults, Results};

/// Two runs of an operation may be this far apart, as a part of the lesser.
const REPEATABLE: f64 = 0.01;

/// What is measured.
#[derive(Subcommand, Debug)]
pub(crate) enum Bench {
    /// Everything below, one after the other; what is finished is not done again
    All(app::AppArgs),
    /// Single operations: hypercalls, traps, interrupts, faults, switches
    Micro(MicroArgs),
    #[command(flatten)]
    App(app::Named),
    /// Write REPORT.md and its plots anew from the results that are there
    Report {
        /// Where results/ is, and REPORT.md
        #[arg(long, value_name = "FOLDER", default_value = "bench")]
        folder: PathBuf,
    },
}

/// Options of every benchmark.
#[derive(Args, Clone, Debug)]
struct Common {
    /// CPU model of the machine, as QEMU names it; KVM's VHE mode needs one that has it
    #[arg(long, value_name = "MODEL", default_value = "neoverse-n1")]
    cpu: String,

    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=9))]
    runs: u32,

    /// Where results/NAME.json, REPORT.md and micro.toml are
    #[arg(long, value_name = "FOLDER", default_value = "bench")]
    folder: PathBuf,

    #[command(flatten)]
    paths: Paths,
}

/// Options of `cloister bench micro`.
#[derive(Args, Debug)]
pub(crate) struct MicroArgs {
    #[command(flatten)]
    common: Common,

    /// Measure this contender only; may be repeated: native, cloister-open, cloister-protected, kvm-nvhe, kvm-vhe, pkvm
    #[arg(long, value_name = "CONTENDER")]
    only: Vec<Contender>,

    /// Measure this operation only; may be repeated
    #[arg(long, value_name = "NAME")]
    operation: Vec<String>,

    /// Only compare Cloister's figures with bench/micro.toml: status 1 if one has grown by more than 3 %
    #[arg(long)]
    guard: bool,

    /// Write Cloister's figures to bench/micro.toml
    #[arg(long, conflicts_with_all = ["guard", "operation", "only"])]
    update: bool,

    /// End a run of QEMU after SECS seconds
    #[arg(long, value_name = "SECS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// Carries out `cloister bench`.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::All(args) => all(args),
        Bench::Micro(args) => micro(args),
        Bench::App(named) => app::run(named),
        Bench::Report { folder } => document::write(folder),
    }
}

/// Everything. What fails says so, and the others go on; the first failure is the result.
fn all(args: &app::AppArgs) -> Result<()> {
    let steps: [&dyn Fn() -> Result<()>; 2] = [
        &|| match is_measured(args)? {
            true => {
                progress("bench: micro: results/micro.json is of this version");
                Ok(())
            }
            false => micro(&args.micro()),
        },
        &|| app::all(args),
    ];
    let mut first = Ok(());
    for step in steps {
        let result = step();
        if let Err(why) = &result {
            progress(format_args!("bench: {why}"));
        }
        first = first.and(result);
    }
    first
}

/// Whether the micro-operations of this very version have been measured, with nothing changed since its commit.
fn is_measured(args: &app::AppArgs) -> Result<bool> {
    let known = document::micro(&args.common.folder)?;
    let now = versions::find(&args.common.paths)?;
    Ok(known.is_some_and(|known| known.versions == now && !now.cloister.contains("-dirty")))
}

fn micro(args: &MicroArgs) -> Result<()> {
    for name in &args.operation {
        if !operation::OPERATIONS.iter().any(|o| o.name == name) {
            let names: Vec<&str> = operation::OPERATIONS.iter().map(|o| o.name).collect();
            let names = names.join(", ");
            return Err(Error::config(format_args!(
                "--operation {name}: there are {names}"
            )));
        }
    }
    if args.guard
        && let Some(why) = versions::too_old(&args.common.paths.qemu)?
    {
        progress(format_args!("bench: not run: {why}"));
        return Ok(());
    }
    let results = measure(args)?;
    let baseline = args.common.folder.join("micro.toml");
    if args.update {
        if let Some(why) = first_failure(&results) {
            return Err(Error::machine(format_args!(
                "{} is left as it was: {why}",
                baseline.display()
            )));
        }
        write(&baseline, guard::file(&results).as_bytes())?;
        progress(format_args!("{}: written", baseline.display()));
        return Ok(());
    }
    if !args.guard {
        publish(args, &results)?;
    }
    check(&results)?;
    if !args.guard && !baseline.exists() {
        progress(format_args!(
            "bench: no {}: not compared",
            baseline.display()
        ));
        return Ok(());
    }
    compare(&results, &baseline)
}

/// Why a figure of Cloister's is missing that should be there.
fn first_failure(results: &Results) -> Option<String> {
    let own = results.contenders.iter().filter(|c| c.name.is_cloister());
    let mut operations = own.flat_map(|c| c.operations.iter().map(move |o| (c.name, o)));
    operations.find_map(|(contender, o)| {
        let absent = o.name == "share-unshare" && contender == Contender::Open;
        let why = o
            .not_run
            .as_ref()
            .filter(|_| o.ticks().is_none() && !absent)?;
        Some(format!("{}: {}: {why}", contender.name(), o.name))
    })
}

/// Runs everything that the options choose.
fn measure(args: &MicroArgs) -> Result<Results> {
    let quick = args.guard || args.update;
    let mut contenders: Vec<Contender> = Contender::ALL.to_vec();
    contenders.retain(|c| args.only.is_empty() || args.only.contains(c));
    contenders.retain(|c| c.is_cloister() || !quick);
    let runs = if quick { 1 } else { args.common.runs };
    let split = !quick && args.common.paths.plugin().is_some();
    if !quick && !split {
        progress(
            "bench: build/bench/levels.so is missing ('bench/fetch plugin' makes it): no split by exception level",
        );
    }
    let chosen = |name: &str| args.operation.is_empty() || args.operation.iter().any(|o| o == name);
    let mut machines = Vec::new();
    for &contender in &contenders {
        for cpus in [1, 2] {
            let operations = job::operations(contender, cpus, chosen);
            if !operations.is_empty() {
                machines.push(Job {
                    contender,
                    cpus,
                    cpu: &args.common.cpu,
                    operations,
                    split,
                    timeout: Duration::from_secs(args.timeout),
                    paths: &args.common.paths,
                });
            }
        }
    }
    let mut results = Results {
        versions: versions::find(&args.common.paths)?,
        cpu: args.common.cpu.clone(),
        split,
        contenders: contenders.into_iter().map(ContenderResults::new).collect(),
    };
    let total = machines.len() * runs as usize;
    let begin = Instant::now();
    for (index, job) in machines.iter().enumerate() {
        let mut outcomes = Vec::new();
        for run in 0..runs {
            let done = index * runs as usize + run as usize;
            announce(job, done, total, begin);
            let outcome = job.run();
            let failed = outcome.is_err();
            if let Err(why) = &outcome {
                progress(format_args!(
                    "bench: {} not run: {why}",
                    job.contender.title()
                ));
            }
            outcomes.push(outcome);
            if failed {
                break;
            }
        }
        if let Some(to) = results
            .contenders
            .iter_mut()
            .find(|c| c.name == job.contender)
        {
            to.add(&job.operations, outcomes);
        }
    }
    Ok(results)
}

fn announce(job: &Job<'_>, done: usize, total: usize, begin: Instant) {
    let left = match done {
        0 => String::new(),
        _ => {
            let each = begin.elapsed().as_secs_f64() / done as f64;
            format!(", about {:.0} s left", each * (total - done) as f64)
        }
    };
    progress(format_args!(
        "bench: {} of {total}: {}, {} CPU(s){left}",
        done + 1,
        job.contender.title(),
        job.cpus
    ));
}

/// Writes results and report.
fn publish(args: &MicroArgs, results: &Results) -> Result<()> {
    let json = args.common.folder.join("results/micro.json");
    let mut text = serde_json::to_string_pretty(results).map_err(Error::config)?;
    text.push('\n');
    write(&json, text.as_bytes())?;
    progress(format_args!("bench: {} written", json.display()));
    document::write(&args.common.folder)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| Error::file(folder, &e))?;
    }
    fs::write(path, bytes).map_err(|e| Error::file(path, &e))
}

/// Whether the runs agree with each other.
fn check(results: &Results) -> Result<()> {
    if let Some((contender, operation, spread)) = results.widest()
        && spread > REPEATABLE
    {
        return Err(Error::machine(format_args!(
            "two runs of {}, {operation}, are {} % apart, more than 1 %",
            contender.title(),
            report::percent(spread)
        )));
    }
    Ok(())
}

/// Whether Cloister's figures are those checked in.
fn compare(results: &Results, baseline: &Path) -> Result<()> {
    let text = fs::read_to_string(baseline).map_err(|e| Error::file(baseline, &e))?;
    let known = Baseline::parse(&text)
        .map_err(|e| Error::config(format_args!("{}: {e}", baseline.display())))?;
    if known.cpu != results.cpu {
        progress(format_args!(
            "bench: {} is for {}: not compared",
            baseline.display(),
            known.cpu
        ));
        return Ok(());
    }
    let verdict = known.compare(results);
    for gain in &verdict.gains {
        progress(format_args!("bench: less than before: {gain}"));
    }
    if !verdict.gains.is_empty() {
        progress("bench: 'make bench-micro-update' keeps the gain");
    }
    if verdict.failures.is_empty() {
        progress(format_args!(
            "bench: {} figures within 3 % of {}",
            verdict.compared,
            baseline.display()
        ));
        return Ok(());
    }
    for failure in &verdict.failures {
        progress(format_args!("bench: {failure}"));
    }
    if known.rust != results.versions.rust {
        progress(format_args!(
            "bench: note that the figures are of {}, and this is {}",
            known.rust, results.versions.rust
        ));
    }
    Err(Error::machine(format_args!(
        "{} figure(s) beyond {}: find out why; if it must be, 'make bench-micro-update' in the same commit",
        verdict.failures.len(),
        baseline.display()
    )))
}
