//! A VM's manifest: one `key = value` a line, every key once, in a fixed order.
//!
//! A manifest has exactly one text form, so that it can be signed. People do not write it: they write
//! TOML, which the `cloister` tool turns into this. Nothing has a default here.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::ops::RangeInclusive;

/// Longest VM name, in bytes.
pub const MAX_NAME: usize = 31;
/// Longest kernel command line, in bytes (Linux: COMMAND_LINE_SIZE of arm64, less its NUL).
pub const MAX_APPEND: usize = 2047;
/// Longest manifest, in bytes.
pub const MAX_MANIFEST: usize = 4096;
/// Most vCPUs.
pub const MAX_VCPUS: u32 = abi::MAX_VCPUS as u32;
/// Memory is a multiple of this, so that it can be mapped in 2 MiB blocks.
pub const MEMORY_ALIGN: u64 = 2 << 20;
/// Least memory, in bytes.
pub const MIN_MEMORY: u64 = 32 << 20;
/// Most memory, in bytes: what a 36-bit IPA space has above the RAM base of 1 GiB.
pub const MAX_MEMORY: u64 = 63 << 30;
/// Largest kernel or initrd, in bytes: a newc archive holds files below 4 GiB.
pub const MAX_FILE: u64 = u32::MAX as u64;

/// How a VM's kernel is to be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// An arm64 Linux `Image`: at RAM base + 2 MiB, by the arm64 boot protocol.
    Linux,
    /// A raw image: at RAM base + 0x80000, entered at its first byte.
    Flat,
}

/// What happens when the guest asks for a reset (PSCI SYSTEM_RESET).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnReboot {
    /// The VM is made anew and started.
    Restart,
    /// The VM stays powered off.
    Stop,
}

/// What a VM is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Unique in its bundle; 1 to [`MAX_NAME`] of a–z, 0–9 and '-'.
    pub name: String,
    /// How the kernel is loaded.
    pub format: Format,
    /// vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Bytes of RAM: a multiple of [`MEMORY_ALIGN`], [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub memory: u64,
    /// True if the VM's memory is its own; false if the hostvisor may see it.
    pub protected: bool,
    /// True if the VM starts when the machine does.
    pub autostart: bool,
    /// What a guest's reset does.
    pub on_reboot: OnReboot,
    /// Kernel command line, no control characters, up to [`MAX_APPEND`] bytes.
    pub append: String,
    /// Bytes of the kernel file, 1 to [`MAX_FILE`].
    pub kernel: u64,
    /// Bytes of the initrd file, 0 if there is none, up to [`MAX_FILE`].
    pub initrd: u64,
}

/// A manifest's keys, in the order of their lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(
    missing_docs,
    reason = "each is the field of Manifest of the same name"
)]
pub enum Key {
    Name,
    Format,
    Vcpus,
    Memory,
    Protected,
    Autostart,
    OnReboot,
    Append,
    Kernel,
    Initrd,
}

impl Key {
    /// Every key, in order.
    pub const ALL: [Self; 10] = [
        Self::Name,
        Self::Format,
        Self::Vcpus,
        Self::Memory,
        Self::Protected,
        Self::Autostart,
        Self::OnReboot,
        Self::Append,
        Self::Kernel,
        Self::Initrd,
    ];

    /// The key as written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Format => "format",
            Self::Vcpus => "vcpus",
            Self::Memory => "memory",
            Self::Protected => "protected",
            Self::Autostart => "autostart",
            Self::OnReboot => "on-reboot",
            Self::Append => "append",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
        }
    }

    /// The values allowed, in words.
    #[must_use]
    pub const fn allowed(self) -> &'static str {
        match self {
            Self::Name => "1 to 31 characters a-z, 0-9, '-'",
            Self::Format => "linux or flat",
            Self::Vcpus => "a number from 1 to 16",
            Self::Memory => {
                "bytes: a multiple of 2097152 (2 MiB) from 33554432 (32 MiB) to 67645734912 (63 GiB)"
            }
            Self::Protected | Self::Autostart => "true or false",
            Self::OnReboot => "restart or stop",
            Self::Append => "up to 2047 bytes of UTF-8 text without control characters",
            Self::Kernel => "the file's size in bytes, from 1 to 4294967295",
            Self::Initrd => "the file's size in bytes, 0 if there is none, up to 4294967295",
        }
    }

    fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.as_str() == text)
    }
}

