//! The "newc" cpio format: `070701`, thirteen fields of eight hexadecimal digits, name, data; name
//! and data padded with zeros to a multiple of four from the archive's start.
//! Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
//!
//! Stricter than the kernel's reader: the archive ends with its trailer, and after it only zeros may
//! follow (boot loaders round the initrd's size up).

use alloc::format;
use alloc::vec::Vec;
use core::fmt;

/// First bytes of every header.
pub const MAGIC: &[u8; 6] = b"070701";
/// Bytes of a header, before the name.
pub const HEADER_SIZE: usize = 110;
/// Longest name, in bytes, without its terminating NUL.
pub const MAX_NAME: usize = 255;
/// Name of the entry that ends the archive.
pub const TRAILER: &str = "TRAILER!!!";

/// File-type bits of a mode (S_IFMT).
const TYPE_MASK: u32 = 0o170_000;
/// A regular file (S_IFREG).
const TYPE_REGULAR: u32 = 0o100_000;

/// The header's fields, in order.
const FIELDS: [&str; 13] = [
    "ino",
    "mode",
    "nlink",
    "uid",
    "gid",
    "mtime",
    "filesize",
    "devmajor",
    "devminor",
    "rdevmajor",
    "rdevminor",
    "namesize",
    "check",
];
const MODE: usize = 1;
const FILESIZE: usize = 6;
const NAMESIZE: usize = 11;

/// One file of an archive. Borrows from the archive; nothing is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Where its header starts, in bytes from the archive's start.
    pub offset: usize,
    /// Path, as written.
    pub name: &'a str,
    /// Type and permissions (st_mode).
    pub mode: u32,
    /// Contents.
    pub data: &'a [u8],
}

impl Entry<'_> {
    /// True for a regular file, false for directories, links and devices.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        self.mode & TYPE_MASK == TYPE_REGULAR
    }
}

/// What is wrong with an archive, and at which byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Error {
    /// Bytes from the archive's start.
    pub offset: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The archive ends inside `part`, which needs this many more bytes.
    CutOff {
        /// "header", "name", "data" or "padding".
        part: &'static str,
        /// Bytes missing.
        missing: usize,
    },
    /// The archive ends without a [`TRAILER`] entry.
    NoTrailer,
    /// A header starts with this instead of [`MAGIC`].
    BadMagic([u8; 6]),
    /// The named field is not eight hexadecimal digits.
    BadHex(&'static str),
    /// The name, of this size, is longer than [`MAX_NAME`].
    NameTooLong(u32),
    /// The name is empty, not UTF-8, or not one NUL-terminated string.
    BadName,
    /// A padding byte is not zero.
    BadPadding,
    /// Something other than zeros follows the trailer.
    AfterTrailer,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpio archive, byte {}: ", self.offset)?;
        match self.fault {
            Fault::CutOff { part, missing } => {
                write!(f, "cut off inside a {part}, {missing} bytes are missing")
            }
            Fault::NoTrailer => write!(f, "cut off, no {TRAILER} entry at the end"),
            Fault::BadMagic([0x1f, 0x8b, ..]) => {
                write!(f, "gzip-compressed; must be an uncompressed newc archive")
            }
            Fault::BadMagic(found) => {
                write!(
                    f,
                    "header starts with \"{}\", not 070701 (newc)",
                    found.escape_ascii()
                )
            }
            Fault::BadHex(field) => write!(f, "field {field} is not 8 hexadecimal digits"),
            Fault::NameTooLong(size) => {
                write!(f, "name of {size} bytes, at most {MAX_NAME} are allowed")
            }
            Fault::BadName => write!(f, "name is not one NUL-terminated UTF-8 string"),
            Fault::BadPadding => write!(f, "padding byte is not zero"),
            Fault::AfterTrailer => write!(f, "data after the archive's end"),
        }
    }
}

impl core::error::Error for Error {}

