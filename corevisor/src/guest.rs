//! Traps of a running guest: answered here, or turned into an exit to the hostvisor.

use crate::core::{Core, CpuState, Machine};
use crate::fpu::{self, Owner};
use crate::pkvm;
use crate::psci::{self, Outcome};
use crate::run::Exit;
use crate::sysreg::{self, Action};
use crate::vcpu::{Pending, Vcpu};
use crate::vcpu_slot::VcpuSlot;
use crate::vm::VmSlot;
use abi::Ipa;
use abi::hypercall::VcpuStat;
use abi::psci::NOT_SUPPORTED;
use abi::run::ExitReason;
use arch::context::GpRegs;
use arch::esr::{self, DataAbort, Exception, Fault, SysRegAccess};
use arch::hal::{Cpu, TrapKind};
use arch::pstate;

/// Offset within a page.
const PAGE_OFFSET: u64 = abi::PAGE_SIZE - 1;

/// Steps over a trapped instruction of `length` bytes.
pub fn step(gp: &mut GpRegs, length: u64) {
    gp.pc = gp.pc.wrapping_add(length);
    gp.pstate = pstate::stepped(gp.pstate);
}

/// Runs the loaded guest and answers its traps until one needs the hostvisor.
pub fn run_until_exit<P: Machine, C: Cpu>(
    core: &Core<P>,
    cpu: &mut C,
    state: &mut CpuState,
    own: Owner,
    slot: &VcpuSlot,
    vcpu: &mut Vcpu,
    vm: &VmSlot,
) -> Exit {
    loop {
        match cpu.enter(&mut vcpu.gp) {
            TrapKind::Sync => {}
            TrapKind::Interrupt => return Exit::plain(ExitReason::Irq),
            TrapKind::SError => return Exit::plain(ExitReason::SError),
        }
        let esr = cpu.esr();
        let length = esr::instruction_length(esr);
        let exit = match esr::decode(esr) {
            Exception::Hvc => hypercall(core, slot, vcpu, vm),
            Exception::SysReg(access) => system_register(core, cpu, slot, vcpu, access),
            Exception::DataAbort(abort) => data_abort(core, cpu, slot, vcpu, vm, abort),
            Exception::InstructionAbort(fault) => {
                instruction_abort(core, cpu, slot, vcpu, vm, fault)
            }
            Exception::Fp => {
                slot.count(VcpuStat::CoreFp);
                fpu::switch(cpu, state.index, &mut state.fp_owner, own, vcpu, core.vcpus);
                None
            }
            Exception::Wfi => {
                step(&mut vcpu.gp, length);
                Some(Exit::plain(ExitReason::Wfi))
            }
            Exception::Wfe => {
                step(&mut vcpu.gp, length);
                Some(Exit::plain(ExitReason::Wfe))
            }
            Exception::Smc => {
                // There is no firmware for a guest; the conduit is HVC.
                step(&mut vcpu.gp, length);
                vcpu.gp.write(0, NOT_SUPPORTED.cast_unsigned());
                slot.count(VcpuStat::CoreHypercall);
                None
            }
            Exception::Other => undefined(cpu, slot, vcpu, length),
        };
        if let Some(exit) = exit {
            return exit;
        }
    }
}

fn undefined<C: Cpu>(cpu: &mut C, slot: &VcpuSlot, vcpu: &mut Vcpu, length: u64) -> Option<Exit> {
    slot.count(VcpuStat::CoreInject);
    cpu.inject(&mut vcpu.gp, pstate::esr_undefined(length), None);
    None
}

fn hypercall<P: Machine>(
    core: &Core<P>,
    slot: &VcpuSlot,
    vcpu: &mut Vcpu,
    vm: &VmSlot,
) -> Option<Exit> {
    slot.count(VcpuStat::CoreHypercall);
    if let Some(answer) = pkvm::call(core, vcpu, vm) {
        for (n, value) in (0..).zip(answer) {
            vcpu.gp.write(n, value);
        }
        return None;
    }
    let mut exit = None;
    let x0 = match psci::call(vcpu, vm, core.vcpus) {
        Outcome::Answer(value) => value,
        Outcome::Suspend => {
            exit = Some(Exit::plain(ExitReason::Wfi));
            0
        }
        Outcome::CpuOn(index) => {
            exit = Some(Exit {
                reason: ExitReason::CpuOn,
                args: [index, 0, 0],
            });
            0
        }
        Outcome::CpuOff => {
            vcpu.on = false;
            slot.power_off(vcpu);
            return Some(Exit::plain(ExitReason::CpuOff));
        }
        Outcome::SystemOff => {
            vm.stop();
            return Some(Exit::plain(ExitReason::SystemOff));
        }
        Outcome::SystemReset => {
            vm.stop();
            return Some(Exit::plain(ExitReason::SystemReset));
        }
    };
    // SMCCC 1.1: x4–x17 keep their values; x1–x3 may, and do.
    vcpu.gp.write(0, x0);
    exit
}

