//! Who may reach which frame: the transitions of the frame state machine, carried out.
//!
//! Lock order, each CPU taking them only downwards ([`crate::lock`] checks it in tests):
//!
//! 1. a VM's own lock, held by the caller (it is what makes `&mut Stage2` of a VM possible);
//! 2. the hostvisor's table;
//! 3. the page-table pool;
//! 4. leaves: a vCPU's power state, a CPU's entry.
//!
//! A vCPU's state, held for as long as it runs, and busy frames are taken if they are free and refused with
//! [`Error::Busy`] if not, at any time: nobody waits for them. The one exception is [`crate::fpu::save`], which
//! holds no lock of the above.
//!
//! A transition claims its frames, takes what it needs from the pool, changes tables (a frame leaves
//! the old table, TLB invalidation complete, before it enters the new one), and commits. The
//! hostvisor's table is filled lazily after boot: a mapping there may be missing for any frame the
//! hostvisor may reach, and [`Ownership::host_fault`] puts it in.

use crate::frame::{Entry, State, VmId};
use crate::frame_table::FrameTable;
use crate::lock::{self, Lock};
use crate::pool::{Platform, Pool, Reserve};
use crate::restricted::RestrictedRegions;
use crate::stage2::{PAGES_1G, PAGES_2M, Stage2};
use crate::transition::Transition;
use abi::hypercall::MAX_FRAMES_PER_CALL;
use abi::{Error, GICC_IPA, GICC_SIZE, Ipa, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr};
use arch::descriptor::{Access, Attributes, BLOCK_2M_LEVEL, Geometry, PAGE_LEVEL};

/// Widest IPA at which a VM has memory, in bits.
pub const VM_IPA_BITS: u32 = 36;
/// Widest frame number, in bits: 48-bit physical addresses.
const PFN_BITS: u32 = 48 - PAGE_SHIFT;

/// Everything about the ownership of memory.
pub struct Ownership<'a, P: Platform> {
    frames: FrameTable<'a>,
    pool: Pool<'a, P>,
    restricted: RestrictedRegions,
    host: Lock<{ lock::HOST }, Stage2>,
    pa_range: u64,
}

impl<'a, P: Platform> Ownership<'a, P> {
    /// All RAM the core's, the hostvisor's table empty. `pa_range` is ID_AA64MMFR0_EL1.PARange; the
    /// pool is fresh and holds the hostvisor's root (up to 8 aligned frames).
    pub fn new(
        frames: FrameTable<'a>,
        pool: Pool<'a, P>,
        restricted: RestrictedRegions,
        pa_range: u64,
    ) -> Result<Self, Error> {
        let host = Stage2::new(&pool, Geometry::host(pa_range), 0)?;
        Ok(Self {
            frames,
            pool,
            restricted,
            host: Lock::new(host),
            pa_range,
        })
    }

    /// At boot: makes `count` frames from `pfn` on the hostvisor's and maps them with the largest
    /// blocks that fit. Boot alone holds `&mut`.
    pub fn grant_host(&mut self, pfn: Pfn, count: u64) -> Result<(), Error> {
        let claim = self.frames.claim(&Transition::GRANT, 0, pfn, count)?;
        if claim.count() != count {
            claim.abandon(|_| Entry::CORE);
            return Err(Error::Denied);
        }
        claim.commit(());
        let mut host = self.host.lock();
        let (mut at, end) = (pfn.0, pfn.0 + count);
        while at < end {
            let fits = |pages: &u64| at % pages == 0 && end - at >= *pages;
            let block = [PAGES_1G, PAGES_2M].into_iter().find(fits);
            let pages = block.unwrap_or((PAGES_2M - at % PAGES_2M).min(end - at));
            self.map_host(&mut host, Pfn(at), pages, Attributes::RAM)?;
            at += pages;
        }
        Ok(())
    }

