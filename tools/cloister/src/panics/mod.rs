//! `cloister panics`: every place in the linked payload from which a panic is reached, compared with the list
//! of those allowed to stay.
//!
//! What clippy forbids in the corevisor's source may come back by inlining, by generic code of the library, or
//! from a dependency: this looks at the machine code that ships. It starts from the panic handler and goes
//! backwards over branches, address computations and pointers in data, so that there is no name of a panic
//! function to forget. Sites in code that the hostvisor or a guest can reach are told from those that only
//! boot comes to.

mod code;
mod list;
mod program;
mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use list::{Allowed, List};
use program::Program;
use sites::Target;

/// Sites that one line of the list is about.
#[derive(Default)]
struct Group {
    /// `file:line` in the sources, and addresses of those that have none.
    lines: BTreeSet<String>,
    /// The first site's address and the functions it is inlined into.
    example: String,
}

/// (reached after boot, place, panic) → sites.
type Groups = BTreeMap<(bool, String, String), Group>;

/// Compares the panics of the program `elf` with the list in `list`. The sources are in the current folder.
pub(crate) fn run(elf: &Path, list: &Path) -> Result<()> {
    let text = fs::read_to_string(list).map_err(|e| Error::file(list, &e))?;
    let allowed =
        List::parse(&text).map_err(|e| Error::config(format_args!("{}: {e}", list.display())))?;
    let bytes = fs::read(elf).map_err(|e| Error::file(elf, &e))?;
    let root = std::env::current_dir().map_err(|e| Error::file(Path::new("."), &e))?;
    let found = groups(&bytes, &allowed, &root)
        .map_err(|e| Error::config(format_args!("{}: {e}", elf.display())))?;
    for (reached, list) in [(false, &allowed.boot), (true, &allowed.reached)] {
        for unused in list
            .iter()
            .filter(|a| !found.keys().any(|k| k.0 == reached && a.covers(&k.1, &k.2)))
        {
            crate::progress(format_args!(
                "note: no panic at {} ({}) any more",
                unused.place, unused.panic
            ));
        }
    }
    let count = |after| {
        found
            .iter()
            .filter(|(key, _)| key.0 == after)
            .map(|(_, g)| g.lines.len())
            .sum::<usize>()
    };
    println!(
        "panics: {} places in code that the hostvisor or a guest reaches, {} in boot code",
        count(true),
        count(false)
    );
    let refused = refused(&found, &allowed);
    match refused.split_last() {
        None => {
            println!("panics: all of them are on the list {}", list.display());
            Ok(())
        }
        Some((last, others)) => {
            for line in others {
                crate::progress(line);
            }
            Err(Error::machine(last))
        }
    }
}

fn groups(elf: &[u8], list: &List, root: &Path) -> std::result::Result<Groups, String> {
    let program = Program::new(elf)?;
    let name = |function: usize| {
        program
            .functions
            .get(function)
            .map_or("?", |f| f.name.as_str())
    };
    let mut groups = Groups::new();
    for site in sites::find(&program, &list.diverging, &list.entries)? {
        let origin = program.origin(site.address, root);
        let panic = match site.target {
            Target::Panic(function) => name(function),
            Target::Trap => "trap",
            Target::Unknown => "indirect call",
        };
        let symbol = program.function(site.address).map_or("data", name);
        let place = match &origin.file {
            Some(file) => format!("{file}: {}", origin.function),
            None => symbol.to_owned(),
        };
        let group = groups
            .entry((site.reached, place, panic.to_owned()))
            .or_default();
        if group.lines.is_empty() {
            group.example = format!(
                "{:#x} in {symbol}, by {}",
                site.address,
                origin.inlined.join(" < ")
            );
        }
        group.lines.insert(
            origin
                .line
                .map_or_else(|| format!("{:#x}", site.address), |line| line.to_string()),
        );
    }
    Ok(groups)
}

/// A line for each group that the list does not cover.
fn refused(found: &Groups, list: &List) -> Vec<String> {
    let mut refused = Vec::new();
    for ((reached, place, panic), group) in found {
        let (list, when) = if *reached {
            (&list.reached, "the hostvisor or a guest reaches")
        } else {
            (&list.boot, "at boot")
        };
        let allowed: usize = list
            .iter()
            .filter(|a: &&Allowed| a.covers(place, panic))
            .map(|a| a.lines)
            .sum();
        if group.lines.len() > allowed {
            let lines: Vec<&str> = group.lines.iter().map(String::as_str).collect();
            refused.push(format!(
                "{when}: {place}: {panic}, {} places (line {}), {allowed} allowed; {}",
                group.lines.len(),
                lines.join(", "),
                group.example
            ));
        }
    }
    refused
}
