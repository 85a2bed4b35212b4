//! What EL2 traps from each world: values of the control registers (Arm ARM D24.2).
//!
//! The same for every guest and constant for the machine's life, but for HCR_EL2.TWE, so that a world switch
//! writes them without reading.

/// HCR_EL2 fields used.
pub mod hcr {
    /// Stage 2 on.
    pub const VM: u64 = 1 << 0;
    /// Set/way invalidation is clean and invalidate.
    pub const SWIO: u64 = 1 << 1;
    /// Physical FIQ to EL2, virtual FIQ on.
    pub const FMO: u64 = 1 << 3;
    /// Physical IRQ to EL2, virtual IRQ on.
    pub const IMO: u64 = 1 << 4;
    /// SError to EL2.
    pub const AMO: u64 = 1 << 5;
    /// TLB, branch predictor and cache maintenance is broadcast.
    pub const FB: u64 = 1 << 9;
    /// Barriers act at least inner shareable.
    pub const BSU_INNER: u64 = 1 << 10;
    /// WFI traps.
    pub const TWI: u64 = 1 << 13;
    /// WFE traps.
    pub const TWE: u64 = 1 << 14;
    /// Reads of ID group 3 (feature registers) trap.
    pub const TID3: u64 = 1 << 18;
    /// SMC traps.
    pub const TSC: u64 = 1 << 19;
    /// Implementation-defined registers trap.
    pub const TIDCP: u64 = 1 << 20;
    /// ACTLR_EL1 traps.
    pub const TACR: u64 = 1 << 21;
    /// EL1 is AArch64.
    pub const RW: u64 = 1 << 31;
    /// LORegion registers trap.
    pub const TLOR: u64 = 1 << 35;
    /// RAS error records trap.
    pub const TERR: u64 = 1 << 36;
}

use hcr::{AMO, BSU_INNER, FB, FMO, IMO, RW, SWIO, TACR, TERR, TID3, TIDCP, TLOR, TSC, TWI, VM};

/// HCR_EL2 while a guest runs. Pointer authentication keys and instructions (API, APK = 0), MTE
/// (ATA = 0), SCXTNUM (EnSCXT = 0) and nested virtualisation (NV = 0) are withheld.
pub const HCR_GUEST: u64 = VM
    | SWIO
    | FMO
    | IMO
    | AMO
    | FB
    | BSU_INNER
    | TWI
    | TID3
    | TSC
    | TIDCP
    | TACR
    | RW
    | TLOR
    | TERR;

/// HCR_EL2 while the hostvisor runs: it takes physical interrupts by itself.
pub const HCR_HOST: u64 = VM | SWIO | FB | BSU_INNER | TSC | TIDCP | TACR | RW | TLOR | TERR;

/// CPTR_EL2 (HCR_EL2.E2H = 0): RES1 bits; bits 8 (TZ) and 12 (TSM) trap SVE and SME where they exist.
const CPTR_RES1: u64 = 0x33ff;
/// CPTR_EL2.TFP: FP/SIMD traps.
pub const CPTR_TFP: u64 = 1 << 10;
/// CPTR_EL2.TTA: trace registers trap.
const CPTR_TTA: u64 = 1 << 20;
/// CPTR_EL2.TAM: activity monitors trap.
const CPTR_TAM: u64 = 1 << 30;
/// CPTR_EL2 with FP/SIMD open; SVE, SME, trace and activity monitors trap.
pub const CPTR_FP_OPEN: u64 = CPTR_RES1 | CPTR_TTA | CPTR_TAM;
/// CPTR_EL2 with FP/SIMD trapped too.
pub const CPTR_FP_TRAP: u64 = CPTR_FP_OPEN | CPTR_TFP;

/// MDCR_EL2: debug (TDA, TDOSA, TDRA), PMU (TPM, TPMCR), self-hosted trace (TTRF) and statistical
/// profiling (TPMS, E2PB = 0) registers trap. Debug exceptions do not go to EL2 (TDE = 0).
pub const MDCR: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 14 | 1 << 19;

/// CNTHCTL_EL2 (E2H = 0): EL1PCTEN, counter reads pass.
pub const CNTHCTL_GUEST: u64 = 1 << 0;
/// CNTHCTL_EL2: EL1PCTEN and EL1PCEN, the physical timer too is the hostvisor's.
pub const CNTHCTL_HOST: u64 = 0b11;

/// ICC_SRE_EL2: SRE, DFB, DIB; Enable = 0 traps ICC_SRE_EL1.
pub const ICC_SRE_EL2: u64 = 0b0111;
/// ICC_SRE_EL1 as a world reads it: SRE, DFB, DIB.
pub const ICC_SRE_EL1: u64 = 0b111;
