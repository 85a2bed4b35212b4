//! Row 13: numbers that are not on the list, by HVC and SMC; PSCI.

use super::Attack;
use crate::verdict::{Failure, Outcome, given, refused, require};
use crate::{call, cpu, entry, frames, smp};
use abi::hypercall::{BASE, CoreInfo};
use abi::{HostCall, psci};

pub(crate) const ATTACKS: &[Attack] = &[
    ("hvc-sweep", hvc_sweep),
    ("hvc-upper-half", hvc_upper),
    ("hvc-boot-stub", hvc_stub),
    ("hvc-guest-calls", hvc_guest),
    ("smc-sweep", smc_sweep),
    ("smc-psci-more", smc_more),
    ("cpu-on-wild", cpu_on_wild),
    ("cpu-on-level", cpu_on_level),
    ("cpu-off-on", cpu_off_on),
];

const NOT_SUPPORTED: u64 = u64::MAX;

/// Arguments that would hurt if anybody took them for addresses.
fn evil() -> [u64; 4] {
    let core = frames::core_pages().next().unwrap_or(0);
    [core, core + 8, entry::other_entry(), u64::MAX]
}

fn hvc_sweep() -> Outcome {
    let known = |function| HostCall::decode(function).is_some();
    let ranges = [
        BASE..BASE + 0x400,
        0xc600_0000..0xc600_0400,
        0x8600_0000..0x8600_0100,
        0..0x400,
    ];
    let mut tried = 0;
    for function in ranges.into_iter().flatten().filter(|f| !known(*f)) {
        let [x0, ..] = call::hvc(function, &evil());
        require!(x0 == NOT_SUPPORTED, "HVC {function:#x}: {x0:#x}");
        tried += 1;
    }
    refused!("{tried} numbers, NotSupported each")
}

/// A known number in the lower half of x0 only.
fn hvc_upper() -> Outcome {
    for upper in [1, 0x8000_0000, 0xffff_ffff] {
        for call in HostCall::ALL {
            let [x0, ..] = call::hvc(upper << 32 | *call as u64, &evil());
            require!(x0 == NOT_SUPPORTED, "{call:?} with {upper:#x}: {x0:#x}");
        }
    }
    refused!("NotSupported")
}

/// What a kernel's EL2 stub would answer: set vectors, soft restart, finalise.
fn hvc_stub() -> Outcome {
    let core = evil()[0];
    for function in [0, 1, 2, 3, 4, 0xbadc_0de5, 0xbad_ca11] {
        let [x0, ..] = call::hvc(function, &[core, core, core, core]);
        require!(x0 == NOT_SUPPORTED, "stub call {function:#x}: {x0:#x}");
    }
    require!(cpu::level() == 1, "at EL{}", cpu::level());
    refused!("NotSupported")
}

/// Calls that are a guest's: PSCI and pKVM by HVC.
fn hvc_guest() -> Outcome {
    for function in [
        psci::VERSION,
        psci::CPU_ON_64,
        psci::CPU_OFF,
        psci::SYSTEM_OFF,
        psci::SYSTEM_RESET,
        0x8600_ff01,
        0xc600_0002,
        0xc600_0003,
        0xc600_0004,
        0xc600_0007,
    ] {
        let [x0, ..] = call::hvc(function.into(), &evil());
        require!(x0 == NOT_SUPPORTED, "HVC {function:#x}: {x0:#x}");
    }
    refused!("NotSupported")
}

/// Functions the core answers or passes on.
const LISTED: [u32; 9] = [
    psci::VERSION,
    psci::CPU_OFF,
    psci::CPU_ON_64,
    psci::AFFINITY_INFO_64,
    psci::MIGRATE_INFO_TYPE,
    psci::SYSTEM_OFF,
    psci::SYSTEM_RESET,
    psci::FEATURES,
    psci::SMCCC_VERSION,
];

fn smc_sweep() -> Outcome {
    let owners = [
        0x8000, 0x8100, 0x8200, 0x8300, 0x8400, 0x8500, 0x8600, 0xb200, 0xbf00,
    ];
    let mut tried = 0;
    for owner in owners.into_iter().flat_map(|o| [o, o | 0x4000]) {
        for number in (0..0x60).chain(0xff00..0xff08) {
            let function: u32 = owner << 16 | number;
            if LISTED.contains(&function) {
                continue;
            }
            let answer = call::smc(function.into(), &evil());
            require!(
                answer == psci::NOT_SUPPORTED,
                "SMC {function:#x}: {answer:#x}"
            );
            tried += 1;
        }
    }
    for function in [0, 1, 0x7fff_ffff, 0x0400_0003, 0x4400_0003] {
        let answer = call::smc(function, &evil());
        require!(
            answer == psci::NOT_SUPPORTED,
            "SMC {function:#x}: {answer:#x}"
        );
    }
    refused!("{tried} functions, NOT_SUPPORTED each")
}

