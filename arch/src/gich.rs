//! List registers of a GICv2, GICH_LR<n> (GIC architecture IHI 0048B, 5.3.10), and of a GICv3, ICH_LR<n>_EL2
//! (IHI 0069, 12.4.5). The run page speaks of the latter on every machine.
//!
//! A GICv2 has five bits of priority, ten of INTID, and beside an SGI's INTID the CPU that sent it.

use abi::run::{
    LR_ACTIVE, LR_EOI, LR_GROUP1, LR_HW, LR_PENDING, LR_PINTID_SHIFT, LR_PRIORITY_SHIFT,
    LR_SGI_SOURCE,
};

/// VirtualID and, in ICH_LR's place for it, an SGI's sender: GICH_LR has that elsewhere, [`CPUID`].
const VIRTUAL_ID: u32 = 0x3ff;
/// PhysicalID: lowest bit.
const PHYSICAL_ID_SHIFT: u32 = 10;
const PHYSICAL_ID: u32 = 0x3ff << PHYSICAL_ID_SHIFT;
/// CPUID, of an SGI: the lowest bits of PhysicalID.
const CPUID: u32 = 7 << PHYSICAL_ID_SHIFT;
/// EOI, without HW: the highest bit of PhysicalID.
pub const EOI: u32 = 1 << 19;
const PRIORITY_SHIFT: u32 = 23;
const PRIORITY: u32 = 0x1f << PRIORITY_SHIFT;
const PENDING: u32 = 1 << 28;
const ACTIVE: u32 = 1 << 29;
const GROUP1: u32 = 1 << 30;
/// HW: PhysicalID is a physical interrupt, deactivated with this one.
pub const HW: u32 = 1 << 31;

/// Priority bits that GICH_LR leaves out, of eight.
const PRIORITY_LOST: u32 = 3;

/// Single bits: here, there.
const FLAGS: [(u32, u64); 4] = [
    (PENDING, LR_PENDING),
    (ACTIVE, LR_ACTIVE),
    (GROUP1, LR_GROUP1),
    (HW, LR_HW),
];

// The sender has the same place in both.
const _: () = assert!(CPUID as u64 == LR_SGI_SOURCE);

/// The GICH_LR of what an ICH_LR says.
#[must_use]
pub fn encode(lr: u64) -> u32 {
    let mut word = lr as u32 & (VIRTUAL_ID | CPUID);
    if lr & LR_HW != 0 {
        word = lr as u32 & VIRTUAL_ID
            | ((lr >> LR_PINTID_SHIFT) as u32) << PHYSICAL_ID_SHIFT & PHYSICAL_ID;
    } else if lr & LR_EOI != 0 {
        word |= EOI;
    }
    word |= ((lr >> LR_PRIORITY_SHIFT) as u32 >> PRIORITY_LOST) << PRIORITY_SHIFT & PRIORITY;
    for (here, there) in FLAGS {
        if lr & there != 0 {
            word |= here;
        }
    }
    word
}

/// The ICH_LR of what a GICH_LR says.
#[must_use]
pub fn decode(word: u32) -> u64 {
    let mut lr = u64::from(word & VIRTUAL_ID);
    if word & HW != 0 {
        lr |= u64::from((word & PHYSICAL_ID) >> PHYSICAL_ID_SHIFT) << LR_PINTID_SHIFT;
    } else {
        lr |= u64::from(word & CPUID);
        if word & EOI != 0 {
            lr |= LR_EOI;
        }
    }
    lr |= u64::from((word & PRIORITY) >> PRIORITY_SHIFT) << (LR_PRIORITY_SHIFT + PRIORITY_LOST);
    for (here, there) in FLAGS {
        if word & here != 0 {
            lr |= there;
        }
    }
    lr
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_are_where_the_architecture_has_them() {
        assert_eq!(
            encode(LR_PENDING | LR_HW | 27 << LR_PINTID_SHIFT | 0xa0 << LR_PRIORITY_SHIFT | 27),
            0x8000_0000 | 0x1000_0000 | 0x14 << 23 | 27 << 10 | 27
        );
        assert_eq!(
            encode(LR_ACTIVE | LR_GROUP1 | LR_EOI | 33),
            0x4000_0000 | 0x2000_0000 | 1 << 19 | 33
        );
        assert_eq!(encode(LR_PENDING | 5 << 10 | 3), 0x1000_0000 | 5 << 10 | 3);
        assert_eq!(encode(0), 0);
    }

    proptest! {
        /// Both directions lose nothing that the other format has a place for.
        #[test]
        fn what_a_gicv2_holds_comes_back(word in any::<u32>()) {
            let reserved = if word & HW == 0 { 0x3f << 13 } else { 0 } | 7 << 20;
            prop_assert_eq!(encode(decode(word)), word & !reserved);
        }

        #[test]
        fn only_the_low_priority_bits_are_lost(
            flags in 0u64..16, eoi in any::<bool>(), priority in 0u64..256, pintid in 0u64..1024,
            vintid in 0u64..1020, source in 0u64..8,
        ) {
            let mut lr = flags << 60 | priority << LR_PRIORITY_SHIFT | vintid;
            if lr & LR_HW != 0 {
                lr |= pintid << LR_PINTID_SHIFT;
            } else {
                lr |= (u64::from(eoi) * LR_EOI) | (source << 10);
            }
            prop_assert_eq!(decode(encode(lr)), lr & !(7 << LR_PRIORITY_SHIFT));
        }
    }
}
