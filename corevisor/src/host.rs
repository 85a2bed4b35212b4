//! The hostvisor's world: entering it on a CPU, and its traps.
//!
//! The hostvisor takes its own interrupts and runs at EL1 under an identity stage 2. It comes here by
//! HVC (hypercalls), SMC (PSCI, filtered), and where it reaches for what it may not have.

use crate::core::{Core, CpuState, HostEntry, Machine};
use crate::hypercall;
use crate::invariant;
use crate::vcpu::SCTLR_EL1_RESET;
use crate::vm;
use abi::run::MAX_LIST_REGISTERS;
use abi::{Error, HostCall, psci};
use arch::context::{El1Regs, GpRegs};
use arch::esr::{self, Exception, Fault};
use arch::hal::{Cpu, TrapKind, WorldRegs};
use arch::{pstate, traps};

/// Runs the hostvisor on CPU `index` from `entry`, for ever.
pub fn run<P: Machine, C: Cpu>(core: &Core<P>, cpu: &mut C, index: usize, entry: HostEntry) -> ! {
    let mut state = start(core, cpu, index, entry);
    loop {
        match cpu.enter(&mut state.host) {
            TrapKind::Sync => trap(core, cpu, &mut state),
            TrapKind::Interrupt | TrapKind::SError => {
                invariant::broken("interrupt routed to EL2 while the hostvisor runs")
            }
        }
    }
}

/// CPU `index` with the hostvisor's world loaded, about to enter it at `entry`.
pub fn start<P: Machine, C: Cpu>(
    core: &Core<P>,
    cpu: &mut C,
    index: usize,
    entry: HostEntry,
) -> CpuState {
    let Some(&mpidr) = core.config.mpidr.get(index) else {
        invariant::broken("CPU number out of range")
    };
    let mut state = CpuState {
        index,
        host: GpRegs::new(),
        host_el1: El1Regs {
            sctlr: SCTLR_EL1_RESET,
            ..El1Regs::new()
        },
        host_world: WorldRegs {
            stage2: core.memory.host_regs(),
            hcr: traps::HCR_HOST,
            cptr: traps::CPTR_FP_TRAP,
            cnthctl: traps::CNTHCTL_HOST,
            cntvoff: 0,
            vmpidr: 1 << 31 | mpidr,
        },
        last_vcpu: [0; vm::SLOTS],
        fp_owner: None,
        // Nobody knows what the list registers held before.
        lrs_loaded: core.config.list_registers,
        lrs: [0; MAX_LIST_REGISTERS],
    };
    state.host.pc = entry.pc;
    state.host.pstate = pstate::RESET;
    for (n, &value) in (0..).zip(entry.x.iter()) {
        state.host.write(n, value);
    }
    cpu.load_world(&state.host_world, &state.host_el1);
    state
}

/// Answers the trap that ended the hostvisor's run on this CPU.
pub fn trap<P: Machine, C: Cpu>(core: &Core<P>, cpu: &mut C, state: &mut CpuState) {
    let esr = cpu.esr();
    match esr::decode(esr) {
        Exception::Hvc => hypercall(core, cpu, state),
        Exception::Smc => {
            state.host.pc = state.host.pc.wrapping_add(4);
            let answer = smc(core, cpu, state);
            state.host.write(0, answer.cast_unsigned());
        }
        Exception::DataAbort(abort) => {
            if !mended(core, cpu, abort.fault, abort.write) {
                let esr = pstate::esr_data_abort(state.host.pstate, abort.write);
                let far = cpu.far();
                cpu.inject(&mut state.host, esr, Some(far));
            }
        }
        Exception::InstructionAbort(fault) => {
            if !mended(core, cpu, fault, false) {
                let esr = pstate::esr_instruction_abort(state.host.pstate);
                let far = cpu.far();
                cpu.inject(&mut state.host, esr, Some(far));
            }
        }
        // ICC_SRE_EL1 and ACTLR_EL1 are the only registers of the hostvisor's that trap and exist.
        Exception::SysReg(access) if is_constant(access.reg) => {
            let value = if access.reg.crn == 12 {
                traps::ICC_SRE_EL1
            } else {
                0
            };
            if !access.write {
                state.host.write(access.rt, value);
            }
            state.host.pc = state.host.pc.wrapping_add(4);
        }
        _ => cpu.inject(
            &mut state.host,
            pstate::esr_undefined(esr::instruction_length(esr)),
            None,
        ),
    }
}

