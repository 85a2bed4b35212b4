//! List registers: what a vCPU enters its guest with, and what comes back.

use super::block::{Block, bits};
use super::{BLOCKS, FIRST_SPI, Fill, KickMask, Vgic};
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
    pub fn fill(&mut self, vcpu: usize, lrs: &mut [u64]) -> Fill {
        if self.has_lists(vcpu) {
            let _ = self.drain(vcpu, &[]);
        }
        let Some(cpu) = self.cpus.get_mut(vcpu) else {
            return Fill::default();
        };
        cpu.vtimer_done = false;
        let summary = cpu.summary;
        if summary == 0 {
            return Fill::default();
        }
        let room = lrs.len().min(MAX_LIST_REGISTERS);
        let queued: u32 = bits(summary)
            .map(|n| cpu.todo.get(n as usize).map_or(0, |word| word.count_ones()))
            .sum();
        let chosen = if queued as usize <= room {
            cpu.todo
        } else {
            self.choose(vcpu, room)
        };
        let mut slots = lrs.iter_mut().take(room);
        let mut count = 0;
        for index in bits(summary) {
            let index = index as usize;
            let word = chosen.get(index).copied().unwrap_or(0);
            let Some(cpu) = self.cpus.get_mut(vcpu) else {
                break;
            };
            cpu.dequeue(index, word);
            for bit in bits(word) {
                let (Some(slot), Some(list)) = (slots.next(), cpu.lists.get_mut(count)) else {
                    break;
                };
                let intid = index as u32 * 32 + bit;
                let (block, stays) = match index.checked_sub(1) {
                    None => (&mut cpu.private, true),
                    Some(n) => {
                        let Some(block) = self.spis.get_mut(n) else {
                            break;
                        };
                        let route = self.routes.get((intid - FIRST_SPI) as usize);
                        (
                            block,
                            route.is_some_and(|route| usize::from(route.target) == vcpu),
                        )
                    }
                };
                let wanted = block.wanted(self.groups);
                *slot = load(block, bit, intid, wanted, stays, intid == self.vtimer);
                *list = intid as u16;
                count += 1;
            }
        }
        if let Some(cpu) = self.cpus.get_mut(vcpu) {
            cpu.filled = count;
        }
        Fill {
            count,
            underflow: queued as usize > count,
        }
    }

    /// Takes back the state of the list registers that the last [`Vgic::fill`] wrote, as they are
    /// after the run. A list register missing in `lrs` counts as untouched by the guest: after a run
    /// that did not happen, pass `&[]`. Other vCPUs may have something to take from this: an SPI that
    /// was routed to them meanwhile.
    pub fn drain(&mut self, vcpu: usize, lrs: &[u64]) -> KickMask {
        let mut kick = KickMask::NONE;
        let Some(cpu) = self.cpus.get_mut(vcpu) else {
            return kick;
        };
        let filled = core::mem::take(&mut cpu.filled);
        if filled == 0 {
            return kick;
        }
        let lists = cpu.lists;
        for (n, &intid) in lists.iter().enumerate().take(filled) {
            let (index, flag) = (usize::from(intid >> 5), 1 << (intid & 31));
            let lr = lrs.get(n).copied();
            if let Some(block) = self.block_mut(vcpu, index) {
                unload(block, flag, lr);
            }
            if lr.is_some_and(|lr| lr & (LR_HW | LR_PENDING | LR_ACTIVE) == LR_HW) {
                if let Some(cpu) = self.cpus.get_mut(vcpu) {
                    cpu.vtimer_done = true;
                }
            }
            kick |= self.update(vcpu, index, flag);
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

/// Moves an interrupt, no longer queued, from its block to a list register (IHI 0069, ICH_LR<n>_EL2).
fn load(block: &mut Block, bit: u32, intid: u32, wanted: u32, stays: bool, hw: bool) -> u64 {
    let flag = 1 << bit;
    block.queued &= !flag;
    block.held |= flag;
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

/// Takes an interrupt back from its list register, or from one that the guest never saw.
fn unload(block: &mut Block, flag: u32, lr: Option<u64>) {
    let carried = block.carried & flag;
    block.carried &= !flag;
    block.held &= !flag;
    let forced = block.forced & flag != 0;
    block.forced &= !flag;
    if lr.is_none_or(|lr| lr & LR_PENDING != 0) {
        block.latch |= carried;
    }
    if let (Some(lr), false) = (lr, forced) {
        if lr & LR_ACTIVE != 0 {
            block.active |= flag;
        } else {
            block.active &= !flag;
        }
    }
}
