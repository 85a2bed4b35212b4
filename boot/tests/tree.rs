//! Reading device trees: what is in them comes out, and nothing in them makes boot panic.

use arch::platform::UartModel;
use boot::info::{BootInfo, CpuStart, Gic, Uart};
use boot::ranges::Range;
use boot::tree::{self, ParseError};
use boot::tree_check::normalise;
use proptest::prelude::*;
use std::process::Command;
use vm_fdt::{FdtReserveEntry, FdtWriter};

const BASE: u64 = 0x4000_0000;
const NOP: u32 = 4;

/// What a made-up machine has.
struct Machine {
    cpus: Vec<u64>,
    memory: Vec<(u64, u64)>,
    memreserve: Vec<(u64, u64)>,
    reserved_memory: Vec<(u64, u64, bool)>,
    initrd: Option<(u64, u64)>,
    psci: Option<(&'static str, &'static str)>,
    stdout: &'static str,
    /// `cpu-release-addr` of the last CPU, and its status.
    release: Option<(u64, &'static str)>,
    /// Rows of redistributors.
    rows: Vec<[u64; 2]>,
    devices: Vec<Device>,
}

/// A device: its `compatible`, its `reg`, and, if it is on a bus, the bus's `ranges` (two cells each).
#[derive(Clone)]
struct Device {
    compatible: &'static str,
    reg: Vec<u64>,
    bus: Option<Option<Vec<u64>>>,
}

/// A device at the root, of a page.
fn device(compatible: &'static str, address: u64) -> Device {
    Device {
        compatible,
        reg: vec![address, 0x1000],
        bus: None,
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            cpus: vec![0, 1, 0x100, 0x101],
            memory: vec![(BASE, 1 << 30)],
            memreserve: vec![],
            reserved_memory: vec![],
            initrd: None,
            psci: Some(("arm,psci-1.0", "smc")),
            stdout: "/pl011@9000000",
            release: None,
            rows: vec![[0x80a_0000, 0x8_0000], [0x40_0000_0000, 0x10_0000]],
            devices: vec![],
        }
    }
}

impl Machine {
    fn tree(&self) -> Vec<u8> {
        let reserve: Vec<_> = self
            .memreserve
            .iter()
            .map(|&(a, s)| FdtReserveEntry::new(a, s).unwrap())
            .collect();
        let mut fdt = FdtWriter::new_with_mem_reserv(&reserve).unwrap();
        self.write(&mut fdt).unwrap();
        fdt.finish().unwrap()
    }

