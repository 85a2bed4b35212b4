//! One boot with one attack.

use crate::list::Mutant;
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Seconds that an attack may take, on a busy workstation too.
const PATIENCE: &str = "120";
/// The same where the mutant may end in a machine that hangs.
const PATIENCE_TO_HANG: &str = "40";

/// What the machine said.
pub(crate) enum Verdict {
    /// The attack was refused.
    Refused,
    /// It succeeded.
    Succeeded(String),
    /// Its precondition did not hold.
    Void(String),
    /// The machine has too few CPUs for it.
    Skipped,
    /// The machine stopped or hung before there was a verdict.
    Stopped(String),
    /// It did not even come to the attack.
    NotBegun(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Succeeded(what) => write!(f, "{what}"),
            Self::Void(why) => write!(f, "void: {why}"),
            Self::Skipped => f.write_str("skipped"),
            Self::Stopped(last) => write!(f, "stopped: {last}"),
            Self::NotBegun(last) => write!(f, "did not boot: {last}"),
        }
    }
}

/// Boots `payload` with `attack` alone.
pub(crate) fn attack(payload: &Path, mutant: &Mutant, attack: &str) -> Verdict {
    let patience = if mutant.stops {
        PATIENCE_TO_HANG
    } else {
        PATIENCE
    };
    let output = Command::new("timeout")
        .args(["--kill-after=5", patience, "qemu-system-aarch64"])
        .args([
            "-M",
            &format!("virt,virtualization=on,gic-version={}", mutant.gic),
            "-cpu",
            &mutant.cpu,
        ])
        .args(["-smp", &mutant.cpus.to_string(), "-m", "512M"])
        .args([
            "-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio",
        ])
        .args(["-append", &format!("attack={attack}"), "-kernel"])
        .arg(payload)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => verdict(&String::from_utf8_lossy(&output.stdout), attack),
        Err(error) => Verdict::NotBegun(format!("QEMU: {error}")),
    }
}

fn verdict(console: &str, attack: &str) -> Verdict {
    let start = format!("ATTACK {attack}: ");
    let said = || console.lines().filter_map(|line| line.strip_prefix(&start));
    // A machine that is damaged afterwards says so in a second line.
    if let Some(what) = said().find_map(|line| line.strip_prefix("SUCCEEDED ")) {
        return Verdict::Succeeded(what.to_owned());
    }
    let ended = console.contains("ATTACKS done: ");
    match said().next() {
        Some(line) if ended && line.starts_with("refused") => Verdict::Refused,
        Some(line) if ended && line.starts_with("skipped") => Verdict::Skipped,
        Some(line) if line.starts_with("VOID ") => Verdict::Void(line.to_owned()),
        _ => {
            let last = console.lines().rev().find(|line| !line.trim().is_empty());
            let last = last.unwrap_or("no output").to_owned();
            if console.lines().any(|line| line.starts_with("hostile: ")) {
                Verdict::Stopped(last)
            } else {
                Verdict::NotBegun(last)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, verdict};

    #[test]
    fn each_ending_is_told_apart() {
        let end = "ATTACKS done: 1 refused\n";
        let of = |text: &str| verdict(text, "a");
        assert!(matches!(
            of(&format!("ATTACK a: refused (how)\n{end}")),
            Verdict::Refused
        ));
        assert!(matches!(
            of("ATTACK a: SUCCEEDED what\n"),
            Verdict::Succeeded(_)
        ));
        let damaged = format!("ATTACK a: refused (how)\nATTACK a: SUCCEEDED damage\n{end}");
        assert!(matches!(of(&damaged), Verdict::Succeeded(_)));
        assert!(matches!(
            of(&format!("ATTACK a: VOID why\n{end}")),
            Verdict::Void(_)
        ));
        assert!(matches!(
            of(&format!("ATTACK a: skipped (why)\n{end}")),
            Verdict::Skipped
        ));
        let begun = |text: &str| of(&format!("hostile: 2 CPUs\n{text}"));
        let panic = "ATTACK a: refused (how)\n[core] panic: x";
        assert!(matches!(begun(panic), Verdict::Stopped(_)));
        let other = "ATTACK ab: refused (how)\n";
        assert!(matches!(begun(other), Verdict::Stopped(_)));
        assert!(matches!(of("[core] Cloister"), Verdict::NotBegun(_)));
    }
}
