//! vCPU slots: the lock around a vCPU's state, and what others may see of it without that lock.
//!
//! A slot serves one vCPU after another. Whatever is reached without the state's lock carries the
//! handle of the VM it was meant for, so that a late-comer cannot touch the next tenant.

use crate::lock::{self, Lock, TryGuard, TryLock};
use crate::vcpu::{BootEntry, Vcpu};
use abi::Error;
use abi::hypercall::VcpuStat;
use core::sync::atomic::{AtomicU64, Ordering};

/// vCPU slots of the whole machine.
pub const SLOTS: usize = abi::MAX_VCPUS_OF_ALL;

/// PSCI power state (DEN0022 §5.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// Off.
    Off,
    /// Asked to start; it comes up when the hostvisor runs it.
    OnPending,
    /// On.
    On,
}

#[derive(Debug)]
struct PowerState {
    /// Handle of the tenant's VM; 0 for none.
    vm: u64,
    power: Power,
    boot: BootEntry,
}

/// One slot.
#[derive(Debug)]
pub struct VcpuSlot {
    taken: AtomicU64,
    power: Lock<{ lock::LEAF }, PowerState>,
    /// Which CPU's FP/SIMD registers hold the tenant's state: [`home`], or 0 for none.
    fp_home: AtomicU64,
    stats: [AtomicU64; VcpuStat::COUNT],
    state: TryLock<Vcpu>,
}

const HOME_BITS: u32 = 4;
const _: () = assert!(abi::MAX_CPUS < 1 << HOME_BITS);

/// VM `vm`'s vCPU lives in CPU `cpu`, as a word that is never 0.
fn home(vm: u64, cpu: usize) -> u64 {
    vm << HOME_BITS | (cpu as u64).saturating_add(1)
}

