//! Row 6: two and more CPUs at the same object.

use super::{Attack, SECRET};
use crate::guest::{self, Do, MEM_SHARE};
use crate::smp::{self, meet, together};
use crate::verdict::{Failure, Outcome, Text, given, refused, require};
use crate::vm::{PAGES, SECRET_IPA, Vm, kill};
use crate::{access, call, cpu, frames, gic};
use abi::hypercall::CoreInfo;
use abi::{Error, HostCall, PAGE_SIZE};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(crate) const ATTACKS: &[Attack] = &[
    ("race-donate", donate),
    ("race-reclaim", reclaim),
    ("race-run", run),
    ("race-destroy-running", destroy_running),
    ("race-reclaim-running", reclaim_running),
    ("race-destroy-donate", destroy_donate),
    ("race-vcpu-create", vcpu_create),
    ("race-create-destroy", create_destroy),
    ("race-share-read", share_read),
    ("race-share-donate", share_donate),
    ("race-cpu-on", cpu_on),
];

const NEW: u64 = guest::RAM + (1 << 20);

/// As many CPUs as there are; skips the attack where there is but one.
fn cpus(least: usize) -> Result<usize, Failure> {
    match smp::count() {
        n if n >= least => Ok(n),
        _ => Err(Failure::Skipped("needs more CPUs")),
    }
}

/// All CPUs give the same frame to VMs of their own: one wins each round.
fn donate() -> Outcome {
    let n = cpus(2)?;
    let frame = frames::take(1);
    let mut contended = 0;
    for _ in 0..60 {
        let (gate, wins, busy) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let out = AtomicUsize::new(0);
        let wrong = AtomicU64::new(0);
        together(n, &|_| {
            let Ok(mut vm) = Vm::create(true, 1) else {
                wrong.fetch_add(1, Ordering::SeqCst);
                return meet(&gate, n);
            };
            meet(&gate, n);
            match call::host(HostCall::MemDonate, &[vm.handle, NEW, frame / PAGE_SIZE, 1]) {
                Ok(1) => {
                    wins.fetch_add(1, Ordering::SeqCst);
                    vm.note(frame, 1);
                }
                Err(Error::Busy) => {
                    busy.fetch_add(1, Ordering::SeqCst);
                }
                Err(Error::Denied) => {}
                _ => {
                    wrong.fetch_add(1, Ordering::SeqCst);
                }
            }
            meet(&out, n);
        });
        let (wins, wrong) = (wins.into_inner(), wrong.into_inner());
        contended += busy.into_inner();
        require!(
            wins == 1 && wrong == 0,
            "{wins} VMs own the frame, {wrong} odd answers"
        );
    }
    refused!("one owner in each of 60 rounds, {contended} times Busy")
}

