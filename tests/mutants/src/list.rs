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
    /// A guest attacks: this test of `tests/tests/` turns red.
    pub(crate) test: Option<GuestTest>,
    /// What is done to the sources.
    pub(crate) edit: Vec<Edit>,
}

/// A test that boots the payload with guests that attack.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GuestTest {
    /// The file in `tests/tests/`, without its ending.
    pub(crate) program: String,
    /// The function in it.
    pub(crate) name: String,
    /// What the red test says: which of the guest's attacks it was.
    pub(crate) says: String,
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
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the tests compare it with the attacks")
    )]
    without: Vec<Without>,
}

/// An attack that no mutant names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the tests compare it with the attacks")
)]
struct Without {
    attack: String,
    /// Why there is none.
    reason: String,
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
    Ok(read_all(path)?.mutant)
}

fn read_all(path: &Path) -> Result<List, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let list: List = toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    for (n, mutant) in list.mutant.iter().enumerate() {
        let caught_by = [
            !mutant.attacks.is_empty(),
            mutant.panics,
            mutant.test.is_some(),
        ];
        if caught_by.iter().filter(|&&is| is).count() != 1 {
            return Err(format!(
                "{}: {} wants attacks, panics or a test",
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
    Ok(list)
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
    use super::{Edit, List, read_all};
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn root() -> PathBuf {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        own.ancestors()
            .nth(2)
            .expect("the tree has a root")
            .to_owned()
    }

    fn list() -> List {
        read_all(&root().join("tests/mutants/mutants.toml")).expect("the list is well formed")
    }

    /// The attacks of the hostile hostvisor: what stands between `ATTACKS: &[Attack] = &[` and `];`, by name.
    fn attacks() -> BTreeSet<String> {
        let folder = root().join("tests/hostile/src/attacks");
        let mut names = BTreeSet::new();
        for file in fs::read_dir(folder).expect("there are attacks") {
            let text =
                fs::read_to_string(file.expect("it can be read").path()).expect("it is text");
            let table = text.split_once("ATTACKS: &[Attack] = &[");
            let Some((table, _)) = table.and_then(|(_, rest)| rest.split_once("];")) else {
                continue;
            };
            for name in table.split('"').skip(1).step_by(2) {
                assert!(names.insert(name.to_owned()), "{name} is there twice");
            }
        }
        names
    }

    #[test]
    fn every_attack_has_a_mutant_or_a_reason_for_having_none() {
        let list = list();
        let attacks = attacks();
        // What the boot tests count (`tests/tests/hostile.rs`).
        let harness =
            fs::read_to_string(root().join("tests/tests/hostile.rs")).expect("it is text");
        let all = format!("const ALL: usize = {};", attacks.len());
        assert!(harness.contains(&all), "the tables hold {}", attacks.len());
        let named: BTreeSet<_> = list.mutant.iter().flat_map(|m| m.attacks.clone()).collect();
        let mut without = BTreeSet::new();
        for entry in &list.without {
            assert!(entry.reason.len() > 20, "{}: why?", entry.attack);
            assert!(without.insert(entry.attack.clone()), "{}", entry.attack);
        }
        let both: Vec<_> = named.intersection(&without).collect();
        assert!(both.is_empty(), "with and without a mutant: {both:?}");
        let covered: BTreeSet<_> = named.union(&without).cloned().collect();
        let bare: Vec<_> = attacks.difference(&covered).collect();
        assert!(bare.is_empty(), "no mutant and no reason: {bare:?}");
        let unknown: Vec<_> = covered.difference(&attacks).collect();
        assert!(unknown.is_empty(), "no such attack: {unknown:?}");
    }

    #[test]
    fn every_mutant_still_fits_the_tree() {
        let (list, root) = (list(), root());
        let mut stale = Vec::new();
        for edit in list.mutant.iter().flat_map(|m| &m.edit) {
            let text = fs::read_to_string(root.join(&edit.file)).unwrap_or_default();
            stale.extend(edit.apply(&text).err());
        }
        assert!(stale.is_empty(), "{stale:#?}");
    }

    #[test]
    fn every_test_that_a_mutant_names_is_there() {
        for test in list().mutant.iter().filter_map(|m| m.test.as_ref()) {
            let path = root().join(format!("tests/tests/{}.rs", test.program));
            let text = fs::read_to_string(path).unwrap_or_default();
            let function = format!("#[test]\nfn {}() {{", test.name);
            assert!(text.contains(&function), "{test:?}");
            assert!(!test.says.is_empty(), "{test:?}");
        }
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
