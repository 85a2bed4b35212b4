//! What a workload's runs brought, as it goes into `bench/results/` and comes back for the report.

use serde::{Deserialize, Serialize};

use super::job::Outcome;
use crate::bench::contender::Contender;
use crate::bench::results::Versions;
use crate::bench::sample::{GUEST, Split};

/// How a workload is run.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    /// VMs at once.
    pub(super) vms: u32,
    /// vCPUs of each, and CPUs of the machine.
    pub(super) vcpus: u32,
    /// QEMU's name of the processor.
    pub(super) cpu: String,
    /// Memory of each VM.
    #[serde(default = "usual_megabytes")]
    pub(super) megabytes: u32,
    /// QEMU's seeds, each with a run of its own; with one, all runs are alike.
    #[serde(default = "one_seed")]
    pub(super) seeds: u32,
}

/// Of results without.
fn one_seed() -> u32 {
    1
}

/// Of results without a size: nothing else could be chosen.
fn usual_megabytes() -> u32 {
    512
}

impl Setting {
    /// The name of a workload's files.
    pub(super) fn name(&self, workload: &str) -> String {
        let mut name = workload.to_owned();
        if self.vcpus > 1 {
            name += &format!("-{}vcpus", self.vcpus);
        }
        if self.vms > 1 {
            name += &format!("-{}vms", self.vms);
        }
        name
    }
}

/// One run.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub(super) struct Run {
    /// What the workload did, in all VMs, and what that is called.
    pub(super) operations: u64,
    pub(super) unit: String,
    /// Ticks of a guest's clock (1 GHz) that it took; the longest of all guests.
    pub(super) ticks: u64,
    /// Where its instructions were executed.
    pub(super) split: Split,
    /// What the workload's own program says. Its times are of the emulated clock.
    pub(super) says: Vec<String>,
}

impl Run {
    /// All instructions of the machine.
    pub(super) fn instructions(&self) -> u64 {
        self.split.values().map(|counts| counts.instructions).sum()
    }

    /// Those that are not the guest's.
    pub(super) fn hypervisor(&self) -> u64 {
        let others = self.split.iter().filter(|(name, _)| *name != GUEST);
        others.map(|(_, counts)| counts.instructions).sum()
    }

    /// Exits to EL2 that were handled there or sent on.
    pub(super) fn exits(&self) -> u64 {
        self.split.get("el2").map_or(0, |c| c.exception_returns)
    }

    /// Operations for 10^9 instructions of the machine.
    pub(super) fn throughput(&self) -> f64 {
        self.operations as f64 * 1e9 / self.instructions().max(1) as f64
    }
}

/// One contender's runs.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct ContenderRuns {
    pub(super) name: Contender,
    /// What a KVM host said about itself.
    pub(super) host: Option<String>,
    /// Cloister's version when its runs were made; none for the others, which do not depend on it.
    #[serde(default)]
    pub(super) cloister: Option<String>,
    /// QEMU's command line.
    pub(super) command: Option<String>,
    /// Why there is no figure.
    pub(super) not_run: Option<String>,
    pub(super) runs: Vec<Run>,
}

impl ContenderRuns {
    pub(super) fn new(name: Contender) -> Self {
        Self {
            name,
            host: None,
            cloister: None,
            command: None,
            not_run: None,
            runs: Vec::new(),
        }
    }

    /// Adds what a boot brought for `workload`.
    pub(super) fn add(&mut self, command: &str, outcome: &Outcome, workload: &str) {
        self.command.get_or_insert_with(|| command.to_owned());
        self.host.clone_from(&outcome.host);
        self.cloister.clone_from(&outcome.cloister);
        match outcome.runs.get(workload) {
            Some(Ok(run)) => self.runs.push(run.clone()),
            Some(Err(why)) => self.not_run = Some(why.clone()),
            None => self.not_run = Some("not measured".to_owned()),
        }
    }

    /// The runs from the one that did most for its instructions, if all of them ended well.
    pub(super) fn sorted(&self) -> Vec<&Run> {
        let counts = self.runs.iter().filter(|_| self.not_run.is_none());
        let mut runs: Vec<&Run> = counts.collect();
        runs.sort_by(|a, b| b.throughput().total_cmp(&a.throughput()));
        runs
    }

