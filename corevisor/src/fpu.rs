//! Lazy FP/SIMD switching.
//!
//! A guest's FP/SIMD registers stay in the processor across exits, trapped away from the hostvisor
//! (which is built soft-float), until another vCPU uses the unit on that CPU or the hostvisor asks by
//! VCPU_PUT because the vCPU shall run elsewhere.
//!
//! Invariant: a slot's FP home names CPU `c` exactly if the owner recorded by CPU `c` is that vCPU; then
//! its registers are in CPU `c`, and VCPU_RUN refuses it on any other.

use crate::lock::{self, Relax};
use crate::vcpu::Vcpu;
use crate::vcpu_slot::VcpuSlot;
use arch::hal::Cpu;
use arch::traps::CPTR_FP_OPEN;
use spin::relax::RelaxStrategy;

/// Whose state a CPU's FP/SIMD registers hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// vCPU slot.
    pub slot: usize,
    /// Handle of its VM, so that the slot's next tenant is not mistaken for it.
    pub vm: u64,
}

/// Gives the unit to `vcpu` (in slot `own`), which trapped on its first use: saves the owner's
/// registers and loads its own.
pub fn switch<C: Cpu>(
    cpu: &mut C,
    cpu_index: usize,
    owner: &mut Option<Owner>,
    own: Owner,
    vcpu: &Vcpu,
    slots: &[VcpuSlot],
) {
    cpu.set_cptr(CPTR_FP_OPEN);
    // The owner may be this very vCPU, or an earlier tenant of its slot: nothing is left to save then.
    if let Some(previous) = owner.replace(own)
        && previous.slot != own.slot
    {
        save(cpu, cpu_index, previous, slots);
    }
    cpu.load_fp(&vcpu.fp);
    if let Some(slot) = slots.get(own.slot) {
        slot.set_fp_home(vcpu, Some(cpu_index));
    }
}

/// Moves the state of `owner` from this CPU's registers to memory, if it is still there. CPTR_EL2 must
/// not trap.
///
/// Waits for a short time at most: while the slot says that the state is here, VCPU_RUN elsewhere and
/// VM_DESTROY hold its lock for a look or to free it, after which it no longer says so.
pub fn save<C: Cpu>(cpu: &mut C, cpu_index: usize, owner: Owner, slots: &[VcpuSlot]) {
    let Some(slot) = slots.get(owner.slot) else {
        return;
    };
    while slot.is_fp_home(owner.vm, cpu_index) {
        let Ok(mut state) = slot.try_lock() else {
            lock::before_waiting();
            Relax::relax();
            continue;
        };
        // The lock makes the answer final.
        if slot.is_fp_home(owner.vm, cpu_index) {
            cpu.save_fp(&mut state.fp);
            slot.set_fp_home(&state, None);
        }
    }
}
