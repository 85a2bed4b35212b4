//! The other CPUs: they wait for work, do it together, and wait again.

use crate::{call, cpu, entry, gic};
use abi::hypercall::CoreInfo;
use abi::{MAX_CPUS, psci};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

type Work<'a> = &'a (dyn Fn(usize) + Sync);

static WORK: AtomicUsize = AtomicUsize::new(0);
static ROUND: AtomicU64 = AtomicU64::new(0);
static WANTED: AtomicUsize = AtomicUsize::new(0);
static DONE: AtomicUsize = AtomicUsize::new(0);
/// The CPU that shall switch itself off.
static TO_OFF: AtomicUsize = AtomicUsize::new(usize::MAX);
static UP: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// CPUs of the machine.
pub(crate) fn count() -> usize {
    (call::info(CoreInfo::Cpus) as usize).min(MAX_CPUS)
}

/// MPIDR_EL1 affinity of CPU `index`.
pub(crate) fn mpidr(index: usize) -> u64 {
    index as u64
}

fn set_up_interrupts() {
    gic::init_cpu();
    cpu::stop_timer();
}

/// Starts CPU `index`; PSCI's answer.
pub(crate) fn start(index: usize) -> i64 {
    call::smc(
        psci::CPU_ON_64.into(),
        &[mpidr(index), entry::other_entry(), index as u64],
    )
}

/// Starts CPU `index`, which is off; false if it does not come up. On its way off it may be so for the core, by
/// AFFINITY_INFO, and not yet for the firmware, which then refuses.
pub(crate) fn start_and_wait(index: usize) -> bool {
    let before = UP[index].load(Ordering::SeqCst);
    let begin = cpu::now();
    let patient = || cpu::now() - begin < cpu::ticks(cpu::PATIENCE);
    let mut answer = start(index);
    while answer == psci::ALREADY_ON && patient() {
        answer = start(index);
    }
    if answer != psci::SUCCESS {
        return false;
    }
    while UP[index].load(Ordering::SeqCst) == before && patient() {
        core::hint::spin_loop();
    }
    UP[index].load(Ordering::SeqCst) != before
}

/// Has CPU `index` switch itself off.
pub(crate) fn turn_off(index: usize) {
    TO_OFF.store(index, Ordering::SeqCst);
    gic::kick(index);
}

/// Starts all CPUs.
pub(crate) fn start_all() {
    gic::init();
    set_up_interrupts();
    for index in 1..count() {
        assert!(start_and_wait(index), "CPU {index} does not start");
    }
}

/// What a CPU but the first does for ever.
pub(crate) fn serve(index: usize) -> ! {
    assert_eq!(cpu::level(), 1, "CPU {index} runs at EL{}", cpu::level());
    set_up_interrupts();
    let mut round = ROUND.load(Ordering::SeqCst);
    UP[index].fetch_add(1, Ordering::Release);
    loop {
        while ROUND.load(Ordering::SeqCst) == round {
            cpu::wait();
            while gic::take_interrupt() {}
            if TO_OFF.load(Ordering::SeqCst) == index {
                TO_OFF.store(usize::MAX, Ordering::SeqCst);
                call::smc(psci::CPU_OFF.into(), &[]);
                panic!("CPU_OFF came back");
            }
        }
        round = ROUND.load(Ordering::SeqCst);
        if index < WANTED.load(Ordering::SeqCst) {
            let work = WORK.load(Ordering::SeqCst) as *const Work<'_>;
            // SAFETY: `together` keeps the work alive until this CPU counts itself done.
            let work = unsafe { *work };
            work(index);
            DONE.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Runs `work(i)` on CPUs 0 to `cpus - 1` at the same time; back when all are done.
pub(crate) fn together(cpus: usize, work: Work<'_>) {
    DONE.store(1, Ordering::SeqCst);
    WANTED.store(cpus, Ordering::SeqCst);
    WORK.store((&raw const work) as usize, Ordering::SeqCst);
    ROUND.fetch_add(1, Ordering::SeqCst);
    (1..cpus).for_each(gic::kick);
    work(0);
    while DONE.load(Ordering::SeqCst) < cpus {
        core::hint::spin_loop();
    }
}

/// All CPUs that take part in the next step meet here: each counts itself, and waits for `all`.
pub(crate) fn meet(counter: &AtomicUsize, all: usize) {
    counter.fetch_add(1, Ordering::SeqCst);
    while counter.load(Ordering::SeqCst) < all {
        core::hint::spin_loop();
    }
}
