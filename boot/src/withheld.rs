//! Devices in the tree that are kept from the hostvisor because they write memory, or stop and read processors.
//! Nothing is withheld by half: what cannot be told or kept is an error, and boot stops.

use crate::info::{BootInfo, MAX_WITHHELD};
use crate::ranges::{List, Range};
use crate::tree::{ParseError, compatible, reg};
use abi::PAGE_SIZE;
use fdt::Fdt;
use fdt::node::{CellSizes, FdtNode};

/// QEMU's fw_cfg, whose DMA interface writes memory; SMMUs, whose queues and tables are in memory; their
/// counters, which send messages; trace that is not CoreSight by name.
const WITHHELD: &[&str] = &[
    "qemu,fw-cfg-mmio",
    "arm,smmu-v3",
    "arm,smmu-v3-pmcg",
    "arm,mmu-500",
    "arm,mmu-401",
    "arm,mmu-400",
    "arm,smmu-v2",
    "arm,smmu-v1",
    "cavium,smmu-v2",
    "marvell,ap806-smmu-500",
    "nvidia,smmu-500",
    "qcom,smmu-v2",
    "qcom,smmu-500",
    "arm,embedded-trace-extension",
];

/// How, after the vendor, the names of all CoreSight components begin, ARM's (`arm,coresight-cpu-debug`, `-cti`, `-etm4x`, `-tmc`, …) and
/// others': external debug stops and reads a processor, trace writes memory.
const CORESIGHT: &str = "coresight-";

/// What is taken to belong to a release address: other CPUs' addresses, and the loop in which they wait.
const PARKING: u64 = 64 << 10;

/// Interrupt controllers have parts that are withheld; [`crate::tree`] reads them.
const INTERRUPTS: &[&str] = &["arm,gic-v3", "arm,gic-v3-its"];

/// The devices to withhold, whole pages, disabled ones too: the hostvisor could enable them.
///
/// # Errors
/// [`ParseError::Misplaced`], [`ParseError::TooManyWithheld`].
pub fn read(fdt: &Fdt<'_>, gic_v2: &[&str]) -> Result<List<Range, MAX_WITHHELD>, ParseError> {
    let mut list = List::default();
    let Some(root) = fdt.find_node("/") else {
        return Ok(list);
    };
    below(root, true, &mut |node, physical| {
        let is = |names: &[&str]| compatible(node, names);
        let withheld = is(WITHHELD) || is_coresight(node);
        if !withheld && !is(INTERRUPTS) && !is(gic_v2) {
            return Ok(());
        }
        check_place(node, physical)?;
        for range in reg(node).filter(|_| withheld) {
            list.push(range.grown_to(PAGE_SIZE))
                .map_err(|_| ParseError::TooManyWithheld)?;
        }
        Ok(())
    })?;
    list.normalise();
    Ok(list)
}

/// A CPU that waits for an address at `cpu-release-addr`, which ones that are `disabled` do too (Devicetree
/// Specification 0.4, 3.8.1), goes wherever who can write there sends it, at EL2. Firmware must have reserved the
/// place if it is in RAM, as Linux asks for (Documentation/arch/arm64/booting.rst); what is no RAM (X-Gene's firmware
/// uses a memory of the chip's) is withheld, the [`PARKING`] bytes around it.
///
/// # Errors
/// [`ParseError::Parked`], [`ParseError::TooManyWithheld`].
pub fn parking(fdt: &Fdt<'_>, info: &mut BootInfo) -> Result<(), ParseError> {
    // `tree` has found it.
    let Some(parent) = fdt.find_node("/cpus") else {
        return Ok(());
    };
    for cpu in parent.children() {
        let Some(release) = cpu.property("cpu-release-addr") else {
            continue;
        };
        if !matches!(release.value.len(), 4 | 8) {
            return Err(ParseError::Parked(0));
        }
        let digits = release.value.iter();
        let address = digits.fold(0, |address, &byte| address << 8 | u64::from(byte));
        let word = Range::sized(address, 8);
        if info.reserved.iter().any(|reserved| reserved.contains(word)) {
            continue;
        }
        let around = word.grown_to(PARKING);
        let mut memory = info.ram.iter().chain(info.reserved.iter());
        if memory.any(|range| range.overlaps(around)) {
            return Err(ParseError::Parked(address));
        }
        if !info.withheld.iter().any(|known| known.contains(around)) {
            let full = |_| ParseError::TooManyWithheld;
            info.withheld.push(around).map_err(full)?;
        }
    }
    info.withheld.normalise();
    Ok(())
}

type Visit<'v, 'b, 'a> = &'v mut dyn FnMut(FdtNode<'b, 'a>, bool) -> Result<(), ParseError>;

/// Shows `visit` every node below `bus`, and whether addresses there are `physical` ones. As deep as
/// [`crate::tree_check`] lets trees be.
fn below<'b, 'a>(
    bus: FdtNode<'b, 'a>,
    physical: bool,
    visit: Visit<'_, 'b, 'a>,
) -> Result<(), ParseError> {
    for node in bus.children() {
        visit(node, physical)?;
        below(node, physical && is_identity(node, bus.cell_sizes()), visit)?;
    }
    Ok(())
}

/// True if the addresses below `bus` are those of the bus above: `ranges` is empty, or maps everything to
/// itself (Devicetree Specification 0.4, 2.3.8). Without it nothing below has an address up there.
fn is_identity(bus: FdtNode<'_, '_>, above: CellSizes) -> bool {
    let Some(ranges) = bus.property("ranges") else {
        return false;
    };
    let own = bus.cell_sizes();
    let [child, parent, size] =
        [own.address_cells, above.address_cells, own.size_cells].map(|cells| cells * 4);
    let entry = child + parent + size;
    let same = |entry: &[u8]| {
        let (from, rest) = entry.split_at_checked(child)?;
        Some(number(from).eq(number(rest.get(..parent)?)))
    };
    entry != 0
        && ranges.value.len().is_multiple_of(entry)
        && ranges
            .value
            .chunks_exact(entry)
            .all(|e| same(e) == Some(true))
}

/// Big-endian digits without leading zeros: numbers of different width are equal if these are.
fn number(bytes: &[u8]) -> impl Iterator<Item = &u8> {
    bytes.iter().skip_while(|&&byte| byte == 0)
}

/// A device with `reg` has all its addresses and sizes there, and they are physical ones.
fn check_place(node: FdtNode<'_, '_>, physical: bool) -> Result<(), ParseError> {
    let Some(value) = node.property("reg").map(|reg| reg.value) else {
        return Ok(());
    };
    let sized = reg(node).count();
    let raw = node.raw_reg().into_iter().flatten();
    let (entries, bytes) = raw.fold((0, 0), |(n, bytes), entry| {
        (n + 1, bytes + entry.address.len() + entry.size.len())
    });
    if physical && entries == sized && bytes == value.len() {
        return Ok(());
    }
    let first = value.iter().take(8);
    let address = first.fold(0, |address, &byte| address << 8 | u64::from(byte));
    Err(ParseError::Misplaced(address))
}

fn is_coresight(node: FdtNode<'_, '_>) -> bool {
    let named = |name: &str| {
        let model = name.bytes().skip_while(|&byte| byte != b',').skip(1);
        model.take(CORESIGHT.len()).eq(CORESIGHT.bytes())
    };
    node.compatible().is_some_and(|list| list.all().any(named))
}
