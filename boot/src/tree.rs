//! From the device tree to [`BootInfo`]. Plain code over bytes; tested on the host.
//!
//! Addresses below a bus whose `ranges` is not the identity are not translated. No device that is withheld, in
//! whole or in part, may be there ([`crate::withheld`]).

use crate::gic_v2;
use crate::info::{
    BootInfo, Cpu, CpuStart, Gic, MAX_ITS, MAX_REDISTRIBUTORS, MAX_WITHHELD, Timers, Uart,
};
use crate::ranges::{List, Range};
use crate::tree_check::TreeError;
use crate::withheld;
use abi::{MAX_CPUS, PAGE_SIZE};
use arch::platform::{RedistributorRow, UartModel};
use core::fmt;
use fdt::Fdt;
use fdt::node::FdtNode;

/// MPIDR_EL1's affinity fields.
pub const MPIDR_AFFINITY: u64 = 0xFF_00FF_FFFF;
/// Physical addresses above this do not exist for a 4 KiB granule without LPA2.
const ADDRESS_LIMIT: u64 = 1 << 48;
/// Ranges in the tree's memory nodes.
const MAX_MEMORY: usize = 32;

/// Why a tree is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParseError {
    /// Its structure is broken.
    Structure(TreeError),
    /// No memory node names RAM.
    NoRam,
    /// The CPU that runs is not in it.
    BootCpuUnknown(u64),
    /// More devices to withhold than there is place for.
    TooManyWithheld,
    /// A device to withhold, with this `reg`, has no physical address and size that can be told.
    Misplaced(u64),
    /// A CPU is parked at this address, which is not reserved.
    Parked(u64),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Structure(error) => {
                write!(
                    f,
                    "device tree is broken at byte {:#x}: {}",
                    error.offset, error.what
                )
            }
            Self::TooManyWithheld => {
                write!(
                    f,
                    "device tree has too many devices that must be kept from the hostvisor \
                     ({MAX_WITHHELD} SMMUs and CoreSight components, {MAX_REDISTRIBUTORS} regions of redistributors, \
                     {MAX_ITS} ITSs)"
                )
            }
            Self::Misplaced(reg) => {
                write!(
                    f,
                    "device tree does not tell the physical address of a device that must be kept from the \
                     hostvisor (reg {reg:#x})"
                )
            }
            Self::Parked(address) => {
                write!(
                    f,
                    "device tree parks a CPU at {address:#x} (cpu-release-addr) and does not reserve that memory"
                )
            }
            Self::NoRam => f.write_str("device tree names no RAM"),
            Self::BootCpuUnknown(mpidr) => {
                write!(
                    f,
                    "device tree has no CPU with MPIDR {mpidr:#x}, the one that runs"
                )
            }
        }
    }
}

/// Reads a tree that [`crate::tree_check::normalise`] has passed. `boot_mpidr` is this CPU's MPIDR_EL1; its
/// CPU comes first in the list.
///
/// # Errors
/// See [`ParseError`].
pub fn parse(tree: &[u8], boot_mpidr: u64) -> Result<BootInfo, ParseError> {
    let broken = TreeError {
        what: "bad header",
        offset: 0,
        pl011: 0,
    };
    let fdt = Fdt::new(tree).map_err(|_| ParseError::Structure(broken))?;
    let mut info = BootInfo {
        tree_size: fdt.total_size() as u64,
        ..BootInfo::default()
    };
    // The console first, so that trouble can be told.
    info.uart = console(&fdt);
    info.initrd = initrd(&fdt);
    memory(&fdt, &mut info)?;
    cpus(&fdt, boot_mpidr & MPIDR_AFFINITY, &mut info)?;
    if info.cpu_start != CpuStart::SpinTable {
        info.cpu_start = psci(&fdt);
    }
    info.gic = gic(&fdt)?;
    info.withheld = withheld::read(&fdt, GIC_V2)?;
    withheld::parking(&fdt, &mut info)?;
    info.timers = timers(&fdt);
    Ok(info)
}

/// The console alone, for a message about a tree that [`parse`] refuses.
#[must_use]
pub fn console_of(tree: &[u8]) -> Option<Uart> {
    console(&Fdt::new(tree).ok()?)
}

fn console(fdt: &Fdt<'_>) -> Option<Uart> {
    let named = fdt.find_node("/chosen").and_then(|chosen| {
        let path = chosen.property("stdout-path")?.as_str()?;
        let path = path.split(':').next()?;
        if path.starts_with('/') {
            return fdt.find_node(path);
        }
        let path = fdt.find_node("/aliases")?.property(path)?.as_str()?;
        path.starts_with('/').then(|| fdt.find_node(path))?
    });
    named.and_then(uart).or_else(|| {
        fdt.find_compatible(&["arm,pl011"])
            .filter(|&node| usable(node))
            .and_then(uart)
    })
}

