//! What the figures were made with.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::emulator::Paths;
use super::results::Versions;
use crate::error::{Error, Result, io_reason};

/// Oldest QEMU whose processors take `cntfrq`.
const OLDEST: u32 = 9;

/// What benchmarks write, as git leaves it out.
const RESULTS: [&str; 3] = [
    ":(exclude)bench/results",
    ":(exclude)bench/plots",
    ":(exclude)bench/REPORT.md",
];

/// Finds all of it; what is not there is said to be missing.
pub(super) fn find(paths: &Paths) -> Result<Versions> {
    Ok(Versions {
        cloister: cloister(),
        rust: first_line(Path::new("tools/bare-cargo"), &["--which"])
            .unwrap_or_else(|| "unknown".to_owned()),
        qemu: qemu(&paths.qemu)?,
        host_kernel: file(&paths.build.join("guest/6.12/version")),
        host_qemu: file(&paths.build.join("bench/host.version")),
    })
}

/// `NAME VERSION` of the packages `names`, from the `NAME VERSION SHA256` lines of an image's lock.
pub(super) fn packages(lock: &Path, names: &[&str]) -> Vec<String> {
    let text = fs::read_to_string(lock).unwrap_or_default();
    let version = |name: &&str| {
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        let version = line.and_then(|line| line.split(' ').nth(1));
        format!("{name} {}", version.unwrap_or("of unknown version"))
    };
    names.iter().map(version).collect()
}

/// A program that the user supplied: its file's name, and what it is.
pub(super) fn program(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut command = Command::new("sha256sum");
    let output = command.arg(path).output().map(|output| output.stdout);
    let text = String::from_utf8_lossy(&output.unwrap_or_default()).into_owned();
    let digest = text.split(' ').next().filter(|digest| digest.len() == 64);
    format!("{name} with SHA-256 {}", digest.unwrap_or("unknown"))
}

/// The kernel of guests that are on a network.
pub(super) fn sharing_kernel(paths: &Paths) -> String {
    let version = file(&paths.build.join("guest/pkvm/version"));
    format!("guests' kernel: {version}")
}

/// Cloister's version, with the commit of its tree; "-dirty" if that has changes beside what a benchmark writes.
pub(super) fn cloister() -> String {
    let git = |arguments: &[&str]| first_line(Path::new("git"), arguments);
    let changed = [
        &["status", "--porcelain", "--untracked-files=no", "--", "."][..],
        &RESULTS,
    ];
    let commit = match git(&["describe", "--always"]) {
        Some(commit) if git(&changed.concat()).is_some() => format!(" ({commit}-dirty)"),
        Some(commit) => format!(" ({commit})"),
        None => String::new(),
    };
    format!("{}{commit}", env!("CARGO_PKG_VERSION"))
}

/// QEMU's first line about itself, if it is new enough.
fn qemu(path: &Path) -> Result<String> {
    match too_old(path)? {
        Some(why) => Err(Error::config(why)),
        None => about(path),
    }
}

/// Why the QEMU at `path` cannot be measured with, if it is older than that.
pub(super) fn too_old(path: &Path) -> Result<Option<String>> {
    let name = path.display();
    let line = about(path)?;
    match major(&line) {
        Some(major) if major >= OLDEST => Ok(None),
        Some(_) => Ok(Some(format!(
            "{name}: {line}: benchmarks need QEMU {OLDEST} or newer, whose counter can run at 1 GHz"
        ))),
        None => Err(Error::config(format_args!("{name}: says no QEMU version"))),
    }
}

fn about(path: &Path) -> Result<String> {
    let output = Command::new(path).arg("--version").output();
    let output =
        output.map_err(|e| Error::config(format_args!("{}: {}", path.display(), io_reason(&e))))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn major(line: &str) -> Option<u32> {
    let version = line.strip_prefix("QEMU emulator version ")?;
    version.split('.').next()?.parse().ok()
}

fn first_line(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next()?.trim();
    (output.status.success() && !line.is_empty()).then(|| line.to_owned())
}

fn file(path: &Path) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().to_owned(),
        Err(_) => format!("missing ({})", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::{fs, major, packages};

    #[test]
    fn versions_are_those_of_the_very_package() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("lock");
        let names = ["redis", "iperf3"];
        assert_eq!(packages(&lock, &names[..1]), ["redis of unknown version"]);
        fs::write(&lock, "redis-tools 8 ab\nredis 7 cd\n").unwrap();
        assert_eq!(
            packages(&lock, &names),
            ["redis 7", "iperf3 of unknown version"]
        );
    }

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(
            major("QEMU emulator version 10.0.2 (Debian 1:10.0.2)"),
            Some(10)
        );
        assert_eq!(major("something else"), None);
    }
}
