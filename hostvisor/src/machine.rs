//! What machine this is: the device tree read into plain data.

mod buses;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use fdt::Fdt;
use fdt::node::FdtNode;

pub use buses::{Intx, Line, PciHost, VirtioMmio, Window};

/// A range of physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Region {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl Region {
    /// The first byte behind it.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.base.saturating_add(self.size)
    }
}

/// The machine's console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uart {
    /// PL011 registers.
    pub registers: Region,
    /// Its interrupt.
    pub intid: u32,
}

/// The GIC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GicRegions {
    /// Distributor.
    pub distributor: Region,
    /// What each CPU has of it.
    pub interface: GicInterface,
    /// Maintenance interrupt, a PPI.
    pub maintenance: u32,
}

/// How a CPU reaches what is its own of the GIC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GicInterface {
    /// GICv3: redistributor regions, with the bytes from one redistributor to the next where they are not
    /// told by GICR_TYPER; and system registers.
    Redistributors(Vec<Region>),
    /// GICv2.
    Memory {
        /// GICC, the same addresses for every CPU.
        gicc: Region,
        /// A guest's deactivation of a list register with the HW bit deactivates the physical interrupt.
        hw_deactivates: bool,
    },
}

/// What the operator said on the machine's command line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Switch the machine off when the last VM has.
    pub exit_when_idle: bool,
    /// `console=`: a VM's name, or `shell`.
    pub console: Option<String>,
    /// Allow what is for debugging only: [`crate::scan`].
    pub debug: bool,
}

impl Options {
    fn read(arguments: &str) -> Self {
        let mut options = Self::default();
        for word in arguments.split_ascii_whitespace() {
            match word.split_once('=') {
                None if word == "exit-when-idle" => options.exit_when_idle = true,
                None if word == "debug" => options.debug = true,
                Some(("console", name)) => options.console = Some(name.to_string()),
                _ => {}
            }
        }
        options
    }
}

/// The machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// RAM.
    pub ram: Vec<Region>,
    /// RAM that firmware wants left alone.
    pub reserved: Vec<Region>,
    /// Affinities of the CPUs (MPIDR_EL1), in the tree's order.
    pub cpus: Vec<u64>,
    /// Interrupt controller.
    pub gic: GicRegions,
    /// INTID of the EL1 physical timer.
    pub timer: u32,
    /// Console, if it is one there is a driver for.
    pub uart: Option<Uart>,
    /// PL031 real-time clock.
    pub rtc: Option<Region>,
    /// virtio-mmio transports.
    pub virtio: Vec<VirtioMmio>,
    /// PCI host bridge.
    pub pci: Option<PciHost>,
    /// The bundle, as /chosen's initrd.
    pub bundle: Option<Region>,
    /// Command line.
    pub options: Options,
    /// Firmware's randomness, /chosen's rng-seed; may be empty.
    pub seed: Vec<u8>,
}

/// What a machine must have and this one's tree does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// Not a device tree.
    Tree,
    /// No memory node.
    Memory,
    /// No CPUs.
    Cpus,
    /// No GICv2 and no GICv3.
    Gic,
}

impl Missing {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tree => "no valid device tree",
            Self::Memory => "the device tree names no memory",
            Self::Cpus => "the device tree names no CPUs",
            Self::Gic => "the device tree names no GICv2 and no GICv3",
        }
    }
}

impl Machine {
    /// Reads the machine's device tree.
    pub fn read(tree: &[u8]) -> Result<Self, Missing> {
        let fdt = Fdt::new(tree).map_err(|_| Missing::Tree)?;
        let ram: Vec<_> = fdt
            .all_nodes()
            .filter(|n| text(*n, "device_type") == Some("memory"))
            .flat_map(regions)
            .collect();
        let cpus: Vec<_> = fdt
            .all_nodes()
            .filter(|n| text(*n, "device_type") == Some("cpu"))
            .filter_map(|n| regions(n).first().map(|r| r.base))
            .collect();
        if ram.is_empty() {
            return Err(Missing::Memory);
        }
        if cpus.is_empty() {
            return Err(Missing::Cpus);
        }
        let chosen = fdt.find_node("/chosen");
        let bundle = chosen.and_then(|n| {
            let base = number(n, "linux,initrd-start")?;
            let end = number(n, "linux,initrd-end")?;
            (end > base).then(|| Region {
                base,
                size: end - base,
            })
        });
        let options = chosen
            .and_then(|n| text(n, "bootargs"))
            .map(Options::read)
            .unwrap_or_default();
        let timer = fdt.find_compatible(&["arm,armv8-timer", "arm,armv7-timer"]);
        Ok(Self {
            ram,
            reserved: reserved(&fdt),
            cpus,
            gic: gic(&fdt)?,
            // Order by the binding: secure, non-secure physical, virtual, hypervisor.
            timer: timer.and_then(|n| interrupt(n, 1)).unwrap_or(30),
            uart: uart(&fdt, chosen),
            rtc: fdt
                .find_compatible(&["arm,pl031"])
                .and_then(|n| regions(n).first().copied()),
            virtio: buses::virtio_mmio(&fdt),
            pci: buses::pci(&fdt),
            bundle,
            options,
            seed: chosen
                .and_then(|n| n.property("rng-seed"))
                .map(|p| p.value.to_vec())
                .unwrap_or_default(),
        })
    }

