//! The state of 32 interrupts: what one distributor register of one bit per interrupt covers.

/// Interrupts in a block.
pub(super) const BLOCK_INTIDS: u32 = 32;

/// Priority bits a virtual CPU interface is sure to implement: the upper five (GIC architecture,
/// ICH_VTR_EL2.PRIbits is at least 4, "five bits").
const PRIORITY_MASK: u8 = 0xf8;

/// 32 interrupts, bit n of each word for the n-th.
///
/// An interrupt that sits in a list register is `held`; what a list register has taken over of the
/// latch is `carried` and comes back if the guest has not acknowledged it by the time of the drain.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// GICD_ISENABLER.
    pub(super) enabled: u32,
    /// Pending by an edge or by a write to GICD_ISPENDR, not yet given to a list register.
    pub(super) latch: u32,
    /// Input lines that are high.
    pub(super) line: u32,
    /// GICD_ISACTIVER.
    pub(super) active: u32,
    /// GICD_ICFGR: 1 is edge-triggered, 0 level-sensitive.
    pub(super) edge: u32,
    /// GICD_IGROUPR: 1 is group 1.
    pub(super) group1: u32,
    /// In a list register of some vCPU.
    pub(super) held: u32,
    /// Latches that moved into a list register.
    pub(super) carried: u32,
    /// Written by GICD_ISACTIVER/ICACTIVER while held: the list register's active bit is stale.
    pub(super) forced: u32,
    /// In the to-do words of some vCPU.
    pub(super) queued: u32,
    priority: [u8; BLOCK_INTIDS as usize],
}

impl Block {
    /// As after reset: all disabled, inactive, group 1 (as KVM has it: guests that leave the group
    /// registers alone expect IRQs, not FIQs), priority 0; `edge` as given.
    pub(super) const fn new(edge: u32) -> Self {
        Self {
            enabled: 0,
            latch: 0,
            line: 0,
            active: 0,
            edge,
            group1: u32::MAX,
            held: 0,
            carried: 0,
            forced: 0,
            queued: 0,
            priority: [0; BLOCK_INTIDS as usize],
        }
    }

    /// Pending as the distributor sees it, apart from what list registers carry.
    pub(super) const fn pending(&self) -> u32 {
        self.latch | (self.line & !self.edge)
    }

    /// Pending, enabled, and of a group that is on: to be signalled once it is not active.
    /// `groups` are the GICD_CTLR enables.
    pub(super) const fn wanted(&self, groups: Groups) -> u32 {
        self.pending() & self.enabled & groups.mask(self.group1)
    }

    /// Raises or lowers input lines; a rising edge-triggered one latches. Returns the bits of `mask`
    /// that changed.
    pub(super) const fn set_line(&mut self, mask: u32, high: bool) -> u32 {
        let changed = if high {
            mask & !self.line
        } else {
            mask & self.line
        };
        self.line ^= changed;
        if high {
            self.latch |= changed & self.edge;
        }
        changed
    }

    /// The priority of interrupt `index`.
    pub(super) fn priority(&self, index: u32) -> u8 {
        self.priority
            .get(index as usize)
            .copied()
            .unwrap_or(PRIORITY_MASK)
    }

    /// Sets the priority of interrupt `index`, less the bits that do not exist.
    pub(super) fn set_priority(&mut self, index: u32, priority: u8) {
        if let Some(slot) = self.priority.get_mut(index as usize) {
            *slot = priority & PRIORITY_MASK;
        }
    }

    /// GICD_ICFGR<half>: two bits an interrupt, the upper says edge.
    pub(super) fn config(&self, half: u32) -> u32 {
        (0..16).fold(0, |word, n| {
            word | (((self.edge >> (half * 16 + n)) & 1) << (2 * n + 1))
        })
    }

    /// Writes GICD_ICFGR<half>. Returns the interrupts whose configuration changed.
    pub(super) fn set_config(&mut self, half: u32, value: u32) -> u32 {
        let shift = half * 16;
        let edge = (0..16).fold(0, |bits, n| bits | (((value >> (2 * n + 1)) & 1) << n)) << shift;
        let changed = (self.edge ^ edge) & (0xffff << shift);
        self.edge ^= changed;
        changed
    }
}

/// The group enables of GICD_CTLR, each as a mask of none or all interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    group0: u32,
    group1: u32,
}

impl Groups {
    pub(super) const fn new(group0: bool, group1: bool) -> Self {
        Self {
            group0: 0u32.wrapping_sub(group0 as u32),
            group1: 0u32.wrapping_sub(group1 as u32),
        }
    }

    /// EnableGrp0.
    pub(super) const fn group0(self) -> bool {
        self.group0 != 0
    }

    /// EnableGrp1.
    pub(super) const fn group1(self) -> bool {
        self.group1 != 0
    }

    /// The interrupts whose group is on, given their GICD_IGROUPR word.
    const fn mask(self, group1: u32) -> u32 {
        (self.group1 & group1) | (self.group0 & !group1)
    }
}

/// The bits set in `word`, lowest first.
pub(super) fn bits(mut word: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}
