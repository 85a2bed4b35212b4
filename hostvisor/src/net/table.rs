//! Which port an Ethernet address is behind.
//!
//! Addresses of guests' interfaces are *pinned* by their manifests and never move. Others are learned from the frames
//! that come from them and forgotten after five minutes (IEEE 802.1Q §8.8.3). Guests cannot crowd anybody out: each of
//! their ports has a limit, and only old entries, or its own, give way to it. Nor can a guest pass for who was heard of
//! outside the machine: the gateway's frames would be its own. What is outside displaces what guests made up.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// A port's number in its switch.
pub type PortId = u16;

/// Sets, and entries in each: an address can only be in its own set.
const SETS: usize = 128;
const WAYS: usize = 8;
/// Seconds after which an address that was not heard of is forgotten.
pub const AGE: u64 = 300;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// 0: free.
    address: u64,
    port: PortId,
    /// Behind an uplink.
    outside: bool,
    /// In seconds.
    heard: u64,
}

const FREE: Entry = Entry {
    address: 0,
    port: 0,
    outside: false,
    heard: 0,
};

/// A port that frames come from.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its number.
    pub port: PortId,
    /// It leads out of the machine.
    pub outside: bool,
    /// Addresses that may be learned behind it.
    pub limit: u16,
}

/// What came of hearing from an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// It may send from there.
    Fine,
    /// It is pinned to another port, or somebody's outside.
    Spoofed,
}

/// The addresses of a switch.
#[derive(Debug)]
pub struct Table {
    /// Sorted.
    pinned: Vec<(u64, PortId)>,
    entries: Box<[[Entry; WAYS]]>,
    /// Entries learned, by port.
    learned: Vec<u16>,
    /// Keeps guests from choosing addresses that all fall into one set.
    key: u64,
}

