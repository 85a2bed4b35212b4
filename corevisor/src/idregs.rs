//! The features a guest sees: ID group 3 of this machine, masked to what the corevisor handles.
//!
//! Fields are kept by name, so that a feature of a processor yet to be built stays hidden until
//! somebody has looked at what it adds to a guest's state (Arm ARM D24.2, ID_AA64*_EL1).

/// Number of registers: CRm 1–7, op2 0–7.
pub const COUNT: usize = 56;

/// PARange of 36 bits, as ID_AA64MMFR0_EL1 says it: the widest IPA a VM may use.
const PA_RANGE_36: u64 = 1;

/// Index of the register with this CRm and op2, if it is in the group.
#[must_use]
pub fn index(crm: u8, op2: u8) -> Option<usize> {
    if !(1..=7).contains(&crm) || op2 > 7 {
        return None;
    }
    Some(usize::from(crm).saturating_sub(1) << 3 | usize::from(op2))
}

/// A 4-bit unsigned field at bit `lsb`, at most `max`.
const fn at_most(raw: u64, lsb: u32, max: u64) -> u64 {
    let field = (raw >> lsb) & 0xf;
    (if field < max { field } else { max }) << lsb
}

/// The 4-bit fields at the bits named, as they are.
fn keep(raw: u64, lsbs: &[u32]) -> u64 {
    lsbs.iter()
        .fold(0, |value, &lsb| value | (raw & (0xf << lsb)))
}

/// Registers by CRm and op2: what a guest reads where the machine has `raw`. Unknown ones are zero.
#[must_use]
pub fn sanitise(crm: u8, op2: u8, raw: u64) -> u64 {
    match (crm, op2) {
        // AArch32, for EL0. ID_PFR0: instruction sets, no RAS or AMU. ID_PFR1: generic timer alone.
        (1, 0) => raw & 0xffff,
        (1, 1) => keep(raw, &[16]),
        // ID_DFR0, ID_AFR0: no debug, trace or performance monitors.
        (1, 2 | 3) => 0,
        // ID_MMFR0–3, ID_ISAR0–6, ID_MMFR4, MVFR0–2, ID_PFR2, ID_MMFR5.
        (1 | 2, _) | (3, 0..=2 | 4 | 6) => raw,
        // ID_AA64PFR0_EL1: EL0 as it is, EL1 AArch64 only, FP, AdvSIMD, GIC, DIT, CSV2 without
        // SCXTNUM, CSV3. No EL2, EL3, RAS, SVE, SEL2, MPAM, AMU, RME.
        (4, 0) => keep(raw, &[0, 16, 20, 24, 48, 60]) | 1 << 4 | at_most(raw, 56, 1),
        // ID_AA64PFR1_EL1: BT, SSBS. No MTE, SME, RNDR trap, NMI, GCS.
        (4, 1) => keep(raw, &[0, 4]),
        // ID_AA64DFR0_EL1: Armv8 debug with the fewest break- and watchpoints the fields can say; they
        // read as zero. No PMU, trace, SPE, TRBE, BRBE.
        (5, 0) => 6 | 1 << 12 | 1 << 20,
        // ID_AA64ISAR0_EL1: everything but TME.
        (6, 0) => keep(raw, &[4, 8, 12, 16, 20, 28, 32, 36, 40, 44, 48, 52, 56, 60]),
        // ID_AA64ISAR1_EL1: DPB, JSCVT, FCMA, LRCPC, FRINTTS, SB, SPECRES, BF16, DGH, I8MM. No pointer
        // authentication (APA, API, GPA, GPI), XS, LS64.
        (6, 1) => keep(raw, &[0, 12, 16, 20, 32, 36, 40, 44, 48, 52]),
        // ID_AA64ISAR2_EL1: RPRES, BC. No WFxT, MOPS, pointer authentication.
        (6, 2) => keep(raw, &[4, 20]),
        // ID_AA64MMFR0_EL1: ASIDBits, BigEnd, BigEndEL0, granules without their 52-bit formats. No
        // SNSMem, stage-2 granules, ExS, FGT, ECV.
        (7, 0) => {
            let granule_4k = if (raw >> 28) & 0xf == 0xf {
                0xf << 28
            } else {
                0
            };
            PA_RANGE_36 | keep(raw, &[4, 8, 16, 24]) | at_most(raw, 20, 1) | granule_4k
        }
        // ID_AA64MMFR1_EL1: HAFDBS, HPDS, PAN, ETS. No VMIDs, VHE, LORegions, XNX, TWED, HCX, AFP.
        (7, 1) => at_most(raw, 0, 2) | at_most(raw, 12, 1) | keep(raw, &[20, 36]),
        // ID_AA64MMFR2_EL1: CnP, UAO, LSM, CCIDX, ST, AT, IDS, TTL, BBM, E0PD. No IESB, VA range of 52
        // bits, NV, FWB, EVT.
        (7, 2) => keep(raw, &[0, 4, 8, 20, 28, 32, 36, 48, 52, 60]),
        _ => 0,
    }
}

