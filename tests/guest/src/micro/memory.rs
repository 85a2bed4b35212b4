//! Memory that is touched for the first time, and memory that is shared.

use super::meter::Meter;
use crate::cpu::hvc;
use crate::platform;
use crate::verdict::{Verdict, fail};

const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;
/// Offsets in RAM behind image, tree and everything a loader may have put there: untouched until now.
const FRESH_PAGES: u64 = 160 << 20;
const FRESH_BLOCKS: u64 = 256 << 20;
const END: u64 = 500 << 20;

/// The pKVM guest interface's MEM_SHARE and MEM_UNSHARE (Linux, Documentation/virt/kvm/arm/hypercalls.rst).
const SHARE: u64 = 0xc600_0003;
const UNSHARE: u64 = 0xc600_0004;

/// Stores to memory that starts `offset` behind RAM's start, in steps of `step`, each place once.
fn touch(meter: &Meter, offset: u64, step: u64, windows: u64, rounds: u64) -> Verdict {
    let (base, bytes) = platform::ram();
    if bytes < END {
        fail!("needs 500 MB of RAM, not {} MB", bytes >> 20);
    }
    let mut address = base + offset;
    meter.windows(windows, rounds, 1, || {
        // SAFETY: RAM that nothing else uses; windows times rounds times step stay below END.
        unsafe { (address as *mut u64).write_volatile(1) };
        address += step;
    });
    Ok(())
}

/// One 4 KB page after the other: 4000 in 16 MB.
pub(super) fn fault_page(meter: &Meter) -> Verdict {
    touch(meter, FRESH_PAGES, PAGE, 8, 500)
}

/// One 2 MB block after the other: RAM has room for 120.
pub(super) fn fault_block(meter: &Meter) -> Verdict {
    touch(meter, FRESH_BLOCKS, BLOCK, 4, 30)
}

/// Shares a page with the host and takes it back.
pub(super) fn share(meter: &Meter) -> Verdict {
    let page = platform::ram().0 + FRESH_PAGES;
    if hvc(SHARE, page, 0, 0) != 0 {
        meter.absent("the VM has no MEM_SHARE");
        return Ok(());
    }
    hvc(UNSHARE, page, 0, 0);
    let mut failed = 0;
    meter.rounds(|| failed |= hvc(SHARE, page, 0, 0) | hvc(UNSHARE, page, 0, 0));
    if failed != 0 {
        fail!("MEM_SHARE or MEM_UNSHARE: {:#x}", failed);
    }
    Ok(())
}
