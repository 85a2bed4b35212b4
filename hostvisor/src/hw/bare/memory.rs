//! Physical memory: the frame pool, run pages, what the boot left, and probes that may fault.

use crate::hw::{Fault, Mutex};
use abi::PAGE_SIZE;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Most separate ranges of the frame pool.
const MAX_RANGES: usize = 32;

/// RAM that no Rust object lives in: all of the frame pool, and nothing but it. Grows only, by one CPU at boot;
/// the number of valid ranges is published last, so that looking needs no lock.
static POOL: [[AtomicU64; 2]; MAX_RANGES] =
    [const { [const { AtomicU64::new(0) }; 2] }; MAX_RANGES];
static RANGES: AtomicUsize = AtomicUsize::new(0);
/// Who adds to the pool.
static ADDING: Mutex<()> = Mutex::new(());

fn ranges() -> impl Iterator<Item = (u64, u64)> {
    let count = RANGES.load(Ordering::Acquire);
    POOL.iter()
        .take(count)
        .map(|[start, end]| (start.load(Ordering::Relaxed), end.load(Ordering::Relaxed)))
}

/// Declares `start..end` as frame pool. From now on only the functions of this folder touch it.
/// False if the list is full.
///
/// The caller is the machine's discovery, before the frame allocator exists: it leaves out the image,
/// the heap, the device tree and the bundle.
pub fn pool_add(start: u64, end: u64) -> bool {
    let _adding = ADDING.lock();
    let count = RANGES.load(Ordering::Relaxed);
    let Some([first, last]) = POOL.get(count) else {
        return false;
    };
    first.store(start, Ordering::Relaxed);
    last.store(end, Ordering::Relaxed);
    RANGES.store(count + 1, Ordering::Release);
    true
}

/// True if any of the range is in the pool or cannot be judged.
pub(super) fn in_pool(start: u64, bytes: u64) -> bool {
    let Some(end) = start.checked_add(bytes) else {
        return true;
    };
    ranges().any(|(s, e)| start < e && s < end)
}

/// True if all of the range is in the pool.
#[inline]
pub(super) fn wholly_in_pool(start: u64, bytes: u64) -> bool {
    let Some(end) = start.checked_add(bytes) else {
        return false;
    };
    ranges().any(|(s, e)| s <= start && end <= e)
}

/// Zeroes pool memory. False if it is not pool memory.
pub fn pool_zero(start: u64, bytes: u64) -> bool {
    if !wholly_in_pool(start, bytes) {
        return false;
    }
    let block: u64;
    // SAFETY: reading DCZID_EL0.
    unsafe { asm!("mrs {}, dczid_el0", out(reg) block, options(nomem, nostack)) };
    let size = 4u64 << (block & 0xf);
    if block & 0x10 == 0 && (start | bytes) & (size - 1) == 0 {
        let mut at = start;
        while at < start + bytes {
            // SAFETY: `size` aligned bytes of mapped pool memory, in which no Rust object lives.
            unsafe { asm!("dc zva, {}", in(reg) at, options(nostack)) };
            at += size;
        }
    } else {
        // SAFETY: as above.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, bytes as usize) };
    }
    true
}

/// Writes pool memory back from the caches to the point of coherency, and drops it there, for a guest that
/// reads and writes it with its caches off. False if it is not pool memory.
pub fn pool_clean(start: u64, bytes: u64) -> bool {
    if !wholly_in_pool(start, bytes) {
        return false;
    }
    let ctr: u64;
    // SAFETY: reading CTR_EL0.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack)) };
    // CTR_EL0.DminLine: log2 of the words in the smallest data cache line.
    let line = 4u64 << (ctr >> 16 & 0xf);
    let mut at = start & !(line - 1);
    while at < start + bytes {
        // SAFETY: cleaning mapped memory never changes what it holds.
        unsafe { asm!("dc civac, {}", in(reg) at, options(nostack)) };
        at += line;
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack)) };
    true
}

/// Makes all CPUs forget instructions fetched from memory that has been written since.
pub fn publish_code() {
    // SAFETY: instruction cache maintenance changes no data.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack)) };
}

