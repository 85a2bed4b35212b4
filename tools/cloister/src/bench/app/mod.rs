//! `cloister bench NAME`: workloads in Linux guests, the same image under every contender.
//!
//! Everything is counted between two marks that the guest sets. A run that cannot be made names what is missing, and
//! the others go on; finished runs are kept, so that the same command goes on where it was broken off.

mod console;
mod footprint;
mod job;
pub(super) mod report;
mod results;
pub(super) mod start;
mod store;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::contender::Contender;
use super::results::Versions;
use super::{Common, MicroArgs, document, report::percent, versions, write};
use crate::error::{Error, Result};
use crate::progress;
use crate::size::Size;
use job::Job;
use results::{AppResults, ContenderRuns, Setting};
use store::Place;
use workload::{WORKLOADS, Workload};

/// Two runs may be this far apart, as a part of the lesser.
const REPEATABLE: f64 = 0.03;

/// `cloister bench NAME`.
#[derive(Subcommand, Debug)]
pub(crate) enum Named {
    /// All workloads below
    Apps(AppArgs),
    /// Processes that send each other messages
    Hackbench(AppArgs),
    /// A compiler, and some files of a kernel
    Kernbench(AppArgs),
    /// Apache and ab, plain and over TLS
    Apache(AppArgs),
    /// Redis and redis-benchmark
    Redis(AppArgs),
    /// memcached and memcslap
    Memcached(AppArgs),
    /// iperf3, one stream
    Iperf3(AppArgs),
    /// Apache, Redis, memcached and iperf3, each with its client in a second VM
    Network(AppArgs),
    /// A server that speaks MongoDB's protocol, and YCSB's workload A: --mongod, --secantusd
    Mongodb(AppArgs),
    /// A VM's start: to its first instruction, and to its user space
    Start(AppArgs),
}

impl Named {
    /// The workloads, and the options.
    fn parts(&self) -> (Vec<&'static str>, &AppArgs) {
        match self {
            Self::Apps(args) => (names(false), args),
            Self::Hackbench(args) => (vec!["hackbench"], args),
            Self::Kernbench(args) => (vec!["kernbench"], args),
            Self::Apache(args) => (vec!["apache", "apache-tls"], args),
            Self::Redis(args) => (vec!["redis"], args),
            Self::Memcached(args) => (vec!["memcached"], args),
            Self::Iperf3(args) => (vec!["iperf3"], args),
            Self::Network(args) => (names(true), args),
            Self::Mongodb(args) => (vec!["mongodb", "secantusdb"], args),
            Self::Start(args) => (Vec::new(), args),
        }
    }
}

/// The workloads in a guest of their own, or those whose client is in a second one.
fn names(pair: bool) -> Vec<&'static str> {
    let all = WORKLOADS.iter().filter(|w| w.pair == pair);
    all.map(|w| w.name).collect()
}

/// Options of `cloister bench NAME`.
#[derive(Args, Clone, Debug)]
pub(crate) struct AppArgs {
    #[command(flatten)]
    pub(super) common: Common,

    /// Compare Cloister with this one: native, kvm (kvm-nvhe and kvm-vhe), pkvm, or all; may be repeated
    #[arg(long, value_name = "CONTENDER", default_value = "all")]
    against: Vec<Group>,

    /// VMs at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    vms: u32,

    /// vCPUs of each VM, and CPUs of the machine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    vcpus: u32,

    /// Memory of each VM [default: 512M; 256M with several VMs; 1G for MongoDB's protocol]
    #[arg(long, value_name = "SIZE")]
    vm_memory: Option<Size>,

    /// Measure with so many of QEMU's seeds, once each, and show the run in the middle and how far chance carries
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "runs",
          value_parser = clap::value_parser!(u32).range(1..=9))]
    seeds: u32,

    /// MongoDB's own server for arm64, for the guest to run
    #[arg(long, value_name = "PATH", env = "CLOISTER_MONGOD")]
    mongod: Option<PathBuf>,

    /// SecantusDB's server for arm64 (secantusd-rs): MongoDB's protocol on WiredTiger, and not MongoDB
    #[arg(long, value_name = "PATH", env = "CLOISTER_SECANTUSD")]
    secantusd: Option<PathBuf>,

    /// End a run of QEMU after SECS seconds
    #[arg(long, value_name = "SECS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// Whom Cloister is compared with.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Group(Vec<Contender>);

