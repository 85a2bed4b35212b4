//! List registers: what a vCPU enters its guest with, and what comes back.

use super::block::{BLOCK_INTIDS, Block, bits};
use super::{BLOCKS, Cpu, FIRST_SPI, Fill, KickMask, Model, SGIS, Vgic};
use abi::run::{
    LR_ACTIVE, LR_EOI, LR_GROUP1, LR_HW, LR_PENDING, LR_PINTID_SHIFT, LR_PRIORITY_SHIFT,
    MAX_LIST_REGISTERS,
};

/// Sort key of a queued interrupt: active before pending, then the lower priority value, then the
/// lower INTID, which is the key's low half.
const fn key(active: bool, priority: u8, intid: u32) -> u32 {
    (!active as u32) << 24 | (priority as u32) << 16 | intid
}
const KEY_PENDING: u32 = 1 << 24;
const KEY_PRIORITY_SHIFT: u32 = 16;
const KEY_INTID: u32 = 0xffff;

impl Vgic {
    /// Loads what `vcpu` has to take into list registers, `lrs[..count]`; the others are not touched.
    ///
    /// If more is queued than fits, active interrupts come first, because the guest's deactivation
    /// of one without list register would be lost; then by priority. Only when active ones fill all
    /// of `lrs` is the last place given to a pending one that preempts them all. Pass two list
    /// registers at least, or ICH_HCR_EL2.UIE ends every run at once.
    ///
    /// A level-sensitive interrupt whose line is high carries the EOI bit, so that the exit at its
    /// deactivation samples the line again; once the line is low it needs no exit. It is never
    /// loaded as both pending and active, nor is one that has since been routed elsewhere.
    ///
    /// [`Vgic::drain`] comes between two fills; where it did not, the first one is taken back.
    #[inline]
    pub fn fill(&mut self, vcpu: usize, lrs: &mut [u64]) -> Fill {
        if self.has_lists(vcpu) {
            self.put_back(vcpu);
        }
        let Some(cpu) = self.cpus.get_mut(vcpu) else {
            return Fill::default();
        };
        if cpu.summary == 0 {
            return Fill::default();
        }
        match self.fill_one(vcpu, lrs) {
            Some(fill) => fill,
            None => self.fill_queued(vcpu, lrs),
        }
    }

    /// [`Vgic::fill_queued`] where one private interrupt is all there is, as it mostly is; `None` if it is not.
    #[inline]
    fn fill_one(&mut self, vcpu: usize, lrs: &mut [u64]) -> Option<Fill> {
        let cpu = self.cpus.get_mut(vcpu)?;
        let flag = cpu.todo[0];
        if cpu.summary != 1 || !flag.is_power_of_two() || self.model == Model::V2 {
            return None;
        }
        let lr = lrs.first_mut()?;
        let intid = flag.trailing_zeros();
        cpu.todo[0] = 0;
        cpu.summary = 0;
        let block = &mut cpu.private;
        block.queued &= !flag;
        block.held |= flag;
        let wanted = block.wanted(self.groups);
        let hw = intid == self.vtimer && self.vtimer_hw;
        *lr = load(block, intid, intid, wanted, true, hw);
        cpu.lists[0] = intid as u16;
        cpu.filled = 1;
        Some(Fill {
            count: 1,
            underflow: false,
        })
    }

    #[cold]
    fn put_back(&mut self, vcpu: usize) {
        let _ = self.drain_held(vcpu, &[]);
    }

