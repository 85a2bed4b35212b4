//! VMs: slots, handles and life cycle.
//!
//! A slot goes Free → Building → Running → Stopped → Dying → Free; destroy may come from any living
//! state. A handle names a slot and the generation of its tenant, so that one kept too long finds
//! nothing. The slot's number gives the VMID; the TLB is clean of it before the slot is free again.

use crate::frame::VmId;
use crate::lock::{self, Guard, Lock};
use crate::stage2::Stage2;
use crate::vcpu::BootEntry;
use crate::vcpu_slot::VcpuSlot;
use abi::{Error, MAX_VCPUS};
use arch::hal::Stage2Regs;
use core::sync::atomic::{AtomicU64, Ordering};

/// VM slots of the machine; below 255, for 8-bit VMIDs of which 0 is the hostvisor's.
pub const SLOTS: usize = abi::MAX_VMS;
const _: () = assert!(SLOTS < 255);

const SLOT_BITS: u32 = 8;
const VCPU_BITS: u32 = 4;
const _: () = assert!(MAX_VCPUS <= 1 << VCPU_BITS);

/// Number of the slot that a handle names.
pub const fn slot_number(handle: u64) -> usize {
    (handle & ((1 << SLOT_BITS) - 1)) as usize
}

/// Id of the VM with this handle.
fn id_of(handle: u64) -> VmId {
    VmId((slot_number(handle) as u16).saturating_add(1))
}

/// vCPU `index` (below [`MAX_VCPUS`]) of VM `handle` as a word that no other vCPU ever has, and that is never 0.
pub const fn vcpu_id(handle: u64, index: usize) -> u64 {
    handle << VCPU_BITS | index as u64
}

/// Where a VM is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Life {
    /// The slot is free.
    Free = 0,
    /// Memory and vCPUs are being added.
    Building = 1,
    /// Its vCPUs may run.
    Running = 2,
    /// It turned itself off, or asked for a reset.
    Stopped = 3,
    /// It is being destroyed.
    Dying = 4,
}

/// What a VM consists of besides its vCPUs.
pub struct VmInner {
    /// Its stage 2, from create to the end of teardown.
    pub stage2: Option<Stage2>,
    /// Its memory is private.
    pub protected: bool,
    /// vCPUs it may have.
    pub max_vcpus: usize,
    /// Frames it owns or has on loan.
    pub frames: u64,
    /// Pages it has said are devices'.
    pub mmio_pages: u64,
    /// Entry of vCPU 0.
    pub boot: Option<BootEntry>,
}

/// A slot.
pub struct VmSlot {
    /// Handle of the tenant.
    handle: AtomicU64,
    life: AtomicU64,
    /// vCPU slot number + 1 by vCPU index; 0 for none.
    vcpus: [AtomicU64; MAX_VCPUS],
    inner: Lock<{ lock::VM }, VmInner>,
    regs: [AtomicU64; 2],
    epoch: AtomicU64,
    mmio_guard: AtomicU64,
}

impl VmSlot {
    const fn new() -> Self {
        Self {
            handle: AtomicU64::new(0),
            life: AtomicU64::new(Life::Free as u64),
            vcpus: [const { AtomicU64::new(0) }; MAX_VCPUS],
            inner: Lock::new(VmInner {
                stage2: None,
                protected: true,
                max_vcpus: 0,
                frames: 0,
                mmio_pages: 0,
                boot: None,
            }),
            regs: [const { AtomicU64::new(0) }; 2],
            epoch: AtomicU64::new(0),
            mmio_guard: AtomicU64::new(0),
        }
    }

    /// The id that frames and the VMID use: 1 and up.
    pub fn id(&self) -> VmId {
        id_of(self.handle.load(Ordering::Acquire))
    }

    /// Where it is in its life.
    pub fn life(&self) -> Life {
        match self.life.load(Ordering::SeqCst) {
            1 => Life::Building,
            2 => Life::Running,
            3 => Life::Stopped,
            4 => Life::Dying,
            _ => Life::Free,
        }
    }

    /// Changes its life. The caller holds the inner lock.
    pub fn set_life(&self, _held: &VmInner, life: Life) {
        self.life.store(life as u64, Ordering::SeqCst);
    }

