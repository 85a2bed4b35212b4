//! Programs of the workstation that do the work.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result, io_reason};

/// (program, Debian's package)
const NEEDED: [(&str, &str); 8] = [
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("tar", "tar"),
    ("sha256sum", "coreutils"),
    ("mke2fs", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("cpio", "cpio"),
    ("gzip", "gzip"),
];

/// Checks that all of them are there.
pub(super) fn check() -> Result<()> {
    match NEEDED.iter().find(|(program, _)| find(program).is_none()) {
        None => Ok(()),
        Some((program, package)) => Err(Error::config(format_args!(
            "{program} is missing: install {package} ('make deps' does)"
        ))),
    }
}

/// Where a program is: in PATH, or where PATH of an ordinary user does not lead.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let programs = folders.map(|folder| folder.join(program));
    { programs }.find(|path| path.is_file())
}

/// A command of one of the programs.
pub(super) fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| program.into()))
}

/// Runs a command to its end; what it said on standard output, or its last words as the reason of failure.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let name = Path::new(command.get_program()).display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::config(format_args!("{name}: {}", io_reason(&e))))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rev().find(|line| !line.trim().is_empty());
    Err(Error::config(format_args!(
        "{name} failed: {}",
        last.unwrap_or("without a word")
    )))
}
