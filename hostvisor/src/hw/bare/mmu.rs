//! EL1 stage 1: built before the MMU is on, extended afterwards.

use super::entry;
use crate::hw::Mutex;
use crate::hw::pagetable::{BLOCK_2M, Kind, MAIR, PageTables};
use abi::PAGE_SIZE;
use core::arch::asm;
use core::cell::UnsafeCell;

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
}

/// What `hv_mmu_on` loads. Written once with the MMU off.
#[repr(C)]
pub(super) struct Settings {
    mair: u64,
    tcr: u64,
    ttbr0: u64,
    sctlr: u64,
}

#[repr(transparent)]
pub(super) struct Shared<T>(UnsafeCell<T>);
// SAFETY: `build` writes before any other CPU runs; afterwards `TABLES` is reached under `LOCK` only and
// `SETTINGS` is only read.
unsafe impl<T> Sync for Shared<T> {}

pub(super) static SETTINGS: Shared<Settings> = Shared(UnsafeCell::new(Settings {
    mair: 0,
    tcr: 0,
    ttbr0: 0,
    sctlr: 0,
}));
static TABLES: Shared<PageTables> = Shared(UnsafeCell::new(PageTables::new()));
static LOCK: Mutex<()> = Mutex::new(());

/// TCR_EL1: 48-bit TTBR0 range, 4 KiB granule, write-back inner-shareable walks, no TTBR1 walks.
const TCR: u64 = 16 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23;
/// SCTLR_EL1: M, C, SA, SA0, I, WXN and the bits that are RES1 in Armv8.0 (EOS, ITD off, nTWI, EIS, SPAN,
/// nTLSMD, LSMAOE).
const SCTLR: u64 = 1
    | 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 12
    | 1 << 19
    | 1 << 11
    | 1 << 16
    | 1 << 18
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 28
    | 1 << 29;

/// Maps the hostvisor's own memory and the device tree. Runs with the MMU off: no atomics here.
pub(super) extern "C" fn build(image: u64, reserved: u64, fdt: u64) {
    // SAFETY: only this CPU runs, and nothing else refers to the two cells yet.
    let (tables, settings) = unsafe { (&mut *TABLES.0.get(), &mut *SETTINGS.0.get()) };
    let text_end = (&raw const __text_end).addr() as u64;
    let rodata_end = (&raw const __rodata_end).addr() as u64;
    let image_end = (&raw const __image_end).addr() as u64;
    let mut ok = tables.map(image, text_end, Kind::Text).is_ok();
    ok &= tables.map(text_end, rodata_end, Kind::Constant).is_ok();
    let mut page = rodata_end;
    while page < image_end {
        let kind = if entry::is_guard(page) {
            Kind::Guard
        } else {
            Kind::Data
        };
        ok &= tables.map(page, page + PAGE_SIZE, kind).is_ok();
        page += PAGE_SIZE;
    }
    if image_end < image + reserved {
        ok &= tables.map(image_end, image + reserved, Kind::Data).is_ok();
    }
    // The tree is at most 2 MiB long (boot protocol), the core's regions lie behind it.
    let start = fdt & !(BLOCK_2M - 1);
    ok &= tables.map(start, start + 2 * BLOCK_2M, Kind::Data).is_ok();
    if !ok {
        // No console yet and no table to go on with: cannot happen with the pool's size.
        loop {
            super::relax();
        }
    }
    let mmfr0: u64;
    // SAFETY: reading an ID register.
    unsafe { asm!("mrs {}, id_aa64mmfr0_el1", out(reg) mmfr0, options(nomem, nostack)) };
    *settings = Settings {
        mair: MAIR,
        tcr: TCR | (mmfr0 & 0xf).min(5) << 32,
        ttbr0: tables.root(),
        sctlr: SCTLR,
    };
}

/// Maps `start..end`, widened to 2 MiB for devices and narrowed for RAM. False if it cannot be done.
pub(super) fn map(start: u64, end: u64, kind: Kind) -> bool {
    let up = |a: u64| a.checked_add(BLOCK_2M - 1).map(|a| a & !(BLOCK_2M - 1));
    let down = |a: u64| Some(a & !(BLOCK_2M - 1));
    let (start, end) = match kind {
        Kind::Device => (down(start), up(end)),
        _ => (up(start), down(end)),
    };
    let (Some(start), Some(end)) = (start, end) else {
        return false;
    };
    let _guard = LOCK.lock();
    // SAFETY: the lock makes this the only reference; the MMU reads entries as whole words.
    let tables = unsafe { &mut *TABLES.0.get() };
    let ok = tables.map(start, end, kind).is_ok();
    // SAFETY: barriers only: the walkers see the new entries before anybody uses them.
    unsafe { asm!("dsb ishst", "isb", options(nostack)) };
    ok
}

/// RAM that has been mapped, so that nobody maps it as a device.
static RAM: Mutex<([(u64, u64); 32], usize)> = Mutex::new(([(0, 0); 32], 0));

/// True if any of `start..end` is RAM.
pub(super) fn is_ram(start: u64, end: u64) -> bool {
    let ram = RAM.lock();
    ram.0.iter().take(ram.1).any(|&(s, e)| start < e && s < end)
}

/// Addresses of the image's instructions.
pub(super) fn text() -> core::ops::Range<u64> {
    (&raw const __image_start).addr() as u64..(&raw const __text_end).addr() as u64
}

/// Maps RAM (whole 2 MiB blocks of it) as ordinary memory. False if tables run out.
pub fn map_ram(start: u64, end: u64) -> bool {
    {
        let mut ram = RAM.lock();
        let (ranges, count) = &mut *ram;
        let Some(slot) = ranges.get_mut(*count) else {
            return false;
        };
        *slot = (start, end);
        *count += 1;
    }
    map(start, end, Kind::Data)
}
