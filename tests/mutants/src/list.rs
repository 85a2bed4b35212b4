//! The list of mutants.

use serde::Deserialize;
use std::path::Path;

/// A payload with something wrong.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutant {
    /// What is wrong.
    pub(crate) name: String,
    /// Each of these must turn red.
    #[serde(default)]
    pub(crate) attacks: Vec<String>,
    /// CPUs of the machine.
    #[serde(default = "one")]
    pub(crate) cpus: u32,
    /// QEMU's name of their model.
    #[serde(default = "model")]
    pub(crate) cpu: String,
    /// Version of its GIC.
    #[serde(default = "three")]
    pub(crate) gic: u32,
    /// The machine may stop or hang instead.
    #[serde(default)]
    pub(crate) stops: bool,
    /// It is caught by the check of the linked payload for panics, not by an attack.
    #[serde(default)]
    pub(crate) panics: bool,
    /// What is done to the sources.
    pub(crate) edit: Vec<Edit>,
}

/// A replacement.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edit {
    /// The file, from the root of the tree.
    pub(crate) file: String,
    /// Text that is in it exactly once.
    pub(crate) find: String,
    /// What takes its place.
    pub(crate) replace: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

fn one() -> u32 {
    1
}

fn three() -> u32 {
    3
}

fn model() -> String {
    "cortex-a57".to_owned()
}

/// Reads the list; names are unique.
pub(crate) fn read(path: &Path) -> Result<Vec<Mutant>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let list: List = toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    for (n, mutant) in list.mutant.iter().enumerate() {
        if mutant.attacks.is_empty() != mutant.panics {
            return Err(format!(
                "{}: {} wants attacks or panics",
                path.display(),
                mutant.name
            ));
        }
        if list
            .mutant
            .iter()
            .take(n)
            .any(|other| other.name == mutant.name)
        {
            return Err(format!(
                "{}: {} is there twice",
                path.display(),
                mutant.name
            ));
        }
    }
    Ok(list.mutant)
}

impl Edit {
    /// `text` with the replacement made.
    pub(crate) fn apply(&self, text: &str) -> Result<String, String> {
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.replace, 1)),
            n => Err(format!(
                "{} has {n} times {:?}, not once",
                self.file, self.find
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Edit, read};
    use std::path::Path;

    #[test]
    fn every_mutant_still_fits_the_tree() {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = own.ancestors().nth(2).expect("the tree has a root");
        let mutants = read(&own.join("mutants.toml")).expect("the list is well formed");
        let mut stale = Vec::new();
        for edit in mutants.iter().flat_map(|m| &m.edit) {
            let text = std::fs::read_to_string(root.join(&edit.file)).unwrap_or_default();
            stale.extend(edit.apply(&text).err());
        }
        assert!(stale.is_empty(), "{stale:#?}");
    }

    #[test]
    fn text_that_is_absent_or_there_twice_is_an_error() {
        let edit = |find: &str| Edit {
            file: "f".into(),
            find: find.into(),
            replace: "x".into(),
        };
        assert_eq!(edit("b").apply("a b c"), Ok("a x c".to_owned()));
        assert!(edit("d").apply("a b c").is_err());
        assert!(edit("a").apply("a b a").is_err());
    }
}
