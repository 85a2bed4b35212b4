//! Device accesses of every shape, and accesses to where nothing is.

use core::arch::asm;

use crate::console::UART;
use crate::cpu::mmio::{read8, read32, read64, write8, write32, write64};
use crate::exception::{Taken, catching, class};
use crate::platform;
use crate::runner::on_bare_machine;
use crate::tables;
use crate::timer;
use crate::verdict::{Problem, Text, Verdict, check, check_eq, fail};

/// Nothing is there, neither on QEMU's board nor in Cloister's.
const NOWHERE: u64 = 0x0b00_0000;
/// Where `asm/entry.s` maps physical address 0 a second time, as normal executable memory.
const ALIAS: u64 = 64 << 30;
const RTC: u64 = 0x0901_0000;

/// PL011 identification (DDI 0183 3.3.15): UARTPCellID1 and the divisor register.
const CELL_ID1: u64 = UART + 0xff4;
const CELL_ID3: u64 = UART + 0xffc;
const IBRD: u64 = UART + 0x24;

/// Loads and stores of each width and extension move exactly the bits they name.
pub(crate) fn decode() -> Verdict {
    check_eq!(read32(CELL_ID1), 0xf0, "32-bit load");
    check_eq!(u64::from(read8(CELL_ID1)), 0xf0, "8-bit load");
    let (signed64, signed32, half, word, wide): (u64, u64, u64, u64, u64);
    // SAFETY: identification registers have no side effects.
    unsafe {
        asm!("ldrsb {0}, [{1}]", inout(reg) 0x55u64 => signed64, in(reg) CELL_ID1);
        asm!("ldrsb {0:w}, [{1}]", inout(reg) !0u64 => signed32, in(reg) CELL_ID1);
        asm!("ldrsh {0}, [{1}]", inout(reg) !0u64 => half, in(reg) CELL_ID1);
        asm!("ldrsw {0}, [{1}]", inout(reg) !0u64 => word, in(reg) CELL_ID1);
        asm!("ldr {0:w}, [{1}]", inout(reg) !0u64 => wide, in(reg) CELL_ID1);
        asm!("ldr xzr, [{0}]", "ldr wzr, [{0}]", in(reg) CELL_ID1 & !7);
    }
    check_eq!(
        signed64,
        0xffff_ffff_ffff_fff0,
        "sign-extending 8-bit load to 64 bits"
    );
    check_eq!(
        signed32,
        0xffff_fff0,
        "sign-extending 8-bit load to 32 bits"
    );
    check_eq!(half, 0xf0, "sign-extending 16-bit load");
    check_eq!(word, 0xf0, "sign-extending 32-bit load");
    check_eq!(wide, 0xf0, "upper half after a 32-bit load");
    let saved = read32(IBRD);
    for pattern in [0x1234, 0xabcd, 0] {
        write32(IBRD, pattern);
        check_eq!(
            read32(IBRD) & 0xffff,
            pattern,
            "UARTIBRD after a 32-bit store"
        );
    }
    write32(IBRD, 0xffff);
    // SAFETY: the divisor is restored below, and nothing is sent meanwhile.
    unsafe { asm!("str wzr, [{0}]", in(reg) IBRD) };
    check_eq!(read32(IBRD) & 0xffff, 0, "UARTIBRD after a store of wzr");
    write32(IBRD, saved);
    Ok(())
}

fn external_abort(what: &str, address: u64, taken: Option<Taken>) -> Verdict {
    let Some(t) = taken else {
        fail!("{what} at {address:#x} took no exception")
    };
    check!(
        t.is_external_data_abort(),
        "{what} at {address:#x}: ESR {:#x}, not an external abort",
        t.esr
    );
    check_eq!(t.far, address, "FAR after {what}");
    Ok(())
}

fn every_width(address: u64) -> Verdict {
    external_abort("8-bit load", address, catching(|| read8(address)))?;
    external_abort("32-bit load", address, catching(|| read32(address)))?;
    external_abort("64-bit load", address, catching(|| read64(address)))?;
    external_abort("8-bit store", address, catching(|| write8(address, 1)))?;
    external_abort("32-bit store", address, catching(|| write32(address, 1)))?;
    external_abort("64-bit store", address, catching(|| write64(address, 1)))
}

