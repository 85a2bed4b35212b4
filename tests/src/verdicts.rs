//! The verdict lines of the bare-metal test guest.

use crate::run::Run;

/// Tests that need more than one CPU.
pub const SMP_ONLY: [&str; 8] = [
    "psci-cpu-on",
    "psci-cpu-off",
    "psci-cpu-off-again",
    "gic-sgi",
    "gic-sgi-senders",
    "gic-routing",
    "wfi-ping-pong",
    "wfi-ring",
];

/// Tests of what an interrupt controller of version `gic` does not have.
#[must_use]
pub const fn not_of_gic(gic: u32) -> &'static [&'static str] {
    if gic == 2 {
        &["gic-redistributors", "gic-sgi-group0"]
    } else {
        &["gic-sgi-senders"]
    }
}

/// What one run of the test guest said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Tests that passed.
    pub passed: Vec<String>,
    /// `name: reason` of those that failed.
    pub failed: Vec<String>,
    /// Tests that make no sense on this machine.
    pub skipped: Vec<String>,
    /// Whether the guest came to its end.
    pub done: bool,
}

impl Verdicts {
    /// Reads a console's text.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut verdicts = Self::default();
        for line in text.lines() {
            if let Some(test) = line.strip_prefix("TEST ") {
                match test.split_once(": ") {
                    Some((name, "pass")) => verdicts.passed.push(name.to_owned()),
                    Some((name, rest)) if rest.starts_with("skip") => {
                        verdicts.skipped.push(name.to_owned())
                    }
                    Some((_, rest)) if rest.starts_with("FAIL") => {
                        verdicts.failed.push(test.to_owned())
                    }
                    _ => {}
                }
            }
            verdicts.done |= line.starts_with("TESTS done: ");
        }
        verdicts
    }

    /// Waits for the test guest's end; fails unless every test passed, skipping only `skipped` at most.
    #[track_caller]
    pub fn expect_all_pass(run: &mut Run, skipped: &[&str]) -> Self {
        run.expect_line("TESTS done: ");
        let verdicts = Self::parse(&run.text());
        let unwelcome: Vec<_> = verdicts
            .skipped
            .iter()
            .filter(|name| !skipped.contains(&name.as_str()))
            .collect();
        if !verdicts.failed.is_empty() || verdicts.passed.is_empty() || !unwelcome.is_empty() {
            run.fail(&format!(
                "{} passed; failed: {:#?}; skipped without leave: {unwelcome:?}",
                verdicts.passed.len(),
                verdicts.failed
            ));
        }
        verdicts
    }
}

#[cfg(test)]
mod tests {
    use super::Verdicts;

    #[test]
    fn each_kind_of_verdict_is_told_apart() {
        let text = "noise\nTEST a: start\nTEST a: pass\nTEST b: FAIL not: so\nTEST c: skip (why)\nTESTS done: 1 passed\n";
        let verdicts = Verdicts::parse(text);
        assert_eq!(verdicts.passed, ["a"]);
        assert_eq!(verdicts.failed, ["b: FAIL not: so"]);
        assert_eq!(verdicts.skipped, ["c"]);
        assert!(verdicts.done);
        assert!(!Verdicts::parse("TEST a: pass\n").done);
    }
}
