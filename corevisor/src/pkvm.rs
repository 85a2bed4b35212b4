//! The pKVM guest interface: what a Linux with CONFIG_ARM_PKVM_GUEST asks a hypervisor for, so that it
//! runs as a protected VM without a patch (Linux, drivers/virt/coco/pkvm-guest and
//! Documentation/virt/kvm/arm/hypercalls.rst).
//!
//! It is offered to protected VMs only: an open VM's memory is the hostvisor's already.

use crate::core::{Core, Machine};
use crate::frame::VmId;
use crate::ownership::Ownership;
use crate::stage2::Stage2;
use crate::vcpu::Vcpu;
use crate::vm::{VmInner, VmSlot};
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
/// MMIO_GUARD: a page is a device's; from the first such call on, an access to or fetch from a page that maps
/// nothing and was not named ends in an abort instead of reaching the hostvisor.
const MMIO_GUARD: u32 = 0xC600_0007;

/// Most pages a VM may name: each can cost two frames of the page-table pool.
const MMIO_PAGES_MAX: u64 = 256;

/// 28b46fb6-2ec5-11e9-a9ca-4b564d003a74 as SMCCC returns a UUID (DEN0028 §6.2).
const UID: [u64; 4] = [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d];
/// FEATURES itself, HYP_MEMINFO, MEM_SHARE, MEM_UNSHARE, MMIO_GUARD.
const FEATURE_BITS: u64 = 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 7;

/// x0–x3 of the answer to the call in `vcpu`'s registers, if it is one of these.
pub fn call<P: Machine>(core: &Core<P>, vcpu: &Vcpu, vm: &VmSlot) -> Option<[u64; 4]> {
    // The function number is W0.
    let function = (vcpu.gp.read(0) & 0xffff_ffff) as u32;
    if !matches!(
        function,
        CALL_UID | FEATURES | HYP_MEMINFO | MEM_SHARE | MEM_UNSHARE | MMIO_GUARD
    ) {
        return None;
    }
    let (a, b, c) = (vcpu.gp.read(1), vcpu.gp.read(2), vcpu.gp.read(3));
    let mut guard = vm.lock(vcpu.vm).ok().filter(|inner| inner.protected)?;
    let inner = &mut *guard;
    let page = Ipa(a);
    let answer = match function {
        CALL_UID => return Some(UID),
        FEATURES => return Some([FEATURE_BITS, 0, 0, 0]),
        HYP_MEMINFO if (a, b, c) == (0, 0, 0) => return Some([PAGE_SIZE, 0, 0, 0]),
        MEM_SHARE if (b, c) == (0, 0) => change(core, vm, inner, page, Ownership::vm_share),
        MEM_UNSHARE if (b, c) == (0, 0) => change(core, vm, inner, page, Ownership::vm_unshare),
        MMIO_GUARD => guard_mmio(core, vm, inner, page),
        _ => Err(Error::Invalid),
    };
    let code = match answer {
        Ok(()) => psci::SUCCESS,
        Err(_) => psci::SMCCC_INVALID_PARAMETER,
    };
    Some([code.cast_unsigned(), 0, 0, 0])
}

fn change<P: Machine>(
    core: &Core<P>,
    vm: &VmSlot,
    inner: &mut VmInner,
    page: Ipa,
    how: fn(&Ownership<'static, P>, &mut Stage2, VmId, Ipa) -> Result<(), Error>,
) -> Result<(), Error> {
    if !page.is_aligned(PAGE_SIZE) {
        return Err(Error::Invalid);
    }
    let table = inner.stage2.as_mut().ok_or(Error::BadState)?;
    how(&core.memory, table, vm.id(), page)
}

fn guard_mmio<P: Machine>(
    core: &Core<P>,
    vm: &VmSlot,
    inner: &mut VmInner,
    page: Ipa,
) -> Result<(), Error> {
    if !page.is_aligned(PAGE_SIZE) {
        return Err(Error::Invalid);
    }
    vm.guard_mmio(inner);
    let table = inner.stage2.as_mut().ok_or(Error::BadState)?;
    // Linux names every page it maps as a device, its CPU interface among them.
    if core.config.is_gicc(page) || table.is_mmio(core.memory.pool(), page) {
        return Ok(());
    }
    if inner.mmio_pages >= MMIO_PAGES_MAX {
        return Err(Error::NoMemory);
    }
    core.memory.vm_mark_mmio(table, page)?;
    inner.mmio_pages = inner.mmio_pages.saturating_add(1);
    Ok(())
}

/// True if an access to or fetch from `page`, which maps nothing, may reach the hostvisor.
pub fn may_exit<P: Machine>(core: &Core<P>, vcpu: &Vcpu, vm: &VmSlot, page: Ipa) -> bool {
    if !vm.guards_mmio() {
        return true;
    }
    let inner = vm.lock(vcpu.vm).ok();
    let table = inner.as_ref().and_then(|inner| inner.stage2.as_ref());
    table.is_some_and(|table| table.is_mmio(core.memory.pool(), page))
}