fn uart(node: FdtNode<'_, '_>) -> Option<Uart> {
    let base = node.reg()?.next()?.starting_address as u64;
    let is = |names: &[&str]| compatible(node, names);
    let model = if is(&["arm,pl011"]) {
        UartModel::Pl011
    } else if is(&["ns16550a", "ns16550", "snps,dw-apb-uart"]) {
        UartModel::Ns16550 {
            reg_shift: cell(node, "reg-shift").unwrap_or(0).min(8) as u8,
        }
    } else {
        return None;
    };
    Some(Uart { base, model })
}

fn initrd(fdt: &Fdt<'_>) -> Range {
    let Some(chosen) = fdt.find_node("/chosen") else {
        return Range::default();
    };
    let address = |name| {
        chosen
            .property(name)
            .and_then(|p| p.as_usize())
            .unwrap_or(0) as u64
    };
    Range {
        start: address("linux,initrd-start"),
        end: address("linux,initrd-end"),
    }
}

fn memory(fdt: &Fdt<'_>, info: &mut BootInfo) -> Result<(), ParseError> {
    let mut ram = List::<Range, MAX_MEMORY>::default();
    for node in fdt
        .all_nodes()
        .filter(|&n| usable(n) && text(n, "device_type") == Some("memory"))
    {
        for range in reg(node) {
            let end = range.end.min(ADDRESS_LIMIT);
            info.ram_dropped += ram.push_or_drop_smallest(Range { end, ..range });
        }
    }
    ram.normalise();
    info.ram_total = ram.total();
    let mut reserved = List::default();
    for entry in fdt.memory_reservations() {
        let range = Range::sized(entry.address() as u64, entry.size() as u64);
        reserve(&mut reserved, range);
    }
    if let Some(parent) = fdt.find_node("/reserved-memory") {
        for node in parent
            .children()
            .filter(|&n| usable(n) && n.property("reusable").is_none())
        {
            reg(node).for_each(|range| reserve(&mut reserved, range));
        }
    }
    // Some firmware reserves the initrd; it is the hostvisor's to read all the same.
    if !info.initrd.is_empty() {
        reserved.subtract(info.initrd.grown_to(PAGE_SIZE));
    }
    reserved.normalise();
    let mut usable = List::<Range, { MAX_MEMORY * 2 }>::default();
    for range in ram.iter() {
        info.ram_dropped += usable.push_or_drop_smallest(range.shrunk_to(PAGE_SIZE));
    }
    for &range in reserved.iter() {
        info.ram_dropped += usable.subtract(range);
    }
    for &range in usable.iter().filter(|range| !range.is_empty()) {
        info.ram_dropped += info.ram.push_or_drop_smallest(range);
    }
    info.ram.normalise();
    info.reserved = reserved;
    if info.ram.is_empty() {
        Err(ParseError::NoRam)
    } else {
        Ok(())
    }
}

/// Adds a range to the reserved ones. When the list is full it is joined with the nearest one: too
/// much is reserved then, never too little.
fn reserve<const N: usize>(reserved: &mut List<Range, N>, range: Range) {
    let range = range.grown_to(PAGE_SIZE);
    if range.is_empty() || reserved.push(range).is_ok() {
        return;
    }
    let gap = |r: &Range| {
        r.start
            .saturating_sub(range.end)
            .max(range.start.saturating_sub(r.end))
    };
    if let Some(nearest) = reserved.iter_mut().min_by_key(|r| gap(r)) {
        nearest.start = nearest.start.min(range.start);
        nearest.end = nearest.end.max(range.end);
    }
}

fn cpus(fdt: &Fdt<'_>, boot_mpidr: u64, info: &mut BootInfo) -> Result<(), ParseError> {
    let parent = fdt
        .find_node("/cpus")
        .ok_or(ParseError::BootCpuUnknown(boot_mpidr))?;
    // Its own place at the front is free until it turns up.
    let mut boot_cpu_seen = false;
    let _ = info.cpus.push(Cpu { mpidr: boot_mpidr });
    for node in parent
        .children()
        .filter(|&node| text(node, "device_type") == Some("cpu"))
    {
        let Some(mpidr) = node.property("reg").and_then(|p| p.as_usize()) else {
            continue;
        };
        if !usable(node) {
            continue;
        }
        info.cpus_in_tree += 1;
        if text(node, "enable-method") == Some("spin-table") {
            info.cpu_start = CpuStart::SpinTable;
        }
        if mpidr as u64 == boot_mpidr {
            boot_cpu_seen = true;
        } else {
            // Beyond the list's end CPUs stay off; `cpus_in_tree` tells.
            let _ = info.cpus.push(Cpu {
                mpidr: mpidr as u64 & MPIDR_AFFINITY,
            });
        }
    }
    debug_assert!(info.cpus.len() <= MAX_CPUS);
    if boot_cpu_seen {
        Ok(())
    } else {
        Err(ParseError::BootCpuUnknown(boot_mpidr))
    }
}