    /// RAM in all, in bytes.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.ram.iter().map(|r| r.size).sum()
    }
}

/// The `compatible` strings of GICv2s that can have virtualization extensions.
const GIC_V2: &[&str] = &["arm,gic-400", "arm,cortex-a15-gic", "arm,cortex-a7-gic"];

/// On boards of this family the GIC is at two addresses that differ in one bit: with the bit clear, for
/// secure accesses, and there a list register's HW bit deactivates nothing.
const XGENE: &str = "apm,xgene";
const XGENE_NON_SECURE: u64 = 0x8_0000;

fn gic_v2(fdt: &Fdt<'_>) -> Result<GicRegions, Missing> {
    let node = fdt.find_compatible(GIC_V2).ok_or(Missing::Gic)?;
    let [distributor, gicc, ..] = *regions(node) else {
        return Err(Missing::Gic);
    };
    let is_xgene = fdt
        .find_node("/")
        .and_then(FdtNode::compatible)
        .is_some_and(|names| names.all().any(|name| name.starts_with(XGENE)));
    Ok(GicRegions {
        distributor,
        interface: GicInterface::Memory {
            gicc,
            hw_deactivates: !is_xgene || distributor.base & XGENE_NON_SECURE != 0,
        },
        maintenance: interrupt(node, 0).unwrap_or(25),
    })
}

fn gic(fdt: &Fdt<'_>) -> Result<GicRegions, Missing> {
    let Some(node) = fdt.find_compatible(&["arm,gic-v3"]) else {
        return gic_v2(fdt);
    };
    let count = number(node, "#redistributor-regions").unwrap_or(1) as usize;
    let all = regions(node);
    let (distributor, rest) = all.split_first().ok_or(Missing::Gic)?;
    let redistributors: Vec<_> = rest.iter().take(count).copied().collect();
    if redistributors.is_empty() {
        return Err(Missing::Gic);
    }
    Ok(GicRegions {
        distributor: *distributor,
        interface: GicInterface::Redistributors(redistributors),
        // Where the tree leaves it out: as BSA assigns it.
        maintenance: interrupt(node, 0).unwrap_or(25),
    })
}

fn uart(fdt: &Fdt<'_>, chosen: Option<FdtNode<'_, '_>>) -> Option<Uart> {
    let named = chosen
        .and_then(|n| text(n, "stdout-path"))
        .and_then(|path| {
            let path = path.split(':').next().unwrap_or(path);
            let is_alias = !path.starts_with('/');
            let aliased = is_alias
                .then(|| fdt.find_node("/aliases").and_then(|n| text(n, path)))
                .flatten();
            fdt.find_node(aliased.unwrap_or(path))
        });
    let is_pl011 = |n: &FdtNode<'_, '_>| {
        n.compatible()
            .is_some_and(|c| c.all().any(|c| c == "arm,pl011"))
    };
    let node = named
        .filter(is_pl011)
        .or_else(|| fdt.find_compatible(&["arm,pl011"]))?;
    Some(Uart {
        registers: *regions(node).first()?,
        intid: interrupt(node, 0)?,
    })
}

fn reserved(fdt: &Fdt<'_>) -> Vec<Region> {
    let mut all: Vec<_> = fdt
        .memory_reservations()
        .map(|r| Region {
            base: r.address() as usize as u64,
            size: r.size() as u64,
        })
        .collect();
    if let Some(node) = fdt.find_node("/reserved-memory") {
        all.extend(node.children().flat_map(regions));
    }
    all
}

