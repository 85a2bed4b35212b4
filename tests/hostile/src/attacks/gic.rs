//! Row 17: the parts of the GIC that write memory, or reach past the core; and the one other device of
//! this board that does.

use super::Attack;
use crate::access::{self, Touch};
use crate::guest::Stop;
use crate::verdict::{Outcome, given, refused, require};
use crate::vm::Vm;
use crate::{board, frames, gic, smp};
use abi::PAGE_SIZE;
use abi::run::ExitReason;
use core::sync::atomic::{AtomicU64, Ordering};

pub(crate) const ATTACKS: &[Attack] = &[
    ("gicr-lpi-tables", lpi_tables),
    ("gicr-lpi-enable", lpi_enable),
    ("gicr-every-page", every_page),
    ("gicr-touch", touch),
    ("its-read", its_read),
    ("its-write", its_write),
    ("its-execute", its_execute),
    ("gich-read", gich_read),
    ("gich-write", gich_write),
    ("gicv-read", gicv_read),
    ("gicv-write", gicv_write),
    ("vm-reaches-gic", vm_reaches),
    ("fw-cfg-dma", fw_cfg),
];

/// RD_base of each CPU's redistributor.
fn redistributors() -> impl Iterator<Item = u64> {
    (0..smp::count() as u64).map(|n| board::GICR + n * board::GICR_STRIDE)
}

/// A 64-bit register takes no write, whole or by halves, and stays as it is.
fn holds(at: u64, value: u64) -> Outcome {
    let before = access::read(at)?;
    let writes = [
        access::write(at, value).is_ok(),
        access::write32(at, value as u32).is_ok(),
        access::write32(at + 4, (value >> 32) as u32).is_ok(),
    ];
    let after = access::read(at)?;
    require!(writes == [false; 3], "{at:#x} took {writes:?}");
    require!(
        after == before,
        "{at:#x} went from {before:#x} to {after:#x}"
    );
    refused!("")
}

/// GICR_PROPBASER and GICR_PENDBASER aimed at core memory.
fn lpi_tables() -> Outcome {
    gic::needs(3)?;
    let core = frames::core_pages().next().unwrap_or(0);
    for base in redistributors() {
        holds(base + 0x70, core | 0xf)?;
        holds(base + 0x78, core)?;
    }
    refused!("an abort on each write, read-only to look at")
}

/// GICR_CTLR.EnableLPIs; GICR_WAKER.
fn lpi_enable() -> Outcome {
    gic::needs(3)?;
    for base in redistributors() {
        for (offset, value) in [(0, 1), (0x14, 2)] {
            let before = access::read32(base + offset)?;
            require!(
                access::write32(base + offset, value).is_err(),
                "{:#x} took a write",
                base + offset
            );
            let after = access::read32(base + offset)?;
            require!(after & 7 == before & 7, "{before:#x} became {after:#x}");
        }
    }
    refused!("an abort on each write")
}

/// All of RD_base, and the distributor in between, so that a larger block might be mapped.
fn every_page() -> Outcome {
    gic::needs(3)?;
    let mut pages = 0;
    for base in redistributors() {
        given!(
            access::read32(board::GICD + 4).is_ok(),
            "the distributor is not the host's"
        );
        for at in (base..base + 0x1_0000).step_by(PAGE_SIZE as usize) {
            require!(access::write32(at, 0).is_err(), "{at:#x} took a write");
            pages += 1;
        }
        // SGI_base is the hostvisor's own.
        given!(
            access::write32(base + 0x1_0000 + 0x380, 0).is_ok(),
            "SGI_base is not writable"
        );
    }
    refused!("{pages} pages, an abort each")
}

fn touch() -> Outcome {
    gic::needs(3)?;
    for base in redistributors() {
        require!(
            access::touch(base + 0x70, Touch::StorePair).is_some(),
            "STP went through"
        );
    }
    refused!("an abort")
}

fn its_pages() -> impl Iterator<Item = u64> {
    (board::ITS..board::ITS + 0x2_0000).step_by(PAGE_SIZE as usize)
}

fn its_read() -> Outcome {
    gic::needs(3)?;
    for at in its_pages() {
        let seen = access::read32(at + 8);
        require!(
            seen.is_err_and(|f| f.is_external_abort()),
            "{at:#x}: {seen:x?}"
        );
    }
    refused!("an abort on every page")
}

/// GITS_CTLR, GITS_CBASER, GITS_BASER, GITS_TRANSLATER.
fn its_write() -> Outcome {
    gic::needs(3)?;
    let core = frames::core_pages().next().unwrap_or(0);
    for at in [0, 0x80, 0x88, 0x100, 0x108, 0x1_0040].map(|offset| board::ITS + offset) {
        require!(
            access::write32(at, core as u32 | 1).is_err(),
            "{at:#x} took a write"
        );
    }
    for at in its_pages() {
        require!(access::write32(at, 1).is_err(), "{at:#x} took a write");
    }
    refused!("an abort on every page")
}

