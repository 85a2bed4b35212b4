//! The contract between the corevisor (EL2, trusted) and the hostvisor (EL1, not trusted).
//!
//! Hypercall numbers, error codes, the run page and the standard SMCCC/PSCI numbers both sides
//! speak. Plain data only: no unsafe code, no hardware, no allocation. Everything here is a
//! promise; changing it means changing both sides and `docs/hypercalls/`.

#![no_std]
#![forbid(unsafe_code)]

pub mod addr;
pub mod error;
pub mod hypercall;
pub mod psci;
pub mod run;

pub use addr::{Ipa, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr};
pub use error::Error;
pub use hypercall::HostCall;

/// Version of this interface: major in bits 31:16, minor in bits 15:0.
pub const ABI_VERSION: u32 = 0x0001_0000;

/// Most vCPUs a VM may have.
pub const MAX_VCPUS: usize = 16;

/// Most vCPUs a VM may have on a machine with a GICv2, whose registers have a bit for each of eight CPU interfaces
/// (Arm IHI 0048B, GICD_ITARGETSRn).
pub const MAX_VCPUS_GICV2: usize = 8;

/// Most VMs that exist at once.
pub const MAX_VMS: usize = 64;

/// Most vCPUs that exist at once, of all VMs together.
pub const MAX_VCPUS_OF_ALL: usize = 256;

/// On a machine with a GICv2: where every VM finds its CPU interface, the machine's GICV. QEMU's `virt`
/// board has GICC there.
pub const GICC_IPA: Ipa = Ipa(0x0801_0000);

/// Bytes of GICC and of GICV (GIC architecture IHI 0048, table 4-2 and 5.5).
pub const GICC_SIZE: u64 = 0x2000;

/// Most physical CPUs that are used; a machine's others stay off.
pub const MAX_CPUS: usize = 8;
