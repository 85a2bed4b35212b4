//! Reaching guests' memory, which may be taken away at any moment.
//!
//! A protected VM can unshare a page while it is being read here: the access then ends in an abort. All
//! instructions that may meet this are between `hv_copy_begin` and `hv_copy_end`, in leaf functions that
//! need no stack; the exception handler continues a faulting one at `hv_copy_fixup` with x0 = ESR_EL1, which
//! is never 0, and that is the function's answer. Frames of an open VM, or of nobody, never fault.
//!
//! A copy that fails may have been done in part.

use super::memory::wholly_in_pool;
use crate::hw::{CopyFault, Unreachable};
use abi::PAGE_SIZE;
use core::arch::{asm, global_asm};

global_asm!(
    r#"
    .text
    .globl hv_copy_begin, hv_copy_end, hv_copy_fixup
hv_copy_begin:
    // x0 = to, x1 = from, x2 = bytes. Clobbers x1-x10.
    .globl hv_copy
hv_copy:
    subs  x2, x2, #64
    b.lo  2f
1:  ldp   x3, x4, [x1]
    ldp   x5, x6, [x1, #16]
    ldp   x7, x8, [x1, #32]
    ldp   x9, x10, [x1, #48]
    add   x1, x1, #64
    stp   x3, x4, [x0]
    stp   x5, x6, [x0, #16]
    stp   x7, x8, [x0, #32]
    stp   x9, x10, [x0, #48]
    add   x0, x0, #64
    subs  x2, x2, #64
    b.hs  1b
    // The low six bits of x2 are what is left.
2:  tbz   x2, #5, 3f
    ldp   x3, x4, [x1], #16
    ldp   x5, x6, [x1], #16
    stp   x3, x4, [x0], #16
    stp   x5, x6, [x0], #16
3:  tbz   x2, #4, 4f
    ldp   x3, x4, [x1], #16
    stp   x3, x4, [x0], #16
4:  tbz   x2, #3, 5f
    ldr   x3, [x1], #8
    str   x3, [x0], #8
5:  tbz   x2, #2, 6f
    ldr   w3, [x1], #4
    str   w3, [x0], #4
6:  tbz   x2, #1, 7f
    ldrh  w3, [x1], #2
    strh  w3, [x0], #2
7:  tbz   x2, #0, 8f
    ldrb  w3, [x1]
    strb  w3, [x0]
8:  mov   x0, xzr
    ret

    // The others: x0 = address; x1, x2 = values.
    .globl hv_load_acquire16, hv_load16, hv_load128, hv_store_release16, hv_store16, hv_store32, hv_count_complement
hv_load_acquire16:
    ldarh w1, [x0]
    mov   x0, xzr
    ret
hv_load16:
    ldrh  w1, [x0]
    mov   x0, xzr
    ret
hv_load128:
    ldp   x1, x2, [x0]
    mov   x0, xzr
    ret
hv_store_release16:
    stlrh w1, [x0]
    mov   x0, xzr
    ret
hv_store16:
    strh  w1, [x0]
    mov   x0, xzr
    ret
hv_store32:
    str   w1, [x0]
    mov   x0, xzr
    ret

    // x0 = page, x1 = complement. Counts in x1 the words of the page whose complement that is. Clobbers x2-x5.
hv_count_complement:
    add   x2, x0, #4096
    mov   x3, xzr
1:  ldp   x4, x5, [x0], #16
    mvn   x4, x4
    mvn   x5, x5
    cmp   x4, x1
    cinc  x3, x3, eq
    cmp   x5, x1
    cinc  x3, x3, eq
    cmp   x0, x2
    b.lo  1b
    mov   x1, x3
    mov   x0, xzr
    ret
hv_copy_end:
hv_copy_fixup:
    ret
    "#
);

unsafe extern "C" {
    fn hv_copy_begin();
    fn hv_copy_end();
    fn hv_copy_fixup();
    fn hv_copy();
    fn hv_load_acquire16();
    fn hv_load16();
    fn hv_load128();
    fn hv_store_release16();
    fn hv_store16();
    fn hv_store32();
    fn hv_count_complement();
}

fn address(symbol: unsafe extern "C" fn()) -> u64 {
    symbol as usize as u64
}

/// True if the instruction at `pc` is one whose fault [`fixup`] answers.
pub(super) fn may_fault(pc: u64) -> bool {
    (address(hv_copy_begin)..address(hv_copy_end)).contains(&pc)
}

/// Where a faulting access goes on, with ESR_EL1 in x0.
pub(super) fn fixup() -> u64 {
    address(hv_copy_fixup)
}

#[inline]
const fn outcome(esr: u64) -> Result<(), Unreachable> {
    if esr == 0 { Ok(()) } else { Err(Unreachable) }
}

/// ESR_ELx.ISS.WnR of a Data Abort: the access was a write.
const WRITE: u64 = 1 << 6;

/// Copies `bytes` bytes. Answers 0 or ESR_EL1 of the abort that ended it.
///
/// # Safety
///
/// No Rust object but ones this call has exclusively (at `to`) or may read (at `from`) lies in either range;
/// either is mapped or faults into the fix-up.
#[inline]
unsafe fn copy(to: u64, from: u64, bytes: u64) -> u64 {
    let esr: u64;
    // SAFETY: the caller's promise; the function clobbers x0-x10 and flags, returns by x30, and uses no stack.
    unsafe {
        asm!(
            "bl {copy}",
            copy = sym hv_copy,
            inlateout("x0") to => esr,
            inlateout("x1") from => _,
            inlateout("x2") bytes => _,
            lateout("x3") _, lateout("x4") _, lateout("x5") _, lateout("x6") _,
            lateout("x7") _, lateout("x8") _, lateout("x9") _, lateout("x10") _,
            lateout("x30") _,
            options(nostack),
        );
    }
    esr
}

/// Copies pool memory to pool memory. What overlaps is copied in ascending order.
#[inline]
pub fn pool_copy(to: u64, from: u64, bytes: u64) -> Result<(), CopyFault> {
    if !wholly_in_pool(from, bytes) {
        return Err(CopyFault::Source);
    }
    if !wholly_in_pool(to, bytes) {
        return Err(CopyFault::Target);
    }
    // SAFETY: pool memory, in which no Rust object lives.
    match unsafe { copy(to, from, bytes) } {
        0 => Ok(()),
        // Told by the abort itself: looking again would let a guest share its page in the meantime, and put the
        // blame on the other side.
        esr if esr & WRITE != 0 => Err(CopyFault::Target),
        _ => Err(CopyFault::Source),
    }
}

/// Copies pool memory out of the pool.
#[inline]
pub fn pool_read(from: u64, to: &mut [u8]) -> Result<(), Unreachable> {
    let bytes = to.len() as u64;
    if !wholly_in_pool(from, bytes) {
        return Err(Unreachable);
    }
    // SAFETY: pool memory, and a slice of the caller's.
    outcome(unsafe { copy(to.as_mut_ptr() as u64, from, bytes) })
}

/// Copies bytes into pool memory.
#[inline]
pub fn pool_write(to: u64, from: &[u8]) -> Result<(), Unreachable> {
    let bytes = from.len() as u64;
    if !wholly_in_pool(to, bytes) {
        return Err(Unreachable);
    }
    // SAFETY: pool memory, and a slice of the caller's.
    outcome(unsafe { copy(to, from.as_ptr() as u64, bytes) })
}

/// How many aligned 64-bit words of page `page`, whatever that is, have this complement. What is read stays in
/// registers: no copy of it comes into being.
pub fn count_complement(page: u64, complement: u64) -> Result<u64, Unreachable> {
    let (esr, count): (u64, u64);
    // SAFETY: reads; the function clobbers x0-x5, x30 and flags, and uses no stack.
    unsafe {
        asm!(
            "bl {count}",
            count = sym hv_count_complement,
            inlateout("x0") page & !(PAGE_SIZE - 1) => esr,
            inlateout("x1") complement => count,
            lateout("x2") _, lateout("x3") _, lateout("x4") _, lateout("x5") _,
            lateout("x30") _,
            options(nostack, readonly),
        );
    }
    outcome(esr).map(|()| count)
}

/// A range of pool memory that is known to be one: words in it are reached without looking again whether they
/// are pool memory. One that is not aligned to its size, or lies outside the window, is [`Unreachable`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    base: u64,
    bytes: u64,
}

macro_rules! load {
    ($name:ident, $function:ident, $type:ty, $what:literal) => {
        #[doc = concat!("Reads the ", $what, " at `offset`.")]
        #[inline]
        pub fn $name(&self, offset: u64) -> Result<$type, Unreachable> {
            let at = self.at(offset, size_of::<$type>() as u64)?;
            let (esr, value): (u64, u64);
            // SAFETY: pool memory by `new` and `at`; the function clobbers x0, x1 and x30.
            unsafe {
                asm!(
                    "bl {function}",
                    function = sym $function,
                    inlateout("x0") at => esr,
                    lateout("x1") value,
                    lateout("x30") _,
                    options(nostack, readonly, preserves_flags),
                );
            }
            outcome(esr).map(|()| value as $type)
        }
    };
}

macro_rules! store {
    ($name:ident, $function:ident, $type:ty, $what:literal) => {
        #[doc = concat!("Writes the ", $what, " at `offset`.")]
        #[inline]
        pub fn $name(&self, offset: u64, value: $type) -> Result<(), Unreachable> {
            let at = self.at(offset, size_of::<$type>() as u64)?;
            let esr: u64;
            // SAFETY: pool memory by `new` and `at`; the function clobbers x0 and x30.
            unsafe {
                asm!(
                    "bl {function}",
                    function = sym $function,
                    inlateout("x0") at => esr,
                    in("x1") u64::from(value),
                    lateout("x30") _,
                    options(nostack, preserves_flags),
                );
            }
            outcome(esr)
        }
    };
}

impl Window {
    /// The window on these bytes, or `None` if they are not pool memory.
    #[must_use]
    pub fn new(base: u64, bytes: u64) -> Option<Self> {
        wholly_in_pool(base, bytes).then_some(Self { base, bytes })
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline]
    const fn at(&self, offset: u64, width: u64) -> Result<u64, Unreachable> {
        let at = self.base.wrapping_add(offset);
        if width <= self.bytes && offset <= self.bytes - width && at & (width - 1) == 0 {
            Ok(at)
        } else {
            Err(Unreachable)
        }
    }

    load!(load16, hv_load16, u16, "16-bit word");
    load!(
        load_acquire16,
        hv_load_acquire16,
        u16,
        "16-bit word, before what is read or written later,"
    );
    store!(store16, hv_store16, u16, "16-bit word");
    store!(
        store_release16,
        hv_store_release16,
        u16,
        "16-bit word, behind what was read or written before,"
    );
    store!(store32, hv_store32, u32, "32-bit word");

    /// Reads the 128 bits at `offset`, each 64-bit half once.
    #[inline]
    pub fn load128(&self, offset: u64) -> Result<[u64; 2], Unreachable> {
        let at = self.at(offset, 16)?;
        let (esr, low, high): (u64, u64, u64);
        // SAFETY: pool memory by `new` and `at`; the function clobbers x0-x2 and x30.
        unsafe {
            asm!(
                "bl {function}",
                function = sym hv_load128,
                inlateout("x0") at => esr,
                lateout("x1") low,
                lateout("x2") high,
                lateout("x30") _,
                options(nostack, readonly, preserves_flags),
            );
        }
        outcome(esr).map(|()| [low, high])
    }
}