    /// The pool that VM tables come from.
    pub const fn pool(&self) -> &Pool<'a, P> {
        &self.pool
    }

    /// The states of all frames.
    pub const fn frames(&self) -> &FrameTable<'a> {
        &self.frames
    }

    /// The registers that select the hostvisor's table.
    pub fn host_regs(&self) -> arch::hal::Stage2Regs {
        self.host.lock().regs()
    }

    /// Where the hostvisor's table leads from `ipa`, if the page is in it at the moment.
    #[cfg(test)]
    pub fn host_walk(&self, ipa: Ipa) -> Option<crate::stage2::Mapping> {
        self.host.lock().walk(&self.pool, ipa)
    }

    /// A table for a VM, empty but for the virtual CPU interface at `gicv` where VMs reach it as memory.
    /// `vmid` is not 0 and no other live table's.
    pub fn new_vm_table(&self, vmid: u8, gicv: Option<PhysAddr>) -> Result<Stage2, Error> {
        let pool = &self.pool;
        let mut vm = Stage2::new(pool, Geometry::vm(self.pa_range), vmid)?;
        let Some(gicv) = gicv else { return Ok(vm) };
        let pages = GICC_SIZE >> PAGE_SHIFT;
        match pool.reserve(vm.tables_to_map(pool, GICC_IPA, pages)?) {
            Ok(mut reserve) => {
                vm.map(
                    pool,
                    &mut reserve,
                    GICC_IPA,
                    gicv,
                    pages,
                    Attributes::DEVICE,
                );
                Ok(vm)
            }
            Err(error) => {
                // Nothing but the root.
                vm.teardown(pool, 0)?;
                Err(error)
            }
        }
    }

    /// Host frames become the private memory of `id`. Answers how many were done, at least one and at
    /// most [`MAX_FRAMES_PER_CALL`], or why not even the first.
    pub fn donate(
        &self,
        vm: &mut Stage2,
        id: VmId,
        ipa: Ipa,
        pfn: Pfn,
        count: u64,
    ) -> Result<u64, Error> {
        let leave = |pfn: Pfn, run, tables| {
            let (pool, identity) = (&self.pool, Ipa(pfn.base().0));
            let mut host = self.host.lock();
            let tables = tables + host.tables_to_unmap(pool, identity, run);
            let mut reserve = pool.reserve(tables)?;
            let gone = host.unmap(pool, &mut reserve, identity, run);
            drop(host);
            self.forget_stores(pfn, run);
            Ok((reserve, gone))
        };
        self.give(&Transition::donate(id), leave, vm, ipa, pfn, count)
    }

    /// Host frames become memory of the open VM `id` and stay the hostvisor's. Answers as
    /// [`Self::donate`].
    pub fn lend(
        &self,
        vm: &mut Stage2,
        id: VmId,
        ipa: Ipa,
        pfn: Pfn,
        count: u64,
    ) -> Result<u64, Error> {
        let stay = |_, _, tables| Ok((self.pool.reserve(tables)?, ()));
        self.give(&Transition::lend(id), stay, vm, ipa, pfn, count)
    }

    /// Gives frames to a VM after `leave(first, count, tables)` has done what the transition asks for. `leave` also
    /// reserves so many tables, and does nothing else if there are too few.
    fn give<'s, D>(
        &'s self,
        transition: &Transition<D>,
        leave: impl Fn(Pfn, u64, usize) -> Result<(Reserve<'s, 'a, P>, D), Error>,
        vm: &mut Stage2,
        ipa: Ipa,
        pfn: Pfn,
        count: u64,
    ) -> Result<u64, Error> {
        check_ipa_range(ipa, count)?;
        check_frames(pfn, count)?;
        let pool = &self.pool;
        batch(count, |done, left| {
            let (ipa, pfn) = (Ipa(ipa.0 + (done << PAGE_SHIFT)), Pfn(pfn.0 + done));
            let run = within_2m(ipa.page_number(), left).min(within_2m(pfn.0, left));
            let run = vm.vacant(pool, ipa, run)?;
            let claim = self.frames.claim(transition, ipa.page_number(), pfn, run)?;
            let run = claim.count();
            let tables = vm.tables_to_map(pool, ipa, run);
            let (mut reserve, left) = match tables.and_then(|tables| leave(pfn, run, tables)) {
                Ok(left) => left,
                Err(error) => {
                    claim.abandon(|_| Entry::HOST);
                    return Err(error);
                }
            };
            vm.map(pool, &mut reserve, ipa, pfn.base(), run, Attributes::RAM);
            claim.commit(left);
            let level = if run == PAGES_2M {
                BLOCK_2M_LEVEL
            } else {
                PAGE_LEVEL
            };
            vm.merge(pool, ipa, level);
            Ok(run)
        })
    }

    /// Takes lent frames back from the open VM `id`, which may be running. Answers as
    /// [`Self::donate`].
    pub fn unmap_lent(
        &self,
        vm: &mut Stage2,
        id: VmId,
        ipa: Ipa,
        count: u64,
    ) -> Result<u64, Error> {
        check_ipa_range(ipa, count)?;
        let pool = &self.pool;
        batch(count, |done, left| {
            let ipa = Ipa(ipa.0 + (done << PAGE_SHIFT));
            let run = within_2m(ipa.page_number(), left);
            let (pfn, run) = vm.mapped_run(pool, ipa, run).ok_or(Error::Denied)?;
            let claim = self
                .frames
                .claim(&Transition::unlend(id), ipa.page_number(), pfn, run)?;
            let run = claim.count();
            let gone = match pool.reserve(vm.tables_to_unmap(pool, ipa, run)) {
                Ok(mut reserve) => vm.unmap(pool, &mut reserve, ipa, run),
                Err(error) => {
                    let page = |n: u64| Ipa(ipa.0 + (n << PAGE_SHIFT));
                    claim.abandon(|n| Entry::owned(State::Lent, id, page(n)));
                    return Err(error);
                }
            };
            claim.commit(gone);
            Ok(run)
        })
    }

    /// Frames of `id` become the hostvisor's again, zeroed unless they were lent. The caller knows that
    /// the VM is dead and that its [`Self::teardown`] is complete: nothing reaches the frames. Answers as
    /// [`Self::donate`].
    pub fn reclaim(&self, id: VmId, pfn: Pfn, count: u64) -> Result<u64, Error> {
        check_frames(pfn, count)?;
        batch(count, |done, left| {
            let pfn = Pfn(pfn.0 + done);
            let claim = self.frames.claim(&Transition::reclaim(id), 0, pfn, left)?;
            let run = claim.count();
            let clean = claim.clear(|n| self.pool.platform().zero(Pfn(pfn.0 + n)));
            self.pool.platform().forget_instructions();
            claim.commit(clean);
            Ok(run)
        })
    }

    /// Frees a dead VM's table, about `budget` frames of it; [`Error::Again`] until all is done. After
    /// the first call nothing is reachable through it.
    pub fn teardown(&self, vm: &mut Stage2, budget: u64) -> Result<(), Error> {
        vm.teardown(&self.pool, budget)
    }

    /// A Host frame becomes a run page of `id`; the hostvisor keeps its mapping.
    pub fn take_run_page(&self, id: VmId, pfn: Pfn) -> Result<(), Error> {
        self.frames
            .claim(&Transition::take_run_page(id), 0, pfn, 1)?
            .commit(());
        Ok(())
    }

    /// A run page of `id` becomes the hostvisor's alone again.
    pub fn release_run_page(&self, id: VmId, pfn: Pfn) -> Result<(), Error> {
        self.frames
            .claim(&Transition::release_run_page(id), 0, pfn, 1)?
            .commit(());
        Ok(())
    }

    /// The VM `id` shares its private page at `ipa` with the hostvisor.
    pub fn vm_share(&self, vm: &mut Stage2, id: VmId, ipa: Ipa) -> Result<(), Error> {
        let pfn = self.frame_at(vm, ipa)?;
        self.frames
            .claim(&Transition::share(id), ipa.page_number(), pfn, 1)?
            .commit(());
        // Only saves the hostvisor a fault; without table frames it takes that later.
        let _ = self.host_fault(Ipa(pfn.base().0), 1);
        Ok(())
    }

    /// The VM `id` makes its shared page at `ipa` private again.
    pub fn vm_unshare(&self, vm: &mut Stage2, id: VmId, ipa: Ipa) -> Result<(), Error> {
        let pfn = self.frame_at(vm, ipa)?;
        let claim = self
            .frames
            .claim(&Transition::unshare(id), ipa.page_number(), pfn, 1)?;
        let identity = Ipa(pfn.base().0);
        let mut host = self.host.lock();
        // Shared pages have 4 KiB mappings only (see `map_host_ram`): no split, nothing can fail.
        let gone = match self
            .pool
            .reserve(host.tables_to_unmap(&self.pool, identity, 1))
        {
            Ok(mut reserve) => host.unmap(&self.pool, &mut reserve, identity, 1),
            Err(error) => {
                claim.abandon(|_| Entry::owned(State::VmShared, id, ipa));
                return Err(error);
            }
        };
        drop(host);
        self.forget_stores(pfn, 1);
        claim.commit(gone);
        Ok(())
    }

    /// The hostvisor has just lost these frames: a dirty line of its must not land later on what the VM
    /// writes with its caches off.
    fn forget_stores(&self, pfn: Pfn, count: u64) {
        for frame in pfn.0..pfn.0 + count {
            self.pool.platform().clean(Pfn(frame));
        }
    }

    /// The VM says that the page at `ipa`, which maps nothing, is a device's.
    pub fn vm_mark_mmio(&self, vm: &mut Stage2, ipa: Ipa) -> Result<(), Error> {
        check_ipa_range(ipa, 1)?;
        vm.mark_mmio(&self.pool, ipa)
    }

    fn frame_at(&self, vm: &Stage2, ipa: Ipa) -> Result<Pfn, Error> {
        check_ipa_range(ipa, 1)?;
        let mapping = vm.walk(&self.pool, ipa).ok_or(Error::Denied)?;
        Ok(Pfn::of(mapping.pa))
    }

    /// The hostvisor faulted at `ipa` (`write` is 1 for a store). `Ok`: it is mapped now, let the access
    /// repeat. [`Error::Denied`]: inject an abort. [`Error::Busy`]: the frame is changing, let the
    /// access repeat. [`Error::NoMemory`]: no table frames.
    pub fn host_fault(&self, ipa: Ipa, write: u64) -> Result<(), Error> {
        let (page, pfn) = (ipa.page_base(), Pfn(ipa.page_number()));
        let mut host = self.host.lock();
        if ipa.0 >= host.limit() {
            return Err(Error::Denied);
        }
        if let Some(mapping) = host.walk(&self.pool, page) {
            // Another CPU was faster, or it is a store to a read-only page.
            let allowed = write == 0 || mapping.attributes.access == Access::ReadWrite;
            return if allowed { Ok(()) } else { Err(Error::Denied) };
        }
        match self.frames.entry(pfn) {
            Some(entry) => self.map_host_ram(&mut host, pfn, entry),
            None => self.map_host_device(&mut host, pfn, write),
        }
    }

    /// Maps RAM: the 2 MiB block if all of it is the hostvisor's alone, else the page.
    ///
    /// Reading frame states without claiming them is safe under the table's lock. A donor makes the
    /// entry busy *before* it takes this lock to unmap. If it did so before we read, we see it (busy,
    /// or what came of it) and do not map. If after, it gets the lock after us, finds our mapping,
    /// and removes it before its commit. The same holds for `vm_unshare`.
    ///
    /// A block contains Host frames only when it is made, and a frame becomes VmShared only after
    /// it left this table as VmPrivate: so no VmShared frame is ever inside a block.
    fn map_host_ram(&self, host: &mut Stage2, pfn: Pfn, entry: Entry) -> Result<(), Error> {
        entry.host_access()?;
        let block = Pfn(pfn.0 & !(PAGES_2M - 1));
        if !self.frames.all_host(block, PAGES_2M) {
            return self.map_host(host, pfn, 1, Attributes::RAM);
        }
        let (ipa, pa) = (Ipa(block.base().0), block.base());
        match self.map_host(host, block, PAGES_2M, Attributes::RAM) {
            // Some of its pages are mapped one by one.
            Err(Error::Exists) => {
                host.replace_table(&self.pool, ipa, pa, PAGES_2M, Attributes::RAM);
            }
            other => other?,
        }
        host.merge(&self.pool, ipa, BLOCK_2M_LEVEL);
        Ok(())
    }

    /// Maps MMIO: the largest block without RAM and restricted regions, else the page.
    fn map_host_device(&self, host: &mut Stage2, pfn: Pfn, write: u64) -> Result<(), Error> {
        for pages in [PAGES_1G, PAGES_2M] {
            let block = Pfn(pfn.0 & !(pages - 1));
            let (base, size) = (block.base(), pages << PAGE_SHIFT);
            if !self.frames.any_ram(block, pages) && self.restricted.none_in(base, size) {
                return self.map_host(host, block, pages, Attributes::DEVICE);
            }
        }
        let access = self.restricted.access(pfn.base(), PAGE_SIZE);
        let attributes = match access {
            Access::ReadWrite => Attributes::DEVICE,
            Access::ReadOnly if write == 0 => Attributes::DEVICE_READ_ONLY,
            _ => return Err(Error::Denied),
        };
        self.map_host(host, pfn, 1, attributes)
    }

    fn map_host(
        &self,
        host: &mut Stage2,
        pfn: Pfn,
        pages: u64,
        attributes: Attributes,
    ) -> Result<(), Error> {
        let ipa = Ipa(pfn.base().0);
        let mut reserve = self
            .pool
            .reserve(host.tables_to_map(&self.pool, ipa, pages)?)?;
        host.map(&self.pool, &mut reserve, ipa, pfn.base(), pages, attributes);
        Ok(())
    }
}

