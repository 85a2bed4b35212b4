//! A machine over a simulated clock: CPUs that do as `vm::run` does, tasks that spin or sleep, and what a
//! scheduler promises them.

use crate::sched::fair::MAX_WEIGHT;
use crate::sched::{Arrival, Claim, CpuSet, Placed, Scheduler};
use proptest::prelude::*;
use std::vec::Vec;

/// Ticks in a millisecond.
const MS: u64 = 62_500;
/// The simulation goes on by so many at once.
const STEP: u64 = MS / 20;
/// Longest slice.
const SLICE: u64 = 10 * MS;

/// What a task does with the CPU.
#[derive(Clone, Copy, Debug)]
enum Habit {
    Spin,
    /// Runs for so many ticks, then sleeps for so many.
    Sleep(u64, u64),
}

/// The queues of a machine with so many CPUs.
fn sched<T>(cpus: usize) -> Scheduler<T> {
    let sched = Scheduler::new();
    sched.set_millisecond(MS);
    (0..cpus).for_each(|cpu| sched.add_cpu(cpu));
    sched
}

/// Of ordinary weight.
fn claim(vtime: u64, affinity: CpuSet, group: u64) -> Claim {
    Claim {
        vtime,
        weight: 100,
        affinity,
        group,
    }
}

struct Task {
    group: u64,
    weight: u32,
    affinity: CpuSet,
    habit: Habit,
    /// Ticks until it sleeps.
    left: u64,
    /// When it wakes, if it sleeps.
    wakes: Option<u64>,
    vtime: u64,
    last: usize,
    ran: u64,
    waits_since: Option<u64>,
    longest_wait: u64,
}

#[derive(Clone, Copy, Default)]
struct Cpu {
    task: Option<usize>,
    slice_end: Option<u64>,
    asleep: bool,
    /// An SGI is pending.
    notified: bool,
}

struct Machine {
    sched: Scheduler<usize>,
    cpus: Vec<Cpu>,
    tasks: Vec<Task>,
    now: u64,
    switches: u64,
}

impl Machine {
    fn new(cpus: usize, tasks: &[(u32, CpuSet, Habit)]) -> Self {
        Self::grouped(cpus, tasks, |index| index)
    }

    /// Tasks of the same `group` had best run at one time.
    fn grouped(
        cpus: usize,
        tasks: &[(u32, CpuSet, Habit)],
        group: impl Fn(usize) -> usize,
    ) -> Self {
        let task = |(index, &(weight, affinity, habit))| Task {
            group: group(index) as u64,
            weight,
            affinity,
            habit,
            left: match habit {
                Habit::Spin => u64::MAX,
                Habit::Sleep(run, _) => run,
            },
            wakes: None,
            vtime: 0,
            last: 0,
            ran: 0,
            waits_since: None,
            longest_wait: 0,
        };
        let mut machine = Self {
            sched: sched(cpus),
            cpus: std::vec![Cpu::default(); cpus],
            tasks: tasks.iter().enumerate().map(task).collect(),
            // Later than the first turn may be taken.
            now: 1000 * MS,
            switches: 0,
        };
        for index in 0..machine.tasks.len() {
            machine.tasks[index].last = index % cpus;
            machine.queue(index, Arrival::Woken);
        }
        machine
    }

    fn queue(&mut self, index: usize, arrival: Arrival) {
        let task = &mut self.tasks[index];
        task.waits_since = Some(self.now);
        let claim = Claim {
            vtime: task.vtime,
            weight: task.weight,
            affinity: task.affinity,
            group: task.group,
        };
        let notified = match self
            .sched
            .enqueue(index, claim, task.last, arrival, self.now)
        {
            Placed::Quiet => [None, None],
            Placed::Notify(cpu) => [Some(cpu), None],
            Placed::NotifyBoth(cpu, idle) => [Some(cpu), Some(idle)],
        };
        for cpu in notified.into_iter().flatten() {
            self.cpus[cpu].notified = true;
        }
    }

    /// A step of the clock.
    fn tick(&mut self) {
        self.now += STEP;
        for index in 0..self.tasks.len() {
            if self.tasks[index].wakes.is_some_and(|at| at <= self.now) {
                self.tasks[index].wakes = None;
                self.queue(index, Arrival::Woken);
            }
        }
        for cpu in 0..self.cpus.len() {
            self.advance(cpu);
            self.dispatch(cpu);
        }
        for task in &mut self.tasks {
            if let Some(since) = task.waits_since {
                task.longest_wait = task.longest_wait.max(self.now - since);
            }
        }
    }

