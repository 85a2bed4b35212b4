//! Registers keep their values across exits, and when more vCPUs run than CPUs exist.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::console::UART;
use crate::cpu::{self, MAX_CPUS, instruction, mmio, read_reg, write_reg};
use crate::platform;
use crate::smp;
use crate::timer::{Timer, now, ticks};
use crate::verdict::{Verdict, check_eq};

unsafe extern "C" {
    fn fp_load(registers: *const [u128; 32]);
    fn fp_store(registers: *mut [u128; 32]);
    fn gpr_hvc(seed: u64, function: u64) -> u64;
    fn gpr_mmio(seed: u64, address: u64) -> u64;
    fn gpr_wfi(seed: u64) -> u64;
}

/// What each CPU found wrong: 0 nothing, else a code.
static WRONG: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// A value that differs for each CPU, register and round.
fn pattern(cpu: u64, register: u64, round: u64) -> u128 {
    let half = (cpu + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ register.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ round << 17;
    u128::from(half) << 64 | u128::from(!half)
}

fn load(cpu: u64, round: u64) {
    let values: [u128; 32] = core::array::from_fn(|r| pattern(cpu, r as u64, round));
    // SAFETY: this program is built soft-float; nobody else uses the FP/SIMD registers.
    unsafe { fp_load(&raw const values) };
    set_control(round);
    write_reg!("tpidr_el0", pattern(cpu, 40, round) as u64);
    write_reg!("tpidrro_el0", pattern(cpu, 41, round) as u64);
    write_reg!(
        "contextidr_el1",
        pattern(cpu, 42, round) as u64 & 0xffff_ffff
    );
    write_reg!("par_el1", 0);
    write_reg!("afsr0_el1", 0);
    write_reg!("cntkctl_el1", round & 3);
    write_reg!("mair_el1", 0x44_ff00 | (cpu + 1) << 56);
}

/// FPCR.RMode and FPSR's flags, from the round.
fn set_control(round: u64) {
    // SAFETY: see `load`.
    unsafe {
        asm!(".arch_extension fp", "msr fpcr, {0}", "msr fpsr, {1}", in(reg) (round & 3) << 22, in(reg) round & 0x1f);
    }
}

/// 0, or 1 + number of the first register that differs.
fn verify(cpu: u64, round: u64) -> u64 {
    let mut values = [0u128; 32];
    let (fpcr, fpsr): (u64, u64);
    // SAFETY: see `load`.
    unsafe {
        fp_store(&raw mut values);
        asm!(".arch_extension fp", "mrs {0}, fpcr", "mrs {1}, fpsr", out(reg) fpcr, out(reg) fpsr);
    }
    if let Some(r) = (0..32).find(|&r| values[r] != pattern(cpu, r as u64, round)) {
        return 1 + r as u64;
    }
    let checks = [
        fpcr == (round & 3) << 22,
        fpsr == round & 0x1f,
        read_reg!("tpidr_el0") == pattern(cpu, 40, round) as u64,
        read_reg!("tpidrro_el0") == pattern(cpu, 41, round) as u64,
        read_reg!("contextidr_el1") & 0xffff_ffff == pattern(cpu, 42, round) as u64 & 0xffff_ffff,
        read_reg!("cntkctl_el1") & 3 == round & 3,
        read_reg!("mair_el1") == 0x44_ff00 | (cpu + 1) << 56,
        read_reg!("tpidr_el1") == cpu,
    ];
    checks
        .iter()
        .position(|&ok| !ok)
        .map_or(0, |at| 33 + at as u64)
}

/// Causes an exit, another kind each time.
fn exit(round: u64) {
    match round % 5 {
        0 => {
            cpu::hvc(0x8400_0000, 0, 0, 0);
        }
        1 => {
            mmio::read32(UART + 0x18);
        }
        2 => instruction!("wfe"),
        3 => {
            let timer = Timer::Virtual;
            let before = crate::gic::count(cpu::index(), timer.intid());
            timer.arm(timer.count() + ticks(1));
            cpu::sleep_until(|| crate::gic::count(cpu::index(), timer.intid()) != before);
        }
        _ => {
            let end = now() + ticks(3);
            while now() < end {}
        }
    }
}

/// All general registers survive an HVC, an emulated load and a WFI; FP/SIMD and system registers
/// survive every kind of exit.
pub(crate) fn across_exits() -> Verdict {
    for seed in [0, 0x5555_5555_5555_5555, 0x0123_4567_89ab_cdef] {
        // SAFETY: the assembly restores the callee-saved registers.
        unsafe {
            check_eq!(
                gpr_hvc(seed, 0x8400_0000),
                0,
                "registers changed by PSCI_VERSION"
            );
            check_eq!(
                gpr_mmio(seed, UART + 0x18),
                0,
                "registers changed by an MMIO load"
            );
        }
        let timer = Timer::Virtual;
        cpu::mask();
        timer.arm(timer.count() + ticks(2));
        // SAFETY: as above; the masked timer interrupt ends the WFI.
        let changed = unsafe { gpr_wfi(seed) };
        cpu::unmask();
        check_eq!(changed, 0, "registers changed by WFI");
    }
    for round in 0..50 {
        load(0, round);
        exit(round);
        check_eq!(
            verify(0, round),
            0,
            "first register that changed (1-32 SIMD, 33- FPCR FPSR TPIDR TPIDRRO CONTEXTIDR CNTKCTL MAIR), round {round}"
        );
    }
    Ok(())
}

/// Every CPU keeps its own registers while all run, sleep and trap at once.
pub(crate) fn across_switches() -> Verdict {
    smp::run_on_all(20_000, |index| {
        let end = now() + ticks(1500);
        let mut round = index as u64;
        while now() < end && WRONG[index].load(Ordering::SeqCst) == 0 {
            load(index as u64, round);
            exit(round);
            exit(round / 5);
            WRONG[index].store(verify(index as u64, round), Ordering::SeqCst);
            round += 1;
        }
    })?;
    for (index, wrong) in WRONG.iter().enumerate().take(platform::cpus()) {
        check_eq!(
            wrong.load(Ordering::SeqCst),
            0,
            "first register that changed on cpu {index}"
        );
    }
    Ok(())
}