/// [`sanitise`] over the whole group, in the order of [`index`].
#[must_use]
pub fn sanitise_all(raw: &[u64; COUNT]) -> [u64; COUNT] {
    let mut table = [0; COUNT];
    for crm in 1..=7 {
        for op2 in 0..=7 {
            let Some(i) = index(crm, op2) else { continue };
            if let (Some(to), Some(&from)) = (table.get_mut(i), raw.get(i)) {
                *to = sanitise(crm, op2, from);
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{COUNT, index, sanitise, sanitise_all};

    #[test]
    fn the_index_is_dense_and_bounded() {
        let mut seen = [false; COUNT];
        for crm in 0..=15 {
            for op2 in 0..=8 {
                if let Some(i) = index(crm, op2) {
                    assert!(!seen[i]);
                    seen[i] = true;
                }
            }
        }
        assert!(seen.iter().all(|&s| s));
    }

    #[test]
    fn a_processor_with_everything_shows_only_what_is_handled() {
        let all = sanitise_all(&[u64::MAX; COUNT]);
        let field = |crm, op2, lsb: u32| (all[index(crm, op2).unwrap()] >> lsb) & 0xf;
        // SVE, SME, MTE, AMU, MPAM, RAS, RME, EL2, EL3.
        assert_eq!(field(4, 0, 32), 0);
        assert_eq!(
            field(4, 0, 28) | field(4, 0, 40) | field(4, 0, 44) | field(4, 0, 52),
            0
        );
        assert_eq!(field(4, 0, 8) | field(4, 0, 12), 0);
        assert_eq!(field(4, 1, 8) | field(4, 1, 24), 0);
        assert_eq!(all[index(4, 4).unwrap()] | all[index(4, 5).unwrap()], 0);
        // PMU, SPE, trace.
        assert_eq!(
            field(5, 0, 4) | field(5, 0, 8) | field(5, 0, 32) | field(5, 0, 40),
            0
        );
        // Pointer authentication.
        assert_eq!(
            field(6, 1, 4) | field(6, 1, 8) | field(6, 1, 24) | field(6, 1, 28),
            0
        );
        assert_eq!(field(6, 2, 8) | field(6, 2, 12) | field(6, 2, 16), 0);
        // EL1 is AArch64 only, PARange is 36 bits.
        assert_eq!((field(4, 0, 4), field(7, 0, 0)), (1, 1));
        // VHE, VMIDs, fine-grained traps.
        assert_eq!(field(7, 1, 4) | field(7, 1, 8) | field(7, 0, 56), 0);
    }

    /// By register: what is left of a field of ones, of which every bit that is not kept by name is 0; and what
    /// there is whatever the machine has.
    #[test]
    fn each_field_is_kept_hidden_or_bounded() {
        for ((crm, op2), most, least) in [
            ((1, 0), 0xFFFF, 0),
            ((1, 1), 0xF_0000, 0),
            ((1, 2), 0, 0),
            ((1, 3), 0, 0),
            ((1, 4), u64::MAX, 0),
            ((2, 7), u64::MAX, 0),
            ((3, 2), u64::MAX, 0),
            ((3, 3), 0, 0),
            ((3, 4), u64::MAX, 0),
            ((3, 5), 0, 0),
            ((3, 6), u64::MAX, 0),
            ((3, 7), 0, 0),
            ((4, 0), 0xF10F_0000_0FFF_001F, 0x10),
            ((4, 1), 0xFF, 0),
            ((4, 2), 0, 0),
            ((5, 0), 0x10_1006, 0x10_1006),
            ((5, 1), 0, 0),
            ((6, 0), 0xFFFF_FFFF_F0FF_FFF0, 0),
            ((6, 1), 0x00FF_FFFF_00FF_F00F, 0),
            ((6, 2), 0x00F0_00F0, 0),
            ((7, 0), 0xFF1F_0FF1, 1),
            ((7, 1), 0x00F0_00F0_1002, 0),
            ((7, 2), 0xF0FF_00FF_F0F0_0FFF, 0),
            ((7, 3), 0, 0),
        ] {
            let (ones, zeros) = (sanitise(crm, op2, u64::MAX), sanitise(crm, op2, 0));
            assert_eq!((ones, zeros), (most, least), "{crm} {op2}");
            // What a machine has less of stays less.
            for bit in (0..64).map(|n| 1 << n) {
                let one = sanitise(crm, op2, bit);
                assert!(one == zeros || one & !zeros <= bit, "{crm} {op2} {bit:x}");
            }
        }
        assert_eq!(sanitise(7, 1, 0x1001), 0x1001);
        assert_eq!(sanitise(7, 0, 0xF << 28), 1 | 0xF << 28);
        assert_eq!(sanitise(7, 0, 1 << 28), 1, "52-bit formats");
        let raw = core::array::from_fn(|n| n as u64);
        let all = sanitise_all(&raw);
        assert_eq!((all[8], all[15], all[32]), (8, 15, 0x10_1006));
        assert_eq!(
            (index(1, 7), index(2, 0), index(7, 7)),
            (Some(7), Some(8), Some(55))
        );
        assert_eq!((index(0, 0), index(8, 0), index(1, 8)), (None, None, None));
    }

    #[test]
    fn an_armv8_0_processor_keeps_its_instructions() {
        // Cortex-A57 ID_AA64ISAR0_EL1 and ID_AA64MMFR0_EL1 (TRM).
        assert_eq!(sanitise(6, 0, 0x1_1120), 0x1_1120);
        assert_eq!(sanitise(7, 0, 0x1124), 0x1121 & !0xf000);
    }
}
