//! Row 2: a protected VM's private memory.

use super::{Attack, SECRET};
use crate::access::{self, Touch};
use crate::guest::{self, Do, MEM_SHARE, MEM_UNSHARE, Stop};
use crate::verdict::{Failure, Outcome, given, refused, require};
use crate::vm::{PAGES, SECRET_IPA, Vm, whole};
use crate::{call, frames};
use abi::run::ExitReason;
use abi::{Error, HostCall, PAGE_SIZE};

pub(crate) const ATTACKS: &[Attack] = &[
    ("private-read", read),
    ("private-write", write),
    ("private-execute", execute),
    ("private-touch", touch),
    ("private-second-vm", second_vm),
    ("private-second-ipa", second_ipa),
    ("private-replace", replace),
    ("private-lend", lend),
    ("private-run-page", run_page),
    ("private-unmap", unmap),
    ("private-stopped", stopped),
    ("private-after-destroy", after_destroy),
    ("private-after-reclaim", after_reclaim),
    ("private-all-ram", all_ram),
    ("shared-taken-back", taken_back),
    ("shared-donate", shared_donate),
];

/// A VM whose guest has the secret in its page, and says so.
pub(crate) fn secretive() -> Result<Vm, Failure> {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    guest.command(Do::Fill, &[SECRET_IPA, 512, SECRET])?;
    let seen = guest.peek(SECRET_IPA + 8)?;
    given!(seen == SECRET, "the guest has {seen:#x} for a secret");
    Ok(vm)
}

/// The guest still has its secret.
pub(crate) fn intact(vm: &Vm) -> Result<(), Failure> {
    for offset in [0, 8, 2048, 4088] {
        let seen = vm.first().peek(SECRET_IPA + offset)?;
        require!(seen == SECRET, "the guest's secret became {seen:#x}");
    }
    Ok(())
}

fn read() -> Outcome {
    let vm = secretive()?;
    for at in (vm.ram..vm.ram + PAGES * PAGE_SIZE).step_by(64) {
        let seen = access::read(at);
        require!(
            seen.is_err_and(|f| f.is_external_abort()),
            "{at:#x}: {seen:x?}"
        );
    }
    intact(&vm)?;
    refused!("{PAGES} pages, an abort on every line")
}

fn write() -> Outcome {
    let vm = secretive()?;
    let pa = vm.secret_pa();
    for at in (pa..pa + PAGE_SIZE).step_by(8) {
        let wrote = access::write(at, 0xbad);
        require!(wrote.is_err(), "wrote {at:#x}");
    }
    intact(&vm)?;
    refused!("an abort on every word, the secret intact")
}

fn execute() -> Outcome {
    let vm = secretive()?;
    // A RET: whoever fetches it comes back with nothing to tell.
    vm.first().poke(SECRET_IPA, 0xd65f_03c0)?;
    let fault = access::execute(vm.secret_pa());
    require!(fault.is_some_and(|f| f.is_external_abort()), "{fault:x?}");
    refused!("instruction abort")
}

fn touch() -> Outcome {
    let vm = secretive()?;
    for how in Touch::ALL {
        let fault = access::touch(vm.secret_pa(), how);
        require!(
            fault.is_some_and(|f| f.is_external_abort()),
            "{how:?}: {fault:x?}"
        );
    }
    intact(&vm)?;
    refused!("{} kinds of access", Touch::ALL.len())
}

/// The frame into a second VM, which would read it.
fn second_vm() -> Outcome {
    let vm = secretive()?;
    let thief = Vm::running(true, 1)?;
    let ipa = guest::RAM + (1 << 20);
    let answer = call::host(
        HostCall::MemDonate,
        &[thief.handle, ipa, vm.secret_pa() / PAGE_SIZE, 1],
    );
    let seen = thief.first().peek(ipa);
    require!(
        answer == Err(Error::Denied),
        "donated: {answer:?}, the second VM reads {seen:x?}"
    );
    require!(
        matches!(seen, Err(Stop::Exit(exit)) if exit.is(ExitReason::MmioRead)),
        "read {seen:x?}"
    );
    intact(&vm)?;
    refused!("Denied, and the second VM maps nothing there")
}

fn second_ipa() -> Outcome {
    let vm = secretive()?;
    let ipa = guest::RAM + (1 << 20);
    let answer = call::host(
        HostCall::MemDonate,
        &[vm.handle, ipa, vm.secret_pa() / PAGE_SIZE, 1],
    );
    require!(
        answer == Err(Error::Denied),
        "one frame at two IPAs: {answer:?}"
    );
    refused!("Denied")
}

/// Another frame at the secret's IPA: the guest would find what the host put there.
fn replace() -> Outcome {
    let vm = secretive()?;
    let forged = frames::take(1);
    access::fill(forged, PAGE_SIZE, 0xf0f0);
    let answer = call::host(
        HostCall::MemDonate,
        &[vm.handle, SECRET_IPA, forged / PAGE_SIZE, 1],
    );
    require!(answer == Err(Error::Exists), "replaced: {answer:?}");
    require!(
        access::read(forged) == Ok(0xf0f0),
        "the frame is gone all the same"
    );
    intact(&vm)?;
    refused!("Exists, the secret intact")
}

fn lend() -> Outcome {
    let vm = secretive()?;
    let open = Vm::running(false, 1)?;
    let ipa = guest::RAM + (1 << 20);
    let answer = call::host(
        HostCall::MemLend,
        &[open.handle, ipa, vm.secret_pa() / PAGE_SIZE, 1],
    );
    require!(answer == Err(Error::Denied), "lent: {answer:?}");
    intact(&vm)?;
    refused!("Denied")
}

