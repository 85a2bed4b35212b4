//! Row 1: the corevisor's own memory.

use super::Attack;
use crate::access::{self, Touch};
use crate::cpu::{mrs, msr};
use crate::exception::attempt;
use crate::verdict::{Outcome, given, refused, require};
use crate::{board, call, cpu, frames};
use abi::PAGE_SIZE;
use abi::hypercall::CoreInfo;

pub(crate) const ATTACKS: &[Attack] = &[
    ("core-read", read),
    ("core-write", write),
    ("core-execute", execute),
    ("core-touch", touch),
    ("core-walk", walk),
    ("core-scan", scan),
];

/// Every page that the core says is its own, by an ordinary load.
fn read() -> Outcome {
    let mut pages = 0;
    for at in frames::core_pages() {
        match access::read(at + 8 * (pages % 512)) {
            Ok(value) => require!(false, "read {value:#x} at {at:#x}"),
            Err(fault) => require!(
                fault.is_external_abort() && fault.far & !0xfff == at,
                "{at:#x}: {fault:x?}"
            ),
        }
        pages += 1;
    }
    given!(pages > 100, "only {pages} pages are the core's");
    refused!("{pages} pages, an abort each")
}

/// The same by stores: patching EL2 code, tables, frame table.
fn write() -> Outcome {
    let mut pages = 0;
    for at in frames::core_pages() {
        let outcome = access::write(at, 0xd4200000_d4200000);
        require!(
            outcome.is_err_and(|f| f.is_external_abort()),
            "wrote {at:#x}: {outcome:x?}"
        );
        pages += 1;
    }
    given!(pages > 100, "only {pages} pages are the core's");
    refused!("{pages} pages, an abort each")
}

fn execute() -> Outcome {
    for at in frames::core_pages() {
        let outcome = access::execute(at);
        require!(
            outcome.is_some_and(|f| f.is_external_abort()),
            "ran {at:#x}: {outcome:x?}"
        );
    }
    refused!("an abort on every fetch")
}

/// Instructions without syndrome, exclusives, DC ZVA. (Other cache maintenance does nothing in QEMU.)
fn touch() -> Outcome {
    let mut pages = 0;
    for at in frames::core_pages().step_by(17) {
        for how in Touch::ALL {
            let fault = access::touch(at, how);
            require!(
                fault.is_some_and(|f| f.is_external_abort()),
                "{how:?} at {at:#x}: {fault:x?}"
            );
        }
        pages += 1;
    }
    given!(pages > 8, "only {pages} pages tried");
    refused!("{} kinds of access on {pages} pages", Touch::ALL.len())
}

/// TTBR1_EL1 leads the table walker into core memory; address translation instructions too.
fn walk() -> Outcome {
    const UPPER: u64 = 0xffff_ff80_0000_0000;
    let tcr = mrs!("tcr_el1");
    // T1SZ 25, write-back, inner shareable, 4 KiB granule, EPD1 clear.
    msr!(
        "tcr_el1",
        tcr & !(1 << 23) | 25 << 16 | 1 << 24 | 1 << 26 | 3 << 28 | 2 << 30
    );
    let own = frames::take(1);
    let mut failed = None;
    let mut tried = 0;
    let through = |table: u64| {
        msr!("ttbr1_el1", table);
        cpu::flush_own_tlb();
        access::read(UPPER)
    };
    // An empty table of its own: an ordinary translation fault of level 1.
    let ordinary = through(own);
    for at in frames::core_pages().step_by(13) {
        tried += 1;
        match through(at) {
            Err(fault) if fault.is_external_abort() => {}
            other => failed = Some((at, other)),
        }
        // SAFETY: an address translation; a fault skips it.
        let fault = attempt(|| unsafe {
            core::arch::asm!("at s1e1r, {}", "isb", in(reg) UPPER, options(nostack));
        });
        // Either it faults, or PAR_EL1 says that it failed.
        if fault.is_none() && mrs!("par_el1") & 1 == 0 {
            failed = Some((at, Ok(0)));
        }
    }
    msr!("tcr_el1", tcr);
    msr!("ttbr1_el1", 0);
    cpu::flush_own_tlb();
    given!(
        ordinary.is_err_and(|f| f.esr & 0x3f == 5),
        "a walk of an own table: {ordinary:x?}"
    );
    if let Some((at, outcome)) = failed {
        require!(false, "the table walker read {at:#x}: {outcome:x?}");
    }
    refused!("{tried} walks, an abort each")
}

/// All RAM: what faults is exactly what the core accounts for.
fn scan() -> Outcome {
    let (mut hidden, mut listed) = (0, 0);
    for at in (board::RAM..frames::ram_end()).step_by(PAGE_SIZE as usize) {
        let is_listed = frames::withheld().any(|(base, size)| base <= at && at < base + size);
        let faults = access::read(at).is_err();
        require!(faults || !is_listed, "{at:#x} is on the list and readable");
        hidden += u64::from(faults);
        listed += u64::from(is_listed);
    }
    let stated = call::info(CoreInfo::CoreFrames);
    require!(
        hidden == stated && listed == stated,
        "{hidden} pages fault, {listed} listed, {stated} stated"
    );
    refused!("{hidden} pages fault: all and only the core's")
}
