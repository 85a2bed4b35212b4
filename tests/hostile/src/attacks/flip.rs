//! Rows 8 and 9: pages that change between check and use, and frames handed over as if they were
//! pointers. No call takes an address to read or write through; the run page is all there is.

use super::{Attack, SECRET};
use crate::guest::{self, Do};
use crate::smp::{self, together};
use crate::verdict::{Failure, Outcome, given, refused, require};
use crate::vm::{SECRET_IPA, Vm};
use crate::{access, call, cpu, frames};
use abi::run::{self, ExitReason, LR_GROUP1, LR_HW, LR_PENDING};
use abi::{Error, HostCall, PAGE_SIZE};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(crate) const ATTACKS: &[Attack] = &[
    ("flip-list-register", list_register),
    ("flip-run-page", run_page),
    ("stale-run-page", stale_run_page),
    ("run-page-donated", run_page_donated),
];

/// Run page word `n`, by address.
const fn word(n: usize) -> u64 {
    8 * n as u64
}

/// One CPU turns a good list register into one that stands for another's interrupt, and back, all the
/// time. The guest tells which interrupts it gets.
fn list_register() -> Outcome {
    const GOOD: u64 = LR_PENDING | LR_GROUP1 | 40;
    const EVIL: u64 = LR_PENDING | LR_HW | LR_GROUP1 | 33 << 32 | 99;
    if smp::count() < 2 {
        return Err(Failure::Skipped("needs more CPUs"));
    }
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    let over = AtomicUsize::new(0);
    let (good, denied, evil) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let at = guest.page + word(run::LIST_REGISTERS);
    together(2, &|index| {
        if index == 1 {
            while over.load(Ordering::SeqCst) == 0 {
                // SAFETY: the run page is RAM outside this program's image, given away to the core alone.
                unsafe {
                    (at as *mut u64).write_volatile(EVIL);
                    (at as *mut u64).write_volatile(GOOD);
                }
            }
            return;
        }
        guest.set_page_word(run::LR_COUNT, 1);
        let begin = cpu::now();
        let few = |n: &AtomicU64| n.load(Ordering::SeqCst) <= 100;
        // Three seconds of it, and longer where the other CPU hardly gets to run.
        let goes_on = || match cpu::now() - begin {
            t if t < cpu::ticks(3000) => true,
            t => (few(&good) || few(&denied)) && t < cpu::ticks(cpu::PATIENCE),
        };
        while goes_on() && evil.load(Ordering::SeqCst) == 0 {
            let Ok(exit) = guest.step_with(&mut [0; 31], 50) else {
                denied.fetch_add(1, Ordering::SeqCst);
                continue;
            };
            match guest.answer(exit, Do::Acknowledge, &[]) {
                Some(40) => good.fetch_add(1, Ordering::SeqCst),
                Some(99) => evil.fetch_add(1, Ordering::SeqCst),
                _ => 0,
            };
        }
        over.store(1, Ordering::SeqCst);
    });
    guest.set_page_word(run::LR_COUNT, 0);
    let (good, denied, evil) = (good.into_inner(), denied.into_inner(), evil.into_inner());
    require!(
        evil == 0,
        "the bad contents reached the hardware: the guest took interrupt 99"
    );
    given!(
        good > 100 && denied > 100,
        "{good} good interrupts, {denied} refusals"
    );
    refused!("{good} interrupts with the checked contents, {denied} refusals")
}

