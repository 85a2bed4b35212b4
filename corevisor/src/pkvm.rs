//! The pKVM guest interface: what a Linux with CONFIG_ARM_PKVM_GUEST asks a hypervisor for, so that it
//! runs as a protected VM without a patch (Linux, drivers/virt/coco/pkvm-guest and
//! Documentation/virt/kvm/arm/hypercalls.rst).
//!
//! It is offered to protected VMs only: an open VM's memory is the hostvisor's already.

use crate::core::{Core, Machine};
use crate::ownership::Ownership;
use crate::vcpu::Vcpu;
use crate::vm::VmSlot;
use abi::{Error, Ipa, PAGE_SIZE, psci};

/// SMCCC vendor-specific hypervisor service: call UID.
const CALL_UID: u32 = 0x8600_FF01;
/// The service's features, one bit a function.
const FEATURES: u32 = 0x8600_0000;
/// HYP_MEMINFO: the granule of sharing.
const HYP_MEMINFO: u32 = 0xC600_0002;
/// MEM_SHARE: the hostvisor gets access to a page.
const MEM_SHARE: u32 = 0xC600_0003;
/// MEM_UNSHARE: and loses it.
const MEM_UNSHARE: u32 = 0xC600_0004;

/// 28b46fb6-2ec5-11e9-a9ca-4b564d003a74 as SMCCC returns a UUID (DEN0028 §6.2).
const UID: [u64; 4] = [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d];
/// FEATURES itself, HYP_MEMINFO, MEM_SHARE, MEM_UNSHARE.
const FEATURE_BITS: u64 = 1 | 1 << 2 | 1 << 3 | 1 << 4;

/// x0–x3 of the answer to the call in `vcpu`'s registers, if it is one of these.
pub fn call<P: Machine>(core: &Core<P>, vcpu: &Vcpu, vm: &VmSlot) -> Option<[u64; 4]> {
    // The function number is W0.
    let function = (vcpu.gp.read(0) & 0xffff_ffff) as u32;
    if !matches!(
        function,
        CALL_UID | FEATURES | HYP_MEMINFO | MEM_SHARE | MEM_UNSHARE
    ) {
        return None;
    }
    let (a, b, c) = (vcpu.gp.read(1), vcpu.gp.read(2), vcpu.gp.read(3));
    let mut inner = vm.lock(vcpu.vm).ok().filter(|inner| inner.protected)?;
    let code = match function {
        CALL_UID => return Some(UID),
        FEATURES => return Some([FEATURE_BITS, 0, 0, 0]),
        HYP_MEMINFO if (a, b, c) == (0, 0, 0) => PAGE_SIZE.cast_signed(),
        MEM_SHARE | MEM_UNSHARE if (b, c) == (0, 0) && Ipa(a).is_aligned(PAGE_SIZE) => {
            let change = if function == MEM_SHARE {
                Ownership::vm_share
            } else {
                Ownership::vm_unshare
            };
            let table = inner.stage2.as_mut();
            match table.map_or(Err(Error::BadState), |t| {
                change(&core.memory, t, vm.id(), Ipa(a))
            }) {
                Ok(()) => psci::SUCCESS,
                Err(_) => psci::SMCCC_INVALID_PARAMETER,
            }
        }
        _ => psci::SMCCC_INVALID_PARAMETER,
    };
    Some([code.cast_unsigned(), 0, 0, 0])
}
