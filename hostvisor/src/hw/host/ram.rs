//! RAM on the development host: banks of bytes at made-up physical addresses, so that what reaches guests'
//! memory is tested there. Each test makes banks of its own; addresses are never given twice.

use crate::hw::{CopyFault, Mutex, Unreachable};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// Banks are aligned to this, and never adjoin.
const ALIGN: u64 = 4 << 20;
const PAGE: u64 = 4096;

#[derive(Debug)]
struct Bank {
    base: u64,
    bytes: Vec<AtomicU8>,
    /// Pages that cannot be reached.
    hidden: Vec<AtomicBool>,
}

static BANKS: Mutex<Vec<Arc<Bank>>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(1 << 40);

/// A bank of RAM, frame pool as long as this lives.
#[derive(Debug)]
pub struct TestRam(Arc<Bank>);

impl TestRam {
    /// Zeros, `bytes` of them.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let size = bytes.next_multiple_of(ALIGN) + ALIGN;
        let bank = Arc::new(Bank {
            base: NEXT.fetch_add(size, Ordering::Relaxed),
            bytes: (0..bytes).map(|_| AtomicU8::new(0)).collect(),
            hidden: (0..bytes.div_ceil(PAGE))
                .map(|_| AtomicBool::new(false))
                .collect(),
        });
        BANKS.lock().push(bank.clone());
        Self(bank)
    }

    /// Physical address of the first byte, a multiple of 2 MiB.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.0.base
    }

    /// Lets the pages that `pa..pa + bytes` touches be reached, or not: as a protected VM shares and unshares.
    pub fn reachable(&self, pa: u64, bytes: u64, reachable: bool) {
        let first = pa.saturating_sub(self.0.base) / PAGE;
        let count = (pa % PAGE + bytes).div_ceil(PAGE);
        let pages = self.0.hidden.iter().skip(first as usize);
        pages
            .take(count as usize)
            .for_each(|page| page.store(!reachable, Ordering::SeqCst));
    }
}

impl Drop for TestRam {
    fn drop(&mut self) {
        BANKS.lock().retain(|bank| !Arc::ptr_eq(bank, &self.0));
    }
}

impl Bank {
    /// The bytes, if all of them are here, and how many of them can be reached before a hidden page.
    fn find(&self, at: u64, bytes: u64) -> Option<(&[AtomicU8], usize)> {
        let start = usize::try_from(at.checked_sub(self.base)?).ok()?;
        let found = self.bytes.get(start..start.checked_add(bytes as usize)?)?;
        let within = |n: &usize| {
            let page = (start + n) / PAGE as usize;
            let hidden = self.hidden.get(page);
            hidden.is_some_and(|hidden| hidden.load(Ordering::SeqCst))
        };
        // Page by page.
        let mut n = 0;
        while n < found.len() && !within(&n) {
            n = (start + n + 1).next_multiple_of(PAGE as usize) - start;
        }
        Some((found, n.min(found.len())))
    }
}

fn bank(at: u64, bytes: u64) -> Result<Arc<Bank>, Unreachable> {
    let banks = BANKS.lock();
    let found = banks.iter().find(|bank| bank.find(at, bytes).is_some());
    found.cloned().ok_or(Unreachable)
}

/// Copies pool memory to pool memory.
pub fn pool_copy(to: u64, from: u64, bytes: u64) -> Result<(), CopyFault> {
    bank(to, bytes).map_err(|_| CopyFault::Target)?;
    let mut buffer = alloc::vec![0; bytes as usize];
    pool_read(from, &mut buffer).map_err(|_| CopyFault::Source)?;
    pool_write(to, &buffer).map_err(|_| CopyFault::Target)
}

/// Copies pool memory out of the pool.
pub fn pool_read(from: u64, to: &mut [u8]) -> Result<(), Unreachable> {
    let bank = bank(from, to.len() as u64)?;
    let (bytes, reachable) = bank.find(from, to.len() as u64).ok_or(Unreachable)?;
    for (to, from) in to.iter_mut().zip(bytes).take(reachable) {
        *to = from.load(Ordering::Relaxed);
    }
    if reachable == to.len() {
        Ok(())
    } else {
        Err(Unreachable)
    }
}