/// What is wrong with a manifest, and in which line (counted from 1; 0: in none of them).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// Line number, or 0 where no single line is to blame.
    pub line: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// More than [`MAX_MANIFEST`] bytes.
    TooLong(usize),
    /// Not UTF-8.
    NotText,
    /// The last line has no line feed at its end.
    CutOff,
    /// Not of the form `key = value`.
    NotKeyValue,
    /// No such key.
    UnknownKey(String),
    /// The key was in the line named already.
    DuplicateKey(Key, usize),
    /// The key is in no line.
    MissingKey(Key),
    /// The key stands before one that belongs in front of it.
    OutOfOrder(Key),
    /// The value is not one of [`Key::allowed`].
    BadValue(Key, String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "manifest")?;
        if self.line != 0 {
            write!(f, " line {}", self.line)?;
        }
        match &self.fault {
            Fault::TooLong(size) => {
                write!(f, ": {size} bytes, at most {MAX_MANIFEST} are allowed")
            }
            Fault::NotText => write!(f, ": not UTF-8 text"),
            Fault::CutOff => write!(f, ": cut off, no line feed at its end"),
            Fault::NotKeyValue => write!(f, ": not of the form 'key = value'"),
            Fault::UnknownKey(key) => {
                write!(f, ": unknown key '{}', allowed are", Shown(key))?;
                for (i, key) in Key::ALL.iter().enumerate() {
                    write!(f, "{} {}", if i == 0 { "" } else { "," }, key.as_str())?;
                }
                Ok(())
            }
            Fault::DuplicateKey(key, first) => {
                write!(f, ": key '{}' again, first in line {first}", key.as_str())
            }
            Fault::MissingKey(key) => {
                write!(
                    f,
                    ": key '{}' is missing, must be {}",
                    key.as_str(),
                    key.allowed()
                )
            }
            Fault::OutOfOrder(key) => write!(f, ": key '{}' is out of order", key.as_str()),
            Fault::BadValue(key, value) => {
                write!(
                    f,
                    ": {} = '{}', must be {}",
                    key.as_str(),
                    Shown(value),
                    key.allowed()
                )
            }
        }
    }
}

impl core::error::Error for Error {}

/// Text from outside inside a message: escaped, and shortened so that it stays one line.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX: usize = 60;
        let mut chars = self.0.chars();
        for c in chars.by_ref().take(MAX) {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?
            } else {
                write!(f, "{c}")?
            }
        }
        if chars.next().is_some() {
            write!(f, "...")
        } else {
            Ok(())
        }
    }
}

/// The lines of a manifest, sorted by key: (line number, value).
type Lines<'a> = [Option<(usize, &'a str)>; Key::ALL.len()];