/// As the run page of another VM: the core would write into it and take orders from it.
fn run_page() -> Outcome {
    let vm = secretive()?;
    let other = Vm::create(true, 1)?;
    let answer = call::host(
        HostCall::VcpuCreate,
        &[other.handle, 0, vm.secret_pa() / PAGE_SIZE],
    );
    require!(
        answer == Err(Error::Denied),
        "a private page became a run page: {answer:?}"
    );
    intact(&vm)?;
    refused!("Denied")
}

fn unmap() -> Outcome {
    let vm = secretive()?;
    let answer = call::host(HostCall::MemUnmap, &[vm.handle, SECRET_IPA, 1]);
    require!(
        answer == Err(Error::Denied),
        "unmapped private memory: {answer:?}"
    );
    require!(
        access::read(vm.secret_pa()).is_err(),
        "the page is readable"
    );
    intact(&vm)?;
    refused!("Denied")
}

/// The VM has switched itself off; its memory is still its own.
fn stopped() -> Outcome {
    let vm = secretive()?;
    let off = vm.first().hvc(abi::psci::SYSTEM_OFF.into(), 0);
    given!(
        matches!(off, Err(Stop::Exit(e)) if e.is(ExitReason::SystemOff)),
        "no SYSTEM_OFF: {off:x?}"
    );
    require!(
        access::read(vm.secret_pa()).is_err(),
        "readable after SYSTEM_OFF"
    );
    let answer = call::host(
        HostCall::MemReclaim,
        &[vm.handle, vm.secret_pa() / PAGE_SIZE, 1],
    );
    require!(
        answer == Err(Error::BadState),
        "reclaimed from a stopped VM: {answer:?}"
    );
    refused!("an abort, and BadState for a reclaim")
}

fn after_destroy() -> Outcome {
    let vm = secretive()?;
    let left = vm.kill()?;
    given!(left == PAGES, "{left} frames are left, not {PAGES}");
    for at in (vm.secret_pa()..vm.secret_pa() + PAGE_SIZE).step_by(8) {
        let seen = access::read(at);
        require!(
            seen.is_err(),
            "read {seen:x?} after destroy, before reclaim"
        );
    }
    require!(
        access::write(vm.secret_pa(), 1).is_err(),
        "wrote after destroy"
    );
    refused!("an abort until reclaimed")
}

fn after_reclaim() -> Outcome {
    let mut vm = secretive()?;
    let (pa, ram) = (vm.secret_pa(), vm.ram);
    vm.finish()?;
    for at in (ram..ram + PAGES * PAGE_SIZE).step_by(8) {
        let seen = access::word(at);
        require!(seen == 0, "{at:#x} still holds {seen:#x}");
    }
    given!(access::write(pa, 1).is_ok(), "the frame did not come back");
    refused!("all words are zero")
}

/// Nowhere in all RAM is the secret to be found, alive or dead.
fn all_ram() -> Outcome {
    let mut vm = secretive()?;
    let look = || {
        let own = access::image();
        (crate::board::RAM..frames::ram_end())
            .step_by(PAGE_SIZE as usize)
            .filter(|at| *at + PAGE_SIZE <= own.0 || *at >= own.1)
            .find(|at| {
                [8, 1024, 4080]
                    .iter()
                    .any(|offset| access::read(at + offset) == Ok(SECRET))
            })
    };
    let alive = look();
    require!(alive.is_none(), "the secret is at {alive:x?}");
    vm.finish()?;
    let dead = look();
    require!(
        dead.is_none(),
        "after the VM's end the secret is at {dead:x?}"
    );
    refused!("not found, during the VM's life and after")
}

/// A page that was shared and is private again.
fn taken_back() -> Outcome {
    let vm = secretive()?;
    let guest = vm.first();
    let pa = vm.secret_pa();
    given!(guest.hvc(MEM_SHARE, SECRET_IPA)? == 0, "MEM_SHARE fails");
    let shared = access::read(pa);
    given!(shared == Ok(SECRET), "a shared page reads as {shared:x?}");
    given!(
        guest.hvc(MEM_UNSHARE, SECRET_IPA)? == 0,
        "MEM_UNSHARE fails"
    );
    guest.poke(SECRET_IPA, SECRET + 1)?;
    let seen = access::read(pa);
    require!(seen.is_err(), "read {seen:x?} after MEM_UNSHARE");
    require!(access::write(pa, 0).is_err(), "wrote after MEM_UNSHARE");
    refused!("an abort from MEM_UNSHARE on")
}

/// A shared page is still the VM's: nobody gives it away.
fn shared_donate() -> Outcome {
    let vm = secretive()?;
    given!(
        vm.first().hvc(MEM_SHARE, SECRET_IPA)? == 0,
        "MEM_SHARE fails"
    );
    let thief = Vm::create(true, 2)?;
    let open = Vm::create(false, 1)?;
    let pfn = vm.secret_pa() / PAGE_SIZE;
    let answers = [
        call::host(HostCall::MemDonate, &[thief.handle, guest::RAM, pfn, 1]),
        call::host(HostCall::MemLend, &[open.handle, guest::RAM, pfn, 1]),
        call::host(HostCall::VcpuCreate, &[thief.handle, 0, pfn]),
        call::host(HostCall::MemUnmap, &[vm.handle, SECRET_IPA, 1]),
    ];
    require!(
        answers.iter().all(|a| *a == Err(Error::Denied)),
        "{answers:?}"
    );
    let taken = whole(HostCall::MemReclaim, [vm.handle, 0, pfn], 1);
    require!(
        taken == Err(Error::BadState),
        "reclaimed a live VM's page: {taken:?}"
    );
    intact(&vm)?;
    refused!("Denied by every call")
}
