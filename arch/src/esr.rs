//! Exception syndromes (Arm ARM D24.2.40, ESR_EL2): bits become an enum here and nowhere else.

/// A system register's encoding: op0, op1, CRn, CRm, op2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SysReg {
    /// op0.
    pub op0: u8,
    /// op1.
    pub op1: u8,
    /// CRn.
    pub crn: u8,
    /// CRm.
    pub crm: u8,
    /// op2.
    pub op2: u8,
}

/// A trapped MSR or MRS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SysRegAccess {
    /// Which register.
    pub reg: SysReg,
    /// The general-purpose register (31: XZR).
    pub rt: u64,
    /// True for MSR (write).
    pub write: bool,
}

/// What the syndrome tells of an access that can be emulated (ISS with ISV = 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Bytes: 1, 2, 4 or 8.
    pub size: u64,
    /// The general-purpose register (31: XZR).
    pub rt: u64,
    /// A load extends the sign.
    pub signed: bool,
    /// The register is 64 bits wide.
    pub wide: bool,
}

/// A data abort from a lower exception level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataAbort {
    /// Present if the instruction can be emulated from the syndrome.
    pub access: Option<Access>,
    /// It was a write (or a cache-maintenance instruction).
    pub write: bool,
    /// It hit a stage-1 table walk.
    pub on_walk: bool,
    /// The fault's kind.
    pub fault: Fault,
}

/// Kinds of abort that matter here, from the fault status code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Translation fault: the IPA maps nothing. HPFAR_EL2 is valid.
    Translation,
    /// Anything else: permission, synchronous external abort, alignment, TLB conflict …
    Other,
}

/// Why the processor came to EL2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exception {
    /// WFI or WFIT.
    Wfi,
    /// WFE or WFET.
    Wfe,
    /// HVC #imm from AArch64.
    Hvc,
    /// SMC #imm from AArch64.
    Smc,
    /// MSR, MRS or system instruction from AArch64.
    SysReg(SysRegAccess),
    /// FP/SIMD access.
    Fp,
    /// Instruction abort.
    InstructionAbort(Fault),
    /// Data abort.
    DataAbort(DataAbort),
    /// Any other exception class.
    Other,
}

/// ESR.IL: the instruction was 32 bits long.
const IL: u64 = 1 << 25;

const fn fault(iss: u64) -> Fault {
    match iss & 0x3c {
        0x04 => Fault::Translation,
        _ => Fault::Other,
    }
}

/// Bytes to add to PC to step over the instruction that trapped.
#[must_use]
pub const fn instruction_length(esr: u64) -> u64 {
    if esr & IL != 0 { 4 } else { 2 }
}

/// Decodes ESR_EL2 of a synchronous exception from EL1 or EL0.
#[must_use]
pub const fn decode(esr: u64) -> Exception {
    let iss = esr & 0x1ff_ffff;
    match (esr >> 26) & 0x3f {
        0x01 if iss & 1 == 0 => Exception::Wfi,
        0x01 => Exception::Wfe,
        0x07 => Exception::Fp,
        0x16 => Exception::Hvc,
        0x17 => Exception::Smc,
        0x18 => Exception::SysReg(SysRegAccess {
            reg: SysReg {
                op0: ((iss >> 20) & 0x3) as u8,
                op1: ((iss >> 14) & 0x7) as u8,
                crn: ((iss >> 10) & 0xf) as u8,
                crm: ((iss >> 1) & 0xf) as u8,
                op2: ((iss >> 17) & 0x7) as u8,
            },
            rt: (iss >> 5) & 0x1f,
            write: iss & 1 == 0,
        }),
        0x20 => Exception::InstructionAbort(fault(iss)),
        0x24 => Exception::DataAbort(DataAbort {
            access: if iss & (1 << 24) != 0 {
                Some(Access {
                    size: 1 << ((iss >> 22) & 3),
                    rt: (iss >> 16) & 0x1f,
                    signed: iss & (1 << 21) != 0,
                    wide: iss & (1 << 15) != 0,
                })
            } else {
                None
            },
            write: iss & (1 << 6) != 0,
            on_walk: iss & (1 << 7) != 0,
            fault: fault(iss),
        }),
        _ => Exception::Other,
    }
}

impl Access {
    /// What a load of `value` leaves in the register: truncated to the size, extended as asked.
    #[must_use]
    pub const fn extend(self, value: u64) -> u64 {
        let value = match (self.size, self.signed) {
            (1, false) => value & 0xff,
            (2, false) => value & 0xffff,
            (4, false) => value & 0xffff_ffff,
            (1, true) => value as i8 as u64,
            (2, true) => value as i16 as u64,
            (4, true) => value as i32 as u64,
            _ => value,
        };
        if self.wide {
            value
        } else {
            value & 0xffff_ffff
        }
    }

    /// The part of register value `value` that a store puts on the bus.
    #[must_use]
    pub const fn truncate(self, value: u64) -> u64 {
        match self.size {
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, DataAbort, Exception, Fault, SysReg, SysRegAccess, decode};

    #[test]
    fn mrs_of_an_id_register() {
        // MRS X5, ID_AA64PFR0_EL1: op0 3, op1 0, CRn 0, CRm 4, op2 0; direction 1 = read.
        let esr = 0x18 << 26 | 1 << 25 | 3 << 20 | 5 << 5 | 4 << 1 | 1;
        assert_eq!(
            decode(esr),
            Exception::SysReg(SysRegAccess {
                reg: SysReg {
                    op0: 3,
                    op1: 0,
                    crn: 0,
                    crm: 4,
                    op2: 0
                },
                rt: 5,
                write: false
            })
        );
    }

    #[test]
    fn data_abort_with_and_without_syndrome() {
        // STRH W7 with a level 3 translation fault.
        let esr = 0x24 << 26 | 1 << 25 | 1 << 24 | 1 << 22 | 7 << 16 | 1 << 6 | 0x07;
        let Exception::DataAbort(abort) = decode(esr) else {
            panic!("not a data abort")
        };
        assert_eq!(
            abort,
            DataAbort {
                access: Some(Access {
                    size: 2,
                    rt: 7,
                    signed: false,
                    wide: false
                }),
                write: true,
                on_walk: false,
                fault: Fault::Translation
            }
        );
        let Exception::DataAbort(abort) = decode(0x24 << 26 | 1 << 7 | 0x0d) else {
            panic!()
        };
        assert_eq!(
            (abort.access, abort.on_walk, abort.fault),
            (None, true, Fault::Other)
        );
    }

    #[test]
    fn loads_extend_as_the_instruction_asks() {
        let ldrsb = Access {
            size: 1,
            rt: 0,
            signed: true,
            wide: true,
        };
        assert_eq!(ldrsb.extend(0x180), 0xffff_ffff_ffff_ff80);
        let ldrsb_w = Access {
            wide: false,
            ..ldrsb
        };
        assert_eq!(ldrsb_w.extend(0x80), 0xffff_ff80);
        let ldrb = Access {
            signed: false,
            ..ldrsb
        };
        assert_eq!(ldrb.extend(0x180), 0x80);
        let ldr_w = Access {
            size: 4,
            rt: 0,
            signed: false,
            wide: false,
        };
        assert_eq!(ldr_w.extend(u64::MAX), 0xffff_ffff);
    }
}
