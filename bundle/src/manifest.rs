//! A VM's manifest: one `key = value` a line, in a fixed order, every key once but `disk` and `net`,
//! which stand once for each disk and network interface.
//!
//! A manifest has exactly one text form, so that it can be signed. People do not write it: they write
//! TOML, which the `cloister` tool turns into this. Nothing has a default here.

mod cpu_set;
mod fault;

use crate::device::{self, Disk, GuestConsole, MAX_DISKS, MAX_NETS, Net};
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;

pub use cpu_set::cpu_set_text;
pub use fault::{Error, Fault};

/// Longest VM name, in bytes.
pub const MAX_NAME: usize = 31;
/// Longest kernel command line, in bytes (Linux: COMMAND_LINE_SIZE of arm64, less its NUL).
pub const MAX_APPEND: usize = 2047;
/// Longest manifest, in bytes.
pub const MAX_MANIFEST: usize = 8192;
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
/// Largest scheduling weight.
pub const MAX_WEIGHT: u32 = 1000;

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
    /// Share of CPU time against other VMs that want it too, 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// The machine's CPUs that the VM may run on: bit N stands for CPU N, at least one is set. `None`: on
    /// all of them.
    pub affinity: Option<u64>,
    /// True if the VM has a virtio entropy device.
    pub entropy: bool,
    /// What the VM has for a console.
    pub console: GuestConsole,
    /// Bytes of the kernel file, 1 to [`MAX_FILE`].
    pub kernel: u64,
    /// Bytes of the initrd file, 0 if there is none, up to [`MAX_FILE`].
    pub initrd: u64,
    /// Disks in the guest's order, at most [`MAX_DISKS`], no source twice.
    pub disks: Vec<Disk>,
    /// Network interfaces in the guest's order, at most [`MAX_NETS`], no hardware address twice.
    pub nets: Vec<Net>,
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
    Weight,
    Affinity,
    Entropy,
    Console,
    Disk,
    Net,
    Kernel,
    Initrd,
}

impl Key {
    /// Every key, in order. Those that may stand in no line are not the last: a manifest that is cut off
    /// between two lines lacks a key.
    pub const ALL: [Self; 16] = [
        Self::Name,
        Self::Format,
        Self::Vcpus,
        Self::Memory,
        Self::Protected,
        Self::Autostart,
        Self::OnReboot,
        Self::Append,
        Self::Weight,
        Self::Affinity,
        Self::Entropy,
        Self::Console,
        Self::Disk,
        Self::Net,
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
            Self::Weight => "weight",
            Self::Affinity => "affinity",
            Self::Entropy => "entropy",
            Self::Console => "console",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Disk => "disk",
            Self::Net => "net",
        }
    }

    /// Most lines that the key may have; all keys with one line must have it.
    #[must_use]
    pub const fn max_lines(self) -> usize {
        match self {
            Self::Disk => MAX_DISKS,
            Self::Net => MAX_NETS,
            _ => 1,
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
            Self::Protected | Self::Autostart | Self::Entropy => "true or false",
            Self::OnReboot => "restart or stop",
            Self::Append => "up to 2047 bytes of UTF-8 text without control characters",
            Self::Weight => "a number from 1 to 1000",
            Self::Affinity => {
                "all, or CPU numbers from 0 to 63 in ascending order, parted by commas"
            }
            Self::Console => "pl011 or virtio",
            Self::Kernel => "the file's size in bytes, from 1 to 4294967295",
            Self::Initrd => "the file's size in bytes, 0 if there is none, up to 4294967295",
            Self::Disk => Disk::ALLOWED,
            Self::Net => Net::ALLOWED,
        }
    }

    fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.as_str() == text)
    }
}

