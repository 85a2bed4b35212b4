//! VCPU_RUN: from the hostvisor into a guest and back.
//!
//! Entry: answer of the last exit, list registers, world. Then the guest runs, and what can be
//! answered at EL2 is, without leaving the guest's world. Exit: the run page gets what the hostvisor
//! needs for scheduling and interrupts, the answer's registers the reason; nothing else of the guest
//! leaves.

use crate::config::Config;
use crate::core::{Core, CpuState, Machine};
use crate::fpu::Owner;
use crate::guest;
use crate::listreg;
use crate::vcpu::{Pending, Vcpu};
use crate::vcpu_slot::VcpuSlot;
use crate::vm::{self, Life};
use abi::Error;
use abi::run::{self, ExitReason, MAX_LIST_REGISTERS};
use arch::hal::{Cpu, FrameWords};
use arch::pstate;
use arch::traps::{CPTR_FP_OPEN, CPTR_FP_TRAP, HCR_GUEST, hcr};
use core::sync::atomic::Ordering;

/// Why the guest stopped running: reason and arguments as they travel to the hostvisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// Reason.
    pub reason: ExitReason,
    /// Its arguments, see [`ExitReason`].
    pub args: [u64; 3],
}

impl Exit {
    /// A reason without arguments.
    #[must_use]
    pub const fn plain(reason: ExitReason) -> Self {
        Self {
            reason,
            args: [0; 3],
        }
    }
}

/// What the hostvisor put into the run page, read once and checked; list registers apart.
struct Entry {
    flags: u64,
    mmio_value: u64,
    hcr: u64,
    lr_count: usize,
}

fn word(page: &FrameWords, index: usize) -> u64 {
    page.get(index).map_or(0, |w| w.load(Ordering::Relaxed))
}

fn set_word(page: &FrameWords, index: usize, value: u64) {
    if let Some(w) = page.get(index) {
        w.store(value, Ordering::Relaxed);
    }
}

/// `lrs` gets the list registers; those beyond the count keep what they held.
fn read_entry(
    page: &FrameWords,
    lrs: &mut [u64; MAX_LIST_REGISTERS],
    config: &Config,
) -> Result<Entry, Error> {
    let flags = word(page, run::ENTRY_FLAGS);
    if flags & !(run::ENTRY_REPLY | run::ENTRY_ABORT | run::ENTRY_TRAP_WFE) != 0 {
        return Err(Error::Invalid);
    }
    let lr_count = usize::try_from(word(page, run::LR_COUNT)).map_err(|_| Error::Invalid)?;
    let lrs = lrs
        .get_mut(..lr_count)
        .filter(|_| lr_count <= config.list_registers);
    let lrs = lrs.ok_or(Error::Invalid)?;
    let (vtimer, sgi_source) = (config.vtimer_intid, config.sgi_source());
    for (lr, word) in lrs.iter_mut().zip(page.iter().skip(run::LIST_REGISTERS)) {
        *lr = listreg::check(word.load(Ordering::Relaxed), vtimer, sgi_source)?;
    }
    if listreg::has_duplicates(lrs) {
        return Err(Error::Invalid);
    }
    Ok(Entry {
        flags,
        mmio_value: word(page, run::MMIO_VALUE),
        hcr: word(page, run::ICH_HCR) & run::ICH_HCR_ALLOWED,
        lr_count,
    })
}