impl std::str::FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "all" => Ok(Self(Contender::ALL.to_vec())),
            "kvm" => Ok(Self(vec![Contender::KvmNvhe, Contender::KvmVhe])),
            "cloister" => Ok(Self(Vec::new())),
            _ => text.parse().map(|one| Self(vec![one])),
        }
    }
}

impl AppArgs {
    /// Cloister, and those it is compared with, in the report's order.
    fn contenders(&self) -> Vec<Contender> {
        let named = |c: &Contender| c.is_cloister() || self.against.iter().any(|g| g.0.contains(c));
        Contender::ALL.into_iter().filter(named).collect()
    }

    /// The same for micro-operations.
    pub(super) fn micro(&self) -> MicroArgs {
        MicroArgs {
            common: self.common.clone(),
            only: Vec::new(),
            operation: Vec::new(),
            guard: false,
            update: false,
            timeout: self.timeout,
        }
    }

    /// Runs with each seed.
    const fn runs(&self) -> u32 {
        match self.seeds {
            1 => self.common.runs,
            _ => 1,
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// The setting of a boot with this image.
    fn setting(&self, image: &str) -> Setting {
        let usual = match (image, self.vms) {
            (workload::MONGODB, _) => 1024,
            (_, 1) => 512,
            _ => 256,
        };
        let megabytes = self.vm_memory.map(|size| size.0 >> 20);
        Setting {
            vms: self.vms,
            vcpus: self.vcpus,
            cpu: self.common.cpu.clone(),
            seeds: self.seeds,
            megabytes: megabytes.map_or(usual, |size| u32::try_from(size).unwrap_or(u32::MAX)),
        }
    }

    /// The user's file for a workload that wants one, or how to name it.
    fn program(&self, name: &'static str) -> std::result::Result<(&'static str, PathBuf), String> {
        let file = match name {
            "mongod" => &self.mongod,
            _ => &self.secantusd,
        };
        match file {
            Some(file) => Ok((name, file.clone())),
            None => Err(format!("no {name} was supplied: --{name} PATH")),
        }
    }
}

/// Workloads that run in one boot, with what they share.
struct Boot {
    workloads: Vec<&'static Workload>,
    setting: Setting,
    programs: Vec<(&'static str, PathBuf)>,
    /// Why it cannot be: a workload whose program was not supplied, alone.
    missing: Option<String>,
}

impl Boot {
    /// The boots that `workloads` need: one for each image, but none for what cannot run.
    fn all(workloads: &[&'static Workload], args: &AppArgs) -> Vec<Self> {
        let mut boots: Vec<Self> = Vec::new();
        for &workload in workloads {
            let program = workload.program.map(|name| args.program(name)).transpose();
            let missing = program.as_ref().err().cloned();
            let program = program.ok().flatten();
            let mut setting = args.setting(workload.image(args.vms));
            if workload.pair {
                setting.vms = 2;
            }
            let boot = boots.iter_mut().find(|boot| {
                let image = boot.workloads.first().map(|first| first.image(args.vms));
                missing.is_none()
                    && boot.missing.is_none()
                    && image == Some(workload.image(args.vms))
            });
            match boot {
                Some(boot) => {
                    boot.workloads.push(workload);
                    boot.programs.extend(program);
                }
                None => boots.push(Self {
                    workloads: vec![workload],
                    setting,
                    programs: program.into_iter().collect(),
                    missing,
                }),
            }
        }
        boots
    }

    fn job<'a>(&'a self, contender: Contender, args: &'a AppArgs) -> Job<'a> {
        Job {
            setting: &self.setting,
            workloads: &self.workloads,
            programs: &self.programs,
            contender,
            seed: 1,
            timeout: args.timeout(),
            paths: &args.common.paths,
        }
    }

    /// The workload without runs. `packages`: with those of its image, and the user's program.
    fn results(&self, workload: &Workload, args: &AppArgs, versions: &Versions) -> AppResults {
        let lock = args.common.paths.lock(workload.image(self.setting.vms));
        let mut packages = versions::packages(&lock, workload.packages);
        let program = self
            .programs
            .iter()
            .find(|(name, _)| workload.program == Some(name));
        packages.extend(program.map(|(_, path)| versions::program(path)));
        if workload.pair {
            packages.push(versions::sharing_kernel(&args.common.paths));
        }
        AppResults {
            workload: workload.name.to_owned(),
            setting: self.setting.clone(),
            versions: versions.clone(),
            packages,
            contenders: Vec::new(),
        }
    }
}

/// Every workload in one VM of one vCPU, servers with their client in a second VM, then hackbench with more of either.
pub(super) fn all(args: &AppArgs) -> Result<()> {
    let mut first = run(&Named::Start(args.clone()));
    for named in [Named::Apps(args.clone()), Named::Network(args.clone())] {
        first = first.and(run(&named));
    }
    for (vcpus, vms) in [(2, 1), (4, 1), (2, 2), (2, 4), (2, 8), (2, 16), (2, 32)] {
        let args = AppArgs {
            vcpus,
            vms,
            ..args.clone()
        };
        let result = run(&Named::Hackbench(args));
        first = first.and(result);
    }
    first
}

/// Carries out `cloister bench NAME`: the workloads of one image in one boot, so that all of them need as few boots
/// as one.
pub(super) fn run(named: &Named) -> Result<()> {
    let (names, args) = named.parts();
    if let Named::Start(args) = named {
        return start::run(args);
    }
    if matches!(named, Named::Network(_)) && args.vms != 1 {
        return Err(Error::config(
            "--vms: a server and its client are two VMs, always",
        ));
    }
    let workloads: Vec<&Workload> = (names.iter())
        .filter_map(|name| workload::find(name))
        .collect();
    let versions = versions::find(&args.common.paths)?;
    let boots = Boot::all(&workloads, args);
    let contenders = args.contenders();
    let jobs: Vec<(&Boot, Job<'_>)> = (boots.iter())
        .flat_map(|boot| contenders.iter().map(move |&c| (boot, boot.job(c, args))))
        .collect();
    let mut apart = Ok(());
    for (number, boot) in boots.iter().enumerate() {
        let mut all: Vec<AppResults> = (boot.workloads.iter())
            .map(|workload| boot.results(workload, args, &versions))
            .collect();
        let begin = number * contenders.len();
        for index in begin..begin + contenders.len() {
            let (left, total) = (&jobs[index..], jobs.len());
            let job = &left[0].1;
            let (number, name, estimate) = (index + 1, job.name(), estimate(args, left));
            progress(format_args!("bench: {number} of {total}: {name}{estimate}"));
            let measured = measure(boot, job, args, &versions.qemu);
            for (results, (_, runs)) in all.iter_mut().zip(measured) {
                results.contenders.push(runs);
            }
        }
        // What is finished is published, even if the next boots are broken off.
        for results in &all {
            publish(args, results)?;
        }
        document::write(&args.common.folder)?;
        apart = apart.and(all.iter().try_for_each(check));
    }
    apart
}

/// Whether the runs agree with each other.
fn check(results: &AppResults) -> Result<()> {
    match results.widest().filter(|(_, spread)| *spread > REPEATABLE) {
        None => Ok(()),
        Some((contender, spread)) => Err(Error::machine(format_args!(
            "two runs of {}, {}, are {} % apart, more than 3 %",
            results.workload,
            contender.title(),
            percent(spread)
        ))),
    }
}

/// How long `jobs` will take, from how long they took before; nothing if any of them was never run.
fn estimate(args: &AppArgs, jobs: &[(&Boot, Job<'_>)]) -> String {
    let each = |job: &Job<'_>| Place::new(&args.common.paths.build, &job.name(), 1).seconds();
    let jobs = jobs
        .iter()
        .filter(|(boot, job)| measurable(boot, job).is_ok());
    match jobs.map(|(_, job)| each(job)).sum::<Option<u64>>() {
        Some(seconds) => format!(
            ", at most {} s left",
            seconds * u64::from(args.runs() * args.seeds)
        ),
        None => String::new(),
    }
}

/// Whether there is such a machine, and such a program.
fn measurable(boot: &Boot, job: &Job<'_>) -> std::result::Result<(), String> {
    if let Some(missing) = &boot.missing {
        return Err(missing.clone());
    }
    match job.contender == Contender::Native && job.setting.vms > 1 {
        true => Err("the machine itself is one, not several".to_owned()),
        false => Ok(()),
    }
}

/// All runs of one contender, for each workload. A run that fails takes the others with it: one alone shows no
/// repeatability.
fn measure(
    boot: &Boot,
    job: &Job<'_>,
    args: &AppArgs,
    qemu: &str,
) -> Vec<(&'static str, ContenderRuns)> {
    let mut all: Vec<_> = (job.workloads.iter())
        .map(|workload| (workload.name, ContenderRuns::new(job.contender)))
        .collect();
    let mut measure = || -> std::result::Result<(), String> {
        measurable(boot, job)?;
        for seed in 1..=args.seeds {
            let job = Job { seed, ..*job };
            let prepared = job.prepare()?;
            let inputs = store::inputs(qemu, &prepared)?;
            for number in 1..=args.runs() {
                let place = Place::new(&args.common.paths.build, &job.run_name(), number);
                let finished = match place.get(&inputs) {
                    Some(finished) => finished,
                    None => {
                        let begin = Instant::now();
                        let outcome = job.run(&prepared)?;
                        place.put(&inputs, begin.elapsed().as_secs(), outcome)?
                    }
                };
                for (name, runs) in &mut all {
                    runs.add(&prepared.command, &finished.outcome, name);
                }
            }
        }
        Ok(())
    };
    if let Err(why) = measure() {
        for (_, runs) in &mut all {
            runs.not_run.get_or_insert(why.clone());
        }
    }
    for (name, runs) in &all {
        if let Some(why) = &runs.not_run {
            progress(format_args!(
                "bench: {name}, {}: not run: {why}",
                job.contender.title()
            ));
        }
    }
    all
}

/// Writes the results.
fn publish(args: &AppArgs, results: &AppResults) -> Result<()> {
    let file = format!("results/{}.json", results.setting.name(&results.workload));
    let file = args.common.folder.join(file);
    let mut text = serde_json::to_string_pretty(results).map_err(Error::config)?;
    text.push('\n');
    write(&file, text.as_bytes())?;
    progress(format_args!("bench: {} written", file.display()));
    Ok(())
}

/// The results of all workloads that `folder` has, in the report's order.
pub(super) fn read_all(folder: &Path) -> Result<Vec<AppResults>> {
    let mut all = Vec::new();
    for workload in WORKLOADS {
        let results = folder.join("results");
        let entries = fs::read_dir(&results).map_err(|e| Error::file(&results, &e))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        files.sort();
        for file in files {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            // NAME, NAME-2vcpus, NAME-8vms; and not a workload whose name starts alike.
            let variant = stem.strip_prefix(workload.name);
            let variant = variant.map(|rest| rest.strip_prefix('-').unwrap_or(rest));
            if variant.is_some_and(|rest| {
                rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit())
            }) {
                let text = fs::read(&file).map_err(|e| Error::file(&file, &e))?;
                let results = serde_json::from_slice(&text);
                all.push(
                    results.map_err(|e| Error::config(format_args!("{}: {e}", file.display())))?,
                );
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_a_command_and_a_script() {
        #[derive(clap::Parser)]
        struct Command {
            #[command(subcommand)]
            named: Named,
        }
        let names = |name: &str| {
            let command = <Command as clap::Parser>::try_parse_from(["bench", name]).unwrap();
            command.named.parts().0
        };
        let single = [
            "hackbench",
            "kernbench",
            "apache",
            "redis",
            "memcached",
            "iperf3",
            "mongodb",
        ]
        .map(names);
        assert_eq!(names("apps"), single.concat());
        let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/guest/workloads");
        for workload in WORKLOADS {
            assert!(
                names("apps").contains(&workload.name) != names("network").contains(&workload.name)
            );
            let script = Path::new(scripts).join(workload.name);
            assert!(script.is_file(), "{}", workload.name);
        }
    }

    #[test]
    fn cloister_is_always_compared() {
        let group = |text: &str| text.parse::<Group>();
        assert_eq!(
            group("kvm").unwrap().0,
            [Contender::KvmNvhe, Contender::KvmVhe]
        );
        assert_eq!(group("pkvm").unwrap().0, [Contender::Pkvm]);
        assert!(
            group("xen")
                .unwrap_err()
                .starts_with("no such contender; there are native, ")
        );
    }
}