/// Copies bytes into pool memory.
pub fn pool_write(to: u64, from: &[u8]) -> Result<(), Unreachable> {
    let bank = bank(to, from.len() as u64)?;
    let (bytes, reachable) = bank.find(to, from.len() as u64).ok_or(Unreachable)?;
    for (to, from) in bytes.iter().zip(from).take(reachable) {
        to.store(*from, Ordering::Relaxed);
    }
    if reachable == from.len() {
        Ok(())
    } else {
        Err(Unreachable)
    }
}

/// A range of pool memory that is known to be one. Words in it must be aligned to their size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    base: u64,
    bytes: u64,
}

macro_rules! load {
    ($name:ident, $type:ty) => {
        /// Reads the word at `offset`.
        pub fn $name(&self, offset: u64) -> Result<$type, Unreachable> {
            let mut bytes = [0; size_of::<$type>()];
            pool_read(self.at(offset, bytes.len() as u64)?, &mut bytes)?;
            Ok(<$type>::from_le_bytes(bytes))
        }
    };
}

macro_rules! store {
    ($name:ident, $type:ty) => {
        /// Writes the word at `offset`.
        pub fn $name(&self, offset: u64, value: $type) -> Result<(), Unreachable> {
            let bytes = value.to_le_bytes();
            pool_write(self.at(offset, bytes.len() as u64)?, &bytes)
        }
    };
}

impl Window {
    /// The window on these bytes, or `None` if they are not pool memory.
    #[must_use]
    pub fn new(base: u64, bytes: u64) -> Option<Self> {
        bank(base, bytes).ok().map(|_| Self { base, bytes })
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    const fn at(&self, offset: u64, width: u64) -> Result<u64, Unreachable> {
        let at = self.base.wrapping_add(offset);
        if width <= self.bytes && offset <= self.bytes - width && at & (width - 1) == 0 {
            Ok(at)
        } else {
            Err(Unreachable)
        }
    }

    load!(load16, u16);
    load!(load_acquire16, u16);
    store!(store16, u16);
    store!(store_release16, u16);
    store!(store32, u32);

    /// Reads the 128 bits at `offset`.
    pub fn load128(&self, offset: u64) -> Result<[u64; 2], Unreachable> {
        let mut bytes = [0; 16];
        pool_read(self.at(offset, 16)?, &mut bytes)?;
        let value = u128::from_le_bytes(bytes);
        Ok([value as u64, (value >> 64) as u64])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_hidden_pages_end_a_copy_where_they_begin() {
        let ram = TestRam::new(3 * PAGE);
        let at = ram.base() + 10;
        pool_write(at, &[7; 8000]).unwrap();
        pool_copy(at + 1, at, 100).unwrap();
        let mut back = [0; 8000];
        pool_read(at, &mut back).unwrap();
        assert_eq!(back, [7; 8000]);
        ram.reachable(ram.base() + PAGE, 1, false);
        assert_eq!(pool_write(at, &[9; 8000]), Err(Unreachable));
        ram.reachable(ram.base() + PAGE, 1, true);
        pool_read(at, &mut back).unwrap();
        let first = PAGE as usize - 10;
        assert!(back[..first].iter().all(|&b| b == 9) && back[first..].iter().all(|&b| b == 7));
    }

    #[test]
    fn what_is_no_bank_cannot_be_reached() {
        let ram = TestRam::new(PAGE);
        let base = ram.base();
        assert_eq!(pool_read(base + PAGE - 1, &mut [0; 2]), Err(Unreachable));
        assert_eq!(pool_read(base - 1, &mut [0; 2]), Err(Unreachable));
        assert_eq!(Window::new(base, PAGE + 1), None);
        let window = Window::new(base, PAGE).unwrap();
        assert_eq!(window.load16(PAGE - 1), Err(Unreachable));
        assert_eq!(window.load128(8), Err(Unreachable));
        drop(ram);
        assert_eq!(window.load16(0), Err(Unreachable));
    }
}