/// Runs vCPU `index` of VM `handle` on this CPU until the hostvisor is needed.
///
/// # Errors
///
/// `NotFound`: no such VM or vCPU. `Busy`: it runs on another CPU. `BadState`: the VM does not run, or
/// the vCPU is off. `Elsewhere`: its FP/SIMD state is in another CPU. `Invalid`, `Denied`: the run page
/// asks for what [`listreg::check`] refuses.
pub fn run<P: Machine, C: Cpu>(
    core: &Core<P>,
    cpu: &mut C,
    state: &mut CpuState,
    handle: u64,
    index: u64,
) -> Result<Exit, Error> {
    let vm = core.vms.get(handle)?;
    let index = usize::try_from(index).map_err(|_| Error::NotFound)?;
    let slot_number = vm.vcpu_slot(index).ok_or(Error::NotFound)?;
    let slot = core.vcpus.get(slot_number).ok_or(Error::NotFound)?;
    let mut guard = slot.try_lock()?;
    let vcpu = &mut *guard;
    if vcpu.vm != handle {
        return Err(Error::NotFound);
    }
    // Read under the vCPU's lock: VM_DESTROY marks the VM dead before it takes that lock.
    if vm.life() != Life::Running {
        return Err(Error::BadState);
    }
    let fp_here = slot.is_fp_home(handle, state.index);
    if !fp_here && !slot.fp_in_memory() {
        return Err(Error::Elsewhere);
    }
    let page = core.memory.pool().platform().words(vcpu.run_page);
    let entry = read_entry(page, &mut state.lrs, &core.config)?;
    if !vcpu.on {
        let boot = slot.take_boot(vcpu).ok_or(Error::BadState)?;
        vcpu.power_on(boot);
    }
    if vcpu.pending != Pending::None {
        set_word(page, run::ENTRY_FLAGS, 0);
    }

    let own = Owner {
        slot: slot_number,
        vm: handle,
    };
    vcpu.world.cptr = if fp_here { CPTR_FP_OPEN } else { CPTR_FP_TRAP };
    vcpu.world.hcr = if entry.flags & run::ENTRY_TRAP_WFE != 0 {
        HCR_GUEST | hcr::TWE
    } else {
        HCR_GUEST
    };
    cpu.save_el1(&mut state.host_el1);
    cpu.load_world(&vcpu.world, &vcpu.el1);
    // vCPUs of a VM share its VMID, but not what a CPU keeps under it: translations of tables that are one
    // vCPU's own, and instructions fetched with the MMU off, are no other's.
    let id = vm::vcpu_id(handle, index);
    if let Some(last) = state.last_vcpu.get_mut(vm::slot_number(handle))
        && *last != id
    {
        *last = id;
        cpu.forget_vcpu();
    }
    for (n, &lr) in state.lrs.iter().enumerate().take(entry.lr_count) {
        cpu.write_lr(n, lr);
    }
    for n in entry.lr_count..state.lrs_loaded {
        cpu.write_lr(n, 0);
    }
    state.lrs_loaded = entry.lr_count;
    cpu.load_vgic(&vcpu.vgic, entry.hcr);
    cpu.load_vtimer(vcpu.vtimer);
    finish_access(cpu, slot, vcpu, &entry);
    core.first_guest(cpu);

    let exit = guest::run_until_exit(core, cpu, state, own, slot, vcpu, vm);

    vcpu.vtimer = cpu.save_vtimer();
    cpu.save_vgic(&mut vcpu.vgic);
    for n in 0..entry.lr_count {
        set_word(page, run::LIST_REGISTERS.saturating_add(n), cpu.read_lr(n));
    }
    cpu.save_el1(&mut vcpu.el1);
    cpu.load_world(&state.host_world, &state.host_el1);
    report_timers(cpu.now(), vcpu, page);
    set_word(
        page,
        run::STATE_FLAGS,
        if slot.is_fp_home(handle, state.index) {
            run::STATE_FP_LIVE
        } else {
            0
        },
    );
    Ok(exit)
}

/// Completes, repeats or aborts the access that ended the last run.
fn finish_access<C: Cpu>(cpu: &mut C, slot: &VcpuSlot, vcpu: &mut Vcpu, entry: &Entry) {
    let pending = core::mem::replace(&mut vcpu.pending, Pending::None);
    if pending == Pending::None {
        return;
    }
    if entry.flags & run::ENTRY_ABORT != 0 {
        let pstate = vcpu.gp.pstate;
        let esr = match pending {
            Pending::InstructionFault => pstate::esr_instruction_abort(pstate),
            Pending::MmioWrite | Pending::DataFault(true) => pstate::esr_data_abort(pstate, true),
            _ => pstate::esr_data_abort(pstate, false),
        };
        slot.count(abi::hypercall::VcpuStat::CoreInject);
        return cpu.inject(&mut vcpu.gp, esr, Some(vcpu.pending_far));
    }
    if entry.flags & run::ENTRY_REPLY == 0 {
        return;
    }
    match pending {
        Pending::MmioRead(access) => {
            vcpu.gp.write(access.rt, access.extend(entry.mmio_value));
            guest::step(&mut vcpu.gp, vcpu.pending_length);
        }
        Pending::MmioWrite => guest::step(&mut vcpu.gp, vcpu.pending_length),
        _ => {}
    }
}

/// Tells the hostvisor the timers' lines and deadlines, in its own time (CNTPCT).
fn report_timers(now: u64, vcpu: &Vcpu, page: &FrameWords) {
    let (v, p) = (vcpu.vtimer, vcpu.ptimer);
    let offset = vcpu.world.cntvoff;
    let mut lines = 0;
    if v.line(now.wrapping_sub(offset)) {
        lines |= run::TIMER_VIRTUAL;
    }
    if p.line(now) {
        lines |= run::TIMER_PHYSICAL;
    }
    let virtual_deadline = match v.deadline() {
        u64::MAX => u64::MAX,
        count => count.saturating_add(offset),
    };
    set_word(page, run::TIMER_LINES, lines);
    set_word(page, run::VTIMER_DEADLINE, virtual_deadline);
    set_word(page, run::PTIMER_DEADLINE, p.deadline());
}
