//! A copy of what the payload is built from, in which mutants are made and undone.

use crate::list::Mutant;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const CRATES: [&str; 4] = ["abi", "arch", "boot", "corevisor"];
const FILES: [&str; 5] = [
    "Cargo.lock",
    ".cargo/config.toml",
    "rust-toolchain.toml",
    "linker/boot.ld",
    "tools/bare-cargo",
];

/// The payload as linked, in cargo's target folder.
const ELF: &str = "aarch64-unknown-none-softfloat/release/cloister-payload";

pub(crate) struct Scratch {
    /// The real tree: read only.
    root: PathBuf,
    /// The copy.
    tree: PathBuf,
    /// Cargo's target folder, one for all mutants.
    target: PathBuf,
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", from.display());
    if from.is_dir() {
        fs::create_dir_all(to).map_err(failed)?;
        for entry in fs::read_dir(from).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    // Files that are as they were keep their time, so that cargo builds only what a mutant changes.
    let new = fs::read(from).map_err(failed)?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::copy(from, to).map(drop).map_err(failed)
}

impl Scratch {
    /// Copies the tree at `root`.
    pub(crate) fn new(root: &Path) -> Result<Self, String> {
        let base =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let base = base.join("hostile-mutants");
        let scratch = Self {
            root: root.to_owned(),
            tree: base.join("tree"),
            target: base.join("target"),
        };
        for krate in CRATES {
            // What an earlier run copied and the tree no longer has must not stay.
            let _ = fs::remove_dir_all(scratch.tree.join(krate));
        }
        for part in CRATES.iter().chain(&FILES) {
            if root.join(part).exists() {
                copy(&root.join(part), &scratch.tree.join(part))?;
            }
        }
        let manifest =
            fs::read_to_string(root.join("Cargo.toml")).map_err(|e| format!("Cargo.toml: {e}"))?;
        let members = CRATES.map(|c| format!("{c:?}")).join(", ");
        let mut lines = Vec::new();
        let mut inside = false;
        for line in manifest.lines() {
            if line.starts_with("members") {
                lines.push(format!("members = [{members}]"));
                inside = !line.contains(']');
            } else if inside {
                inside = !line.contains(']');
            } else if !line.contains("path = \"bundle\"") {
                lines.push(line.to_owned());
            }
        }
        fs::write(scratch.tree.join("Cargo.toml"), lines.join("\n") + "\n")
            .map_err(|e| format!("{}: {e}", scratch.tree.display()))?;
        Ok(scratch)
    }

    /// Builds the payload of a mutant and undoes the mutant.
    pub(crate) fn build(&self, mutant: &Mutant) -> Result<PathBuf, String> {
        self.mutate(mutant, || self.payload())
    }

    /// Builds the payload of a mutant as it would ship, undoes the mutant, and answers what the check for panics finds
    /// in it: nothing, or its last line.
    pub(crate) fn panics(&self, mutant: &Mutant) -> Result<Option<String>, String> {
        let elf = self.mutate(mutant, || {
            let target = self.target.with_file_name("target-shipped");
            must(&mut self.cargo(&target))?;
            Ok(target.join(ELF))
        })?;
        let check = Command::new(self.root.join("build/bin/cloister"))
            .arg("panics")
            .args([elf, self.tree.join("boot/panics.toml")])
            .current_dir(&self.tree)
            .output()
            .map_err(|e| format!("cloister: {e}"))?;
        let said = String::from_utf8_lossy(&check.stderr);
        let last = said.lines().last().unwrap_or_default().to_owned();
        match check.status.code() {
            Some(0) => Ok(None),
            Some(1) => Ok(Some(last)),
            _ => Err(last),
        }
    }

    fn mutate(
        &self,
        mutant: &Mutant,
        build: impl FnOnce() -> Result<PathBuf, String>,
    ) -> Result<PathBuf, String> {
        let mut touched = Vec::new();
        let outcome = mutant
            .edit
            .iter()
            .try_for_each(|edit| {
                let path = self.tree.join(&edit.file);
                let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", edit.file))?;
                let changed = edit.apply(&text)?;
                touched.push((path.clone(), text));
                fs::write(&path, changed).map_err(|e| format!("{}: {e}", edit.file))
            })
            .and_then(|()| build());
        for (path, text) in touched.into_iter().rev() {
            fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        outcome
    }

    /// Cargo, about to build the payload into `target`.
    fn cargo(&self, target: &Path) -> Command {
        let mut cargo = Command::new(self.tree.join("tools/bare-cargo"));
        cargo
            .args(["build", "-q", "-p", "boot", "--release"])
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", target)
            .env("CLOISTER_QUIET", "1")
            .env("CLOISTER_HOSTVISOR", self.root.join("build/hostile.bin"));
        cargo
    }

    fn payload(&self) -> Result<PathBuf, String> {
        let image = self.target.join("payload.img");
        // Built often and run briefly.
        must(
            self.cargo(&self.target)
                .env("CARGO_PROFILE_RELEASE_LTO", "off")
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "8")
                .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
                .env("CARGO_PROFILE_RELEASE_DEBUG", "0"),
        )?;
        must(
            Command::new(self.root.join("build/bin/cloister"))
                .arg("flatten")
                .args([&self.target.join(ELF), &image]),
        )?;
        Ok(image)
    }
}

fn must(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors
        .lines()
        .filter(|line| line.starts_with("error"))
        .collect::<Vec<_>>()
        .join("; ");
    Err(format!("does not build: {first}"))
}
