//! Finding the machine's virtio devices, by the device tree and on the PCI bus.

use super::pci;
use super::port::{MmioPort, Port};
use crate::hw::{self, Mmio};
use crate::machine::{Line, Machine, VirtioMmio};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use log::{debug, warn};
use virtio_drivers::transport::{DeviceType, SomeTransport, Transport};

/// "virt" (virtio 1.2 §4.2.2).
const MAGIC: u32 = 0x7472_6976;

/// A device, found and not touched yet.
pub struct Found {
    /// Where, in words: `virtio-mmio@a003e00`, `pci 00:02.0`.
    pub place: String,
    /// Its interrupt.
    pub line: Line,
    /// For initialisation.
    pub transport: SomeTransport<'static>,
    /// For afterwards.
    pub port: Box<dyn Port>,
}

/// What there are drivers for, each in the order of the machine's description.
#[derive(Default)]
pub struct Devices {
    /// Block devices.
    pub disks: Vec<Found>,
    /// Network devices.
    pub nics: Vec<Found>,
}

impl Devices {
    pub(super) fn add(&mut self, device: Found) {
        match device.transport.device_type() {
            DeviceType::Block => self.disks.push(device),
            DeviceType::Network => self.nics.push(device),
            other => debug!("{}: {other:?}: no driver", device.place),
        }
    }
}

/// Looks everywhere.
pub fn all(machine: &Machine) -> Devices {
    let mut devices = Devices::default();
    for transport in &machine.virtio {
        if let Some(device) = mmio(transport) {
            devices.add(device);
        }
    }
    if let Some(host) = &machine.pci {
        pci::probe(host, &mut devices);
    }
    devices
}

fn mmio(at: &VirtioMmio) -> Option<Found> {
    let place = format!("virtio-mmio@{:x}", at.registers.base);
    let registers = Mmio::map(at.registers.base, at.registers.size)?;
    // MagicValue, Version, DeviceID; 0 is a place without a device.
    let [magic, version, id] = [0, 4, 8].map(|offset| registers.read32(offset));
    if magic != MAGIC || id == 0 {
        return None;
    }
    if version == 1 {
        warn!(
            "{place}: legacy device (version 1): not used; QEMU: -global virtio-mmio.force-legacy=false"
        );
        return None;
    }
    if !at.coherent {
        warn!("{place}: not cache-coherent (no dma-coherent in the device tree): not used");
        return None;
    }
    match hw::virtio_mmio(registers) {
        Ok(transport) => Some(Found {
            place,
            line: at.line,
            transport,
            port: Box::new(MmioPort(registers)),
        }),
        Err(why) => {
            debug!("{place}: {why}");
            None
        }
    }
}
