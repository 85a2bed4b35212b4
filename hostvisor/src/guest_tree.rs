//! The device tree that a guest finds: the machine of [`crate::devices::map`], in the shape of QEMU's
//! `virt` tree, which guests know.

use crate::devices::map;
use crate::vgic::Model;
use abi::{GICC_IPA, GICC_SIZE, MAX_VCPUS, MAX_VCPUS_GICV2, psci};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use vm_fdt::FdtWriter;

/// What differs from one guest's tree to another's.
#[derive(Clone, Copy, Debug)]
pub struct GuestConfig<'a> {
    /// The VM's name; the guest sees it as the root's `cloister,vm-name`.
    pub name: &'a str,
    /// vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: usize,
    /// Bytes of RAM from [`map::RAM_BASE`] on.
    pub memory_bytes: u64,
    /// The kernel's command line; may be empty.
    pub append: &'a str,
    /// IPAs of the initrd's first byte and of the byte behind it.
    pub initrd: Option<(u64, u64)>,
    /// Randomness for the guest kernel's generator; left out of the tree if empty.
    pub rng_seed: &'a [u8],
    /// Randomness for the guest kernel's layout.
    pub kaslr_seed: Option<u64>,
    /// Its interrupt controller.
    pub gic: Model,
    /// The timers' interrupts.
    pub timers: GuestTimers,
    /// The virtio-mmio slots that have a device in them: so many, from the first one on.
    pub virtio_slots: u32,
    /// Base and size of the memory that virtio devices are confined to, in a protected VM.
    pub dma_pool: Option<(u64, u64)>,
}

/// INTIDs of a guest's timers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestTimers {
    /// Virtual: the machine's own, as a list register with the HW bit stands for that one.
    pub virt: u32,
    /// Physical: as on QEMU's board, unless the virtual one is there.
    pub phys: u32,
}

impl GuestTimers {
    /// Those of a machine whose virtual timer has INTID `virt`.
    #[must_use]
    pub const fn new(virt: u32) -> Self {
        let phys = if virt == map::PTIMER_INTID {
            map::VTIMER_INTID
        } else {
            map::PTIMER_INTID
        };
        Self { virt, phys }
    }
}

/// Why a tree cannot be made: the configuration's fault in every case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Not 1 to [`MAX_VCPUS`].
    Vcpus(usize),
    /// More than a GICv2 serves.
    VcpusOfGicV2(usize),
    /// No RAM, or more than fits below the end of the IPA space.
    Memory(u64),
    /// The initrd is empty or not within RAM.
    Initrd(u64, u64),
    /// More virtio-mmio slots than there are.
    VirtioSlots(u32),
    /// The DMA pool is empty or not within RAM.
    DmaPool(u64, u64),
    /// The name or the command line has a NUL in it.
    Nul,
    /// The tree would be too large.
    Size,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vcpus(vcpus) => write!(f, "{vcpus} vCPUs: a VM has 1 to {MAX_VCPUS}"),
            Self::VcpusOfGicV2(vcpus) => write!(
                f,
                "{vcpus} vCPUs: on this machine, which has a GICv2, a VM has 1 to {MAX_VCPUS_GICV2}"
            ),
            Self::Memory(bytes) => {
                write!(f, "{bytes:#x} bytes of memory do not fit the address space")
            }
            Self::Initrd(start, end) => {
                write!(f, "initrd at {start:#x}..{end:#x} is not within memory")
            }
            Self::VirtioSlots(slots) => {
                write!(
                    f,
                    "{slots} virtio devices: there are {} slots",
                    map::VIRTIO_SLOTS
                )
            }
            Self::DmaPool(base, size) => {
                write!(
                    f,
                    "DMA pool of {size:#x} bytes at {base:#x} is not within memory"
                )
            }
            Self::Nul => write!(f, "NUL byte in name or command line"),
            Self::Size => write!(f, "device tree too large"),
        }
    }
}

impl From<vm_fdt::Error> for Error {
    fn from(error: vm_fdt::Error) -> Self {
        match error {
            vm_fdt::Error::InvalidString => Self::Nul,
            // Names and nesting are fixed here, so that only sizes can be wrong.
            _ => Self::Size,
        }
    }
}

const PHANDLE_CLOCK: u32 = 0x8000;
const PHANDLE_GIC: u32 = 0x8001;
const PHANDLE_DMA_POOL: u32 = 0x8002;
/// The fixed clock that QEMU's board drives its PrimeCells with.
const APB_CLOCK_HZ: u32 = 24_000_000;

