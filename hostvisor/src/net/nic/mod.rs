//! One of the machine's network cards: a virtio-net device (virtio 1.2 §5.1), the uplink of a switch.
//!
//! What it receives goes from its buffers straight into those of the switch's receivers, on the CPU that the interrupt
//! came to, up to a budget; a soft timer goes on with the rest, so that a flood from outside leaves guests their time.
//! What the switch sends is copied into buffers of the driver's own ([`transmit`]).
//!
//! A card that breaks the protocol is *dead*: it is reset, one line says so, and it is not used again.
//!
//! Locks, in this order: `receiver`, then the switch's (released before delivery), then another port's receiving
//! lock. `transmitter` is this port's receiving lock, and nobody who holds it sends.

mod receive;
mod transmit;

use super::MAX_FRAME;
use super::feature::{self, LINK_UP};
use super::frame::{Frame, HEAD};
use super::header::{GSO_NONE, LEN, NetHeader};
use super::offload::{self, Accepts, Fault};
use super::switch::{Counters, Port, PortId, Switch};
use crate::drivers::queue::Broken;
use crate::drivers::setup::{self, Refused};
use crate::drivers::{Queue, port};
use crate::hw::Mutex;
use crate::interrupts::Handler;
use crate::segment::{self, Segment};
use crate::vm::Alarm;
use crate::{cpu, dma, hw};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, Ordering};
use log::{error, info};
use receive::{Receiver, Start};
use spin::Once;
use transmit::{Placed, Transmitter};
use virtio_drivers::transport::Transport;

/// Queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Descriptors of a queue, at most and at least: a frame of 64 KiB takes 33 receive buffers.
const DESCRIPTORS: u16 = 256;
const FEWEST: u16 = 64;
/// Most frames, and bytes, received in one go.
const FRAMES: usize = 64;
const BYTES: usize = 256 << 10;
/// Key of the first card's soft timer; the others' are below, and above VMs'. [`crate::watch`] has that above.
const TIMERS: u64 = u64::MAX - 1;

/// What the driver cannot do without, and what it makes use of. Checksums and segments are left to the card as far as
/// it takes them over, and taken from it as they come: guests can have either.
const NEEDED: u64 = feature::MRG_RXBUF | feature::MAC;
const WANTED: u64 = feature::CSUM
    | feature::GUEST_CSUM
    | feature::MTU
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::HOST_TSO4
    | feature::HOST_TSO6
    | feature::STATUS
    | setup::EVENT_IDX;

/// Ethernet's MTU, where the card does not say (§5.1.4: `mtu`).
const MTU: u16 = 1500;
/// Two VLAN tags (IEEE 802.1Q), which the MTU leaves out.
const TAGS: usize = 8;

/// A card.
pub struct Nic {
    /// Where it is, for messages.
    place: String,
    /// Its hardware address, by which cards are told apart. Guests' frames go out under their own.
    address: [u8; 6],
    registers: Box<dyn port::Port>,
    has_status: bool,
    /// What the card leaves to be done.
    gives: Accepts,
    /// What the card does by itself.
    accepts: Accepts,
    /// Largest frame that is not to be cut.
    limit: usize,
    /// Its own handle and its key, for the soft timer.
    own: Weak<Nic>,
    timer: u64,
    uplink: Once<(Arc<Switch>, PortId)>,
    receiver: Mutex<Receiver>,
    transmitter: Mutex<Transmitter>,
    link_up: AtomicBool,
    dead: AtomicBool,
    counters: Counters,
}

