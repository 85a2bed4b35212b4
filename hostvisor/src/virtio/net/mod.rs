//! Network device (virtio 1.2 §5.1): a guest's interface, which is a port of a switch.
//!
//! What a guest sends is copied from its buffers straight into the receivers', on the CPU where it notified. A
//! receiver without buffers keeps a bounded backlog ([`receive`]).
//!
//! Offloads need not match: what a sender leaves to do and a receiver has not negotiated is done in between
//! ([`crate::net::offload`]).
//!
//! Locks, in this order: `transmit`, then the switch's (released before delivery), then `receive` of *another* device. The
//! own `receive` is never taken with `transmit` held.

mod receive;
mod transmit;

use super::device::{CONFIG, Device, Left, Link};
use super::queue::{Queue, Violation};
use crate::hw::Mutex;
use crate::net::feature::{self, LINK_UP, sends, takes};
use crate::net::frame::Frame;
use crate::net::offload::{self, Fault};
use crate::net::switch::{Counters, Port, PortId, Refused, Switch};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use receive::Receiver;
use transmit::Transmitter;

const KIND: u32 = 1;
/// Descriptors: a frame of 64 KiB takes some 40 receive buffers.
const RECEIVE_SIZE: u16 = 1024;
const TRANSMIT_SIZE: u16 = 256;
/// Most descriptors of a frame to send: the header and 64 KiB in pages, twice over. (Linux's have 47 at most, if its
/// MAX_SKB_FRAGS is set to the largest, FreeBSD's 64.)
const TRANSMIT_CHAIN: u16 = 72;
/// Most descriptors of a receive buffer: the header and 64 KiB in pieces of 2 KiB. (Without merged buffers Linux's have 19,
/// FreeBSD's 34.)
const RECEIVE_CHAIN: u16 = 40;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// All that is offered.
const OFFERED: u64 = feature::CSUM
    | feature::GUEST_CSUM
    | feature::MAC
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::HOST_TSO4
    | feature::HOST_TSO6
    | feature::MRG_RXBUF
    | feature::STATUS;

/// The end of the interface that the switch has.
pub struct Interface {
    link: Arc<Link>,
    counters: Counters,
    receiver: Mutex<Receiver>,
}

/// A guest's network device.
pub struct Net {
    interface: Arc<Interface>,
    address: [u8; 6],
    switch: Arc<Switch>,
    /// Its port, until the VM ends.
    port: Mutex<Option<PortId>>,
    transmitter: Mutex<Option<Transmitter>>,
    /// Somebody has notified the transmit queue since its buffers were looked at last.
    notified: AtomicBool,
}

impl Interface {
    /// The driver broke the rules at `queue`.
    fn broken(&self, queue: usize, violation: &Violation) {
        self.link.broken(queue, violation);
    }
}

impl Port for Interface {
    fn label(&self) -> String {
        self.link.name().to_string()
    }

    fn deliver(&self, frame: &Frame<'_>) -> Result<(), Fault> {
        self.receive(frame)
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Net {
    /// An interface with this address at `switch`. An address that is taken there is a mistake in the manifests: the log
    /// says so, and the interface stays without link.
    #[must_use]
    pub fn new(link: Arc<Link>, address: [u8; 6], switch: Arc<Switch>) -> Arc<Self> {
        let interface = Arc::new(Interface {
            link,
            counters: Counters::default(),
            receiver: Mutex::new(Receiver::new()),
        });
        let port = match switch.attach(interface.clone(), Some(address)) {
            Ok(port) => Some(port),
            Err(refused) => {
                let why = match refused {
                    Refused::Full => "all its ports are taken",
                    Refused::Address => "another interface has its address",
                };
                log::error!(
                    "{}: no link to switch {}: {why}",
                    interface.link.name(),
                    switch.name()
                );
                None
            }
        };
        Arc::new(Self {
            interface,
            address,
            switch,
            port: Mutex::new(port),
            transmitter: Mutex::new(None),
            notified: AtomicBool::new(false),
        })
    }
}

impl Device for Net {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        OFFERED
    }

    fn queues(&self) -> &[u16] {
        &[RECEIVE_SIZE, TRANSMIT_SIZE]
    }

    fn longest_chain(&self, queue: usize) -> u16 {
        if queue == RECEIVE {
            RECEIVE_CHAIN
        } else {
            TRANSMIT_CHAIN
        }
    }

    /// Dependencies of features (§5.1.3.1).
    fn accepts(&self, features: u64) -> bool {
        let (sends, takes) = (sends(features), takes(features));
        let sound = |accepts: offload::Accepts| accepts.checksum || !(accepts.tso4 || accepts.tso6);
        sound(sends) && sound(takes)
    }

    fn configuration(&self) -> [u8; CONFIG] {
        let mut bytes = [0; CONFIG];
        let linked = self.port.lock().is_some();
        let fields = self
            .address
            .into_iter()
            .chain([if linked { LINK_UP } else { 0 }]);
        bytes
            .iter_mut()
            .zip(fields)
            .for_each(|(to, from)| *to = from);
        bytes
    }

    fn activate(&self, features: u64, queues: Vec<Option<Queue>>) {
        let mut queues = queues.into_iter();
        let (receive, transmit) = (queues.next().flatten(), queues.next().flatten());
        self.interface.receiver.lock().start(receive, features);
        *self.transmitter.lock() = transmit.map(|queue| Transmitter::new(queue, sends(features)));
    }

    fn notify(&self, queue: usize) -> Left {
        match queue {
            RECEIVE => Left::buffers(self.interface.refilled()),
            TRANSMIT => self.transmit(false),
            _ => Left::Nothing,
        }
    }

    fn resume(&self) -> bool {
        // One after the other: neither is to be forgotten for the other.
        let receiving = self.interface.refilled();
        let sending = self.transmit(true);
        sending == Left::Buffers || receiving
    }

    fn reset(&self) {
        *self.transmitter.lock() = None;
        self.interface.receiver.lock().stop();
    }

    fn close(&self) {
        // In this order: nothing is sent any more in the name of a port that may soon be somebody else's.
        self.reset();
        let port = self.port.lock().take();
        if let Some(port) = port {
            self.switch.detach(port);
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.interface.counters.list()
    }
}
