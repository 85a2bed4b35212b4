//! What the device tree says about the machine.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use fdt::Fdt;

use crate::cpu::MAX_CPUS;

/// GICD and GICR as on QEMU's `virt`, until the tree says otherwise.
static GICD: AtomicU64 = AtomicU64::new(0x0800_0000);
static GICR: AtomicU64 = AtomicU64::new(0x080a_0000);
/// GICC, on a machine with a GICv2; 0 on others.
static GICC: AtomicU64 = AtomicU64::new(0);
static RAM_BASE: AtomicU64 = AtomicU64::new(0);
static RAM_BYTES: AtomicU64 = AtomicU64::new(0);
static CPUS: AtomicUsize = AtomicUsize::new(1);
static MPIDRS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static TREE: AtomicU64 = AtomicU64::new(0);
static LOADED_AT: AtomicU64 = AtomicU64::new(0);

/// The distributor's base.
pub(crate) fn gicd() -> u64 {
    GICD.load(Ordering::Relaxed)
}

/// The first redistributor's base.
pub(crate) fn gicr() -> u64 {
    GICR.load(Ordering::Relaxed)
}

/// The CPU interfaces' base, on a machine with a GICv2.
pub(crate) fn gicc() -> Option<u64> {
    match GICC.load(Ordering::Relaxed) {
        0 => None,
        base => Some(base),
    }
}

/// RAM: base and size.
pub(crate) fn ram() -> (u64, u64) {
    (
        RAM_BASE.load(Ordering::Relaxed),
        RAM_BYTES.load(Ordering::Relaxed),
    )
}

/// CPUs that the tree names.
pub(crate) fn cpus() -> usize {
    CPUS.load(Ordering::Relaxed)
}

/// MPIDR of CPU `index`.
pub(crate) fn mpidr(index: usize) -> u64 {
    MPIDRS[index].load(Ordering::Relaxed)
}

/// Where the image was loaded.
pub(crate) fn loaded_at() -> u64 {
    LOADED_AT.load(Ordering::Relaxed)
}

/// The device tree's address, as entry found it in x0.
pub(crate) fn tree_address() -> u64 {
    TREE.load(Ordering::Relaxed)
}

/// The device tree. Call after `init` succeeded.
pub(crate) fn tree() -> Option<Fdt<'static>> {
    // SAFETY: `init` read the tree at this address; nobody writes there.
    unsafe { Fdt::from_ptr(tree_address() as *const u8) }.ok()
}

/// Reads the tree that x0 pointed to at entry.
pub(crate) fn init(address: u64, loaded_at: u64) -> Result<(), &'static str> {
    TREE.store(address, Ordering::Relaxed);
    LOADED_AT.store(loaded_at, Ordering::Relaxed);
    if address == 0 || address & 7 != 0 {
        return Err("x0 at entry is not the address of a device tree");
    }
    let tree = tree().ok_or("x0 at entry points to no device tree")?;
    let memory = tree.find_node("/memory").or_else(|| {
        tree.all_nodes()
            .find(|n| n.property("device_type").and_then(|p| p.as_str()) == Some("memory"))
    });
    let region = memory
        .and_then(|n| n.reg()?.next())
        .ok_or("the tree has no memory node")?;
    RAM_BASE.store(region.starting_address as u64, Ordering::Relaxed);
    RAM_BYTES.store(region.size.unwrap_or(0) as u64, Ordering::Relaxed);
    let v3 = tree.find_compatible(&["arm,gic-v3"]);
    if let Some(gic) = v3.or_else(|| tree.find_compatible(&["arm,gic-400", "arm,cortex-a15-gic"])) {
        let mut regions = gic.reg().ok_or("the GIC's node has no reg")?;
        let gicd = regions
            .next()
            .ok_or("the GIC's node names no distributor")?;
        let own = regions
            .next()
            .ok_or("the GIC's node names no redistributors or CPU interfaces")?;
        GICD.store(gicd.starting_address as u64, Ordering::Relaxed);
        let cpus = if v3.is_some() { &GICR } else { &GICC };
        cpus.store(own.starting_address as u64, Ordering::Relaxed);
    }
    let mut cpus = 0;
    for cpu in tree.cpus().take(MAX_CPUS) {
        MPIDRS[cpus].store(cpu.ids().first() as u64, Ordering::Relaxed);
        cpus += 1;
    }
    CPUS.store(cpus.max(1), Ordering::Relaxed);
    Ok(())
}

/// The value of `key=` in /chosen bootargs.
pub(crate) fn argument(key: &str) -> Option<&'static str> {
    let tree = tree()?;
    let chosen = tree.find_node("/chosen")?;
    let args = chosen.property("bootargs")?.as_str()?;
    args.split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}
