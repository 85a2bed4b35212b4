//! List registers: what of a hostvisor's wishes may enter the hardware.
//!
//! The virtual CPU interface can deactivate physical interrupts (ICH_LR.HW) and is UNPREDICTABLE for
//! some contents (GIC architecture §12.4.5), so every register is checked, copied value by copied
//! value.

use abi::Error;
use abi::run::{LR_ACTIVE, LR_EOI, LR_GROUP1, LR_HW, LR_PENDING, LR_PINTID_SHIFT};

const STATE: u64 = LR_PENDING | LR_ACTIVE;
const PRIORITY: u64 = 0xff << 48;
const VINTID: u64 = 0xffff_ffff;
/// What of the vINTID tells one interrupt from another.
const INTID: u64 = 0x3ff;
/// SGIs are the first INTIDs.
const SGIS: u64 = 16;
const PINTID: u64 = 0x3ff << LR_PINTID_SHIFT;
/// First INTID that is not an SGI, PPI or SPI.
const SPECIAL: u64 = 1020;

/// Checks one list register for loading. An inactive one is 0, whatever else it says. `sgi_source`: the
/// bits in which an SGI may name its sender.
///
/// # Errors
///
/// `Invalid`: reserved bits, an INTID beyond the SPIs, or HW with pending and active at once.
/// `Denied`: HW for any interrupt but the virtual timer's.
pub fn check(raw: u64, vtimer_intid: u64, sgi_source: u64) -> Result<u64, Error> {
    if raw & STATE == 0 {
        return Ok(0);
    }
    let common = STATE | LR_HW | LR_GROUP1 | PRIORITY | VINTID;
    let is_sgi = raw & INTID < SGIS;
    let vintid = raw & VINTID & !if is_sgi { sgi_source } else { 0 };
    if vintid >= SPECIAL {
        return Err(Error::Invalid);
    }
    if raw & LR_HW != 0 {
        if raw & !(common | PINTID) != 0 || raw & STATE == STATE {
            return Err(Error::Invalid);
        }
        if vintid != vtimer_intid || (raw & PINTID) >> LR_PINTID_SHIFT != vtimer_intid {
            return Err(Error::Denied);
        }
    } else if raw & !(common | LR_EOI) != 0 {
        return Err(Error::Invalid);
    }
    Ok(raw)
}

/// True if two live registers name the same interrupt, which the architecture leaves UNPREDICTABLE.
#[must_use]
pub fn has_duplicates(registers: &[u64]) -> bool {
    registers.iter().enumerate().any(|(i, &a)| {
        a != 0
            && registers
                .iter()
                .skip(i.saturating_add(1))
                .any(|&b| b != 0 && (a ^ b) & INTID == 0)
    })
}

#[cfg(test)]
mod tests {
    use super::{check, has_duplicates};
    use abi::Error;
    use abi::run::{
        LR_ACTIVE, LR_EOI, LR_GROUP1, LR_HW, LR_PENDING, LR_SGI_SOURCE, LR_SGI_SOURCE_SHIFT,
    };

    const VTIMER: u64 = 27;

    #[test]
    fn software_interrupts_pass_as_they_are() {
        for raw in [
            LR_PENDING | LR_GROUP1 | 33,
            LR_PENDING | LR_ACTIVE | LR_EOI | 0xa0 << 48 | 5,
        ] {
            assert_eq!(check(raw, VTIMER, 0), Ok(raw));
        }
        assert_eq!(check(LR_HW | 77, VTIMER, 0), Ok(0));
    }

    #[test]
    fn only_the_virtual_timer_may_stand_for_a_physical_interrupt() {
        let hw = LR_PENDING | LR_HW;
        assert_eq!(check(hw | 27 << 32 | 27, VTIMER, 0), Ok(hw | 27 << 32 | 27));
        assert_eq!(check(hw | 30 << 32 | 27, VTIMER, 0), Err(Error::Denied));
        assert_eq!(check(hw | 27 << 32 | 30, VTIMER, 0), Err(Error::Denied));
        assert_eq!(check(hw | 33 << 32 | 33, VTIMER, 0), Err(Error::Denied));
        assert_eq!(
            check(hw | LR_ACTIVE | 27 << 32 | 27, VTIMER, 0),
            Err(Error::Invalid)
        );
    }

    #[test]
    fn reserved_bits_and_intids_are_refused() {
        assert_eq!(check(LR_PENDING | 1020, VTIMER, 0), Err(Error::Invalid));
        assert_eq!(check(LR_PENDING | 8192, VTIMER, 0), Err(Error::Invalid));
        assert_eq!(
            check(LR_PENDING | 1 << 59 | 33, VTIMER, 0),
            Err(Error::Invalid)
        );
        assert_eq!(
            check(LR_PENDING | 1 << 45 | 33, VTIMER, 0),
            Err(Error::Invalid)
        );
        assert_eq!(
            check(LR_PENDING | 1 << 32 | 33, VTIMER, 0),
            Err(Error::Invalid)
        );
    }

    /// GICH_LR has three bits for the sender of an SGI, and only a GICv2 has them.
    #[test]
    fn an_sgi_names_its_sender_on_a_gicv2_alone() {
        let from_5 = LR_PENDING | 5 << LR_SGI_SOURCE_SHIFT | 3;
        assert_eq!(check(from_5, VTIMER, LR_SGI_SOURCE), Ok(from_5));
        assert_eq!(check(from_5, VTIMER, 0), Err(Error::Invalid));
        for refused in [
            LR_PENDING | 1 << 13 | 3,
            LR_PENDING | 5 << LR_SGI_SOURCE_SHIFT | 16,
            LR_PENDING | LR_SGI_SOURCE | 33,
        ] {
            assert_eq!(check(refused, VTIMER, LR_SGI_SOURCE), Err(Error::Invalid));
        }
        let hw = LR_HW | 27 << 32 | from_5;
        assert_eq!(check(hw, VTIMER, LR_SGI_SOURCE), Err(Error::Denied));
        // One SGI from two senders is still one interrupt.
        assert!(has_duplicates(&[from_5, LR_PENDING | 3]));
    }

    #[test]
    fn duplicates_are_found() {
        assert!(!has_duplicates(&[0, LR_PENDING | 5, 0, LR_PENDING | 6]));
        assert!(has_duplicates(&[LR_ACTIVE | 5, 0, LR_PENDING | 5]));
    }
}
