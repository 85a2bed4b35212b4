//! Sets of states, kept as 64-bit hashes.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;

/// No hashing: states are hashes already.
#[derive(Default)]
pub(super) struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("states are numbers")
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

const SHARDS: usize = 256;

/// States as numbers.
pub(super) type States = HashSet<u64, BuildHasherDefault<Same>>;

/// States that have been seen, for all threads.
pub(super) struct Visited([Mutex<States>; SHARDS]);

impl Visited {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(core::array::from_fn(|_| Mutex::default()))
    }

    /// True if it is new.
    pub(super) fn insert(&self, state: u64) -> bool {
        self.0[state as usize % SHARDS]
            .lock()
            .unwrap()
            .insert(state)
    }
}
