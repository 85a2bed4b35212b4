//! A client of QEMU's machine protocol (QMP): changes a machine's devices while it runs.
//!
//! One JSON object on each line; asynchronous events come in between answers.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to the server at `socket`.
    ///
    /// # Errors
    /// If there is none, or it does not talk as expected.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut new = Self {
            stream: BufReader::new(stream),
        };
        new.execute("qmp_capabilities", "{}")?;
        Ok(new)
    }

    /// Executes `command` with a JSON object of arguments.
    ///
    /// # Errors
    /// If QEMU refuses it: with its line.
    pub fn execute(&mut self, command: &str, arguments: &str) -> io::Result<()> {
        let line = format!("{{\"execute\": \"{command}\", \"arguments\": {arguments}}}\n");
        self.stream.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut answer = String::new();
            if self.stream.read_line(&mut answer)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if answer.starts_with("{\"return\"") {
                return Ok(());
            }
            if answer.starts_with("{\"error\"") {
                return Err(io::Error::other(format!("{command}: {answer}")));
            }
        }
    }
}
