//! A VM's virtio devices, each in its slot.

use super::blk::Blk;
use super::console::Console;
use super::device::{Device, Line, Link};
use super::mmio::{Transport, Written};
use super::net::Net;
use super::rng::Rng;
use crate::console;
use crate::devices::map;
use crate::net::switch;
use crate::vm::attach::Attached;
use crate::vm::memory::GuestMemory;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bundle::{GuestConsole, Manifest};

/// Counters of one device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeviceStat {
    /// The device.
    pub name: String,
    /// What it counts.
    pub counters: Vec<(&'static str, u64)>,
    /// How often its driver broke the rules.
    pub violations: u64,
}

/// All virtio devices of a VM; slot n is the n-th one.
#[derive(Default)]
pub struct Bus {
    slots: Vec<Transport>,
    console: Option<Arc<Console>>,
}

/// Makes devices and puts them into slots.
struct Builder<'a> {
    manifest: &'a Manifest,
    memory: &'a Arc<GuestMemory>,
    line: &'a dyn Fn() -> Box<dyn Line>,
    slots: Vec<Transport>,
}

impl Builder<'_> {
    /// The next slot's device, which `make` makes; `name` is told in the log behind the VM's name.
    fn add<D: Device + 'static>(&mut self, name: &str, make: impl FnOnce(Arc<Link>) -> Arc<D>) {
        let slot = self.slots.len() as u32;
        if slot >= map::VIRTIO_SLOTS {
            return;
        }
        let intid = map::VIRTIO_INTID + slot;
        let name = format!("vm {}: {name}", self.manifest.name);
        let link = Arc::new(Link::new(name, intid, (self.line)()));
        let device = make(link.clone());
        self.slots.push(Transport::new(
            link,
            device,
            self.memory.clone(),
            self.manifest.protected,
        ));
    }
}

impl Bus {
    /// The devices that the manifest of VM number `vm` asks for, in the order of slots, attached to what was found for
    /// them. `line` makes the end of an interrupt line in the VM.
    #[must_use]
    pub fn new(
        vm: usize,
        manifest: &Manifest,
        attached: &Attached,
        memory: &Arc<GuestMemory>,
        line: &dyn Fn() -> Box<dyn Line>,
    ) -> Self {
        let mut builder = Builder {
            manifest,
            memory,
            line,
            slots: Vec::new(),
        };
        for (n, net) in manifest.nets.iter().enumerate() {
            let switch = switch::named(&net.switch);
            builder.add(&format!("net{n}"), |link| Net::new(link, net.mac.0, switch));
        }
        if manifest.entropy {
            builder.add("rng", |link| Arc::new(Rng::new(link)));
        }
        for (n, (disk, volume)) in manifest.disks.iter().zip(&attached.disks).enumerate() {
            let backend = Arc::new(volume.clone());
            let serial = disk.source.guest_serial();
            builder.add(&format!("disk{n}"), |link| {
                let protected = manifest.protected;
                Arc::new(Blk::new(link, backend, serial, disk.read_only, protected))
            });
        }
        let mut console = None;
        if manifest.console == GuestConsole::Virtio {
            builder.add("console", |link| {
                let output = move |bytes: &[u8]| console::guest_output(vm, bytes);
                let made = Arc::new(Console::new(link, Box::new(output)));
                console = Some(made.clone());
                made
            });
        }
        Self {
            slots: builder.slots,
            console,
        }
    }

    /// How many slots the manifest's devices take.
    #[must_use]
    pub fn slots(manifest: &Manifest) -> u32 {
        let devices = manifest.nets.len() + manifest.disks.len();
        let console = manifest.console == GuestConsole::Virtio;
        devices as u32 + u32::from(manifest.entropy) + u32::from(console)
    }

    /// A byte typed, for the virtio console: whether it took it. `None`: there is none that a driver runs.
    #[must_use]
    pub fn push_input(&self, byte: u8) -> Option<bool> {
        self.console.as_ref()?.push_input(byte)
    }

    fn slot(&self, slot: u32) -> Option<&Transport> {
        self.slots.get(slot as usize)
    }

    /// A guest's read. An empty slot reads 0.
    #[inline]
    #[must_use]
    pub fn read(&self, slot: u32, offset: u64, size: u64) -> u64 {
        self.slot(slot).map_or(0, |slot| slot.read(offset, size))
    }

    /// A guest's write.
    #[inline]
    pub fn write(&self, slot: u32, offset: u64, size: u64, value: u64) -> Written {
        self.slot(slot)
            .map_or(Written::Done, |slot| slot.write(offset, size, value))
    }

    /// Goes on with what [`Written::More`] or [`Written::Interrupt`] said. True if there still is more.
    #[must_use]
    pub fn resume(&self, slot: u32) -> bool {
        self.slot(slot).is_some_and(Transport::resume)
    }

    /// True if no device of the machine is at work on buffers of this slot's device.
    #[must_use]
    pub fn is_idle(&self, slot: u32) -> bool {
        self.slot(slot).is_none_or(Transport::is_idle)
    }

    /// The VM is at its end: no device touches its memory any more once this has returned and
    /// [`Self::in_flight`] is 0.
    pub fn close(&self) {
        self.slots.iter().for_each(|slot| slot.device().close());
    }

    /// Requests of the VM that devices of the machine are at.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.slots
            .iter()
            .map(|slot| slot.device().in_flight())
            .sum()
    }

    /// True if a device of the machine may reach the VM's memory for ever.
    #[must_use]
    pub fn has_lost_memory(&self) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|slot| slot.device().has_lost_memory())
    }

    /// Counters of all devices.
    #[must_use]
    pub fn stat(&self) -> Vec<DeviceStat> {
        let stat = |slot: &Transport| DeviceStat {
            name: device_name(slot.link().name()).into(),
            counters: slot.device().counters(),
            violations: slot.link().violations().into(),
        };
        self.slots.iter().map(stat).collect()
    }
}

/// Without the VM: `net0` of `vm web: net0`.
fn device_name(name: &str) -> &str {
    name.rsplit_once(' ').map_or(name, |(_, device)| device)
}
