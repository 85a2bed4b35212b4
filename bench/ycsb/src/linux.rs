//! Linux's system calls for arm64 (`asm-generic/unistd.h`), as far as they are needed.

use core::arch::asm;

const AF_INET: u64 = 2;
const SOCK_STREAM: u64 = 1;
const IPPROTO_TCP: u64 = 6;
const TCP_NODELAY: u64 = 1;
const SIGCHLD: u64 = 17;

/// A system call; what it answers, an error as a small negative number.
///
/// # Safety
/// As the call asks.
unsafe fn call(number: u64, args: [u64; 6]) -> i64 {
    let answer;
    let [a, b, c, d, e, f] = args;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a => answer, in("x1") b, in("x2") c, in("x3") d,
             in("x4") e, in("x5") f, options(nostack));
    }
    answer
}

/// Writes until all is written or it fails.
pub(crate) fn write(file: u64, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let (from, size) = (bytes.as_ptr().addr() as u64, bytes.len() as u64);
        // SAFETY: write(2) from a slice.
        let done = unsafe { call(64, [file, from, size, 0, 0, 0]) };
        match usize::try_from(done) {
            Ok(done) if done > 0 => bytes = bytes.get(done..).unwrap_or_default(),
            _ => return false,
        }
    }
    true
}

/// Reads until `bytes` is full, or the file ends or fails.
pub(crate) fn read(file: u64, mut bytes: &mut [u8]) -> bool {
    while !bytes.is_empty() {
        let (to, size) = (bytes.as_mut_ptr().addr() as u64, bytes.len() as u64);
        // SAFETY: read(2) into a slice.
        let done = unsafe { call(63, [file, to, size, 0, 0, 0]) };
        match usize::try_from(done) {
            Ok(done) if done > 0 => bytes = bytes.get_mut(done..).unwrap_or_default(),
            _ => return false,
        }
    }
    true
}

/// A TCP connection to `port` of 127.0.0.1, which sends at once, as MongoDB's drivers ask for.
pub(crate) fn connect(port: u16) -> Option<u64> {
    // SAFETY: socket(2).
    let socket = unsafe { call(198, [AF_INET, SOCK_STREAM, 0, 0, 0, 0]) };
    let socket = u64::try_from(socket).ok()?;
    let one = 1_u32;
    let from = (&raw const one).addr() as u64;
    // SAFETY: setsockopt(2) from 4 bytes.
    let _ = unsafe { call(208, [socket, IPPROTO_TCP, TCP_NODELAY, from, 4, 0]) };
    // struct sockaddr_in: family, port and address with the highest byte first, 8 bytes unused.
    let [high, low] = port.to_be_bytes();
    let address = [
        AF_INET as u8,
        0,
        high,
        low,
        127,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let from = address.as_ptr().addr() as u64;
    // SAFETY: connect(2) with an address of 16 bytes.
    let answer = unsafe { call(203, [socket, from, 16, 0, 0, 0]) };
    (answer == 0).then_some(socket)
}

/// Which of the two processes this is after a fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fork {
    Parent,
    Child,
    Failed,
}

/// A copy of this process.
pub(crate) fn fork() -> Fork {
    // SAFETY: clone(2) without shared memory: each has a stack of its own at the same address.
    match unsafe { call(220, [SIGCHLD, 0, 0, 0, 0, 0]) } {
        0 => Fork::Child,
        process if process > 0 => Fork::Parent,
        _ => Fork::Failed,
    }
}

/// Waits for one child; whether it ended with 0.
pub(crate) fn wait() -> bool {
    let mut status = 0_u32;
    let to = (&raw mut status).addr() as u64;
    // SAFETY: wait4(2) for any child, into 4 bytes.
    let process = unsafe { call(260, [u64::MAX, to, 0, 0, 0, 0]) };
    process > 0 && status == 0
}

/// The end of this process.
pub(crate) fn exit(status: u64) -> ! {
    loop {
        // SAFETY: exit_group(2).
        unsafe { call(94, [status, 0, 0, 0, 0, 0]) };
    }
}
