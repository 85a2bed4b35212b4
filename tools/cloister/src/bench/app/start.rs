//! `cloister bench start`: what a VM's start costs, from the machine's first instruction, or from that of the virtual
//! machine monitor, to the guest's first instruction and to the first one of its user space.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::footprint::{self, Footprint};
use super::job::Job;
use super::results::Setting;
use super::{AppArgs, versions, workload};
use crate::bench::contender::Contender;
use crate::bench::report::thousands;
use crate::bench::results::Versions;
use crate::error::{Error, Result};
use crate::progress;

/// The mark that `bench/host-init` sets before it starts the guest's QEMU.
const MONITOR: &str = "mark100";

/// The mark that `bench/guest/init` sets before it powers off.
const END: &str = "mark99";
/// When `bench/host-init` has seen the guest's QEMU end, and when the machine itself is off.
const GONE: &str = "mark101";
const OFF: &str = "off";

/// Instructions by context, from the machine's first on, when something was reached for the first time.
type Reached = BTreeMap<String, BTreeMap<String, u64>>;

/// One start, in instructions of the whole machine.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
struct Start {
    /// From the machine's first to the first of the guest's QEMU; none without a host that starts one.
    monitor: Option<u64>,
    /// From the machine's first to the guest's first.
    guest: u64,
    /// Of these, those at EL2 and of the host.
    hypervisor: u64,
    /// From the machine's first to the first of the guest's user space.
    user: u64,
    /// Of these, those at EL2 and of the host.
    hypervisor_to_user: u64,
    /// Those at EL2 and of the host from the guest's wish to power off until nothing is left of it.
    #[serde(default)]
    end: Option<u64>,
}

#[derive(Serialize, Deserialize, Debug)]
struct ContenderStarts {
    name: Contender,
    command: Option<String>,
    not_run: Option<String>,
    runs: Vec<Start>,
    /// What it takes of the machine's memory, or why that is not known.
    #[serde(default)]
    memory: Option<std::result::Result<Footprint, String>>,
}

/// `bench/results/start.json`.
#[derive(Serialize, Deserialize, Debug)]
pub(in crate::bench) struct Starts {
    versions: Versions,
    setting: Setting,
    contenders: Vec<ContenderStarts>,
}

/// Measures and publishes.
pub(super) fn run(args: &AppArgs) -> Result<()> {
    let (paths, setting) = (&args.common.paths, args.setting(workload::APPS));
    if (setting.vms, setting.vcpus, setting.seeds) != (1, 1, 1) {
        return Err(Error::config(
            "bench start: one VM with one vCPU and one seed only",
        ));
    }
    let mut starts = Starts {
        versions: versions::find(paths)?,
        setting: setting.clone(),
        contenders: Vec::new(),
    };
    for contender in args.contenders() {
        progress(format_args!("bench: start, {}", contender.title()));
        let job = Job {
            setting: &setting,
            workloads: &[],
            programs: &[],
            contender,
            seed: 1,
            timeout: args.timeout(),
            paths,
        };
        let mut of_contender = ContenderStarts {
            name: contender,
            command: None,
            not_run: None,
            runs: Vec::new(),
            memory: None,
        };
        if let Err(why) = measure(&job, args.common.runs, &mut of_contender) {
            progress(format_args!(
                "bench: start, {}: not run: {why}",
                contender.title()
            ));
            of_contender.not_run = Some(why);
            of_contender.runs.clear();
        }
        if contender != Contender::Native {
            let memory = footprint::measure(&job);
            if let Err(why) = &memory {
                progress(format_args!(
                    "bench: memory, {}: not run: {why}",
                    contender.title()
                ));
            }
            of_contender.memory = Some(memory);
        }
        starts.contenders.push(of_contender);
    }
    let mut text = serde_json::to_string_pretty(&starts).map_err(Error::config)?;
    text.push('\n');
    super::write(
        &args.common.folder.join("results/start.json"),
        text.as_bytes(),
    )?;
    crate::bench::document::write(&args.common.folder)
}

