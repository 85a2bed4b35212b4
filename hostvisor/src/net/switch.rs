//! A learning Ethernet switch: joins guests' interfaces, and the machine's network card if it has an uplink.
//!
//! Run to completion: [`Switch::forward`] is called where the frame was sent, and hands it to each receiver's
//! [`Port::deliver`] before it returns. There is no queue in the switch itself, so that one port that does not
//! take its frames holds up no other; what a port cannot take it keeps or drops, and counts.
//!
//! Locks: the switch's own is held while an address is looked up, and never while a frame is delivered. A sender may
//! hold locks of its own; a receiver takes its receiving locks. So a frame's way is sender's transmit lock, switch,
//! then receiver's receive lock, and nobody who holds a receive lock sends.

use super::frame::Frame;
use super::offload::Fault;
pub use super::table::PortId;
use super::table::{Heard, Source, Table};
use crate::hw::Mutex;
use crate::{hw, random};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// Most ports of a switch.
pub const MAX_PORTS: usize = 512;
/// Addresses that may be learned behind a guest's interface: containers and bridges in it.
const GUEST_LIMIT: u16 = 16;
/// Addresses that may be learned behind an uplink.
const UPLINK_LIMIT: u16 = 512;
/// Seconds between two looks for what is to be forgotten.
const SWEEP: u64 = 60;

/// What frames are delivered to.
pub trait Port: Send + Sync {
    /// Its name, for people.
    fn label(&self) -> String;

    /// Takes a frame, or counts that it does not. An error says that the sender is at fault.
    fn deliver(&self, frame: &Frame<'_>) -> Result<(), Fault>;

    /// Its counters.
    fn counters(&self) -> &Counters;
}

/// What a port has seen. `sent` and `received` as the guest sees it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames that came from it.
    pub sent: AtomicU64,
    /// Their bytes.
    pub sent_bytes: AtomicU64,
    /// Frames it was given.
    pub received: AtomicU64,
    /// Their bytes.
    pub received_bytes: AtomicU64,
    /// Frames from it that were none, or had a source that is another port's or outside.
    pub refused: AtomicU64,
    /// Frames for it that it had no room for.
    pub dropped: AtomicU64,
}

impl Counters {
    /// Adds to a counter.
    #[inline]
    pub fn count(counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// All of them, named.
    #[must_use]
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("packets sent", &self.sent),
            ("bytes sent", &self.sent_bytes),
            ("packets received", &self.received),
            ("bytes received", &self.received_bytes),
            ("packets refused", &self.refused),
            ("packets dropped", &self.dropped),
        ];
        all.map(|(name, value)| (name, value.load(Ordering::Relaxed)))
            .to_vec()
    }
}

struct Member {
    port: Arc<dyn Port>,
    source: Source,
}

struct State {
    ports: Vec<Option<Member>>,
    table: Table,
    swept: u64,
}

impl State {
    fn port(&self, id: PortId) -> Option<Arc<dyn Port>> {
        let member = self.ports.get(usize::from(id))?.as_ref()?;
        Some(member.port.clone())
    }
}

/// A switch.
pub struct Switch {
    name: String,
    state: Mutex<State>,
}

/// Why a port cannot be attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// All ports are taken.
    Full,
    /// Another port has the address.
    Address,
}

/// Where a frame goes.
enum Way {
    One(Arc<dyn Port>),
    All,
    Nowhere,
}

/// Addresses that bridges do not forward (IEEE 802.1Q §8.6.3): spanning tree, pause and the like.
const fn is_reserved(address: [u8; 6]) -> bool {
    matches!(address, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f])
}

const fn is_group(address: [u8; 6]) -> bool {
    address[0] & 1 != 0
}

fn seconds() -> u64 {
    hw::now() / hw::frequency()
}

