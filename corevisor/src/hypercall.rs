//! The hostvisor's hypercalls. One page each in `docs/hypercalls/`, with the order of the checks.

use crate::core::{Core, CpuState, Machine};
use crate::fpu;
use crate::frame::VmId;
use crate::lock::{self, Guard};
use crate::ownership::VM_IPA_BITS;
use crate::psci;
use crate::run;
use crate::vcpu::BootEntry;
use crate::vm::{self, Life, VmInner, VmSlot};
use abi::hypercall::{CoreInfo, VM_PROTECTED};
use abi::{ABI_VERSION, Error, HostCall, Ipa, MAX_VCPUS, Pfn};
use arch::hal::{Cpu, WorldRegs};
use arch::traps;
use core::sync::atomic::Ordering;

/// x1–x4 of an answer.
pub type Answer = [u64; 4];

/// Stage-2 tables that one VM_DESTROY frees at most.
const TEARDOWN_BUDGET: u64 = 64;

/// Carries out `call` with the arguments in the hostvisor's registers.
///
/// # Errors
///
/// As documented for each call; what the call was about is then as before, but for VM_DESTROY and VM_START ([`Error`]).
pub fn dispatch<P: Machine, C: Cpu>(
    core: &Core<P>,
    cpu: &mut C,
    state: &mut CpuState,
    call: HostCall,
) -> Result<Answer, Error> {
    let arg = |n| state.host.read(n);
    let (a, b, c, d) = (arg(1), arg(2), arg(3), arg(4));
    match call {
        HostCall::VcpuRun => {
            let exit = run::run(core, cpu, state, a, b)?;
            let [x, y, z] = exit.args;
            Ok([exit.reason as u64, x, y, z])
        }
        HostCall::CoreInfo => core_info(core, a).map(one),
        HostCall::VmCreate => vm_create(core, a, b).map(one),
        HostCall::VmSetBoot => vm_set_boot(core, a, Ipa(b), c).map(none),
        HostCall::VmStart => vm_start(core, cpu.now(), a).map(none),
        HostCall::VmDestroy => vm_destroy(core, a).map(one),
        HostCall::MemDonate => give(core, a, true, |vm, id, stage2| {
            vm.donate(stage2, id, Ipa(b), Pfn(c), d)
        })
        .map(one),
        HostCall::MemLend => give(core, a, false, |vm, id, stage2| {
            vm.lend(stage2, id, Ipa(b), Pfn(c), d)
        })
        .map(one),
        HostCall::MemUnmap => mem_unmap(core, a, Ipa(b), c).map(one),
        HostCall::MemReclaim => mem_reclaim(core, a, Pfn(b), c).map(one),
        HostCall::VcpuCreate => vcpu_create(core, a, b, Pfn(c)).map(none),
        HostCall::VcpuPut => vcpu_put(core, cpu, state, a, b).map(none),
        HostCall::VcpuStat => vcpu_stat(core, a, b, c).map(one),
    }
}

const fn none((): ()) -> Answer {
    [0; 4]
}

const fn one(value: u64) -> Answer {
    [value, 0, 0, 0]
}

type Locked<'a> = (&'a VmSlot, Guard<'a, { lock::VM }, VmInner>);

fn lock_vm<P: Machine>(core: &Core<P>, handle: u64) -> Result<Locked<'_>, Error> {
    let vm = core.vms.get(handle)?;
    Ok((vm, vm.lock(handle)?))
}

fn core_info<P: Machine>(core: &Core<P>, index: u64) -> Result<u64, Error> {
    Ok(match CoreInfo::decode(index).ok_or(Error::Invalid)? {
        CoreInfo::AbiVersion => u64::from(ABI_VERSION),
        CoreInfo::Cpus => core.config.cpus as u64,
        CoreInfo::RamFrames => core.config.ram_frames,
        CoreInfo::CoreFrames => core.config.core_frames,
        CoreInfo::PoolFree => core.memory.pool().free_count(),
        CoreInfo::VmSlots => vm::SLOTS as u64,
        CoreInfo::IpaBits => u64::from(VM_IPA_BITS),
        CoreInfo::ListRegisters => core.config.list_registers as u64,
        CoreInfo::VtimerIntid => core.config.vtimer_intid,
        CoreInfo::BootTicks => core.config.boot_ticks,
        CoreInfo::FirstGuestTicks => core.first_guest_ticks.load(Ordering::Relaxed),
    })
}