fn reclaim() -> Outcome {
    let n = cpus(2)?;
    let vm = Vm::running(true, 1)?;
    vm.kill()?;
    let (gate, total) = (AtomicUsize::new(0), AtomicU64::new(0));
    let handle = vm.handle;
    let pfn = vm.ram / PAGE_SIZE;
    together(n, &|_| {
        meet(&gate, n);
        for page in 0..PAGES {
            if call::host(HostCall::MemReclaim, &[handle, pfn + page, 1]) == Ok(1) {
                total.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let total = total.into_inner();
    require!(total == PAGES, "{total} frames came back, of {PAGES}");
    let left = kill(handle)?;
    require!(left == 0, "{left} frames are left over");
    refused!("each frame once")
}

/// A vCPU that counts in a page it shares, on CPU 1; the other CPU runs it too.
fn run() -> Outcome {
    cpus(2)?;
    let vm = Vm::running(true, 1)?;
    let handle = vm.handle;
    while_running(&vm, |beat| {
        let begin = cpu::now();
        let mut rounds = 0;
        while rounds < 10 || rounds < 200 && cpu::now() - begin < cpu::ticks(cpu::PATIENCE) {
            rounds += 1;
            let before = access::word(beat);
            let answer = run_here_too(handle);
            let put = call::host(HostCall::VcpuPut, &[handle, 0]);
            require!(
                answer == Err(Error::Busy),
                "ran it a second time: {answer:?}"
            );
            require!(
                put == Err(Error::Busy),
                "put a running vCPU's FP state away: {put:?}"
            );
            // It counts before and after: it was inside all the time.
            given!(goes_on(beat, before), "the guest did not run meanwhile");
        }
        refused!("Busy {rounds} times while it ran")
    })
}

/// VCPU_RUN for a vCPU that runs on another CPU. If it gets in, against the rules, a timer has it back.
fn run_here_too(handle: u64) -> Result<u64, Error> {
    cpu::arm_timer(1000);
    let answer = call::host(HostCall::VcpuRun, &[handle, 0]);
    cpu::stop_timer();
    while gic::take_interrupt() {}
    answer
}

/// Runs a counting guest on CPU 1 for as long as `attack` takes on CPU 0.
fn while_running(vm: &Vm, attack: impl Fn(u64) -> Outcome + Sync) -> Outcome {
    let guest = vm.first();
    given!(guest.hvc(MEM_SHARE, SECRET_IPA)? == 0, "MEM_SHARE fails");
    let beat = vm.secret_pa();
    let started = AtomicUsize::new(0);
    let outcome = spin_cell(Err(Failure::Skipped("did not run")));
    together(2, &|index| {
        if index == 1 {
            started.store(1, Ordering::SeqCst);
            let _ = guest.beat_until_kicked(SECRET_IPA);
            return;
        }
        while started.load(Ordering::SeqCst) == 0 {
            core::hint::spin_loop();
        }
        let result = if goes_on(beat, access::word(beat)) {
            attack(beat)
        } else {
            Err(Failure::Void(Text::new(format_args!(
                "the guest does not count"
            ))))
        };
        gic::kick(1);
        outcome.set(result);
    });
    outcome.take()
}

/// The guest counts on from `before`, or begins to.
fn goes_on(beat: u64, before: u64) -> bool {
    let begin = cpu::now();
    while access::word(beat) == before {
        if cpu::now() - begin > cpu::ticks(cpu::PATIENCE) {
            return false;
        }
    }
    true
}

/// A place for a result that one CPU writes and another reads afterwards.
struct SpinCell(core::cell::UnsafeCell<Option<Outcome>>);
// SAFETY: written by one CPU inside `together`, read by the same after it.
unsafe impl Sync for SpinCell {}

fn spin_cell(value: Outcome) -> SpinCell {
    SpinCell(core::cell::UnsafeCell::new(Some(value)))
}

impl SpinCell {
    fn set(&self, value: Outcome) {
        // SAFETY: only CPU 0 comes here.
        unsafe { *self.0.get() = Some(value) };
    }

    fn take(&self) -> Outcome {
        // SAFETY: as for `set`.
        unsafe { (*self.0.get()).take() }.unwrap_or(Err(Failure::Skipped("no result")))
    }
}

fn destroy_running() -> Outcome {
    cpus(2)?;
    let vm = Vm::running(true, 1)?;
    let handle = vm.handle;
    let outcome = while_running(&vm, |beat| {
        let before = access::word(beat);
        let answer = call::host(HostCall::VmDestroy, &[handle]);
        let again = run_here_too(handle);
        require!(
            answer == Err(Error::Busy),
            "destroyed a running VM: {answer:?}"
        );
        require!(again == Err(Error::Busy), "ran it a second time: {again:?}");
        given!(goes_on(beat, before), "the guest did not run meanwhile");
        refused!("Busy while it runs")
    })?;
    let run = vm.first().step();
    require!(
        run == Err(Error::BadState),
        "a dying VM runs again: {run:x?}"
    );
    Ok(outcome)
}

/// The VM is dying but a vCPU still runs: its frames are not to be had.
fn reclaim_running() -> Outcome {
    cpus(2)?;
    let vm = Vm::running(true, 1)?;
    vm.first().poke(SECRET_IPA + 8, SECRET)?;
    let (handle, ram) = (vm.handle, vm.ram);
    while_running(&vm, |beat| {
        let first = call::host(HostCall::VmDestroy, &[handle]);
        given!(first == Err(Error::Busy), "destroy: {first:?}");
        let before = access::word(beat);
        let answer = call::host(HostCall::MemReclaim, &[handle, ram / PAGE_SIZE + 5, 1]);
        require!(
            answer == Err(Error::BadState),
            "reclaimed under a running vCPU: {answer:?}"
        );
        given!(goes_on(beat, before), "the guest did not run meanwhile");
        require!(
            access::read(ram + 5 * PAGE_SIZE).is_err(),
            "readable under a running vCPU"
        );
        refused!("BadState while a vCPU runs")
    })
}

/// One CPU destroys, the others go on giving; in the end everything is back.
fn destroy_donate() -> Outcome {
    let n = cpus(2)?;
    let area = frames::take(32 * n as u64);
    let mut given_at_all = 0;
    for round in 0..40 {
        let vm = Vm::create(true, 1)?;
        let (gate, given) = (AtomicUsize::new(0), AtomicU64::new(0));
        let handle = vm.handle;
        together(n, &|index| {
            meet(&gate, n);
            if index == 0 {
                // Each round later: from before the first is given until after the last.
                for _ in 0..round * 400 {
                    core::hint::spin_loop();
                }
                let _ = kill(handle);
                return;
            }
            for page in 0..32 {
                let page = 32 * index as u64 + page;
                let args = [handle, NEW + page * PAGE_SIZE, area / PAGE_SIZE + page, 1];
                if call::host(HostCall::MemDonate, &args) == Ok(1) {
                    given.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let mut back = 0;
        for page in 0..32 * n as u64 {
            if call::host(HostCall::MemReclaim, &[handle, area / PAGE_SIZE + page, 1]) == Ok(1) {
                back += 1;
            }
        }
        let given = given.into_inner();
        require!(given == back, "{given} frames went in, {back} came back");
        given_at_all += given;
        let _ = kill(handle);
        for at in (area..area + 32 * n as u64 * PAGE_SIZE).step_by(PAGE_SIZE as usize) {
            require!(access::read(at).is_ok(), "{at:#x} is lost");
        }
    }
    require!(given_at_all != 0, "every VM was over before anybody gave");
    refused!("all {given_at_all} frames that went in came back, in 40 rounds")
}

fn vcpu_create() -> Outcome {
    let n = cpus(2)?;
    for _ in 0..60 {
        let vm = Vm::create(true, 1)?;
        let pages = frames::take(n as u64);
        let (gate, wins) = (AtomicUsize::new(0), AtomicU64::new(0));
        let handle = vm.handle;
        together(n, &|index| {
            let pfn = pages / PAGE_SIZE + index as u64;
            meet(&gate, n);
            if call::host(HostCall::VcpuCreate, &[handle, 0, pfn]).is_ok() {
                wins.fetch_add(1, Ordering::SeqCst);
            }
        });
        let wins = wins.into_inner();
        require!(wins == 1, "{wins} CPUs made vCPU 0");
        vm.destroy()?;
        // Whoever lost keeps a frame that is still the host's to give.
        let mut next = Vm::create(true, 1)?;
        next.give(NEW, pages, n as u64)?;
        next.destroy()?;
        frames::reset();
    }
    refused!("one vCPU in each of 60 rounds")
}

/// All CPUs make and end VMs: nothing is lost, no handle twice.
fn create_destroy() -> Outcome {
    let n = cpus(2)?;
    let free = call::info(CoreInfo::PoolFree);
    let (gate, failed) = (AtomicUsize::new(0), AtomicU64::new(0));
    together(n, &|_| {
        meet(&gate, n);
        for _ in 0..30 {
            let lives = Vm::running(true, 1).is_ok_and(|vm| {
                let counted = vm.first().command(Do::Count, &[9]);
                counted == Ok(9) && vm.destroy().is_ok()
            });
            failed.fetch_add(u64::from(!lives), Ordering::SeqCst);
        }
    });
    let failed = failed.into_inner();
    require!(failed == 0, "{failed} VMs failed");
    frames::settle();
    let after = call::info(CoreInfo::PoolFree);
    require!(
        after + 2 >= free,
        "{free} table frames were free, {after} are"
    );
    refused!("{} VMs on {n} CPUs", 30 * n)
}

/// The guest has its secret in a page only while that is private; another CPU reads it all the time.
fn share_read() -> Outcome {
    cpus(2)?;
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    let pa = vm.secret_pa();
    let over = AtomicUsize::new(0);
    let (zeros, faults, secrets) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicU64::new(u64::MAX);
    together(2, &|index| {
        if index == 1 {
            let result = guest.command(Do::Blink, &[SECRET_IPA, 1500, SECRET]);
            failed.store(result.unwrap_or(u64::MAX), Ordering::SeqCst);
            over.store(1, Ordering::SeqCst);
            return;
        }
        while over.load(Ordering::SeqCst) == 0 {
            match access::read(pa) {
                Ok(0) => zeros.fetch_add(1, Ordering::SeqCst),
                Ok(_) => secrets.fetch_add(1, Ordering::SeqCst),
                Err(_) => faults.fetch_add(1, Ordering::SeqCst),
            };
        }
    });
    let (zeros, faults, secrets) = (
        zeros.into_inner(),
        faults.into_inner(),
        secrets.into_inner(),
    );
    let failed = failed.into_inner();
    require!(secrets == 0, "read the secret {secrets} times");
    given!(failed == 0, "{failed} calls of the guest failed");
    given!(zeros > 0, "never read it while it was shared");
    require!(faults > 0, "{zeros} reads, not one of them refused");
    refused!("{zeros} reads while shared, {faults} aborts while private")
}

/// The same, and the other CPU gives the page away whenever it can.
fn share_donate() -> Outcome {
    cpus(2)?;
    let vm = Vm::running(true, 1)?;
    let thief = Vm::create(true, 1)?;
    let guest = vm.first();
    let pfn = vm.secret_pa() / PAGE_SIZE;
    let over = AtomicUsize::new(0);
    let (won, tried) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicU64::new(u64::MAX);
    let handle = thief.handle;
    together(2, &|index| {
        if index == 1 {
            let result = guest.command(Do::Blink, &[SECRET_IPA, 500, SECRET]);
            failed.store(result.unwrap_or(u64::MAX), Ordering::SeqCst);
            over.store(1, Ordering::SeqCst);
            return;
        }
        while over.load(Ordering::SeqCst) == 0 {
            let answer = call::host(HostCall::MemDonate, &[handle, NEW, pfn, 1]);
            tried.fetch_add(1, Ordering::SeqCst);
            won.fetch_add(u64::from(answer.is_ok()), Ordering::SeqCst);
        }
    });
    let (won, tried) = (won.into_inner(), tried.into_inner());
    require!(won == 0, "{won} of {tried} donations went through");
    given!(tried > 10, "{tried} attempts");
    let failed = failed.into_inner();
    given!(failed != u64::MAX, "the guest did not get through");
    refused!("{tried} attempts, all refused; {failed} of the guest's calls met one")
}

/// Two CPUs start the same third one.
fn cpu_on() -> Outcome {
    let n = cpus(3)?;
    let target = n - 1;
    let wins = AtomicU64::new(0);
    let gate = AtomicUsize::new(0);
    together(target, &|_| {
        meet(&gate, target);
        wins.fetch_add(u64::from(smp::start(target) == 0), Ordering::SeqCst);
    });
    let wins = wins.into_inner();
    require!(wins == 0, "{wins} CPUs started one that is on");
    refused!("ALREADY_ON for everybody")
}