/// An address as a number; never 0 for one that can be learned.
fn number(address: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = address;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

impl Table {
    /// Empty.
    #[must_use]
    pub fn new(key: u64) -> Self {
        Self {
            pinned: Vec::new(),
            entries: alloc::vec![[FREE; WAYS]; SETS].into_boxed_slice(),
            learned: Vec::new(),
            key: key | 1,
        }
    }

    /// Pins an address to a port. False if it is pinned already.
    pub fn pin(&mut self, address: [u8; 6], port: PortId) -> bool {
        let address = number(address);
        match self.pinned.binary_search_by_key(&address, |e| e.0) {
            Ok(_) => false,
            Err(at) => {
                self.pinned.insert(at, (address, port));
                // Whoever was heard using it before does so no more.
                self.forget(|entry| entry.address == address);
                true
            }
        }
    }

    /// Forgets all that is behind a port.
    pub fn remove(&mut self, port: PortId) {
        self.pinned.retain(|&(_, p)| p != port);
        self.forget(|entry| entry.port == port);
    }

    fn forget(&mut self, which: impl Fn(&Entry) -> bool) {
        for entry in self.entries.iter_mut().flatten() {
            if entry.address != 0 && which(entry) {
                discount(&mut self.learned, entry.port);
                *entry = FREE;
            }
        }
    }

    /// Forgets what has not been heard of for long. To be called now and then.
    pub fn age(&mut self, now: u64) {
        self.forget(|entry| now.saturating_sub(entry.heard) > AGE);
    }

    fn set(&self, address: u64) -> usize {
        // Multiplicative hashing; the highest bits are the best.
        ((address ^ self.key).wrapping_mul(self.key | 0x9e37_79b9_7f4a_7c15) >> 57) as usize % SETS
    }

    fn pinned(&self, address: u64) -> Option<PortId> {
        let at = self.pinned.binary_search_by_key(&address, |e| e.0).ok()?;
        self.pinned.get(at).map(|e| e.1)
    }

    /// The port that an address is behind, if that is known.
    #[must_use]
    pub fn find(&self, address: [u8; 6], now: u64) -> Option<PortId> {
        let address = number(address);
        self.pinned(address).or_else(|| {
            let set = self.entries.get(self.set(address))?;
            let entry = set.iter().find(|e| e.address == address && address != 0)?;
            (now.saturating_sub(entry.heard) <= AGE).then_some(entry.port)
        })
    }

    /// An address was heard as a source.
    pub fn hear(&mut self, address: [u8; 6], source: Source, now: u64) -> Heard {
        let address = number(address);
        let Source { port, outside, .. } = source;
        if let Some(owner) = self.pinned(address) {
            return if owner == port {
                Heard::Fine
            } else {
                Heard::Spoofed
            };
        }
        let set = self.set(address);
        let full = self.learned(port) >= source.limit;
        let Some(set) = self.entries.get_mut(set) else {
            return Heard::Fine;
        };
        let new = Entry {
            address,
            port,
            outside,
            heard: now,
        };
        let old = |e: &Entry| e.address == 0 || now.saturating_sub(e.heard) > AGE;
        if let Some(entry) = set.iter_mut().find(|e| e.address == address) {
            if entry.port == port {
                entry.heard = now;
            } else if entry.outside && !outside && !old(entry) {
                return Heard::Spoofed;
            } else if !full {
                // It has moved.
                discount(&mut self.learned, entry.port);
                *entry = new;
                count(&mut self.learned, port);
            }
            return Heard::Fine;
        }
        let oldest = |which: &dyn Fn(&Entry) -> bool| {
            let which = set.iter().enumerate().filter(|(_, e)| which(e));
            which.min_by_key(|(_, e)| e.heard).map(|(at, _)| at)
        };
        let place = if full {
            None
        } else {
            let guests = || oldest(&|e| outside && !e.outside);
            set.iter().position(old).or_else(guests)
        };
        // At its limit, or with its set full, a port replaces what it has not heard of for longest.
        let own = || oldest(&|e| e.address != 0 && e.port == port);
        if let Some(at) = place.or_else(own)
            && let Some(entry) = set.get_mut(at)
        {
            if entry.address != 0 {
                discount(&mut self.learned, entry.port);
            }
            *entry = new;
            count(&mut self.learned, port);
        }
        Heard::Fine
    }

    /// Addresses learned behind a port.
    #[must_use]
    pub fn learned(&self, port: PortId) -> u16 {
        self.learned.get(usize::from(port)).copied().unwrap_or(0)
    }

    /// All that is known: address, port, whether it is pinned.
    #[must_use]
    pub fn list(&self, now: u64) -> Vec<([u8; 6], PortId, bool)> {
        let address = |number: u64| {
            let [_, _, a, b, c, d, e, f] = number.to_be_bytes();
            [a, b, c, d, e, f]
        };
        let fresh = |e: &&Entry| e.address != 0 && now.saturating_sub(e.heard) <= AGE;
        let learned = self.entries.iter().flatten().filter(fresh);
        let pinned = self
            .pinned
            .iter()
            .map(|&(a, port)| (address(a), port, true));
        pinned
            .chain(learned.map(|e| (address(e.address), e.port, false)))
            .collect()
    }
}

fn count(learned: &mut Vec<u16>, port: PortId) {
    let port = usize::from(port);
    if learned.len() <= port {
        learned.resize(port + 1, 0);
    }
    if let Some(n) = learned.get_mut(port) {
        *n = n.saturating_add(1);
    }
}

fn discount(learned: &mut [u16], port: PortId) {
    if let Some(n) = learned.get_mut(usize::from(port)) {
        *n = n.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u16 = 6;
    const OUTSIDE: PortId = 3;

    fn from(port: PortId) -> Source {
        Source {
            port,
            outside: port == OUTSIDE,
            limit: LIMIT,
        }
    }

    proptest! {
        /// Pinned addresses are where they were pinned and are heard nowhere else; so are those outside, until they are
        /// forgotten; no port has more than its limit; what is found was heard there last and not too long ago; counts are exact.
        #[test]
        fn tells_where_an_address_was_heard_last(
            steps in proptest::collection::vec((0u8..6, 0u8..40, 0u16..4, 0u64..40), 1..400), key: u64,
        ) {
            let mut table = Table::new(key);
            let mac = |n: u8| [2, 0, 0, 0, 0, n + 1];
            let mut last = std::collections::BTreeMap::new();
            let mut pinned = std::collections::BTreeMap::new();
            let mut now = 0;
            for (action, n, port, pause) in steps {
                now += pause;
                match action {
                    0 if pinned.len() < 5 => {
                        prop_assert_eq!(table.pin(mac(n), port), !pinned.contains_key(&n));
                        pinned.entry(n).or_insert(port);
                    }
                    1 => {
                        table.remove(port);
                        pinned.retain(|_, p| *p != port);
                        last.retain(|_, (p, _)| *p != port);
                    }
                    2 => table.age(now),
                    _ => {
                        let elsewhere = match pinned.get(&n) {
                            Some(owner) => *owner != port,
                            None => port != OUTSIDE && table.find(mac(n), now) == Some(OUTSIDE),
                        };
                        let heard = table.hear(mac(n), from(port), now);
                        prop_assert_eq!(heard == Heard::Spoofed, elsewhere);
                        if !pinned.contains_key(&n) && table.find(mac(n), now) == Some(port) {
                            last.insert(n, (port, now));
                        }
                    }
                }
                for n in 0..40 {
                    let found = table.find(mac(n), now);
                    match pinned.get(&n) {
                        Some(port) => prop_assert_eq!(found, Some(*port)),
                        None => if let Some(port) = found {
                            let (at, when) = last[&n];
                            prop_assert_eq!(at, port);
                            prop_assert!(now - when <= AGE);
                        }
                    }
                }
                for port in 0..4 {
                    let entries = table.entries.iter().flatten();
                    let number = entries.filter(|e| e.address != 0 && e.port == port).count();
                    prop_assert_eq!(number, usize::from(table.learned(port)));
                    prop_assert!(number <= usize::from(LIMIT));
                }
            }
        }

        /// A port that sends from a million addresses makes nobody else's be forgotten.
        #[test]
        fn a_flood_of_addresses_displaces_nobody(key: u64, flood in proptest::collection::vec(any::<[u8; 5]>(), 1000)) {
            let mut table = Table::new(key);
            let quiet: Vec<_> = (0..5).map(|n| [2, 9, 9, 9, 9, n]).collect();
            for address in &quiet {
                table.hear(*address, from(1), 10);
            }
            for [a, b, c, d, e] in flood {
                table.hear([4, a, b, c, d, e], from(0), 20);
            }
            for address in &quiet {
                prop_assert_eq!(table.find(*address, 20), Some(1));
            }
        }
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut table = Table::new(1);
        table.hear([2; 6], from(2), 100);
        assert_eq!(table.find([2; 6], 100 + AGE), Some(2));
        assert_eq!(table.find([2; 6], 101 + AGE), None);
        table.age(101 + AGE);
        assert_eq!(table.learned(2), 0);
    }

    #[test]
    fn guests_cannot_keep_the_outside_from_being_learned() {
        let mut table = Table::new(1);
        // As many ports as it takes to fill the table with what guests made up.
        for n in 0..u16::MAX {
            let [a, b] = n.to_be_bytes();
            let guest = Source {
                port: 4 + n / LIMIT,
                outside: false,
                limit: LIMIT,
            };
            table.hear([6, 0, 0, 0, a, b], guest, 10);
        }
        table.hear([2; 6], from(OUTSIDE), 10);
        assert_eq!(table.find([2; 6], 10), Some(OUTSIDE));
    }
}
