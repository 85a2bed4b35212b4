//! Row 5: the wrong call at the wrong time, on the wrong VM, with the wrong index.

use super::{Attack, SECRET};
use crate::guest::{self, Do, Stop};
use crate::verdict::{Outcome, given, refused, require};
use crate::vm::{PAGES, SECRET_IPA, Vm, kill};
use crate::{access, call, frames};
use abi::hypercall::CoreInfo;
use abi::run::ExitReason;
use abi::{Error, HostCall, PAGE_SIZE};

pub(crate) const ATTACKS: &[Attack] = &[
    ("reclaim-live", reclaim_live),
    ("reclaim-foreign", reclaim_foreign),
    ("destroy-twice", destroy_twice),
    ("handle-after-destroy", after_destroy),
    ("handle-of-predecessor", predecessor),
    ("handle-wild", wild),
    ("index-wild", index_wild),
    ("create-wild", create_wild),
    ("order-wrong", order),
    ("start-again", start_again),
    ("boot-data-wild", boot_data),
    ("lend-to-protected", lend_to_protected),
    ("donate-to-open", donate_to_open),
    ("give-to-dying", give_to_dying),
    ("info-wild", info_wild),
];

const NEW: u64 = guest::RAM + (1 << 20);

/// Every call that takes a handle, with harmless other arguments.
fn calls(handle: u64) -> [(HostCall, Result<u64, Error>); 11] {
    let pfn = frames::take(1) / PAGE_SIZE;
    [
        (HostCall::VmSetBoot, [handle, guest::RAM, 0, 0]),
        (HostCall::VmStart, [handle, 0, 0, 0]),
        (HostCall::MemDonate, [handle, NEW, pfn, 1]),
        (HostCall::MemLend, [handle, NEW, pfn, 1]),
        (HostCall::MemUnmap, [handle, NEW, 1, 0]),
        (HostCall::MemReclaim, [handle, pfn, 1, 0]),
        (HostCall::VcpuCreate, [handle, 0, pfn, 0]),
        (HostCall::VcpuRun, [handle, 0, 0, 0]),
        (HostCall::VcpuPut, [handle, 0, 0, 0]),
        (HostCall::VcpuStat, [handle, 0, 0, 0]),
        (HostCall::VmDestroy, [handle, 0, 0, 0]),
    ]
    .map(|(call, args)| (call, call::host(call, &args)))
}

fn reclaim_live() -> Outcome {
    let mut vm = Vm::create(true, 1)?;
    vm.load()?;
    let pfn = vm.secret_pa() / PAGE_SIZE;
    let building = call::host(HostCall::MemReclaim, &[vm.handle, pfn, 1]);
    vm.start(0)?;
    vm.first().poke(SECRET_IPA, SECRET)?;
    let running = call::host(HostCall::MemReclaim, &[vm.handle, pfn, 1]);
    require!(
        building == Err(Error::BadState) && running == Err(Error::BadState),
        "building: {building:?}, running: {running:?}"
    );
    require!(access::read(vm.secret_pa()).is_err(), "readable");
    require!(
        vm.first().peek(SECRET_IPA)? == SECRET,
        "the guest's memory changed"
    );
    refused!("BadState")
}

/// A dead VM's handle, another's frames.
fn reclaim_foreign() -> Outcome {
    let victim = super::private::secretive()?;
    let open = Vm::running(false, 1)?;
    let dead = Vm::running(true, 1)?;
    let left = dead.kill()?;
    given!(left == PAGES, "the dead VM has {left} frames");
    let core = frames::core_pages().next().unwrap_or(0);
    for at in [
        victim.secret_pa(),
        open.secret_pa(),
        victim.first().page,
        frames::take(1),
        core,
        0,
    ] {
        let answer = call::host(HostCall::MemReclaim, &[dead.handle, at / PAGE_SIZE, 1]);
        require!(
            answer == Err(Error::Denied),
            "reclaimed {at:#x}: {answer:?}"
        );
    }
    super::private::intact(&victim)?;
    require!(
        open.first().command(Do::Count, &[3])? == 3,
        "the open VM is broken"
    );
    refused!("Denied")
}

fn destroy_twice() -> Outcome {
    let mut vm = Vm::running(true, 1)?;
    let (handle, ram) = (vm.handle, vm.ram);
    let left = vm.kill()?;
    let again = kill(handle)?;
    require!(left == again, "{left} frames left, then {again}");
    vm.finish()?;
    let third = call::host(HostCall::VmDestroy, &[handle]);
    require!(
        third == Err(Error::NotFound),
        "destroyed after its end: {third:?}"
    );
    given!(access::read(ram).is_ok(), "its memory did not come back");
    refused!("repeating changes nothing; NotFound after the end")
}

