//! System registers of a guest that trap: what each reads as, and what a write does.
//!
//! Everything not listed is UNDEFINED in the guest, as on a processor without it.

use crate::idregs;
use arch::context::Timer;
use arch::esr::{SysReg, SysRegAccess};
use arch::traps;

/// What becomes of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A read gives this value; a write is ignored.
    Value(u64),
    /// MDSCR_EL1, held in the processor.
    Mdscr,
    /// ICC_SGI1R_EL1, or (0) what sends SGIs of group 0 alone: the hostvisor sends the interrupts.
    Sgi(u64),
    /// The physical timer: which of its registers.
    PhysicalTimer(TimerReg),
    /// The guest takes an UNDEFINED exception.
    Undefined,
}

/// Registers of a timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerReg {
    /// TVAL.
    Tval,
    /// CTL.
    Ctl,
    /// CVAL.
    Cval,
}

/// OSLSR_EL1: OS lock implemented (OSLM = 0b10), unlocked.
const OSLSR: u64 = 1 << 3;

/// Bits of MDSCR_EL1 a guest may set: software step (SS), kernel debug (KDE), EL0 DCC traps (TDCC).
/// Breakpoints and watchpoints (MDE) stay off, as their registers are not virtualised.
pub const MDSCR_GUEST: u64 = 1 | 1 << 12 | 1 << 13;

/// Decides an access. `id_registers` is the table of [`idregs::sanitise_all`].
#[must_use]
pub fn decide(access: SysRegAccess, id_registers: &[u64; idregs::COUNT]) -> Action {
    let SysReg {
        op0,
        op1,
        crn,
        crm,
        op2,
    } = access.reg;
    match (op0, op1, crn, crm, op2) {
        // ID group 3 is read-only.
        (3, 0, 0, 1..=7, _) if !access.write => idregs::index(crm, op2)
            .and_then(|i| id_registers.get(i))
            .map_or(Action::Undefined, |&value| Action::Value(value)),
        // ACTLR_EL1: nothing of it concerns a guest.
        (3, 0, 1, 0, 1) => Action::Value(0),
        // ICC_SGI1R_EL1; ICC_ASGI1R_EL1 and ICC_SGI0R_EL1. All are write-only.
        (3, 0, 12, 11, 5) if access.write => Action::Sgi(1),
        (3, 0, 12, 11, 6 | 7) if access.write => Action::Sgi(0),
        (3, 0, 12, 12, 5) => Action::Value(traps::ICC_SRE_EL1),
        (3, 3, 14, 2, 0) => Action::PhysicalTimer(TimerReg::Tval),
        (3, 3, 14, 2, 1) => Action::PhysicalTimer(TimerReg::Ctl),
        (3, 3, 14, 2, 2) => Action::PhysicalTimer(TimerReg::Cval),
        (2, 0, 0, 2, 2) => Action::Mdscr,
        // OSLAR_EL1, OSLSR_EL1, OSDLR_EL1, DBGPRCR_EL1.
        (2, 0, 1, 0, 4) if access.write => Action::Value(0),
        (2, 0, 1, 1, 4) if !access.write => Action::Value(OSLSR),
        (2, 0, 1, 3 | 4, 4) => Action::Value(0),
        // DBGBVR, DBGBCR, DBGWVR, DBGWCR, MDCCINT, DBGCLAIMSET/CLR, DBGAUTHSTATUS, MDCCSR.
        (2, 0, 0, _, 4..=7) | (2, 0, 0, 2, 0) | (2, 0, 7, 8 | 9 | 14, 6) | (2, 3, 0, 1, 0) => {
            Action::Value(0)
        }
        _ => Action::Undefined,
    }
}

/// Reads a register of a timer whose counter reads `count`.
#[must_use]
pub const fn read_timer(timer: Timer, reg: TimerReg, count: u64) -> u64 {
    match reg {
        TimerReg::Tval => timer.cval.wrapping_sub(count) & 0xffff_ffff,
        TimerReg::Ctl => timer.status(count),
        TimerReg::Cval => timer.cval,
    }
}

