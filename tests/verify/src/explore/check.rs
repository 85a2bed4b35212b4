//! What must hold, said over what CPUs can reach, frame states as plain words, and memory contents.

use super::action::page_of;
use super::coroutine::SECRET;
use super::crew::Crew;
use crate::machine::{BASE, VMS};
use crate::walker::{Known, frame_of};
use crate::world::{CPUS, Static};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

// Frame-table words (docs: corevisor/src/frame.rs), said once more.
const CORE: u64 = 0;
const HOST: u64 = 1;
const RUN_PAGE: u64 = 2;
const PRIVATE: u64 = 3;
const SHARED: u64 = 4;
const LENT: u64 = 5;
const BUSY: u64 = 1 << 4;

const fn state(entry: u64) -> u64 {
    entry & 0xF
}

/// VM slot of the owner.
const fn owner(entry: u64) -> usize {
    ((entry >> 16 & 0xFFFF) as usize).wrapping_sub(1)
}

const fn page(entry: u64) -> u64 {
    entry >> 32
}

const fn host_may(entry: u64) -> bool {
    matches!(state(entry), HOST | RUN_PAGE | SHARED | LENT)
}

const fn vm_may(entry: u64, vm: usize, ipa: u64) -> bool {
    matches!(state(entry), PRIVATE | SHARED | LENT)
        && owner(entry) == vm
        && page(entry) == ipa >> 12
}

const fn both_may(entry: u64) -> bool {
    matches!(state(entry), SHARED | LENT)
}

/// What is known of frames besides what the core says.
pub struct Ghost {
    /// Each frame's last entry without BUSY.
    settled: Vec<u64>,
    /// Who made it busy, for `Fault::BusyUnseen`.
    busy_by: Vec<usize>,
    problem: Option<String>,
}

impl Ghost {
    /// Of a machine not yet looked at.
    #[must_use]
    pub fn new(frames: usize) -> Self {
        Self {
            settled: vec![0; frames],
            busy_by: vec![0; frames],
            problem: None,
        }
    }

    /// The machine is at rest: every entry counts.
    pub fn at_rest(&mut self, entries: &[AtomicU64]) {
        for (settled, entry) in self.settled.iter_mut().zip(entries) {
            *settled = entry.load(Ordering::Relaxed);
        }
        self.problem = None;
    }

    /// Entries that another CPU has made busy look as before to `cpu`.
    pub fn hide(&self, entries: &[AtomicU64], cpu: usize) -> Vec<(usize, u64)> {
        let mut hidden = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let word = entry.load(Ordering::Relaxed);
            if word & BUSY != 0 && self.busy_by[index] != cpu {
                entry.store(self.settled[index], Ordering::Relaxed);
                hidden.push((index, word));
            }
        }
        hidden
    }

    /// Undoes [`Self::hide`] where `cpu` changed nothing.
    pub fn unhide(&mut self, entries: &[AtomicU64], hidden: &[(usize, u64)], cpu: usize) {
        for (index, entry) in entries.iter().enumerate() {
            let word = entry.load(Ordering::Relaxed);
            let was = hidden.iter().find(|(n, _)| *n == index);
            match was {
                Some((_, busy)) if word == self.settled[index] => {
                    entry.store(*busy, Ordering::Relaxed)
                }
                _ if word & BUSY != 0 => self.busy_by[index] = cpu,
                _ => {}
            }
        }
    }

    /// Guests write secrets to all that is theirs alone; notes which transitions have settled.
    pub fn guests_write(&mut self, world: &Static, known: &[Known]) {
        for index in 0..world.size.frames {
            let entry = world.entries[index].load(Ordering::Relaxed);
            let before = self.settled[index];
            if entry & BUSY == 0 && entry != before {
                let emptied = matches!(state(before), PRIVATE | SHARED) && state(entry) == HOST;
                let words = world.machine.frame(index).iter();
                if emptied && words.fold(0, |all, w| all | w.load(Ordering::Relaxed)) != 0 {
                    self.problem = Some(format!("frame {index} is the hostvisor's and not zeroed"));
                }
                self.settled[index] = entry;
            }
        }
        for leaf in known.iter().filter(|k| k.vmid != 0 && k.is_leaf()) {
            let vm = usize::from(leaf.vmid) - 1;
            let Some(index) = frame_of(leaf.address()) else {
                continue;
            };
            let public =
                world.machine.public[vm].load(Ordering::Relaxed) >> page_of(leaf.ipa) & 1 != 0;
            let own = |entry| state(entry) == PRIVATE && owner(entry) == vm;
            if own(self.settled[index]) && !public {
                world.machine.write(index, 0, SECRET + vm as u64);
                world.machine.write(index, 511, SECRET + vm as u64);
            }
        }
    }

    /// True if the frame holds what a guest kept for itself.
    #[must_use]
    pub fn holds_secret(&self, world: &Static, index: usize) -> bool {
        [0, 511]
            .into_iter()
            .any(|word| is_secret(world.machine.read(index, word)).is_some())
    }
}

