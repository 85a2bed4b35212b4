//! The list of panics that are allowed to stay, each with its reason.

use serde::Deserialize;

/// The list, as it is in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    /// Functions by which the hostvisor and guests bring control in.
    pub(super) entries: Vec<String>,
    /// Functions of our own that end the machine: whoever calls them panics.
    pub(super) diverging: Vec<String>,
    /// Panics that only happen before the hostvisor runs.
    #[serde(default)]
    pub(super) boot: Vec<Allowed>,
    /// Panics in code that the hostvisor or a guest reaches.
    #[serde(default)]
    pub(super) reached: Vec<Allowed>,
}

/// Panics that may stay.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Allowed {
    /// Source file and function, or the function alone where it is not from this tree; `*` at the end stands
    /// for anything.
    pub(super) place: String,
    /// The panic function, or "trap" or "indirect call"; `*` at the end stands for anything.
    pub(super) panic: String,
    /// Different source lines there may be.
    #[serde(default = "one")]
    pub(super) lines: usize,
    /// Why it may stay.
    pub(super) reason: String,
}

fn one() -> usize {
    1
}

impl List {
    /// Reads the list; every panic on it has a reason.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let list: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        for allowed in list.boot.iter().chain(&list.reached) {
            if allowed.reason.trim().is_empty() {
                return Err(format!(
                    "{}: {} has no reason",
                    allowed.place, allowed.panic
                ));
            }
        }
        Ok(list)
    }
}

impl Allowed {
    /// True if it is about this panic.
    pub(super) fn covers(&self, place: &str, panic: &str) -> bool {
        matches(&self.place, place) && matches(&self.panic, panic)
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => text == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::{List, matches};

    #[test]
    fn a_star_stands_for_any_rest_and_nothing_else_does() {
        assert!(matches("fdt::*", "fdt::node::find"));
        assert!(!matches("fdt::*", "xfdt::node"));
        assert!(!matches("fdt::node", "fdt::node::find"));
    }

    #[test]
    fn a_panic_without_a_reason_is_not_allowed() {
        let list = |reason: &str| {
            List::parse(&format!(
                "entries = []\ndiverging = []\n[[boot]]\nplace = \"a\"\npanic = \"b\"\nreason = \"{reason}\"\n"
            ))
        };
        assert!(list("it is so").is_ok());
        assert!(list(" ").is_err());
        assert!(List::parse("entries = []\ndiverging = []\nboots = []\n").is_err());
    }
}
