//! What a guest asks by HVC: PSCI 1.1 (DEN0022) and SMCCC 1.1 (DEN0028), answered here.
//!
//! Only what changes scheduling goes on to the hostvisor, and then without the guest's registers.

use crate::vcpu::{BootEntry, Vcpu};
use crate::vcpu_slot::{Power, VcpuSlot};
use crate::vm::VmSlot;
use abi::{Ipa, MAX_VCPUS, psci};

/// What becomes of the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// x0 is the answer; the guest goes on.
    Answer(u64),
    /// x0 is SUCCESS; the guest waits for an interrupt (CPU_SUSPEND).
    Suspend,
    /// x0 is SUCCESS; the hostvisor schedules this vCPU.
    CpuOn(u64),
    /// This vCPU is off.
    CpuOff,
    /// The VM is off.
    SystemOff,
    /// The VM asks for a reset.
    SystemReset,
}

const fn code(code: i64) -> Outcome {
    Outcome::Answer(code.cast_unsigned())
}

/// So Aff0 alone tells vCPUs apart, by numbers that the target list of ICC_SGI1R_EL1 has bits for.
const _: () = assert!(MAX_VCPUS <= 16);

/// Index of the vCPU with this affinity: Aff0 (as the guest's VMPIDR_EL2 says).
fn index_of(mpidr: u64) -> Option<usize> {
    let index = usize::try_from(mpidr).ok()?;
    (index < MAX_VCPUS).then_some(index)
}

/// MPIDR_EL1 of vCPU `index`: the inverse of the affinity rule, with the RES1 bit.
#[must_use]
pub const fn mpidr_of(index: usize) -> u64 {
    1 << 31 | index as u64
}

/// Answers the call in `vcpu`'s registers. `slots` are the machine's vCPU slots, `vm` is its VM.
pub fn call(vcpu: &Vcpu, vm: &VmSlot, slots: &[VcpuSlot]) -> Outcome {
    // The function number is W0 (DEN0028 §2.5); 32-bit calls read 32-bit arguments.
    let x0 = vcpu.gp.read(0);
    let function = (x0 & 0xffff_ffff) as u32;
    let wide = function & (1 << 30) != 0;
    let arg = |n| {
        if wide {
            vcpu.gp.read(n)
        } else {
            vcpu.gp.read(n) & 0xffff_ffff
        }
    };
    match function {
        psci::VERSION => Outcome::Answer(psci::VERSION_1_1),
        psci::FEATURES => features(arg(1)),
        psci::MIGRATE_INFO_TYPE => Outcome::Answer(psci::MIGRATE_NOT_REQUIRED),
        psci::CPU_SUSPEND_32 | psci::CPU_SUSPEND_64 => Outcome::Suspend,
        psci::CPU_OFF => Outcome::CpuOff,
        psci::CPU_ON_32 | psci::CPU_ON_64 => {
            let (entry, context) = (Ipa(arg(2)), arg(3));
            cpu_on(vcpu.vm, arg(1), BootEntry { entry, context }, vm, slots)
        }
        psci::AFFINITY_INFO_32 | psci::AFFINITY_INFO_64 => {
            affinity_info(vcpu.vm, arg(1), arg(2), vm, slots)
        }
        psci::SYSTEM_OFF => Outcome::SystemOff,
        psci::SYSTEM_RESET => Outcome::SystemReset,
        psci::SMCCC_VERSION => Outcome::Answer(psci::SMCCC_VERSION_1_1),
        psci::SMCCC_ARCH_FEATURES => match arg(1) as u32 {
            psci::SMCCC_VERSION | psci::SMCCC_ARCH_FEATURES => code(psci::SUCCESS),
            _ => code(psci::NOT_SUPPORTED),
        },
        _ => code(psci::NOT_SUPPORTED),
    }
}

fn features(function: u64) -> Outcome {
    match u32::try_from(function & 0xffff_ffff).unwrap_or(0) {
        psci::VERSION
        | psci::FEATURES
        | psci::MIGRATE_INFO_TYPE
        | psci::CPU_SUSPEND_32
        | psci::CPU_SUSPEND_64
        | psci::CPU_OFF
        | psci::CPU_ON_32
        | psci::CPU_ON_64
        | psci::AFFINITY_INFO_32
        | psci::AFFINITY_INFO_64
        | psci::SYSTEM_OFF
        | psci::SYSTEM_RESET
        | psci::SMCCC_VERSION => code(psci::SUCCESS),
        _ => code(psci::NOT_SUPPORTED),
    }
}

fn cpu_on(handle: u64, mpidr: u64, boot: BootEntry, vm: &VmSlot, slots: &[VcpuSlot]) -> Outcome {
    let Some((index, slot)) = index_of(mpidr).and_then(|i| Some((i, vm.vcpu(i, slots)?))) else {
        return code(psci::INVALID_PARAMETERS);
    };
    if !boot.entry.is_aligned(4) {
        return code(psci::INVALID_ADDRESS);
    }
    match slot.request_on(handle, boot) {
        Ok(()) => Outcome::CpuOn(index as u64),
        Err(Some(Power::On)) => code(psci::ALREADY_ON),
        Err(Some(_)) => code(psci::ON_PENDING),
        Err(None) => code(psci::INVALID_PARAMETERS),
    }
}

fn affinity_info(handle: u64, mpidr: u64, level: u64, vm: &VmSlot, slots: &[VcpuSlot]) -> Outcome {
    // Affinity levels above 0 need not be supported from PSCI 1.0 on (DEN0022 §5.7.1).
    let power = index_of(mpidr)
        .filter(|_| level == 0)
        .and_then(|i| vm.vcpu(i, slots)?.power(handle));
    code(match power {
        Some(Power::On) => psci::AFFINITY_ON,
        Some(Power::Off) => psci::AFFINITY_OFF,
        Some(Power::OnPending) => psci::AFFINITY_ON_PENDING,
        None => psci::INVALID_PARAMETERS,
    })
}

#[cfg(test)]
mod tests {
    use super::{index_of, mpidr_of};
    use abi::MAX_VCPUS;

    #[test]
    fn affinities_name_each_vcpu_once() {
        for i in 0..MAX_VCPUS {
            assert_eq!(mpidr_of(i), 1 << 31 | i as u64);
            assert_eq!(index_of(i as u64), Some(i));
        }
        for wild in [16, 0x100, 0xff, 1 << 16, 1 << 32, u64::MAX, 1 << 31] {
            assert_eq!(index_of(wild), None);
        }
    }
}
