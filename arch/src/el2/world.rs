//! The world switch: entering EL1 and coming back, as one function call.
//!
//! `enter_world(gp)` keeps EL2's callee-saved registers on the stack and the pointer to the world's
//! [`GpRegs`] in TPIDR_EL2, loads the world and returns to it. The next exception from a lower
//! exception level stores the world's registers there and returns from `enter_world` with the kind of
//! trap. EL2 itself runs with all interrupts masked, so that an exception taken from EL2 to EL2 is a
//! broken invariant: it goes to `el2_fault`, which never returns.

use crate::context::GpRegs;
use core::arch::global_asm;
use core::mem::offset_of;

/// `enter_world` returned for a synchronous exception.
pub(super) const SYNC: u64 = 0;
/// `enter_world` returned for an IRQ or FIQ.
pub(super) const INTERRUPT: u64 = 1;
/// `enter_world` returned for an SError.
pub(super) const SERROR: u64 = 2;

unsafe extern "C" {
    /// Runs the world in `gp` until its next exception to EL2.
    ///
    /// # Safety
    ///
    /// VBAR_EL2 holds `el2_vectors`; stage 2 and the trap controls confine the world; `gp` is not
    /// reached otherwise until the call returns. TPIDR_EL2 is this function's own.
    pub(super) fn enter_world(gp: *mut GpRegs) -> u64;

    /// The exception vectors, 2 KiB aligned.
    pub static el2_vectors: u8;
}

global_asm!(
    r#"
    .section .text.el2_world, "ax"
    .global enter_world
enter_world:
    sub     sp, sp, #96
    stp     x19, x20, [sp, #0]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    msr     tpidr_el2, x0
    ldp     x2, x3, [x0, #{pc}]
    msr     elr_el2, x2
    msr     spsr_el2, x3
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret
    // No speculation past the return.
    dsb     nsh
    isb

    // From a lower exception level: every register is the world's, the stack is as enter_world left
    // it. `kind` is what enter_world returns.
    .macro from_world kind
    .balign 0x80
    stp     x0, x1, [sp, #-16]!
    mov     x1, #\kind
    b       leave_world
    .endm

leave_world:
    mrs     x0, tpidr_el2
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    str     x30, [x0, #240]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    mrs     x2, elr_el2
    mrs     x3, spsr_el2
    stp     x2, x3, [x0, #{pc}]
    mov     x0, x1
    ldp     x19, x20, [sp, #0]
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    add     sp, sp, #96
    ret

    // From EL2 itself: a broken invariant. The stack may be what broke, so switch to the emergency
    // stack; several CPUs arriving at once may garble the report but not the outcome.
    .macro from_el2 kind
    .balign 0x80
    mov     x0, #\kind
    b       el2_broken
    .endm

el2_broken:
    mov     x4, sp
    adrp    x5, el2_emergency_stack_top
    add     x5, x5, :lo12:el2_emergency_stack_top
    mov     sp, x5
    mrs     x1, esr_el2
    mrs     x2, elr_el2
    mrs     x3, far_el2
    bl      el2_fault
1:  wfe
    b       1b

    .section .text.el2_vectors, "ax"
    .balign 0x800
    .global el2_vectors
el2_vectors:
    // Current EL with SP_EL0, then with SP_ELx.
    from_el2 0
    from_el2 1
    from_el2 2
    from_el2 3
    from_el2 4
    from_el2 5
    from_el2 6
    from_el2 7
    // Lower EL, AArch64, then AArch32.
    from_world {sync}
    from_world {interrupt}
    from_world {interrupt}
    from_world {serror}
    from_world {sync}
    from_world {interrupt}
    from_world {interrupt}
    from_world {serror}

    .section .bss.el2_emergency_stack, "aw", @nobits
    .balign 16
    .space 4096
el2_emergency_stack_top:
    .text
    "#,
    pc = const offset_of!(GpRegs, pc),
    sync = const SYNC,
    interrupt = const INTERRUPT,
    serror = const SERROR,
);

const _: () = assert!(offset_of!(GpRegs, x) == 0 && offset_of!(GpRegs, pstate) == 256);

/// Where an exception from EL2 to EL2 ends.
#[unsafe(no_mangle)]
extern "C" fn el2_fault(vector: u64, esr: u64, elr: u64, far: u64, sp: u64) -> ! {
    panic!(
        "exception at EL2: vector {vector}, ESR {esr:#x}, ELR {elr:#x}, FAR {far:#x}, SP {sp:#x}"
    )
}