/// Iterates over an archive's entries. Ends after the trailer, or after the first error.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
    ended: bool,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from the start.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            offset: 0,
            ended: false,
        }
    }

    /// Takes the next `size` bytes.
    fn take(&mut self, size: usize, part: &'static str) -> Result<&'a [u8], Error> {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        match rest.split_at_checked(size) {
            Some((taken, _)) => {
                self.offset = self.offset.saturating_add(size);
                Ok(taken)
            }
            None => {
                let missing = size.saturating_sub(rest.len());
                Err(Error {
                    offset: self.bytes.len(),
                    fault: Fault::CutOff { part, missing },
                })
            }
        }
    }

    /// Takes the zeros up to the next multiple of four.
    fn padding(&mut self) -> Result<(), Error> {
        let start = self.offset;
        let padding = self.take(padding(start), "padding")?;
        match padding.iter().position(|&b| b != 0) {
            None => Ok(()),
            Some(i) => Err(Error {
                offset: start.saturating_add(i),
                fault: Fault::BadPadding,
            }),
        }
    }

    /// Reads one entry; `None` is the trailer.
    fn entry(&mut self) -> Result<Option<Entry<'a>>, Error> {
        let start = self.offset;
        if start >= self.bytes.len() {
            return Err(Error {
                offset: start,
                fault: Fault::NoTrailer,
            });
        }
        // A wrong magic says more than "cut off" about a short file that is no archive at all.
        let magic = self.take(MAGIC.len(), "header")?;
        if magic != MAGIC {
            let mut found = [0; 6];
            found
                .iter_mut()
                .zip(magic)
                .for_each(|(to, &from)| *to = from);
            return Err(Error {
                offset: start,
                fault: Fault::BadMagic(found),
            });
        }
        let mut values = [0; FIELDS.len()];
        for (value, field) in values.iter_mut().zip(FIELDS) {
            let offset = self.offset;
            *value = hex(self.take(8, "header")?).ok_or(Error {
                offset,
                fault: Fault::BadHex(field),
            })?;
        }
        let [_, mode, _, _, _, _, filesize, _, _, _, _, namesize, _] = values;

        let offset = self.offset;
        if namesize.saturating_sub(1) > MAX_NAME as u32 {
            let fault = Fault::NameTooLong(namesize.saturating_sub(1));
            return Err(Error { offset, fault });
        }
        let name = match self.take(namesize as usize, "name")? {
            [name @ .., 0] if !name.is_empty() && !name.contains(&0) => name,
            _ => {
                return Err(Error {
                    offset,
                    fault: Fault::BadName,
                });
            }
        };
        let name = str::from_utf8(name).map_err(|_| Error {
            offset,
            fault: Fault::BadName,
        })?;
        self.padding()?;
        let data = self.take(filesize as usize, "data")?;
        self.padding()?;
        if name == TRAILER {
            let rest = self.bytes.get(self.offset..).unwrap_or_default();
            return match rest.iter().position(|&b| b != 0) {
                None => Ok(None),
                Some(i) => {
                    let offset = self.offset.saturating_add(i);
                    Err(Error {
                        offset,
                        fault: Fault::AfterTrailer,
                    })
                }
            };
        }
        Ok(Some(Entry {
            offset: start,
            name,
            mode,
            data,
        }))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Entry<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let entry = self.entry().transpose();
        self.ended = !matches!(entry, Some(Ok(_)));
        entry
    }
}

/// Eight hexadecimal digits, either case.
fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |value, &digit| {
        Some(value << 4 | char::from(digit).to_digit(16)?)
    })
}

/// Zeros needed at `offset` to reach a multiple of four.
const fn padding(offset: usize) -> usize {
    offset.wrapping_neg() & 3
}

/// Writes an archive. The same files give the same bytes: times and owners are 0, inode numbers
/// count from 1.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    files: u32,
}

/// Why [`Writer::file`] refuses a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteError {
    /// The name is empty, longer than [`MAX_NAME`], contains NUL or is [`TRAILER`].
    BadName,
    /// 4 GiB or more: the format's size field has 32 bits.
    TooLarge(usize),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName => write!(f, "name cannot be stored in a cpio archive"),
            Self::TooLarge(size) => {
                write!(f, "{size} bytes, a cpio archive holds files below 4 GiB")
            }
        }
    }
}

impl core::error::Error for WriteError {}

impl Writer {
    /// An archive without files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a regular file, mode 0644.
    pub fn file(&mut self, name: &str, data: &[u8]) -> Result<(), WriteError> {
        if name.is_empty() || name.len() > MAX_NAME || name.contains('\0') || name == TRAILER {
            return Err(WriteError::BadName);
        }
        let size = u32::try_from(data.len()).map_err(|_| WriteError::TooLarge(data.len()))?;
        self.files = self.files.saturating_add(1);
        self.entry(name, self.files, TYPE_REGULAR | 0o644, size, data);
        Ok(())
    }

    /// Appends the trailer and gives the archive out.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, 0, 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, ino: u32, mode: u32, size: u32, data: &[u8]) {
        self.bytes.extend_from_slice(MAGIC);
        for (i, _) in FIELDS.iter().enumerate() {
            let value = match i {
                0 => ino,
                MODE => mode,
                2 => 1, // nlink
                FILESIZE => size,
                NAMESIZE => (name.len() as u32).saturating_add(1),
                _ => 0,
            };
            self.bytes
                .extend_from_slice(format!("{value:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        let zeros = padding(self.bytes.len());
        self.bytes
            .extend_from_slice([0; 3].get(..zeros).unwrap_or_default());
    }
}

#[cfg(test)]
#[path = "newc_tests.rs"]
mod tests;
