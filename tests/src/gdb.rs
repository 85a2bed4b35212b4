//! A client of QEMU's GDB server: looks at registers and physical memory of a machine that stands still.
//!
//! The GDB Remote Serial Protocol: packets `$text#checksum`, each acknowledged by `+`. System registers are told
//! by QEMU in a description of its own, `system-registers.xml`; `Qqemu.PhyMemMode` makes addresses physical.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Most bytes that QEMU answers at once.
const CHUNK: u64 = 0x400;

/// A machine that stands still. Dropping it lets the machine go on.
pub struct Gdb {
    stream: UnixStream,
    /// Numbers of the system registers by name.
    numbers: HashMap<String, u64>,
}

impl Gdb {
    /// Connects to the server at `socket`, which stops the machine.
    ///
    /// # Errors
    /// If there is none, or it does not talk as expected.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut new = Self {
            stream,
            numbers: HashMap::new(),
        };
        new.ask("qSupported:xmlRegisters=aarch64")?;
        new.numbers = new.system_registers()?;
        new.ask("Qqemu.PhyMemMode:1")?;
        Ok(new)
    }

    /// From now on `register` reads those of CPU `index`.
    ///
    /// # Errors
    /// If there is no such CPU.
    pub fn select_cpu(&mut self, index: usize) -> io::Result<()> {
        // Threads count from 1.
        match self.ask(&format!("Hg{:x}", index + 1))?.as_str() {
            "OK" => Ok(()),
            other => Err(wrong(format!("CPU {index}: {other}"))),
        }
    }

    /// A system register by name, `VBAR_EL2`.
    ///
    /// # Errors
    /// If QEMU knows none of that name.
    pub fn register(&mut self, name: &str) -> io::Result<u64> {
        let number = self.numbers.get(name).copied();
        let number = number.ok_or_else(|| wrong(format!("no register {name}")))?;
        let answer = self.ask(&format!("p{number:x}"))?;
        word(&bytes(&answer)?).ok_or_else(|| wrong(format!("{name}: {answer}")))
    }

    /// `count` 64-bit words of physical memory at `address`.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn words(&mut self, address: u64, count: u64) -> io::Result<Vec<u64>> {
        let mut all = Vec::new();
        let end = address + count * 8;
        let mut at = address;
        while at < end {
            let size = CHUNK.min(end - at);
            let answer = self.ask(&format!("m{at:x},{size:x}"))?;
            let read = bytes(&answer)?;
            if read.len() as u64 != size {
                return Err(wrong(format!("memory at {at:#x}: {answer}")));
            }
            all.extend(read.chunks(8).filter_map(word));
            at += size;
        }
        Ok(all)
    }

    fn system_registers(&mut self) -> io::Result<HashMap<String, u64>> {
        let mut text = String::new();
        loop {
            let offset = text.len();
            let answer = self.ask(&format!(
                "qXfer:features:read:system-registers.xml:{offset:x},{CHUNK:x}"
            ))?;
            // `m`: more is to come; `l`: that was the last.
            let Some(part) = answer.strip_prefix(['m', 'l']) else {
                return Err(wrong(format!("system-registers.xml: {answer}")));
            };
            text.push_str(part);
            if answer.starts_with('l') {
                break;
            }
        }
        let attribute = |tag: &str, name: &str| {
            let rest = tag.split_once(&format!(" {name}=\""))?.1;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let tags = text.split('<').filter(|tag| tag.starts_with("reg "));
        Ok(tags
            .filter_map(|tag| {
                let number = attribute(tag, "regnum")?.parse().ok()?;
                Some((attribute(tag, "name")?, number))
            })
            .collect())
    }

    /// Sends a packet; the answer.
    fn ask(&mut self, text: &str) -> io::Result<String> {
        let sum = text.bytes().fold(0u8, u8::wrapping_add);
        write!(self.stream, "${text}#{sum:02x}")?;
        while self.byte()? != b'$' {}
        let mut answer = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                // An escaped byte.
                b'}' => answer.push(self.byte()? ^ 0x20),
                byte => answer.push(byte),
            }
        }
        // The checksum: over a local socket it is always right.
        self.byte()?;
        self.byte()?;
        self.stream.write_all(b"+")?;
        String::from_utf8(answer).map_err(|e| wrong(e.to_string()))
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        let _ = self.ask("D");
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn bytes(hex: &str) -> io::Result<Vec<u8>> {
    (0..hex.len() / 2)
        .map(|n| hex.get(2 * n..2 * n + 2))
        .map(|pair| u8::from_str_radix(pair.unwrap_or(""), 16))
        .collect::<Result<_, _>>()
        .map_err(|_| wrong(format!("not hexadecimal: {hex}")))
}

fn word(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
