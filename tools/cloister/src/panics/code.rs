//! AArch64 instructions, as far as finding where control goes needs them (Arm ARM, section C4.1).

/// What an instruction does with control, or with an address that control may go to later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// Goes to this address, for good, for a while, or on a condition: B, BL, B.cond, BC.cond, CBZ,
    /// CBNZ, TBZ, TBNZ.
    Branch(u64),
    /// Puts this address into a register: ADR.
    Address(u64),
    /// Puts the address of this page into register `.0`: ADRP.
    Page(u32, u64),
    /// Adds a number to register `.0` into any register: ADD (immediate), as after ADRP.
    Add(u32, u64),
    /// Calls whatever a register holds: BLR and its authenticating forms.
    Indirect,
    /// Returns: RET and its authenticating forms.
    Return,
    /// Stops on the spot: BRK, UDF.
    Trap,
    /// Anything else.
    Other,
}

/// Bits `low..low + width` of `word` as a signed number.
fn signed(word: u32, low: u32, width: u32) -> i64 {
    let up = i64::from(word) << (64 - low - width);
    up >> (64 - width)
}

/// The instruction `word` at address `at`.
pub(super) fn decode(word: u32, at: u64) -> Flow {
    let target = |low, width| at.wrapping_add_signed(signed(word, low, width) * 4);
    // ADR and ADRP: immhi in bits 23:5, immlo in bits 30:29.
    let adr = signed(word, 5, 19) << 2 | i64::from(word >> 29 & 0b11);
    let (rd, rn) = (word & 0x1f, word >> 5 & 0x1f);
    if word & 0x7c00_0000 == 0x1400_0000 {
        Flow::Branch(target(0, 26))
    } else if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
        Flow::Branch(target(5, 19))
    } else if word & 0x7e00_0000 == 0x3600_0000 {
        Flow::Branch(target(5, 14))
    } else if word & 0x9f00_0000 == 0x1000_0000 {
        Flow::Address(at.wrapping_add_signed(adr))
    } else if word & 0x9f00_0000 == 0x9000_0000 {
        Flow::Page(rd, (at & !0xfff).wrapping_add_signed(adr << 12))
    } else if word & 0xffc0_0000 == 0x9100_0000 {
        Flow::Add(rn, u64::from(word >> 10 & 0xfff))
    } else if word & 0xfeff_f800 == 0xd63f_0800 || word & 0xffff_fc1f == 0xd63f_0000 {
        Flow::Indirect
    } else if word & 0xffff_fc1f == 0xd65f_0000 || word & 0xffff_fbff == 0xd65f_0bff {
        Flow::Return
    } else if word & 0xffe0_001f == 0xd420_0000 || word & 0xffff_0000 == 0 {
        Flow::Trap
    } else {
        Flow::Other
    }
}

#[cfg(test)]
mod tests {
    use super::{Flow, decode};

    // Encodings by LLVM 14 (llvm-mc -triple=aarch64 -show-encoding), at address 0x1000.
    #[test]
    fn every_way_to_go_elsewhere_is_known() {
        let goes = |word, to| assert_eq!(decode(word, 0x1000), Flow::Branch(to), "{word:#x}");
        goes(0x9400_0001, 0x1004); // bl #4
        goes(0x97ff_ffff, 0x0ffc); // bl #-4
        goes(0x1400_0002, 0x1008); // b #8
        goes(0x5400_0041, 0x1008); // b.ne #8
        goes(0x54ff_ffe0, 0x0ffc); // b.eq #-4
        goes(0xb400_0040, 0x1008); // cbz x0, #8
        goes(0x35ff_ffe0, 0x0ffc); // cbnz w0, #-4
        goes(0x3600_0040, 0x1008); // tbz w0, #0, #8
        goes(0xb7f7_ffe0, 0x0ffc); // tbnz x0, #62, #-4
    }

    #[test]
    fn addresses_are_put_together() {
        assert_eq!(decode(0x1000_0040, 0x1000), Flow::Address(0x1008)); // adr x0, #8
        assert_eq!(decode(0x70ff_ffe0, 0x1000), Flow::Address(0xfff)); // adr x0, #-1
        assert_eq!(decode(0xb000_0001, 0x1234), Flow::Page(1, 0x2000)); // adrp x1, #4096
        assert_eq!(decode(0xf0ff_ffe1, 0x1234), Flow::Page(1, 0)); // adrp x1, #-4096
        assert_eq!(decode(0x9100_2022, 0x1000), Flow::Add(1, 8)); // add x2, x1, #8
    }

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(decode(0xd65f_03c0, 0), Flow::Return); // ret
        assert_eq!(decode(0xd65f_0bff, 0), Flow::Return); // retaa
        assert_eq!(decode(0xd63f_0100, 0), Flow::Indirect); // blr x8
        assert_eq!(decode(0xd63f_091f, 0), Flow::Indirect); // blraaz x8
        assert_eq!(decode(0xd73f_0900, 0), Flow::Indirect); // blraa x8, x0
        assert_eq!(decode(0xd420_0020, 0), Flow::Trap); // brk #1
        assert_eq!(decode(0x0000_0000, 0), Flow::Trap); // udf #0
        assert_eq!(decode(0xd61f_0000, 0), Flow::Other); // br x0
        assert_eq!(decode(0xd69f_03e0, 0), Flow::Other); // eret
        assert_eq!(decode(0xd503_201f, 0), Flow::Other); // nop
    }
}
