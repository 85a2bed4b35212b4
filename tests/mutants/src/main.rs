//! Shows that the hostile suite can fail: builds the payload with one check removed at a time, boots it
//! with the hostile hostvisor, and requires that the attacks which that check stops turn red.
//!
//! usage: hostile-mutants [NAME...]     all mutants of `mutants.toml`, or those named
//!
//! Works on a copy of the trusted crates under `target/`; the tree itself is never touched. Expects
//! `build/hostile.bin` and `build/bin/cloister` (`make hostile-mutants` sees to that). Ends in
//! `MUTANTS done: N caught, M not caught, E errors`.

mod list;
mod machine;
mod scratch;

use list::Mutant;
use machine::Verdict;
use scratch::Scratch;
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

fn try_mutant(scratch: &Scratch, mutant: &Mutant) -> Fate {
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
    for mutant in all
        .iter()
        .filter(|m| wanted.is_empty() || wanted.contains(&m.name))
    {
        match try_mutant(&scratch, mutant) {
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
