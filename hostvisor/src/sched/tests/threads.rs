//! The wake-up protocol under real threads: CPUs are threads, an SGI is an unpark token.

use crate::hw::Mutex;
use crate::sched::{Arrival, Claim, CpuSet, Kick, Phase, Placed, RunState, Scheduler};
use abi::MAX_CPUS;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use std::vec::Vec;

/// A vCPU that counts the interrupts it has been sent and those it has taken.
struct Task {
    state: RunState,
    sent: AtomicU64,
    taken: AtomicU64,
    on_cpu: AtomicBool,
    vtime: AtomicU64,
    affinity: CpuSet,
}

impl Task {
    fn new(affinity: CpuSet) -> Self {
        Self {
            state: RunState::new(),
            sent: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            on_cpu: AtomicBool::new(false),
            vtime: AtomicU64::new(0),
            affinity,
        }
    }
}

struct World {
    tasks: Vec<Task>,
    sched: Scheduler<usize>,
    threads: Mutex<Vec<Thread>>,
    over: AtomicBool,
    runs: AtomicU64,
    start: Instant,
}

impl World {
    fn sgi(&self, cpu: usize) {
        let thread = self.threads.lock().get(cpu).cloned();
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn queue(&self, index: usize, home: usize, arrival: Arrival) {
        let task = &self.tasks[index];
        let claim = Claim {
            vtime: task.vtime.load(Ordering::Relaxed),
            weight: 1 + index as u32 * 50,
            affinity: task.affinity,
            group: index as u64 / 2,
        };
        match self.sched.enqueue(index, claim, home, arrival, self.now()) {
            Placed::Quiet => {}
            Placed::Notify(cpu) => self.sgi(cpu),
            Placed::NotifyBoth(cpu, idle) => {
                self.sgi(cpu);
                self.sgi(idle);
            }
        }
    }

    fn send(&self, task: usize) {
        self.tasks[task].sent.fetch_add(1, Ordering::Relaxed);
        match self.tasks[task].state.kick() {
            Kick::Nothing => {}
            Kick::Interrupt(cpu) => self.sgi(cpu),
            Kick::Enqueue(home) => self.queue(task, home, Arrival::Woken),
        }
    }

    /// One CPU: runs tasks; a task takes what it was sent, then waits in the "guest" for an SGI, gives
    /// way, or blocks.
    fn cpu(&self, me: usize) {
        while !self.over.load(Ordering::Relaxed) {
            let picked = self
                .sched
                .pick(me, self.now())
                .or_else(|| self.sched.enter_idle(me, self.now()));
            let Some(index) = picked else {
                // As on the hardware, without a time-out: a lost wake-up hangs here.
                thread::park();
                self.sched.leave_idle(me);
                continue;
            };
            self.run(me, index);
        }
    }

    fn run(&self, me: usize, index: usize) {
        let task = &self.tasks[index];
        task.state.begin(me);
        assert!(
            !task.on_cpu.swap(true, Ordering::Relaxed),
            "on two CPUs at once"
        );
        assert!(task.affinity.contains(me), "outside its affinity");
        self.runs.fetch_add(1, Ordering::Relaxed);
        for rounds in 1.. {
            task.taken
                .store(task.sent.load(Ordering::Relaxed), Ordering::Relaxed);
            let (waiting, preempted) = self.sched.pressure(me);
            if rounds % 3 == 0 && !task.state.take_kick() {
                // In the guest until an SGI.
                if !self.over.load(Ordering::Relaxed) && !waiting {
                    thread::park();
                }
                task.state.take_kick();
                continue;
            }
            if rounds > 7 || preempted {
                task.on_cpu.store(false, Ordering::Relaxed);
                let vtime = self.sched.retire(me, self.now());
                task.vtime.store(vtime, Ordering::Relaxed);
                task.state.give_way(me);
                let arrival = if rounds & 1 == 0 {
                    Arrival::Displaced
                } else {
                    Arrival::Yielded
                };
                self.queue(index, me, arrival);
                return;
            }
            task.state.take_kick();
            task.taken
                .store(task.sent.load(Ordering::Relaxed), Ordering::Relaxed);
            task.on_cpu.store(false, Ordering::Relaxed);
            let vtime = self.sched.charge(me, self.now());
            task.vtime.store(vtime, Ordering::Relaxed);
            if task.state.try_block(me) {
                return;
            }
            task.on_cpu.store(true, Ordering::Relaxed);
        }
    }

    fn await_taken(&self, index: usize, until: Instant, what: &str) {
        let task = &self.tasks[index];
        while task.taken.load(Ordering::Relaxed) < task.sent.load(Ordering::Relaxed) {
            assert!(Instant::now() < until, "task {index}: lost: {what}");
            thread::yield_now();
        }
    }
}

/// Every interrupt sent is taken, however sending, blocking, moving, preempting and sleeping interleave, and
/// no task runs where it must not.
#[test]
fn no_wake_up_is_lost() {
    for (cpus, tasks, pinned) in [
        (1, 1, false),
        (2, 3, false),
        (4, 2, false),
        (3, 8, false),
        (2, 3, true),
        (4, 7, true),
    ] {
        let affinity = |index: usize| match index % 3 {
            0 if pinned => CpuSet::one(index % cpus),
            1 if pinned => CpuSet::from_bits(0b11),
            _ => CpuSet::ALL,
        };
        let world = Arc::new(World {
            tasks: (0..tasks).map(|i| Task::new(affinity(i))).collect(),
            sched: Scheduler::new(),
            threads: Mutex::new(Vec::new()),
            over: AtomicBool::new(false),
            runs: AtomicU64::new(0),
            start: Instant::now(),
        });
        (0..cpus).for_each(|cpu| world.sched.add_cpu(cpu));
        let threads: Vec<_> = (0..cpus)
            .map(|me| {
                let world = world.clone();
                thread::spawn(move || world.cpu(me))
            })
            .collect();
        *world.threads.lock() = threads.iter().map(|t| t.thread().clone()).collect();
        for index in 0..tasks {
            assert!(world.tasks[index].state.power_on(index % cpus));
            world.queue(index, index % cpus, Arrival::Woken);
        }
        let soon = || Instant::now() + Duration::from_secs(20);
        for round in 0..2000usize {
            let index = round * 7 % tasks;
            world.send(index);
            if round % 3 == 0 {
                // Wait until it is taken: the case in which everybody else sleeps.
                let what = std::format!("{cpus} CPUs, {tasks} tasks, round {round}");
                world.await_taken(index, soon(), &what);
            }
        }
        (0..tasks).for_each(|index| world.await_taken(index, soon(), "at the end"));
        world.over.store(true, Ordering::Relaxed);
        for t in threads {
            while !t.is_finished() {
                t.thread().unpark();
                thread::yield_now();
            }
            t.join().unwrap();
        }
        assert!(world.runs.load(Ordering::Relaxed) > 0);
    }
}

#[test]
fn a_kick_keeps_it_from_blocking() {
    let state = RunState::new();
    assert!(state.power_on(1));
    assert!(!state.power_on(1));
    state.begin(1);
    assert_eq!(state.kick(), Kick::Interrupt(1));
    assert_eq!(state.kick(), Kick::Nothing);
    assert!(!state.try_block(1));
    assert!(state.take_kick());
    assert!(!state.take_kick());
    assert!(state.try_block(1));
    assert_eq!(state.get(), (Phase::Blocked, 1));
    assert_eq!(state.kick(), Kick::Enqueue(1));
    assert_eq!(state.kick(), Kick::Nothing);
    state.begin(0);
    assert!(!state.take_kick());
    state.power_off(0);
    assert_eq!(state.kick(), Kick::Nothing);
    assert_eq!(state.get().0, Phase::Off);
}

fn sched(cpus: usize) -> Scheduler<u32> {
    let sched = Scheduler::new();
    (0..cpus).for_each(|cpu| sched.add_cpu(cpu));
    sched
}

fn claim(affinity: CpuSet) -> Claim {
    Claim {
        vtime: 0,
        weight: 100,
        affinity,
        group: 0,
    }
}

fn wake(sched: &Scheduler<u32>, task: u32, affinity: CpuSet, home: usize) -> Placed {
    sched.enqueue(task, claim(affinity), home, Arrival::Woken, 0)
}

#[test]
fn idle_cpus_get_the_work() {
    let sched = sched(4);
    assert_eq!(wake(&sched, 1, CpuSet::ALL, 0), Placed::Notify(0));
    // There is work: no CPU sleeps that may do it.
    assert_eq!(sched.enter_idle(3, 0), Some(1));
    assert_eq!(sched.enter_idle(2, 0), None);
    assert_eq!(wake(&sched, 2, CpuSet::ALL, 0), Placed::Notify(2));
    assert!(sched.waiting(2) && !sched.waiting(0));
    // The idle CPU is claimed: the next one does not go there.
    assert_eq!(wake(&sched, 3, CpuSet::ALL, 0), Placed::Notify(0));
    // It need not have been notified: it looks elsewhere, too.
    assert_eq!(sched.pick(2, 0), Some(2));
    assert_eq!(sched.pick(1, 0), Some(3));
    assert_eq!(sched.pick(1, 0), None);
}

#[test]
fn a_cpu_sleeps_though_others_have_work_that_it_may_not_do() {
    let sched = sched(2);
    assert_eq!(wake(&sched, 1, CpuSet::one(0), 1), Placed::Notify(0));
    assert_eq!(sched.pick(1, 0), None);
    assert_eq!(sched.enter_idle(1, 0), None);
    // Nor is it woken for such.
    assert_eq!(wake(&sched, 2, CpuSet::one(0), 0), Placed::Quiet);
    assert_eq!(wake(&sched, 3, CpuSet::ALL, 0), Placed::Notify(1));
    assert_eq!((sched.length(0), sched.length(1)), (2, 1));
}

/// Whoever queues a task finds the CPU that fell asleep after it had looked for one, and before the task was
/// there to be seen.
#[test]
fn a_cpu_that_falls_asleep_while_a_task_is_queued_is_woken() {
    let sched = sched(2);
    let placed = thread::scope(|scope| {
        // Long enough to find nobody idle, and to come to the lock; if not, CPU 1 is chosen at once.
        let placing = sched.with_locked(0, || {
            let placing = scope.spawn(|| wake(&sched, 9, CpuSet::ALL, 0));
            thread::sleep(Duration::from_millis(50));
            assert_eq!(sched.enter_idle(1, 0), None);
            placing
        });
        placing.join().unwrap()
    });
    assert_eq!(placed, Placed::NotifyBoth(0, 1));
    assert_eq!(sched.pick(1, 0), Some(9));
}

#[test]
fn there_are_as_many_cpus_as_bits() {
    assert_eq!(CpuSet::ALL.iter().count(), MAX_CPUS);
}