    fn write(&self, fdt: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let root = fdt.begin_node("")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_string("compatible", "linux,dummy-virt")?;
        let node = fdt.begin_node("chosen")?;
        fdt.property_string("stdout-path", self.stdout)?;
        if let Some((start, end)) = self.initrd {
            fdt.property_u32("linux,initrd-start", start as u32)?;
            fdt.property_u64("linux,initrd-end", end)?;
        }
        fdt.end_node(node)?;
        let node = fdt.begin_node("aliases")?;
        fdt.property_string("serial0", "/pl011@9000000")?;
        fdt.property_string("loop", "loop")?;
        fdt.end_node(node)?;
        for &(base, size) in &self.memory {
            let node = fdt.begin_node(&format!("memory@{base:x}"))?;
            fdt.property_string("device_type", "memory")?;
            fdt.property_array_u64("reg", &[base, size])?;
            fdt.end_node(node)?;
        }
        let node = fdt.begin_node("reserved-memory")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        for &(base, size, reusable) in &self.reserved_memory {
            let child = fdt.begin_node(&format!("region@{base:x}"))?;
            fdt.property_array_u64("reg", &[base, size])?;
            if reusable {
                fdt.property_null("reusable")?;
            }
            fdt.end_node(child)?;
        }
        fdt.end_node(node)?;
        let node = fdt.begin_node("cpus")?;
        fdt.property_u32("#address-cells", 1)?;
        fdt.property_u32("#size-cells", 0)?;
        for &mpidr in &self.cpus {
            let cpu = fdt.begin_node(&format!("cpu@{mpidr:x}"))?;
            fdt.property_string("device_type", "cpu")?;
            fdt.property_u32("reg", mpidr as u32)?;
            match self.release.filter(|_| self.cpus.last() == Some(&mpidr)) {
                Some((address, status)) => {
                    fdt.property_string("enable-method", "spin-table")?;
                    fdt.property_string("status", status)?;
                    fdt.property_u64("cpu-release-addr", address)?;
                }
                None => fdt.property_string("enable-method", "psci")?,
            }
            fdt.end_node(cpu)?;
        }
        fdt.end_node(node)?;
        if let Some((compatible, method)) = self.psci {
            let node = fdt.begin_node("psci")?;
            fdt.property_string("compatible", compatible)?;
            fdt.property_string("method", method)?;
            fdt.end_node(node)?;
        }
        let node = fdt.begin_node("intc@8000000")?;
        fdt.property_string("compatible", "arm,gic-v3")?;
        fdt.property_u32("#interrupt-cells", 3)?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_null("ranges")?;
        fdt.property_u32("#redistributor-regions", self.rows.len() as u32)?;
        let frames = [&[0x800_0000, 0x1_0000], self.rows.as_flattened()].concat();
        fdt.property_array_u64("reg", &[&frames[..], &[0x1234_0000, 0x1000]].concat())?;
        let its = fdt.begin_node("its@8080000")?;
        fdt.property_string("compatible", "arm,gic-v3-its")?;
        fdt.property_array_u64("reg", &[0x808_0000, 0x2_0000])?;
        fdt.end_node(its)?;
        fdt.end_node(node)?;
        let node = fdt.begin_node("timer")?;
        fdt.property_string("compatible", "arm,armv8-timer")?;
        let interrupts = [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4];
        fdt.property_array_u32("interrupts", &interrupts)?;
        fdt.end_node(node)?;
        let node = fdt.begin_node("pl011@9000000")?;
        fdt.property_string_list(
            "compatible",
            vec!["arm,pl011".into(), "arm,primecell".into()],
        )?;
        fdt.property_array_u64("reg", &[0x900_0000, 0x1000])?;
        fdt.end_node(node)?;
        for (n, device) in self.devices.iter().enumerate() {
            let bus = fdt.begin_node(&format!("bus-{n}"))?;
            fdt.property_u32("#address-cells", 2)?;
            fdt.property_u32("#size-cells", 2)?;
            match &device.bus {
                None => fdt.property_null("ranges")?,
                Some(None) => {}
                Some(Some(ranges)) => fdt.property_array_u64("ranges", ranges)?,
            }
            let node = fdt.begin_node("device")?;
            fdt.property_string("compatible", device.compatible)?;
            fdt.property_array_u64("reg", &device.reg)?;
            fdt.property_string("status", "disabled")?;
            fdt.end_node(node)?;
            fdt.end_node(bus)?;
        }
        fdt.end_node(root)
    }
}

fn read(mut tree: Vec<u8>, mpidr: u64) -> Result<BootInfo, ParseError> {
    normalise(&mut tree).map_err(ParseError::Structure)?;
    tree::parse(&tree, mpidr)
}

fn parse(machine: &Machine) -> BootInfo {
    read(machine.tree(), 1 << 31).unwrap()
}

#[test]
fn a_whole_machine_comes_out() {
    let info = parse(&Machine {
        initrd: Some((0x4800_0000, 0x4812_3456)),
        ..Machine::default()
    });
    assert_eq!(info.ram[..], [Range::sized(BASE, 1 << 30)]);
    assert_eq!(info.ram_total, 1 << 30);
    assert_eq!(
        info.cpus.iter().map(|c| c.mpidr).collect::<Vec<_>>(),
        [0, 1, 0x100, 0x101]
    );
    assert_eq!(info.cpu_start, CpuStart::PsciSmc);
    assert_eq!(
        info.uart,
        Some(Uart {
            base: 0x900_0000,
            model: UartModel::Pl011
        })
    );
    assert_eq!(
        info.initrd,
        Range {
            start: 0x4800_0000,
            end: 0x4812_3456
        }
    );
    let Gic::V3 {
        distributor,
        redistributors,
        its,
    } = info.gic
    else {
        panic!("no GICv3")
    };
    assert_eq!(distributor, Range::sized(0x800_0000, 0x1_0000));
    let rows: Vec<_> = redistributors
        .iter()
        .map(|r| (r.base, r.size, r.stride))
        .collect();
    assert_eq!(
        rows,
        [(0x80a_0000, 0x8_0000, 0), (0x40_0000_0000, 0x10_0000, 0)]
    );
    assert_eq!(its[..], [Range::sized(0x808_0000, 0x2_0000)]);
    let t = info.timers;
    assert_eq!(
        (t.secure_physical, t.physical, t.virtual_, t.hypervisor),
        (29, 30, 27, 26)
    );
}