impl Manifest {
    /// Reads the text form.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > MAX_MANIFEST {
            return Err(Error {
                line: 0,
                fault: Fault::TooLong(text.len()),
            });
        }
        let text = str::from_utf8(text).map_err(|_| Error {
            line: 0,
            fault: Fault::NotText,
        })?;
        let lines = split(text)?;
        let value = |key: Key| {
            let missing = Error {
                line: 0,
                fault: Fault::MissingKey(key),
            };
            let (line, value) = lines.get(key as usize).copied().flatten().ok_or(missing)?;
            let bad = Error {
                line,
                fault: Fault::BadValue(key, value.to_owned()),
            };
            Ok((value, bad))
        };
        let number = |key: Key, range: RangeInclusive<u64>| {
            let (text, bad) = value(key)?;
            decimal(text).filter(|n| range.contains(n)).ok_or(bad)
        };
        let boolean = |key: Key| match value(key)? {
            ("true", _) => Ok(true),
            ("false", _) => Ok(false),
            (_, bad) => Err(bad),
        };
        let manifest = Self {
            name: value(Key::Name)?.0.to_owned(),
            format: match value(Key::Format)? {
                ("linux", _) => Format::Linux,
                ("flat", _) => Format::Flat,
                (_, bad) => return Err(bad),
            },
            vcpus: number(Key::Vcpus, 1..=u64::from(MAX_VCPUS))? as u32,
            memory: number(Key::Memory, 0..=u64::MAX)?,
            protected: boolean(Key::Protected)?,
            autostart: boolean(Key::Autostart)?,
            on_reboot: match value(Key::OnReboot)? {
                ("restart", _) => OnReboot::Restart,
                ("stop", _) => OnReboot::Stop,
                (_, bad) => return Err(bad),
            },
            append: value(Key::Append)?.0.to_owned(),
            kernel: number(Key::Kernel, 0..=u64::MAX)?,
            initrd: number(Key::Initrd, 0..=u64::MAX)?,
        };
        manifest.check().map_err(|error| match error.fault {
            Fault::BadValue(key, _) => value(key).map_or_else(|error| error, |(_, bad)| bad),
            _ => error,
        })?;
        // Whatever order the lines were found in, only one is right.
        let mut last = 0;
        for (key, found) in Key::ALL.into_iter().zip(lines) {
            let line = found.map_or(0, |(line, _)| line);
            if line < last {
                return Err(Error {
                    line,
                    fault: Fault::OutOfOrder(key),
                });
            }
            last = line;
        }
        Ok(manifest)
    }

    /// The name that a manifest claims in its first line, whatever the rest of it is like: to say whose
    /// manifest is wrong.
    #[must_use]
    pub fn claimed_name(text: &[u8]) -> Option<&str> {
        let line = text.split(|&byte| byte == b'\n').next()?;
        let name = str::from_utf8(line).ok()?.strip_prefix("name = ")?;
        is_name(name).then_some(name)
    }

    /// Checks every value against what its key allows: what [`Self::parse`] gave out passes.
    pub fn check(&self) -> Result<(), Error> {
        let memory_ok = (MIN_MEMORY..=MAX_MEMORY).contains(&self.memory)
            && self.memory & (MEMORY_ALIGN - 1) == 0;
        let append_ok =
            self.append.len() <= MAX_APPEND && !self.append.chars().any(char::is_control);
        let checks = [
            (Key::Name, is_name(&self.name)),
            (Key::Vcpus, (1..=MAX_VCPUS).contains(&self.vcpus)),
            (Key::Memory, memory_ok),
            (Key::Append, append_ok),
            (Key::Kernel, (1..=MAX_FILE).contains(&self.kernel)),
            (Key::Initrd, self.initrd <= MAX_FILE),
        ];
        match checks.into_iter().find(|(_, ok)| !ok) {
            None => Ok(()),
            Some((key, _)) => Err(Error {
                line: 0,
                fault: Fault::BadValue(key, self.text_of(key)),
            }),
        }
    }

    /// The value of `key`, as written.
    fn text_of(&self, key: Key) -> String {
        use alloc::string::ToString;
        match key {
            Key::Name => self.name.clone(),
            Key::Format => match self.format {
                Format::Linux => "linux".to_owned(),
                Format::Flat => "flat".to_owned(),
            },
            Key::Vcpus => self.vcpus.to_string(),
            Key::Memory => self.memory.to_string(),
            Key::Protected => self.protected.to_string(),
            Key::Autostart => self.autostart.to_string(),
            Key::OnReboot => match self.on_reboot {
                OnReboot::Restart => "restart".to_owned(),
                OnReboot::Stop => "stop".to_owned(),
            },
            Key::Append => self.append.clone(),
            Key::Kernel => self.kernel.to_string(),
            Key::Initrd => self.initrd.to_string(),
        }
    }
}

impl fmt::Display for Manifest {
    /// The text form, ready to be stored.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Key::ALL
            .into_iter()
            .try_for_each(|key| writeln!(f, "{} = {}", key.as_str(), self.text_of(key)))
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// Sorts the lines by key; each key at most once.
fn split(text: &str) -> Result<Lines<'_>, Error> {
    let mut lines: Lines<'_> = [None; Key::ALL.len()];
    for (line, text) in (1_usize..).zip(text.split_inclusive('\n')) {
        let error = |fault| Error { line, fault };
        let text = text
            .strip_suffix('\n')
            .ok_or_else(|| error(Fault::CutOff))?;
        let (key, value) = text
            .split_once(" = ")
            .ok_or_else(|| error(Fault::NotKeyValue))?;
        let key = Key::named(key).ok_or_else(|| error(Fault::UnknownKey(key.to_owned())))?;
        if let Some(place) = lines.get_mut(key as usize) {
            if let Some((first, _)) = *place {
                return Err(error(Fault::DuplicateKey(key, first)));
            }
            *place = Some((line, value));
        }
    }
    Ok(lines)
}

/// A decimal number in its only form: digits, no sign, no leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
pub(crate) mod tests;
