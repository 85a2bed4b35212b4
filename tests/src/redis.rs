//! A client on the workstation for a Redis server in a VM, by a forwarded port.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long an answer may take: a VM on a busy development host takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Adds one to `key`, by a connection of its own: the new value. `None` if nobody answers: before the guest listens,
/// QEMU accepts and hangs up.
#[must_use]
pub fn increment(port: u16, key: &str) -> Option<u64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "INCR {key}\r\n").ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    line.strip_prefix(':')?.trim_end().parse().ok()
}