impl Switch {
    /// Without ports.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut key = [0; 8];
        random::fill(&mut key);
        Self {
            name: name.to_string(),
            state: Mutex::new(State {
                ports: Vec::new(),
                table: Table::new(u64::from_le_bytes(key)),
                swept: 0,
            }),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Attaches a port. An interface of a guest has an `address` of its own, which nobody else can use; an uplink
    /// has none.
    pub fn attach(&self, port: Arc<dyn Port>, address: Option<[u8; 6]>) -> Result<PortId, Refused> {
        let mut state = self.state.lock();
        let at = match state.ports.iter().position(Option::is_none) {
            Some(at) => at,
            None if state.ports.len() < MAX_PORTS => {
                state.ports.push(None);
                state.ports.len() - 1
            }
            None => return Err(Refused::Full),
        };
        let id = at as PortId;
        if let Some(address) = address
            && !state.table.pin(address, id)
        {
            return Err(Refused::Address);
        }
        let outside = address.is_none();
        let source = Source {
            port: id,
            outside,
            limit: if outside { UPLINK_LIMIT } else { GUEST_LIMIT },
        };
        if let Some(place) = state.ports.get_mut(at) {
            *place = Some(Member { port, source });
        }
        Ok(id)
    }

    /// Detaches a port, which sends no more. A frame that is on its way to it at this moment may still be delivered.
    pub fn detach(&self, id: PortId) {
        let mut state = self.state.lock();
        state.table.remove(id);
        let member = state.ports.get_mut(usize::from(id)).and_then(Option::take);
        drop(state);
        // Not under the lock: it may be the last of the port.
        drop(member);
    }

    /// Forwards a frame from port `from`: to how many ports. An error says that the frame, or where it lies, is not
    /// sound.
    pub fn forward(&self, from: PortId, frame: &Frame<'_>) -> Result<usize, Fault> {
        match self.way(from, frame, seconds()).ok_or(Fault::Malformed)? {
            Way::One(port) => port.deliver(frame).map(|()| 1),
            Way::Nowhere => Ok(0),
            Way::All => self.flood(from, frame),
        }
    }

    /// Where a frame goes; `None` if it must not be sent at all.
    fn way(&self, from: PortId, frame: &Frame<'_>, now: u64) -> Option<Way> {
        let (source, destination) = (frame.source(), frame.destination());
        // Nobody has an address of zeros either: the table marks what is free with it.
        if is_group(source) || source == [0; 6] {
            return None;
        }
        let mut state = self.state.lock();
        if now.saturating_sub(state.swept) > SWEEP {
            state.swept = now;
            state.table.age(now);
        }
        let port = state.ports.get(usize::from(from))?.as_ref()?.source;
        if state.table.hear(source, port, now) == Heard::Spoofed {
            return None;
        }
        if is_reserved(destination) {
            return Some(Way::Nowhere);
        }
        if is_group(destination) {
            return Some(Way::All);
        }
        Some(match state.table.find(destination, now) {
            // Back to where it came from: whoever it is for has had it there.
            Some(port) if port == from => Way::Nowhere,
            Some(port) => state.port(port).map_or(Way::Nowhere, Way::One),
            None => Way::All,
        })
    }

    /// To all but the sender. Each gets it or does not: none holds up another.
    fn flood(&self, from: PortId, frame: &Frame<'_>) -> Result<usize, Fault> {
        let mut result = Ok(0);
        for id in 0..MAX_PORTS as PortId {
            let state = self.state.lock();
            if usize::from(id) >= state.ports.len() {
                break;
            }
            let port = state.port(id).filter(|_| id != from);
            drop(state);
            if let Some(port) = port {
                let taken = port.deliver(frame);
                result = result.and_then(|n| taken.map(|()| n + 1));
            }
        }
        result
    }

    /// What is known of its ports, in order.
    #[must_use]
    pub fn stat(&self) -> Vec<PortStat> {
        let state = self.state.lock();
        let addresses = state.table.list(seconds());
        let ports = (0..).zip(&state.ports);
        ports
            .filter_map(|(id, member): (PortId, _)| Some((id, &member.as_ref()?.port)))
            .map(|(id, port)| PortStat {
                id,
                label: port.label(),
                addresses: addresses
                    .iter()
                    .filter(|entry| entry.1 == id)
                    .map(|entry| (entry.0, entry.2))
                    .collect(),
                counters: port.counters().list(),
            })
            .collect()
    }
}

/// A port as `net` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortStat {
    /// Its number.
    pub id: PortId,
    /// Whose it is.
    pub label: String,
    /// Addresses behind it, and whether they are its own.
    pub addresses: Vec<([u8; 6], bool)>,
    /// Its counters.
    pub counters: Vec<(&'static str, u64)>,
}

static SWITCHES: Mutex<Vec<Arc<Switch>>> = Mutex::new(Vec::new());

/// The switch of that name, made if there is none. There are as many as the bundle's manifests name.
#[must_use]
pub fn named(name: &str) -> Arc<Switch> {
    let mut switches = SWITCHES.lock();
    if let Some(switch) = switches.iter().find(|switch| switch.name == name) {
        return switch.clone();
    }
    let switch = Arc::new(Switch::new(name));
    switches.push(switch.clone());
    switch
}

/// All switches.
#[must_use]
pub fn all() -> Vec<Arc<Switch>> {
    SWITCHES.lock().clone()
}

#[cfg(test)]
#[path = "switch_tests.rs"]
mod tests;