fn psci(fdt: &Fdt<'_>) -> CpuStart {
    if let Some(node) = fdt.find_compatible(&["arm,psci-1.0", "arm,psci-0.2"]) {
        return match text(node, "method") {
            Some("smc") => CpuStart::PsciSmc,
            Some("hvc") => CpuStart::PsciHvc,
            _ => CpuStart::Unknown,
        };
    }
    match fdt.find_compatible(&["arm,psci"]) {
        Some(_) => CpuStart::PsciLegacy,
        None => CpuStart::Unknown,
    }
}

/// The `compatible` strings of GICv2 and its like.
const GIC_V2: &[&str] = &[
    "arm,gic-400",
    "arm,cortex-a15-gic",
    "arm,cortex-a7-gic",
    // Never with virtualization extensions; here to say so.
    "arm,cortex-a9-gic",
];

fn gic(fdt: &Fdt<'_>) -> Result<Gic, ParseError> {
    if let Some(node) = fdt.find_compatible(&["arm,gic-v3"]) {
        let mut frames = reg(node);
        let distributor = frames.next().unwrap_or_default();
        let rows = cell(node, "#redistributor-regions").unwrap_or(1) as usize;
        let stride = node
            .property("redistributor-stride")
            .and_then(|p| p.as_usize())
            .unwrap_or(0);
        let mut redistributors = List::default();
        for row in frames.take(rows) {
            let row = RedistributorRow {
                base: row.start,
                size: row.size(),
                stride: stride as u64,
            };
            redistributors
                .push(row)
                .map_err(|_| ParseError::TooManyWithheld)?;
        }
        let mut its = List::default();
        for node in fdt
            .all_nodes()
            .filter(|&n| compatible(n, &["arm,gic-v3-its"]))
        {
            for range in reg(node) {
                its.push(range.grown_to(PAGE_SIZE))
                    .map_err(|_| ParseError::TooManyWithheld)?;
            }
        }
        return Ok(Gic::V3 {
            distributor,
            redistributors,
            its,
        });
    }
    let Some(node) = fdt.find_compatible(GIC_V2) else {
        return Ok(Gic::Unknown);
    };
    let board = fdt
        .find_node("/")
        .and_then(|root| root.property("compatible"));
    let names = board.map_or("", |p| str::from_utf8(p.value).unwrap_or(""));
    Ok(Gic::V2(gic_v2::read(reg(node), names.split('\0'))))
}

/// PPIs start at INTID 16.
const FIRST_PPI: u32 = 16;

fn timers(fdt: &Fdt<'_>) -> Timers {
    let default = Timers::default();
    let Some(node) = fdt.find_compatible(&["arm,armv8-timer", "arm,armv7-timer"]) else {
        return default;
    };
    let controller = fdt
        .find_compatible(&["arm,gic-v3"])
        .or_else(|| fdt.find_compatible(GIC_V2));
    let cells = controller
        .and_then(|n| n.interrupt_cells())
        .unwrap_or(3)
        .clamp(3, 8);
    let Some(interrupts) = node.property("interrupts") else {
        return default;
    };
    // Each: type (1 is PPI), number, flags.
    let mut intids = interrupts.value.chunks_exact(cells * 4).map(|specifier| {
        let word = |n: usize| {
            let bytes = specifier.get(4 * n..4 * n + 4)?;
            Some(u32::from_be_bytes(bytes.try_into().ok()?))
        };
        (word(0) == Some(1)).then(|| word(1).map(|ppi| FIRST_PPI + (ppi & 0xf)))?
    });
    let mut next = |default| intids.next().flatten().unwrap_or(default);
    Timers {
        secure_physical: next(default.secure_physical),
        physical: next(default.physical),
        virtual_: next(default.virtual_),
        hypervisor: next(default.hypervisor),
    }
}

/// True unless `status` says that the node is not to be used.
fn usable(node: FdtNode<'_, '_>) -> bool {
    matches!(text(node, "status"), None | Some("okay" | "ok"))
}

pub(crate) fn compatible(node: FdtNode<'_, '_>, names: &[&str]) -> bool {
    node.compatible()
        .is_some_and(|list| list.all().any(|name| names.contains(&name)))
}

fn text<'a>(node: FdtNode<'_, 'a>, name: &str) -> Option<&'a str> {
    node.property(name)?.as_str()
}

fn cell(node: FdtNode<'_, '_>, name: &str) -> Option<u32> {
    let value = node.property(name)?.value;
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The `reg` entries that name a size.
pub(crate) fn reg<'a>(node: FdtNode<'_, 'a>) -> impl Iterator<Item = Range> + use<'a> {
    node.reg()
        .into_iter()
        .flatten()
        .filter_map(|r| Some(Range::sized(r.starting_address as u64, r.size? as u64)))
}
