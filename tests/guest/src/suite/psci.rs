//! PSCI as a guest sees it.

use crate::cpu;
use crate::platform;
use crate::psci::*;
use crate::runner::on_bare_machine;
use crate::smp;
use crate::verdict::{Verdict, check, check_eq};

/// Version 1.1, and FEATURES knows exactly the functions that exist.
pub(crate) fn version() -> Verdict {
    let version = call(VERSION, 0, 0, 0);
    check!(version >= 0x1_0001, "PSCI_VERSION is {version:#x}");
    for function in [
        VERSION,
        CPU_OFF,
        CPU_ON_32,
        CPU_ON,
        AFFINITY_INFO_32,
        AFFINITY_INFO,
        SYSTEM_OFF,
        SYSTEM_RESET,
        FEATURES,
    ] {
        let answer = call(FEATURES, function, 0, 0);
        check!(answer >= 0, "FEATURES({function:#x}) is {answer}");
    }
    for function in [
        0x8400_001f,
        0xc400_001f,
        0x8400_0000 + 0x50,
        0x8500_0000,
        0xffff_ffff,
        0,
    ] {
        check_eq!(
            call(FEATURES, function, 0, 0),
            NOT_SUPPORTED,
            "FEATURES({function:#x})"
        );
    }
    let migrate = call(MIGRATE_INFO_TYPE, 0, 0, 0);
    check!(
        migrate == 2 || migrate == NOT_SUPPORTED,
        "MIGRATE_INFO_TYPE is {migrate}"
    );
    Ok(())
}

/// Every refusal has its own error code.
pub(crate) fn errors() -> Verdict {
    let me = platform::mpidr(0);
    check_eq!(cpu::mpidr(), me, "MPIDR_EL1 against the tree");
    check_eq!(cpu_on(me, smp::entry(), 0), ALREADY_ON, "CPU_ON of myself");
    check_eq!(
        call(CPU_ON_32, me, smp::entry(), 0),
        ALREADY_ON,
        "CPU_ON (32-bit) of myself"
    );
    check_eq!(affinity_info(me), AFFINITY_ON, "AFFINITY_INFO of myself");
    check_eq!(
        call(AFFINITY_INFO_32, me, 0, 0),
        AFFINITY_ON,
        "AFFINITY_INFO (32-bit) of myself"
    );
    // On a bare machine QEMU ignores affinity levels it does not have; only a plain unknown number
    // is refused by both.
    let unknown = platform::cpus() as u64;
    let foreign: &[u64] = &[
        unknown,
        0xff,
        0xffff,
        0x1_0000,
        0x0100_0000_0000,
        1 << 31,
        u64::MAX,
        1 << 63,
    ];
    let strange = if on_bare_machine() {
        &foreign[..1]
    } else {
        foreign
    };
    for &mpidr in strange {
        check_eq!(
            cpu_on(mpidr, smp::entry(), 0),
            INVALID_PARAMETERS,
            "CPU_ON of {mpidr:#x}"
        );
        check_eq!(
            affinity_info(mpidr),
            INVALID_PARAMETERS,
            "AFFINITY_INFO of {mpidr:#x}"
        );
    }
    Ok(())
}

/// Every CPU comes up once, finds its context id in x0, and has the MPIDR that was asked for.
pub(crate) fn powering_on() -> Verdict {
    for index in 1..platform::cpus() {
        let mpidr = platform::mpidr(index);
        check!(!smp::is_online(index), "cpu {index} is on already");
        check_eq!(
            affinity_info(mpidr),
            AFFINITY_OFF,
            "AFFINITY_INFO of cpu {index} before"
        );
        smp::start(index, 0x31_4159 + index as u64)?;
        check_eq!(
            affinity_info(mpidr),
            AFFINITY_ON,
            "AFFINITY_INFO of cpu {index} after"
        );
        let again = cpu_on(mpidr, smp::entry(), 0);
        check_eq!(again, ALREADY_ON, "second CPU_ON of cpu {index}");
    }
    use core::sync::atomic::{AtomicU64, Ordering};
    static SEEN: [AtomicU64; cpu::MAX_CPUS] = [const { AtomicU64::new(u64::MAX) }; cpu::MAX_CPUS];
    smp::run_on_all(5000, |index| {
        SEEN[index].store(cpu::mpidr(), Ordering::SeqCst)
    })?;
    for (index, seen) in SEEN.iter().enumerate().take(platform::cpus()) {
        check_eq!(
            seen.load(Ordering::SeqCst),
            platform::mpidr(index),
            "MPIDR_EL1 of cpu {index}"
        );
    }
    Ok(())
}

/// CPUs go off and come on again, many times, with a fresh context id each.
pub(crate) fn powering_off() -> Verdict {
    smp::start_all()?;
    for round in 0..10 {
        for index in 1..platform::cpus() {
            smp::stop(index)?;
            check_eq!(
                affinity_info(platform::mpidr(index)),
                AFFINITY_OFF,
                "AFFINITY_INFO of cpu {index}, off"
            );
        }
        for index in 1..platform::cpus() {
            smp::start(index, 0x100 + round)?;
        }
    }
    Ok(())
}