const fn is_constant(reg: esr::SysReg) -> bool {
    matches!(
        (reg.op0, reg.op1, reg.crn, reg.crm, reg.op2),
        (3, 0, 12, 12, 5) | (3, 0, 1, 0, 1)
    )
}

/// True if the hostvisor may repeat the access: its table now maps the page, or another CPU is at work
/// on it at this moment. HPFAR_EL2 tells the address of translation faults alone; nothing else can be
/// mended. Stage 2 of the hostvisor is the identity.
fn mended<P: Machine, C: Cpu>(core: &Core<P>, cpu: &C, fault: Fault, write: bool) -> bool {
    fault == Fault::Translation
        && matches!(
            core.memory.host_fault(cpu.fault_page(), u64::from(write)),
            Ok(()) | Err(Error::Busy)
        )
}

fn hypercall<P: Machine, C: Cpu>(core: &Core<P>, cpu: &mut C, state: &mut CpuState) {
    let answer = HostCall::decode(state.host.read(0))
        .ok_or(Error::NotSupported)
        .and_then(|call| hypercall::dispatch(core, cpu, state, call));
    match answer {
        Ok(values) => {
            state.host.write(0, 0);
            for (n, &value) in (1..).zip(values.iter()) {
                state.host.write(n, value);
            }
        }
        Err(error) => state.host.write(0, error.code().cast_unsigned()),
    }
}

/// The hostvisor's SMC: PSCI, of which what concerns the whole machine goes on to the firmware. A CPU
/// it starts comes up in the boot code, never in the hostvisor's at EL2.
fn smc<P: Machine, C: Cpu>(core: &Core<P>, cpu: &mut C, state: &mut CpuState) -> i64 {
    let arg = |n| state.host.read(n);
    let firmware = core.memory.pool().platform();
    match (arg(0) & 0xffff_ffff) as u32 {
        psci::VERSION => psci::VERSION_1_1.cast_signed(),
        psci::SMCCC_VERSION => psci::SMCCC_VERSION_1_1.cast_signed(),
        psci::MIGRATE_INFO_TYPE => psci::MIGRATE_NOT_REQUIRED.cast_signed(),
        psci::FEATURES => match arg(1) as u32 {
            psci::VERSION
            | psci::FEATURES
            | psci::MIGRATE_INFO_TYPE
            | psci::SMCCC_VERSION
            | psci::CPU_ON_64
            | psci::CPU_OFF
            | psci::AFFINITY_INFO_64
            | psci::SYSTEM_OFF
            | psci::SYSTEM_RESET => psci::SUCCESS,
            _ => psci::NOT_SUPPORTED,
        },
        psci::CPU_ON_64 => {
            let entry = HostEntry {
                pc: arg(2),
                x: [arg(3), 0, 0, 0, 0],
            };
            cpu_on(core, arg(1), entry)
        }
        psci::AFFINITY_INFO_64 => match host_cpu(core, arg(1)) {
            Some((_, target)) if arg(2) == 0 => target.affinity_info(),
            _ => psci::INVALID_PARAMETERS,
        },
        psci::CPU_OFF => {
            hypercall::flush_fp(core, cpu, state);
            let own = core.cpus.get(state.index);
            own.inspect(|cpu| cpu.off());
            // Comes back only where the firmware refuses.
            let code = firmware.psci(psci::CPU_OFF);
            own.inspect(|cpu| cpu.stay_on());
            code
        }
        function @ (psci::SYSTEM_OFF | psci::SYSTEM_RESET) => firmware.psci(function),
        _ => psci::NOT_SUPPORTED,
    }
}

fn host_cpu<P: Machine>(core: &Core<P>, mpidr: u64) -> Option<(usize, &crate::core::HostCpu)> {
    let index = core.config.cpu_by_mpidr(mpidr)?;
    Some((index, core.cpus.get(index)?))
}

fn cpu_on<P: Machine>(core: &Core<P>, mpidr: u64, entry: HostEntry) -> i64 {
    let Some((index, target)) = host_cpu(core, mpidr) else {
        return psci::INVALID_PARAMETERS;
    };
    if entry.pc & 3 != 0 {
        return psci::INVALID_ADDRESS;
    }
    if let Err(code) = target.claim(entry) {
        return code;
    }
    let code = core.memory.pool().platform().start_cpu(index);
    if code != psci::SUCCESS {
        target.off();
    }
    code
}