fn measure(job: &Job<'_>, runs: u32, to: &mut ContenderStarts) -> std::result::Result<(), String> {
    let prepared = job.prepare()?;
    to.command = Some(prepared.command.clone());
    for _ in 0..runs {
        let (console, counts) = job.execute(&prepared)?;
        if !console.contains("BENCH end") {
            return Err("the guest did not come up".to_owned());
        }
        to.runs.push(start(&reached(&counts)?, job.contender)?);
    }
    Ok(())
}

/// The plugin's REACHED lines.
fn reached(text: &str) -> std::result::Result<Reached, String> {
    let mut all = Reached::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let ["REACHED", name, context, count] = &words[..] else {
            continue;
        };
        let count = count.parse();
        let count = count.map_err(|_| format!("the plugin's line is not understood: {line}"))?;
        let contexts = all.entry((*name).to_owned()).or_default();
        contexts.insert((*context).to_owned(), count);
    }
    Ok(all)
}

fn start(reached: &Reached, contender: Contender) -> std::result::Result<Start, String> {
    let of = |name: &str| -> std::result::Result<(u64, u64), String> {
        let none = BTreeMap::new();
        let contexts = match reached.get(name) {
            Some(contexts) => contexts,
            // Nothing ran before the machine's very first context.
            None if contender == Contender::Native && name == "host.el1" => &none,
            None => return Err(format!("the plugin saw no {name}")),
        };
        let guest = |context: &str| {
            context.starts_with("vm")
                || contender == Contender::Native && context.starts_with("host")
        };
        let others = contexts.iter().filter(|(context, _)| !guest(context));
        Ok((contexts.values().sum(), others.map(|(_, n)| n).sum()))
    };
    let [kernel, user] = match contender {
        Contender::Native => ["host.el1", "host.el0"],
        _ => ["vm1.el1", "vm1.el0"],
    };
    let ((guest, hypervisor), (user, hypervisor_to_user)) = (of(kernel)?, of(user)?);
    let monitor = match contender.kvm() {
        Some(_) => Some(of(MONITOR)?.0),
        None => None,
    };
    let end = match contender {
        Contender::Native => None,
        _ => {
            let gone = match contender.kvm() {
                Some(_) => GONE,
                None => OFF,
            };
            let ((_, before), (_, after)) = (of(END)?, of(gone)?);
            Some(after.saturating_sub(before))
        }
    };
    Ok(Start {
        monitor,
        guest,
        hypervisor,
        user,
        hypervisor_to_user,
        end,
    })
}

/// The results in `folder`, if there are any.
pub(in crate::bench) fn read(folder: &Path) -> Result<Option<Starts>> {
    let file = folder.join("results/start.json");
    if !file.exists() {
        return Ok(None);
    }
    let text = fs::read(&file).map_err(|e| Error::file(&file, &e))?;
    let starts = serde_json::from_slice(&text);
    starts
        .map(Some)
        .map_err(|e| Error::config(format_args!("{}: {e}", file.display())))
}