    /// The run in the middle, or of two in the middle the one that did more.
    pub(super) fn median(&self) -> Option<&Run> {
        let runs = self.sorted();
        runs.get(runs.len().saturating_sub(1) / 2).copied()
    }

    /// How far the runs are apart, as a part of the least; none with fewer than two.
    pub(super) fn spread(&self) -> Option<f64> {
        let runs = self.sorted();
        let counts = || runs.iter().map(|run| run.instructions());
        let (least, most) = (counts().min()? as f64, counts().max()? as f64);
        (runs.len() > 1).then(|| (most - least) / least.max(1.0))
    }
}

/// A workload in one setting: `bench/results/NAME.json`.
#[derive(Serialize, Deserialize, Debug)]
pub(in crate::bench) struct AppResults {
    /// Its name.
    pub(super) workload: String,
    pub(super) setting: Setting,
    pub(super) versions: Versions,
    /// Debian's packages of the workload's programs, `NAME VERSION` each, and programs that the user supplied.
    pub(super) packages: Vec<String>,
    pub(super) contenders: Vec<ContenderRuns>,
}

impl AppResults {
    /// One contender's, if it was to be measured.
    pub(super) fn contender(&self, name: Contender) -> Option<&ContenderRuns> {
        self.contenders.iter().find(|c| c.name == name)
    }

    /// Whether there is a figure of anybody.
    pub(super) fn is_measured(&self) -> bool {
        self.contenders.iter().any(|c| c.median().is_some())
    }

    /// The contender whose runs are furthest apart; nobody's are to agree that have a seed each.
    pub(super) fn widest(&self) -> Option<(Contender, f64)> {
        let alike = self.contenders.iter().filter(|_| self.setting.seeds == 1);
        let all = alike.filter_map(|c| Some((c.name, c.spread()?)));
        all.reduce(|a, b| if b.1 > a.1 { b } else { a })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::sample::plugin_lines;

    pub(in crate::bench::app) fn run(guest: u64, el2: u64) -> Run {
        let lines =
            format!("WINDOW 1 1 1 vm1.el1 {guest} 0 0 0 0\nWINDOW 1 1 1 el2 {el2} 9 0 0 0\n");
        Run {
            operations: 1000,
            unit: "messages".to_owned(),
            ticks: 1,
            split: plugin_lines(&lines, false, |_| false)
                .unwrap()
                .remove(&1)
                .unwrap(),
            says: Vec::new(),
        }
    }

    #[test]
    fn the_run_in_the_middle_counts_and_the_spread_is_kept() {
        let mut contender = ContenderRuns {
            name: Contender::Open,
            host: None,
            cloister: None,
            command: None,
            not_run: None,
            runs: vec![run(1000, 30), run(990, 10)],
        };
        let better = contender.median().unwrap();
        assert_eq!(
            (better.instructions(), better.hypervisor(), better.exits()),
            (1000, 10, 9)
        );
        assert_eq!(better.throughput(), 1e9);
        assert_eq!(contender.spread(), Some(0.03));
        contender
            .runs
            .extend([run(1500, 500), run(900, 10), run(3000, 0)]);
        let all = contender.sorted().into_iter().map(Run::instructions);
        assert_eq!(all.collect::<Vec<_>>(), [910, 1000, 1030, 2000, 3000]);
        assert_eq!(contender.median().unwrap().instructions(), 1030);
        contender.not_run = Some("not finished".to_owned());
        assert!(contender.median().is_none() && contender.spread().is_none());
    }

    #[test]
    fn settings_have_names_of_their_own() {
        let name = |vcpus, vms| {
            let setting = Setting {
                vms,
                vcpus,
                cpu: "max".to_owned(),
                megabytes: 512,
                seeds: 1,
            };
            setting.name("hackbench")
        };
        assert_eq!(name(1, 1), "hackbench");
        assert_eq!(name(2, 8), "hackbench-2vcpus-8vms");
    }
}