fn system_register<P: Machine, C: Cpu>(
    core: &Core<P>,
    cpu: &mut C,
    slot: &VcpuSlot,
    vcpu: &mut Vcpu,
    access: SysRegAccess,
) -> Option<Exit> {
    let action = sysreg::decide(access, &core.config.id_registers);
    let written = vcpu.gp.read(access.rt);
    let mut exit = None;
    match action {
        Action::Undefined => return undefined(cpu, slot, vcpu, 4),
        Action::Value(value) if !access.write => vcpu.gp.write(access.rt, value),
        Action::Value(_) => {}
        Action::Mdscr if access.write => cpu.write_mdscr(written & sysreg::MDSCR_GUEST),
        Action::Mdscr => {
            let value = cpu.read_mdscr();
            vcpu.gp.write(access.rt, value);
        }
        Action::Sgi(groups) => {
            exit = Some(Exit {
                reason: ExitReason::Sgi,
                args: [written, groups, 0],
            })
        }
        Action::PhysicalTimer(reg) if access.write => {
            vcpu.ptimer = sysreg::write_timer(vcpu.ptimer, reg, written, cpu.now());
            exit = Some(Exit::plain(ExitReason::Timer));
        }
        Action::PhysicalTimer(reg) => {
            let value = sysreg::read_timer(vcpu.ptimer, reg, cpu.now());
            vcpu.gp.write(access.rt, value);
        }
    }
    // MSR and MRS are 32 bits long.
    step(&mut vcpu.gp, 4);
    slot.count(VcpuStat::CoreSysreg);
    exit
}

fn data_abort<P: Machine, C: Cpu>(
    core: &Core<P>,
    cpu: &mut C,
    slot: &VcpuSlot,
    vcpu: &mut Vcpu,
    vm: &VmSlot,
    abort: DataAbort,
) -> Option<Exit> {
    vcpu.pending_far = cpu.far();
    vcpu.pending_length = esr::instruction_length(cpu.esr());
    if abort.fault != Fault::Translation {
        return external_abort(cpu, slot, vcpu, abort.write);
    }
    let page = cpu.fault_page();
    if is_mapped(core, vm, vcpu, page) {
        return None;
    }
    if !pkvm::may_exit(core, vcpu, vm, page) {
        return external_abort(cpu, slot, vcpu, abort.write);
    }
    let Some(access) = abort.access.filter(|_| !abort.on_walk) else {
        vcpu.pending = Pending::DataFault(abort.write);
        return Some(Exit {
            reason: ExitReason::MemFault,
            args: [page.0, u64::from(abort.write), 0],
        });
    };
    let ipa = page.0 | (vcpu.pending_far & PAGE_OFFSET);
    if (vcpu.pending_far & PAGE_OFFSET).saturating_add(access.size) > abi::PAGE_SIZE {
        return external_abort(cpu, slot, vcpu, abort.write);
    }
    if abort.write {
        let value = access.truncate(vcpu.gp.read(access.rt));
        vcpu.pending = Pending::MmioWrite;
        Some(Exit {
            reason: ExitReason::MmioWrite,
            args: [ipa, access.size, value],
        })
    } else {
        vcpu.pending = Pending::MmioRead(access);
        Some(Exit {
            reason: ExitReason::MmioRead,
            args: [ipa, access.size, 0],
        })
    }
}

fn instruction_abort<P: Machine, C: Cpu>(
    core: &Core<P>,
    cpu: &mut C,
    slot: &VcpuSlot,
    vcpu: &mut Vcpu,
    vm: &VmSlot,
    fault: Fault,
) -> Option<Exit> {
    let far = cpu.far();
    if fault == Fault::Translation {
        let page = cpu.fault_page();
        if is_mapped(core, vm, vcpu, page) {
            return None;
        }
        if pkvm::may_exit(core, vcpu, vm, page) {
            vcpu.pending_far = far;
            vcpu.pending = Pending::InstructionFault;
            return Some(Exit {
                reason: ExitReason::MemFault,
                args: [page.0, 2, 0],
            });
        }
    }
    slot.count(VcpuStat::CoreInject);
    let esr = pstate::esr_instruction_abort(vcpu.gp.pstate);
    cpu.inject(&mut vcpu.gp, esr, Some(far));
    None
}

/// True if the VM's table maps `page` after all: changing a live table breaks entries before it makes
/// them, and the vCPU ran into the gap. Asked only where the table has changed since the last time.
fn is_mapped<P: Machine>(core: &Core<P>, vm: &VmSlot, vcpu: &mut Vcpu, page: Ipa) -> bool {
    if vm.epoch() == vcpu.epoch {
        return false;
    }
    let Ok(inner) = vm.lock(vcpu.vm) else {
        return false;
    };
    let mapped = inner
        .stage2
        .as_ref()
        .and_then(|table| table.walk(core.memory.pool(), page));
    // No change begins while the lock is held.
    vcpu.epoch = if mapped.is_some() {
        vcpu.epoch
    } else {
        vm.epoch()
    };
    mapped.is_some()
}

/// The access ends in a synchronous external abort, at the address in `pending_far`.
fn external_abort<C: Cpu>(
    cpu: &mut C,
    slot: &VcpuSlot,
    vcpu: &mut Vcpu,
    write: bool,
) -> Option<Exit> {
    slot.count(VcpuStat::CoreInject);
    let esr = pstate::esr_data_abort(vcpu.gp.pstate, write);
    cpu.inject(&mut vcpu.gp, esr, Some(vcpu.pending_far));
    None
}