/// Runs `step(done, left)` until [`MAX_FRAMES_PER_CALL`] or `count` frames are done. Answers how
/// many, or the error that struck before the first.
fn batch(count: u64, mut step: impl FnMut(u64, u64) -> Result<u64, Error>) -> Result<u64, Error> {
    let total = count.min(MAX_FRAMES_PER_CALL);
    let mut done = 0;
    while done < total {
        match step(done, total - done) {
            Ok(run) => done += run,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// `pages` cut off at the end of the aligned 2 MiB that page number `page` lies in.
fn within_2m(page: u64, pages: u64) -> u64 {
    pages.min(PAGES_2M - page % PAGES_2M)
}

fn check_ipa_range(ipa: Ipa, count: u64) -> Result<(), Error> {
    let pages = 1 << (VM_IPA_BITS - PAGE_SHIFT);
    let inside = ipa
        .page_number()
        .checked_add(count)
        .is_some_and(|end| end <= pages);
    if count > 0 && ipa.is_aligned(PAGE_SIZE) && inside {
        Ok(())
    } else {
        Err(Error::Invalid)
    }
}

fn check_frames(pfn: Pfn, count: u64) -> Result<(), Error> {
    let inside = pfn
        .checked_add(count)
        .is_some_and(|end| end.0 <= 1 << PFN_BITS);
    if count > 0 && inside {
        Ok(())
    } else {
        Err(Error::Invalid)
    }
}

#[cfg(test)]
mod tests;
