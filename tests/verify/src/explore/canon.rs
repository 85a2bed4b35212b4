//! Canonical names: states that differ only in generation and epoch numbers are one state.

use crate::world::{CPU_WORDS, CPUS, Size, VCPU_WORDS, VM_WORDS};

/// Forgets which vCPUs have looked at their VM's table since it last changed: a refused call may make
/// them look again.
pub(super) fn forget_epochs(words: &mut [u64], size: Size) {
    let first = size.frames + 3 + size.vms * VM_WORDS;
    let vcpus = words[first..].chunks_exact_mut(VCPU_WORDS);
    vcpus.take(size.vcpus).for_each(|vcpu| vcpu[10] = 0);
}

/// Renames in the words of `Static::save` followed by those of the CPUs.
pub(super) fn rename(words: &mut [u64], size: Size) {
    let (_, rest) = words.split_at_mut(size.frames + 3);
    let (vms, rest) = rest.split_at_mut(size.vms * VM_WORDS);
    let (vcpus, rest) = rest.split_at_mut(size.vcpus * VCPU_WORDS);
    let (generation, cpus) = rest.split_at_mut(1);
    generation[0] = 16;
    let mut names = Vec::new();
    for (vm, slot) in vms.chunks_exact_mut(VM_WORDS).zip(0_u64..) {
        let epoch = vm[4];
        vm[4] = 1;
        if vm[1] == 0 {
            // Free: whatever the last tenant left means nothing.
            vm[..4].fill(0);
            vm[5..].fill(0);
        } else {
            let name = (slot + 1) << 8 | slot;
            names.push((vm[0], name, epoch));
            vm[0] = name;
        }
    }
    let name_of = |handle: u64| names.iter().find(|name| name.0 == handle);
    for vcpu in vcpus.chunks_exact_mut(VCPU_WORDS) {
        match name_of(vcpu[6]) {
            Some(&(_, name, epoch)) if vcpu[0] != 0 => {
                vcpu[1] = name;
                if vcpu[5] != 0 {
                    vcpu[5] = name << 4 | (vcpu[5] & 0xF);
                }
                vcpu[6] = name;
                // Answers to accesses that wait are not this run's matter.
                vcpu[9] = 0;
                vcpu[10] = u64::from(vcpu[10] == epoch);
            }
            _ => vcpu.fill(0),
        }
    }
    for cpu in cpus.chunks_exact_mut(CPU_WORDS).take(CPUS) {
        match name_of(cpu[1]) {
            Some(&(_, name, _)) => cpu[1] = name,
            // The vCPU whose registers these were is gone.
            None => cpu[..2].fill(0),
        }
        cpu[2] = 0;
    }
}