/// CPU_SUSPEND with an entry point, SYSTEM_RESET2, SYSTEM_SUSPEND, MEM_PROTECT and their like.
fn smc_more() -> Outcome {
    let [core, ..] = evil();
    for function in [
        0x8400_0001u64,
        0xc400_0001,
        0xc400_000c,
        0x8400_000d,
        0xc400_000e,
        0x8400_0012,
        0xc400_0012,
        0x8400_0013,
        0xc400_0014,
        0x8400_000f,
        0x8400_0003,
    ] {
        let answer = call::smc(function, &[0, core, core]);
        require!(
            answer == psci::NOT_SUPPORTED,
            "SMC {function:#x}: {answer:#x}"
        );
        let feature = call::smc(psci::FEATURES.into(), &[function]);
        require!(
            feature == psci::NOT_SUPPORTED,
            "{function:#x} is offered: {feature:#x}"
        );
    }
    refused!("NOT_SUPPORTED")
}

fn cpu_on_wild() -> Outcome {
    let on = |mpidr: u64, entry: u64| call::smc(psci::CPU_ON_64.into(), &[mpidr, entry, 0]);
    let good = entry::other_entry();
    let absent = call::info(CoreInfo::Cpus);
    for mpidr in [
        absent,
        0x100,
        1 << 16,
        1 << 32,
        1 << 31,
        u64::MAX,
        1 << 24,
        1 << 40,
    ] {
        let answer = on(mpidr, good);
        require!(
            answer == psci::INVALID_PARAMETERS,
            "MPIDR {mpidr:#x}: {answer}"
        );
        let info = call::smc(psci::AFFINITY_INFO_64.into(), &[mpidr, 0]);
        require!(
            info == psci::INVALID_PARAMETERS,
            "AFFINITY_INFO {mpidr:#x}: {info}"
        );
    }
    for level in [1, 2, 3, u64::MAX] {
        let info = call::smc(psci::AFFINITY_INFO_64.into(), &[0, level]);
        require!(
            info == psci::INVALID_PARAMETERS,
            "AFFINITY_INFO level {level}: {info}"
        );
    }
    for entry in [good + 1, good + 2, u64::MAX] {
        let answer = on(0, entry);
        require!(
            answer == psci::INVALID_ADDRESS,
            "entry {entry:#x}: {answer}"
        );
    }
    for index in 0..smp::count() {
        let answer = on(smp::mpidr(index), good);
        require!(
            answer == psci::ALREADY_ON,
            "CPU {index} a second time: {answer}"
        );
    }
    refused!("INVALID_PARAMETERS, INVALID_ADDRESS, ALREADY_ON")
}

/// Each CPU that was started looked at CurrentEL before anything else (`smp::serve` ends the run).
fn cpu_on_level() -> Outcome {
    if smp::count() < 2 {
        return Err(Failure::Skipped("needs more CPUs"));
    }
    let levels = core::sync::atomic::AtomicU64::new(0);
    smp::together(smp::count(), &|_| {
        levels.fetch_or(1 << cpu::level(), core::sync::atomic::Ordering::SeqCst);
    });
    let levels = levels.into_inner();
    require!(levels == 1 << 1, "exception levels {levels:#b}");
    refused!("EL1 on all {} CPUs", smp::count())
}

/// Off and on again, with state of a VM in the unit: the new start is a fresh one.
fn cpu_off_on() -> Outcome {
    if smp::count() < 2 {
        return Err(Failure::Skipped("needs more CPUs"));
    }
    let last = smp::count() - 1;
    for _ in 0..5 {
        smp::turn_off(last);
        let begin = cpu::now();
        let info = || call::smc(psci::AFFINITY_INFO_64.into(), &[smp::mpidr(last), 0]);
        while info() != psci::AFFINITY_OFF && cpu::now() - begin < cpu::ticks(cpu::PATIENCE) {}
        given!(
            info() == psci::AFFINITY_OFF,
            "CPU {last} does not go off: {}",
            info()
        );
        given!(smp::start_and_wait(last), "CPU {last} does not come back");
    }
    refused!("EL1 each time")
}