fn vm_create<P: Machine>(core: &Core<P>, flags: u64, vcpus: u64) -> Result<u64, Error> {
    let vcpus = usize::try_from(vcpus).map_err(|_| Error::Invalid)?;
    if flags & !VM_PROTECTED != 0 || vcpus == 0 || vcpus > MAX_VCPUS {
        return Err(Error::Invalid);
    }
    core.vms
        .create(flags & VM_PROTECTED != 0, vcpus, |VmId(id)| {
            // Slot numbers are far below 256, see `vm::SLOTS`.
            let vmid = u8::try_from(id).map_err(|_| Error::NoMemory)?;
            core.memory.new_vm_table(vmid, core.config.gicv)
        })
}

fn vm_set_boot<P: Machine>(core: &Core<P>, vm: u64, entry: Ipa, x0: u64) -> Result<(), Error> {
    let (slot, mut inner) = lock_vm(core, vm)?;
    if slot.life() != Life::Building {
        return Err(Error::BadState);
    }
    if !entry.is_aligned(4) || entry.0 >> VM_IPA_BITS != 0 {
        return Err(Error::Invalid);
    }
    inner.boot = Some(BootEntry { entry, context: x0 });
    Ok(())
}

fn vm_start<P: Machine>(core: &Core<P>, now: u64, handle: u64) -> Result<(), Error> {
    let (slot, inner) = lock_vm(core, handle)?;
    if slot.life() != Life::Building {
        return Err(Error::BadState);
    }
    let boot = inner.boot.ok_or(Error::BadState)?;
    let first = slot.vcpu(0, core.vcpus).ok_or(Error::BadState)?;
    // Virtual time of the VM starts at 0 now, the same on all its vCPUs.
    for index in 0..inner.max_vcpus {
        if let Some(vcpu) = slot.vcpu(index, core.vcpus) {
            vcpu.try_lock()?.world.cntvoff = now;
        }
    }
    if first.request_on(handle, boot).is_err() {
        return Err(Error::BadState);
    }
    slot.set_life(&inner, Life::Running);
    Ok(())
}

/// One of the two ways to give an open or a protected VM memory.
fn give<P: Machine>(
    core: &Core<P>,
    handle: u64,
    protected: bool,
    how: impl FnOnce(
        &crate::ownership::Ownership<'static, P>,
        VmId,
        &mut crate::stage2::Stage2,
    ) -> Result<u64, Error>,
) -> Result<u64, Error> {
    let (slot, mut guard) = lock_vm(core, handle)?;
    let inner = &mut *guard;
    if !matches!(slot.life(), Life::Building | Life::Running) {
        return Err(Error::BadState);
    }
    if inner.protected != protected {
        return Err(Error::Denied);
    }
    slot.change_table(inner);
    let stage2 = inner.stage2.as_mut().ok_or(Error::BadState)?;
    let done = how(&core.memory, slot.id(), stage2)?;
    inner.frames = inner.frames.saturating_add(done);
    Ok(done)
}

fn mem_unmap<P: Machine>(core: &Core<P>, handle: u64, ipa: Ipa, n: u64) -> Result<u64, Error> {
    let (slot, mut guard) = lock_vm(core, handle)?;
    let inner = &mut *guard;
    slot.change_table(inner);
    let stage2 = inner.stage2.as_mut().ok_or(Error::BadState)?;
    let done = core.memory.unmap_lent(stage2, slot.id(), ipa, n)?;
    inner.frames = inner.frames.saturating_sub(done);
    Ok(done)
}

fn mem_reclaim<P: Machine>(core: &Core<P>, handle: u64, pfn: Pfn, n: u64) -> Result<u64, Error> {
    let (slot, mut inner) = lock_vm(core, handle)?;
    // Only once no table and no TLB entry leads to the VM's frames any more.
    if slot.life() != Life::Dying || inner.stage2.is_some() {
        return Err(Error::BadState);
    }
    let done = core.memory.reclaim(slot.id(), pfn, n)?;
    inner.frames = inner.frames.saturating_sub(done);
    Ok(done)
}