    #[inline(never)]
    fn fill_queued(&mut self, vcpu: usize, lrs: &mut [u64]) -> Fill {
        let room = lrs.len().min(MAX_LIST_REGISTERS);
        let underflow = self
            .cpus
            .get(vcpu)
            .is_some_and(|cpu| cpu.queues_more_than(room));
        let chosen = underflow.then(|| self.choose(vcpu, room));
        let Some(cpu) = self.cpus.get_mut(vcpu) else {
            return Fill::default();
        };
        let mut slots = lrs.iter_mut().zip(&mut cpu.lists);
        let mut count = 0;
        // Bit n: list register n has an SGI that is to name its sender.
        let mut sgis = 0u32;
        for index in bits(cpu.summary) {
            let Some(todo) = cpu.todo.get_mut(index as usize) else {
                break;
            };
            let limit = chosen.as_ref().map_or(u32::MAX, |words| {
                words.get(index as usize).copied().unwrap_or(0)
            });
            let taken = *todo & limit;
            *todo &= !limit;
            if *todo == 0 {
                cpu.summary &= !(1 << index);
            }
            let spi_block = (index as usize).checked_sub(1);
            let block = match spi_block {
                None => &mut cpu.private,
                Some(n) => match self.spis.get_mut(n) {
                    Some(block) => block,
                    None => break,
                },
            };
            block.queued &= !taken;
            block.held |= taken;
            let wanted = block.wanted(self.groups);
            for bit in bits(taken) {
                let Some((lr, list)) = slots.next() else {
                    break;
                };
                let intid = index * BLOCK_INTIDS + bit;
                let is_v2_sgi = intid < SGIS && self.model == Model::V2;
                let stays = if intid < FIRST_SPI {
                    // An active SGI of a GICv2 and a pending one are of different senders.
                    !is_v2_sgi
                } else {
                    self.routes
                        .get((intid - FIRST_SPI) as usize)
                        .is_some_and(|route| usize::from(route.target) == vcpu)
                };
                let hw = intid == self.vtimer && self.vtimer_hw;
                *lr = load(block, bit, intid, wanted, stays, hw);
                *list = intid as u16;
                if is_v2_sgi {
                    sgis |= 1 << count;
                }
                count += 1;
            }
        }
        cpu.filled = count;
        for n in bits(sgis) {
            if let Some(lr) = lrs.get_mut(n as usize) {
                *lr = cpu.name_sender(*lr as u32, *lr);
            }
        }
        Fill { count, underflow }
    }

    /// Takes back the state of the list registers that the last [`Vgic::fill`] wrote, as they are
    /// after the run. A list register missing in `lrs` counts as untouched by the guest: after a run
    /// that did not happen, pass `&[]`. Other vCPUs may have something to take from this: an SPI that
    /// was routed to them meanwhile.
    #[inline]
    pub fn drain(&mut self, vcpu: usize, lrs: &[u64]) -> KickMask {
        if self.has_lists(vcpu) {
            self.drain_held(vcpu, lrs)
        } else {
            KickMask::NONE
        }
    }

    fn drain_held(&mut self, vcpu: usize, lrs: &[u64]) -> KickMask {
        let Some(cpu) = self.cpus.get_mut(vcpu) else {
            return KickMask::NONE;
        };
        let filled = core::mem::take(&mut cpu.filled);
        let intid = u32::from(cpu.lists[0]);
        if filled == 1 && intid < FIRST_SPI && self.model == Model::V3 {
            // As mostly.
            let lr = lrs.first().copied();
            unload(&mut cpu.private, 1 << intid, lr);
            return self.update_private(vcpu, 1 << intid);
        }
        let mut private = 0;
        // SGIs that the guest has not taken.
        let mut returned = 0;
        // Bit n: list register n held an SPI.
        let mut spis = 0;
        for (n, &intid) in cpu.lists.iter().enumerate().take(filled) {
            if u32::from(intid) >= FIRST_SPI {
                spis |= 1 << n;
                continue;
            }
            let lr = lrs.get(n).copied();
            private |= 1 << intid;
            if unload(&mut cpu.private, 1 << intid, lr) && u32::from(intid) < SGIS {
                returned |= 1 << intid;
            }
        }
        if self.model == Model::V2 {
            bits(returned).for_each(|intid| cpu.take_back_sender(intid));
        }
        let mut kick = KickMask::NONE;
        if private != 0 {
            kick |= self.update_private(vcpu, private);
        }
        if spis != 0 {
            kick |= self.drain_spis(vcpu, spis, lrs);
        }
        kick
    }

    /// [`Vgic::drain`] for those list registers, a bit each, that held SPIs.
    #[inline(never)]
    fn drain_spis(&mut self, vcpu: usize, lists: u32, lrs: &[u64]) -> KickMask {
        let mut kick = KickMask::NONE;
        for n in bits(lists) {
            let Some(cpu) = self.cpus.get(vcpu) else {
                break;
            };
            let Some(&intid) = cpu.lists.get(n as usize) else {
                break;
            };
            let spi = u32::from(intid).saturating_sub(FIRST_SPI);
            let (n_block, flag) = ((spi / BLOCK_INTIDS) as usize, 1 << (spi % BLOCK_INTIDS));
            let Some(block) = self.spis.get_mut(n_block) else {
                break;
            };
            unload(block, flag, lrs.get(n as usize).copied());
            kick |= self.update_spis(n_block, flag);
        }
        kick
    }

    /// True between a [`Vgic::fill`] that wrote something and its [`Vgic::drain`].
    #[must_use]
    pub fn has_lists(&self, vcpu: usize) -> bool {
        self.cpus.get(vcpu).is_some_and(|cpu| cpu.filled != 0)
    }

