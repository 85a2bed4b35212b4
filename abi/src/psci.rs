//! PSCI (DEN0022) and SMCCC (DEN0028) function numbers and return codes, as 32-bit values.

/// PSCI_VERSION.
pub const VERSION: u32 = 0x8400_0000;
/// CPU_SUSPEND, SMC32.
pub const CPU_SUSPEND_32: u32 = 0x8400_0001;
/// CPU_SUSPEND, SMC64.
pub const CPU_SUSPEND_64: u32 = 0xC400_0001;
/// CPU_OFF.
pub const CPU_OFF: u32 = 0x8400_0002;
/// CPU_ON, SMC32.
pub const CPU_ON_32: u32 = 0x8400_0003;
/// CPU_ON, SMC64.
pub const CPU_ON_64: u32 = 0xC400_0003;
/// AFFINITY_INFO, SMC32.
pub const AFFINITY_INFO_32: u32 = 0x8400_0004;
/// AFFINITY_INFO, SMC64.
pub const AFFINITY_INFO_64: u32 = 0xC400_0004;
/// MIGRATE_INFO_TYPE.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// SYSTEM_OFF.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// SYSTEM_RESET.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// PSCI_FEATURES.
pub const FEATURES: u32 = 0x8400_000A;

/// SMCCC_VERSION.
pub const SMCCC_VERSION: u32 = 0x8000_0000;
/// SMCCC_ARCH_FEATURES.
pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;

/// PSCI 1.1, as PSCI_VERSION returns it.
pub const VERSION_1_1: u64 = 0x0001_0001;
/// SMCCC 1.1, as SMCCC_VERSION returns it.
pub const SMCCC_VERSION_1_1: u64 = 0x0001_0001;

/// SUCCESS.
pub const SUCCESS: i64 = 0;
/// NOT_SUPPORTED; the same in SMCCC.
pub const NOT_SUPPORTED: i64 = -1;
/// INVALID_PARAMETERS.
pub const INVALID_PARAMETERS: i64 = -2;
/// SMCCC INVALID_PARAMETER (DEN0028 §7.1), which is not PSCI's number.
pub const SMCCC_INVALID_PARAMETER: i64 = -3;
/// DENIED.
pub const DENIED: i64 = -3;
/// ALREADY_ON.
pub const ALREADY_ON: i64 = -4;
/// ON_PENDING.
pub const ON_PENDING: i64 = -5;
/// INTERNAL_FAILURE.
pub const INTERNAL_FAILURE: i64 = -6;
/// INVALID_ADDRESS.
pub const INVALID_ADDRESS: i64 = -9;

/// AFFINITY_INFO: the CPU is on.
pub const AFFINITY_ON: i64 = 0;
/// AFFINITY_INFO: the CPU is off.
pub const AFFINITY_OFF: i64 = 1;
/// AFFINITY_INFO: the CPU has been asked to start.
pub const AFFINITY_ON_PENDING: i64 = 2;

/// MIGRATE_INFO_TYPE: no trusted OS that would need migration.
pub const MIGRATE_NOT_REQUIRED: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// DEN0022 §5.2.2 and DEN0028 §7.1.
    #[test]
    fn return_codes_are_the_standards() {
        let psci = [
            SUCCESS,
            NOT_SUPPORTED,
            INVALID_PARAMETERS,
            DENIED,
            ALREADY_ON,
            ON_PENDING,
            INTERNAL_FAILURE,
            INVALID_ADDRESS,
        ];
        assert_eq!(psci, [0, -1, -2, -3, -4, -5, -6, -9]);
        assert_eq!(SMCCC_INVALID_PARAMETER, -3);
    }
}
