//! Row 7: translations that outlive their mapping.

use super::{Attack, SECRET};
use crate::guest::{self, Do, Guest, MEM_SHARE, MEM_UNSHARE, Stop};
use crate::smp::{self, together};
use crate::verdict::{Failure, Outcome, given, refused, require};
use crate::vm::{SECRET_IPA, Vm, whole};
use crate::{access, cpu, frames};
use abi::run::ExitReason;
use abi::{HostCall, PAGE_SIZE};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(crate) const ATTACKS: &[Attack] = &[
    ("stale-donated", donated),
    ("stale-donated-block", donated_block),
    ("stale-donated-write", donated_write),
    ("stale-unlent", unlent),
    ("stale-unlent-block", unlent_block),
    ("stale-unshared", unshared),
    ("stale-moved-vcpu", moved),
    ("stale-vmid", vmid),
    ("stale-two-vms", two_vms),
];

const NEW: u64 = guest::RAM + (4 << 20);
const BLOCK: u64 = 2 << 20;

fn two_cpus() -> Result<(), Failure> {
    if smp::count() < 2 {
        Err(Failure::Skipped("needs more CPUs"))
    } else {
        Ok(())
    }
}

/// What the CPUs of [`hot`] tell each other.
#[derive(Default)]
struct Hot {
    good: AtomicU64,
    stale: AtomicU64,
    faults: AtomicU64,
    over: AtomicUsize,
}

fn wait_for(counter: &AtomicU64, least: u64) {
    let begin = cpu::now();
    while counter.load(Ordering::SeqCst) < least && cpu::now() - begin < cpu::ticks(cpu::PATIENCE) {
    }
}

/// CPU 1 reaches for `pa` over and over, without ever leaving EL1, while CPU 0 does `change`, after
/// which the page holds the secret. What `change` answers is kept until CPU 1 has had its time.
fn hot<T>(pa: u64, write: bool, change: impl Fn() -> Result<T, Failure> + Sync) -> Outcome {
    two_cpus()?;
    let hot = Hot::default();
    let (before, failed) = (AtomicU64::new(0), AtomicUsize::new(0));
    together(2, &|index| {
        if index == 1 {
            while hot.over.load(Ordering::SeqCst) == 0 {
                let outcome = if write {
                    access::write(pa, 2).map(|()| 2)
                } else {
                    access::read(pa)
                };
                match outcome {
                    Ok(SECRET) => hot.stale.fetch_add(1, Ordering::SeqCst),
                    Ok(_) => hot.good.fetch_add(1, Ordering::SeqCst),
                    Err(_) => hot.faults.fetch_add(1, Ordering::SeqCst),
                };
            }
            return;
        }
        wait_for(&hot.good, 1000);
        before.store(hot.good.load(Ordering::SeqCst), Ordering::SeqCst);
        let kept = change();
        failed.store(usize::from(kept.is_err()), Ordering::SeqCst);
        wait_for(&hot.faults, 100);
        hot.over.store(1, Ordering::SeqCst);
    });
    let (before, stale, faults) = (
        before.into_inner(),
        hot.stale.into_inner(),
        hot.faults.into_inner(),
    );
    require!(
        stale == 0,
        "read the secret {stale} times through a stale translation"
    );
    require!(
        failed.into_inner() == 0,
        "the secret did not survive the change"
    );
    given!(before >= 1000, "only {before} accesses before the change");
    require!(faults >= 100, "only {faults} aborts after the change");
    refused!("{before} accesses before, {faults} aborts after")
}

/// A while in which the other CPU goes on.
fn linger() {
    let begin = cpu::now();
    while cpu::now() - begin < cpu::ticks(20) {}
}

/// A protected VM with `pages` at `start`, whose guest has the secret in `page` for a while.
fn keep_secret_in(start: u64, pages: u64, page: u64) -> Result<Vm, Failure> {
    let mut vm = Vm::running(true, 1)?;
    vm.give(NEW, start, pages)?;
    let ipa = NEW + (page - start);
    vm.first().poke(ipa, SECRET)?;
    linger();
    let seen = vm.first().peek(ipa)?;
    require!(seen == SECRET, "the secret became {seen:#x}");
    Ok(vm)
}

fn donated() -> Outcome {
    let page = frames::take(1);
    hot(page, false, || keep_secret_in(page, 1, page))
}

fn donated_block() -> Outcome {
    let start = frames::take_blocks(1);
    access::fill(start, BLOCK, 1);
    let page = start + 77 * PAGE_SIZE;
    hot(page, false, || keep_secret_in(start, 512, page))
}

fn donated_write() -> Outcome {
    let page = frames::take(1);
    hot(page, true, || keep_secret_in(page, 1, page))
}

/// The other CPU reads a page while it is shared; then the guest takes it back.
fn unshared() -> Outcome {
    let vm = Vm::running(true, 1)?;
    given!(
        vm.first().hvc(MEM_SHARE, SECRET_IPA)? == 0,
        "MEM_SHARE fails"
    );
    hot(vm.secret_pa(), false, || {
        given!(
            vm.first().hvc(MEM_UNSHARE, SECRET_IPA)? == 0,
            "MEM_UNSHARE fails"
        );
        vm.first().poke(SECRET_IPA, SECRET)?;
        linger();
        Ok(())
    })
}

