//! The register file of a virtio-mmio device (virtio 1.2 §4.2.2), as a guest sees it.
//!
//! Registers are 32 bits wide and accessed so; another access below the configuration space reads 0 and is
//! ignored. A driver that does things in an order the standard forbids finds them ignored, or its features
//! refused; what it tells of its queues is taken at DRIVER_OK, once.

use super::device::{
    Device, F_ACCESS_PLATFORM, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Left, Link, status,
};
use super::queue::{Options, Place, Queue, Violation};
use crate::hw::Mutex;
use crate::vm::memory::GuestMemory;
use alloc::sync::Arc;
use alloc::vec::Vec;

const MAGIC_VALUE: u64 = 0x000;
const VERSION: u64 = 0x004;
const DEVICE_ID: u64 = 0x008;
const VENDOR_ID: u64 = 0x00c;
const DEVICE_FEATURES: u64 = 0x010;
const DEVICE_FEATURES_SEL: u64 = 0x014;
const DRIVER_FEATURES: u64 = 0x020;
const DRIVER_FEATURES_SEL: u64 = 0x024;
const QUEUE_SEL: u64 = 0x030;
const QUEUE_SIZE_MAX: u64 = 0x034;
const QUEUE_SIZE: u64 = 0x038;
const QUEUE_READY: u64 = 0x044;
const QUEUE_NOTIFY: u64 = 0x050;
const INTERRUPT_STATUS: u64 = 0x060;
const INTERRUPT_ACK: u64 = 0x064;
const STATUS: u64 = 0x070;
const QUEUE_DESC_LOW: u64 = 0x080;
const QUEUE_DESC_HIGH: u64 = 0x084;
const QUEUE_DRIVER_LOW: u64 = 0x090;
const QUEUE_DRIVER_HIGH: u64 = 0x094;
const QUEUE_DEVICE_LOW: u64 = 0x0a0;
const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
/// Length and base of a shared memory region: none is all ones.
const SHM_FIRST: u64 = 0x0b0;
const SHM_LAST: u64 = 0x0bc;
const CONFIGURATION: u64 = 0x100;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// The version of the register layout of virtio 1.x.
const LAYOUT: u32 = 2;
/// "QEMU": what guests know from this board.
const VENDOR: u32 = 0x554d_4551;

/// What becomes of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Written {
    /// All is done.
    Done,
    /// The device has more to do: [`Transport::resume`], soon.
    More,
    /// The device has left an interrupt: [`Transport::resume`], soon, or when the driver has notified for the last time.
    Interrupt,
    /// The device has been reset, but the machine's devices are still at work on buffers of the guest's: it must not
    /// go on until [`Transport::is_idle`].
    Draining,
}

#[derive(Clone, Copy, Debug, Default)]
struct QueueRegisters {
    place: Place,
    ready: bool,
}

#[derive(Debug)]
struct Registers {
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<QueueRegisters>,
}

impl Registers {
    fn new(queues: usize) -> Self {
        Self {
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            queues: alloc::vec![QueueRegisters::default(); queues],
        }
    }

    fn selected(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(self.queue_sel as usize)
    }
}

/// A device in a slot of a VM.
pub struct Transport {
    link: Arc<Link>,
    device: Arc<dyn Device>,
    memory: Arc<GuestMemory>,
    /// All features offered, and those of them that the driver must accept.
    offered: u64,
    required: u64,
    registers: Mutex<Registers>,
}

const fn low(word: u64, value: u32) -> u64 {
    word & !0xffff_ffff | value as u64
}

const fn high(word: u64, value: u32) -> u64 {
    word & 0xffff_ffff | (value as u64) << 32
}

/// Half `select` of a feature word; there is nothing above bit 63.
const fn half(word: u64, select: u32) -> u32 {
    match select {
        0 => word as u32,
        1 => (word >> 32) as u32,
        _ => 0,
    }
}

