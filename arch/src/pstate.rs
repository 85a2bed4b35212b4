//! PSTATE as SPSR_ELx holds it, and how an exception changes it (Arm ARM D1.3).

/// EL1 with SP_EL1.
pub const EL1H: u64 = 0b0101;
/// D, A, I and F masked.
pub const DAIF: u64 = 0xf << 6;
/// A world's state at reset: EL1h, everything masked.
pub const RESET: u64 = EL1H | DAIF;
/// AArch32 execution state.
pub const NRW: u64 = 1 << 4;

const MODE: u64 = 0b1111;
const NZCV: u64 = 0xf << 28;
const DIT: u64 = 1 << 24;
const PAN: u64 = 1 << 22;
const SS: u64 = 1 << 21;
const SSBS: u64 = 1 << 12;
const BTYPE: u64 = 0b11 << 10;

/// SCTLR_EL1.SPAN: an exception to EL1 leaves PAN as it is.
const SCTLR_SPAN: u64 = 1 << 23;
/// SCTLR_EL1.DSSBS: PSTATE.SSBS on exceptions to EL1.
const SCTLR_DSSBS: u64 = 1 << 44;

/// ESR_ELx.IL: the instruction was 32 bits long, or the exception is no instruction's.
const IL: u64 = 1 << 25;

const EC_SHIFT: u32 = 26;
const FSC_EXTERNAL: u64 = 0x10;

/// PSTATE after stepping over a trapped instruction: no pending branch type or step.
#[must_use]
pub const fn stepped(pstate: u64) -> u64 {
    if pstate & NRW != 0 {
        // The IT state machine moves on; a trapped instruction is the last of its block for us.
        pstate & !(0b11 << 25 | 0x3f << 10)
    } else {
        pstate & !(BTYPE | SS)
    }
}

/// True if the world was at EL0.
#[must_use]
pub const fn is_el0(pstate: u64) -> bool {
    pstate & NRW != 0 || pstate & MODE == 0
}

/// Vector offset for a synchronous exception to EL1 from `pstate` (Arm ARM D1.3.1.5).
#[must_use]
pub const fn sync_vector_offset(pstate: u64) -> u64 {
    if pstate & NRW != 0 {
        0x600
    } else if pstate & MODE == 0 {
        0x400
    } else if pstate & 1 != 0 {
        0x200
    } else {
        0
    }
}

/// PSTATE on entry to EL1 by an exception from `pstate`. `has_pan`: the processor has FEAT_PAN.
#[must_use]
pub const fn on_exception(pstate: u64, sctlr: u64, has_pan: bool) -> u64 {
    let keep = if pstate & NRW != 0 {
        NZCV
    } else {
        NZCV | DIT | PAN
    };
    let mut new = (pstate & keep) | RESET;
    if has_pan && sctlr & SCTLR_SPAN == 0 {
        new |= PAN;
    }
    if sctlr & SCTLR_DSSBS != 0 {
        new |= SSBS;
    }
    new
}

/// ESR_EL1 of an exception with unknown reason (UNDEFINED) by an instruction of `length` bytes.
#[must_use]
pub const fn esr_undefined(length: u64) -> u64 {
    if length == 4 { IL } else { 0 }
}

/// ESR_EL1 of a synchronous external abort on a data access from `pstate`.
#[must_use]
pub const fn esr_data_abort(pstate: u64, write: bool) -> u64 {
    let class = if is_el0(pstate) { 0x24 } else { 0x25 };
    class << EC_SHIFT | IL | if write { 1 << 6 } else { 0 } | FSC_EXTERNAL
}

/// ESR_EL1 of a synchronous external abort on an instruction fetch from `pstate`.
#[must_use]
pub const fn esr_instruction_abort(pstate: u64) -> u64 {
    let class = if is_el0(pstate) { 0x20 } else { 0x21 };
    class << EC_SHIFT | IL | FSC_EXTERNAL
}

#[cfg(test)]
mod tests {
    use super::{DAIF, EL1H, PAN, RESET, SSBS, on_exception, sync_vector_offset};

    #[test]
    fn vectors_by_origin() {
        assert_eq!(sync_vector_offset(0b0000), 0x400);
        assert_eq!(sync_vector_offset(0b0100), 0x000);
        assert_eq!(sync_vector_offset(EL1H), 0x200);
        assert_eq!(sync_vector_offset(0b1_0000), 0x600);
    }

    #[test]
    fn an_exception_masks_everything_and_keeps_flags() {
        let flags = 0xa << 28;
        assert_eq!(on_exception(flags | EL1H, 0, false), flags | EL1H | DAIF);
        assert_eq!(on_exception(EL1H, 0, true), RESET | PAN);
        assert_eq!(on_exception(EL1H, 1 << 23, true), RESET);
        assert_eq!(on_exception(EL1H | PAN, 1 << 23, true), RESET | PAN);
        assert_eq!(on_exception(0, 1 << 23 | 1 << 44, true), RESET | SSBS);
    }
}