/// The guest of an open VM reads a page over and over on CPU 1, with no exit, while CPU 0 takes it back.
fn watch(guest: Guest, ipa: u64, pa: u64) -> Outcome {
    two_cpus()?;
    access::set_word(pa, 1);
    given!(guest.peek(ipa)? == 1, "the guest does not see the page");
    let started = AtomicUsize::new(0);
    let (ended, saw) = (AtomicU64::new(0), AtomicU64::new(0));
    let unmapped = AtomicU64::new(0);
    together(2, &|index| {
        if index == 1 {
            started.store(1, Ordering::SeqCst);
            match guest.command_within(Do::Watch, &[ipa, 1], 0, cpu::PATIENCE) {
                Ok(value) => saw.store(value, Ordering::SeqCst),
                Err(Stop::Exit(e)) if e.is(ExitReason::MmioRead) => {
                    ended.store(e.args[0], Ordering::SeqCst)
                }
                Err(_) => {}
            }
            return;
        }
        while started.load(Ordering::SeqCst) == 0 {
            core::hint::spin_loop();
        }
        linger();
        unmapped.store(
            u64::from(whole(HostCall::MemUnmap, [guest.vm, ipa, 0], 1).is_ok()),
            Ordering::SeqCst,
        );
        linger();
        access::set_word(pa, SECRET);
        linger();
    });
    let saw = saw.into_inner();
    require!(
        saw == 0,
        "the guest read {saw:#x} in a page that was taken back"
    );
    given!(unmapped.into_inner() == 1, "MEM_UNMAP fails");
    let ended = ended.into_inner();
    require!(ended == ipa, "the guest went on reading");
    refused!("the guest's next read was an exit")
}

fn unlent() -> Outcome {
    let vm = Vm::running(false, 1)?;
    watch(vm.first(), SECRET_IPA, vm.secret_pa())
}

fn unlent_block() -> Outcome {
    let start = frames::take_blocks(1);
    let mut vm = Vm::running(false, 1)?;
    vm.give(NEW, start, 512)?;
    watch(vm.first(), NEW + 300 * PAGE_SIZE, start + 300 * PAGE_SIZE)
}

/// Peeks on another CPU.
fn peek_on(cpu: usize, guest: Guest, ipa: u64) -> Result<u64, bool> {
    let (value, exit) = (AtomicU64::new(0), AtomicUsize::new(0));
    together(cpu + 1, &|index| {
        if index == cpu {
            match guest.peek(ipa) {
                Ok(seen) => value.store(seen, Ordering::SeqCst),
                Err(Stop::Exit(e)) => exit.store(
                    1 + usize::from(e.is(ExitReason::MmioRead)),
                    Ordering::SeqCst,
                ),
                Err(_) => exit.store(1, Ordering::SeqCst),
            }
        }
    });
    match exit.into_inner() {
        0 => Ok(value.into_inner()),
        n => Err(n == 2),
    }
}

/// A vCPU that was here, goes there, and comes back after the page has gone.
fn moved() -> Outcome {
    two_cpus()?;
    let vm = Vm::running(false, 1)?;
    let (guest, pa) = (vm.first(), vm.secret_pa());
    access::set_word(pa, 5);
    let seen = (
        peek_on(0, guest, SECRET_IPA),
        peek_on(1, guest, SECRET_IPA),
        peek_on(0, guest, SECRET_IPA),
    );
    given!(seen == (Ok(5), Ok(5), Ok(5)), "{seen:?}");
    whole(HostCall::MemUnmap, [vm.handle, SECRET_IPA, 0], 1)?;
    access::set_word(pa, SECRET);
    let there = peek_on(1, guest, SECRET_IPA);
    require!(there == Err(true), "on the other CPU it read {there:x?}");
    // The same access again, on the CPU where it was first.
    let here = guest.next_exit();
    require!(
        here.is_ok_and(|e| e.is(ExitReason::MmioRead)),
        "back here: {here:x?}"
    );
    refused!("an exit on either CPU")
}

/// The next VM in the slot has the same VMID.
fn vmid() -> Outcome {
    let page = frames::take(1);
    for _ in 0..5 {
        let mut first = Vm::running(true, 1)?;
        first.give(NEW, page, 1)?;
        first.first().poke(NEW, SECRET)?;
        let handle = first.handle;
        first.destroy()?;
        access::set_word(page, SECRET);
        let second = Vm::running(true, 1)?;
        given!(second.handle & 0xff == handle & 0xff, "another slot");
        let seen = second.first().peek(NEW);
        let exits = matches!(seen, Err(Stop::Exit(e)) if e.is(ExitReason::MmioRead));
        require!(exits, "the next VM reads {seen:x?} where it maps nothing");
    }
    refused!("an exit, in 5 generations")
}

/// Two VMs take turns on one CPU; one IPA, two frames.
fn two_vms() -> Outcome {
    let (one, other) = (Vm::running(true, 1)?, Vm::running(true, 1)?);
    one.first().poke(SECRET_IPA, SECRET)?;
    other.first().poke(SECRET_IPA, 7)?;
    for _ in 0..50 {
        let seen = (
            one.first().peek(SECRET_IPA)?,
            other.first().peek(SECRET_IPA)?,
        );
        require!(seen == (SECRET, 7), "they read {seen:x?}");
    }
    refused!("each reads its own, 50 turns")
}
