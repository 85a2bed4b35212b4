//! Where the machine's virtio-mmio transports and its PCI host bridge are.

use super::{Region, regions};
use alloc::vec::Vec;
use fdt::Fdt;
use fdt::node::FdtNode;

/// A shared peripheral interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Its INTID.
    pub intid: u32,
    /// Signalled by an edge, not by a level.
    pub edge: bool,
}

/// A virtio-mmio transport; there may be no device in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VirtioMmio {
    /// Its registers.
    pub registers: Region,
    /// Its interrupt.
    pub line: Line,
    /// The device's accesses to memory see the CPUs' caches.
    pub coherent: bool,
}

/// A range of PCI memory addresses that the bridge forwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// First address on the bus.
    pub bus: u64,
    /// First address for CPUs.
    pub cpu: u64,
    /// Bytes.
    pub size: u64,
    /// For 64-bit BARs only.
    pub wide: bool,
}

/// One row of `interrupt-map`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Intx {
    /// The first address cell (bus, device, function) under the map's mask.
    pub device: u32,
    /// Pin, 1 for INTA.
    pub pin: u32,
    /// Where it arrives.
    pub line: Line,
}

/// A generic ECAM host bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciHost {
    /// Configuration space, from the first bus on.
    pub ecam: Region,
    /// First bus.
    pub bus: u8,
    /// Memory windows.
    pub windows: Vec<Window>,
    /// What of an address cell `routes` tell apart.
    pub device_mask: u32,
    /// Legacy interrupts.
    pub routes: Vec<Intx>,
    /// Devices' accesses to memory see the CPUs' caches.
    pub coherent: bool,
}

/// All virtio-mmio transports, highest address first: QEMU fills them from there in the order of its options.
pub(super) fn virtio_mmio(fdt: &Fdt<'_>) -> Vec<VirtioMmio> {
    let mut all: Vec<_> = fdt
        .all_nodes()
        .filter(|n| is_compatible(*n, "virtio,mmio") && is_enabled(*n))
        .filter_map(|n| {
            let cells = Cells(n.property("interrupts")?.value);
            Some(VirtioMmio {
                registers: *regions(n).first()?,
                line: spi(cells, 0)?,
                coherent: n.property("dma-coherent").is_some(),
            })
        })
        .collect();
    all.sort_unstable_by_key(|t| core::cmp::Reverse(t.registers.base));
    all
}

/// The first host bridge with ECAM.
pub(super) fn pci(fdt: &Fdt<'_>) -> Option<PciHost> {
    let node = fdt
        .all_nodes()
        .find(|n| is_compatible(*n, "pci-host-ecam-generic") && is_enabled(*n))?;
    let bus = node
        .property("bus-range")
        .and_then(|p| Cells(p.value).get(0))
        .and_then(|bus| u8::try_from(bus).ok())
        .unwrap_or(0);
    let mask = node.property("interrupt-map-mask").map(|p| Cells(p.value));
    let device_mask = mask.and_then(|cells| cells.get(0)).unwrap_or(0);
    Some(PciHost {
        ecam: *regions(node).first()?,
        bus,
        windows: windows(node),
        device_mask,
        routes: routes(fdt, node, device_mask),
        coherent: node.property("dma-coherent").is_some(),
    })
}

/// `ranges` of a PCI node: 3 cells of bus address, 2 of the parent's, 2 of size (IEEE 1275 PCI binding).
fn windows(node: FdtNode<'_, '_>) -> Vec<Window> {
    let Some(ranges) = node.property("ranges") else {
        return Vec::new();
    };
    let rows = ranges.value.chunks_exact(7 * 4).map(Cells);
    let window = |row: Cells<'_>| {
        // phys.hi, bits 25:24: 2 is 32-bit memory, 3 is 64-bit memory.
        let space = row.get(0)? >> 24 & 3;
        let window = Window {
            bus: row.pair(1)?,
            cpu: row.pair(3)?,
            size: row.pair(5)?,
            wide: space == 3,
        };
        let whole = window.bus.checked_add(window.size).is_some()
            && window.cpu.checked_add(window.size).is_some();
        (space >= 2 && whole).then_some(window)
    };
    rows.filter_map(window).collect()
}

/// `interrupt-map`: child address (3 cells), pin, parent, the parent's unit address, its specifier.
fn routes(fdt: &Fdt<'_>, node: FdtNode<'_, '_>, mask: u32) -> Vec<Intx> {
    let mut routes = Vec::new();
    let Some(map) = node.property("interrupt-map") else {
        return routes;
    };
    let cells = Cells(map.value);
    let mut at = 0;
    while let (Some(device), Some(pin), Some(parent)) =
        (cells.get(at), cells.get(at + 3), cells.get(at + 4))
    {
        let Some(parent) = fdt.find_phandle(parent) else {
            break;
        };
        let width = |name| {
            parent
                .property(name)
                .and_then(|p| Cells(p.value).get(0))
                .unwrap_or(0) as usize
        };
        let specifier = at + 5 + width("#address-cells").min(4);
        if let Some(line) = spi(cells, specifier) {
            routes.push(Intx {
                device: device & mask,
                pin,
                line,
            });
        }
        at = specifier + width("#interrupt-cells").clamp(1, 8);
    }
    routes
}

/// A GIC specifier at cell `at`: type (0 is SPI), number, flags (1 and 2 are edges).
fn spi(cells: Cells<'_>, at: usize) -> Option<Line> {
    let (0, number, flags) = (cells.get(at)?, cells.get(at + 1)?, cells.get(at + 2)?) else {
        return None;
    };
    // INTIDs 32 to 1019 are SPIs.
    (number < 988).then_some(Line {
        intid: number + 32,
        edge: flags & 3 != 0,
    })
}