impl Nic {
    /// Initialises the device behind `transport`, whose registers `registers` reaches afterwards. `number` is another
    /// one for each card.
    pub fn new<T: Transport>(
        number: u32,
        mut transport: T,
        registers: Box<dyn port::Port>,
        place: String,
    ) -> Result<Arc<Self>, Refused> {
        let features = setup::negotiate(&mut transport, NEEDED, WANTED)?;
        let mut address = [0; 6];
        for (offset, byte) in address.iter_mut().enumerate() {
            *byte = setup::config8(&transport, offset)?;
        }
        let mtu = if features & feature::MTU == 0 {
            MTU
        } else {
            setup::config16(&transport, 10)?
        };
        let mut ring = |index, buffer: u32| -> Result<(Queue, u64), Refused> {
            let queue = setup::queue(&mut transport, index, DESCRIPTORS, features)?;
            if queue.size() < FEWEST {
                return Err(Refused::NoQueue(index));
            }
            let bytes = u64::from(queue.size()) * u64::from(buffer);
            // For ever: the card knows the address.
            let buffers = dma::allocate(bytes).ok_or(Refused::NoMemory)?;
            Ok((queue, buffers.address()))
        };
        let (queue, buffers) = ring(RECEIVE, receive::BUFFER)?;
        let receiver = Receiver::new(queue, buffers);
        let (queue, buffers) = ring(TRANSMIT, transmit::BUFFER)?;
        let transmitter = Transmitter::new(queue, buffers);
        setup::finish(&mut transport);
        // Its end would reset the device.
        core::mem::forget(transport);
        Ok(Arc::new_cyclic(|own| Self {
            place,
            address,
            registers,
            has_status: features & feature::STATUS != 0,
            gives: feature::takes(features),
            accepts: feature::sends(features),
            limit: HEAD + TAGS + usize::from(mtu),
            own: own.clone(),
            timer: TIMERS - u64::from(number),
            uplink: Once::new(),
            receiver: Mutex::new(receiver),
            transmitter: Mutex::new(transmitter),
            link_up: AtomicBool::new(true),
            dead: AtomicBool::new(false),
            counters: Counters::default(),
        }))
    }

    /// Its hardware address.
    #[must_use]
    pub const fn address(&self) -> [u8; 6] {
        self.address
    }

    /// Makes it the uplink of a switch, for good. False if the switch has no port left.
    pub fn join(self: &Arc<Self>, switch: &Arc<Switch>) -> bool {
        let Ok(id) = switch.attach(self.clone(), None) else {
            return false;
        };
        self.uplink.call_once(|| (switch.clone(), id));
        // Only now is there anybody to receive for.
        self.start();
        true
    }