#[test]
fn the_boot_cpu_comes_first_and_all_others_once() {
    let machine = Machine::default();
    for boot in [0u64, 1, 0x100, 0x101] {
        let info = read(machine.tree(), boot | 1 << 31 | 1 << 30).unwrap();
        assert_eq!(info.cpus[0].mpidr, boot);
        let mut all: Vec<_> = info.cpus.iter().map(|cpu| cpu.mpidr).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 0x100, 0x101]);
    }
    assert_eq!(
        read(machine.tree(), 2).unwrap_err(),
        ParseError::BootCpuUnknown(2)
    );
}

#[test]
fn more_than_eight_cpus_are_eight_with_the_boot_cpu() {
    let info = read(
        Machine {
            cpus: (0..12).collect(),
            ..Machine::default()
        }
        .tree(),
        11,
    )
    .unwrap();
    assert_eq!(info.cpus_in_tree, 12);
    assert_eq!(
        info.cpus.iter().map(|c| c.mpidr).collect::<Vec<_>>(),
        [11, 0, 1, 2, 3, 4, 5, 6]
    );
}

#[test]
fn reserved_memory_is_nobodys() {
    let info = parse(&Machine {
        memreserve: vec![(BASE + 0x10_0800, 0x1000)],
        reserved_memory: vec![
            (BASE + 0x100_0000, 0x20_0000, false),
            (BASE + 0x800_0000, 1 << 20, true),
        ],
        ..Machine::default()
    });
    let reserved = [
        Range::sized(BASE + 0x10_0000, 0x2000),
        Range::sized(BASE + 0x100_0000, 0x20_0000),
    ];
    assert_eq!(info.reserved[..], reserved);
    for range in reserved {
        assert!(info.ram.iter().all(|ram| !ram.overlaps(range)));
    }
    assert_eq!(info.ram.total() + 0x2000 + 0x20_0000, 1 << 30);
}

#[test]
fn an_initrd_that_firmware_reserves_stays_usable() {
    let initrd = (BASE + 0x800_0000, BASE + 0x810_0000);
    let info = parse(&Machine {
        memreserve: vec![(initrd.0, 0x10_0000)],
        initrd: Some(initrd),
        ..Machine::default()
    });
    assert!(info.reserved.is_empty());
    assert_eq!(info.ram.total(), 1 << 30);
}

#[test]
fn memory_in_too_many_pieces_keeps_the_largest() {
    let memory = (0..12)
        .map(|n| (BASE + n * (1 << 30), (n + 1) << 20))
        .collect();
    let info = parse(&Machine {
        memory,
        ..Machine::default()
    });
    assert_eq!(
        info.ram.iter().map(|r| r.size() >> 20).collect::<Vec<_>>(),
        [5, 6, 7, 8, 9, 10, 11, 12]
    );
    assert_eq!(info.ram_dropped, (1 + 2 + 3 + 4) << 20);
}

#[test]
fn absurd_memory_is_cut_or_refused() {
    let info = parse(&Machine {
        memory: vec![(BASE, u64::MAX)],
        ..Machine::default()
    });
    assert_eq!(
        info.ram[..],
        [Range {
            start: BASE,
            end: 1 << 48
        }]
    );
    for memory in [
        vec![],
        vec![(BASE, 0)],
        vec![(u64::MAX - 5, 3)],
        vec![(BASE + 1, 0x1000)],
    ] {
        let machine = Machine {
            memory,
            ..Machine::default()
        };
        assert_eq!(read(machine.tree(), 0).unwrap_err(), ParseError::NoRam);
    }
}

#[test]
fn the_console_is_found_by_path_alias_and_kind() {
    for stdout in [
        "/pl011@9000000",
        "/pl011@9000000:115200n8",
        "serial0",
        "serial0:115200",
        "loop",
        "",
        "/no",
    ] {
        let info = parse(&Machine {
            stdout,
            ..Machine::default()
        });
        assert_eq!(
            info.uart.map(|uart| uart.base),
            Some(0x900_0000),
            "{stdout}"
        );
    }
}

