//! Exceptions taken by the hostvisor: faults of a probe and of access to guests' memory are
//! fixed up, all others end the machine.

use super::{copy, entry, mmio::Mmio};
use abi::psci;
use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};
use spin::Once;

global_asm!(
    r#"
    .macro hv_vector kind
    .balign 128
    sub   sp, sp, #272
    stp   x0, x1, [sp]
    mov   x0, #\kind
    b     hv_save
    .endm

    .text
    .balign 2048
    .globl hv_vectors
hv_vectors:
    hv_vector 0
    hv_vector 1
    hv_vector 2
    hv_vector 3
    hv_vector 4
    hv_vector 5
    hv_vector 6
    hv_vector 7
    hv_vector 8
    hv_vector 9
    hv_vector 10
    hv_vector 11
    hv_vector 12
    hv_vector 13
    hv_vector 14
    hv_vector 15

    // x0 = vector number; frame of 34 words at SP_EL1: x0-x30, SP_EL0, ELR, SPSR.
hv_save:
    stp   x2, x3, [sp, #16]
    stp   x4, x5, [sp, #32]
    stp   x6, x7, [sp, #48]
    stp   x8, x9, [sp, #64]
    stp   x10, x11, [sp, #80]
    stp   x12, x13, [sp, #96]
    stp   x14, x15, [sp, #112]
    stp   x16, x17, [sp, #128]
    stp   x18, x19, [sp, #144]
    stp   x20, x21, [sp, #160]
    stp   x22, x23, [sp, #176]
    stp   x24, x25, [sp, #192]
    stp   x26, x27, [sp, #208]
    stp   x28, x29, [sp, #224]
    mrs   x1, sp_el0
    stp   x30, x1, [sp, #240]
    mrs   x2, elr_el1
    mrs   x3, spsr_el1
    stp   x2, x3, [sp, #256]
    mov   x1, sp
    bl    {handler}
    // Only a fixed-up probe comes back: x0, x1 and ELR are new, the rest as it was.
    ldp   x2, x3, [sp, #256]
    msr   elr_el1, x2
    msr   spsr_el1, x3
    ldp   x2, x3, [sp, #16]
    ldp   x4, x5, [sp, #32]
    ldp   x6, x7, [sp, #48]
    ldp   x8, x9, [sp, #64]
    ldp   x10, x11, [sp, #80]
    ldp   x12, x13, [sp, #96]
    ldp   x14, x15, [sp, #112]
    ldp   x16, x17, [sp, #128]
    ldp   x18, x19, [sp, #144]
    ldp   x29, x30, [sp, #232]
    ldp   x0, x1, [sp]
    add   sp, sp, #272
    eret
    "#,
    handler = sym handle,
);

#[repr(C)]
struct Frame {
    x: [u64; 31],
    sp: u64,
    elr: u64,
    spsr: u64,
}

unsafe extern "C" {
    fn hv_probe_read_at();
    fn hv_probe_write_at();
    fn hv_probe_fixup();
}

const NAMES: [&str; 4] = ["synchronous exception", "IRQ", "FIQ", "SError"];

/// The machine's UART for last words, with its data register's offset and flag register's offset.
static OUTPUT: Once<Mmio> = Once::new();
static DYING: AtomicBool = AtomicBool::new(false);

/// Names the PL011 that last words go to.
pub fn set_panic_output(uart: Mmio) {
    OUTPUT.call_once(|| uart);
}

struct LastWords;

impl Write for LastWords {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(uart) = OUTPUT.get() else {
            return Ok(());
        };
        for byte in text.bytes() {
            // PL011: UARTFR.TXFF, UARTDR.
            while uart.read32(0x18) & 1 << 5 != 0 {}
            uart.write32(0, u32::from(byte));
        }
        Ok(())
    }
}

extern "C" fn handle(kind: u64, frame: &mut Frame) {
    let (esr, far): (u64, u64);
    // SAFETY: reading two registers.
    unsafe {
        asm!("mrs {}, esr_el1", "mrs {}, far_el1", out(reg) esr, out(reg) far, options(nomem, nostack));
    }
    let probes = [
        hv_probe_read_at as unsafe extern "C" fn(),
        hv_probe_write_at,
    ];
    let synchronous = kind.is_multiple_of(4);
    if synchronous && probes.iter().any(|&p| p as usize as u64 == frame.elr) {
        frame.elr = hv_probe_fixup as unsafe extern "C" fn() as usize as u64;
        frame.x[0] = esr;
        frame.x[1] = far;
        return;
    }
    if synchronous && copy::may_fault(frame.elr) {
        frame.elr = copy::fixup();
        frame.x[0] = esr;
        return;
    }
    let name = NAMES[kind as usize % 4];
    last_words(format_args!(
        "{name} at {:#x}, ESR {esr:#x}, FAR {far:#x}, SPSR {:#x}, SP {:#x}",
        frame.elr, frame.spsr, frame.sp
    ));
    let mut out = LastWords;
    for (i, pair) in frame.x.chunks(4).enumerate() {
        let _ = write!(out, "  x{:<2}", i * 4);
        for value in pair {
            let _ = write!(out, " {value:016x}");
        }
        let _ = out.write_str("\r\n");
    }
    backtrace(frame.sp, frame.x[30]);
    stop()
}

/// Prints what on this CPU's stack, from `sp` up, may be a return address: offsets into the image. Without frame
/// pointers, which would cost on every call, that is the best there is.
fn backtrace(sp: u64, lr: u64) {
    let text = super::mmu::text();
    let (low, high) = entry::stack_range(super::cpu_index());
    let mut out = LastWords;
    let _ = write!(
        out,
        "  return addresses (image offsets): {:#x}",
        lr.wrapping_sub(text.start)
    );
    let words = (sp.clamp(low, high)..high).step_by(8);
    let addresses = words
        .filter_map(|at| super::probe(at).ok())
        .filter(|word| text.contains(word));
    for address in addresses.take(24) {
        let _ = write!(out, " {:#x}", address - text.start);
    }
    let _ = out.write_str("\r\n");
}

fn last_words(what: fmt::Arguments<'_>) {
    if DYING.swap(true, Ordering::AcqRel) {
        // Another CPU is already at it, or this one failed while telling.
        stop();
    }
    let _ = write!(
        LastWords,
        "\r\n[host] fatal: CPU {}: {what}\r\n",
        super::cpu_index()
    );
}

/// Says why on the console, and switches the machine off.
pub fn fatal(why: fmt::Arguments<'_>) -> ! {
    last_words(why);
    let sp: u64;
    // SAFETY: reading the stack pointer.
    unsafe { asm!("mov {}, sp", out(reg) sp, options(nomem, nostack)) };
    backtrace(sp, 0);
    stop()
}

fn stop() -> ! {
    super::smc(psci::SYSTEM_OFF, [0; 3]);
    loop {
        super::wait_for_interrupt();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    fatal(format_args!("{info}"))
}