    /// The CPU's task has run for a step.
    fn advance(&mut self, cpu: usize) {
        let Some(index) = self.cpus[cpu].task else {
            return;
        };
        let task = &mut self.tasks[index];
        assert!(task.affinity.contains(cpu), "outside its affinity");
        task.ran += STEP;
        task.left = task.left.saturating_sub(STEP);
        if task.left == 0 {
            let Habit::Sleep(run, sleep) = task.habit else {
                unreachable!()
            };
            (task.left, task.wakes) = (run, Some(self.now + sleep));
            task.vtime = self.sched.charge(cpu, self.now);
            self.cpus[cpu].task = None;
            return;
        }
        let slice_over = self.cpus[cpu].slice_end.is_some_and(|at| at <= self.now);
        if !core::mem::take(&mut self.cpus[cpu].notified) && !slice_over {
            return;
        }
        let (waiting, preempted) = self.sched.pressure(cpu);
        if slice_over {
            self.cpus[cpu].slice_end = None;
        }
        let over = slice_over && waiting && !self.sched.stays_first(cpu, self.now);
        if preempted || over {
            self.tasks[index].vtime = self.sched.retire(cpu, self.now);
            self.cpus[cpu].task = None;
            self.queue(index, Arrival::Displaced);
        } else if waiting && self.cpus[cpu].slice_end.is_none() {
            self.start_slice(cpu);
        }
    }

    fn start_slice(&mut self, cpu: usize) {
        let ticks = self.sched.slice(cpu, self.now);
        self.cpus[cpu].slice_end = ticks.map(|ticks| self.now + ticks);
    }

    /// A CPU without a task looks for one, unless it sleeps and nobody woke it.
    fn dispatch(&mut self, cpu: usize) {
        if self.cpus[cpu].task.is_some() {
            return;
        }
        if self.cpus[cpu].asleep {
            if !core::mem::take(&mut self.cpus[cpu].notified) {
                return;
            }
            self.cpus[cpu].asleep = false;
            self.sched.leave_idle(cpu);
        }
        let picked = self
            .sched
            .pick(cpu, self.now)
            .or_else(|| self.sched.enter_idle(cpu, self.now));
        let Some(index) = picked else {
            self.cpus[cpu].asleep = true;
            return;
        };
        self.switches += 1;
        let task = &mut self.tasks[index];
        assert!(
            task.waits_since.take().is_some(),
            "runs without being queued"
        );
        task.last = cpu;
        self.cpus[cpu].task = Some(index);
        self.start_slice(cpu);
    }

    fn run(&mut self, ticks: u64) {
        (0..ticks / STEP).for_each(|_| self.tick());
    }

    /// A CPU that sleeps, or has been asleep until this tick, though a task waits that it may run.
    fn wasted(&self) -> Option<(usize, usize)> {
        let waiting = |cpu: usize| {
            self.tasks.iter().position(|task| {
                task.affinity.contains(cpu) && task.waits_since.is_some_and(|at| at < self.now)
            })
        };
        (0..self.cpus.len())
            .filter(|&cpu| self.cpus[cpu].asleep && !self.cpus[cpu].notified)
            .find_map(|cpu| Some((cpu, waiting(cpu)?)))
    }
}

fn spinners(weights: &[u32]) -> Vec<(u32, CpuSet, Habit)> {
    let spinner = |&weight| (weight, CpuSet::ALL, Habit::Spin);
    weights.iter().map(spinner).collect()
}

/// `groups` of `size` tasks on `size` CPUs: of the time that any of a group runs, the share in which all of them do, in
/// per cent. Task `index` is of group `group(index)` and does as `habit(index)`.
fn together(
    size: usize,
    groups: usize,
    group: impl Fn(usize) -> usize,
    habit: impl Fn(usize) -> Habit,
) -> u64 {
    let task = |index| (100, CpuSet::ALL, habit(index));
    let tasks: Vec<_> = (0..size * groups).map(task).collect();
    together_of(&tasks, size, group)
}

