//! Tests that put load on VMs for as long as the user says; clients of Debian's that do so.

use std::process::Command;
use std::time::Duration;

/// How long each load goes on: `CLOISTER_LOAD_SECONDS`, a minute if it is not set.
///
/// # Panics
/// If it is no number.
#[must_use]
pub fn duration() -> Duration {
    let seconds = std::env::var("CLOISTER_LOAD_SECONDS").ok();
    let seconds = seconds.map_or(60, |text| text.parse().expect("CLOISTER_LOAD_SECONDS"));
    Duration::from_secs(seconds)
}

/// Runs a client on the workstation: what it printed, `Err` if it fails.
///
/// # Errors
/// What it printed before it failed.
///
/// # Panics
/// If it cannot be run.
pub fn try_client(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}: tools/deps clients"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{program} {arguments:?}: {text}{errors}")),
    }
}

/// Runs a client on the workstation to its good end; what it printed.
///
/// # Panics
/// If it cannot be run or fails.
#[must_use]
pub fn client(program: &str, arguments: &[&str]) -> String {
    try_client(program, arguments).unwrap_or_else(|text| panic!("{text}"))
}
