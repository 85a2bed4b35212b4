//! The operations, as `tests/guest/src/micro` names them.

/// One operation.
pub(super) struct Operation {
    /// Its name in the guest and in files.
    pub(super) name: &'static str,
    /// What it is, for the report.
    pub(super) title: &'static str,
    /// CPUs the machine must have.
    pub(super) cpus: u32,
    /// Whether the guest can do it on a machine without hypervisor.
    pub(super) native: bool,
    /// What counts as its cost.
    pub(super) cost: Cost,
    /// Whether what else a host does, or how its scheduler stands, is part of it: in the plugin's figure the median
    /// window counts, not the least.
    pub(super) typical: bool,
    /// Whether the guest's clock tells how long it took to reach the other end, not what it cost.
    pub(super) latency: bool,
    /// Whether it is a fault that Cloister's VMs never take: all their memory is mapped when they start.
    pub(super) fault: bool,
    /// Whether the KVM host may use 2 MB pages.
    pub(super) huge_pages: bool,
}

/// Which instructions count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// All, the guest's own included.
    GuestToGuest,
    /// All but the guest's, which fills time with waiting.
    Hypervisor,
}

const fn operation(name: &'static str, title: &'static str, native: bool) -> Operation {
    Operation {
        name,
        title,
        cpus: 1,
        native,
        cost: Cost::GuestToGuest,
        typical: false,
        latency: false,
        fault: false,
        huge_pages: false,
    }
}

/// In the order of the report.
pub(super) static OPERATIONS: &[Operation] = &[
    operation("null", "nothing: loop and clock", true),
    operation("hypercall", "hypercall, unknown number", false),
    operation("hypercall-fp", "hypercall, FP used in between", false),
    operation("psci-version", "PSCI_VERSION", false),
    operation("id-register", "read of an ID register", true),
    operation("mmio-read", "read of a device register (UART)", true),
    operation("mmio-write", "write of a device register (UART)", true),
    operation("gicd-read", "read of a distributor register", true),
    operation("gicd-write", "write of a distributor register", true),
    operation("eoi", "end of interrupt", true),
    operation("ipi-self", "SGI to itself", true),
    operation("timer", "virtual timer interrupt", true),
    Operation {
        latency: true,
        ..operation("wfi-wake", "WFI, woken by the virtual timer", true)
    },
    Operation {
        fault: true,
        ..operation("fault-4k", "first touch of a 4 KB page", true)
    },
    Operation {
        fault: true,
        huge_pages: true,
        ..operation("fault-2m", "first touch of a 2 MB block", true)
    },
    operation(
        "share-unshare",
        "MEM_SHARE and MEM_UNSHARE of a page",
        false,
    ),
    operation("net-out", "virtio-net packet out, 1514 bytes", false),
    operation(
        "net-through",
        "the same, out and in, with the receiver's interrupt",
        false,
    ),
    Operation {
        cost: Cost::Hypervisor,
        typical: true,
        ..operation(
            "blk-read",
            "virtio-blk read of 4 KB, with its interrupt",
            false,
        )
    },
    Operation {
        cost: Cost::Hypervisor,
        typical: true,
        ..operation("blk-write", "the same, a write", false)
    },
    Operation {
        typical: true,
        ..operation("switch", "switch to another vCPU of the CPU", false)
    },
    Operation {
        typical: true,
        ..operation("switch-fp", "the same, both use FP", false)
    },
    Operation {
        cpus: 2,
        latency: true,
        ..operation("ipi-running", "SGI to a vCPU that runs", true)
    },
    Operation {
        cpus: 2,
        latency: true,
        cost: Cost::Hypervisor,
        ..operation("ipi-blocked", "SGI to a vCPU that sleeps", true)
    },
];
