//! What it does.

use crate::system::{cpus, create, exit, fork, memory, pin, write};
use core::arch::global_asm;
use core::ffi::{CStr, c_char};

global_asm!(include_str!("hold.s"), program = sym program);

unsafe extern "C" {
    fn hold(secret: u64, times: u64);
}

const STANDARD_OUTPUT: u64 = 1;

fn fail(why: &str) -> ! {
    write(STANDARD_OUTPUT, b"secret: FAILED: ");
    write(STANDARD_OUTPUT, why.as_bytes());
    write(STANDARD_OUTPUT, b"\n");
    exit(1)
}

/// Argument `index`.
///
/// # Safety
/// `stack` is where Linux left argc.
unsafe fn argument(stack: *const u64, index: usize) -> Option<&'static str> {
    // SAFETY: argc, then as many pointers to C strings, which stay.
    let text = unsafe {
        if index as u64 >= stack.read() {
            return None;
        }
        let text = stack.add(1 + index).read();
        CStr::from_ptr(text as *const c_char)
    };
    text.to_str().ok()
}

extern "C" fn program(stack: *const u64) -> ! {
    // SAFETY: `_start` passes what Linux left.
    let (complement, times) = unsafe { (argument(stack, 1), argument(stack, 2)) };
    let complement = complement.and_then(|text| u64::from_str_radix(text, 16).ok());
    let times = times.and_then(|text| text.parse::<u32>().ok());
    let (Some(complement), Some(times)) = (complement, times) else {
        fail("usage: secret-keeper COMPLEMENT TIMES");
    };
    spread(!complement, times)
}

fn spread(secret: u64, times: u32) -> ! {
    let Some(memory) = memory(times as usize) else {
        fail("no memory");
    };
    memory.fill(secret);
    let Some(file) = create(c"/secret") else {
        fail("/secret cannot be made");
    };
    if !memory.iter().all(|word| write(file, &word.to_ne_bytes())) {
        fail("/secret cannot be written");
    }
    let all = cpus();
    let last = 63 - all.leading_zeros();
    // A process for each CPU; this one takes the last.
    let own = (0..last)
        .filter(|cpu| all >> cpu & 1 != 0)
        .find(|_| fork())
        .unwrap_or(last);
    if !pin(own) {
        fail("no CPU of that number");
    }
    keep(secret, times, own)
}

fn keep(secret: u64, times: u32, cpu: u32) -> ! {
    // SAFETY: saves and restores what the calling convention asks for.
    unsafe { hold(secret, times.into()) };
    let mut line = *b"secret: held by CPU 00\n";
    line[20] += (cpu / 10) as u8;
    line[21] += (cpu % 10) as u8;
    write(STANDARD_OUTPUT, &line);
    loop {
        // SAFETY: as above.
        unsafe { hold(secret, times.into()) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    fail("panic")
}