    /// Running → stopped, by the guest's own wish. A VM that is being destroyed stays so.
    pub fn stop(&self) {
        let (from, to) = (Life::Running as u64, Life::Stopped as u64);
        let _ = self
            .life
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Number of the slot that holds vCPU `index`.
    pub fn vcpu_slot(&self, index: usize) -> Option<usize> {
        let entry = self.vcpus.get(index)?.load(Ordering::Acquire);
        usize::try_from(entry.checked_sub(1)?).ok()
    }

    /// The slot of vCPU `index`.
    pub fn vcpu<'s>(&self, index: usize, slots: &'s [VcpuSlot]) -> Option<&'s VcpuSlot> {
        slots.get(self.vcpu_slot(index)?)
    }

    /// Enters (`Some`) or removes the slot number of vCPU `index`. The caller holds the inner lock.
    pub fn set_vcpu(&self, _held: &VmInner, index: usize, slot: Option<usize>) {
        if let Some(entry) = self.vcpus.get(index) {
            let value = slot.map_or(0, |number| (number as u64).saturating_add(1));
            entry.store(value, Ordering::Release);
        }
    }

    /// Registers of its stage 2.
    pub fn stage2_regs(&self) -> Stage2Regs {
        let [vttbr, vtcr] = &self.regs;
        Stage2Regs {
            vttbr: vttbr.load(Ordering::Acquire),
            vtcr: vtcr.load(Ordering::Acquire),
        }
    }

    /// True if only pages that the VM has named as devices' may be accessed as such.
    pub fn guards_mmio(&self) -> bool {
        self.mmio_guard.load(Ordering::Relaxed) != 0
    }

    /// From now on, see [`Self::guards_mmio`]. The caller holds the inner lock.
    pub fn guard_mmio(&self, _held: &VmInner) {
        self.mmio_guard.store(1, Ordering::Relaxed);
    }

    /// Counts changes of its stage-2 table: a new value before each begins.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Its table is about to change. The caller holds the inner lock.
    pub fn change_table(&self, _held: &VmInner) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The VM under its lock, if `handle` still names it.
    pub fn lock(&self, handle: u64) -> Result<Guard<'_, { lock::VM }, VmInner>, Error> {
        let guard = self.inner.lock();
        if self.handle.load(Ordering::Acquire) == handle && self.life() != Life::Free {
            Ok(guard)
        } else {
            Err(Error::NotFound)
        }
    }

    /// Frees the slot. The caller holds the inner lock, and nothing of the VM is left.
    pub fn release(&self, held: &mut VmInner) {
        held.boot = None;
        self.set_life(held, Life::Free);
    }
}

#[cfg(any(test, feature = "sim"))]
impl VmSlot {
    /// What is not in [`VmInner`], for the simulation: handle, life, VTTBR, VTCR, epoch, MMIO guard,
    /// vCPU slots.
    pub fn words(&self) -> [u64; 6 + MAX_VCPUS] {
        let mut words = [0; 6 + MAX_VCPUS];
        for (to, from) in words.iter_mut().zip(self.atomics()) {
            *to = from.load(Ordering::Relaxed);
        }
        words
    }

    /// Puts [`Self::words`] back.
    pub fn set_words(&self, words: &[u64; 6 + MAX_VCPUS]) {
        for (from, to) in words.iter().zip(self.atomics()) {
            to.store(*from, Ordering::Relaxed);
        }
    }

    /// The rest, unless a call holds it.
    pub fn inner(&self) -> Option<Guard<'_, { lock::VM }, VmInner>> {
        self.inner.try_lock()
    }

    fn atomics(&self) -> impl Iterator<Item = &AtomicU64> {
        let first = [&self.handle, &self.life].into_iter().chain(&self.regs);
        first
            .chain([&self.epoch, &self.mmio_guard])
            .chain(&self.vcpus)
    }
}

#[cfg(any(test, feature = "sim"))]
impl Vms {
    /// Slot `number`, for the simulation.
    pub fn slot(&self, number: usize) -> Option<&VmSlot> {
        self.slots.get(number)
    }

    /// The generation that the next VM gets.
    pub const fn generation(&self) -> &AtomicU64 {
        &self.generation
    }
}