/// The report's part.
pub(in crate::bench) fn markdown(starts: &Starts) -> String {
    let mut text = format!(
        "## Start of a VM\n\nThe kernel and initramfs of the applications in a VM of 512 MB and one vCPU; {}; Cloister {}. Thousands of \
         instructions\nof the whole machine: to the first of the guest, and to the first of its user space.\n\n\
         | | to the guest | of them the hypervisor's | to its user space | of them the hypervisor's | its end | spread |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
        starts.setting.cpu, starts.versions.cloister
    );
    let thousand = |count: u64| thousands(count as f64 / 1000.0);
    let mut not_run = String::new();
    for contender in &starts.contenders {
        let title = contender.name.title();
        if let Some(why) = &contender.not_run {
            let _ = writeln!(not_run, "- start: {title}: {why}");
        }
        let (Some(least), Some(most)) = (
            contender.runs.iter().min_by_key(|s| s.user),
            contender.runs.iter().map(|s| s.user).max(),
        ) else {
            continue;
        };
        let spread = (most - least.user) as f64 / least.user.max(1) as f64;
        let end = least.end.map_or_else(|| "–".to_owned(), thousand);
        let mut row = |name: String, before: u64| {
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} | {end} | {} % |",
                thousand(least.guest - before),
                thousand(least.hypervisor - before),
                thousand(least.user - before),
                thousand(least.hypervisor_to_user - before),
                crate::bench::report::percent(spread)
            );
        };
        match least.monitor {
            None => row(format!("{title}, from power-on"), 0),
            Some(monitor) => {
                row(format!("{title}, from power-on"), 0);
                row(format!("{title}, from the start of QEMU"), monitor);
            }
        }
    }
    text.push_str(
        "\nCloister starts its VMs as it boots: the way from power-on is all there is. KVM's host boots Debian's kernel and one program\n\
         first, which a machine does once; from the start of QEMU on is what each VM costs. The hypervisor's part to user space\n\
         is all that it does while the guest's kernel boots: exits, faults, devices. Its end: the hypervisor's part from the guest's\n\
         wish to power off until nothing is left of it; with Cloister until the machine itself is off.\n",
    );
    let memory: Vec<_> = (starts.contenders.iter())
        .filter_map(|c| Some((c.name, c.memory.clone()?.ok()?)))
        .collect();
    for contender in &starts.contenders {
        if let Some(Err(why)) = &contender.memory {
            let _ = writeln!(not_run, "- memory: {}: {why}", contender.name.title());
        }
    }
    if !memory.is_empty() {
        text.push_str(&footprint::markdown(&memory, starts.setting.megabytes));
    }
    if !not_run.is_empty() {
        let _ = write!(text, "\nNot run:\n\n{not_run}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "REACHED host.el1 el2 10\nREACHED mark100 el2 20\nREACHED mark100 host.el1 30\n\
        REACHED vm1.el1 el2 40\nREACHED vm1.el1 host.el1 60\nWINDOW 1 1 1 el2 1 1 1 1 1\n\
        REACHED vm1.el0 el2 70\nREACHED vm1.el0 host.el1 80\nREACHED vm1.el0 vm1.el1 900\n\
        REACHED mark99 el2 75\nREACHED mark99 host.el1 85\nREACHED mark99 vm1.el1 950\n\
        REACHED mark101 el2 77\nREACHED mark101 host.el1 95\nREACHED mark101 vm1.el1 990\n";

    #[test]
    fn a_start_is_what_ran_until_then() {
        let kvm = start(&reached(FILE).unwrap(), Contender::KvmNvhe).unwrap();
        let want = Start {
            monitor: Some(50),
            guest: 100,
            hypervisor: 100,
            user: 1050,
            hypervisor_to_user: 150,
            end: Some(12),
        };
        assert_eq!(kvm, want);
        let native = "REACHED host.el0 host.el1 500\n";
        let native = start(&reached(native).unwrap(), Contender::Native).unwrap();
        assert_eq!(
            (native.guest, native.user, native.hypervisor_to_user),
            (0, 500, 0)
        );
    }

    #[test]
    fn a_guest_without_user_space_gives_no_figure() {
        let why = start(&reached(FILE).unwrap(), Contender::Open).unwrap_err();
        assert_eq!(why, "the plugin saw no off");
        let cut: String = FILE.lines().take(5).map(|l| format!("{l}\n")).collect();
        let why = start(&reached(&cut).unwrap(), Contender::Open).unwrap_err();
        assert_eq!(why, "the plugin saw no vm1.el0");
        assert!(reached("REACHED vm1.el0 el2 x\n").is_err());
    }
}
