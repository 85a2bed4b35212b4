//! What a guest finds at entry, and what must stay its own affair.

use crate::console;
use crate::cpu::{instruction, read_reg};
use crate::exception::{catching, class};
use crate::platform;
use crate::verdict::{Problem, Text, Verdict, check, check_eq, fail};

fn missing(what: &'static str) -> Problem {
    Problem::Fail(Text::new(format_args!("the tree has no {what}")))
}

/// The tree describes the machine that the guest runs on, and lies where the flat format puts it.
pub(crate) fn device_tree() -> Verdict {
    let (base, bytes) = platform::ram();
    check_eq!(base, 0x4000_0000, "RAM base");
    check_eq!(platform::loaded_at(), base + 0x8_0000, "load address");
    check!(bytes >= 32 << 20, "only {bytes:#x} bytes of RAM");
    let tree = platform::tree_address();
    check!(
        tree >= base + (64 << 20) && tree < base + bytes,
        "tree at {tree:#x} is not above 64 MB"
    );
    let fdt = platform::tree().ok_or(missing("header"))?;
    let psci = fdt
        .find_compatible(&["arm,psci-1.0"])
        .ok_or(missing("arm,psci-1.0 node"))?;
    let method = psci.property("method").and_then(|p| p.as_str());
    check!(method == Some("hvc"), "PSCI method is {method:?}, not hvc");
    let uart = fdt
        .find_compatible(&["arm,pl011"])
        .ok_or(missing("arm,pl011 node"))?;
    let uart = uart
        .reg()
        .and_then(|mut r| r.next())
        .ok_or(missing("reg of the UART"))?;
    check_eq!(uart.starting_address as u64, console::UART, "UART");
    check_eq!(platform::gicd(), 0x0800_0000, "GICD");
    check_eq!(platform::gicr(), 0x080a_0000, "GICR");
    fdt.find_compatible(&["arm,armv8-timer"])
        .ok_or(missing("timer node"))?;
    fdt.find_compatible(&["arm,pl031"])
        .ok_or(missing("RTC node"))?;
    for index in 0..platform::cpus() {
        let expected = (index as u64 & 0xf) | (index as u64 >> 4) << 8;
        check_eq!(
            platform::mpidr(index),
            expected,
            "MPIDR of cpu {index} in the tree"
        );
    }
    check_eq!(read_reg!("currentel"), 4, "CurrentEL");
    Ok(())
}

/// SVC and BRK go to the guest's own vectors, with their immediates.
pub(crate) fn own_exceptions() -> Verdict {
    let Some(svc) = catching(|| instruction!("svc #0x123")) else {
        fail!("SVC was not taken")
    };
    check_eq!(svc.class(), class::SVC, "class of SVC");
    check_eq!(svc.esr & 0xffff, 0x123, "immediate of SVC");
    let Some(brk) = catching(|| instruction!("brk #0x456")) else {
        fail!("BRK was not taken")
    };
    check_eq!(brk.class(), class::BRK, "class of BRK");
    check_eq!(brk.esr & 0xffff, 0x456, "immediate of BRK");
    let Some(udf) = catching(|| instruction!("udf #0")) else {
        fail!("UDF was not taken")
    };
    check_eq!(udf.class(), class::UNKNOWN, "class of UDF");
    // WFE and SEV never block a CPU for good.
    instruction!("sevl\n wfe\n sev\n wfe");
    Ok(())
}

/// Maintenance that an EL1 kernel may issue does not trap into an exception.
pub(crate) fn cache_maintenance() -> Verdict {
    let taken = catching(|| {
        instruction!("ic iallu");
        instruction!("ic ialluis");
        instruction!("tlbi vmalle1");
        instruction!("tlbi vmalle1is");
        instruction!("dc cisw, xzr");
        instruction!("dc csw, xzr");
        instruction!("dc isw, xzr");
        let here = platform::loaded_at();
        // SAFETY: maintenance by address of our own image; contents stay.
        unsafe {
            core::arch::asm!("dc cvac, {0}", "dc civac, {0}", "dc cvau, {0}", "ic ivau, {0}", "dsb sy", "isb", in(reg) here);
        }
    });
    if let Some(t) = taken {
        fail!(
            "{} of them trapped, the last with ESR {:#x}",
            t.count,
            t.esr
        );
    }
    let line = 4u64 << (read_reg!("ctr_el0") >> 16 & 0xf);
    check!(
        (16..=256).contains(&line),
        "CTR_EL0 names a data cache line of {line} bytes"
    );
    Ok(())
}