fn vcpu_create<P: Machine>(core: &Core<P>, handle: u64, index: u64, pfn: Pfn) -> Result<(), Error> {
    let (vm, inner) = lock_vm(core, handle)?;
    if vm.life() != Life::Building {
        return Err(Error::BadState);
    }
    let index = usize::try_from(index).map_err(|_| Error::Invalid)?;
    if index >= inner.max_vcpus {
        return Err(Error::Invalid);
    }
    if vm.vcpu_slot(index).is_some() {
        return Err(Error::Exists);
    }
    let claimed = core
        .vcpus
        .iter()
        .enumerate()
        .find_map(|(number, slot)| Some((number, slot, slot.claim(handle)?)));
    let (number, slot, mut vcpu) = claimed.ok_or(Error::NoMemory)?;
    if let Err(error) = core.memory.take_run_page(vm.id(), pfn) {
        slot.release(vcpu);
        return Err(error);
    }
    vcpu.vm = handle;
    vcpu.index = index;
    vcpu.run_page = pfn;
    vcpu.world = WorldRegs {
        stage2: vm.stage2_regs(),
        hcr: traps::HCR_GUEST,
        cptr: traps::CPTR_FP_TRAP,
        cnthctl: traps::CNTHCTL_GUEST,
        cntvoff: 0,
        vmpidr: psci::mpidr_of(index),
    };
    vm.set_vcpu(&inner, index, Some(number));
    Ok(())
}

/// Frees what it can of a VM; answers the frames still to be reclaimed, 0 when the slot is free.
fn vm_destroy<P: Machine>(core: &Core<P>, handle: u64) -> Result<u64, Error> {
    let (vm, mut guard) = lock_vm(core, handle)?;
    let inner = &mut *guard;
    vm.set_life(inner, Life::Dying);
    for index in 0..inner.max_vcpus {
        let Some(slot) = vm.vcpu(index, core.vcpus) else {
            continue;
        };
        // Busy while it runs: the hostvisor makes it exit, and it never enters again.
        let vcpu = slot.try_lock()?;
        core.memory.release_run_page(vm.id(), vcpu.run_page)?;
        slot.release(vcpu);
        vm.set_vcpu(inner, index, None);
    }
    if let Some(stage2) = inner.stage2.as_mut() {
        core.memory.teardown(stage2, TEARDOWN_BUDGET)?;
        inner.stage2 = None;
    }
    if inner.frames == 0 {
        vm.release(inner);
    }
    Ok(inner.frames)
}

fn vcpu_put<P: Machine, C: Cpu>(
    core: &Core<P>,
    cpu: &mut C,
    state: &mut CpuState,
    handle: u64,
    index: u64,
) -> Result<(), Error> {
    let vm = core.vms.get(handle)?;
    let index = usize::try_from(index).map_err(|_| Error::NotFound)?;
    let slot = vm.vcpu(index, core.vcpus).ok_or(Error::NotFound)?;
    if slot.is_fp_home(handle, state.index) {
        flush_fp(core, cpu, state);
        return Ok(());
    }
    let vcpu = slot.try_lock()?;
    if vcpu.vm != handle {
        return Err(Error::NotFound);
    }
    if slot.fp_in_memory() {
        Ok(())
    } else {
        Err(Error::Elsewhere)
    }
}

/// Moves the FP/SIMD state in this CPU's registers, if any, to its owner's memory.
pub fn flush_fp<P: Machine, C: Cpu>(core: &Core<P>, cpu: &mut C, state: &mut CpuState) {
    if let Some(owner) = state.fp_owner.take() {
        cpu.set_cptr(traps::CPTR_FP_OPEN);
        fpu::save(cpu, state.index, owner, core.vcpus);
        cpu.set_cptr(traps::CPTR_FP_TRAP);
    }
}

fn vcpu_stat<P: Machine>(core: &Core<P>, handle: u64, index: u64, n: u64) -> Result<u64, Error> {
    let vm = core.vms.get(handle)?;
    let index = usize::try_from(index).map_err(|_| Error::NotFound)?;
    let slot = vm.vcpu(index, core.vcpus).ok_or(Error::NotFound)?;
    usize::try_from(n)
        .ok()
        .and_then(|n| slot.stat(n))
        .ok_or(Error::Invalid)
}