/// As [`together`], of these tasks.
fn together_of(tasks: &[(u32, CpuSet, Habit)], size: usize, group: impl Fn(usize) -> usize) -> u64 {
    let groups = tasks.len() / size;
    let mut machine = Machine::grouped(size, tasks, group);
    machine.run(1000 * MS);
    let (mut some, mut all) = (0, 0);
    for _ in 0..4000 * MS / STEP {
        machine.tick();
        for group in 0..groups as u64 {
            let runs = |cpu: &&Cpu| cpu.task.is_some_and(|t| machine.tasks[t].group == group);
            let running = machine.cpus.iter().filter(runs).count();
            some += u64::from(running != 0);
            all += u64::from(running == size);
        }
    }
    all * 100 / some
}

fn any_task(cpus: usize) -> impl Strategy<Value = (u32, CpuSet, Habit)> {
    let habit = prop_oneof![
        Just(Habit::Spin),
        (1..40 * MS, 1..40 * MS).prop_map(|(run, sleep)| Habit::Sleep(run, sleep)),
    ];
    (1..=MAX_WEIGHT, 1..1u64 << cpus, habit)
        .prop_map(|(weight, mask, habit)| (weight, CpuSet::from_bits(mask), habit))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Tasks that are always ready have had the CPU in proportion to their weights, but for the one slice
    /// by which each may be ahead.
    #[test]
    fn shares_are_proportional(weights in proptest::collection::vec(1..=MAX_WEIGHT, 2..8)) {
        let mut machine = Machine::new(1, &spinners(&weights));
        machine.run(4000 * MS);
        let ran: u64 = machine.tasks.iter().map(|t| t.ran).sum();
        prop_assert!(ran + STEP >= 4000 * MS, "the CPU was idle");
        let had = |task: &Task| task.ran * 100 / u64::from(task.weight);
        let ahead = |task: &Task| (SLICE + 2 * STEP) * 100 / u64::from(task.weight) + MS / 10;
        for a in &machine.tasks {
            for b in &machine.tasks {
                prop_assert!(
                    had(a) <= had(b) + ahead(a),
                    "weights {} and {}: ran {} and {}", a.weight, b.weight, a.ran, b.ran
                );
            }
        }
    }

    /// A task that is ready gets a CPU within what its weight entitles it to, whatever others do and belong to; no CPU
    /// sleeps while a task waits for it; and affinity is kept (which `advance` sees to).
    #[test]
    fn nobody_starves_and_no_cpu_is_wasted(
        (cpus, tasks) in (1usize..5).prop_flat_map(|cpus| {
            (Just(cpus), proptest::collection::vec(any_task(cpus), 1..12))
        }),
        size in 1usize..5,
    ) {
        let mut machine = Machine::grouped(cpus, &tasks, |index| index / size);
        for _ in 0..2000 * MS / STEP {
            machine.tick();
            prop_assert_eq!(machine.wasted(), None);
        }
        let all: u64 = tasks.iter().map(|t| u64::from(t.0)).sum();
        for task in &machine.tasks {
            // Its own slice, and what it had before for its group's sake, paid back by all others; two slices of each,
            // and one for its group's sake; and what sleepers have saved up.
            let weight = u64::from(task.weight);
            let others = tasks.len() as u64;
            let bound = 2 * SLICE * all / weight + others * 3 * SLICE + 5 * MS * all / 100 + MS;
            prop_assert!(
                task.longest_wait <= bound,
                "weight {weight} of {all} waited {} ms", task.longest_wait / MS
            );
        }
    }

    /// A task that uses less than its share is on the CPU within a slice of its waking.
    #[test]
    fn sleepers_are_served_soon(spinning in 1usize..6, run in 1..MS, sleep in 20 * MS..60 * MS) {
        let mut tasks = spinners(&std::vec![100; spinning]);
        tasks.push((100, CpuSet::ALL, Habit::Sleep(run, sleep)));
        let mut machine = Machine::new(1, &tasks);
        machine.run(200 * MS);
        machine.tasks[spinning].longest_wait = 0;
        machine.run(2000 * MS);
        prop_assert!(
            machine.tasks[spinning].longest_wait <= STEP,
            "waited {} ticks", machine.tasks[spinning].longest_wait
        );
    }
}

/// Tasks of equal weight take turns on the CPU that has one too many.
#[test]
fn three_on_two_cpus_share_alike() {
    for (cpus, tasks) in [(2, 3), (2, 5), (2, 11), (3, 5), (4, 6), (4, 64)] {
        let mut machine = Machine::new(cpus, &spinners(&std::vec![100; tasks]));
        machine.run(6000 * MS);
        let fair = 6000 * MS * cpus as u64 / tasks as u64;
        for task in &machine.tasks {
            let ran = task.ran;
            assert!(
                ran.abs_diff(fair) * 8 <= fair,
                "{tasks} on {cpus}: {ran} ticks of {fair}"
            );
        }
    }
}

