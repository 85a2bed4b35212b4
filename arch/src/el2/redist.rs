//! Waking a CPU's GICv3 redistributor (GIC architecture IHI0069, 11.1 and 12.11). After that the
//! hostvisor never needs to write GICR_WAKER.

use crate::platform::RedistributorRow;
use core::arch::asm;
use core::ptr;

/// GICR_CTLR, relative to the redistributor's RD_base frame.
const CTLR: u64 = 0x0000;
/// GICR_CTLR.EnableLPIs.
const CTLR_ENABLE_LPIS: u32 = 1 << 0;
/// GICR_TYPER, relative to the redistributor's RD_base frame.
const TYPER: u64 = 0x0008;
/// GICR_WAKER.
const WAKER: u64 = 0x0014;
/// GICR_TYPER.VLPIS: the redistributor has four 64 KiB frames, not two.
const TYPER_VLPIS: u64 = 1 << 1;
/// GICR_TYPER.Last: no redistributor follows in this region.
const TYPER_LAST: u64 = 1 << 4;
/// GICR_TYPER.Affinity_Value, bits 63:32: Aff3, Aff2, Aff1, Aff0.
const TYPER_AFFINITY_SHIFT: u32 = 32;
/// GICR_WAKER.ProcessorSleep.
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
/// GICR_WAKER.ChildrenAsleep.
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
/// Reads of GICR_WAKER before giving up.
const PATIENCE: u32 = 10_000_000;

/// Why a redistributor could not be woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WakeError {
    /// No redistributor has this CPU's affinity.
    NotFound,
    /// It did not wake up.
    Asleep,
    /// Earlier software left LPIs enabled: it writes to tables in memory, and cannot be told to stop.
    LpisEnabled,
}

/// A redistributor of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Its first frame, RD_base. It holds the registers by which a redistributor can be made to write
    /// memory: GICR_CTLR, GICR_PROPBASER, GICR_PENDBASER.
    pub rd_base: u64,
    typer: u64,
}

/// Bytes of a frame.
pub const RD_SIZE: u64 = 0x1_0000;

impl Frame {
    /// It has two more frames, VLPI_base and a reserved one, from `2 * RD_SIZE` on.
    #[must_use]
    pub const fn virtual_lpis(&self) -> bool {
        self.typer & TYPER_VLPIS != 0
    }
}

/// Every redistributor that exists in `rows`.
///
/// # Safety
/// `rows` are redistributors of this machine, mapped as device memory as long as the iterator
/// lives.
pub unsafe fn frames(rows: &[RedistributorRow]) -> impl Iterator<Item = Frame> {
    rows.iter().flat_map(|row| {
        let end = row.base.saturating_add(row.size);
        let mut next = Some(row.base);
        core::iter::from_fn(move || {
            let rd_base = next.filter(|&base| base < end)?;
            // SAFETY: inside a row of redistributors, by the caller's promise.
            let typer = unsafe { ptr::read_volatile((rd_base + TYPER) as *const u64) };
            let frame = Frame { rd_base, typer };
            let stride = match row.stride {
                0 if frame.virtual_lpis() => 4 * RD_SIZE,
                0 => 2 * RD_SIZE,
                stride => stride,
            };
            let last = typer & TYPER_LAST != 0;
            next = rd_base.checked_add(stride).filter(|_| !last);
            Some(frame)
        })
    })
}

/// Wakes the redistributor of the CPU with MPIDR_EL1 value `mpidr`; returns its RD_base.
///
/// # Errors
/// See [`WakeError`].
///
/// # Safety
/// As for [`frames`].
pub unsafe fn wake(regions: &[RedistributorRow], mpidr: u64) -> Result<u64, WakeError> {
    let affinity = (mpidr >> 32 & 0xff) << 24 | mpidr & 0xff_ffff;
    // SAFETY: the caller's promise.
    let own = unsafe { frames(regions) }.find(|f| f.typer >> TYPER_AFFINITY_SHIFT == affinity);
    let base = own.ok_or(WakeError::NotFound)?.rd_base;
    // SAFETY: GICR_CTLR of an existing redistributor; reading it has no side effect.
    if unsafe { ptr::read_volatile((base + CTLR) as *const u32) } & CTLR_ENABLE_LPIS != 0 {
        return Err(WakeError::LpisEnabled);
    }
    let waker = (base + WAKER) as *mut u32;
    // SAFETY: GICR_WAKER of an existing redistributor; clearing ProcessorSleep only wakes it.
    unsafe { ptr::write_volatile(waker, ptr::read_volatile(waker) & !WAKER_PROCESSOR_SLEEP) };
    for _ in 0..PATIENCE {
        // SAFETY: as above.
        if unsafe { ptr::read_volatile(waker) } & WAKER_CHILDREN_ASLEEP == 0 {
            return Ok(base);
        }
    }
    Err(WakeError::Asleep)
}

/// This CPU's MPIDR_EL1.
#[must_use]
pub fn mpidr() -> u64 {
    let value: u64;
    // SAFETY: reading MPIDR_EL1 has no side effect.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}