/// The lines of a manifest, sorted by key: (line number, value).
type Lines<'a> = [Vec<(usize, &'a str)>; Key::ALL.len()];

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
        let of = |key: Key| {
            lines
                .get(key as usize)
                .map(Vec::as_slice)
                .unwrap_or_default()
        };
        let bad = |key, line, value: &str| Error {
            line,
            fault: Fault::BadValue(key, value.to_owned()),
        };
        let value = |key: Key| {
            let missing = Error {
                line: 0,
                fault: Fault::MissingKey(key),
            };
            let (line, value) = of(key).first().copied().ok_or(missing)?;
            Ok((value, bad(key, line, value)))
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
            weight: number(Key::Weight, 1..=u64::from(MAX_WEIGHT))? as u32,
            affinity: value(Key::Affinity)
                .and_then(|(text, bad)| cpu_set::parse(text).ok_or(bad))?,
            entropy: boolean(Key::Entropy)?,
            console: value(Key::Console)
                .and_then(|(text, bad)| GuestConsole::parse(text).ok_or(bad))?,
            kernel: number(Key::Kernel, 0..=u64::MAX)?,
            initrd: number(Key::Initrd, 0..=u64::MAX)?,
            disks: (of(Key::Disk).iter())
                .map(|&(line, text)| Disk::parse(text).ok_or_else(|| bad(Key::Disk, line, text)))
                .collect::<Result<_, _>>()?,
            nets: (of(Key::Net).iter())
                .map(|&(line, text)| Net::parse(text).ok_or_else(|| bad(Key::Net, line, text)))
                .collect::<Result<_, _>>()?,
        };
        if let Some((key, nth, fault)) = manifest.fault() {
            let line = of(key).get(nth).map_or(0, |(line, _)| *line);
            return Err(Error { line, fault });
        }
        // Whatever order the lines were found in, only one is right.
        let mut last = 0;
        for (key, found) in Key::ALL.into_iter().zip(&lines) {
            for &(line, _) in found {
                if line < last {
                    return Err(Error {
                        line,
                        fault: Fault::OutOfOrder(key),
                    });
                }
                last = line;
            }
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
        match self.fault() {
            None => Ok(()),
            Some((_, _, fault)) => Err(Error { line: 0, fault }),
        }
    }

    /// What is wrong with a value: of which key, in which of the key's lines (from 0), and what.
    fn fault(&self) -> Option<(Key, usize, Fault)> {
        let memory_ok = (MIN_MEMORY..=MAX_MEMORY).contains(&self.memory)
            && self.memory & (MEMORY_ALIGN - 1) == 0;
        let append_ok =
            self.append.len() <= MAX_APPEND && !self.append.chars().any(char::is_control);
        let checks = [
            (Key::Name, is_name(&self.name)),
            (Key::Vcpus, (1..=MAX_VCPUS).contains(&self.vcpus)),
            (Key::Memory, memory_ok),
            (Key::Append, append_ok),
            (Key::Weight, (1..=MAX_WEIGHT).contains(&self.weight)),
            (Key::Affinity, self.affinity != Some(0)),
            (Key::Kernel, (1..=MAX_FILE).contains(&self.kernel)),
            (Key::Initrd, self.initrd <= MAX_FILE),
        ];
        if let Some((key, _)) = checks.into_iter().find(|(_, ok)| !ok) {
            return Some((key, 0, Fault::BadValue(key, self.text_of(key, 0))));
        }
        if self.disks.len() > MAX_DISKS {
            return Some((Key::Disk, MAX_DISKS, Fault::TooMany(Key::Disk)));
        }
        if self.nets.len() > MAX_NETS {
            return Some((Key::Net, MAX_NETS, Fault::TooMany(Key::Net)));
        }
        self.device_fault()
    }

    /// The first disk or interface that is wrong by itself or repeats an earlier one.
    fn device_fault(&self) -> Option<(Key, usize, Fault)> {
        let bad = |key, nth| Some((key, nth, Fault::BadValue(key, self.text_of(key, nth))));
        for (nth, disk) in self.disks.iter().enumerate() {
            if !disk.is_sound() {
                return bad(Key::Disk, nth);
            }
            if self.disks.iter().take(nth).any(|d| d.source == disk.source) {
                let fault = Fault::Repeated(Key::Disk, disk.source.to_string());
                return Some((Key::Disk, nth, fault));
            }
        }
        for (nth, net) in self.nets.iter().enumerate() {
            if !net.is_sound() {
                return bad(Key::Net, nth);
            }
            if self.nets.iter().take(nth).any(|n| n.mac == net.mac) {
                let fault = Fault::Repeated(Key::Net, net.mac.to_string());
                return Some((Key::Net, nth, fault));
            }
        }
        None
    }

    /// How many lines `key` has.
    fn lines_of(&self, key: Key) -> usize {
        match key {
            Key::Disk => self.disks.len(),
            Key::Net => self.nets.len(),
            _ => 1,
        }
    }

    /// The value of line `nth` of `key`, as written.
    fn text_of(&self, key: Key, nth: usize) -> String {
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
            Key::Weight => self.weight.to_string(),
            Key::Affinity => cpu_set_text(self.affinity),
            Key::Entropy => self.entropy.to_string(),
            Key::Console => self.console.as_str().to_owned(),
            Key::Kernel => self.kernel.to_string(),
            Key::Initrd => self.initrd.to_string(),
            Key::Disk => self
                .disks
                .get(nth)
                .map(ToString::to_string)
                .unwrap_or_default(),
            Key::Net => self
                .nets
                .get(nth)
                .map(ToString::to_string)
                .unwrap_or_default(),
        }
    }
}

impl fmt::Display for Manifest {
    /// The text form, ready to be stored.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for key in Key::ALL {
            for nth in 0..self.lines_of(key) {
                writeln!(f, "{} = {}", key.as_str(), self.text_of(key, nth))?;
            }
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    device::is_name(text, MAX_NAME)
}

/// Sorts the lines by key; each key at most as often as it may stand.
fn split(text: &str) -> Result<Lines<'_>, Error> {
    let mut lines: Lines<'_> = Default::default();
    for (line, text) in (1_usize..).zip(text.split_inclusive('\n')) {
        let error = |fault| Error { line, fault };
        let text = text
            .strip_suffix('\n')
            .ok_or_else(|| error(Fault::CutOff))?;
        let (key, value) = text
            .split_once(" = ")
            .ok_or_else(|| error(Fault::NotKeyValue))?;
        let key = Key::named(key).ok_or_else(|| error(Fault::UnknownKey(key.to_owned())))?;
        if let Some(found) = lines.get_mut(key as usize) {
            match found.first() {
                Some((first, _)) if key.max_lines() == 1 => {
                    return Err(error(Fault::DuplicateKey(key, *first)));
                }
                _ if found.len() >= key.max_lines() => return Err(error(Fault::TooMany(key))),
                _ => found.push((line, value)),
            }
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