/// A heavy and two light ones on two CPUs: the heavy one, which cannot use more than one, has that to itself.
#[test]
fn a_weight_beyond_a_cpu_gets_a_whole_one() {
    let mut machine = Machine::new(2, &spinners(&[100, 1000, 100]));
    machine.run(4000 * MS);
    let ran: Vec<u64> = machine.tasks.iter().map(|t| t.ran / MS).collect();
    assert!(ran[1] > 3900 && ran[0].abs_diff(ran[2]) < 50, "{ran:?}");
}

/// Who had the CPU to itself for long owes nothing to one that comes later.
#[test]
fn time_that_nobody_wanted_is_not_held_against_anybody() {
    let late = Habit::Sleep(STEP, 3000 * MS);
    let mut tasks = spinners(&[100]);
    tasks.push((100, CpuSet::ALL, late));
    let mut machine = Machine::new(1, &tasks);
    machine.run(2990 * MS);
    // From now on it spins.
    machine.tasks[1].left = u64::MAX;
    machine.tasks[1].wakes = Some(machine.now);
    let before = machine.tasks[0].ran;
    machine.run(200 * MS);
    let ran = machine.tasks[0].ran - before;
    assert!(ran.abs_diff(100 * MS) <= SLICE + 5 * MS, "{ran} of 200 ms");
}

/// Sleeping saves up a bounded claim: one that sleeps and runs by turns gets no more than its share.
#[test]
fn sleeping_is_no_way_to_more_than_a_share() {
    for (run, sleep) in [(1, 1), (5, 1), (15, 1), (50, 5), (3, 2)] {
        let mut tasks = spinners(&[100]);
        tasks.push((100, CpuSet::ALL, Habit::Sleep(run * MS, sleep * MS)));
        let mut machine = Machine::new(1, &tasks);
        machine.run(6000 * MS);
        let share = machine.tasks[1].ran * 100 / (6000 * MS);
        assert!(share <= 53, "{run} of {} ms: {share} %", run + sleep);
    }
}

/// Siblings have CPUs at one time, whether they wait for different ones in the beginning or not.
#[test]
fn groups_as_wide_as_the_machine_take_turns() {
    for (size, groups) in [(2, 2), (2, 3), (2, 8), (2, 32), (4, 2), (4, 8), (8, 4)] {
        let spin = |_| Habit::Spin;
        for share in [
            together(size, groups, |index| index / size, spin),
            together(size, groups, |index| index % groups, spin),
        ] {
            assert!(share >= 98, "{groups} of {size}: {share} %");
        }
    }
}

/// So they do, for the most part, when one of two sleeps now and then, each at times of its own.
#[test]
fn pairs_that_sleep_now_and_then_find_together_again() {
    for groups in [2, 3, 8, 32] {
        let habit = |index| match index % 2 {
            0 => Habit::Spin,
            _ => Habit::Sleep((50 + index as u64) * MS, MS),
        };
        let share = together(2, groups, |index| index / 2, habit);
        assert!(share >= 75, "{groups} of 2: {share} %");
    }
}

/// Nor do weights keep them from it, that are the same for all or not.
#[test]
fn pairs_of_any_weight_take_turns() {
    for weights in [[10, 10], [1000, 1000], [10, 30], [1000, 300]] {
        let tasks = |index: usize| (weights[index / 2], CpuSet::ALL, Habit::Spin);
        let share = together_of(&std::array::from_fn::<_, 4, _>(tasks), 2, |index| index / 2);
        assert!(share >= 90, "{weights:?}: {share} %");
    }
}

/// Siblings that wait for one CPU are not parted at the cost of those pinned to the other, who cannot come in turn.
#[test]
fn siblings_stay_where_those_on_the_other_cpu_are_pinned() {
    let pinned = (100, CpuSet::one(1), Habit::Spin);
    let free = (100, CpuSet::ALL, Habit::Spin);
    let mut machine = Machine::grouped(2, &[free, pinned, free, pinned], |index| index % 2);
    machine.run(4000 * MS);
    let ran: Vec<u64> = machine.tasks.iter().map(|t| t.ran / MS).collect();
    assert!(ran.iter().all(|&ms| ms >= 1980), "{ran:?}");
}

