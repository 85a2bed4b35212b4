//! `verify explore | noninterference | fuzz`: see docs/verification.md.

#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;
use verify::explore::{self, Limits};
use verify::fuzz;
use verify::machine::Fault;
use verify::noninterference;

const FAULTS: [Fault; 10] = [
    Fault::SkipZero,
    Fault::ZeroShort,
    Fault::DropIpa,
    Fault::DropVmid,
    Fault::LateInvalidation,
    Fault::BusyUnseen,
    Fault::KeepEl1,
    Fault::OpenFp,
    Fault::LeakGp,
    Fault::KeepVcpu,
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, otherwise: u64| {
        let prefix = format!("--{name}=");
        let given = args.iter().find_map(|a| a.strip_prefix(&prefix));
        given.map_or(otherwise, |n| n.parse().unwrap_or_else(|_| usage()))
    };
    let fault = match args.iter().find_map(|a| a.strip_prefix("--fault=")) {
        None => Fault::None,
        Some(name) => *FAULTS
            .iter()
            .find(|f| format!("{f:?}") == name)
            .unwrap_or_else(|| usage()),
    };
    let found = match args.first().map(String::as_str) {
        Some("explore") => {
            let report = explore::run(Limits {
                states: number("states", 20_000_000),
                time: Duration::from_secs(number("seconds", 600)),
                threads: number("threads", 2) as usize,
                depth: number("depth", 100) as usize,
                triples: number("triples", 1) != 0,
                fault,
                verbose: true,
            });
            let seconds = report.time.as_secs_f64();
            println!(
                "explore: {} distinct states, {} of them at rest, in {seconds:.0} s ({:.0} states/s)\n\
                 explore: every call alone to {} calls after a root, together to {}; at most {} calls after boot, \
                 {} steps\n\
                 explore: {} pairs and triples of calls step by step, {} pairs that cannot meet; {} steps in all",
                report.states,
                report.at_rest,
                report.states as f64 / seconds,
                report.depth,
                report.met_depth,
                report.calls,
                report.longest,
                report.pairs,
                report.independent,
                report.steps,
            );
            let least = number("least", 0);
            report
                .violation
                .or_else(|| (report.states < least).then(|| format!("fewer than {least} states")))
        }
        Some("noninterference") => {
            let report = noninterference::run(noninterference::Limits {
                sequences: number("sequences", 1_000_000),
                threads: number("threads", 2) as usize,
                seed: number("seed", 1),
                fault,
                verbose: true,
            });
            let seconds = report.time.as_secs_f64();
            println!(
                "noninterference: {} sequences of {:.0} calls on two machines each in {seconds:.0} s ({:.0} \
                 sequences/s); {} hypercalls succeeded, the protected VM ran {} times",
                report.sequences,
                report.calls as f64 / report.sequences as f64,
                report.sequences as f64 / seconds,
                report.succeeded,
                report.entries,
            );
            report.difference
        }
        Some("fuzz") => {
            let named = args.iter().find_map(|a| a.strip_prefix("--targets="));
            let is_named =
                |name: &str| named.is_none_or(|names| names.split(' ').any(|n| n == name));
            for target in fuzz::TARGETS.iter().filter(|target| is_named(target.name)) {
                let time = Duration::from_secs(number("seconds", 60));
                let report =
                    fuzz::smoke(target, number("inputs", u64::MAX), time, number("seed", 1));
                let rate = report.inputs as f64 / report.time.as_secs_f64();
                println!(
                    "fuzz: {}: {} inputs, {rate:.0}/s",
                    target.name, report.inputs
                );
            }
            None
        }
        Some("seeds") => {
            let folder = args.get(1).map_or_else(|| usage(), Path::new);
            if let Err(error) = write_seeds(folder) {
                eprintln!("verify: {}: {error}", folder.display());
                std::process::exit(1);
            }
            return;
        }
        _ => usage(),
    };
    if let Some(found) = found {
        println!("FOUND: {found}");
        std::process::exit(1);
    }
    println!("nothing found");
}

/// Writes each target's seeds to FOLDER/TARGET/, where libFuzzer looks for its corpus.
fn write_seeds(folder: &Path) -> std::io::Result<()> {
    for target in &fuzz::TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (n, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{n}")), seed)?;
        }
    }
    Ok(())
}

fn usage() -> ! {
    eprintln!(
        "usage: verify explore [--states=N] [--seconds=N] [--threads=N] [--depth=N] [--triples=0|1]\n\
         \x20      verify noninterference [--sequences=N] [--threads=N] [--seed=N]\n\
         \x20      verify fuzz [--inputs=N] [--seconds=N] [--seed=N] [--targets='NAME NAME']\n\
         \x20      verify seeds FOLDER\n\
         The first two take --fault=NAME, a bug to find: {FAULTS:?}"
    );
    std::process::exit(2)
}
