//! Shows that the hostile suite can fail: builds the payload with one check removed at a time, boots it
//! with the hostile hostvisor, and requires that the attacks which that check stops turn red. Where it is a guest that
//! attacks, a test of `tests/tests/` turns red, which the same payload with nothing removed passes.
//!
//! usage: hostile-mutants [NAME...]     all mutants of `mutants.toml`, or those named
//!
//! Works on a copy of the payload's crates under `target/`; the tree itself is never touched. Expects
//! `build/hostile.bin`, `build/test-guest.bin` and `build/bin/cloister` (`make hostile-mutants` sees to that). Ends in
//! `MUTANTS done: N caught, M not caught, E errors`.

mod guests;
mod list;
mod machine;
mod scratch;

use list::{GuestTest, Mutant};
use machine::Verdict;
use scratch::Scratch;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What became of a mutant, for the counts at the end.
enum Fate {
    Caught,
    NotCaught,
    Error,
}

fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own).to_owned()
}

/// Each of `tests` passes with nothing removed: that it turns red is the mutant's doing. Answers what is wrong.
fn sound<'a>(
    root: &Path,
    scratch: &Scratch,
    tests: impl Iterator<Item = &'a GuestTest>,
) -> Result<(), String> {
    let tests: BTreeMap<_, _> = tests.map(|t| ((&t.program, &t.name), t)).collect();
    if tests.is_empty() {
        return Ok(());
    }
    let build = scratch.build_for_guests(&[])?;
    for test in tests.into_values() {
        let verdict = guests::run(root, &build, test);
        if verdict != guests::Verdict::Green {
            return Err(format!("{} without a mutant: {verdict}", test.name));
        }
        println!("TEST {}: passes without a mutant", test.name);
    }
    Ok(())
}

fn try_mutant(root: &Path, scratch: &Scratch, mutant: &Mutant) -> Fate {
    let name = &mutant.name;
    if mutant.panics {
        return match scratch.panics(mutant) {
            Ok(Some(found)) => {
                println!("MUTANT {name}: caught by the check for panics ({found})");
                Fate::Caught
            }
            Ok(None) => {
                println!("MUTANT {name}: NOT CAUGHT by the check for panics");
                Fate::NotCaught
            }
            Err(error) => {
                println!("MUTANT {name}: ERROR {error}");
                Fate::Error
            }
        };
    }
    if let Some(test) = &mutant.test {
        return match scratch.build_for_guests(&mutant.edit) {
            Ok(build) => match guests::run(root, &build, test) {
                guests::Verdict::Red => {
                    println!("MUTANT {name}: caught by {} ({})", test.name, test.says);
                    Fate::Caught
                }
                verdict => {
                    println!("MUTANT {name}: NOT CAUGHT by {} ({verdict})", test.name);
                    Fate::NotCaught
                }
            },
            Err(error) => {
                println!("MUTANT {name}: ERROR {error}");
                Fate::Error
            }
        };
    }
    let payload = match scratch.build(mutant) {
        Ok(payload) => payload,
        Err(error) => {
            println!("MUTANT {name}: ERROR {error}");
            return Fate::Error;
        }
    };
    let mut fate = Fate::Caught;
    for attack in &mutant.attacks {
        let verdict = machine::attack(&payload, mutant, attack);
        let caught = match &verdict {
            Verdict::Succeeded(_) => true,
            Verdict::Stopped(_) => mutant.stops,
            _ => false,
        };
        if caught {
            println!("MUTANT {name}: caught by {attack} ({verdict})");
        } else {
            println!("MUTANT {name}: NOT CAUGHT by {attack} ({verdict})");
            fate = Fate::NotCaught;
        }
    }
    fate
}

fn run() -> Result<bool, String> {
    let root = root();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let all = list::read(&root.join("tests/mutants/mutants.toml"))?;
    if let Some(unknown) = wanted
        .iter()
        .find(|name| all.iter().all(|m| m.name != **name))
    {
        return Err(format!("there is no mutant {unknown:?}"));
    }
    let scratch = Scratch::new(&root)?;
    let (mut caught, mut missed, mut errors) = (0, 0, 0);
    let chosen = || {
        all.iter()
            .filter(|m| wanted.is_empty() || wanted.contains(&m.name))
    };
    sound(&root, &scratch, chosen().filter_map(|m| m.test.as_ref()))?;
    for mutant in chosen() {
        match try_mutant(&root, &scratch, mutant) {
            Fate::Caught => caught += 1,
            Fate::NotCaught => missed += 1,
            Fate::Error => errors += 1,
        }
    }
    println!("MUTANTS done: {caught} caught, {missed} not caught, {errors} errors");
    Ok(missed + errors == 0 && caught > 0)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hostile-mutants: {error}");
            ExitCode::FAILURE
        }
    }
}
