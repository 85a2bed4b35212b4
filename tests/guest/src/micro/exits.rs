//! Operations that end with the instruction that makes them: calls, trapped registers, MMIO.

use core::arch::asm;

use super::meter::Meter;
use crate::console::UART;
use crate::cpu::{hvc, instruction, mmio, read_reg};
use crate::verdict::Verdict;
use crate::{platform, psci};

/// A number in the vendor hypervisor's range (SMCCC, DEN0028) that nobody gave a meaning.
const UNKNOWN_CALL: u64 = 0xc600_0fff;
/// PL011 registers without side effects: UARTFR, UARTIBRD.
const UART_FLAGS: u64 = UART + 0x18;
const UART_DIVISOR: u64 = UART + 0x24;
/// GICD_TYPER and GICD_IPRIORITYR (IHI 0069 12.9); the priority of an SPI that nobody uses.
const TYPER: u64 = 0x0004;
const UNUSED_PRIORITY: u64 = 0x0400 + 60;

/// The loop and the clock alone: part of every figure.
pub(super) fn null(meter: &Meter) -> Verdict {
    meter.rounds(|| instruction!("nop"));
    Ok(())
}

/// A hypercall that is refused.
pub(super) fn hypercall(meter: &Meter) -> Verdict {
    meter.rounds(|| {
        hvc(UNKNOWN_CALL, 0, 0, 0);
    });
    Ok(())
}

/// The same, an FP register being used between calls: what a hypervisor pays that gives the unit away.
pub(super) fn hypercall_fp(meter: &Meter) -> Verdict {
    meter.rounds(|| {
        hvc(UNKNOWN_CALL, 0, 0, 0);
        use_fp();
    });
    Ok(())
}

/// Changes an FP register.
pub(super) fn use_fp() {
    // SAFETY: this program is built soft-float; nobody else uses the FP/SIMD registers.
    unsafe { asm!(".arch_extension fp", "fmov d0, xzr") };
}

/// The cheapest call that is answered.
pub(super) fn psci_version(meter: &Meter) -> Verdict {
    meter.rounds(|| {
        psci::call(psci::VERSION, 0, 0, 0);
    });
    Ok(())
}

/// A read that HCR_EL2.TID3 traps.
pub(super) fn id_register(meter: &Meter) -> Verdict {
    meter.rounds(|| {
        read_reg!("id_aa64pfr0_el1");
    });
    Ok(())
}

/// A register of a device that user space (KVM) or the hostvisor models.
pub(super) fn device_read(meter: &Meter) -> Verdict {
    meter.rounds(|| {
        mmio::read32(UART_FLAGS);
    });
    Ok(())
}

/// The same, written.
pub(super) fn device_write(meter: &Meter) -> Verdict {
    meter.rounds(|| mmio::write32(UART_DIVISOR, 1));
    Ok(())
}

/// A register of the distributor, which KVM models in the kernel.
pub(super) fn distributor_read(meter: &Meter) -> Verdict {
    let typer = platform::gicd() + TYPER;
    meter.rounds(|| {
        mmio::read32(typer);
    });
    Ok(())
}

/// The same, written.
pub(super) fn distributor_write(meter: &Meter) -> Verdict {
    let priority = platform::gicd() + UNUSED_PRIORITY;
    meter.rounds(|| mmio::write8(priority, 0xa0));
    Ok(())
}
