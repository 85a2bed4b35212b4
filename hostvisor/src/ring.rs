//! A bounded log of bytes: keeps the last ones, counts what it dropped.

use alloc::collections::VecDeque;

/// Keeps the last `capacity` bytes of what is written to it.
///
/// Its memory is taken with the first byte; where there is none, everything counts as dropped.
#[derive(Debug)]
pub struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
    written: u64,
}

impl Ring {
    /// An empty ring. Takes no memory yet.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity,
            written: 0,
        }
    }

    /// Appends `bytes`, dropping the oldest where there is no room.
    pub fn push(&mut self, bytes: &[u8]) {
        self.written = self.written.saturating_add(bytes.len() as u64);
        let missing = self.capacity.saturating_sub(self.bytes.len());
        if self.bytes.capacity() < self.capacity && self.bytes.try_reserve_exact(missing).is_err() {
            self.bytes.clear();
            return;
        }
        let kept = bytes
            .get(bytes.len().saturating_sub(self.capacity)..)
            .unwrap_or_default();
        let room = self.capacity.saturating_sub(kept.len());
        let excess = self.bytes.len().saturating_sub(room);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
    }

    /// Drops the oldest bytes up to and including the first `end`; all of them if there is none.
    pub fn drop_through(&mut self, end: u8) {
        let count = self
            .bytes
            .iter()
            .position(|&b| b == end)
            .map_or(self.bytes.len(), |i| i.saturating_add(1));
        self.bytes.drain(..count);
    }

    /// What is kept, oldest first, in two pieces.
    #[must_use]
    pub fn pieces(&self) -> (&[u8], &[u8]) {
        self.bytes.as_slices()
    }

    /// The bytes from position `at` on, where the first byte ever written has position 0. Starts at
    /// the oldest byte kept if `at` is gone.
    pub fn from(&self, at: u64) -> impl Iterator<Item = u8> {
        let skip = usize::try_from(at.saturating_sub(self.start())).unwrap_or(usize::MAX);
        self.bytes.range(skip.min(self.bytes.len())..).copied()
    }

    /// Bytes kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Most bytes that are kept.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Position of the oldest byte kept: how many were dropped.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.written.saturating_sub(self.bytes.len() as u64)
    }

    /// Position behind the newest byte: how many were ever written.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.written
    }
}

#[cfg(test)]
mod tests {
    use super::Ring;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keeps_exactly_the_last_bytes(
            capacity in 0_usize..40,
            writes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..12),
        ) {
            let mut ring = Ring::new(capacity);
            let mut all = Vec::new();
            for write in &writes {
                ring.push(write);
                all.extend_from_slice(write);
                let kept = &all[all.len().saturating_sub(capacity)..];
                let (a, b) = ring.pieces();
                prop_assert_eq!([a, b].concat(), kept);
                prop_assert_eq!(ring.len(), kept.len());
                prop_assert_eq!(ring.start(), (all.len() - kept.len()) as u64);
                prop_assert_eq!(ring.end(), all.len() as u64);
            }
            for at in 0..=all.len() + 1 {
                let from = at.max(all.len().saturating_sub(capacity)).min(all.len());
                prop_assert_eq!(ring.from(at as u64).collect::<Vec<_>>(), &all[from..]);
            }
        }

        #[test]
        fn takes_no_more_memory_than_it_may(writes in prop::collection::vec(0_usize..5000, 0..20)) {
            let mut ring = Ring::new(1024);
            for len in writes {
                ring.push(&vec![7; len]);
                prop_assert!(ring.bytes.capacity() <= 2048);
            }
        }
    }

    #[test]
    fn drops_whole_lines() {
        let mut ring = Ring::new(100);
        ring.push(b"one\ntwo\nthr");
        ring.drop_through(b'\n');
        assert_eq!(ring.from(0).collect::<Vec<_>>(), b"two\nthr");
        assert_eq!(ring.start(), 4);
        ring.drop_through(b'\n');
        ring.drop_through(b'\n');
        assert!(ring.is_empty());
        ring.drop_through(b'\n');
        assert_eq!((ring.start(), ring.end()), (11, 11));
    }
}