#[test]
fn only_psci_by_smc_starts_cpus() {
    for (psci, expected) in [
        (Some(("arm,psci-1.0", "smc")), CpuStart::PsciSmc),
        (Some(("arm,psci-0.2", "smc")), CpuStart::PsciSmc),
        (Some(("arm,psci-1.0", "hvc")), CpuStart::PsciHvc),
        (Some(("arm,psci-1.0", "magic")), CpuStart::Unknown),
        (Some(("arm,psci", "smc")), CpuStart::PsciLegacy),
        (None, CpuStart::Unknown),
    ] {
        assert_eq!(
            parse(&Machine {
                psci,
                ..Machine::default()
            })
            .cpu_start,
            expected
        );
    }
}

fn refused(machine: &Machine) -> ParseError {
    read(machine.tree(), 0).unwrap_err()
}

/// A CPU that is parked where the hostvisor could write is refused, in use or not.
#[test]
fn parked_cpus_are_parked_in_reserved_memory() {
    const PARKING: u64 = BASE + 0xfff8;
    for status in ["okay", "disabled"] {
        let mut machine = Machine {
            release: Some((PARKING, status)),
            ..Machine::default()
        };
        assert_eq!(refused(&machine), ParseError::Parked(PARKING));
        machine.reserved_memory = vec![(BASE, 0x1_0000, true)];
        assert_eq!(refused(&machine), ParseError::Parked(PARKING), "reusable");
        machine.reserved_memory = vec![];
        machine.memreserve = vec![(BASE, 0x1_0000)];
        let expected = if status == "okay" {
            CpuStart::SpinTable
        } else {
            CpuStart::PsciSmc
        };
        assert_eq!(parse(&machine).cpu_start, expected);
        // What is no RAM would be a device of the hostvisor's.
        machine.release = Some((0x1_fff8, status));
        let around = Range::sized(0x1_0000, 0x1_0000);
        assert_eq!(*parse(&machine).withheld, [around]);
        machine.release = Some((BASE + 0xfffc, status));
        machine.memory = vec![(BASE, 0x1_0000), (BASE + 0x2_0000, 1 << 30)];
        assert_eq!(refused(&machine), ParseError::Parked(BASE + 0xfffc));
    }
}

#[test]
fn what_reaches_memory_or_processors_is_withheld() {
    let names = [
        "qemu,fw-cfg-mmio",
        "arm,smmu-v1",
        "arm,smmu-v2",
        "arm,mmu-400",
        "arm,mmu-401",
        "arm,mmu-500",
        "arm,smmu-v3",
        "arm,smmu-v3-pmcg",
        "qcom,smmu-500",
        "nvidia,smmu-500",
        "cavium,smmu-v2",
        "arm,coresight-cpu-debug",
        "arm,coresight-cti",
        "arm,coresight-etm4x",
        "arm,coresight-tmc",
        "qcom,coresight-tpda",
        "arm,embedded-trace-extension",
    ];
    for name in names {
        let devices = vec![device(name, 0x1000_0800), device("arm,pl031", 0x1100_0000)];
        let info = parse(&Machine {
            devices,
            ..Machine::default()
        });
        assert_eq!(
            info.withheld[..],
            [Range::sized(0x1000_0000, 0x2000)],
            "{name}"
        );
    }
}

/// One device more than there is place for is not left to the hostvisor.
#[test]
fn what_cannot_all_be_withheld_is_refused() {
    let many = |compatible, count| Machine {
        devices: (0..count)
            .map(|n| device(compatible, 0x1000_0000 + n * 0x1_0000))
            .collect(),
        ..Machine::default()
    };
    // One is there already.
    for (compatible, count) in [("arm,smmu-v3", 40), ("arm,gic-v3-its", 7)] {
        parse(&many(compatible, count));
        let error = refused(&many(compatible, count + 1));
        assert_eq!(error, ParseError::TooManyWithheld, "{compatible}");
    }
    let rows = |count| Machine {
        rows: (0..count)
            .map(|n| [0x40_0000_0000 + n * 0x10_0000, 0x2_0000])
            .collect(),
        ..Machine::default()
    };
    parse(&rows(8));
    assert_eq!(refused(&rows(9)), ParseError::TooManyWithheld);
}

