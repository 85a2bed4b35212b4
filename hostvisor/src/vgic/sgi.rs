//! SGIs of a GICv2: the receiver learns who sent one, so that the same SGI from two vCPUs is two interrupts,
//! one after the other (IHI 0048B, 3.2.1).

use super::{Cpu, SGIS};
use abi::run::{LR_EOI, LR_PENDING, LR_SGI_SOURCE_SHIFT};

/// Who sent one SGI to one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Senders {
    /// vCPUs from which it is pending, a bit each, apart from what a list register holds. The block's
    /// latch is set if there is one.
    pub(super) pending: u8,
    /// Whose is in the list register, or active.
    pub(super) current: u8,
}

impl Senders {
    pub(super) const NONE: Self = Self {
        pending: 0,
        current: 0,
    };
}

impl Cpu {
    /// Completes a list register `lr`, as it was loaded, for SGI `intid` of a GICv2: it names one sender. If
    /// others wait, its end is to be told, so that the next one comes.
    pub(super) fn name_sender(&mut self, intid: u32, lr: u64) -> u64 {
        let Some(senders) = self.senders.get_mut(intid as usize) else {
            return lr;
        };
        let mut more = 0;
        if lr & LR_PENDING != 0 {
            senders.current = senders.pending.trailing_zeros() as u8 & 7;
            senders.pending &= !(1 << senders.current);
            if senders.pending != 0 {
                self.private.latch |= 1 << intid;
                more = LR_EOI;
            }
        }
        lr | more | u64::from(senders.current) << LR_SGI_SOURCE_SHIFT
    }

    /// SGI `intid` came back from its list register as it went: it is pending again.
    pub(super) fn take_back_sender(&mut self, intid: u32) {
        if let Some(senders) = self.senders.get_mut(intid as usize) {
            senders.pending |= 1 << senders.current;
        }
    }

    /// The vCPUs from which SGI `intid` is pending, a bit each (GICD_CPENDSGIR, GICD_SPENDSGIR).
    pub(super) fn pending_from(&self, intid: u32) -> u8 {
        let carried = self.private.carried & 1 << (intid % SGIS) != 0;
        self.senders.get(intid as usize).map_or(0, |senders| {
            senders.pending | u8::from(carried) << senders.current
        })
    }

    /// SGI `intid` is pending from the vCPUs in `from`.
    pub(super) fn pend_from(&mut self, intid: u32, from: u8) {
        if let Some(senders) = self.senders.get_mut(intid as usize) {
            senders.pending |= from;
            if senders.pending != 0 {
                self.private.latch |= 1 << intid;
            }
        }
    }

    /// SGI `intid` is pending no more from the vCPUs in `from`.
    pub(super) fn unpend_from(&mut self, intid: u32, from: u8) {
        let flag = 1 << (intid % SGIS);
        if let Some(senders) = self.senders.get_mut(intid as usize) {
            senders.pending &= !from;
            if senders.pending == 0 {
                self.private.latch &= !flag;
            }
            if from >> senders.current & 1 != 0 {
                self.private.carried &= !flag;
            }
        }
    }
}
