//! What single operations cost, guest to guest, for the comparison with other hypervisors (docs/benchmarks.md).
//!
//! The same image runs under Cloister and in QEMU with KVM. Two measures are taken at once: ticks of the virtual
//! counter, which are instructions where QEMU runs with `-icount shift=0` and `cntfrq=1000000000`; and marks for
//! `bench/plugin`, which splits the instructions by exception level. Bootargs: `test=micro` and, to choose,
//! `micro=NAME,NAME`.

mod blk;
mod exits;
mod interrupts;
mod memory;
mod meter;
mod net;
mod switches;

use crate::console::println;
use crate::verdict::{Verdict, fail};
use crate::{gic, platform};
use meter::Meter;

/// One operation. Its number, by which the plugin knows it, is its place in [`OPERATIONS`].
struct Operation {
    name: &'static str,
    /// vCPUs it takes.
    vcpus: usize,
    run: fn(&Meter) -> Verdict,
}

const fn one(name: &'static str, run: fn(&Meter) -> Verdict) -> Operation {
    let vcpus = 1;
    Operation { name, vcpus, run }
}

const fn two(name: &'static str, run: fn(&Meter) -> Verdict) -> Operation {
    let vcpus = 2;
    Operation { name, vcpus, run }
}

/// Those that need one vCPU come first: until the second is started it costs nothing.
static OPERATIONS: &[Operation] = &[
    one("null", exits::null),
    one("hypercall", exits::hypercall),
    one("hypercall-fp", exits::hypercall_fp),
    one("psci-version", exits::psci_version),
    one("id-register", exits::id_register),
    one("mmio-read", exits::device_read),
    one("mmio-write", exits::device_write),
    one("gicd-read", exits::distributor_read),
    one("gicd-write", exits::distributor_write),
    one("eoi", interrupts::end_of_interrupt),
    one("ipi-self", interrupts::to_self),
    one("timer", interrupts::timer),
    one("wfi-wake", interrupts::wake),
    one("fault-4k", memory::fault_page),
    one("fault-2m", memory::fault_block),
    one("share-unshare", memory::share),
    one("net-out", net::out),
    one("net-through", net::through),
    one("blk-read", blk::read),
    one("blk-write", blk::write),
    two("switch", switches::switch),
    two("switch-fp", switches::switch_fp),
    two("ipi-running", switches::ipi_running),
    two("ipi-blocked", switches::ipi_blocked),
];

/// Measures the operations that `micro=` names, or all that this machine has vCPUs for.
pub(crate) fn run() -> Verdict {
    if gic::is_v2() {
        fail!("micro: made for a GICv3, whose CPU interface is system registers");
    }
    let chosen = platform::argument("micro").unwrap_or("all");
    for name in chosen.split(',').filter(|&name| name != "all") {
        if !OPERATIONS.iter().any(|o| o.name == name) {
            fail!("micro: no such operation: {name}");
        }
    }
    for (id, operation) in OPERATIONS.iter().enumerate() {
        if chosen != "all" && !chosen.split(',').any(|name| name == operation.name) {
            continue;
        }
        if platform::cpus() < operation.vcpus {
            println!("MICRO {id} {} absent: needs 2 vCPUs", operation.name);
            continue;
        }
        (operation.run)(&Meter::new(id, operation.name))?;
    }
    Ok(())
}
