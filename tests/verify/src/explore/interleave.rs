//! All orders of the steps of two CPUs' calls, by running them again and again.

use super::action::Action;
use super::check;
use super::crew::{Crew, Snapshot, Stop};
use crate::world::CPUS;

/// Who looks at what comes by.
pub trait Visitor {
    /// A state in the middle, as a number; false if what follows from it is known.
    fn state(&mut self, state: u64) -> bool;

    /// A state at rest, after `steps` steps; false ends it all.
    fn end(&mut self, crew: &mut Crew, steps: usize) -> bool;

    /// True to give up.
    fn is_over(&self) -> bool;
}

/// Runs the calls of each CPU, one after the other, from `start`, in every order of their steps.
///
/// # Errors
///
/// What does not hold, and the choices (which CPU steps, where both can) that lead there.
pub fn interleave(
    crew: &mut Crew,
    start: &Snapshot,
    calls: [&[Action]; CPUS],
    visitor: &mut impl Visitor,
) -> Result<(), (String, String)> {
    // Choices made, of which there are two each.
    let mut path: Vec<usize> = Vec::new();
    while !visitor.is_over() {
        crew.load(start);
        if let Err(problem) = follow(crew, calls, &mut path, visitor) {
            let order = path.iter().map(|choice| char::from(b'0' + *choice as u8));
            return Err((problem, order.collect()));
        }
        // On to the next choice not yet made.
        while path.pop_if(|choice| *choice + 1 == CPUS).is_some() {}
        match path.last_mut() {
            Some(choice) => *choice += 1,
            None => break,
        }
    }
    Ok(())
}

/// Follows `path`, and beyond it the first choice of each, until all calls are over or the rest is known.
fn follow(
    crew: &mut Crew,
    calls: [&[Action]; CPUS],
    path: &mut Vec<usize>,
    visitor: &mut impl Visitor,
) -> Result<(), String> {
    let mut made = 0;
    let mut steps = 0;
    let mut started = [0; CPUS];
    loop {
        for (cpu, calls) in calls.into_iter().enumerate() {
            // Starting is no step: the first step may come as late as any other.
            if crew.stops()[cpu] == Stop::Idle && started[cpu] < calls.len() {
                crew.start(cpu, calls[started[cpu]]);
                started[cpu] += 1;
            }
        }
        let stops = crew.stops();
        let cpu = match stops.map(|stop| stop == Stop::Step) {
            [false, false] if stops == [Stop::Idle; CPUS] => break,
            [false, false] => return Err(format!("nobody can go on: {stops:?}")),
            [true, false] => 0,
            [false, true] => 1,
            [true, true] => {
                if made == path.len() {
                    path.push(0);
                }
                made += 1;
                path[made - 1]
            }
        };
        crew.step(cpu);
        steps += 1;
        if made < path.len() {
            continue; // Been here.
        }
        check::at_step(crew)?;
        let state = crew.fingerprint();
        if !visitor.state(state) {
            crew.drain();
            return Ok(());
        }
    }
    check::at_rest(crew)?;
    visitor.end(crew, steps);
    Ok(())
}