fn after_destroy() -> Outcome {
    let mut vm = Vm::running(true, 1)?;
    let handle = vm.handle;
    vm.finish()?;
    for (call, answer) in calls(handle) {
        require!(answer == Err(Error::NotFound), "{call:?}: {answer:?}");
    }
    refused!("NotFound by every call")
}

/// The handle of the VM that had the slot before.
fn predecessor() -> Outcome {
    let mut old = Vm::running(true, 1)?;
    let handle = old.handle;
    old.finish()?;
    let vm = Vm::running(true, 1)?;
    given!(
        vm.handle & 0xff == handle & 0xff,
        "another slot: {:#x}, {handle:#x}",
        vm.handle
    );
    require!(vm.handle != handle, "the same handle again");
    vm.first().poke(SECRET_IPA, SECRET)?;
    for (call, answer) in calls(handle) {
        require!(answer == Err(Error::NotFound), "{call:?}: {answer:?}");
    }
    require!(
        vm.first().peek(SECRET_IPA)? == SECRET,
        "the new tenant suffered"
    );
    refused!("NotFound by every call")
}

fn wild() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let slot = vm.handle & 0xff;
    let wild = [
        0,
        slot,
        u64::MAX,
        u64::MAX << 8 | slot,
        vm.handle + 1,
        vm.handle ^ 1 << 8,
        vm.handle | 1 << 63,
        vm.handle | 1 << 32,
        vm.handle << 8,
        (vm.handle & !0xff) | 0xff,
        (vm.handle & !0xff) | 64,
        1 << 63,
    ];
    for handle in wild {
        for (call, answer) in calls(handle) {
            require!(
                answer == Err(Error::NotFound),
                "{call:?} of {handle:#x}: {answer:?}"
            );
        }
        frames::take(0);
    }
    require!(vm.first().command(Do::Count, &[5])? == 5, "a VM suffered");
    refused!("{} handles, NotFound by every call", wild.len())
}

fn index_wild() -> Outcome {
    let vm = Vm::running(true, 2)?;
    let mut building = Vm::create(true, 2)?;
    building.load()?;
    let pfn = frames::take(1) / PAGE_SIZE;
    for index in [2, 3, 15, 16, 17, 255, 256, 1 << 32, 1 << 63, u64::MAX] {
        for call in [HostCall::VcpuRun, HostCall::VcpuPut, HostCall::VcpuStat] {
            let answer = call::host(call, &[vm.handle, index, 0]);
            require!(
                answer == Err(Error::NotFound),
                "{call:?} of vCPU {index:#x}: {answer:?}"
            );
        }
        let answer = call::host(HostCall::VcpuCreate, &[building.handle, index, pfn]);
        require!(
            answer == Err(Error::Invalid),
            "create vCPU {index:#x}: {answer:?}"
        );
    }
    let again = call::host(HostCall::VcpuCreate, &[building.handle, 0, pfn]);
    require!(again == Err(Error::Exists), "vCPU 0 again: {again:?}");
    for counter in [4, 5, 255, 1 << 32, u64::MAX] {
        let answer = call::host(HostCall::VcpuStat, &[vm.handle, 0, counter]);
        require!(
            answer == Err(Error::Invalid),
            "counter {counter:#x}: {answer:?}"
        );
    }
    require!(
        access::write(pfn * PAGE_SIZE, 1).is_ok(),
        "a refused call took the frame"
    );
    refused!("NotFound, Invalid or Exists")
}

fn create_wild() -> Outcome {
    let wild = [
        (2, 1),
        (3, 1),
        (1 << 63, 1),
        (u64::MAX, 1),
        (1 << 32 | 1, 1),
        (1, 0),
        (1, 17),
        (1, 256),
        (1, 1 << 32),
        (1, u64::MAX),
        (0, 0),
    ];
    let free = call::info(CoreInfo::PoolFree);
    for (flags, vcpus) in wild {
        let answer = call::host(HostCall::VmCreate, &[flags, vcpus]);
        require!(
            answer == Err(Error::Invalid),
            "flags {flags:#x}, {vcpus:#x} vCPUs: {answer:x?}"
        );
    }
    require!(
        call::info(CoreInfo::PoolFree) == free,
        "table frames are missing"
    );
    refused!("Invalid each")
}