/// Where nothing is mapped, every load and store ends in a synchronous external abort with the right
/// address, and the guest goes on.
pub(crate) fn unmapped() -> Verdict {
    for address in [NOWHERE, NOWHERE + 0xff8, NOWHERE + 0x1000, 0x0bff_fff8] {
        every_width(address)?;
    }
    let elsewhere: &[u64] = &[
        0,
        0x0700_0000,
        // Behind the CPU interface of a GICv2; a GICv2m; the CPU interface or the redistributors of the GIC
        // that there is not.
        0x0801_2000,
        0x0802_0000,
        if crate::gic::is_v2() {
            0x080a_0000
        } else {
            0x0801_0000
        },
        // GICH and GICV of QEMU's board.
        0x0803_0000,
        0x0804_0000,
        0x0902_0000,
        0x1000_0000,
        0x3f00_0000,
        0x3fff_fff8,
    ];
    if !on_bare_machine() {
        for &address in elsewhere {
            every_width(address)?;
        }
    }
    Ok(())
}

/// Instructions that give no syndrome (pairs, write-back, exclusives, SIMD) end in an abort, leave
/// their base register alone, and the guest goes on. On a bare machine devices accept some of them.
pub(crate) fn no_syndrome() -> Verdict {
    for target in [NOWHERE + 0x40, UART + 0xff0] {
        let must_abort = target != UART + 0xff0 || !on_bare_machine();
        for shape in 0..7 {
            let mut base = target;
            // SAFETY: identification registers, or nothing at all, are at `target`; an aborted
            // instruction is skipped.
            let taken = catching(|| unsafe {
                match shape {
                    0 => asm!("ldp x9, x10, [{0}]", in(reg) base, out("x9") _, out("x10") _),
                    1 => asm!("ldr w9, [{0}], #4", inout(reg) base, out("x9") _),
                    2 => asm!("ldr w9, [{0}, #4]!", inout(reg) base, out("x9") _),
                    3 => asm!("stp xzr, xzr, [{0}]", in(reg) base),
                    4 => asm!("str wzr, [{0}], #8", inout(reg) base),
                    5 => {
                        asm!(".arch_extension fp", ".arch_extension simd", "ldr q0, [{0}]", in(reg) base)
                    }
                    _ => asm!("ldp w9, w10, [{0}], #8", inout(reg) base, out("x9") _, out("x10") _),
                }
            });
            match taken {
                Some(t) => {
                    check!(
                        t.is_external_data_abort(),
                        "shape {shape} at {target:#x}: ESR {:#x}",
                        t.esr
                    );
                    check_eq!(base, target, "base register after aborted shape {shape}");
                }
                None => check!(
                    !must_abort,
                    "shape {shape} at {target:#x} took no exception"
                ),
            }
        }
        // Exclusives and cache maintenance of device addresses: anything but a hang.
        // SAFETY: as above.
        catching(|| unsafe {
            asm!("ldxr w9, [{0}]", "stxr w10, w9, [{0}]", in(reg) target, out("x9") _, out("x10") _);
            asm!("dc civac, {0}", "dc cvac, {0}", in(reg) target);
        });
    }
    Ok(())
}

/// Accesses at the end of a device's page stay in that page or end in an exception.
pub(crate) fn page_end() -> Verdict {
    check_eq!(read32(CELL_ID3), 0xb1, "last register of the UART");
    read8(UART + 0xfff);
    if let Some(t) = catching(|| read32(UART + 0xffe)) {
        check!(
            t.class() == class::DATA_ABORT,
            "unaligned device load: ESR {:#x}",
            t.esr
        );
    }
    // Through the alias the MMU lets an unaligned access pass, half in the UART, half behind it.
    for offset in [0xffd, 0xffe, 0xfff] {
        if let Some(t) = catching(|| read32(ALIAS + UART + offset)) {
            check!(
                t.class() == class::DATA_ABORT,
                "load across the UART's end: ESR {:#x}",
                t.esr
            );
        }
        catching(|| write64(ALIAS + RTC + 0xff8 + (offset & 7), 0));
    }
    check_eq!(
        read32(CELL_ID3),
        0xb1,
        "last register of the UART afterwards"
    );
    Ok(())
}

