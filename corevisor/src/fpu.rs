//! Lazy FP/SIMD switching.
//!
//! A guest's FP/SIMD registers stay in the processor across exits, trapped away from the hostvisor
//! (which is built soft-float), until another vCPU uses the unit on that CPU or the hostvisor asks by
//! VCPU_PUT because the vCPU shall run elsewhere.
//!
//! Invariant: `fp_home == Some(c)` exactly if CPU `c`'s owner is this vCPU; then its registers are in
//! CPU `c`, and VCPU_RUN refuses it on any other.

use crate::vcpu::{Vcpu, VcpuSlot};
use arch::hal::Cpu;
use arch::traps::CPTR_FP_OPEN;

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
    vcpu: &mut Vcpu,
    slots: &[VcpuSlot],
) {
    cpu.set_cptr(CPTR_FP_OPEN);
    if let Some(previous) = owner.replace(own)
        && previous.slot != own.slot
        && let Some(slot) = slots.get(previous.slot)
    {
        // (The owner may be an earlier tenant of this very slot: nothing of it is left to save.)
        // A short wait at most: a vCPU whose registers are here cannot be running elsewhere, and
        // whoever else looks at it holds no other vCPU meanwhile.
        let mut state = slot.lock();
        save_if_owner(cpu, cpu_index, previous, &mut state);
    }
    cpu.load_fp(&vcpu.fp);
    vcpu.fp_home = Some(cpu_index);
}

/// Moves the state of `owner` from this CPU's registers to memory, if `state` is still its vCPU.
/// CPTR_EL2 must not trap.
pub fn save_if_owner<C: Cpu>(cpu: &mut C, cpu_index: usize, owner: Owner, state: &mut Vcpu) {
    if state.vm == owner.vm && state.fp_home == Some(cpu_index) {
        cpu.save_fp(&mut state.fp);
        state.fp_home = None;
    }
}
