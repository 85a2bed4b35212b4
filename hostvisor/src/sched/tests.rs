//! The wake-up protocol under real threads: CPUs are threads, an SGI is an unpark token.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use std::vec::Vec;

/// A vCPU that counts the interrupts it has been sent and those it has taken.
struct Task {
    state: RunState,
    sent: AtomicU64,
    taken: AtomicU64,
    on_cpu: AtomicBool,
}

struct World {
    tasks: Vec<Task>,
    sched: Scheduler<usize>,
    threads: Mutex<Vec<Thread>>,
    over: AtomicBool,
    runs: AtomicU64,
}

impl World {
    fn sgi(&self, cpu: usize) {
        let thread = self.threads.lock().get(cpu).cloned();
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    fn queue(&self, task: usize, home: usize) {
        match self.sched.enqueue(task, home) {
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
            Kick::Enqueue(home) => self.queue(task, home),
        }
    }

    /// One CPU: runs tasks; a task takes what it was sent, then waits in the "guest" for an SGI, gives
    /// way, or blocks.
    fn cpu(&self, me: usize) {
        while !self.over.load(Ordering::Relaxed) {
            let Some(index) = self.sched.pick(me) else {
                if self.sched.enter_idle(me) {
                    // As on the hardware, without a time-out: a lost wake-up hangs here.
                    thread::park();
                    self.sched.leave_idle(me);
                }
                continue;
            };
            let task = &self.tasks[index];
            task.state.begin(me);
            assert!(
                !task.on_cpu.swap(true, Ordering::Relaxed),
                "on two CPUs at once"
            );
            self.runs.fetch_add(1, Ordering::Relaxed);
            let mut rounds = 0;
            loop {
                task.taken
                    .store(task.sent.load(Ordering::Relaxed), Ordering::Relaxed);
                rounds += 1;
                if rounds % 3 == 0 && !task.state.take_kick() {
                    // In the guest until an SGI.
                    if !self.over.load(Ordering::Relaxed) && !self.sched.waiting(me) {
                        thread::park();
                    }
                    task.state.take_kick();
                    continue;
                }
                if rounds > 7 {
                    task.on_cpu.store(false, Ordering::Relaxed);
                    task.state.give_way(me);
                    self.queue(index, me);
                    break;
                }
                task.state.take_kick();
                task.taken
                    .store(task.sent.load(Ordering::Relaxed), Ordering::Relaxed);
                task.on_cpu.store(false, Ordering::Relaxed);
                if task.state.try_block(me) {
                    break;
                }
                task.on_cpu.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Every interrupt sent is taken, however sending, blocking, moving and sleeping interleave.
#[test]
fn no_wake_up_is_lost() {
    for (cpus, tasks) in [(1, 1), (2, 3), (4, 2), (3, 8)] {
        let task = || Task {
            state: RunState::new(),
            sent: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            on_cpu: AtomicBool::new(false),
        };
        let world = Arc::new(World {
            tasks: (0..tasks).map(|_| task()).collect(),
            sched: Scheduler::new(),
            threads: Mutex::new(Vec::new()),
            over: AtomicBool::new(false),
            runs: AtomicU64::new(0),
        });
        let threads: Vec<_> = (0..cpus)
            .map(|me| {
                let world = world.clone();
                thread::spawn(move || world.cpu(me))
            })
            .collect();
        *world.threads.lock() = threads.iter().map(|t| t.thread().clone()).collect();
        for index in 0..tasks {
            assert!(world.tasks[index].state.power_on(index % cpus));
            world.queue(index, index % cpus);
        }
        for round in 0..2000usize {
            let index = round * 7 % tasks;
            world.send(index);
            if round % 3 == 0 {
                // Wait until it is taken: the case in which everybody else sleeps.
                let until = Instant::now() + Duration::from_secs(20);
                let task = &world.tasks[index];
                while task.taken.load(Ordering::Relaxed) < task.sent.load(Ordering::Relaxed) {
                    assert!(
                        Instant::now() < until,
                        "lost: {cpus} CPUs, {tasks} tasks, round {round}"
                    );
                    thread::yield_now();
                }
            }
        }
        let until = Instant::now() + Duration::from_secs(20);
        for task in &world.tasks {
            while task.taken.load(Ordering::Relaxed) < task.sent.load(Ordering::Relaxed) {
                assert!(Instant::now() < until, "lost at the end");
                thread::yield_now();
            }
        }
        world.over.store(true, Ordering::Relaxed);
        for t in &threads {
            t.thread().unpark();
        }
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

#[test]
fn queues_are_fair_and_idle_cpus_get_the_work() {
    let sched: Scheduler<u32> = Scheduler::new();
    assert_eq!(sched.enqueue(1, 0), Placed::Notify(0));
    assert_eq!(sched.enqueue(2, 0), Placed::Quiet);
    assert!(!sched.enter_idle(3));
    assert_eq!(sched.pick(0), Some(1));
    assert_eq!(sched.enqueue(1, 0), Placed::Quiet);
    assert_eq!(sched.pick(0), Some(2));
    // CPU 2 has nothing: it takes from CPU 0.
    assert_eq!(sched.pick(2), Some(1));
    assert!(sched.enter_idle(2));
    assert_eq!(sched.enqueue(3, 0), Placed::Notify(2));
    assert!(sched.waiting(2) && !sched.waiting(0));
    // The idle CPU is claimed: the next one does not go there.
    assert_eq!(sched.enqueue(4, 0), Placed::Notify(0));
}

/// Whoever queues a task finds the CPU that fell asleep after it had looked for one, and before the task was
/// there to be seen.
#[test]
fn a_cpu_that_falls_asleep_while_a_task_is_queued_is_woken() {
    let sched: Scheduler<u32> = Scheduler::new();
    let placed = thread::scope(|scope| {
        let queue = sched.queues[0].tasks.lock();
        let placing = scope.spawn(|| sched.enqueue(9, 0));
        // Long enough to find nobody idle, and to come to the lock; if not, CPU 1 is chosen at once.
        thread::sleep(Duration::from_millis(50));
        assert!(sched.enter_idle(1));
        drop(queue);
        placing.join().unwrap()
    });
    assert_eq!(placed, Placed::NotifyBoth(0, 1));
    assert_eq!(sched.pick(1), Some(9));
}