impl Transport {
    /// Puts `device` behind registers. `protected`: the VM's memory can only be reached where it shares it.
    #[must_use]
    pub fn new(
        link: Arc<Link>,
        device: Arc<dyn Device>,
        memory: Arc<GuestMemory>,
        protected: bool,
    ) -> Self {
        let platform = if protected { F_ACCESS_PLATFORM } else { 0 };
        let required = F_VERSION_1 | platform;
        let offered = device.features() | required | F_INDIRECT_DESC | F_EVENT_IDX;
        let registers = Registers::new(device.queues().len());
        Self {
            link,
            device,
            memory,
            offered,
            required,
            registers: Mutex::new(registers),
        }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Status, interrupts and name.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// A guest's read of `size` bytes at `offset`.
    #[must_use]
    pub fn read(&self, offset: u64, size: u64) -> u64 {
        if let Some(offset) = offset.checked_sub(CONFIGURATION) {
            return self.read_configuration(offset, size);
        }
        if size != 4 {
            return 0;
        }
        let value = match offset {
            INTERRUPT_STATUS => self.link.pending(),
            MAGIC_VALUE => MAGIC,
            VERSION => LAYOUT,
            DEVICE_ID => self.device.kind(),
            VENDOR_ID => VENDOR,
            DEVICE_FEATURES => half(self.offered, self.registers.lock().device_features_sel),
            QUEUE_SIZE_MAX => {
                let selected = self.registers.lock().queue_sel as usize;
                self.device.queues().get(selected).map_or(0, |&n| n.into())
            }
            QUEUE_READY => {
                let mut registers = self.registers.lock();
                registers.selected().is_some_and(|q| q.ready).into()
            }
            STATUS => self.link.status(),
            SHM_FIRST..=SHM_LAST => u32::MAX,
            // ConfigGeneration (0x0fc) among them: no device's configuration changes.
            _ => 0,
        };
        value.into()
    }

    fn read_configuration(&self, offset: u64, size: u64) -> u64 {
        let configuration = self.device.configuration();
        let bytes = configuration.iter().skip(offset as usize);
        let bytes = bytes.take(size.min(8) as usize);
        bytes
            .enumerate()
            .fold(0, |value, (n, &byte)| value | u64::from(byte) << (8 * n))
    }

    /// A guest's write of `size` bytes at `offset`.
    pub fn write(&self, offset: u64, size: u64, value: u64) -> Written {
        // No device here has configuration that a driver can write.
        if size != 4 || offset >= CONFIGURATION {
            return Written::Done;
        }
        let value = value as u32;
        match offset {
            QUEUE_NOTIFY => {
                // Without F_NOTIFICATION_DATA all of it is the queue's index.
                if self.link.is_live() {
                    return match self.device.notify(value as usize) {
                        Left::Nothing => Written::Done,
                        Left::Buffers => Written::More,
                        Left::Interrupt => Written::Interrupt,
                    };
                }
            }
            INTERRUPT_ACK => self.link.acknowledge(value),
            STATUS => return self.write_status(value),
            _ => self.write_register(offset, value),
        }
        Written::Done
    }

    /// Registers that tell the device something for later.
    fn write_register(&self, offset: u64, value: u32) {
        let status = self.link.status();
        let mut registers = self.registers.lock();
        match offset {
            DEVICE_FEATURES_SEL => registers.device_features_sel = value,
            DRIVER_FEATURES_SEL => registers.driver_features_sel = value,
            QUEUE_SEL => registers.queue_sel = value,
            DRIVER_FEATURES if status & status::FEATURES_OK == 0 => {
                let features = registers.driver_features;
                registers.driver_features = match registers.driver_features_sel {
                    0 => low(features, value),
                    1 => high(features, value),
                    // There is nothing above bit 63.
                    _ => features,
                };
            }
            // What a live device uses was taken when it became so.
            _ if status & status::DRIVER_OK != 0 => {}
            _ => {
                let Some(queue) = registers.selected() else {
                    return;
                };
                let place = &mut queue.place;
                match offset {
                    QUEUE_READY => queue.ready = value & 1 != 0,
                    _ if queue.ready => {}
                    QUEUE_SIZE => place.size = u16::try_from(value).unwrap_or(u16::MAX),
                    QUEUE_DESC_LOW => place.descriptors = low(place.descriptors, value),
                    QUEUE_DESC_HIGH => place.descriptors = high(place.descriptors, value),
                    QUEUE_DRIVER_LOW => place.available = low(place.available, value),
                    QUEUE_DRIVER_HIGH => place.available = high(place.available, value),
                    QUEUE_DEVICE_LOW => place.used = low(place.used, value),
                    QUEUE_DEVICE_HIGH => place.used = high(place.used, value),
                    _ => {}
                }
            }
        }
    }

    fn write_status(&self, value: u32) -> Written {
        let mut registers = self.registers.lock();
        if value == 0 {
            // No notification gets through any more; those under way are awaited by the device's locks.
            self.link.reset();
            self.device.reset();
            *registers = Registers::new(self.device.queues().len());
            // An interrupt of a notification that was just under way.
            self.link.reset();
            return if self.is_idle() {
                Written::Done
            } else {
                Written::Draining
            };
        }
        // A driver cannot take a bit back but by a reset (§2.1.1).
        let before = self.link.status();
        let new = value & !before;
        if new & status::FAILED != 0 {
            self.link.given_up();
        }
        let simple = status::ACKNOWLEDGE | status::DRIVER | status::FAILED;
        self.link.add_status(new & simple);
        let features = registers.driver_features;
        if new & status::FEATURES_OK != 0 && self.accepts(features) {
            self.link.add_status(status::FEATURES_OK);
        }
        if new & status::DRIVER_OK != 0 && before & status::NEEDS_RESET == 0 {
            if self.link.status() & status::FEATURES_OK == 0 {
                let what = Violation::Request("driver ready without agreed features");
                self.link.broken(0, &what);
                return Written::Done;
            }
            return self.start(&registers);
        }
        Written::Done
    }

    fn accepts(&self, features: u64) -> bool {
        features & !self.offered == 0
            && features & self.required == self.required
            && self.device.accepts(features)
    }

    /// DRIVER_OK: the queues come to life.
    fn start(&self, registers: &Registers) -> Written {
        let features = registers.driver_features;
        let options = Options {
            indirect: features & F_INDIRECT_DESC != 0,
            event_index: features & F_EVENT_IDX != 0,
        };
        let mut queues = Vec::with_capacity(registers.queues.len());
        for (index, queue) in registers.queues.iter().enumerate() {
            if !queue.ready {
                queues.push(None);
                continue;
            }
            match self.queue(index, queue.place, registers, options) {
                Ok(queue) => queues.push(Some(queue)),
                Err(violation) => {
                    self.link.broken(index, &violation);
                    return Written::Done;
                }
            }
        }
        self.device.activate(features, queues);
        self.link.add_status(status::DRIVER_OK);
        // Buffers that were made available before, and whose notifications were not for a live device.
        let mut more = false;
        for index in 0..registers.queues.len() {
            more |= self.device.notify(index) != Left::Nothing;
        }
        if more { Written::More } else { Written::Done }
    }

    fn queue(
        &self,
        index: usize,
        place: Place,
        registers: &Registers,
        options: Options,
    ) -> Result<Queue, Violation> {
        let most = self.device.queues().get(index).copied().unwrap_or(0);
        if place.size > most {
            return Err(Violation::Size(place.size.into()));
        }
        let others = registers.queues.iter().take(index);
        if others
            .filter(|other| other.ready)
            .any(|other| other.place.overlaps(&place))
        {
            return Err(Violation::Overlap);
        }
        let queue = Queue::new(self.memory.clone(), &place, options)?;
        Ok(queue.of_chains_up_to(self.device.longest_chain(index)))
    }

    /// Goes on with what [`Written::More`] or [`Written::Interrupt`] said. True if there still is more.
    pub fn resume(&self) -> bool {
        self.link.is_live() && self.device.resume()
    }

    /// True if `offset` is where a driver notifies.
    #[inline]
    #[must_use]
    pub const fn notifies(offset: u64) -> bool {
        offset == QUEUE_NOTIFY
    }

    /// True if no device of the machine is at work on the guest's buffers.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.device.in_flight() == 0
    }
}
