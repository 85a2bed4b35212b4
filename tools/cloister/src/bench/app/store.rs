//! Finished runs, kept under `build/bench/finished/`, so that a benchmark that was broken off goes on where it was.
//!
//! A run is taken from there only if nothing that decides it has changed: QEMU and its command line, and the bytes
//! of every file it loads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::job::{Outcome, Prepared};
use crate::bench::emulator::about;
use crate::error::io_reason;

/// A finished run.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
pub(super) struct Finished {
    /// What decided it.
    inputs: String,
    /// How long it took on the workstation, for estimates alone.
    pub(super) seconds: u64,
    pub(super) outcome: Outcome,
}

/// The place of one run.
#[derive(Debug)]
pub(super) struct Place(PathBuf);

impl Place {
    /// For run number `number` of `name`.
    pub(super) fn new(build: &Path, name: &str, number: u32) -> Self {
        Self(build.join(format!("bench/finished/{name}-{number}.json")))
    }

    fn read(&self) -> Option<Finished> {
        serde_json::from_slice(&fs::read(&self.0).ok()?).ok()
    }

    /// The run, if it was finished with these inputs.
    pub(super) fn get(&self, inputs: &str) -> Option<Finished> {
        self.read().filter(|finished| finished.inputs == inputs)
    }

    /// How long it took when it was last run, with whatever inputs.
    pub(super) fn seconds(&self) -> Option<u64> {
        Some(self.read()?.seconds)
    }

    /// Keeps a run.
    pub(super) fn put(
        &self,
        inputs: &str,
        seconds: u64,
        outcome: Outcome,
    ) -> Result<Finished, String> {
        let inputs = inputs.to_owned();
        let finished = Finished {
            inputs,
            seconds,
            outcome,
        };
        let folder = self.0.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|e| about(folder, &e))?;
        let text = serde_json::to_vec(&finished).map_err(|e| e.to_string())?;
        // What has the name is whole, at any time.
        let unfinished = self.0.with_extension("new");
        fs::write(&unfinished, text).map_err(|e| about(&unfinished, &e))?;
        fs::rename(&unfinished, &self.0).map_err(|e| about(&self.0, &e))?;
        Ok(finished)
    }
}

/// What decides a run: `qemu`'s version, the command line, and a digest of every file.
pub(super) fn inputs(qemu: &str, prepared: &Prepared) -> Result<String, String> {
    let mut command = Command::new("sha256sum");
    let output = command.args(&prepared.inputs).output();
    let output = output.map_err(|e| format!("sha256sum: {}", io_reason(&e)))?;
    match output.status.success() {
        true => {
            let digests = String::from_utf8_lossy(&output.stdout);
            Ok(format!("{qemu}\n{}\n{digests}", prepared.command))
        }
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_comes_back_only_for_the_inputs_it_was_made_with() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), "hackbench-native", 1);
        assert_eq!((place.get("a"), place.seconds()), (None, None));
        let outcome = Outcome {
            host: None,
            cloister: None,
            runs: [("redis".to_owned(), Err("no port".to_owned()))].into(),
        };
        let put = place.put("a", 7, outcome).unwrap();
        assert_eq!(place.get("a"), Some(put));
        assert_eq!((place.get("b"), place.seconds()), (None, Some(7)));
        // Cut off, as by a full disk.
        fs::write(&place.0, "{\"inputs\":").unwrap();
        assert_eq!(place.get("a"), None);
    }
}
