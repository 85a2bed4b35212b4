//! The few registers of a device that its driver touches after initialisation.

use crate::hw::{self, Mmio};

/// A virtqueue has been used (ISR bit 0, virtio 1.2 §4.1.4.5 and §4.2.2).
pub const QUEUE: u32 = 1;
/// The configuration has changed.
pub const CONFIG: u32 = 2;

/// DEVICE_NEEDS_RESET (§2.1).
const NEEDS_RESET: u32 = 64;
/// How long a device may take to reset, in milliseconds.
const RESET_MS: u64 = 100;

/// A device, as its driver sees it after initialisation.
pub trait Port: Send + Sync {
    /// Tells the device of new chains in queue `queue`.
    fn notify(&self, queue: u16);
    /// Takes the interrupt's reasons, and with them its level: [`QUEUE`], [`CONFIG`].
    fn acknowledge(&self) -> u32;
    /// True if the device says that it cannot go on.
    fn is_broken(&self) -> bool;
    /// Resets the device. True if it has answered: then it touches no memory any more.
    fn reset(&self) -> bool;
    /// A word of the configuration.
    fn config32(&self, offset: u64) -> u32;
}

/// virtio-mmio registers (§4.2.2).
pub struct MmioPort(pub Mmio);

const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
const INTERRUPT_ACK: u64 = 0x64;
const STATUS: u64 = 0x70;
const CONFIG_SPACE: u64 = 0x100;
/// Rounds at most in which reasons of an interrupt are acknowledged.
const ACKNOWLEDGES: usize = 4;

impl Port for MmioPort {
    #[inline]
    fn notify(&self, queue: u16) {
        self.0.write32(QUEUE_NOTIFY, u32::from(queue));
    }

    #[inline]
    fn acknowledge(&self) -> u32 {
        let mut all = 0;
        // One that comes between the two keeps the line high: where that is an edge, no other would follow.
        for _ in 0..ACKNOWLEDGES {
            let reasons = self.0.read32(INTERRUPT_STATUS);
            if reasons == 0 {
                break;
            }
            self.0.write32(INTERRUPT_ACK, reasons);
            all |= reasons;
        }
        all
    }

    fn is_broken(&self) -> bool {
        self.0.read32(STATUS) & NEEDS_RESET != 0
    }

    fn reset(&self) -> bool {
        self.0.write32(STATUS, 0);
        within_reset_time(|| self.0.read32(STATUS) == 0)
    }

    fn config32(&self, offset: u64) -> u32 {
        self.0.read32(CONFIG_SPACE + offset)
    }
}

/// virtio-pci structures (§4.1.4).
pub struct PciPort {
    /// Common configuration.
    pub common: Mmio,
    /// Notification structure.
    pub notify: Mmio,
    /// Where in it the first queues are notified.
    pub doorbells: [u64; 2],
    /// ISR status.
    pub isr: Mmio,
    /// Device-specific configuration.
    pub config: Mmio,
}

/// device_status in the common configuration (§4.1.4.3).
const DEVICE_STATUS: u64 = 20;

impl Port for PciPort {
    #[inline]
    fn notify(&self, queue: u16) {
        if let Some(&at) = self.doorbells.get(usize::from(queue)) {
            self.notify.write16(at, queue);
        }
    }

    #[inline]
    fn acknowledge(&self) -> u32 {
        u32::from(self.isr.read8(0))
    }

    fn is_broken(&self) -> bool {
        u32::from(self.common.read8(DEVICE_STATUS)) & NEEDS_RESET != 0
    }

    fn reset(&self) -> bool {
        self.common.write8(DEVICE_STATUS, 0);
        within_reset_time(|| self.common.read8(DEVICE_STATUS) == 0)
    }

    fn config32(&self, offset: u64) -> u32 {
        self.config.read32(offset)
    }
}

/// Waits for the end of a reset, which the device may take its time for. False if it does not come.
pub(super) fn within_reset_time(is_done: impl Fn() -> bool) -> bool {
    let deadline = hw::now() + hw::frequency() / 1000 * RESET_MS;
    loop {
        if is_done() {
            return true;
        }
        if hw::now() >= deadline {
            return false;
        }
        hw::relax();
    }
}
