//! What operations cost, in ticks of the virtual counter: under QEMU's `-icount shift=0` on a machine whose
//! counter runs at 1 GHz a tick is an instruction, the guest's own loop of a few included.

use crate::console::println;
use crate::cpu::{hvc, instruction, read_reg};
use crate::timer::now;
use crate::verdict::Verdict;
use crate::{gic, platform, psci};

/// The PL011 of QEMU's `virt` board.
const UART: u64 = 0x0900_0000;
/// Rounds in a window; the cheapest of [`WINDOWS`] counts.
const ROUNDS: u64 = 500;
const WINDOWS: usize = 4;

fn measure(name: &str, mut operation: impl FnMut()) {
    let mut best = u64::MAX;
    for _ in 0..WINDOWS {
        instruction!("isb");
        let start = now();
        for _ in 0..ROUNDS {
            operation();
        }
        instruction!("isb");
        best = best.min(now() - start);
    }
    println!("cost {name}: {}", best / ROUNDS);
}

/// Prints the cost of each operation.
pub(crate) fn measure_all() -> Verdict {
    measure("null", || instruction!("nop"));
    measure("hypercall", || {
        hvc(0xc600_0fff, 0, 0, 0);
    });
    measure("psci-version", || {
        psci::call(psci::VERSION, 0, 0, 0);
    });
    measure("id-register", || {
        read_reg!("id_aa64pfr0_el1");
    });
    let uart_flags = (UART + 0x18) as *const u32;
    // SAFETY: UARTFR of the PL011; reading it has no side effect.
    measure("mmio-read-device", || unsafe {
        uart_flags.read_volatile();
    });
    let uart_ibrd = (UART + 0x24) as *mut u32;
    // SAFETY: UARTIBRD of the PL011; nothing depends on it.
    measure("mmio-write-device", || unsafe {
        uart_ibrd.write_volatile(1);
    });
    let typer = (platform::gicd() + 4) as *const u32;
    // SAFETY: GICD_TYPER; reading it has no side effect.
    measure("mmio-read-gicd", || unsafe {
        typer.read_volatile();
    });
    let sgi = 5;
    gic::enable(sgi);
    measure("ipi-self", || {
        let before = gic::count(0, sgi);
        gic::send(platform::mpidr(0), sgi);
        while gic::count(0, sgi) == before {}
    });
    Ok(())
}