fn is_compatible(node: FdtNode<'_, '_>, with: &str) -> bool {
    node.compatible()
        .is_some_and(|all| all.all().any(|c| c == with))
}

fn is_enabled(node: FdtNode<'_, '_>) -> bool {
    super::text(node, "status").is_none_or(|s| s == "okay" || s == "ok")
}

/// A property as big-endian 32-bit cells.
#[derive(Clone, Copy)]
struct Cells<'a>(&'a [u8]);

impl Cells<'_> {
    fn get(self, index: usize) -> Option<u32> {
        let start = index.checked_mul(4)?;
        let bytes = self.0.get(start..start.checked_add(4)?)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    fn pair(self, index: usize) -> Option<u64> {
        Some(u64::from(self.get(index)?) << 32 | u64::from(self.get(index + 1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_fdt::FdtWriter;

    /// The buses of QEMU's virt, with two transports.
    fn virt(change: impl Fn(&mut FdtWriter)) -> Vec<u8> {
        let mut w = FdtWriter::new().unwrap();
        let root = w.begin_node("").unwrap();
        w.property_u32("#address-cells", 2).unwrap();
        w.property_u32("#size-cells", 2).unwrap();
        let gic = w.begin_node("intc@8000000").unwrap();
        w.property_phandle(0x8005).unwrap();
        w.property_u32("#interrupt-cells", 3).unwrap();
        w.property_u32("#address-cells", 2).unwrap();
        w.end_node(gic).unwrap();
        for (index, base) in [0xa00_0000, 0xa00_0200_u64].into_iter().enumerate() {
            let n = w
                .begin_node(&alloc::format!("virtio_mmio@{base:x}"))
                .unwrap();
            w.property_string("compatible", "virtio,mmio").unwrap();
            w.property_array_u64("reg", &[base, 0x200]).unwrap();
            w.property_array_u32("interrupts", &[0, 16 + index as u32, 1])
                .unwrap();
            w.property_null("dma-coherent").unwrap();
            w.end_node(n).unwrap();
        }
        let pci = w.begin_node("pcie@10000000").unwrap();
        w.property_string("compatible", "pci-host-ecam-generic")
            .unwrap();
        w.property_array_u64("reg", &[0x40_1000_0000, 0x1000_0000])
            .unwrap();
        w.property_array_u32("bus-range", &[0, 255]).unwrap();
        w.property_array_u32(
            "ranges",
            &[
                0x100_0000,
                0,
                0,
                0,
                0x3eff_0000,
                0,
                0x1_0000, //
                0x200_0000,
                0,
                0x1000_0000,
                0,
                0x1000_0000,
                0,
                0x2eff_0000, //
                0x300_0000,
                0x80,
                0,
                0x80,
                0,
                0x80,
                0,
            ],
        )
        .unwrap();
        w.property_array_u32("interrupt-map-mask", &[0x1800, 0, 0, 7])
            .unwrap();
        let map: Vec<u32> = (0..16)
            .flat_map(|i| {
                let (slot, pin) = (i / 4, i % 4);
                [
                    slot << 11,
                    0,
                    0,
                    pin + 1,
                    0x8005,
                    0,
                    0,
                    0,
                    3 + (slot + pin) % 4,
                    4,
                ]
            })
            .collect();
        w.property_array_u32("interrupt-map", &map).unwrap();
        change(&mut w);
        w.end_node(pci).unwrap();
        w.end_node(root).unwrap();
        w.finish().unwrap()
    }

    #[test]
    fn reads_transports_highest_first() {
        let tree = virt(|_| {});
        let all = virtio_mmio(&Fdt::new(&tree).unwrap());
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].registers.base, 0xa00_0200);
        let line = Line {
            intid: 49,
            edge: true,
        };
        assert_eq!((all[0].line, all[0].coherent), (line, true));
    }

    #[test]
    fn reads_the_bridge() {
        let tree = virt(|w| w.property_null("dma-coherent").unwrap());
        let pci = pci(&Fdt::new(&tree).unwrap()).unwrap();
        assert_eq!((pci.ecam.base, pci.bus), (0x40_1000_0000, 0));
        assert!(pci.coherent);
        let [low, high] = pci.windows[..] else {
            panic!("{:?}", pci.windows)
        };
        assert_eq!(
            (low.bus, low.cpu, low.size, low.wide),
            (0x1000_0000, 0x1000_0000, 0x2eff_0000, false)
        );
        assert_eq!((high.cpu, high.size, high.wide), (1 << 39, 1 << 39, true));
        assert_eq!(pci.routes.len(), 16);
        let last = Intx {
            device: 3 << 11,
            pin: 4,
            line: Line {
                intid: 37,
                edge: false,
            },
        };
        assert_eq!(pci.routes[15], last);
    }

    #[test]
    fn a_disabled_bridge_and_a_map_cut_short_are_left_out() {
        let tree = virt(|w| w.property_string("status", "disabled").unwrap());
        assert_eq!(pci(&Fdt::new(&tree).unwrap()), None);
        let row = [0, 0, 0, 1, 0x8005, 0, 0, 0, 3, 4, 0, 0, 0, 1, 0x8005, 0];
        assert_eq!(spi(Cells(&[0; 11]), 0), None);
        let bytes: Vec<u8> = row.iter().flat_map(|c: &u32| c.to_be_bytes()).collect();
        assert!(spi(Cells(&bytes), 7).is_some());
        assert_eq!(spi(Cells(&bytes), 14), None);
    }
}
