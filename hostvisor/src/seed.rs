//! Randomness for guests' device trees, derived from the machine's own.
//!
//! SipHash-2-4 is used as a keyed function: one guest's seed tells nothing of the machine's or of
//! another guest's. Without a seed from firmware there is nothing to derive from, and guests get none.

#![allow(deprecated)] // core has SipHash only under its old name.

use crate::hw;
use core::hash::{Hasher, SipHasher};

/// Bytes a guest gets: 8 for its layout, 32 for its generator.
const BYTES: usize = 40;

/// The machine's seed and how often it was used.
pub struct Seeds {
    key: Option<(u64, u64)>,
    used: u64,
}

impl Seeds {
    /// Takes /chosen's `rng-seed`.
    #[must_use]
    pub fn new(machine: &[u8]) -> Self {
        let half = |which: u64| {
            let mut hasher = SipHasher::new_with_keys(which, 0);
            hasher.write(machine);
            hasher.finish()
        };
        Self {
            key: (machine.len() >= 16).then(|| (half(0), half(1))),
            used: 0,
        }
    }

    /// A new guest's seed; empty if there is none.
    pub fn draw(&mut self) -> alloc::vec::Vec<u8> {
        let Some((k0, k1)) = self.key else {
            return alloc::vec::Vec::new();
        };
        self.used += 1;
        let mut bytes = alloc::vec::Vec::with_capacity(BYTES);
        for word in 0..BYTES as u64 / 8 {
            let mut hasher = SipHasher::new_with_keys(k0, k1);
            hasher.write_u64(self.used);
            hasher.write_u64(word);
            hasher.write_u64(hw::now());
            bytes.extend_from_slice(&hasher.finish().to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_guests_get_the_same_and_none_gets_the_machines() {
        let machine: alloc::vec::Vec<u8> = (0..32).collect();
        let mut seeds = Seeds::new(&machine);
        let (a, b) = (seeds.draw(), seeds.draw());
        assert_eq!((a.len(), b.len()), (BYTES, BYTES));
        assert_ne!(a, b);
        assert!(!a.windows(8).any(|w| machine.windows(8).any(|m| m == w)));
        assert!(Seeds::new(&[]).draw().is_empty());
    }
}