#[test]
fn what_is_withheld_has_a_physical_address() {
    let on = |compatible, bus| Machine {
        devices: vec![Device {
            bus: Some(bus),
            ..device(compatible, 0x1000)
        }],
        ..Machine::default()
    };
    for compatible in [
        "arm,mmu-500",
        "arm,coresight-tmc",
        "arm,gic-v3-its",
        "arm,gic-400",
    ] {
        for (ranges, fine) in [
            (Some(vec![]), true),
            (Some(vec![0, 0, 1 << 40]), true),
            (Some(vec![0, 0, 0x1000, 0x1000, 0x1000, 0x1000]), true),
            (Some(vec![0, 0x4000_0000, 1 << 30]), false),
            (Some(vec![0, 0, 0x1000, 0x1000, 0x4000_1000, 0x1000]), false),
            (Some(vec![0, 0]), false),
            (None, false),
        ] {
            let machine = on(compatible, ranges.clone());
            match read(machine.tree(), 0) {
                Ok(_) => assert!(fine, "{compatible} {ranges:x?}"),
                Err(error) => {
                    assert_eq!(error, ParseError::Misplaced(0x1000));
                    assert!(!fine, "{compatible} {ranges:x?}");
                }
            }
        }
    }
    // What is the hostvisor's may be anywhere.
    parse(&on("arm,pl031", None));
    // An address without its size, or none.
    for reg in [vec![0x1000, 0x1000, 0x3000], vec![0x1000]] {
        let devices = vec![Device {
            reg,
            ..device("arm,mmu-500", 0)
        }];
        let machine = Machine {
            devices,
            ..Machine::default()
        };
        assert_eq!(refused(&machine), ParseError::Misplaced(0x1000));
    }
}

/// Start and end of the structure block.
fn structure(tree: &[u8]) -> (usize, usize) {
    let word = |at: usize| u32::from_be_bytes(tree[at..at + 4].try_into().unwrap()) as usize;
    (word(8), word(8) + word(36))
}

/// The tree with NOP tokens before every token.
fn with_nops(tree: &[u8]) -> Vec<u8> {
    let (start, end) = structure(tree);
    let word = |at: usize| u32::from_be_bytes(tree[at..at + 4].try_into().unwrap());
    let mut block = Vec::new();
    let mut at = start;
    while at < end {
        block.extend([NOP.to_be_bytes(), NOP.to_be_bytes()].concat());
        let length = match word(at) {
            1 => 4 + (tree[at + 4..].iter().position(|&b| b == 0).unwrap() + 4) / 4 * 4,
            3 => 12 + (word(at + 4) as usize).div_ceil(4) * 4,
            _ => 4,
        };
        block.extend(&tree[at..at + length]);
        at += length;
    }
    // The new structure block goes behind everything else.
    let mut out = tree.to_vec();
    out.resize(out.len().next_multiple_of(4), 0);
    let place = out.len() as u32;
    out.extend(&block);
    let total = out.len() as u32;
    out[4..8].copy_from_slice(&total.to_be_bytes());
    out[8..12].copy_from_slice(&place.to_be_bytes());
    out[36..40].copy_from_slice(&(block.len() as u32).to_be_bytes());
    out
}

#[test]
fn nops_change_nothing() {
    let machine = Machine {
        initrd: Some((0x4800_0000, 0x4812_3456)),
        ..Machine::default()
    };
    let plain = parse(&machine);
    let mut tree = with_nops(&machine.tree());
    normalise(&mut tree).unwrap();
    let with = tree::parse(&tree, 0).unwrap();
    let text = |info: BootInfo| {
        format!(
            "{:?}",
            BootInfo {
                tree_size: 0,
                ..info
            }
        )
    };
    assert_eq!(text(with), text(plain));
    let (_, end) = structure(&tree);
    assert_eq!(tree[end - 4..end], 9u32.to_be_bytes(), "ends with FDT_END");
}

#[test]
fn normalising_twice_is_normalising_once() {
    let mut once = with_nops(&Machine::default().tree());
    normalise(&mut once).unwrap();
    let mut twice = once.clone();
    normalise(&mut twice).unwrap();
    assert_eq!(once, twice);
}

#[test]
fn a_tree_cut_anywhere_is_refused() {
    let tree = Machine::default().tree();
    for length in 0..tree.len() {
        assert!(normalise(&mut tree[..length].to_vec()).is_err(), "{length}");
        // Also when the header has been made to agree.
        let mut cut = tree[..length].to_vec();
        if let Some(size) = cut.get_mut(4..8) {
            size.copy_from_slice(&(length as u32).to_be_bytes());
        }
        assert!(normalise(&mut cut).is_err(), "{length}");
    }
}