/// One CPU scribbles over all of the run page while the other runs the vCPU.
fn run_page() -> Outcome {
    if smp::count() < 2 {
        return Err(Failure::Skipped("needs more CPUs"));
    }
    let vm = super::private::secretive()?;
    let guest = vm.first();
    // The last access has its reply before the noise begins: whatever the page says of one then is nothing.
    guest.begin(Do::Count, &[u64::MAX])?;
    guest.step_with(&mut [0; 31], 1)?;
    let over = AtomicUsize::new(0);
    let (entered, denied) = (AtomicU64::new(0), AtomicU64::new(0));
    together(2, &|index| {
        if index == 1 {
            let mut noise = 0x9e37_79b9_7f4a_7c15u64;
            while over.load(Ordering::SeqCst) == 0 {
                for n in 0..32 {
                    noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    // Few bits here, so that some entries get through.
                    let value = match n {
                        run::ENTRY_FLAGS => noise >> 61 & 3 | noise & 1 << 60,
                        run::LR_COUNT => noise >> 60 & 1,
                        _ => noise >> (noise & 63),
                    };
                    // SAFETY: as in `list_register`.
                    unsafe { ((guest.page + word(n)) as *mut u64).write_volatile(value) };
                }
            }
            return;
        }
        let begin = cpu::now();
        let few = |n: &AtomicU64| n.load(Ordering::SeqCst) < 100;
        while (few(&entered) || few(&denied)) && cpu::now() - begin < cpu::ticks(cpu::PATIENCE) {
            match guest.step_with(&mut [0; 31], 1) {
                Ok(_) => entered.fetch_add(1, Ordering::SeqCst),
                Err(_) => denied.fetch_add(1, Ordering::SeqCst),
            };
        }
        over.store(1, Ordering::SeqCst);
    });
    let (entered, denied) = (entered.into_inner(), denied.into_inner());
    given!(
        entered > 10 && denied > 10,
        "{entered} entries, {denied} refusals"
    );
    require!(
        access::read(vm.secret_pa()).is_err(),
        "the VM's memory is readable"
    );
    for n in 0..512 {
        let seen = guest.page_word(n);
        require!(seen != SECRET, "word {n} of the run page holds the secret");
    }
    (0..32).for_each(|n| guest.set_page_word(n, 0));
    let counts = guest.step_with(&mut [0; 31], 1);
    require!(
        counts.is_ok_and(|e| e.is(ExitReason::Irq)),
        "the guest does not count on: {counts:x?}"
    );
    refused!("{entered} entries, {denied} refusals, nothing given away")
}

/// A dead VM's run page belongs to somebody else by now; its old handle must not write there.
fn stale_run_page() -> Outcome {
    let mut old = Vm::running(true, 1)?;
    let (handle, page) = (old.handle, old.first().page);
    given!(
        old.first().command(Do::Count, &[2])? == 2,
        "the VM does not run"
    );
    old.finish()?;
    let mut vm = Vm::running(true, 1)?;
    let ipa = guest::RAM + (1 << 20);
    vm.give(ipa, page, 1)?;
    vm.first().command(Do::Fill, &[ipa, 512, SECRET])?;
    let run = call::host(HostCall::VcpuRun, &[handle, 0]);
    let put = call::host(HostCall::VcpuPut, &[handle, 0]);
    require!(
        run == Err(Error::NotFound) && put == Err(Error::NotFound),
        "{run:?}, {put:?}"
    );
    for n in 0..32 {
        let seen = vm.first().peek(ipa + word(n))?;
        require!(seen == SECRET, "word {n} became {seen:#x}");
    }
    refused!("NotFound, nothing written")
}

/// The run page of a living vCPU goes to another VM, and the core would write exits into it.
fn run_page_donated() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let thief = Vm::create(true, 1)?;
    let pfn = vm.first().page / PAGE_SIZE;
    let answer = call::host(HostCall::MemDonate, &[thief.handle, SECRET_IPA, pfn, 1]);
    require!(answer == Err(Error::Denied), "{answer:?}");
    let reclaim = call::host(HostCall::MemReclaim, &[thief.handle, pfn, 1]);
    require!(reclaim == Err(Error::BadState), "{reclaim:?}");
    let exit = vm.first().next_exit()?;
    given!(exit.is(ExitReason::MmioRead), "{exit:x?}");
    let _ = frames::take(0);
    refused!("Denied")
}
