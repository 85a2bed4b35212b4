// window ID PROGRAM ARGUMENT...
//
// PROGRAM is a path. After it ends, one line on standard output:
//
//   WINDOW ID ticks=T status=S
//
// T: ticks of CNTVCT_EL0 between the marks; S: the program's exit status, 128 + the signal that ended it, or 127 if
// it cannot be started. This is also the exit status; it is 2 if the arguments make no sense.
//
// System calls: number in x8, arguments in x0 to x5 (Linux, include/uapi/asm-generic/unistd.h).
// x19 to x25 are live across them: ID, argv of the program, environment, process, first ticks, ticks, status.

.set SYS_write, 64
.set SYS_exit, 93
.set SYS_clone, 220
.set SYS_execve, 221
.set SYS_wait4, 260
.set SIGCHLD, 17

.global _start
.text
_start:
    ldr     x0, [sp]                    // argc
    cmp     x0, #3
    b.lt    usage
    add     x20, sp, #24                // &argv[2]
    add     x21, sp, #16                // the environment is behind argv[argc], which is null
    add     x21, x21, x0, lsl #3
    ldr     x1, [sp, #16]               // argv[1]: decimal
    mov     x19, #0
    mov     x3, #10
1:  ldrb    w2, [x1], #1
    cbz     w2, 2f
    sub     w2, w2, #'0'
    cmp     w2, #9
    b.hi    usage
    madd    x19, x19, x3, x2
    b       1b

2:  isb
    mrs     x23, cntvct_el0
    mov     x9, x19
    hint    #0x60                       // the window opens
    mov     x0, #SIGCHLD                // fork
    mov     x1, #0
    mov     x2, #0
    mov     x3, #0
    mov     x4, #0
    mov     x8, #SYS_clone
    svc     #0
    tbnz    x0, #63, cannot
    cbz     x0, child
    mov     x22, x0
    sub     sp, sp, #16
3:  mov     x0, x22
    mov     x1, sp
    mov     x2, #0
    mov     x3, #0
    mov     x8, #SYS_wait4
    svc     #0
    cmp     x0, x22
    b.ne    3b                          // interrupted
    mov     x9, #1
    hint    #0x61                       // the window closes
    isb
    mrs     x24, cntvct_el0
    sub     x24, x24, x23
    ldr     w25, [sp]
    and     w0, w25, #0x7f              // WTERMSIG
    ubfx    w1, w25, #8, #8             // WEXITSTATUS
    add     w2, w0, #128
    cmp     w0, #0
    csel    w25, w1, w2, eq

    // The line, written from its end.
    sub     sp, sp, #128
    add     x1, sp, #128
    mov     w0, #'\n'
    strb    w0, [x1, #-1]!
    mov     x0, x25
    bl      number
    adr     x0, status
    bl      text
    mov     x0, x24
    bl      number
    adr     x0, ticks
    bl      text
    mov     x0, x19
    bl      number
    adr     x0, window
    bl      text
    mov     x0, #1
    add     x2, sp, #128
    sub     x2, x2, x1
    mov     x8, #SYS_write
    svc     #0
    mov     x0, x25
    b       exit

child:
    ldr     x0, [x20]
    mov     x1, x20
    mov     x2, x21
    mov     x8, #SYS_execve
    svc     #0
cannot:
    mov     x0, #127
    b       exit
usage:
    mov     x0, #2
exit:
    mov     x8, #SYS_exit
    svc     #0
    b       .

// Puts x0 in decimal in front of x1.
number:
    mov     x3, #10
1:  udiv    x2, x0, x3
    msub    x4, x2, x3, x0
    add     w4, w4, #'0'
    strb    w4, [x1, #-1]!
    mov     x0, x2
    cbnz    x0, 1b
    ret

// Puts a string at x0, a byte of length in front of it, in front of x1.
text:
    ldrb    w2, [x0], #1
1:  cbz     w2, 2f
    sub     w2, w2, #1
    ldrb    w3, [x0, x2]
    strb    w3, [x1, #-1]!
    b       1b
2:  ret

window:
    .byte   7
    .ascii  "WINDOW "
ticks:
    .byte   7
    .ascii  " ticks="
status:
    .byte   8
    .ascii  " status="
