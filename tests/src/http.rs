//! A client on the workstation for servers in VMs, by forwarded ports.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// How long an answer may take: a VM on a busy development host takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port of the workstation that nobody uses.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
    listener.expect("a free port").port()
}

/// GET `path` from a forwarded port: the body. `None` if nobody answers: before the guest listens, QEMU accepts
/// and hangs up.
#[must_use]
pub fn get(port: u16, path: &str) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET /{path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let body = answer.split_off(end + 4);
    answer.starts_with(b"HTTP/1.").then_some(body)
}
