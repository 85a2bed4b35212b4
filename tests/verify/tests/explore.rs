//! The exploration finds nothing in a small part of what `make explore` covers, and finds every bug put
//! into the simulated hardware.

use std::collections::BTreeSet;
use std::time::Duration;
use verify::explore::action::{Action, POOL, Play};
use verify::explore::crew::{Crew, Snapshot, Stop};
use verify::explore::interleave::{Visitor, interleave};
use verify::explore::search::SIZE;
use verify::explore::{Limits, run};
use verify::machine::Fault;

fn limits(states: u64, fault: Fault) -> Limits {
    Limits {
        states,
        time: Duration::from_secs(60),
        threads: 2,
        depth: 100,
        triples: false,
        fault,
        verbose: false,
    }
}

#[test]
fn a_small_exploration_finds_nothing() {
    let report = run(limits(100_000, Fault::None));
    assert_eq!(report.violation, None);
    assert!(report.states >= 100_000 && report.pairs > 100, "{report:?}");
}

#[test]
fn every_bug_of_the_hardware_is_found() {
    for (fault, words) in [
        (Fault::SkipZero, "not zeroed"),
        (Fault::ZeroShort, "not zeroed"),
        (Fault::DropIpa, "reach"),
        (Fault::DropVmid, "reach"),
        (Fault::LateInvalidation, "reach"),
    ] {
        let found = run(limits(2_000_000, fault)).violation;
        assert!(
            found.as_ref().is_some_and(|text| text.contains(words)),
            "{fault:?}: {found:?}"
        );
    }
}

/// Nothing is wrong with any call alone: only another CPU's step in the middle brings it about.
#[test]
fn a_race_is_found() {
    let mut crew = Crew::new(SIZE, Fault::BusyUnseen);
    let start = after(&mut crew, &[Action::Create(true)]);
    let calls = [Action::Donate(0, 0, POOL, 1), Action::Touch(POOL)];
    for call in calls {
        crew.load(&start);
        alone(&mut crew, call);
    }
    let mut all = All::default();
    let found = interleave(&mut crew, &start, [&calls[..1], &calls[1..]], &mut all);
    assert!(found.is_err_and(|(problem, _)| problem.contains("reach")));
    std::mem::forget(crew);
}

/// The pruning of known states loses no outcome: calls under way are told apart by all that matters.
#[test]
fn pruning_loses_nothing() {
    let mut crew = Crew::new(SIZE, Fault::None);
    let (d, vm) = (POOL, 0);
    let start = after(
        &mut crew,
        &[
            Action::Create(true),
            Action::Donate(vm, 0, d, 1),
            Action::SetBoot(vm),
            Action::VcpuCreate(vm, d + 3),
            Action::Start(vm),
            Action::Run(vm, Play::Share(0)),
        ],
    );
    for calls in [
        [Action::Donate(vm, 1, d + 1, 1), Action::Touch(d + 1)],
        [Action::Run(vm, Play::Unshare(0)), Action::Touch(d)],
        [Action::Destroy(vm), Action::Run(vm, Play::Nothing)],
        [Action::Destroy(vm), Action::Touch(d)],
        [Action::Create(true), Action::Create(false)],
        [Action::Run(vm, Play::Off), Action::Destroy(vm)],
    ] {
        let [a, b] = [&calls[..1], &calls[1..]];
        let mut all = All::default();
        assert_eq!(interleave(&mut crew, &start, [a, b], &mut all), Ok(()));
        let mut pruned = Pruned::default();
        assert_eq!(interleave(&mut crew, &start, [a, b], &mut pruned), Ok(()));
        assert_eq!(all.ends, pruned.ends, "{calls:?}");
        assert_eq!(all.states, pruned.states, "{calls:?}");
        assert!(all.runs > pruned.runs, "{calls:?}: nothing was pruned");
    }
    std::mem::forget(crew);
}

fn alone(crew: &mut Crew, call: Action) {
    crew.start(0, call);
    while crew.stops()[0] != Stop::Idle {
        crew.step(0);
        assert_eq!(verify::explore::check::at_step(crew), Ok(()));
    }
    assert_eq!(crew.answer(0), 0, "{call}");
}

fn after(crew: &mut Crew, calls: &[Action]) -> Snapshot {
    for call in calls {
        alone(crew, *call);
        let state = crew.save();
        crew.load(&state);
    }
    crew.save()
}

/// Goes every way.
#[derive(Default)]
struct All {
    states: BTreeSet<u64>,
    ends: BTreeSet<u64>,
    runs: usize,
}

impl Visitor for All {
    fn state(&mut self, state: u64) -> bool {
        self.states.insert(state);
        true
    }

    fn end(&mut self, crew: &mut Crew, _steps: usize) -> bool {
        self.runs += 1;
        self.ends.insert(crew.save().fingerprint());
        true
    }

    fn is_over(&self) -> bool {
        false
    }
}

/// Goes on from new states only.
#[derive(Default)]
struct Pruned {
    states: BTreeSet<u64>,
    ends: BTreeSet<u64>,
    runs: usize,
}

impl Visitor for Pruned {
    fn state(&mut self, state: u64) -> bool {
        self.states.insert(state)
    }

    fn end(&mut self, crew: &mut Crew, _steps: usize) -> bool {
        self.runs += 1;
        self.ends.insert(crew.save().fingerprint());
        true
    }

    fn is_over(&self) -> bool {
        false
    }
}