/// Two CPUs, of which the second has just begun to run a task of group 1, and one of group 1 on the first, where one
/// of group 2 waits that is 6 ms behind it.
fn one_that_is_preempted() -> Scheduler<&'static str> {
    let sched = sched(2);
    let queue = |task, group, vtime, cpu| {
        let claim = claim(vtime, CpuSet::one(cpu), group);
        let _ = sched.enqueue(task, claim, cpu, Arrival::Woken, 0);
    };
    queue("its sibling", 1, 6 * MS, 1);
    queue("has the CPU", 1, 6 * MS, 0);
    assert_eq!(sched.pick(0, 0), Some("has the CPU"));
    assert_eq!(sched.pick(1, 0), Some("its sibling"));
    queue("is behind", 2, 0, 0);
    assert!(sched.pressure(0).1);
    sched
}

/// Whoever gives way to one that preempts it is not chosen again for its group's sake.
#[test]
fn who_preempts_gets_the_cpu_whoever_else_is_of_the_group() {
    let sched = one_that_is_preempted();
    assert!(!sched.stays_first(0, MS / 10));
    let retired = |group, now| claim(sched.retire(0, now), CpuSet::one(0), group);
    let first = retired(1, MS / 10);
    let _ = sched.enqueue("has the CPU", first, 0, Arrival::Displaced, MS / 10);
    assert_eq!(sched.pick(0, MS / 10), Some("is behind"));
    // Without pressure it would be.
    let second = retired(2, MS / 5);
    let _ = sched.enqueue("is behind", second, 0, Arrival::Displaced, MS / 5);
    assert_eq!(sched.pick(0, MS / 5), Some("has the CPU"));
}

/// Whoever yields is behind the next one, though its sibling has a CPU.
#[test]
fn who_yields_lets_another_go_first_whoever_else_is_of_the_group() {
    let sched = one_that_is_preempted();
    let now = MS / 10;
    let mut running = ["is behind", "has the CPU"];
    for group in [1, 2, 1, 2] {
        let claim = claim(sched.retire(0, now), CpuSet::one(0), group);
        running.swap(0, 1);
        let _ = sched.enqueue(running[0], claim, 0, Arrival::Yielded, now);
        assert_eq!(sched.pick(0, now), Some(running[1]));
    }
}

/// Slices of all CPUs end at multiples of 4 or 8 ms, and are neither short nor long.
#[test]
fn slices_end_together() {
    for (waiting, length) in [(1, 8 * MS), (3, 8 * MS), (4, 4 * MS), (40, 4 * MS)] {
        let sched = sched(1);
        assert_eq!(sched.slice(0, 0), None);
        for task in 0..waiting {
            let _ = sched.enqueue(task, claim(0, CpuSet::ALL, 0), 0, Arrival::Woken, 0);
        }
        for now in (0..20 * MS).step_by(997) {
            let ticks = sched.slice(0, now).unwrap();
            assert_eq!((now + ticks) % length, 0);
            assert!((length / 4..=length / 4 * 5).contains(&ticks), "{ticks}");
        }
    }
}

/// A task alone on its CPU is left alone: no slices, no moves.
#[test]
fn as_many_as_cpus_never_move() {
    let mut machine = Machine::new(4, &spinners(&[100, 300, 1, 1000]));
    machine.run(1000 * MS);
    assert_eq!(machine.switches, 4);
}

/// A task that any CPU may run is queued for one that sleeps; before that has woken, a pinned one that is
/// further behind comes. The first is for the other CPU, which sleeps too.
#[test]
fn who_gives_way_to_a_pinned_one_gets_another_cpu() {
    let sched = sched(2);
    for cpu in 0..2 {
        assert_eq!(sched.enter_idle(cpu, 0), None);
    }
    let anywhere = claim(MS, CpuSet::ALL, 0);
    let placed = sched.enqueue("anywhere", anywhere, 0, Arrival::Woken, 0);
    assert_eq!(placed, Placed::Notify(0));
    let pinned = claim(0, CpuSet::one(0), 0);
    // CPU 0 has its notice.
    let placed = sched.enqueue("pinned", pinned, 0, Arrival::Woken, 0);
    assert_eq!(placed, Placed::Notify(1));
    sched.leave_idle(0);
    assert_eq!(sched.pick(0, 0), Some("pinned"));
    assert_eq!(sched.pick(1, 0), Some("anywhere"));
}