/// The VM whose secret this is.
fn is_secret(word: u64) -> Option<usize> {
    let vm = word.wrapping_sub(SECRET) as usize;
    (vm < VMS).then_some(vm)
}

macro_rules! must {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}

/// What holds at every step.
pub fn at_step(crew: &mut Crew) -> Result<(), String> {
    must!(!crew.panicked, "the corevisor panics");
    let world = *crew.world();
    let mut walker = world.machine.walker.lock().unwrap();
    if let Some(problem) = walker.take_problem().or_else(|| crew.ghost.problem.take()) {
        return Err(problem);
    }
    let mut host = [false; 64];
    let mut guest = [None; 64];
    for leaf in walker.known().iter().filter(|known| known.is_leaf()) {
        if leaf.vmid == 0 {
            must!(
                leaf.ipa == leaf.address(),
                "the hostvisor's table is not the identity: {leaf:x?}"
            );
        }
        let first = leaf.address() >> 12;
        for pfn in first..first + (leaf.size() >> 12) {
            let index = pfn.wrapping_sub(BASE) as usize;
            if index >= world.size.frames {
                must!(leaf.vmid == 0, "a VM reaches what is not RAM: {leaf:x?}");
                continue;
            }
            let (now, before) = (
                world.entries[index].load(Ordering::Relaxed),
                crew.ghost.settled[index],
            );
            if leaf.vmid == 0 {
                must!(
                    host_may(now) || host_may(before),
                    "the hostvisor reaches frame {index}: {now:#x}"
                );
                host[index] = true;
            } else {
                let (vm, ipa) = (usize::from(leaf.vmid) - 1, leaf.ipa + ((pfn - first) << 12));
                must!(
                    vm_may(now, vm, ipa) || vm_may(before, vm, ipa),
                    "VM {vm} reaches frame {index} at {ipa:#x}: {now:#x}"
                );
                must!(
                    guest[index].is_none(),
                    "frame {index} is reached twice by VMs"
                );
                guest[index] = Some(vm);
            }
            if host[index] && guest[index].is_some() {
                must!(
                    both_may(now) || both_may(before),
                    "the hostvisor and a VM reach frame {index}: {now:#x}"
                );
            }
        }
    }
    for index in 0..world.size.frames {
        for word in [0, 511] {
            let Some(vm) = is_secret(world.machine.read(index, word)) else {
                continue;
            };
            must!(
                !host[index],
                "the hostvisor reads a secret of VM {vm} in frame {index}"
            );
            must!(
                guest[index].is_none_or(|reader| reader == vm),
                "a VM reads a secret of VM {vm} in frame {index}"
            );
            let settled = crew.ghost.settled[index];
            must!(
                !host_may(settled) || state(settled) == SHARED,
                "frame {index} is the hostvisor's with a secret of VM {vm}"
            );
        }
    }
    for cpu in 0..CPUS {
        let vttbr = crew.in_guest(cpu);
        if vttbr != 0 {
            let loadable = crew
                .regimes()
                .iter()
                .any(|r| u64::from(r.vmid) << 48 | r.root == vttbr);
            must!(loadable, "CPU {cpu} runs a guest whose table is gone");
        }
    }
    Ok(())
}

