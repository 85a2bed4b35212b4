//! The PCI bus: giving devices addresses, routing their interrupts, and the virtio structures in their BARs.
//!
//! No firmware has been here, or none whose work is relied on. First every function of the root bus, bridges apart,
//! is switched off: it decodes no addresses and masters no bus. Then the virtio devices that are driven get
//! addresses and are switched on. Their interrupts are legacy ones (INTx): message-signalled interrupts go through
//! an ITS, which can write memory and is withheld from the hostvisor. What lies behind bridges is not looked for.

use super::port::PciPort;
use super::probe::{Devices, Found};
use crate::hw::{self, Ecam, Mmio};
use crate::machine::{Line, PciHost, Window};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use log::{info, warn};
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, PCI_CAP_ID_VNDR,
    PciRoot,
};
use virtio_drivers::transport::pci::virtio_device_type;

/// Configuration registers: interrupt line and pin.
const INTERRUPT: u8 = 0x3c;
/// Base class of bridges.
const BRIDGE: u8 = 6;
/// Transitional virtio devices that hide their modern side have ids below this.
const MODERN: u16 = 0x1040;

/// Switches off what is on the root bus, and on again what is driven.
pub(super) fn probe(host: &PciHost, devices: &mut Devices) {
    let Some(ecam) = Ecam::map(host.ecam.base, host.bus) else {
        warn!(
            "PCI: configuration space at {:#x} cannot be mapped",
            host.ecam.base
        );
        return;
    };
    let mut root = PciRoot::new(ecam.clone());
    let functions = switch_off(&mut root, host.bus);
    let mut space = Space::new(&host.windows);
    for (function, info) in functions {
        let driven = matches!(
            virtio_device_type(&info),
            Some(DeviceType::Block | DeviceType::Network)
        );
        if info.class == BRIDGE && function.device != 0 {
            info!("pci {function}: a bridge; what is behind it is not looked for");
        }
        if !driven {
            continue;
        }
        if !host.coherent {
            warn!(
                "pci {function}: not cache-coherent (no dma-coherent in the device tree): not used"
            );
            continue;
        }
        match device(&mut root, &ecam, host, function, &mut space) {
            Ok(found) => devices.add(found),
            Err(why) => {
                root.set_command(function, Command::INTERRUPT_DISABLE);
                let hint = if info.device_id < MODERN {
                    " (legacy device? QEMU: disable-legacy=on)"
                } else {
                    ""
                };
                warn!("pci {function}: {why}: not used{hint}");
            }
        }
    }
}

/// All functions of the bus, of which no one but bridges does anything any more.
fn switch_off(root: &mut PciRoot<Ecam>, bus: u8) -> Vec<(DeviceFunction, DeviceFunctionInfo)> {
    let functions: Vec<_> = root.enumerate_bus(bus).collect();
    for (function, info) in &functions {
        if info.class != BRIDGE {
            root.set_command(*function, Command::INTERRUPT_DISABLE);
        }
    }
    functions
}

fn device(
    root: &mut PciRoot<Ecam>,
    ecam: &Ecam,
    host: &PciHost,
    function: DeviceFunction,
    space: &mut Space,
) -> Result<Found, &'static str> {
    let line = route(host, ecam, function).ok_or("no interrupt is routed to it")?;
    let bars = assign(root, function, space)?;
    root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
    let port = port(root, ecam, function, &bars).ok_or("virtio structures are missing")?;
    let transport = hw::virtio_pci(root, function).map_err(|_| "not a virtio device")?;
    Ok(Found {
        place: format!("pci {function}"),
        line,
        transport,
        port: Box::new(port),
    })
}

/// Where the function's INTx pin arrives (IEEE 1275 interrupt mapping).
fn route(host: &PciHost, ecam: &Ecam, function: DeviceFunction) -> Option<Line> {
    let pin = ecam.read_word(function, INTERRUPT) >> 8 & 0xff;
    let address = u32::from(function.bus) << 16
        | u32::from(function.device) << 11
        | u32::from(function.function) << 8;
    let device = address & host.device_mask;
    let route = host
        .routes
        .iter()
        .find(|r| pin != 0 && r.pin == pin && r.device == device)?;
    Some(route.line)
}

