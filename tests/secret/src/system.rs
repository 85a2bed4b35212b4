//! Linux's system calls for arm64 (`asm-generic/unistd.h`), as far as they are needed.

use core::arch::asm;
use core::ffi::CStr;

const AT_FDCWD: u64 = -100_i64 as u64;
const O_WRONLY_CREATE: u64 = 0o101;
const READ_WRITE: u64 = 3;
const PRIVATE_ANONYMOUS: u64 = 0x22;
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

/// Writes to standard output (or a file) until all is written or it fails.
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

/// A new file, open for writing.
pub(crate) fn create(path: &CStr) -> Option<u64> {
    let path = path.as_ptr().addr() as u64;
    // SAFETY: openat(2) with a C string.
    let file = unsafe { call(56, [AT_FDCWD, path, O_WRONLY_CREATE, 0o600, 0, 0]) };
    file.try_into().ok()
}

/// Zeroed memory that stays.
pub(crate) fn memory(words: usize) -> Option<&'static mut [u64]> {
    let bytes = words.checked_mul(8)? as u64;
    let args = [0, bytes, READ_WRITE, PRIVATE_ANONYMOUS, u64::MAX, 0];
    // SAFETY: mmap(2) of new memory anywhere.
    let start = unsafe { call(222, args) };
    let start = u64::try_from(start).ok()?;
    // SAFETY: page-aligned zeroed memory of that size, which nobody else has and nobody unmaps.
    Some(unsafe { core::slice::from_raw_parts_mut(start as *mut u64, words) })
}

/// The CPUs that this process may run on, as a mask of the first 64.
pub(crate) fn cpus() -> u64 {
    let mut mask = [0_u64; 16];
    let to = mask.as_mut_ptr().addr() as u64;
    // SAFETY: sched_getaffinity(2) of this process into 128 bytes.
    let size = unsafe { call(123, [0, 128, to, 0, 0, 0]) };
    if size > 0 { mask[0] } else { 1 }
}

/// From now on this process runs on CPU `index` alone.
pub(crate) fn pin(index: u32) -> bool {
    let mask = 1_u64 << index;
    // SAFETY: sched_setaffinity(2) of this process from 8 bytes.
    unsafe { call(122, [0, 8, (&raw const mask).addr() as u64, 0, 0, 0]) == 0 }
}

/// A copy of this process: true in the copy.
pub(crate) fn fork() -> bool {
    // SAFETY: clone(2) without shared memory: each has a stack of its own at the same address.
    unsafe { call(220, [SIGCHLD, 0, 0, 0, 0, 0]) == 0 }
}

/// The end of this process.
pub(crate) fn exit(status: u64) -> ! {
    loop {
        // SAFETY: exit_group(2).
        unsafe { call(94, [status, 0, 0, 0, 0, 0]) };
    }
}