/// The timer after a write to one of its registers.
#[must_use]
pub const fn write_timer(timer: Timer, reg: TimerReg, value: u64, count: u64) -> Timer {
    match reg {
        // TVAL is a signed 32-bit offset from now (Arm ARM D12.2.4).
        TimerReg::Tval => {
            let offset = value as u32 as i32 as i64;
            Timer {
                cval: count.wrapping_add_signed(offset),
                ..timer
            }
        }
        TimerReg::Ctl => Timer {
            ctl: value & (Timer::ENABLE | Timer::IMASK),
            ..timer
        },
        TimerReg::Cval => Timer {
            cval: value,
            ..timer
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, MDSCR_GUEST, TimerReg, decide, read_timer, write_timer};
    use crate::idregs;
    use arch::context::Timer;
    use arch::esr::{SysReg, SysRegAccess};

    fn access(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8, write: bool) -> SysRegAccess {
        SysRegAccess {
            reg: SysReg {
                op0,
                op1,
                crn,
                crm,
                op2,
            },
            rt: 0,
            write,
        }
    }

    #[test]
    fn whatever_is_not_listed_is_undefined() {
        let ids = [7; idregs::COUNT];
        // PMCR_EL0, an implementation-defined register, LORSA_EL1, ERRIDR_EL1, SCXTNUM_EL1.
        for a in [
            access(3, 3, 9, 12, 0, false),
            access(3, 1, 15, 2, 0, true),
            access(3, 0, 10, 4, 0, false),
            access(3, 0, 5, 3, 0, false),
            access(3, 0, 13, 0, 7, true),
        ] {
            assert_eq!(decide(a, &ids), Action::Undefined);
        }
        assert_eq!(decide(access(3, 0, 0, 4, 0, true), &ids), Action::Undefined);
        assert_eq!(decide(access(3, 0, 0, 4, 0, false), &ids), Action::Value(7));
    }

    /// What there is, by encoding: how it reads, and what becomes of a write.
    #[test]
    fn what_is_listed_is_decided_as_documented() {
        const UNDEFINED: Action = Action::Undefined;
        const ZERO: Action = Action::Value(0);
        let timer = |reg| (Action::PhysicalTimer(reg), Action::PhysicalTimer(reg));
        for ((op0, op1, crn, crm, op2), (read, write)) in [
            // ACTLR_EL1, ICC_SGI1R_EL1, ICC_ASGI1R_EL1, ICC_SGI0R_EL1, ICC_SRE_EL1.
            ((3, 0, 1, 0, 1), (ZERO, ZERO)),
            ((3, 0, 12, 11, 5), (UNDEFINED, Action::Sgi(1))),
            ((3, 0, 12, 11, 6), (UNDEFINED, Action::Sgi(0))),
            ((3, 0, 12, 11, 7), (UNDEFINED, Action::Sgi(0))),
            ((3, 0, 12, 12, 5), (Action::Value(7), Action::Value(7))),
            // CNTP_TVAL_EL0, CNTP_CTL_EL0, CNTP_CVAL_EL0.
            ((3, 3, 14, 2, 0), timer(TimerReg::Tval)),
            ((3, 3, 14, 2, 1), timer(TimerReg::Ctl)),
            ((3, 3, 14, 2, 2), timer(TimerReg::Cval)),
            // MDSCR_EL1, OSLAR_EL1, OSLSR_EL1, OSDLR_EL1, DBGPRCR_EL1.
            ((2, 0, 0, 2, 2), (Action::Mdscr, Action::Mdscr)),
            ((2, 0, 1, 0, 4), (UNDEFINED, ZERO)),
            ((2, 0, 1, 1, 4), (Action::Value(8), UNDEFINED)),
            ((2, 0, 1, 3, 4), (ZERO, ZERO)),
            ((2, 0, 1, 4, 4), (ZERO, ZERO)),
            // DBGBVR0_EL1, DBGWCR15_EL1, MDCCINT_EL1, DBGCLAIMSET_EL1, DBGCLAIMCLR_EL1,
            // DBGAUTHSTATUS_EL1, MDCCSR_EL0.
            ((2, 0, 0, 0, 4), (ZERO, ZERO)),
            ((2, 0, 0, 15, 7), (ZERO, ZERO)),
            ((2, 0, 0, 2, 0), (ZERO, ZERO)),
            ((2, 0, 7, 8, 6), (ZERO, ZERO)),
            ((2, 0, 7, 9, 6), (ZERO, ZERO)),
            ((2, 0, 7, 14, 6), (ZERO, ZERO)),
            ((2, 3, 0, 1, 0), (ZERO, ZERO)),
        ] {
            let decide =
                |write| decide(access(op0, op1, crn, crm, op2, write), &[7; idregs::COUNT]);
            let named = (op0, op1, crn, crm, op2);
            assert_eq!((decide(false), decide(true)), (read, write), "{named:?}");
        }
        assert_eq!(MDSCR_GUEST, 0x3001);
    }

    #[test]
    fn every_encoding_has_a_decision() {
        let ids = [0; idregs::COUNT];
        for bits in 0..1u32 << 17 {
            let field = |shift: u32, width: u32| ((bits >> shift) & ((1 << width) - 1)) as u8;
            let a = access(
                field(0, 2),
                field(2, 3),
                field(5, 4),
                field(9, 4),
                field(13, 3),
                bits >> 16 == 1,
            );
            let _ = decide(a, &ids);
        }
    }

    #[test]
    fn tval_is_relative_to_now() {
        let t = write_timer(Timer { ctl: 1, cval: 0 }, TimerReg::Tval, 100, 1000);
        assert_eq!((t.cval, t.ctl), (1100, 1));
        assert_eq!(read_timer(t, TimerReg::Tval, 1040), 60);
        assert_eq!(write_timer(t, TimerReg::Tval, 0xffff_ffff, 1000).cval, 999);
        assert_eq!(write_timer(t, TimerReg::Ctl, 0xff, 0).ctl, 3);
        assert_eq!(read_timer(t, TimerReg::Ctl, 1100), 5);
    }
}
