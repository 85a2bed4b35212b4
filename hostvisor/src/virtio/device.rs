//! What a device is to its register file, and what both share.

use super::queue::{Queue, Violation};
use crate::log::VERDICT;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

/// VIRTIO_F_INDIRECT_DESC.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1.
pub const F_VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_ACCESS_PLATFORM: what a protected VM's driver must accept, as it says that the device cannot reach
/// all of the guest's memory.
pub const F_ACCESS_PLATFORM: u64 = 1 << 33;

/// Device status (§2.1).
pub mod status {
    /// ACKNOWLEDGE
    pub const ACKNOWLEDGE: u32 = 1;
    /// DRIVER
    pub const DRIVER: u32 = 2;
    /// DRIVER_OK
    pub const DRIVER_OK: u32 = 4;
    /// FEATURES_OK
    pub const FEATURES_OK: u32 = 8;
    /// DEVICE_NEEDS_RESET
    pub const NEEDS_RESET: u32 = 64;
    /// FAILED
    pub const FAILED: u32 = 128;
}

/// Interrupt status: used buffers.
const USED_BUFFER: u32 = 1;
/// Interrupt status: configuration, or DEVICE_NEEDS_RESET.
const CONFIGURATION: u32 = 2;
/// Violations and failures told of one device in one run of its VM. A hostile guest can reset and go on for ever.
const REPORTS: u32 = 8;

/// Bytes of device-specific configuration space, the most any device here has.
pub const CONFIG: usize = 64;

/// What a device that was notified has left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Left {
    /// Nothing.
    Nothing,
    /// Buffers, for [`Device::resume`].
    Buffers,
    /// An interrupt, for [`Device::resume`].
    Interrupt,
}

impl Left {
    /// Buffers or nothing.
    pub const fn buffers(some: bool) -> Self {
        if some { Self::Buffers } else { Self::Nothing }
    }
}

/// The interrupt line of a device, in its VM's interrupt controller.
pub trait Line: Send + Sync {
    /// Makes line `intid` what `pending` says *under the interrupt controller's lock*, so that of two that change
    /// `pending` at once the last one here takes the final value along. `again`: one that stays high rises anew,
    /// for guests that take it as an edge.
    fn follow(&self, intid: u32, pending: &AtomicU32, again: bool);

    /// Nothing of the device is in flight any more: who waits for that looks again.
    fn idle(&self) {}

    /// The device whose line is `intid` can do more, [`Device::resume`], soon.
    fn go_on(&self, _intid: u32) {}
}

/// What a device and its register file share: status, interrupt status, and whom to blame.
pub struct Link {
    /// The VM and the device, for the log.
    name: String,
    intid: u32,
    line: Box<dyn Line>,
    status: AtomicU32,
    pending: AtomicU32,
    violations: AtomicU32,
}

impl Link {
    /// Of a device after reset. `name` says in the log which device of which VM it is.
    #[must_use]
    pub fn new(name: String, intid: u32, line: Box<dyn Line>) -> Self {
        Self {
            name,
            intid,
            line,
            status: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            violations: AtomicU32::new(0),
        }
    }

    /// The VM and the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Device status.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(super) fn set_status(&self, status: u32) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub(super) fn add_status(&self, bits: u32) {
        self.status.fetch_or(bits, Ordering::SeqCst);
    }

    /// True if the driver is ready and nothing is wrong.
    #[inline]
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.status() & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    /// Interrupt status.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::SeqCst)
    }

    /// How often the driver broke the rules.
    #[must_use]
    pub fn violations(&self) -> u32 {
        self.violations.load(Ordering::Relaxed)
    }

    /// Nothing of the device is in flight any more.
    pub fn idle(&self) {
        self.line.idle();
    }

    /// The device can do more of what it had to leave.
    pub fn go_on(&self) {
        self.line.go_on(self.intid);
    }

    fn raise(&self, bits: u32) {
        let before = self.pending.fetch_or(bits, Ordering::SeqCst);
        if before & bits != bits {
            self.line.follow(self.intid, &self.pending, false);
        }
    }

    /// Interrupts: buffers have been used.
    #[inline]
    pub fn used_buffers(&self) {
        self.raise(USED_BUFFER);
    }

    /// The driver acknowledges `bits`. What stays pending rises anew.
    pub(super) fn acknowledge(&self, bits: u32) {
        if self.pending.fetch_and(!bits, Ordering::SeqCst) & bits != 0 {
            self.line.follow(self.intid, &self.pending, true);
        }
    }

    pub(super) fn reset(&self) {
        self.set_status(0);
        self.acknowledge(u32::MAX);
    }

    /// The driver says that it cannot go on (§2.1.1, FAILED).
    pub(super) fn given_up(&self) {
        if let Some(more) = self.report() {
            log::warn!("{}: its driver has given up{more}", self.name);
        }
    }

    /// Whether one more report on the driver may be made, and what it ends with.
    fn report(&self) -> Option<&'static str> {
        match self.violations.fetch_add(1, Ordering::Relaxed) + 1 {
            number if number < REPORTS => Some(""),
            REPORTS => Some(" (more of this is not told)"),
            _ => None,
        }
    }

    /// The driver has broken the rules at `queue`: the device stops until it is reset (§2.1.2), and the log says who
    /// it was. The device does not use its queues any more.
    pub fn broken(&self, queue: usize, violation: &Violation) {
        let before = self.status.fetch_or(status::NEEDS_RESET, Ordering::SeqCst);
        if before & status::NEEDS_RESET != 0 {
            return;
        }
        if let Some(more) = self.report() {
            log::warn!(
                target: VERDICT,
                "{}: queue {queue}: {violation}; the device waits for a reset{more}",
                self.name
            );
        }
        if before & status::DRIVER_OK != 0 {
            self.raise(CONFIGURATION);
        }
    }
}

/// A device, behind its register file. It has locks of its own; calls may come from several CPUs at once.
pub trait Device: Send + Sync {
    /// Device type (§5).
    fn kind(&self) -> u32;

    /// Device-specific features offered.
    fn features(&self) -> u64;

    /// Largest size of each queue.
    fn queues(&self) -> &[u16];

    /// Most descriptors of a chain in queue `queue`, where drivers have no use for as many as the queue has.
    fn longest_chain(&self, _queue: usize) -> u16 {
        u16::MAX
    }

    /// Whether the device works with this subset of what was offered.
    fn accepts(&self, _features: u64) -> bool {
        true
    }

    /// Device-specific configuration space.
    fn configuration(&self) -> [u8; CONFIG] {
        [0; CONFIG]
    }

    /// The driver is ready: `features` is what was negotiated, a queue that the driver has not set up is `None`.
    fn activate(&self, features: u64, queues: Vec<Option<Queue>>);

    /// There may be buffers in queue `queue`. Bounded work.
    fn notify(&self, queue: usize) -> Left;

    /// Goes on with what was left. True if there still are buffers; an interrupt is not left again.
    fn resume(&self) -> bool {
        false
    }

    /// Forgets its queues. Once this has returned nothing touches them, nor buffers taken from them, but for
    /// [`Device::in_flight`] requests that a device of the machine is at.
    fn reset(&self);

    /// The VM is at its end: as [`Device::reset`], for good. Lets go of what it is connected to.
    fn close(&self) {
        self.reset();
    }

    /// Requests that a device of the machine is at, whose buffers it may still read or write.
    fn in_flight(&self) -> u32 {
        0
    }

    /// A device of the machine may read or write the guest's memory for ever: it can never be somebody else's.
    fn has_lost_memory(&self) -> bool {
        false
    }

    /// Counters, for `vm stat`.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}
