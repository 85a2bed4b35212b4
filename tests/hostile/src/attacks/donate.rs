//! Row 3: giving away what is not the hostvisor's, by each of the calls that take a frame.

use super::Attack;
use crate::guest;
use crate::verdict::{Outcome, given, refused, require};
use crate::vm::{FREE_PAGE, SECRET_IPA, Vm};
use crate::{access, board, call, frames};
use abi::{Error, HostCall, PAGE_SIZE};

pub(crate) const ATTACKS: &[Attack] = &[
    ("donate-core", donate_core),
    ("lend-core", lend_core),
    ("run-page-core", run_page_core),
    ("donate-mmio", donate_mmio),
    ("lend-mmio", lend_mmio),
    ("run-page-mmio", run_page_mmio),
    ("donate-outside-ram", donate_outside),
    ("donate-run-page", donate_run_page),
    ("donate-lent", donate_lent),
    ("run-page-twice", run_page_twice),
    ("run-page-lent", run_page_lent),
    ("donate-into-core", donate_into_core),
];

const NEW: u64 = guest::RAM + (1 << 20);

fn core_frames() -> impl Iterator<Item = u64> {
    frames::core_pages().map(|at| at / PAGE_SIZE)
}

fn mmio_frames() -> impl Iterator<Item = u64> {
    [
        board::GICD,
        board::ITS,
        board::ITS + 0x1_0000,
        board::GICR,
        board::GICR + 0x1_0000,
        0,
        board::UART,
    ]
    .into_iter()
    .map(|at| at / PAGE_SIZE)
}

fn all_denied(call: HostCall, vm: u64, pfns: impl Iterator<Item = u64>) -> Outcome {
    let mut tried = 0;
    for pfn in pfns {
        let args = [vm, NEW, pfn, 1];
        let answer = match call {
            HostCall::VcpuCreate => call::host(call, &[vm, 1, pfn]),
            _ => call::host(call, &args),
        };
        require!(
            answer == Err(Error::Denied),
            "{call:?} of frame {pfn:#x}: {answer:x?}"
        );
        tried += 1;
    }
    given!(tried > 0, "no frame to try");
    refused!("{tried} frames, Denied each")
}

fn donate_core() -> Outcome {
    all_denied(
        HostCall::MemDonate,
        Vm::running(true, 1)?.handle,
        core_frames(),
    )
}

fn lend_core() -> Outcome {
    all_denied(
        HostCall::MemLend,
        Vm::running(false, 1)?.handle,
        core_frames(),
    )
}

fn run_page_core() -> Outcome {
    all_denied(
        HostCall::VcpuCreate,
        Vm::create(true, 2)?.handle,
        core_frames(),
    )
}

fn donate_mmio() -> Outcome {
    all_denied(
        HostCall::MemDonate,
        Vm::running(true, 1)?.handle,
        mmio_frames(),
    )
}

fn lend_mmio() -> Outcome {
    all_denied(
        HostCall::MemLend,
        Vm::running(false, 1)?.handle,
        mmio_frames(),
    )
}

fn run_page_mmio() -> Outcome {
    all_denied(
        HostCall::VcpuCreate,
        Vm::create(true, 2)?.handle,
        mmio_frames(),
    )
}

fn donate_outside() -> Outcome {
    let end = frames::ram_end() / PAGE_SIZE;
    let vm = Vm::running(true, 1)?;
    let pfns = [
        end,
        end + 1,
        end + (1 << 18),
        (1 << 36) - 1,
        1 << 35,
        board::RAM / PAGE_SIZE - 1,
    ];
    all_denied(HostCall::MemDonate, vm.handle, pfns.into_iter())
}

fn donate_run_page() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let guest = vm.first();
    let pfn = guest.page / PAGE_SIZE;
    let open = Vm::create(false, 1)?;
    let answers = [
        call::host(HostCall::MemDonate, &[vm.handle, NEW, pfn, 1]),
        call::host(HostCall::MemLend, &[open.handle, NEW, pfn, 1]),
    ];
    require!(answers == [Err(Error::Denied); 2], "{answers:?}");
    given!(
        access::read(guest.page).is_ok(),
        "the run page is not the host's to see"
    );
    refused!("Denied")
}

/// Lent memory is in an open VM's hands; a protected one must not get it as private.
fn donate_lent() -> Outcome {
    let open = Vm::running(false, 1)?;
    let pa = open.ram + FREE_PAGE * PAGE_SIZE;
    access::set_word(pa, 77);
    given!(
        open.first().peek(SECRET_IPA)? == 77,
        "the open VM does not see its loan"
    );
    let vm = Vm::running(true, 1)?;
    let answer = call::host(HostCall::MemDonate, &[vm.handle, NEW, pa / PAGE_SIZE, 1]);
    require!(
        answer == Err(Error::Denied),
        "donated a lent frame: {answer:?}"
    );
    let again = call::host(HostCall::MemLend, &[open.handle, NEW, pa / PAGE_SIZE, 1]);
    require!(again == Err(Error::Denied), "lent twice: {again:?}");
    refused!("Denied")
}

fn run_page_twice() -> Outcome {
    let vm = Vm::running(true, 1)?;
    let other = Vm::create(true, 1)?;
    let answer = call::host(
        HostCall::VcpuCreate,
        &[other.handle, 0, vm.first().page / PAGE_SIZE],
    );
    require!(
        answer == Err(Error::Denied),
        "one run page for two vCPUs: {answer:?}"
    );
    refused!("Denied")
}

fn run_page_lent() -> Outcome {
    let open = Vm::running(false, 1)?;
    let other = Vm::create(true, 1)?;
    let answer = call::host(
        HostCall::VcpuCreate,
        &[other.handle, 0, open.secret_pa() / PAGE_SIZE],
    );
    require!(
        answer == Err(Error::Denied),
        "a lent page became a run page: {answer:?}"
    );
    refused!("Denied")
}

/// A range that begins in Host memory and runs on into the core's.
fn donate_into_core() -> Outcome {
    // The core's image is where the firmware put it, 2 MiB behind the start of RAM and behind nothing that
    // is in use.
    let (base, _) = frames::withheld().next().unwrap_or_default();
    let start = base - 2 * PAGE_SIZE;
    given!(
        access::read(start).is_ok() && access::read(base).is_err(),
        "the core does not begin at {base:#x}"
    );
    let mut vm = Vm::create(true, 1)?;
    let done = call::host(HostCall::MemDonate, &[vm.handle, NEW, start / PAGE_SIZE, 8])?;
    vm.note(start, done);
    require!(
        done == 2,
        "{done} frames were donated, of which 2 were Host's"
    );
    refused!("stopped after the 2 frames that were Host's")
}
