//! What is tried from a state at rest: every call alone, and every two that can meet, step by step.

use super::action::{Action, POOL, Play, alphabet};
use super::check;
use super::crew::{Crew, Footprint, Snapshot, Stop};
use super::interleave::{Visitor, interleave};
use super::search::{SIZE, Search, Story, Task, WAITING_MOST};
use super::visited::States;
use crate::world::CPUS;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A machine and the search it works for.
pub(super) struct Worker<'s> {
    pub(super) search: &'s Search,
    pub(super) crew: Crew,
}

/// What a call does alone.
pub(super) struct Solo {
    action: Action,
    footprint: Footprint,
    changes: bool,
}

impl Worker<'_> {
    /// Makes the calls of a root's history and enters its end as a state to explore.
    pub(super) fn prepare(&mut self, root: &[Action]) {
        let mut story = Arc::new(Story {
            before: None,
            event: "boot".to_owned(),
        });
        let mut state = self.crew.save();
        if root.is_empty() {
            // Boot itself; all roots are prepared on the machine it leaves.
            BOOT.with_borrow_mut(|boot| *boot = Some(state.clone()));
        } else {
            state = BOOT
                .with_borrow(Clone::clone)
                .expect("boot is the first root");
        }
        for &action in root {
            self.crew.load(&state);
            if self.alone(action, &story).is_none() {
                return;
            }
            assert_eq!(
                self.crew.answer(0),
                0,
                "{action} fails on the way to a root"
            );
            state = self.crew.save();
            story = Arc::new(Story {
                before: Some(story),
                event: action.to_string(),
            });
        }
        self.enter(state, 0, root.len(), story);
    }

    fn enter(&self, state: Snapshot, depth: usize, calls: usize, story: Arc<Story>) {
        if self.search.count(state.fingerprint()) {
            self.search.at_rest.fetch_add(1, Ordering::Relaxed);
            let mut pool = self.search.pool.lock().unwrap();
            if depth > self.search.limits.depth || pool.together.len() >= WAITING_MOST {
                self.search.dropped.store(true, Ordering::Relaxed);
                return;
            }
            let task = Task {
                state: Arc::new(state),
                depth,
                calls,
                story,
            };
            pool.alone.push_back(task.clone());
            pool.together.push_back(task);
        }
    }

    /// Runs `action` alone on CPU 0 from the state loaded; its footprint, or nothing after a violation.
    fn alone(&mut self, action: Action, story: &Arc<Story>) -> Option<Footprint> {
        self.crew.start(0, action);
        let mut steps = 0;
        while self.crew.stops()[0] != Stop::Idle {
            self.crew.step(0);
            steps += 1;
            let state = self.crew.fingerprint();
            self.search.count(state);
            let result = match self.crew.stops()[0] {
                Stop::Waiting => Err("a lock is held by nobody".to_owned()),
                Stop::Step => check::at_step(&mut self.crew),
                Stop::Idle => {
                    check::at_step(&mut self.crew).and_then(|()| check::at_rest(&self.crew))
                }
            };
            if let Err(problem) = result {
                self.report(story, &format!("{action} alone, step {steps}"), &problem);
                return None;
            }
        }
        self.search.steps.fetch_add(steps, Ordering::Relaxed);
        Some(self.crew.take_footprint())
    }

    fn report(&self, story: &Arc<Story>, event: &str, problem: &str) {
        let mut lines = vec![event.to_owned()];
        let mut at = Some(story);
        while let Some(story) = at {
            lines.push(story.event.clone());
            at = story.before.as_ref();
        }
        let mut text = format!("{problem}\n");
        for (line, n) in lines.iter().rev().zip(0..) {
            let _ = writeln!(text, "  {n}. {line}");
        }
        self.search.found(text);
    }

    /// Tries every call alone. Nothing if the search is over.
    pub(super) fn expand(&mut self, task: &Task) -> Option<Vec<Solo>> {
        let mut solos = Vec::new();
        for action in alphabet() {
            if self.search.stop.load(Ordering::Relaxed) {
                return None;
            }
            self.crew.load(&task.state);
            let footprint = self.alone(action, &task.story)?;
            let refused = self.crew.answer(0) != 0;
            let state = self.crew.save();
            let changes = state != *task.state;
            if refused
                && changes
                && !matches!(action, Action::Destroy(_))
                && !state.is_as(&task.state, SIZE)
            {
                let code = self.crew.answer(0).cast_signed();
                let problem = format!("a call that is refused ({code}) changes something");
                self.report(&task.story, &format!("{action} alone"), &problem);
                return None;
            }
            solos.push(Solo {
                action,
                footprint,
                changes,
            });
            if changes {
                let story = Arc::new(Story {
                    before: Some(task.story.clone()),
                    event: action.to_string(),
                });
                self.enter(state, task.depth + 1, task.calls + 1, story);
            }
        }
        self.search.depth.fetch_max(task.depth, Ordering::Relaxed);
        self.search.calls.fetch_max(task.calls, Ordering::Relaxed);
        Some(solos)
    }

    /// Tries all calls together that can meet.
    pub(super) fn meet(&mut self, task: &Task, solos: &[Solo]) {
        // The CPUs are alike unless one holds a vCPU's registers.
        let alike = !solos
            .iter()
            .any(|solo| matches!(solo.action, Action::Run(_, Play::Fp)) && solo.changes)
            && !task.state.holds_fp();
        for (n, a) in solos.iter().enumerate() {
            for b in solos.iter().skip(if alike { n } else { 0 }) {
                let meet = a.footprint.objects & b.footprint.objects != 0
                    && (a.changes || b.changes || a.footprint.writes || b.footprint.writes);
                if !meet {
                    self.search.independent.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                if !self.together(task, [&[a.action], &[b.action]]) {
                    return;
                }
            }
        }
        if task.depth == 0 && self.search.limits.triples && !self.triples(task, solos) {
            return;
        }
        self.search.expanded.fetch_add(1, Ordering::Relaxed);
        self.search
            .met_depth
            .fetch_max(task.depth, Ordering::Relaxed);
    }

    /// One CPU makes two calls while the other is in one. False if the search is over.
    fn triples(&mut self, task: &Task, solos: &[Solo]) -> bool {
        let then = [
            Action::Touch(POOL),
            Action::Donate(1, 0, POOL, 1),
            Action::Reclaim(0, POOL, 1),
            Action::Destroy(0),
        ];
        let writers = || {
            solos
                .iter()
                .filter(|solo| solo.changes && solo.footprint.writes)
        };
        for a in writers() {
            for b in writers().filter(|b| b.footprint.objects & a.footprint.objects != 0) {
                for c in then {
                    if !self.together(task, [&[a.action], &[b.action, c]]) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Explores calls of both CPUs step by step. False if the search is over.
    fn together(&mut self, task: &Task, calls: [&[Action]; CPUS]) -> bool {
        let event = || format!("{:?} on CPU 0 with {:?} on CPU 1", calls[0], calls[1]);
        let made = calls[0].len() + calls[1].len();
        self.search.pairs.fetch_add(1, Ordering::Relaxed);
        let search = self.search;
        let mut visitor = Collector {
            search,
            // What follows from a state depends on the calls that are still to come: two calls have none.
            own: (made > CPUS).then(States::default),
            ends: Vec::new(),
        };
        let result = interleave(&mut self.crew, &task.state, calls, &mut visitor);
        let ends = visitor.ends;
        if let Err((problem, order)) = result {
            self.report(
                &task.story,
                &format!("{}, choices {order}", event()),
                &problem,
            );
            return false;
        }
        let story = Arc::new(Story {
            before: Some(task.story.clone()),
            event: event(),
        });
        for end in ends {
            self.enter(end, task.depth + 1, task.calls + made, story.clone());
        }
        !self.search.stop.load(Ordering::Relaxed)
    }
}

struct Collector<'s> {
    search: &'s Search,
    own: Option<States>,
    ends: Vec<Snapshot>,
}

impl Visitor for Collector<'_> {
    fn state(&mut self, state: u64) -> bool {
        self.search.steps.fetch_add(1, Ordering::Relaxed);
        let new = self.search.count(state);
        self.own.as_mut().map_or(new, |own| own.insert(state))
    }

    fn end(&mut self, crew: &mut Crew, steps: usize) -> bool {
        self.search.longest.fetch_max(steps, Ordering::Relaxed);
        self.ends.push(crew.save());
        true
    }

    fn is_over(&self) -> bool {
        self.search.stop.load(Ordering::Relaxed)
    }
}

std::thread_local! {
    static BOOT: std::cell::RefCell<Option<Snapshot>> = const { std::cell::RefCell::new(None) };
}