/// All slots.
pub struct Vms {
    slots: [VmSlot; SLOTS],
    generation: AtomicU64,
}

impl Vms {
    /// All free.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [const { VmSlot::new() }; SLOTS],
            generation: AtomicU64::new(1),
        }
    }

    /// The slot that `handle` names.
    pub fn get(&self, handle: u64) -> Result<&VmSlot, Error> {
        let slot = self.slots.get(slot_number(handle)).ok_or(Error::NotFound)?;
        if handle != 0 && slot.handle.load(Ordering::Acquire) == handle && slot.life() != Life::Free
        {
            Ok(slot)
        } else {
            Err(Error::NotFound)
        }
    }

    /// Takes a free slot for a VM whose stage 2 `table` makes; answers its handle.
    ///
    /// # Errors
    ///
    /// `NoMemory`: no slot, or what `table` says.
    pub fn create(
        &self,
        protected: bool,
        max_vcpus: usize,
        table: impl FnOnce(VmId) -> Result<Stage2, Error>,
    ) -> Result<u64, Error> {
        for (number, slot) in (0u64..).zip(&self.slots) {
            if slot.life() != Life::Free {
                continue;
            }
            // Somebody at work on a slot is taking or freeing it: it may just as well be another.
            let Some(mut inner) = slot.inner.try_lock() else {
                continue;
            };
            if slot.life() != Life::Free {
                continue;
            }
            let stage2 = table(id_of(number))?;
            let regs = stage2.regs();
            let [vttbr, vtcr] = &slot.regs;
            vttbr.store(regs.vttbr, Ordering::Release);
            vtcr.store(regs.vtcr, Ordering::Release);
            *inner = VmInner {
                stage2: Some(stage2),
                protected,
                max_vcpus,
                frames: 0,
                mmio_pages: 0,
                boot: None,
            };
            slot.mmio_guard.store(0, Ordering::Relaxed);
            let generation = self.generation.fetch_add(1, Ordering::Relaxed);
            let handle = generation << SLOT_BITS | number;
            slot.handle.store(handle, Ordering::Release);
            slot.set_life(&inner, Life::Building);
            return Ok(handle);
        }
        Err(Error::NoMemory)
    }
}

impl Default for Vms {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame_table::RamRegion;
    use crate::sim::Setup;
    use abi::Pfn;
    use std::collections::HashSet;

    /// Handles as [`Vms::create`] makes them, of first and later tenants of every slot.
    fn handles() -> impl Iterator<Item = u64> {
        let slots = 0..SLOTS as u64;
        slots.flat_map(|slot| [1, 2, 3, 1 << 20, 1 << 40].map(|n| n << SLOT_BITS | slot))
    }

    #[test]
    fn no_vcpu_has_anothers_id() {
        let ids = handles().flat_map(|vm| (0..MAX_VCPUS).map(move |index| vcpu_id(vm, index)));
        let ids: Vec<_> = ids.collect();
        assert!(!ids.contains(&0));
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }

    /// Whoever found the slot by a handle that was good a moment ago does not get the next tenant.
    #[test]
    fn an_old_handle_does_not_open_the_slot_to_its_next_tenant() {
        let setup = Setup::new(&[RamRegion {
            base: Pfn(0x4_0000),
            frames: 512,
        }]);
        let own = setup.boot(256, 128, &[], 4);
        let vms = Vms::new();
        let create = || vms.create(true, 1, |_| own.new_vm_table(1, None));
        let Ok(old) = create() else { unreachable!() };
        let Ok(slot) = vms.get(old) else {
            unreachable!()
        };
        let Ok(mut inner) = slot.lock(old) else {
            unreachable!()
        };
        slot.release(&mut inner);
        drop(inner);
        assert_eq!(slot.lock(old).err(), Some(Error::NotFound), "free");
        let Ok(new) = create() else { unreachable!() };
        assert_eq!((slot_number(new), new == old), (slot_number(old), false));
        assert!(vms.get(old).is_err() && slot.lock(old).is_err());
        assert!(vms.get(new).is_ok() && slot.lock(new).is_ok());
        // Those that never were.
        for wild in [0, slot_number(new) as u64, new + 1, u64::MAX] {
            assert!(vms.get(wild).is_err());
        }
    }
}
