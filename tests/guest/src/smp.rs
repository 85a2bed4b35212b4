//! The other CPUs: started by PSCI, then waiting for a function to run.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::cpu::{self, MAX_CPUS};
use crate::verdict::{Verdict, fail};
use crate::{gic, platform, psci, timer};

unsafe extern "C" {
    fn secondary_entry();
}

/// The SGI that says: look at your mailbox.
const KICK: u32 = 15;

/// A function for one CPU, given its index.
pub(crate) type Job = fn(usize);

/// The context id each CPU came up with; 0: has not come up since asked to.
static CONTEXTS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// The job to run, as a function address; 0: none, or done.
static MAILBOX: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// Address of the secondaries' entry.
pub(crate) fn entry() -> u64 {
    secondary_entry as *const () as u64
}

/// A context id for CPU `index` that uses all 64 bits and differs for each `salt`.
pub(crate) fn context_for(index: usize, salt: u64) -> u64 {
    0xa5c3_0000_0000_0000 | (salt & 0xff_ffff) << 8 | index as u64
}

/// The context id CPU `index` found in x0, if it came up since the last `start`.
pub(crate) fn context_of(index: usize) -> u64 {
    CONTEXTS[index].load(Ordering::SeqCst)
}

/// Whether CPU `index` came up.
pub(crate) fn is_online(index: usize) -> bool {
    index == 0 || context_of(index) != 0
}

/// Powers CPU `index` on and waits until it runs.
pub(crate) fn start(index: usize, salt: u64) -> Verdict {
    let context = context_for(index, salt);
    CONTEXTS[index].store(0, Ordering::SeqCst);
    MAILBOX[index].store(0, Ordering::SeqCst);
    let answer = psci::cpu_on(platform::mpidr(index), entry(), context);
    if answer != psci::SUCCESS {
        fail!("CPU_ON of cpu {index}: {answer}");
    }
    if !timer::wait_for(10_000, || context_of(index) != 0) {
        fail!("cpu {index} did not come up in 10 s");
    }
    if context_of(index) != context {
        fail!(
            "cpu {index} found context id {:#x} in x0, not {context:#x}",
            context_of(index)
        );
    }
    Ok(())
}

/// Powers on every CPU that is not.
pub(crate) fn start_all() -> Verdict {
    for index in 1..platform::cpus() {
        if !is_online(index) {
            start(index, 1)?;
        }
    }
    Ok(())
}

/// Powers CPU `index` off and waits until PSCI says so.
pub(crate) fn stop(index: usize) -> Verdict {
    submit(index, |index| {
        CONTEXTS[index].store(0, Ordering::SeqCst);
        psci::cpu_off();
    });
    let mpidr = platform::mpidr(index);
    if !timer::wait_for(10_000, || psci::affinity_info(mpidr) == psci::AFFINITY_OFF) {
        fail!(
            "cpu {index} is not off after 10 s: AFFINITY_INFO says {}",
            psci::affinity_info(mpidr)
        );
    }
    Ok(())
}

/// Gives CPU `index` a job.
pub(crate) fn submit(index: usize, job: Job) {
    MAILBOX[index].store(job as usize, Ordering::SeqCst);
    gic::send(platform::mpidr(index), KICK);
}

/// Whether CPU `index` has finished its job.
pub(crate) fn is_done(index: usize) -> bool {
    MAILBOX[index].load(Ordering::SeqCst) == 0
}

/// Runs `job` on all CPUs at once, on this one too, and waits for all, at most `ms` milliseconds
/// after this one has finished.
pub(crate) fn run_on_all(ms: u64, job: Job) -> Verdict {
    start_all()?;
    for index in 1..platform::cpus() {
        submit(index, job);
    }
    job(0);
    for index in 1..platform::cpus() {
        if !timer::wait_for(ms, || is_done(index)) {
            fail!("cpu {index} has not finished after {ms} ms");
        }
    }
    Ok(())
}

/// Where a secondary arrives, with its context id.
#[unsafe(no_mangle)]
extern "C" fn secondary_main(context: u64) -> ! {
    let index = cpu::index();
    gic::init_cpu();
    CONTEXTS[index].store(context, Ordering::SeqCst);
    loop {
        cpu::sleep_until(|| MAILBOX[index].load(Ordering::SeqCst) != 0);
        // SAFETY: only `submit` stores here, and only a `Job`.
        let job =
            unsafe { core::mem::transmute::<usize, Job>(MAILBOX[index].load(Ordering::SeqCst)) };
        job(index);
        MAILBOX[index].store(0, Ordering::SeqCst);
    }
}
