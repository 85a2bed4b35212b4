//! The machine's state, to see what a call has changed.

use super::{FIRST, SIZE};
use crate::machine::BASE;
use crate::world::{Static, VCPU_WORDS, VM_WORDS};
use corevisor::vcpu_slot::VcpuSlot;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// Everything there is but what nobody can see: how often tables changed, what free slots last were, and the
/// order and contents of table frames that are free.
#[derive(PartialEq, Eq)]
pub(super) struct Snapshot {
    core: Vec<u64>,
    free: BTreeSet<u64>,
    memory: Vec<Option<Vec<u64>>>,
    /// vCPUs: registers and counters.
    vcpus: Vec<String>,
    /// CPUs, as whoever looks knows them.
    pub(super) cpus: Vec<String>,
}

impl Snapshot {
    /// Of all but CPUs.
    pub(super) fn new(world: &Static) -> Self {
        Self {
            vcpus: world.core.vcpus.iter().map(vcpu_text).collect(),
            ..Self::of_words(world)
        }
    }

    fn of_words(world: &Static) -> Self {
        let mut core = Vec::new();
        world.save(&mut core);
        // Counters that only ever go up, so that changes are noticed: of tables, and of VMs.
        let pool = SIZE.frames;
        for vm in 0..SIZE.vms {
            core[vm_word(vm, 4)] = 0;
        }
        *core.last_mut().unwrap() = 0;
        // Where the last vCPU of a slot that is free stood; the next one starts off.
        let slots = pool + 3 + SIZE.vms * VM_WORDS;
        for slot in core[slots..].chunks_exact_mut(VCPU_WORDS) {
            if slot[0] == 0 {
                slot[2..5].fill(0);
            }
        }
        let free = free_frames(world, [core[pool], core[pool + 1]]);
        (core[pool], core[pool + 1]) = (0, 0);
        let frame = |index: usize| {
            let words = world.machine.frame(index);
            let words = words
                .iter()
                .map(|word| word.load(Ordering::Relaxed))
                .collect();
            (!free.contains(&(BASE + index as u64))).then_some(words)
        };
        Self {
            core,
            memory: (0..SIZE.frames).map(frame).collect(),
            free,
            vcpus: Vec::new(),
            cpus: Vec::new(),
        }
    }

    /// As [`Self::new`], while a guest runs, but for what its call may change: counters of vCPUs, and whether the VM
    /// `guarding` guards its MMIO.
    pub(super) fn from_inside(world: &Static, guarding: Option<usize>) -> Self {
        let mut snapshot = Self::of_words(world);
        if let Some(vm) = guarding {
            snapshot.core[vm_word(vm, 5)] = 0;
        }
        snapshot
    }

    /// What differs.
    pub(super) fn compare(&self, after: &Self) -> Result<(), String> {
        if let Some(n) = (0..self.core.len()).find(|n| self.core[*n] != after.core[*n]) {
            return Err(format!(
                "word {n} of the core's state: {:#x} to {:#x}",
                self.core[n], after.core[n]
            ));
        }
        if self.free != after.free {
            return Err("which table frames are free".to_owned());
        }
        for (n, (a, b)) in self.memory.iter().zip(&after.memory).enumerate() {
            if a != b {
                return Err(format!("frame {n}"));
            }
        }
        for (what, a, b) in [
            ("vCPU", &self.vcpus, &after.vcpus),
            ("CPU", &self.cpus, &after.cpus),
        ] {
            if let Some(n) = (0..a.len()).find(|n| a[*n] != b[*n]) {
                return Err(format!("{what} {n}: {}\nto {}", a[n], b[n]));
            }
        }
        Ok(())
    }
}

/// Where word `word` of VM slot `vm` is in what [`Static::save`] saves.
fn vm_word(vm: usize, word: usize) -> usize {
    SIZE.frames + 3 + vm * VM_WORDS + word
}

/// A vCPU's registers, and its counters if it is one.
fn vcpu_text(slot: &VcpuSlot) -> String {
    let taken = slot.words()[0] != 0;
    let stats = taken.then(|| [0, 1, 2, 3].map(|n| slot.stat(n)));
    let registers = slot.try_lock();
    format!("{registers:x?} {stats:x?}")
}

/// Frames in the pool's list, and those never used.
fn free_frames(world: &Static, [head, fresh]: [u64; 2]) -> BTreeSet<u64> {
    let mut free: BTreeSet<u64> = (fresh..FIRST).collect();
    let mut next = head;
    while next != 0 {
        let pfn = (next >> 1) - 1;
        assert!(free.insert(pfn), "the free list is a ring");
        next = world.machine.read((pfn - BASE) as usize, 0);
    }
    free
}