/// Interrupt specifiers of `arm,gic-v3`: type, number within it, trigger.
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// INTIDs of the EL1 secure and of the EL2 timer, which a guest does not have but the binding wants.
const SECURE_TIMER: u32 = 29;
const HYPERVISOR_TIMER: u32 = 26;

/// Makes the flattened device tree of a guest.
pub fn build(config: &GuestConfig<'_>) -> Result<Vec<u8>, Error> {
    check(config)?;
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "linux,dummy-virt")?;
    fdt.property_string("cloister,vm-name", config.name)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", PHANDLE_GIC)?;
    chosen(&mut fdt, config)?;
    let aliases = fdt.begin_node("aliases")?;
    fdt.property_string("serial0", &uart_path())?;
    fdt.end_node(aliases)?;
    let memory = fdt.begin_node(&unit("memory", map::RAM_BASE))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[map::RAM_BASE, config.memory_bytes])?;
    fdt.end_node(memory)?;
    cpus(&mut fdt, config.vcpus)?;
    psci(&mut fdt)?;
    timer(&mut fdt, config)?;
    interrupt_controller(&mut fdt, config)?;
    primecells(&mut fdt)?;
    if let Some(pool) = config.dma_pool {
        dma_pool(&mut fdt, pool)?;
    }
    for slot in 0..config.virtio_slots {
        virtio(&mut fdt, slot, config.dma_pool.is_some())?;
    }
    fdt.end_node(root)?;
    Ok(fdt.finish()?)
}

fn check(config: &GuestConfig<'_>) -> Result<(), Error> {
    if !(1..=MAX_VCPUS).contains(&config.vcpus) {
        return Err(Error::Vcpus(config.vcpus));
    }
    if config.vcpus > config.gic.max_vcpus() {
        return Err(Error::VcpusOfGicV2(config.vcpus));
    }
    let room = (1 << map::IPA_BITS) - map::RAM_BASE;
    if !(1..=room).contains(&config.memory_bytes) {
        return Err(Error::Memory(config.memory_bytes));
    }
    if let Some((start, end)) = config.initrd {
        let ram_end = map::RAM_BASE + config.memory_bytes;
        if start < map::RAM_BASE || end <= start || end > ram_end {
            return Err(Error::Initrd(start, end));
        }
    }
    if let Some((base, size)) = config.dma_pool {
        let ram = map::RAM_BASE + config.memory_bytes;
        if base < map::RAM_BASE || size == 0 || base.checked_add(size).is_none_or(|end| end > ram) {
            return Err(Error::DmaPool(base, size));
        }
    }
    if config.virtio_slots > map::VIRTIO_SLOTS {
        return Err(Error::VirtioSlots(config.virtio_slots));
    }
    Ok(())
}

fn unit(name: &str, address: u64) -> String {
    format!("{name}@{address:x}")
}