/// Fetching instructions from a device, or from nowhere, is an abort that the guest survives.
pub(crate) fn fetch() -> Verdict {
    for target in [ALIAS + RTC + 0x800, ALIAS + NOWHERE] {
        // SAFETY: nothing at the target can be executed; the handler returns to x30.
        let taken = catching(|| unsafe { asm!("blr {0}", in(reg) target, clobber_abi("C")) });
        let Some(t) = taken else {
            fail!("fetch from {target:#x} took no exception")
        };
        let undef = on_bare_machine() && t.is_undef();
        check!(
            t.class() == class::FETCH_ABORT || undef,
            "fetch from {target:#x}: ESR {:#x}",
            t.esr
        );
        if !undef {
            check_eq!(t.far, target, "FAR after a fetch");
        }
    }
    Ok(())
}

/// A translation table in a device, or where nothing is, can be read by nobody: whatever asked for the
/// translation ends in an abort, whether the instruction has a syndrome or not.
pub(crate) fn walk() -> Verdict {
    let (base, bytes) = platform::ram();
    for table in [
        UART,
        RTC,
        platform::gicd(),
        NOWHERE,
        0,
        base - 4096,
        base + bytes,
    ] {
        tables::with_next_level(table, |address| {
            for shape in 0..5 {
                // SAFETY: nothing can be mapped at the address; what aborts is skipped, and a fetch returns
                // to x30.
                let taken = catching(|| unsafe {
                    match shape {
                        0 => {
                            read32(address);
                        }
                        1 => write64(address, 0),
                        2 => asm!("ldp x9, x10, [{0}]", in(reg) address, out("x9") _, out("x10") _),
                        3 => asm!("at s1e1r, {0}", in(reg) address),
                        _ => asm!("blr {0}", in(reg) address, clobber_abi("C")),
                    }
                });
                let Some(t) = taken else {
                    fail!("shape {shape} with a table at {table:#x} took no exception")
                };
                check!(
                    t.is_external(),
                    "shape {shape} with a table at {table:#x}: ESR {:#x}",
                    t.esr
                );
                check_eq!(t.far, address, "FAR after a table walk");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Behind the end of RAM there is nothing: neither another VM's memory nor the machine's.
pub(crate) fn beyond_ram() -> Verdict {
    let (base, bytes) = platform::ram();
    let end = base + bytes;
    external_abort("64-bit load", end, catching(|| read64(end)))?;
    every_width(end)?;
    every_width(base - 8)?;
    let mut address = end;
    while address < 1 << 36 {
        external_abort("load", address, catching(|| read32(address)))?;
        external_abort(
            "store",
            address + 0xff8,
            catching(|| write64(address + 0xff8, !0)),
        )?;
        address += 16 << 20;
    }
    // The last bytes of RAM are there.
    let last = (end - 8) as *mut u64;
    // SAFETY: RAM that nobody uses: the stack and the image are far below, the tree as well.
    let same = unsafe {
        last.write_volatile(0x0bad_cafe_dead_beef);
        last.read_volatile() == 0x0bad_cafe_dead_beef
    };
    check!(same, "the last word of RAM does not keep its value");
    Ok(())
}

/// The PL031 counts seconds.
pub(crate) fn rtc() -> Verdict {
    check_eq!(read32(RTC + 0xff4), 0xf0, "PL031 cell id 1");
    let first = read32(RTC);
    check!(first > 1_500_000_000, "RTC says {first} s since 1970");
    if !timer::wait_for(3000, || read32(RTC) != first) {
        return Err(Problem::Fail(Text::new(format_args!(
            "RTC stands still at {first}"
        ))));
    }
    let moved = read32(RTC).wrapping_sub(first);
    check!((1..=3).contains(&moved), "RTC jumped by {moved} s");
    Ok(())
}