/// Running, starting and building in the wrong order.
fn order() -> Outcome {
    let mut other = Vm::create(true, 1)?;
    other.load()?;
    let no_boot = call::host(HostCall::VmStart, &[other.handle]);
    require!(
        no_boot == Err(Error::BadState),
        "started without boot data: {no_boot:?}"
    );
    let mut vm = Vm::create(true, 1)?;
    call::host(HostCall::VmSetBoot, &[vm.handle, guest::RAM, 0])?;
    let no_vcpu = call::host(HostCall::VmStart, &[vm.handle]);
    require!(
        no_vcpu == Err(Error::BadState),
        "started without a vCPU: {no_vcpu:?}"
    );
    vm.load()?;
    let early = vm.first().step();
    require!(
        early == Err(Error::BadState),
        "ran before the start: {early:x?}"
    );
    let unmapped = call::host(HostCall::MemUnmap, &[vm.handle, guest::RAM, 1]);
    require!(
        unmapped == Err(Error::Denied),
        "unmapped donated memory: {unmapped:?}"
    );
    refused!("BadState")
}

/// What a running VM started from cannot be changed.
fn start_again() -> Outcome {
    let vm = Vm::running(true, 2)?;
    let pfn = frames::take(1) / PAGE_SIZE;
    given!(
        vm.first().command(Do::Count, &[5])? == 5,
        "the VM does not run"
    );
    let answers = [
        call::host(HostCall::VmStart, &[vm.handle]),
        call::host(HostCall::VmSetBoot, &[vm.handle, guest::RAM + 0x100, 9]),
        call::host(HostCall::VcpuCreate, &[vm.handle, 1, pfn]),
    ];
    require!(answers == [Err(Error::BadState); 3], "{answers:?}");
    require!(
        vm.first().command(Do::Context, &[])? == 0,
        "x0 was set anew"
    );
    refused!("BadState")
}

fn boot_data() -> Outcome {
    let vm = Vm::create(true, 1)?;
    for entry in [
        guest::RAM + 1,
        guest::RAM + 2,
        1 << 36,
        1 << 48,
        u64::MAX,
        u64::MAX - 3,
    ] {
        let answer = call::host(HostCall::VmSetBoot, &[vm.handle, entry, 0]);
        require!(
            answer == Err(Error::Invalid),
            "entry {entry:#x}: {answer:?}"
        );
    }
    refused!("Invalid")
}

/// A protected VM with memory that the host keeps.
fn lend_to_protected() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let frame = frames::take(1);
    let answer = call::host(HostCall::MemLend, &[vm.handle, NEW, frame / PAGE_SIZE, 1]);
    require!(answer == Err(Error::Denied), "{answer:?}");
    let seen = vm.first().peek(NEW);
    require!(
        matches!(seen, Err(Stop::Exit(e)) if e.is(ExitReason::MmioRead)),
        "{seen:x?}"
    );
    refused!("Denied")
}

fn donate_to_open() -> Outcome {
    let vm = Vm::running(false, 1)?;
    let frame = frames::take(1);
    let answer = call::host(HostCall::MemDonate, &[vm.handle, NEW, frame / PAGE_SIZE, 1]);
    require!(answer == Err(Error::Denied), "{answer:?}");
    require!(access::read(frame).is_ok(), "the frame is gone");
    refused!("Denied")
}

fn give_to_dying() -> Outcome {
    let vm = Vm::running(true, 1)?;
    vm.kill()?;
    let frame = frames::take(1);
    let answers = [
        call::host(HostCall::MemDonate, &[vm.handle, NEW, frame / PAGE_SIZE, 1]),
        call::host(HostCall::VmSetBoot, &[vm.handle, guest::RAM, 0]),
        call::host(HostCall::VmStart, &[vm.handle]),
        call::host(HostCall::VcpuCreate, &[vm.handle, 0, frame / PAGE_SIZE]),
    ];
    require!(answers == [Err(Error::BadState); 4], "{answers:?}");
    let run = call::host(HostCall::VcpuRun, &[vm.handle, 0]);
    require!(run == Err(Error::NotFound), "ran: {run:?}");
    require!(access::read(frame).is_ok(), "the frame is gone");
    refused!("BadState; NotFound for its vCPU")
}

fn info_wild() -> Outcome {
    for index in [11, 12, 255, 1 << 32, u64::MAX] {
        let answer = call::host(HostCall::CoreInfo, &[index]);
        require!(
            answer == Err(Error::Invalid),
            "fact {index:#x}: {answer:x?}"
        );
    }
    refused!("Invalid")
}
