//! All that a benchmark measured, as it goes into `micro.json` and the report.

use serde::{Deserialize, Serialize};

use super::contender::Contender;
use super::job::Outcome;
use super::operation::{OPERATIONS, Operation};
use super::sample::{Figure, Sample};

/// What was measured with, and on what.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) cloister: String,
    pub(super) rust: String,
    pub(super) qemu: String,
    /// Debian's package of the KVM host's (and every other Linux guest's) kernel.
    pub(super) host_kernel: String,
    /// Debian's package of the QEMU in the KVM host.
    pub(super) host_qemu: String,
}

/// Everything.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Results {
    pub(super) versions: Versions,
    /// QEMU's name of the processor.
    pub(super) cpu: String,
    /// Whether instructions were split by exception level.
    pub(super) split: bool,
    pub(super) contenders: Vec<ContenderResults>,
}

/// One contender's.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct ContenderResults {
    pub(super) name: Contender,
    /// What a KVM host said about itself.
    pub(super) host: Option<String>,
    pub(super) commands: Vec<String>,
    pub(super) operations: Vec<OperationResults>,
}

/// One operation's.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct OperationResults {
    pub(super) name: String,
    /// Instructions for one operation: the least of all runs.
    pub(super) cost: Option<f64>,
    /// How far the runs are apart, as a part of the least.
    pub(super) spread: Option<f64>,
    /// Why there is no cost.
    pub(super) not_run: Option<String>,
    /// Each run's.
    pub(super) runs: Vec<Sample>,
}

impl ContenderResults {
    pub(super) fn new(name: Contender) -> Self {
        Self {
            name,
            host: None,
            commands: Vec::new(),
            operations: Vec::new(),
        }
    }

    /// Adds the runs of one machine, which was to measure `operations`.
    pub(super) fn add(&mut self, operations: &[&str], runs: Vec<Result<Outcome, String>>) {
        let mut outcomes = Vec::new();
        let mut failure = None;
        for run in runs {
            match run {
                Ok(outcome) => outcomes.push(outcome),
                // A run that failed takes the others with it: one alone shows no repeatability.
                Err(why) => failure = Some(why),
            }
        }
        if let Some(first) = outcomes.first() {
            self.host = self.host.take().or_else(|| first.host.clone());
            self.commands.push(first.command.clone());
        }
        for operation in OPERATIONS.iter().filter(|o| operations.contains(&o.name)) {
            self.operations.push(match &failure {
                Some(why) => OperationResults::not_run(operation, why.clone()),
                None => OperationResults::new(operation, &outcomes),
            });
        }
    }

    /// One operation's results, if it was to be measured.
    pub(super) fn operation(&self, name: &str) -> Option<&OperationResults> {
        self.operations.iter().find(|o| o.name == name)
    }
}

impl OperationResults {
    fn not_run(operation: &Operation, why: String) -> Self {
        Self {
            name: operation.name.to_owned(),
            cost: None,
            spread: None,
            not_run: Some(why),
            runs: Vec::new(),
        }
    }

    fn new(operation: &Operation, outcomes: &[Outcome]) -> Self {
        let mut runs = Vec::new();
        for outcome in outcomes {
            match outcome.figures.get(operation.name) {
                Some(Figure::Measured(sample)) => runs.push(sample.clone()),
                Some(Figure::Absent(why)) => return Self::not_run(operation, why.clone()),
                None => return Self::not_run(operation, "not measured".to_owned()),
            }
        }
        let costs: Vec<f64> = runs.iter().filter_map(|run| cost(operation, run)).collect();
        if costs.is_empty() || costs.len() != runs.len() {
            let why = "needs the plugin: the guest's clock also counts waiting".to_owned();
            return Self {
                runs,
                ..Self::not_run(operation, why)
            };
        }
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = costs.iter().copied().fold(0.0, f64::max);
        Self {
            name: operation.name.to_owned(),
            cost: Some(least),
            spread: Some((most - least) / least.max(1.0)),
            not_run: None,
            runs,
        }
    }

    /// Ticks for one operation: the least of all runs.
    pub(super) fn ticks(&self) -> Option<f64> {
        self.runs.iter().map(Sample::ticks).reduce(f64::min)
    }
}

/// Instructions for one operation in one run: the plugin's, else the clock's if that counts the same.
fn cost(operation: &Operation, sample: &Sample) -> Option<f64> {
    match sample.split {
        Some(_) => sample.instructions(operation.cost),
        None => (!operation.latency).then(|| sample.ticks()),
    }
}

impl Results {
    /// The runs that are furthest apart: contender, operation, difference.
    pub(super) fn widest(&self) -> Option<(Contender, &str, f64)> {
        let all = self.contenders.iter().flat_map(|c| {
            (c.operations.iter()).filter_map(|o| Some((c.name, o.name.as_str(), o.spread?)))
        });
        all.reduce(|a, b| if b.2 > a.2 { b } else { a })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn outcome(name: &str, ticks: u64) -> Outcome {
        let sample = Sample {
            rounds: 10,
            windows: 5,
            least_ticks: ticks,
            most_ticks: ticks,
            split: None,
        };
        Outcome {
            command: "qemu".to_owned(),
            host: None,
            figures: BTreeMap::from([(name.to_owned(), Figure::Measured(sample))]),
        }
    }

    #[test]
    fn the_least_run_counts_and_the_spread_is_kept() {
        let mut results = ContenderResults::new(Contender::Open);
        results.add(
            &["null"],
            vec![Ok(outcome("null", 2020)), Ok(outcome("null", 2000))],
        );
        let null = results.operation("null").unwrap();
        assert_eq!((null.cost, null.spread), (Some(200.0), Some(0.01)));
    }

    #[test]
    fn a_run_that_failed_leaves_no_figure() {
        let mut results = ContenderResults::new(Contender::KvmVhe);
        let runs = vec![Ok(outcome("null", 2000)), Err("QEMU is missing".to_owned())];
        results.add(&["null"], runs);
        let null = results.operation("null").unwrap();
        assert_eq!(null.cost, None);
        assert_eq!(null.not_run.as_deref(), Some("QEMU is missing"));
    }

    #[test]
    fn a_latency_is_no_cost() {
        let mut results = ContenderResults::new(Contender::Open);
        results.add(&["wfi-wake"], vec![Ok(outcome("wfi-wake", 100))]);
        let wake = results.operation("wfi-wake").unwrap();
        assert!(wake.cost.is_none() && wake.not_run.is_some());
        assert_eq!(wake.ticks(), Some(10.0));
    }
}
