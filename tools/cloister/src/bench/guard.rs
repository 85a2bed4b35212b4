//! The regression guard: Cloister's figures against those checked in as `bench/micro.toml`.
//!
//! It compares ticks of the guest's clock, which need no plugin. A figure that grows without the file being
//! changed in the same commit fails; one that shrinks asks for the file to be updated.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;

use super::contender::Contender;
use super::results::Results;

/// How much a figure may grow, as a part of it.
const GROWTH: f64 = 0.03;
/// Figures in the file are whole instructions.
const ROUNDING: f64 = 0.5;

/// The file.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Baseline {
    /// QEMU's name of the processor.
    pub(super) cpu: String,
    /// The compiler: another one makes other code.
    pub(super) rust: String,
    cloister_open: BTreeMap<String, u64>,
    cloister_protected: BTreeMap<String, u64>,
}

/// What comparing says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// One line for each figure that grew, is missing, or is new.
    pub(super) failures: Vec<String>,
    /// One line for each figure that shrank.
    pub(super) gains: Vec<String>,
    /// Figures compared.
    pub(super) compared: usize,
}

impl Baseline {
    /// Reads the file's text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }

    fn of(&self, contender: Contender) -> Option<&BTreeMap<String, u64>> {
        match contender {
            Contender::Open => Some(&self.cloister_open),
            Contender::Protected => Some(&self.cloister_protected),
            _ => None,
        }
    }

    /// Compares what was measured.
    pub(super) fn compare(&self, results: &Results) -> Verdict {
        let mut verdict = Verdict::default();
        for contender in &results.contenders {
            let Some(known) = self.of(contender.name) else {
                continue;
            };
            let name = contender.name.name();
            for operation in &contender.operations {
                let what = format!("{name}: {}", operation.name);
                match (known.get(&operation.name), operation.ticks()) {
                    (Some(&old), Some(new)) => verdict.judge(&what, old, new),
                    (Some(_), None) => {
                        let why = operation.not_run.as_deref().unwrap_or("no figure");
                        verdict
                            .failures
                            .push(format!("{what} was not measured: {why}"));
                    }
                    (None, Some(_)) => verdict.failures.push(format!("{what} is not in the file")),
                    (None, None) => {}
                }
            }
        }
        verdict
    }
}

impl Verdict {
    fn judge(&mut self, what: &str, old: u64, new: f64) {
        self.compared += 1;
        let reference = old as f64;
        let line = || format!("{what}: {new:.1} instructions, {old} in the file");
        if new > reference * (1.0 + GROWTH) + ROUNDING {
            self.failures.push(line());
        } else if new < reference * (1.0 - GROWTH) - ROUNDING {
            self.gains.push(line());
        }
    }
}

/// The file for these results, in which every operation of Cloister's must have been measured, or not exist there.
pub(super) fn file(results: &Results) -> String {
    let mut text = String::from(
        "# What Cloister's operations cost, in ticks of the guest's clock (instructions; for wfi-wake and ipi-* the\n\
         # instructions until the other end is reached). 'make test' fails if one grows by more than 3 %.\n\
         # Written by 'make bench-micro-update', in the commit that changes the figures.\n",
    );
    let _ = writeln!(
        text,
        "cpu = {:?}\nrust = {:?}",
        results.cpu, results.versions.rust
    );
    for contender in results.contenders.iter().filter(|c| c.name.is_cloister()) {
        let _ = writeln!(text, "\n[{}]", contender.name.name());
        for operation in &contender.operations {
            if let Some(ticks) = operation.ticks() {
                let _ = writeln!(text, "{} = {ticks:.0}", operation.name);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::{ContenderResults, OperationResults, Versions};
    use crate::bench::sample::Sample;

    fn results(ticks: u64) -> Results {
        let sample = Sample {
            rounds: 1,
            windows: 1,
            least_ticks: ticks,
            most_ticks: ticks,
            split: None,
        };
        let contender = |name| ContenderResults {
            operations: vec![OperationResults {
                name: "timer".to_owned(),
                cost: Some(ticks as f64),
                spread: None,
                not_run: None,
                runs: vec![sample.clone()],
            }],
            ..ContenderResults::new(name)
        };
        Results {
            versions: Versions::default(),
            cpu: "neoverse-n1".to_owned(),
            split: false,
            contenders: vec![contender(Contender::Open), contender(Contender::Protected)],
        }
    }

    fn baseline(ticks: u64) -> Baseline {
        Baseline::parse(&file(&results(ticks))).unwrap()
    }

    #[test]
    fn a_figure_may_grow_by_three_percent_and_no_more() {
        assert_eq!(baseline(1000).compare(&results(1030)).failures, [""; 0]);
        let failures = baseline(1000).compare(&results(1031)).failures;
        assert_eq!(failures.len(), 2);
        assert!(
            failures[0].starts_with("cloister-open: timer: 1031.0 "),
            "{failures:?}"
        );
        assert_eq!(baseline(3).compare(&results(4)).failures.len(), 2);
    }

    #[test]
    fn a_gain_is_told_and_no_failure() {
        let verdict = baseline(1000).compare(&results(900));
        assert_eq!(
            (
                verdict.failures.len(),
                verdict.gains.len(),
                verdict.compared
            ),
            (0, 2, 2)
        );
    }

    #[test]
    fn an_operation_that_is_missing_on_either_side_fails() {
        let mut gone = results(10);
        for contender in &mut gone.contenders {
            let operation = &mut contender.operations[0];
            operation.runs.clear();
            operation.not_run = Some("QEMU failed".to_owned());
        }
        let failures = baseline(10).compare(&gone).failures;
        assert_eq!(
            failures[0],
            "cloister-open: timer was not measured: QEMU failed"
        );
        let empty = "cpu = \"x\"\nrust = \"y\"\n[cloister-open]\n[cloister-protected]\n";
        assert_eq!(
            Baseline::parse(empty)
                .unwrap()
                .compare(&results(10))
                .failures
                .len(),
            2
        );
        assert!(Baseline::parse("cpu = \"x\"\nrust = \"y\"\nother = 1").is_err());
    }
}