fn regions(node: FdtNode<'_, '_>) -> Vec<Region> {
    let all = node.reg().into_iter().flatten();
    all.map(|r| Region {
        base: r.starting_address as usize as u64,
        size: r.size.unwrap_or(0) as u64,
    })
    .collect()
}

fn text<'a>(node: FdtNode<'_, 'a>, name: &str) -> Option<&'a str> {
    node.property(name)?.as_str()
}

/// A property of one or two cells.
fn number(node: FdtNode<'_, '_>, name: &str) -> Option<u64> {
    let value = node.property(name)?.value;
    match *value {
        [a, b, c, d] => Some(u64::from(u32::from_be_bytes([a, b, c, d]))),
        [a, b, c, d, e, f, g, h] => Some(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}

/// INTID of the node's interrupt `index`, by the GIC binding: three cells (or more: `#interrupt-cells` of
/// 4 has a partition last), type, number, flags.
fn interrupt(node: FdtNode<'_, '_>, index: usize) -> Option<u32> {
    let cells = node.property("interrupts")?.value;
    let width = if cells.len() % 16 == 0 && cells.len() % 12 != 0 {
        16
    } else {
        12
    };
    let one = cells.chunks_exact(width).nth(index)?;
    let cell = |n: usize| {
        one.get(n * 4..n * 4 + 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_be_bytes)
    };
    match (cell(0)?, cell(1)?) {
        (0, spi) => Some(32 + spi),
        (1, ppi) => Some(16 + ppi),
        _ => None,
    }
}

/// What is left of `ram` without `holes`, in order of address.
#[must_use]
pub fn without(ram: &[Region], holes: &[Region]) -> Vec<Region> {
    let mut holes: Vec<_> = holes.iter().filter(|h| h.size != 0).copied().collect();
    holes.sort_unstable_by_key(|h| h.base);
    let mut left = Vec::new();
    for region in ram {
        let mut at = region.base;
        for hole in &holes {
            if hole.end() <= at || hole.base >= region.end() {
                continue;
            }
            if hole.base > at {
                left.push(Region {
                    base: at,
                    size: hole.base - at,
                });
            }
            at = hole.end();
        }
        if at < region.end() {
            left.push(Region {
                base: at,
                size: region.end() - at,
            });
        }
    }
    left.sort_unstable_by_key(|r| r.base);
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_fdt::FdtWriter;

    /// The parts of QEMU virt's tree that matter here.
    fn virt(cpus: u32) -> Vec<u8> {
        let mut w = FdtWriter::new().unwrap();
        let root = w.begin_node("").unwrap();
        w.property_u32("#address-cells", 2).unwrap();
        w.property_u32("#size-cells", 2).unwrap();
        let n = w.begin_node("memory@40000000").unwrap();
        w.property_string("device_type", "memory").unwrap();
        w.property_array_u64("reg", &[0x4000_0000, 0x8000_0000])
            .unwrap();
        w.end_node(n).unwrap();
        let n = w.begin_node("cpus").unwrap();
        w.property_u32("#address-cells", 1).unwrap();
        w.property_u32("#size-cells", 0).unwrap();
        for cpu in 0..cpus {
            let c = w.begin_node(&std::format!("cpu@{cpu}")).unwrap();
            w.property_string("device_type", "cpu").unwrap();
            w.property_u32("reg", cpu).unwrap();
            w.end_node(c).unwrap();
        }
        w.end_node(n).unwrap();
        let n = w.begin_node("timer").unwrap();
        w.property_string("compatible", "arm,armv8-timer").unwrap();
        w.property_array_u32("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])
            .unwrap();
        w.end_node(n).unwrap();
        let n = w.begin_node("intc@8000000").unwrap();
        w.property_string("compatible", "arm,gic-v3").unwrap();
        w.property_u32("#redistributor-regions", 1).unwrap();
        w.property_array_u64("reg", &[0x800_0000, 0x1_0000, 0x80a_0000, 0xf6_0000])
            .unwrap();
        w.property_array_u32("interrupts", &[1, 9, 4]).unwrap();
        w.end_node(n).unwrap();
        let n = w.begin_node("pl011@9000000").unwrap();
        w.property_string_list(
            "compatible",
            ["arm,pl011".into(), "arm,primecell".into()].to_vec(),
        )
        .unwrap();
        w.property_array_u64("reg", &[0x900_0000, 0x1000]).unwrap();
        w.property_array_u32("interrupts", &[0, 1, 4]).unwrap();
        w.end_node(n).unwrap();
        let n = w.begin_node("chosen").unwrap();
        w.property_string("stdout-path", "/pl011@9000000").unwrap();
        w.property_string("bootargs", "exit-when-idle console=web debug quiet")
            .unwrap();
        w.property_u32("linux,initrd-start", 0x4800_0000).unwrap();
        w.property_u64("linux,initrd-end", 0x4800_1234).unwrap();
        w.end_node(n).unwrap();
        w.end_node(root).unwrap();
        w.finish().unwrap()
    }

    #[test]
    fn reads_what_virt_tells() {
        let m = Machine::read(&virt(4)).unwrap();
        assert_eq!(
            m.ram,
            [Region {
                base: 0x4000_0000,
                size: 0x8000_0000
            }]
        );
        assert_eq!(m.cpus, [0, 1, 2, 3]);
        assert_eq!((m.timer, m.gic.maintenance), (30, 25));
        assert_eq!(m.gic.distributor.base, 0x800_0000);
        assert_eq!(
            m.gic.interface,
            GicInterface::Redistributors(
                [Region {
                    base: 0x80a_0000,
                    size: 0xf6_0000
                }]
                .into()
            )
        );
        let uart = m.uart.unwrap();
        assert_eq!((uart.registers.base, uart.intid), (0x900_0000, 33));
        assert_eq!(
            m.bundle,
            Some(Region {
                base: 0x4800_0000,
                size: 0x1234
            })
        );
        assert_eq!(
            m.options,
            Options {
                exit_when_idle: true,
                console: Some("web".into()),
                debug: true,
            }
        );
    }

    /// A board with a GICv2 whose distributor is at `gicd`.
    fn gic_v2(board: &str, gicd: u64) -> GicRegions {
        let mut w = FdtWriter::new().unwrap();
        let root = w.begin_node("").unwrap();
        w.property_string("compatible", board).unwrap();
        w.property_u32("#address-cells", 2).unwrap();
        w.property_u32("#size-cells", 2).unwrap();
        let n = w.begin_node("gic").unwrap();
        w.property_string("compatible", "arm,cortex-a15-gic")
            .unwrap();
        w.property_array_u64("reg", &[gicd, 0x1000, gicd + 0x1_0000, 0x1000])
            .unwrap();
        w.property_array_u32("interrupts", &[1, 9, 0xf04]).unwrap();
        w.end_node(n).unwrap();
        w.end_node(root).unwrap();
        let tree = w.finish().unwrap();
        gic(&Fdt::new(&tree).unwrap()).unwrap()
    }

    #[test]
    fn the_hw_bit_works_but_for_the_secure_alias_of_an_xgene() {
        for (board, gicd, works) in [
            ("linux,dummy-virt", 0x0800_0000, true),
            ("apm,xgene-storm", 0x7809_0000, true),
            ("apm,xgene-storm", 0x7801_0000, false),
        ] {
            let gic = gic_v2(board, gicd);
            assert_eq!((gic.distributor.base, gic.maintenance), (gicd, 25));
            let expected = GicInterface::Memory {
                gicc: Region {
                    base: gicd + 0x1_0000,
                    size: 0x1000,
                },
                hw_deactivates: works,
            };
            assert_eq!(gic.interface, expected, "{board} {gicd:#x}");
        }
    }

    #[test]
    fn says_what_is_missing() {
        assert_eq!(Machine::read(&[]), Err(Missing::Tree));
        assert_eq!(Machine::read(&virt(0)), Err(Missing::Cpus));
    }

    proptest! {
        /// A page is left exactly if it is RAM and in no hole.
        #[test]
        fn without_is_set_difference(
            ram in (0u64..20, 1u64..30),
            holes in proptest::collection::vec((0u64..50, 0u64..10), 0..6),
        ) {
            let region = |(base, size): (u64, u64)| Region { base, size };
            let holes: Vec<_> = holes.into_iter().map(region).collect();
            let ram = region(ram);
            let left = without(&[ram], &holes);
            for at in 0..70 {
                let within = |r: &Region| r.base <= at && at < r.end();
                let expected = within(&ram) && !holes.iter().any(within);
                prop_assert_eq!(left.iter().filter(|r| within(r)).count(), usize::from(expected));
            }
        }
    }
}