fn its_execute() -> Outcome {
    for at in [board::ITS, board::GICR, board::GICD, board::UART] {
        // Stage 1 forbids it already; this is about surviving.
        require!(access::execute(at).is_some(), "ran {at:#x}");
    }
    refused!("an abort")
}

/// Looking at every page of `frame`, after the distributor near it, so that a larger block might be mapped.
fn no_page_reads(frame: u64) -> Outcome {
    gic::needs(2)?;
    given!(
        access::read32(board::GICD + 4).is_ok() && access::read32(board::GICC + 4).is_ok(),
        "distributor and CPU interface are not the host's"
    );
    for at in (frame..frame + board::GICV2_FRAME).step_by(PAGE_SIZE as usize) {
        for offset in [0, 4, 0xc] {
            let seen = access::read32(at + offset);
            require!(
                seen.is_err_and(|f| f.is_external_abort()),
                "{:#x}: {seen:x?}",
                at + offset
            );
        }
        require!(
            access::touch(at, Touch::Pair).is_some(),
            "LDP of {at:#x} went through"
        );
    }
    refused!("an abort on every page")
}

/// Each of these registers of `frame` takes no write on any CPU, and every page none.
fn no_page_writes(frame: u64, registers: &[(u64, u32)]) -> Outcome {
    gic::needs(2)?;
    let passed = AtomicU64::new(0);
    let write = |at, value| {
        if access::write32(at, value).is_ok() {
            passed.store(at, Ordering::SeqCst);
        }
    };
    // Each CPU has registers of its own there.
    smp::together(smp::count(), &|_| {
        for (offset, value) in registers {
            write(frame + offset, *value);
        }
        for at in (frame..frame + board::GICV2_FRAME).step_by(PAGE_SIZE as usize) {
            write(at, 0);
        }
    });
    let passed = passed.into_inner();
    require!(passed == 0, "{passed:#x} took a write");
    refused!("an abort on each write")
}

/// GICH_HCR, GICH_VMCR, GICH_APR, GICH_LR: what a VM's interface holds.
fn gich_read() -> Outcome {
    no_page_reads(board::GICH)
}

/// GICH_LR past the corevisor's checks: pending, HW, the physical interrupt of somebody else; GICH_HCR with all traps.
fn gich_write() -> Outcome {
    let foreign = 1 << 31 | 1 << 28 | 33 << 10 | 33;
    no_page_writes(
        board::GICH,
        &[
            (0x100, foreign),
            (0x10c, foreign),
            (0, u32::MAX),
            (0x8, 0),
            (0xf0, 0),
        ],
    )
}

/// GICV_IAR: takes the interrupt that a VM waits for.
fn gicv_read() -> Outcome {
    no_page_reads(board::GICV)
}

/// GICV_EOIR, GICV_DIR: ends what a VM has taken, down to the physical interrupt.
fn gicv_write() -> Outcome {
    no_page_writes(
        board::GICV,
        &[(0x10, 33), (0x24, 33), (0x1000, 33), (0, 0), (0x4, 0)],
    )
}

/// A guest finds no physical device at any address that it maps nothing at.
fn vm_reaches() -> Outcome {
    let all = [
        board::GICD,
        board::GICH,
        board::GICV,
        board::ITS,
        board::GICR,
        0,
        0x0a00_0000,
    ];
    for at in all {
        let vm = Vm::running(true, 1)?;
        let seen = vm.first().peek(at);
        let exits =
            matches!(seen, Err(Stop::Exit(e)) if e.is(ExitReason::MmioRead) && e.args[0] == at);
        require!(exits, "{at:#x}: {seen:x?}");
    }
    refused!("an exit to the hostvisor")
}

/// QEMU's fw_cfg copies files to wherever its DMA address register says: here, over core memory.
fn fw_cfg() -> Outcome {
    let core = frames::core_pages().next().unwrap_or(0);
    // FWCfgDmaAccess, big-endian: select file 0 and read, 4 bytes, to core memory.
    let order = frames::take(1);
    access::set_word(
        order,
        u64::from(0x0au32.to_be()) | u64::from(4u32.to_be()) << 32,
    );
    access::set_word(order + 8, core.to_be());
    let wrote = access::write(board::FW_CFG + 16, order.to_be());
    require!(
        wrote.is_err(),
        "the DMA went out; it says {:#x}",
        access::word(order)
    );
    let signature = access::read(board::FW_CFG);
    require!(signature.is_err(), "it reads {signature:x?}");
    refused!("an abort")
}