fn uart_path() -> String {
    format!("/{}", unit("pl011", map::UART_BASE))
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn chosen(fdt: &mut FdtWriter, config: &GuestConfig<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("stdout-path", &uart_path())?;
    fdt.property_string("bootargs", config.append)?;
    if let Some((start, end)) = config.initrd {
        fdt.property_u64("linux,initrd-start", start)?;
        fdt.property_u64("linux,initrd-end", end)?;
    }
    if !config.rng_seed.is_empty() {
        fdt.property("rng-seed", config.rng_seed)?;
    }
    if let Some(seed) = config.kaslr_seed {
        fdt.property_u64("kaslr-seed", seed)?;
    }
    Ok(fdt.end_node(node)?)
}

fn cpus(fdt: &mut FdtWriter, vcpus: usize) -> Result<(), Error> {
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for vcpu in 0..vcpus as u32 {
        // MPIDR_EL1: Aff0 holds four bits of the index, Aff1 the rest.
        let mpidr = (vcpu >> 4) << 8 | (vcpu & 0xf);
        let cpu = fdt.begin_node(&unit("cpu", mpidr.into()))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", mpidr)?;
        fdt.end_node(cpu)?;
    }
    Ok(fdt.end_node(node)?)
}

fn psci(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", strings(&["arm,psci-1.0", "arm,psci-0.2"]))?;
    fdt.property_string("method", "hvc")?;
    fdt.property_u32("cpu_suspend", psci::CPU_SUSPEND_64)?;
    fdt.property_u32("cpu_off", psci::CPU_OFF)?;
    fdt.property_u32("cpu_on", psci::CPU_ON_64)?;
    Ok(fdt.end_node(node)?)
}

fn timer(fdt: &mut FdtWriter, config: &GuestConfig<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string_list(
        "compatible",
        strings(&["arm,armv8-timer", "arm,armv7-timer"]),
    )?;
    // In the binding's order.
    let timers = config.timers;
    // Bits 15:8 of a GICv2's specifier: the CPUs that have this PPI.
    let cpus = match config.gic {
        Model::V2 => (1 << config.vcpus) - 1,
        Model::V3 => 0,
    };
    let cells: Vec<u32> = [SECURE_TIMER, timers.phys, timers.virt, HYPERVISOR_TIMER]
        .iter()
        .flat_map(|intid| [PPI, intid - map::PPI_BASE, cpus << 8 | LEVEL_HIGH])
        .collect();
    fdt.property_array_u32("interrupts", &cells)?;
    fdt.property_null("always-on")?;
    Ok(fdt.end_node(node)?)
}

fn interrupt_controller(fdt: &mut FdtWriter, config: &GuestConfig<'_>) -> Result<(), Error> {
    let node = fdt.begin_node(&unit("intc", map::GICD_BASE))?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let (base, size) = match config.gic {
        Model::V2 => {
            fdt.property_string_list(
                "compatible",
                strings(&["arm,gic-400", "arm,cortex-a15-gic"]),
            )?;
            (GICC_IPA.0, GICC_SIZE)
        }
        Model::V3 => {
            fdt.property_string("compatible", "arm,gic-v3")?;
            fdt.property_u32("#redistributor-regions", 1)?;
            (map::GICR_BASE, map::GICR_STRIDE * config.vcpus as u64)
        }
    };
    fdt.property_array_u64("reg", &[map::GICD_BASE, map::GICD_SIZE, base, size])?;
    fdt.property_phandle(PHANDLE_GIC)?;
    Ok(fdt.end_node(node)?)
}

fn primecells(fdt: &mut FdtWriter) -> Result<(), Error> {
    let clock = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", APB_CLOCK_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(PHANDLE_CLOCK)?;
    fdt.end_node(clock)?;

    let uart = fdt.begin_node(&unit("pl011", map::UART_BASE))?;
    fdt.property_string_list("compatible", strings(&["arm,pl011", "arm,primecell"]))?;
    fdt.property_array_u64("reg", &[map::UART_BASE, map::UART_SIZE])?;
    fdt.property_array_u32(
        "interrupts",
        &[SPI, map::UART_INTID - map::SPI_BASE, LEVEL_HIGH],
    )?;
    fdt.property_array_u32("clocks", &[PHANDLE_CLOCK, PHANDLE_CLOCK])?;
    fdt.property_string_list("clock-names", strings(&["uartclk", "apb_pclk"]))?;
    fdt.end_node(uart)?;

    let rtc = fdt.begin_node(&unit("pl031", map::RTC_BASE))?;
    fdt.property_string_list("compatible", strings(&["arm,pl031", "arm,primecell"]))?;
    fdt.property_array_u64("reg", &[map::RTC_BASE, map::RTC_SIZE])?;
    fdt.property_array_u32(
        "interrupts",
        &[SPI, map::RTC_INTID - map::SPI_BASE, LEVEL_HIGH],
    )?;
    fdt.property_array_u32("clocks", &[PHANDLE_CLOCK])?;
    fdt.property_string("clock-names", "apb_pclk")?;
    Ok(fdt.end_node(rtc)?)
}

/// Memory that only devices and their drivers' bounce buffers use (Linux, reserved-memory binding,
/// restricted-dma-pool).
fn dma_pool(fdt: &mut FdtWriter, (base, size): (u64, u64)) -> Result<(), Error> {
    let memory = fdt.begin_node("reserved-memory")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let pool = fdt.begin_node(&unit("dma-pool", base))?;
    fdt.property_string("compatible", "restricted-dma-pool")?;
    fdt.property_array_u64("reg", &[base, size])?;
    fdt.property_phandle(PHANDLE_DMA_POOL)?;
    fdt.end_node(pool)?;
    Ok(fdt.end_node(memory)?)
}

fn virtio(fdt: &mut FdtWriter, slot: u32, confined: bool) -> Result<(), Error> {
    let base = map::VIRTIO_BASE + map::VIRTIO_STRIDE * u64::from(slot);
    let node = fdt.begin_node(&unit("virtio_mmio", base))?;
    fdt.property_string("compatible", "virtio,mmio")?;
    fdt.property_array_u64("reg", &[base, map::VIRTIO_STRIDE])?;
    fdt.property_array_u32(
        "interrupts",
        &[SPI, map::VIRTIO_INTID - map::SPI_BASE + slot, EDGE_RISING],
    )?;
    fdt.property_null("dma-coherent")?;
    if confined {
        fdt.property_u32("memory-region", PHANDLE_DMA_POOL)?;
    }
    Ok(fdt.end_node(node)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fdt::Fdt;

    const CONFIG: GuestConfig<'_> = GuestConfig {
        name: "web",
        vcpus: 3,
        memory_bytes: 256 << 20,
        append: "console=ttyAMA0 quiet",
        initrd: Some((0x4800_0000, 0x4812_3456)),
        rng_seed: &[7; 32],
        kaslr_seed: None,
        gic: Model::V3,
        timers: GuestTimers::new(map::VTIMER_INTID),
        virtio_slots: 6,
        dma_pool: None,
    };

    fn cells(fdt: &Fdt<'_>, path: &str, name: &str) -> Vec<u32> {
        let value = fdt.find_node(path).unwrap().property(name).unwrap().value;
        value
            .chunks_exact(4)
            .map(|cell| u32::from_be_bytes(cell.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn a_kernel_finds_its_memory_cpus_console_and_initrd() {
        let tree = build(&CONFIG).unwrap();
        let fdt = Fdt::new(&tree).unwrap();
        let region = fdt.memory().regions().next().unwrap();
        assert_eq!(region.starting_address as u64, map::RAM_BASE);
        assert_eq!(region.size, Some(256 << 20));
        let ids: Vec<usize> = fdt.cpus().map(|cpu| cpu.ids().first()).collect();
        assert_eq!(ids, [0, 1, 2]);
        assert!(
            fdt.cpus()
                .all(|cpu| cpu.property("enable-method").unwrap().as_str() == Some("psci"))
        );
        let chosen = fdt.chosen();
        assert_eq!(chosen.bootargs(), Some(CONFIG.append));
        let stdout = chosen.stdout().unwrap();
        assert!(
            stdout
                .compatible()
                .unwrap()
                .all()
                .any(|name| name == "arm,pl011")
        );
        let chosen = fdt.find_node("/chosen").unwrap();
        assert_eq!(
            chosen.property("linux,initrd-start").unwrap().as_usize(),
            Some(0x4800_0000)
        );
        assert_eq!(
            chosen.property("linux,initrd-end").unwrap().as_usize(),
            Some(0x4812_3456)
        );
        assert_eq!(chosen.property("rng-seed").unwrap().value, [7; 32]);
        assert!(chosen.property("kaslr-seed").is_none());
    }

    #[test]
    fn interrupts_and_frames_are_those_of_the_map() {
        let tree = build(&CONFIG).unwrap();
        let fdt = Fdt::new(&tree).unwrap();
        let gic = fdt.find_compatible(&["arm,gic-v3"]).unwrap();
        let regions: Vec<_> = gic
            .reg()
            .unwrap()
            .map(|r| (r.starting_address as u64, r.size.unwrap() as u64))
            .collect();
        assert_eq!(
            regions,
            [
                (map::GICD_BASE, map::GICD_SIZE),
                (map::GICR_BASE, 3 * map::GICR_STRIDE)
            ]
        );
        assert_eq!(
            cells(&fdt, "/timer", "interrupts"),
            [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]
        );
        let config = GuestConfig {
            timers: GuestTimers::new(30),
            ..CONFIG
        };
        let elsewhere = build(&config).unwrap();
        assert_eq!(
            cells(&Fdt::new(&elsewhere).unwrap(), "/timer", "interrupts"),
            [1, 13, 4, 1, 11, 4, 1, 14, 4, 1, 10, 4],
            "the virtual timer is the machine's, the physical one beside it"
        );
        assert_eq!(cells(&fdt, "/pl011@9000000", "interrupts"), [0, 1, 4]);
        assert_eq!(cells(&fdt, "/pl031@9010000", "interrupts"), [0, 2, 4]);
        assert_eq!(
            cells(&fdt, "/virtio_mmio@a000a00", "interrupts"),
            [0, 21, 1]
        );
        assert_eq!(
            cells(&fdt, "/", "interrupt-parent"),
            cells(&fdt, "/intc@8000000", "phandle")
        );
        let psci = fdt.find_node("/psci").unwrap();
        assert_eq!(psci.property("method").unwrap().as_str(), Some("hvc"));
        let names: Vec<_> = psci.compatible().unwrap().all().collect();
        assert_eq!(names, ["arm,psci-1.0", "arm,psci-0.2"]);
    }

    #[test]
    fn options_not_asked_for_are_not_there() {
        let config = GuestConfig {
            initrd: None,
            rng_seed: &[],
            virtio_slots: 0,
            ..CONFIG
        };
        let tree = build(&GuestConfig {
            kaslr_seed: Some(9),
            ..config
        })
        .unwrap();
        let fdt = Fdt::new(&tree).unwrap();
        let chosen = fdt.find_node("/chosen").unwrap();
        assert!(chosen.property("linux,initrd-start").is_none());
        assert!(chosen.property("rng-seed").is_none());
        assert_eq!(chosen.property("kaslr-seed").unwrap().as_usize(), Some(9));
        assert!(fdt.find_compatible(&["virtio,mmio"]).is_none());
    }

    #[test]
    fn a_gicv2_has_cpu_interfaces_and_eight_vcpus_at_most() {
        let config = GuestConfig {
            gic: Model::V2,
            ..CONFIG
        };
        let tree = build(&config).unwrap();
        let fdt = Fdt::new(&tree).unwrap();
        let gic = fdt.find_compatible(&["arm,gic-400"]).unwrap();
        let frames: Vec<_> = gic
            .reg()
            .unwrap()
            .map(|r| (r.starting_address as u64, r.size.unwrap()))
            .collect();
        assert_eq!(frames, [(0x800_0000, 0x1_0000), (0x801_0000, 0x2000)]);
        assert_eq!(cells(&fdt, "/timer", "interrupts")[6..9], [1, 11, 0x704]);
        let too_many = build(&GuestConfig { vcpus: 9, ..config });
        assert_eq!(too_many.unwrap_err(), Error::VcpusOfGicV2(9));
    }

    #[test]
    fn devices_of_a_protected_vm_are_confined_to_their_pool() {
        let pool = Some((0x4f00_0000, 0x100_0000));
        let tree = build(&GuestConfig {
            dma_pool: pool,
            ..CONFIG
        })
        .unwrap();
        let fdt = Fdt::new(&tree).unwrap();
        let node = fdt.find_compatible(&["restricted-dma-pool"]).unwrap();
        let region = node.reg().unwrap().next().unwrap();
        assert_eq!(region.starting_address as u64, 0x4f00_0000);
        assert_eq!(region.size, Some(0x100_0000));
        let phandle = node.property("phandle").unwrap().value;
        let device = fdt.find_node("/virtio_mmio@a000000").unwrap();
        assert_eq!(device.property("memory-region").unwrap().value, phandle);
        for (base, size) in [
            (0x4f00_0000, 0x100_0001),
            (0x3fff_f000, 0x2000),
            (0x4f00_0000, 0),
        ] {
            let wrong = GuestConfig {
                dma_pool: Some((base, size)),
                ..CONFIG
            };
            assert_eq!(build(&wrong).unwrap_err(), Error::DmaPool(base, size));
        }
    }

    #[test]
    fn a_wrong_configuration_is_refused_with_its_reason() {
        let error = |config: GuestConfig<'_>| build(&config).unwrap_err();
        assert_eq!(error(GuestConfig { vcpus: 0, ..CONFIG }), Error::Vcpus(0));
        assert_eq!(
            error(GuestConfig {
                vcpus: 17,
                ..CONFIG
            }),
            Error::Vcpus(17)
        );
        assert_eq!(
            error(GuestConfig {
                memory_bytes: 0,
                ..CONFIG
            }),
            Error::Memory(0)
        );
        assert_eq!(
            error(GuestConfig {
                memory_bytes: u64::MAX,
                ..CONFIG
            }),
            Error::Memory(u64::MAX)
        );
        let (start, end) = (0x5000_0000, 0x5000_0001);
        assert_eq!(
            error(GuestConfig {
                initrd: Some((start, end)),
                ..CONFIG
            }),
            Error::Initrd(start, end)
        );
        assert_eq!(
            error(GuestConfig {
                initrd: Some((0, 4)),
                ..CONFIG
            }),
            Error::Initrd(0, 4)
        );
        assert_eq!(
            error(GuestConfig {
                append: "a\0b",
                ..CONFIG
            }),
            Error::Nul
        );
        assert_eq!(
            error(GuestConfig {
                virtio_slots: 33,
                ..CONFIG
            }),
            Error::VirtioSlots(33)
        );
    }
}