/// Gives each memory BAR of the function, which is switched off, an address. I/O BARs stay without.
fn assign(
    root: &mut PciRoot<Ecam>,
    function: DeviceFunction,
    space: &mut Space,
) -> Result<[u64; 6], &'static str> {
    let mut addresses = [0; 6];
    let mut index = 0;
    while index < 6 {
        let info = root
            .bar_info(function, index)
            .map_err(|_| "a BAR makes no sense")?;
        let wide = info.as_ref().is_some_and(BarInfo::takes_two_entries);
        if let Some((_, size)) = info.as_ref().and_then(BarInfo::memory_address_size) {
            let address = space.take(size, wide).ok_or("no room for its BARs")?;
            if wide {
                root.set_bar_64(function, index, address);
            } else {
                root.set_bar_32(function, index, address as u32);
            }
            if let Some(slot) = addresses.get_mut(usize::from(index)) {
                *slot = address;
            }
        }
        index += if wide { 2 } else { 1 };
    }
    Ok(addresses)
}

/// The virtio structures that the driver reaches by itself (virtio 1.2 §4.1.4).
fn port(
    root: &PciRoot<Ecam>,
    ecam: &Ecam,
    function: DeviceFunction,
    bars: &[u64; 6],
) -> Option<PciPort> {
    // Common, notification, ISR, device: cfg_type 1 to 4.
    let mut structures = [const { None }; 4];
    let mut multiplier = 0;
    for capability in root.capabilities(function) {
        let kind = usize::from(capability.private_header >> 8);
        if capability.id != PCI_CAP_ID_VNDR || !(1..=4).contains(&kind) {
            continue;
        }
        let word = |at| ecam.read_word(function, capability.offset.wrapping_add(at));
        let (bar, offset, length) = (word(4) & 0xff, word(8), word(12));
        let slot = structures.get_mut(kind - 1)?;
        if slot.is_some() {
            // The first of a kind is the preferred one.
            continue;
        }
        let base = *bars.get(bar as usize)?;
        if base == 0 {
            return None;
        }
        *slot = Mmio::map(base + u64::from(offset), u64::from(length));
        if kind == 2 {
            multiplier = word(16);
        }
    }
    let [common, notify, isr, config] = structures;
    let (common, notify): (Mmio, Mmio) = (common?, notify?);
    // queue_select, queue_notify_off.
    let doorbell = |queue| {
        common.write16(0x16, queue);
        u64::from(common.read16(0x1e)) * u64::from(multiplier)
    };
    Some(PciPort {
        common,
        notify,
        doorbells: [doorbell(0), doorbell(1)],
        isr: isr?,
        config: config?,
    })
}

/// Bus addresses that are free.
struct Space(Vec<Window>);

impl Space {
    /// All of the bridge's windows in which bus and CPU addresses are the same, as the driver takes them to be;
    /// those below 4 GiB first.
    fn new(windows: &[Window]) -> Self {
        let same = |w: &&Window| w.bus == w.cpu;
        let mut windows: Vec<_> = windows.iter().filter(same).copied().collect();
        windows.sort_by_key(|w| w.bus);
        Self(windows)
    }

    /// Takes `size` bytes, a power of two, naturally aligned; below 4 GiB unless `wide`.
    fn take(&mut self, size: u64, wide: bool) -> Option<u64> {
        if !size.is_power_of_two() {
            return None;
        }
        // No two devices in one page.
        let size = size.max(abi::PAGE_SIZE);
        for window in &mut self.0 {
            let end = window.bus + window.size;
            let first = window.bus.max(1).checked_next_multiple_of(size)?;
            let Some(next) = first.checked_add(size).filter(|&next| next <= end) else {
                continue;
            };
            if wide || next <= 1 << 32 {
                window.size = end - next;
                window.bus = next;
                return Some(first);
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "pci_tests.rs"]
mod tests;
