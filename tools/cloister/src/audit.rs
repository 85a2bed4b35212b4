//! `make audit`: lines and unsafe code of every crate, without tests, and the two rules they must keep:
//! the corevisor stays small, and unsafe code stays where it belongs.

mod rust;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use rust::Counts;

/// The corevisor has fewer lines than this.
const COREVISOR_LIMIT: usize = 5000;
/// Folders that may hold unsafe code; tests/ only in its bare-metal guests, bench/ycsb is a Linux guest's program without libc.
const UNSAFE_FOLDERS: [&str; 5] = ["arch", "boot", "hostvisor/src/hw", "tests", "bench/ycsb"];

#[derive(Deserialize)]
struct Manifest {
    workspace: Workspace,
}

#[derive(Deserialize)]
struct Workspace {
    members: Vec<PathBuf>,
}

/// Prints the table; fails if a rule is broken.
pub(crate) fn run() -> Result<()> {
    let path = Path::new("Cargo.toml");
    let text = fs::read_to_string(path).map_err(|e| Error::file(path, &e))?;
    let manifest: Manifest = toml::from_str(&text)
        .map_err(|e| Error::config(format_args!("Cargo.toml: {}", e.message())))?;
    let mut broken = Vec::new();
    println!(
        "{:<16} {:>6} {:>7} {:>7} {:>14} {:>13}",
        "crate", "files", "lines", "code", "unsafe blocks", "unsafe items"
    );
    for member in &manifest.workspace.members {
        let total = member_counts(member, &mut broken)?;
        println!(
            "{:<16} {:>6} {:>7} {:>7} {:>14} {:>13}",
            member.display(),
            total.files,
            total.counts.lines,
            total.counts.code,
            total.counts.unsafe_blocks,
            total.counts.unsafe_items
        );
        if member == Path::new("corevisor") && total.counts.lines >= COREVISOR_LIMIT {
            broken.push(format!(
                "corevisor: {} lines, it must stay below {COREVISOR_LIMIT}",
                total.counts.lines
            ));
        }
    }
    println!(
        "lines: not blank, comments counted; code: comments not counted; tests in neither.\n\
         unsafe items: unsafe fn, impl, trait, extern and unsafe attributes."
    );
    match broken.split_last() {
        None => {
            println!(
                "audit: corevisor below {COREVISOR_LIMIT} lines, no unsafe code outside {}",
                UNSAFE_FOLDERS.join(", ")
            );
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

#[derive(Default)]
struct Total {
    files: usize,
    counts: Counts,
}

fn member_counts(member: &Path, broken: &mut Vec<String>) -> Result<Total> {
    let mut files = Vec::new();
    rust_files(member, member, &mut files)?;
    let mut sources = Vec::new();
    let mut tests = BTreeSet::new();
    for path in files {
        let text = fs::read_to_string(&path).map_err(|e| Error::file(&path, &e))?;
        let source = rust::Source::new(&text);
        tests.extend(source.test_modules(&path));
        sources.push((path, source));
    }
    let mut total = Total::default();
    for (path, source) in sources.iter().filter(|(path, _)| {
        // A test module's own modules are in the folder of its name.
        !tests.contains(path)
            && !tests
                .iter()
                .any(|test| path.starts_with(test.with_extension("")))
    }) {
        let counts = source.counts();
        if counts.unsafe_blocks + counts.unsafe_items > 0
            && !UNSAFE_FOLDERS.iter().any(|folder| path.starts_with(folder))
        {
            broken.push(format!(
                "{}: unsafe code outside {}",
                path.display(),
                UNSAFE_FOLDERS.join(", ")
            ));
        }
        total.files += 1;
        total.counts.add(&counts);
    }
    Ok(total)
}

/// The Rust files of a member, its integration tests (`tests/` inside it) left out.
fn rust_files(member: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|e| Error::file(folder, &e))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            let inner = path.strip_prefix(member).unwrap_or(&path);
            let own_member = path.join("Cargo.toml").exists();
            if inner != Path::new("tests") && inner != Path::new("target") && !own_member {
                rust_files(member, &path, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
