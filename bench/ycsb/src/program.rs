//! What it does.

use core::arch::global_asm;
use core::ffi::{CStr, c_char};

use crate::bson::{Buffer, Value, find};
use crate::choice::{Random, Zipf};
use crate::linux::{Fork, connect, exit, fork, read, wait, write};
use crate::wire;
use crate::workload::{BATCH, Decimal, Operation, RECORDS, insert};

// Linux enters with SP at argc; argv follows.
global_asm!(
    ".section .text._start, \"ax\"",
    ".global _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "b {program}",
    program = sym program
);

const OUTPUT: u64 = 1;
/// Room for a message of either direction: `BATCH` records are the largest.
const MESSAGE: usize = 1 << 17;

fn say(parts: [&[u8]; 4]) {
    for part in parts {
        write(OUTPUT, part);
    }
    write(OUTPUT, b"\n");
}

fn fail(why: &[u8], detail: &[u8]) -> ! {
    say([b"ycsb: ", why, b": ", detail]);
    exit(1)
}

/// Argument `index`.
///
/// # Safety
/// `stack` is where Linux left argc.
unsafe fn argument(stack: *const u64, index: usize) -> &'static str {
    // SAFETY: argc, then as many pointers to C strings, which stay.
    let text = unsafe {
        if index as u64 >= stack.read() {
            return "";
        }
        CStr::from_ptr(stack.add(1 + index).read() as *const c_char)
    };
    text.to_str().unwrap_or_default()
}

extern "C" fn program(stack: *const u64) -> ! {
    // SAFETY: `_start` passes what Linux left.
    let of = |index| unsafe { argument(stack, index) };
    let number = |index| of(index).parse::<u64>().ok();
    let Ok(port) = of(1).parse::<u16>() else {
        usage();
    };
    match (of(2), number(3), number(4), number(5)) {
        ("load", None, None, None) => load(port),
        ("run", Some(operations), Some(connections @ 1..=64), Some(seed)) => {
            run(port, operations, connections, seed);
        }
        _ => usage(),
    }
    exit(0)
}

fn usage() -> ! {
    fail(
        b"usage",
        b"ycsb PORT load | ycsb PORT run OPERATIONS CONNECTIONS SEED",
    )
}

/// A connection.
struct Server {
    socket: u64,
    request: i32,
    bytes: [u8; MESSAGE],
}

impl Server {
    fn connect(port: u16) -> Self {
        match connect(port) {
            Some(socket) => Self {
                socket,
                request: 0,
                bytes: [0; MESSAGE],
            },
            None => fail(b"no connection", b"to the port"),
        }
    }

    /// Sends a command and gives the answer's document.
    fn ask(&mut self, command: impl FnOnce(&mut Buffer<'_>)) -> &[u8] {
        self.request += 1;
        let Some(message) = wire::message(&mut self.bytes, self.request, command) else {
            fail(b"a command", b"is too long");
        };
        let mut first = [0; 4];
        if !write(self.socket, message) || !read(self.socket, &mut first) {
            fail(b"the server", b"has closed the connection");
        }
        let whole = wire::length(first).and_then(|length| self.bytes.get_mut(..length));
        let Some((head, rest)) = whole.and_then(|whole| whole.split_first_chunk_mut()) else {
            fail(b"an answer", b"of no possible length");
        };
        *head = first;
        let length = 4 + rest.len();
        if !read(self.socket, rest) {
            fail(b"an answer", b"was cut off");
        }
        let message = self.bytes.get(..length).unwrap_or_default();
        match wire::answer(message, self.request) {
            Some(document) => document,
            None => fail(b"an answer", b"is to nothing that was asked"),
        }
    }
}

/// Ends with what the server says of an answer that is not as it must be.
fn wrong(what: &[u8], answer: &[u8]) -> ! {
    match find(answer, b"errmsg") {
        Some(Value::String(why)) => fail(what, why),
        _ => fail(what, b"was not done"),
    }
}

/// Stores all records, and says which version of MongoDB the server claims to be.
fn load(port: u16) {
    let mut server = Server::connect(port);
    let mut random = Random::new(0);
    for first in (0..RECORDS).step_by(BATCH as usize) {
        let answer = server.ask(|buffer| insert(buffer, first, &mut random));
        if wire::count(answer, b"n") != Some(BATCH as i64) {
            wrong(b"an insert", answer);
        }
    }
    let answer = server.ask(|buffer| buffer.int32(b"buildInfo", 1));
    if let Some(Value::String(version)) = find(answer, b"version") {
        say([b"server speaks as MongoDB ", version, b"", b""]);
    }
}

fn run(port: u16, operations: u64, connections: u64, seed: u64) {
    let zipf = Zipf::<{ RECORDS as usize }>::new();
    for number in 0..connections {
        // What does not divide evenly falls to the first.
        let own = operations / connections + u64::from(number < operations % connections);
        match fork() {
            Fork::Child => client(port, own, &zipf, seed * 1000 + number),
            Fork::Parent => {}
            Fork::Failed => fail(b"a process", b"cannot be made"),
        }
    }
    let mut well = true;
    for _ in 0..connections {
        well &= wait();
    }
    if !well {
        exit(1);
    }
    let operations = Decimal::new(operations);
    say([b"all ", operations.bytes(), b" operations were done", b""]);
}

/// One connection's part.
fn client(port: u16, operations: u64, zipf: &Zipf<{ RECORDS as usize }>, seed: u64) -> ! {
    let mut server = Server::connect(port);
    let mut random = Random::new(seed);
    for _ in 0..operations {
        let record = zipf.record(&mut random);
        let operation = Operation::choose(&mut random);
        let answer = server.ask(|buffer| operation.write(buffer, record, &mut random));
        if !operation.is_done(answer, record) {
            match operation {
                Operation::Read => wrong(b"a read", answer),
                Operation::Update => wrong(b"an update", answer),
            }
        }
    }
    exit(0)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    fail(b"panic", b"in the client")
}
