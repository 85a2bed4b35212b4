//! Vectors for the time before hand-over: everything is fatal and gets reported, except for the one
//! load that probes memory which may not be there.

use crate::panic;
use core::arch::{asm, global_asm};

/// General-purpose registers at an exception.
#[repr(C)]
pub(crate) struct Registers {
    x: [u64; 31],
    sp: u64,
}

/// Bytes of the stack that reports run on: an overflowing stack must not be needed to say so.
const STACK_SIZE: usize = 8192;

#[repr(C, align(16))]
struct ReportStack(core::cell::UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: only the vectors use it, as a stack, and the first report ends the machine.
unsafe impl Sync for ReportStack {}

static REPORT_STACK: ReportStack = ReportStack(core::cell::UnsafeCell::new([0; STACK_SIZE]));

global_asm!(
    r#"
    .macro boot_vector number
    .balign 0x80
    mov     x17, #\number
    b       boot_report
    .endm

    .section .text.boot_vectors, "ax"
    .balign 0x800
    .global boot_vectors
boot_vectors:
    boot_vector 0
    boot_vector 1
    boot_vector 2
    boot_vector 3
    // Synchronous, EL2 with SP_EL2. x16 and x17 are free at the probing load.
    .balign 0x80
    mrs     x16, elr_el2
    adrp    x17, boot_probe_load
    add     x17, x17, :lo12:boot_probe_load
    cmp     x16, x17
    mov     x17, #4
    b.ne    boot_report
    add     x16, x16, #4
    msr     elr_el2, x16
    mov     x1, #0
    eret
    boot_vector 5
    boot_vector 6
    boot_vector 7
    boot_vector 8
    boot_vector 9
    boot_vector 10
    boot_vector 11
    boot_vector 12
    boot_vector 13
    boot_vector 14
    boot_vector 15

    // x17 = vector number. x16 and x17 are lost to the report.
boot_report:
    mov     x16, sp
    msr     tpidr_el2, x0
    adrp    x0, {stack}
    add     x0, x0, :lo12:{stack}
    add     x0, x0, #{stack_size}
    mov     sp, x0
    mrs     x0, tpidr_el2
    sub     sp, sp, #256
    stp     x0, x1, [sp, #0]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    stp     x30, x16, [sp, #240]
    mov     x0, sp
    mov     x1, x17
    b       {report}

    // x0 = address. Returns x0 = word, x1 = 1, or x1 = 0 if the load aborts.
    .section .text.boot_probe, "ax"
    .global boot_probe
boot_probe:
    mov     x1, #1
boot_probe_load:
    ldr     w0, [x0]
    dsb     sy
    ret
"#,
    stack = sym REPORT_STACK,
    stack_size = const STACK_SIZE,
    report = sym report,
);

/// Reads the word at `address`, or `None` if nothing answers there. At EL2 and before hand-over
/// only.
pub(crate) fn probe(address: u64) -> Option<u32> {
    let (word, there): (u64, u64);
    // SAFETY: a load only; an abort is caught by the vectors above, which change x1, x16 and x17.
    unsafe {
        asm!("bl boot_probe", inout("x0") address => word, out("x1") there,
            out("x16") _, out("x17") _, out("x30") _, options(nostack));
    }
    (there == 1).then_some(word as u32)
}

/// Says what happened and stops the machine.
extern "C" fn report(registers: &Registers, vector: u64) -> ! {
    let (esr, elr, far, spsr): (u64, u64, u64, u64);
    // SAFETY: reading syndrome registers has no side effect.
    unsafe {
        asm!("mrs {}, esr_el2", "mrs {}, elr_el2", "mrs {}, far_el2", "mrs {}, spsr_el2",
            out(reg) esr, out(reg) elr, out(reg) far, out(reg) spsr,
            options(nomem, nostack, preserves_flags));
    }
    panic::begin();
    let base = crate::image::start();
    panic::line(format_args!(
        "exception at EL2, vector {vector}: ESR {esr:#x} (class {:#x}), FAR {far:#x}, \
         ELR {elr:#x} (image + {:#x}), SPSR {spsr:#x}",
        esr >> 26 & 0x3f,
        elr.wrapping_sub(base),
    ));
    for (row, four) in registers.x.chunks(4).enumerate() {
        let value = |n: usize| four.get(n).copied().unwrap_or(registers.sp);
        panic::line(format_args!(
            "  x{:<2} {:016x} {:016x} {:016x} {:016x}",
            row * 4,
            value(0),
            value(1),
            value(2),
            value(3)
        ));
    }
    panic::end()
}