impl VcpuSlot {
    /// A free slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            taken: AtomicU64::new(0),
            power: Lock::new(PowerState {
                vm: 0,
                power: Power::Off,
                boot: BootEntry::NOWHERE,
            }),
            fp_home: AtomicU64::new(0),
            stats: [const { AtomicU64::new(0) }; VcpuStat::COUNT],
            state: TryLock::new(Vcpu::EMPTY),
        }
    }

    /// Claims the slot for a vCPU of VM `vm`; `None` if it is taken, or somebody with an old handle looks
    /// at it just now. The vCPU is off.
    pub fn claim(&self, vm: u64) -> Option<TryGuard<'_, Vcpu>> {
        self.taken
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        let Some(state) = self.state.try_lock() else {
            self.taken.store(0, Ordering::Release);
            return None;
        };
        let mut power = self.power.lock();
        power.vm = vm;
        power.power = Power::Off;
        Some(state)
    }

    /// Clears the state, secrets included, and frees the slot.
    pub fn release(&self, mut state: TryGuard<'_, Vcpu>) {
        self.power.lock().vm = 0;
        self.fp_home.store(0, Ordering::Release);
        for stat in &self.stats {
            stat.store(0, Ordering::Relaxed);
        }
        *state = Vcpu::EMPTY;
        drop(state);
        self.taken.store(0, Ordering::Release);
    }

    /// The state, or `Busy` while another CPU runs it or works on it.
    pub fn try_lock(&self) -> Result<TryGuard<'_, Vcpu>, Error> {
        self.state.try_lock().ok_or(Error::Busy)
    }

    /// True if the FP/SIMD state of VM `vm`'s vCPU here is in CPU `cpu`'s registers. Changes only under
    /// the state's lock.
    pub fn is_fp_home(&self, vm: u64, cpu: usize) -> bool {
        self.fp_home.load(Ordering::Acquire) == home(vm, cpu)
    }

    /// True if the FP/SIMD state is in memory.
    pub fn fp_in_memory(&self) -> bool {
        self.fp_home.load(Ordering::Acquire) == 0
    }

    /// The FP/SIMD state of `held`'s vCPU is in CPU `cpu`'s registers, or in memory for `None`.
    pub fn set_fp_home(&self, held: &Vcpu, cpu: Option<usize>) {
        self.fp_home
            .store(cpu.map_or(0, |cpu| home(held.vm, cpu)), Ordering::Release);
    }

    /// Counts an event. Only the CPU that runs the vCPU counts.
    pub fn count(&self, stat: VcpuStat) {
        if let Some(n) = self.stats.get(stat as usize) {
            n.store(n.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// A counter, by its number in [`VcpuStat`]; readable while the vCPU runs.
    pub fn stat(&self, number: usize) -> Option<u64> {
        Some(self.stats.get(number)?.load(Ordering::Relaxed))
    }

    /// The power state of VM `vm`'s vCPU, if the slot is still its.
    pub fn power(&self, vm: u64) -> Option<Power> {
        let state = self.power.lock();
        (state.vm == vm).then_some(state.power)
    }

    /// Off → on pending at `boot`. Otherwise nothing changes and the answer is the state it is in,
    /// `None` if the slot is no longer VM `vm`'s.
    pub fn request_on(&self, vm: u64, boot: BootEntry) -> Result<(), Option<Power>> {
        let mut state = self.power.lock();
        match state.power {
            _ if state.vm != vm => Err(None),
            Power::Off => {
                state.power = Power::OnPending;
                state.boot = boot;
                Ok(())
            }
            power => Err(Some(power)),
        }
    }

    /// On pending → on, answering the entry. The caller holds the vCPU's state.
    pub fn take_boot(&self, held: &Vcpu) -> Option<BootEntry> {
        let mut state = self.power.lock();
        if state.vm != held.vm || state.power != Power::OnPending {
            return None;
        }
        state.power = Power::On;
        Some(state.boot)
    }

    /// Its own CPU_OFF. The caller holds the vCPU's state, and so its slot.
    pub fn power_off(&self, _held: &Vcpu) {
        self.power.lock().power = Power::Off;
    }
}

#[cfg(any(test, feature = "sim"))]
impl VcpuSlot {
    /// What is not in [`Vcpu`], for the simulation: taken, VM, power, boot entry, context, FP home.
    pub fn words(&self) -> [u64; 6] {
        let state = self.power.lock();
        let BootEntry { entry, context } = state.boot;
        let [taken, home] = [&self.taken, &self.fp_home].map(|word| word.load(Ordering::Relaxed));
        [taken, state.vm, state.power as u64, entry.0, context, home]
    }

    /// Puts [`Self::words`] back; counters start again.
    pub fn set_words(&self, [taken, vm, power, entry, context, home]: [u64; 6]) {
        *self.power.lock() = PowerState {
            vm,
            power: match power {
                0 => Power::Off,
                1 => Power::OnPending,
                _ => Power::On,
            },
            boot: BootEntry {
                entry: abi::Ipa(entry),
                context,
            },
        };
        self.taken.store(taken, Ordering::Relaxed);
        self.fp_home.store(home, Ordering::Relaxed);
        for stat in &self.stats {
            stat.store(0, Ordering::Relaxed);
        }
    }
}

impl Default for VcpuSlot {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_home_is_anothers_or_none() {
        let homes = (1..600).flat_map(|vm| (0..abi::MAX_CPUS).map(move |cpu| home(vm, cpu)));
        let homes: Vec<_> = homes.collect();
        assert!(!homes.contains(&0));
        assert_eq!(homes.iter().collect::<HashSet<_>>().len(), homes.len());
    }

    /// A slot's power is its tenant's: who comes late with another VM's handle neither sees nor changes it.
    #[test]
    fn a_late_comer_does_not_power_the_next_tenant() {
        let (old, new) = (0x100, 0x200);
        let boot = BootEntry {
            entry: abi::Ipa(0x4000),
            context: 7,
        };
        let slot = VcpuSlot::new();
        let Some(mut state) = slot.claim(new) else {
            unreachable!()
        };
        assert!(slot.claim(old).is_none());
        assert_eq!(slot.power(old), None);
        assert_eq!(slot.request_on(old, boot), Err(None));
        assert_eq!(slot.power(new), Some(Power::Off));
        state.vm = new;
        assert_eq!(slot.take_boot(&state), None, "nobody asked");
        assert_eq!(slot.request_on(new, boot), Ok(()));
        assert_eq!(slot.request_on(new, boot), Err(Some(Power::OnPending)));
        state.vm = old;
        assert_eq!(slot.take_boot(&state), None);
        state.vm = new;
        assert_eq!(slot.take_boot(&state), Some(boot));
        assert_eq!(slot.request_on(new, boot), Err(Some(Power::On)));
        slot.power_off(&state);
        assert_eq!(slot.power(new), Some(Power::Off));
    }

    /// Nothing of a tenant is left to the next one.
    #[test]
    fn a_slot_is_empty_when_it_is_free() {
        let slot = VcpuSlot::new();
        let Some(mut state) = slot.claim(0x100) else {
            unreachable!()
        };
        (state.vm, state.gp.x[3], state.fp.v[5]) = (0x100, 9, 9);
        slot.set_fp_home(&state, Some(1));
        slot.count(VcpuStat::CoreFp);
        assert!(slot.is_fp_home(0x100, 1) && !slot.is_fp_home(0x100, 0) && !slot.fp_in_memory());
        assert_eq!(slot.stat(VcpuStat::CoreFp as usize), Some(1));
        assert_eq!(slot.stat(VcpuStat::COUNT), None);
        slot.release(state);
        assert_eq!(slot.words()[..3], [0, 0, Power::Off as u64]);
        assert!(slot.fp_in_memory());
        assert_eq!(slot.stat(VcpuStat::CoreFp as usize), Some(0));
        let Ok(state) = slot.try_lock() else {
            unreachable!()
        };
        assert_eq!((state.vm, state.gp.x[3], state.fp.v[5]), (0, 0, 0));
    }
}
