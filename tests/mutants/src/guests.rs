//! One test of `tests/tests/`, whose guests attack, against another payload.

use crate::list::GuestTest;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// How the test ended.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It passed.
    Green,
    /// It failed and said what it was to say.
    Red,
    /// It failed, with another reason: the last thing that it said.
    Other(String),
    /// It did not even run.
    NotRun(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Green => f.write_str("passed"),
            Self::Red => f.write_str("failed as it should"),
            Self::Other(why) => write!(f, "failed otherwise: {why}"),
            Self::NotRun(why) => write!(f, "did not run: {why}"),
        }
    }
}

/// Runs `test` of the tree at `root` with `build` for its `build/`.
pub(crate) fn run(root: &Path, build: &Path, test: &GuestTest) -> Verdict {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "-q", "-p", "tests", "--test", &test.program])
        .args([&test.name, "--", "--exact", "--test-threads=1"])
        .current_dir(root)
        .env("CLOISTER_BUILD", build)
        .output();
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            verdict(&text, &errors, test)
        }
        Err(error) => Verdict::NotRun(format!("cargo: {error}")),
    }
}

/// `text`: standard output of the test harness, which repeats what a failed test said.
fn verdict(text: &str, errors: &str, test: &GuestTest) -> Verdict {
    let last = |text: &str| {
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        last.unwrap_or("no output").to_owned()
    };
    if text.contains("test result: ok. 1 passed; 0 failed") {
        Verdict::Green
    } else if !text.contains("test result: FAILED. 0 passed; 1 failed") {
        Verdict::NotRun(last(errors))
    } else if text.contains(&test.says) {
        Verdict::Red
    } else {
        let verdicts = text.lines().find(|line| line.contains(": FAIL "));
        Verdict::Other(verdicts.map_or_else(|| last(text), |line| line.trim().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, verdict};
    use crate::list::GuestTest;

    #[test]
    fn each_ending_is_told_apart() {
        let test = GuestTest {
            program: "p".into(),
            name: "n".into(),
            says: "a: FAIL why".into(),
        };
        let of = |text: &str| verdict(text, "error: it does not build\n", &test);
        let failed = "test result: FAILED. 0 passed; 1 failed; 0 ignored\n";
        assert_eq!(
            of("test result: ok. 1 passed; 0 failed; 0 i"),
            Verdict::Green
        );
        assert_eq!(of(&format!("a: FAIL why: x\n{failed}")), Verdict::Red);
        let other = of(&format!("b: FAIL why\n{failed}"));
        assert_eq!(other, Verdict::Other("b: FAIL why".into()));
        let none = Verdict::NotRun("error: it does not build".into());
        assert_eq!(of(""), none);
        // A name that no test has.
        assert_eq!(of("test result: ok. 0 passed; 0 failed"), none);
    }
}