/// A vCPU's run page (see `abi::run`).
#[derive(Debug)]
pub struct RunPage(u64);

impl RunPage {
    /// The run page in pool frame `address`, or `None` if that is not a page of the pool.
    #[must_use]
    pub fn new(address: u64) -> Option<Self> {
        (address.is_multiple_of(PAGE_SIZE) && wholly_in_pool(address, PAGE_SIZE))
            .then_some(Self(address))
    }

    /// Word `index`.
    #[inline]
    #[must_use]
    pub fn read(&self, index: usize) -> u64 {
        let at = self.0 + (index as u64 % 512) * 8;
        // SAFETY: `new` checked that this is a mapped page in which no Rust object lives; the core may
        // write it at any time, hence volatile.
        unsafe { (at as *const u64).read_volatile() }
    }

    /// Sets word `index`.
    #[inline]
    pub fn write(&self, index: usize, value: u64) {
        let at = self.0 + (index as u64 % 512) * 8;
        // SAFETY: as for `read`.
        unsafe { (at as *mut u64).write_volatile(value) }
    }
}

/// Memory that the boot left and that stays as it is for ever: device tree, bundle.
///
/// `None` if any of it is frame pool, or if it was not mapped.
#[must_use]
pub fn boot_bytes(start: u64, bytes: u64) -> Option<&'static [u8]> {
    if bytes == 0 || in_pool(start, bytes) || probe(start & !7).is_err() {
        return None;
    }
    probe((start + bytes - 1) & !7).ok()?;
    // SAFETY: mapped RAM that is no part of the pool, the heap or the image: nobody writes it.
    Some(unsafe { core::slice::from_raw_parts(start as *const u8, bytes as usize) })
}

/// The same for 64-bit words.
#[must_use]
pub fn boot_words(start: u64, count: u64) -> Option<&'static [u64]> {
    if !start.is_multiple_of(8) {
        return None;
    }
    boot_bytes(start, count.checked_mul(8)?)?;
    // SAFETY: as for `boot_bytes`; the address is aligned and every bit pattern is a u64.
    Some(unsafe { core::slice::from_raw_parts(start as *const u64, count as usize) })
}

// An access that may fault. `hv_exception` knows the two instructions, and continues at hv_probe_fixup
// with x0 = ESR_EL1 and x1 = FAR_EL1.
global_asm!(
    r#"
    .text
    .globl hv_probe_read, hv_probe_read_at, hv_probe_write, hv_probe_write_at, hv_probe_fixup
hv_probe_read:
hv_probe_read_at:
    ldr   x1, [x0]
    mov   x0, xzr
    ret
hv_probe_write:
hv_probe_write_at:
    str   x1, [x0]
    dsb   sy
    mov   x0, xzr
hv_probe_fixup:
    ret
    "#
);

#[repr(C)]
struct Probe {
    esr: u64,
    value: u64,
}

unsafe extern "C" {
    fn hv_probe_read(at: u64) -> Probe;
    fn hv_probe_write(at: u64, value: u64) -> Probe;
}

fn outcome(probe: Probe) -> Result<u64, Fault> {
    match probe.esr {
        0 => Ok(probe.value),
        esr => Err(Fault {
            esr,
            far: probe.value,
        }),
    }
}

/// Reads the 64-bit word at `at & !7`, whatever that is.
pub fn probe(at: u64) -> Result<u64, Fault> {
    // SAFETY: a read; a fault continues at the fixup.
    outcome(unsafe { hv_probe_read(at & !7) })
}

/// Writes the 64-bit word at `at & !7`: for attacks on what is not the hostvisor's. `None` if the word is in
/// RAM that the hostvisor itself lives in, which is everything but the pool and `foreign`.
pub fn probe_write(at: u64, value: u64, foreign: &[(u64, u64)]) -> Option<Result<(), Fault>> {
    let at = at & !7;
    let allowed = wholly_in_pool(at, 8)
        || foreign
            .iter()
            .any(|&(base, size)| at >= base && at - base < size);
    // SAFETY: pool memory, or the corevisor's: no Rust object of this program; a fault continues at the
    // fixup.
    allowed.then(|| outcome(unsafe { hv_probe_write(at, value) }).map(|_| ()))
}