/// What holds besides when no call is under way.
pub fn at_rest(crew: &Crew) -> Result<(), String> {
    let world = crew.world();
    let walker = world.machine.walker.lock().unwrap();
    let stale = walker.stale(world.machine, crew.regimes());
    must!(stale.is_none(), "a TLB keeps {stale:x?}");
    let beyond = walker.beyond_window(world.machine);
    must!(
        beyond.is_none(),
        "a table has descriptors beyond the window: {beyond:x?}"
    );

    // Every frame of the pool is a table, or free, once.
    let mut pool = BTreeSet::new();
    let mut count = |frame: u64| pool.insert(frame);
    for regime in crew.regimes() {
        must!(
            count(regime.root >> 12),
            "root {:#x} is used twice",
            regime.root
        );
    }
    for table in walker.known().iter().filter(|known| !known.is_leaf()) {
        must!(
            count(table.address() >> 12),
            "table {:#x} is used twice",
            table.address()
        );
    }
    let [head, fresh, free] = world.core.memory.pool().words();
    let tables = crew.regimes().len() + walker.known().iter().filter(|k| !k.is_leaf()).count();
    let mut next = head;
    while next != 0 {
        let pfn = (next >> 1) - 1;
        must!(count(pfn), "frame {pfn:#x} is free and used, or free twice");
        next = world
            .machine
            .index(abi::Pfn(pfn))
            .map_or(0, |index| world.machine.read(index, 0));
    }
    let end = BASE + world.size.pool as u64;
    for pfn in fresh..end {
        must!(count(pfn), "frame {pfn:#x} is fresh and used");
    }
    must!(
        pool.iter().all(|pfn| (BASE..end).contains(pfn)),
        "a table outside the pool"
    );
    must!(
        pool.len() == world.size.pool,
        "{} of {} table frames are lost",
        world.size.pool - pool.len(),
        world.size.pool
    );
    must!(
        free as usize + tables == world.size.pool,
        "the pool counts {free} free frames besides {tables} tables"
    );

    // Every frame has a state that its owner's tables and counts agree with.
    let mut owned = [0; VMS];
    for (index, entry) in world.entries.iter().enumerate() {
        let entry = entry.load(Ordering::Relaxed);
        let in_pool = index < world.size.pool;
        must!(entry & BUSY == 0, "frame {index} stays busy: {entry:#x}");
        must!(
            (entry == CORE) == in_pool,
            "frame {index} has changed sides: {entry:#x}"
        );
        match state(entry) {
            CORE | HOST => must!(entry < 0x10, "frame {index}: {entry:#x}"),
            RUN_PAGE => {
                let vm = owner(entry);
                let run_page = |slot: &corevisor::vcpu_slot::VcpuSlot| {
                    slot.try_lock().is_ok_and(|vcpu| {
                        vcpu.run_page.0 == BASE + index as u64 && vcpu.vm == handle(world, vm)
                    })
                };
                must!(
                    vm < VMS && world.core.vcpus.iter().any(run_page),
                    "run page {index} of no vCPU: {entry:#x}"
                );
            }
            PRIVATE | SHARED | LENT => {
                let vm = owner(entry);
                must!(vm < VMS, "frame {index}: {entry:#x}");
                owned[vm] += 1;
                let mapped = walker.known().iter().any(|k| {
                    usize::from(k.vmid) == vm + 1
                        && k.is_leaf()
                        && k.address() >> 12 == BASE + index as u64
                });
                let dead = world
                    .vm(vm)
                    .inner()
                    .is_some_and(|inner| inner.stage2.is_none());
                must!(
                    mapped || dead,
                    "frame {index} is not in its VM's table: {entry:#x}"
                );
                must!(
                    !(mapped && dead),
                    "frame {index} is in a dead VM's table: {entry:#x}"
                );
            }
            _ => return Err(format!("frame {index}: {entry:#x}")),
        }
    }
    for (vm, owned) in owned.into_iter().enumerate() {
        let life = world.vm(vm).words()[1];
        let Some(inner) = world.vm(vm).inner() else {
            return Err(format!("VM {vm} stays locked"));
        };
        must!(
            life != 0 || owned == 0,
            "VM slot {vm} is free and has {owned} frames"
        );
        must!(
            life == 0 || inner.frames == owned,
            "VM {vm} counts {} frames and has {owned}",
            inner.frames
        );
        must!(
            life != 0 || inner.stage2.is_none(),
            "VM slot {vm} is free and has a table"
        );
    }
    Ok(())
}

fn handle(world: &Static, vm: usize) -> u64 {
    if vm < VMS { world.vm(vm).words()[0] } else { 0 }
}