    /// Hands the card its receive buffers.
    fn start(&self) {
        let notify = self.receiver.lock().start();
        if notify {
            self.registers.notify(RECEIVE);
        }
        self.look_at_link();
        self.serve();
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Declares the card dead.
    fn give_up(&self, why: &str) {
        if self.dead.swap(true, Ordering::SeqCst) {
            return;
        }
        error!("{}: {why}, not used any more", self.label());
        if !self.registers.reset() {
            error!(
                "{}: does not reset; it may still write to memory",
                self.label()
            );
        }
    }

    /// Takes in and hands out whatever there is, within the budget.
    fn serve(&self) {
        if self.is_dead() {
            return;
        }
        let result = self.send_waiting().and_then(|()| self.receive());
        match result {
            Ok(false) => {}
            Ok(true) => self.resume_later(),
            Err(Broken) => self.give_up("breaks the protocol"),
        }
    }

    /// Goes on soon: others get to run in between.
    fn resume_later(&self) {
        if let Some(own) = self.own.upgrade() {
            cpu::get(hw::cpu_index()).arm_soon(self.timer, Alarm::Call(own));
        }
    }

    /// Forwards what has been received. True if there is more than is done in one go.
    fn receive(&self) -> Result<bool, Broken> {
        let Some((switch, id)) = self.uplink.get() else {
            return Ok(false);
        };
        let mut receiver = self.receiver.lock();
        let (mut frames, mut bytes) = (0, 0);
        loop {
            while frames < FRAMES
                && bytes < BYTES
                && let Some(start) = receiver.take()?
            {
                frames += 1;
                bytes += self.forward(switch, *id, &start, receiver.frame());
                receiver.give_back();
            }
            if receiver.publish() {
                self.registers.notify(RECEIVE);
            }
            if frames >= FRAMES || bytes >= BYTES {
                return Ok(true);
            }
            if !receiver.await_frames() {
                return Ok(false);
            }
        }
    }

    /// Forwards one frame, which `start` is the beginning of; answers its length, once for everybody it was
    /// for.
    fn forward(&self, switch: &Switch, id: PortId, start: &Start, all: &[Segment]) -> usize {
        let len = usize::try_from(segment::total(all))
            .unwrap_or(usize::MAX)
            .saturating_sub(LEN);
        let sent = match (start.first_chunk(), start.last_chunk()) {
            (Some(header), Some(head)) if (HEAD..=MAX_FRAME).contains(&len) => {
                offload::check(&NetHeader::read(header), len, self.gives)
                    .ok_or(Fault::Malformed)
                    .and_then(|header| {
                        let frame = Frame::in_pool(header, *head, all, LEN as u64, len);
                        switch.forward(id, &frame)
                    })
            }
            _ => Err(Fault::Malformed),
        };
        if sent.is_ok() {
            Counters::count(&self.counters.sent, 1);
            Counters::count(&self.counters.sent_bytes, len as u64);
        } else {
            Counters::count(&self.counters.refused, 1);
        }
        len.saturating_mul(sent.unwrap_or(0).max(1))
    }

    /// Hands the card what waits, as far as it has room now.
    fn send_waiting(&self) -> Result<(), Broken> {
        let mut transmitter = self.transmitter.lock();
        let result = transmitter.work_off();
        if transmitter.publish() {
            self.registers.notify(TRANSMIT);
        }
        result
    }

    /// Sends a frame that the card can take as it is.
    fn send(&self, transmitter: &mut Transmitter, frame: &Frame<'_>) -> Result<(), Fault> {
        let oversized = frame.header.gso_type == GSO_NONE && frame.len() > self.limit;
        let placed = if oversized {
            Placed::Dropped
        } else {
            transmitter.take(frame)?
        };
        match placed {
            Placed::Done => {
                Counters::count(&self.counters.received, 1);
                Counters::count(&self.counters.received_bytes, frame.len() as u64);
            }
            Placed::Dropped => Counters::count(&self.counters.dropped, 1),
            Placed::Broken => {
                Counters::count(&self.counters.dropped, 1);
                self.give_up("breaks the protocol");
            }
        }
        Ok(())
    }

    /// The configuration has changed, or the device asks for a reset.
    fn look_at_link(&self) {
        if self.registers.is_broken() {
            self.give_up("asks to be reset");
            return;
        }
        if !self.has_status {
            return;
        }
        // `status` follows the address, at byte 6.
        let [_, _, status, _] = self.registers.config32(4).to_le_bytes();
        let up = status & LINK_UP != 0;
        if self.link_up.swap(up, Ordering::Relaxed) != up {
            info!("{}: link {}", self.label(), if up { "up" } else { "down" });
        }
    }
}

impl Port for Nic {
    fn label(&self) -> String {
        format!(
            "network card {} ({})",
            bundle::Mac(self.address),
            self.place
        )
    }

    fn deliver(&self, frame: &Frame<'_>) -> Result<(), Fault> {
        let mut transmitter = self.transmitter.lock();
        if self.is_dead() {
            Counters::count(&self.counters.dropped, 1);
            return Ok(());
        }
        let result = offload::adapt(frame, self.accepts, |frame| {
            self.send(&mut transmitter, frame)
        });
        if transmitter.publish() {
            self.registers.notify(TRANSMIT);
        }
        if !result? {
            Counters::count(&self.counters.dropped, 1);
        }
        Ok(())
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Handler for Nic {
    fn handle(&self) {
        // Before the rings are looked at: what comes later raises the interrupt again.
        let reasons = self.registers.acknowledge();
        if reasons & port::CONFIG != 0 && !self.is_dead() {
            self.look_at_link();
        }
        self.serve();
    }
}

#[cfg(test)]
mod tests;
