//! Soft timers: each CPU has a queue of deadlines on its one hardware timer (CNTP).
//!
//! A timer goes by a key; arming it again moves it. The queue is a sorted vector: there is at most one
//! timer a vCPU and one a VM, and the earliest is at the end.

use alloc::vec::Vec;

struct Entry<T> {
    deadline: u64,
    key: u64,
    what: T,
}

/// Deadlines in counter ticks, each with something to do.
pub struct SoftTimers<T> {
    /// Latest deadline first.
    entries: Vec<Entry<T>>,
}

impl<T> Default for SoftTimers<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> SoftTimers<T> {
    /// No timers.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Arms timer `key` for `deadline`, wherever it was before; answers what it was for then.
    pub fn arm(&mut self, key: u64, deadline: u64, what: T) -> Option<T> {
        let before = self.cancel(key);
        let at = self.entries.partition_point(|e| e.deadline > deadline);
        self.entries.insert(
            at,
            Entry {
                deadline,
                key,
                what,
            },
        );
        before
    }

    /// Disarms timer `key`; answers what it was for.
    pub fn cancel(&mut self, key: u64) -> Option<T> {
        let at = self.entries.iter().position(|e| e.key == key)?;
        Some(self.entries.remove(at).what)
    }

    /// Disarms all timers whose work `which` selects.
    pub fn cancel_all(&mut self, which: impl Fn(&T) -> bool) {
        self.entries.retain(|e| !which(&e.what));
    }

    /// The earliest deadline, `u64::MAX` if there is none.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.entries.last().map_or(u64::MAX, |e| e.deadline)
    }

    /// Takes out the earliest timer if it is due.
    pub fn pop_due(&mut self, now: u64) -> Option<T> {
        if self.next() > now {
            return None;
        }
        self.entries.pop().map(|e| e.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is armed, moved and cancelled, timers come out in order, each once, none early.
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec((0u64..12, 0u64..100, 0u8..4), 1..200)) {
            let mut timers = SoftTimers::new();
            let mut model = std::collections::BTreeMap::new();
            for (key, deadline, action) in steps {
                match action {
                    0 => { prop_assert_eq!(timers.cancel(key), model.remove(&key).map(|_| key)); }
                    1 => {
                        let mut last = 0;
                        while let Some(key) = timers.pop_due(deadline) {
                            let at = model.remove(&key).unwrap();
                            prop_assert!(at <= deadline && at >= last);
                            last = at;
                        }
                        prop_assert!(model.values().all(|&at| at > deadline));
                    }
                    _ => { prop_assert_eq!(timers.arm(key, deadline, key), model.insert(key, deadline).map(|_| key)); }
                }
                prop_assert_eq!(timers.next(), model.values().min().copied().unwrap_or(u64::MAX));
            }
        }
    }

    #[test]
    fn cancel_all_spares_the_others() {
        let mut timers = SoftTimers::new();
        for key in 0..10 {
            timers.arm(key, 100 - key, key);
        }
        timers.cancel_all(|&k| k % 2 == 0);
        assert_eq!(timers.pop_due(100), Some(9));
        assert_eq!(timers.pop_due(92), None);
    }
}
