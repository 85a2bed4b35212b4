//! Behaviours that the harness asks for by name, each for one of its own tests.

use crate::console::{self, println};
use crate::cpu::{self, instruction};
use crate::platform;
use crate::psci;
use crate::verdict::{Verdict, fail as fail_test};

/// Resets the machine.
pub(crate) fn reset() -> Verdict {
    println!("guest: resetting");
    let answer = psci::call(psci::SYSTEM_RESET, 0, 0, 0);
    fail_test!("SYSTEM_RESET came back: {answer}");
}

/// Prints each line it reads as `echo: LINE`, until `quit`.
pub(crate) fn echo() -> Verdict {
    let mut line = [0u8; 128];
    let mut len = 0;
    println!("guest: echo ready");
    loop {
        match console::get() {
            None => {
                let end = crate::timer::now() + crate::timer::ticks(2);
                let timer = crate::timer::Timer::Virtual;
                let before = crate::gic::count(0, timer.intid());
                timer.arm(end);
                cpu::sleep_until(|| crate::gic::count(0, timer.intid()) != before);
            }
            Some(b'\r' | b'\n') => {
                let text = core::str::from_utf8(&line[..len]).unwrap_or("?");
                if text == "quit" {
                    return Ok(());
                }
                println!("echo: {text}");
                len = 0;
            }
            Some(byte) => {
                line[len] = byte;
                len = (len + 1).min(line.len() - 1);
            }
        }
    }
}

/// Keeps every CPU busy for ever.
pub(crate) fn spin() -> Verdict {
    crate::runner::others()?;
    for index in 1..platform::cpus() {
        crate::smp::submit(index, |_| {
            loop {
                instruction!("nop");
            }
        });
    }
    println!("guest: spinning");
    loop {
        instruction!("nop");
    }
}

/// Sleeps for ever.
pub(crate) fn sleep() -> Verdict {
    crate::runner::others()?;
    println!("guest: sleeping");
    cpu::sleep_until(|| false);
    Ok(())
}

/// Fails, so that the harness can show that it notices.
pub(crate) fn fail() -> Verdict {
    fail_test!("on purpose");
}

/// Takes an exception that nobody expects, for the same reason.
pub(crate) fn crash() -> Verdict {
    instruction!("udf #0");
    Ok(())
}

/// Fills most of its memory with a pattern and says where, then sleeps: the memory a hostile host
/// would like to read.
pub(crate) fn fill() -> Verdict {
    let (base, bytes) = platform::ram();
    let (start, end) = (base + (8 << 20), base + (60 << 20).min(bytes));
    let mut address = start;
    while address < end {
        // SAFETY: RAM between the image with its stacks (below 8 MB) and the tree (64 MB).
        unsafe { (address as *mut u64).write_volatile(0x5ec3_e75e_c3e7_5ec3 ^ address) };
        address += 8;
    }
    println!("guest: filled {start:#x}-{end:#x}");
    cpu::sleep_until(|| false);
    Ok(())
}

/// Prints what the hypervisor prints when it cannot go on; then ends well.
pub(crate) fn forge_panic() -> Verdict {
    println!("[core] panic: a guest said so");
    println!("[host] fatal: a guest said so");
    println!("[host] shutdown: VM forger: a guest said so");
    Ok(())
}

/// Prints what the hostvisor prints at a good end; then comes to a bad one: its only CPU is off.
pub(crate) fn forge_success() -> Verdict {
    println!("[host] shutdown: 1 VMs, all powered off cleanly");
    let answer = psci::call(psci::CPU_OFF, 0, 0, 0);
    fail_test!("CPU_OFF came back: {answer}");
}

/// Prints a lot, as fast as it can.
pub(crate) fn uart_flood() -> Verdict {
    for number in 0..1000 {
        println!(
            "flood {number:05} ..............................................................."
        );
    }
    Ok(())
}