    /// The `room` most urgent of the interrupts queued for `vcpu`, when not all fit. One pass over
    /// them; at most [`MAX_LIST_REGISTERS`] steps each.
    #[cold]
    fn choose(&self, vcpu: usize, room: usize) -> [u32; BLOCKS] {
        let mut chosen = [0; BLOCKS];
        let mut keys = [u32::MAX; MAX_LIST_REGISTERS];
        let keys = keys.get_mut(..room).unwrap_or_default();
        let mut best_pending = u32::MAX;
        let Some(cpu) = self.cpus.get(vcpu) else {
            return chosen;
        };
        for (index, &word) in cpu.todo.iter().enumerate() {
            let Some(block) = self.block(vcpu, index) else {
                break;
            };
            for bit in bits(word) {
                let active = block.active & (1 << bit) != 0;
                let new = key(active, block.priority(bit), index as u32 * 32 + bit);
                if !active {
                    best_pending = best_pending.min(new);
                }
                insert(keys, new);
            }
        }
        let first = keys.first().copied().unwrap_or(0);
        if let Some(last) = keys.last_mut() {
            let preempts =
                (best_pending & !KEY_PENDING) >> KEY_PRIORITY_SHIFT < first >> KEY_PRIORITY_SHIFT;
            if *last & KEY_PENDING == 0 && best_pending != u32::MAX && preempts {
                *last = best_pending;
            }
        }
        for intid in keys
            .iter()
            .filter(|&&key| key != u32::MAX)
            .map(|key| key & KEY_INTID)
        {
            if let Some(word) = chosen.get_mut((intid >> 5) as usize) {
                *word |= 1 << (intid & 31);
            }
        }
        chosen
    }
}

impl Cpu {
    /// True if more than `room` interrupts are queued. (Counted bit by bit and only so far, as there
    /// is no population count without SIMD.)
    fn queues_more_than(&self, room: usize) -> bool {
        let mut left = room;
        for index in bits(self.summary) {
            let mut word = self.todo.get(index as usize).copied().unwrap_or(0);
            while word != 0 {
                if left == 0 {
                    return true;
                }
                left -= 1;
                word &= word - 1;
            }
        }
        false
    }
}

/// Puts `new` into its place in the sorted `keys`, dropping the last.
fn insert(keys: &mut [u32], mut new: u32) {
    if keys.last().is_none_or(|&last| last < new) {
        return;
    }
    for key in keys {
        if new < *key {
            core::mem::swap(key, &mut new);
        }
    }
}

/// What a list register is to say of an interrupt that its block holds (IHI 0069, ICH_LR<n>_EL2).
fn load(block: &mut Block, bit: u32, intid: u32, wanted: u32, stays: bool, hw: bool) -> u64 {
    let flag = 1 << bit;
    let mut lr = u64::from(intid) | u64::from(block.priority(bit)) << LR_PRIORITY_SHIFT;
    if block.group1 & flag != 0 {
        lr |= LR_GROUP1;
    }
    let active = block.active & flag != 0;
    // By the HW bit the deactivation raises the physical interrupt again if the timer still is due. For
    // one that software made pending again there is no such thing: that takes an exit.
    let hw = hw && !(active && block.latch & flag != 0);
    if hw {
        lr |= LR_HW | u64::from(intid) << LR_PINTID_SHIFT;
    }
    let level = block.edge & flag == 0;
    if active {
        lr |= LR_ACTIVE;
    }
    if wanted & flag != 0 {
        let wait = active && (level || !stays);
        if !wait {
            lr |= LR_PENDING;
            block.carried |= block.latch & flag;
            block.latch &= !flag;
        }
        if !hw && (wait || level && block.line & flag != 0) {
            lr |= LR_EOI;
        }
    }
    lr
}

/// Takes an interrupt back from its list register, or from one that the guest never saw. True if a latch
/// came back with it.
fn unload(block: &mut Block, flag: u32, lr: Option<u64>) -> bool {
    let carried = block.carried & flag;
    block.carried &= !flag;
    block.held &= !flag;
    let forced = block.forced & flag != 0;
    block.forced &= !flag;
    let untaken = lr.is_none_or(|lr| lr & LR_PENDING != 0);
    if untaken {
        block.latch |= carried;
    }
    if let (Some(lr), false) = (lr, forced) {
        if lr & LR_ACTIVE != 0 {
            block.active |= flag;
        } else {
            block.active &= !flag;
        }
    }
    untaken && carried != 0
}
