//! A copy of what the payload is built from, in which mutants are made and undone.

use crate::list::{Edit, Mutant};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const CRATES: [&str; 6] = ["abi", "arch", "boot", "bundle", "corevisor", "hostvisor"];
const FILES: [&str; 6] = [
    "Cargo.lock",
    ".cargo/config.toml",
    "rust-toolchain.toml",
    "linker/boot.ld",
    "linker/hostvisor.ld",
    "tools/bare-cargo",
];

/// What is linked, in cargo's target folder.
const ELF: &str = "aarch64-unknown-none-softfloat/release/cloister-payload";
const HOSTVISOR_ELF: &str = "aarch64-unknown-none-softfloat/release/cloister-hostvisor";

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
            } else {
                lines.push(line.to_owned());
            }
        }
        fs::write(scratch.tree.join("Cargo.toml"), lines.join("\n") + "\n")
            .map_err(|e| format!("{}: {e}", scratch.tree.display()))?;
        Ok(scratch)
    }

    /// Builds the payload of a mutant around the hostile hostvisor and undoes the mutant.
    pub(crate) fn build(&self, mutant: &Mutant) -> Result<PathBuf, String> {
        let image = self.target.join("payload.img");
        let hostile = self.root.join("build/hostile.bin");
        self.mutate(&mutant.edit, || self.payload(&hostile, image))
    }

    /// Builds hostvisor and payload with `edits` made, and undoes them. Answers a folder that is to the tests what
    /// `build/` is.
    pub(crate) fn build_for_guests(&self, edits: &[Edit]) -> Result<PathBuf, String> {
        let folder = self.target.with_file_name("build");
        let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
        fs::create_dir_all(&folder).map_err(failed)?;
        for part in ["bin", "guest", "test-guest.bin"] {
            let link = folder.join(part);
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(self.root.join("build").join(part), link).map_err(failed)?;
        }
        let (hostvisor, image) = (folder.join("hostvisor.bin"), folder.join("cloister.img"));
        self.mutate(edits, || {
            must(quick(&mut self.cargo("hostvisor", &self.target)))?;
            self.flatten(HOSTVISOR_ELF, &hostvisor)?;
            self.payload(&hostvisor, image)
        })?;
        Ok(folder)
    }

    /// Builds the payload of a mutant as it would ship, undoes the mutant, and answers what the check for panics finds
    /// in it: nothing, or its last line.
    pub(crate) fn panics(&self, mutant: &Mutant) -> Result<Option<String>, String> {
        let hostile = self.root.join("build/hostile.bin");
        let elf = self.mutate(&mutant.edit, || {
            let target = self.target.with_file_name("target-shipped");
            must(
                self.cargo("boot", &target)
                    .env("CLOISTER_HOSTVISOR", hostile),
            )?;
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
        edits: &[Edit],
        build: impl FnOnce() -> Result<PathBuf, String>,
    ) -> Result<PathBuf, String> {
        let mut touched = Vec::new();
        let outcome = edits
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

    /// Cargo, about to build `package` into `target`.
    fn cargo(&self, package: &str, target: &Path) -> Command {
        let mut cargo = Command::new(self.tree.join("tools/bare-cargo"));
        cargo
            .args(["build", "-q", "-p", package, "--release"])
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", target)
            .env("CLOISTER_QUIET", "1");
        cargo
    }

    /// The payload around `hostvisor`, as `image`.
    fn payload(&self, hostvisor: &Path, image: PathBuf) -> Result<PathBuf, String> {
        let mut cargo = self.cargo("boot", &self.target);
        must(quick(&mut cargo).env("CLOISTER_HOSTVISOR", hostvisor))?;
        self.flatten(ELF, &image)?;
        Ok(image)
    }

    fn flatten(&self, elf: &str, image: &Path) -> Result<(), String> {
        must(
            Command::new(self.root.join("build/bin/cloister"))
                .arg("flatten")
                .args([&self.target.join(elf), image]),
        )
    }
}

/// For what is built often and run briefly.
fn quick(cargo: &mut Command) -> &mut Command {
    cargo
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "8")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true")
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