#[test]
fn trouble_behind_the_console_can_be_told_on_it() {
    let mut tree = Machine::default().tree();
    let (_, end) = structure(&tree);
    tree[end - 4..end].copy_from_slice(&7u32.to_be_bytes());
    let error = normalise(&mut tree).unwrap_err();
    assert_eq!(
        (error.what, error.offset, error.pl011),
        ("unknown token", end - 4, 0x900_0000)
    );
}

#[test]
fn deep_nesting_is_refused() {
    for (depth, fine) in [(15, true), (16, false), (60, false)] {
        let mut fdt = FdtWriter::new().unwrap();
        let nodes: Vec<_> = std::iter::once("")
            .chain(std::iter::repeat_n("n", depth))
            .map(|name| fdt.begin_node(name).unwrap())
            .collect();
        for node in nodes.into_iter().rev() {
            fdt.end_node(node).unwrap();
        }
        assert_eq!(
            normalise(&mut fdt.finish().unwrap()).is_ok(),
            fine,
            "{depth}"
        );
    }
}

#[test]
fn every_byte_flipped_in_turn_never_panics() {
    let tree = Machine {
        reserved_memory: vec![(BASE, 0x1000, false)],
        ..Machine::default()
    }
    .tree();
    for at in 0..tree.len() {
        for flip in [0x01, 0x04, 0x80, 0xff] {
            let mut bad = tree.clone();
            bad[at] ^= flip;
            let _ = read(bad, 0);
        }
    }
}

proptest! {
    #[test]
    fn random_damage_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 1..20),
    ) {
        let mut tree = Machine::default().tree();
        for (at, value) in damage {
            let at = at.index(tree.len() / 4) * 4;
            // Small words are likelier to be taken for tokens and lengths.
            let value = if value & 1 == 0 { value >> 29 } else { value };
            tree[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        let _ = read(tree, 0);
    }

    #[test]
    fn noise_is_no_tree(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(normalise(&mut noise.clone()).is_err());
    }
}

/// The tree QEMU makes for its `virt` board.
fn qemu_tree(machine: &str, cpus: u32) -> Vec<u8> {
    let file = std::env::temp_dir().join(format!("boot-{}-{cpus}.dtb", std::process::id()));
    let status = Command::new("qemu-system-aarch64")
        .args(["-M", &format!("{machine},dumpdtb={}", file.display())])
        .args(["-cpu", "cortex-a57", "-smp", &cpus.to_string(), "-m", "1G"])
        .args(["-nic", "none", "-display", "none"])
        .status()
        .expect("qemu-system-aarch64 is installed");
    assert!(status.success());
    let tree = std::fs::read(&file).unwrap();
    let _ = std::fs::remove_file(file);
    tree
}

#[test]
fn qemus_virt_board_is_understood() {
    let tree = qemu_tree("virt,virtualization=on,gic-version=3", 8);
    let info = read(tree, 0).unwrap();
    assert_eq!(info.cpus.len(), 8);
    assert_eq!(info.cpu_start, CpuStart::PsciSmc);
    assert_eq!(info.ram[..], [Range::sized(BASE, 1 << 30)]);
    assert_eq!(
        info.uart,
        Some(Uart {
            base: 0x900_0000,
            model: UartModel::Pl011
        })
    );
    let Gic::V3 {
        distributor,
        redistributors,
        its,
    } = info.gic
    else {
        panic!("no GICv3")
    };
    assert_eq!(distributor.start, 0x800_0000);
    assert_eq!(redistributors[0].base, 0x80a_0000);
    assert_eq!(its[0].start, 0x808_0000);
    assert_eq!(info.timers.virtual_, 27);
}

#[test]
fn qemus_gicv2_is_read() {
    let info = read(qemu_tree("virt,virtualization=on,gic-version=2", 2), 0).unwrap();
    let Gic::V2(gic) = info.gic else {
        panic!("no GICv2")
    };
    assert_eq!(gic.distributor, 0x800_0000);
    assert_eq!(gic.hypervisor, Some(0x803_0000));
    assert_eq!(gic.virtual_cpu_interface, 0x804_0000);
    assert_eq!(
        *gic.withheld,
        [
            Range::sized(0x803_0000, 0x1_0000),
            Range::sized(0x804_0000, 0x1_0000)
        ]
    );
}
