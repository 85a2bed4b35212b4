//! `vm.toml`: what people write about one VM, read strictly.
//!
//! Unknown keys, missing keys and values out of range are errors that name file and line. The keys
//! are documented in `examples/debian.toml`.

mod devices;

pub(crate) use devices::{Backing, DEFAULT_SWITCH, DiskFile, NetFile};

use std::ops::Range;
use std::path::{Path, PathBuf};

use bundle::{Format, GuestConsole, OnReboot};
use serde::Deserialize;
use toml::Spanned;

use crate::error::{Error, Result};
use crate::file;
use crate::size::Size;
use devices::{DiskKeys, NetKeys};

/// Scheduling weight of a VM that names none.
pub(crate) const DEFAULT_WEIGHT: u32 = 100;

/// A VM as described by one file or by the command line, its files not read yet.
#[derive(Debug)]
pub(crate) struct VmFile {
    /// Where this description stands: the TOML file, or the command line.
    pub(crate) origin: Origin,
    /// Unique in a bundle.
    pub(crate) name: String,
    /// How the kernel is loaded and started.
    pub(crate) format: Format,
    /// Linux `Image` or flat image.
    pub(crate) kernel: PathBuf,
    /// Initial RAM disk.
    pub(crate) initrd: Option<PathBuf>,
    /// Number of virtual CPUs.
    pub(crate) vcpus: u32,
    /// Guest RAM.
    pub(crate) memory: Size,
    /// Kernel command line.
    pub(crate) append: String,
    /// Memory private to the VM.
    pub(crate) protected: bool,
    /// Started at boot.
    pub(crate) autostart: bool,
    /// What a guest's own reset does.
    pub(crate) on_reboot: OnReboot,
    /// Share of CPU time.
    pub(crate) weight: u32,
    /// CPUs it may run on; all of them if none is named.
    pub(crate) affinity: Option<u64>,
    /// Has an entropy device.
    pub(crate) entropy: bool,
    /// What it has for a console.
    pub(crate) console: GuestConsole,
    /// Its disks, in order.
    pub(crate) disks: Vec<DiskFile>,
    /// Its network interfaces, in order.
    pub(crate) nets: Vec<NetFile>,
}

/// Where a VM is described, for messages.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// The options of `cloister run`.
    CommandLine,
    /// A TOML file, with the lines that its keys stand on.
    File {
        /// As given on the command line.
        path: PathBuf,
        /// (key, line) in the file.
        lines: Vec<(&'static str, usize)>,
    },
}

impl Origin {
    /// "web.toml:3" for a key that stands in the file, "web.toml" for one that does not.
    pub(crate) fn at(&self, key: &str) -> String {
        match self {
            Self::CommandLine => "command line".to_owned(),
            Self::File { path, lines } => match lines.iter().find(|(k, _)| *k == key) {
                Some((_, line)) => format!("{}:{line}", path.display()),
                None => path.display().to_string(),
            },
        }
    }

    /// "web.toml:3" for a line that is known (not 0).
    pub(crate) fn line(&self, line: usize) -> String {
        match self {
            Self::File { path, .. } if line != 0 => format!("{}:{line}", path.display()),
            _ => self.at(""),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Keys {
    name: Spanned<String>,
    kernel: Spanned<PathBuf>,
    vcpus: Spanned<u32>,
    memory: Spanned<Size>,
    initrd: Option<Spanned<PathBuf>>,
    format: Option<Spanned<FormatKey>>,
    append: Option<Spanned<String>>,
    protected: Option<bool>,
    autostart: Option<bool>,
    on_reboot: Option<OnRebootKey>,
    weight: Option<Spanned<u32>>,
    affinity: Option<Spanned<Vec<u32>>>,
    entropy: Option<bool>,
    console: Option<ConsoleKey>,
    #[serde(default)]
    disk: Vec<Spanned<DiskKeys>>,
    #[serde(default)]
    net: Vec<Spanned<NetKeys>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum FormatKey {
    Linux,
    Flat,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum OnRebootKey {
    Restart,
    Stop,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum ConsoleKey {
    Pl011,
    Virtio,
}

/// Reads and checks one file. Paths in it are taken relative to its folder.
pub(crate) fn read(path: &Path) -> Result<VmFile> {
    let text = file::read_text(path).map_err(|e| Error::file(path, &e))?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<VmFile> {
    let keys: Keys = toml::from_str(text).map_err(|e| toml_error(path, text, &e))?;
    let line = |span: Range<usize>| line_of(text, span.start);
    let mut lines = vec![
        ("name", line(keys.name.span())),
        ("kernel", line(keys.kernel.span())),
        ("vcpus", line(keys.vcpus.span())),
        ("memory", line(keys.memory.span())),
    ];
    lines.extend(keys.initrd.as_ref().map(|v| ("initrd", line(v.span()))));
    lines.extend(keys.format.as_ref().map(|v| ("format", line(v.span()))));
    lines.extend(keys.append.as_ref().map(|v| ("append", line(v.span()))));
    lines.extend(keys.weight.as_ref().map(|v| ("weight", line(v.span()))));
    lines.extend(keys.affinity.as_ref().map(|v| ("affinity", line(v.span()))));
    let refuse = |(span, words): (Range<usize>, String)| {
        Error::config(format_args!("{}:{}: {words}", path.display(), line(span)))
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let affinity = keys.affinity.map(cpu_set).transpose().map_err(refuse)?;
    let start = |offset| line_of(text, offset);
    let disks = devices::disks(keys.disk, folder, start).map_err(refuse)?;
    let nets = devices::nets(keys.net, start).map_err(refuse)?;
    let protected = keys.protected.unwrap_or(true);
    Ok(VmFile {
        origin: Origin::File {
            path: path.to_owned(),
            lines,
        },
        name: keys.name.into_inner(),
        format: match keys.format.map(Spanned::into_inner) {
            None | Some(FormatKey::Linux) => Format::Linux,
            Some(FormatKey::Flat) => Format::Flat,
        },
        kernel: folder.join(keys.kernel.into_inner()),
        initrd: keys.initrd.map(|p| folder.join(p.into_inner())),
        vcpus: keys.vcpus.into_inner(),
        memory: keys.memory.into_inner(),
        append: keys.append.map(Spanned::into_inner).unwrap_or_default(),
        protected,
        autostart: keys.autostart.unwrap_or(true),
        on_reboot: match keys.on_reboot {
            None | Some(OnRebootKey::Restart) => OnReboot::Restart,
            Some(OnRebootKey::Stop) => OnReboot::Stop,
        },
        weight: keys.weight.map_or(DEFAULT_WEIGHT, Spanned::into_inner),
        affinity,
        // A kernel that does not know to share memory may wait for an answer for ever.
        entropy: keys.entropy.unwrap_or(!protected),
        console: match keys.console {
            None | Some(ConsoleKey::Pl011) => GuestConsole::Pl011,
            Some(ConsoleKey::Virtio) => GuestConsole::Virtio,
        },
        disks,
        nets,
    })
}

/// CPU numbers as a set: each at most once, at least one.
fn cpu_set(cpus: Spanned<Vec<u32>>) -> std::result::Result<u64, (Range<usize>, String)> {
    let span = cpus.span();
    let set = cpus.into_inner().into_iter().try_fold(0_u64, |set, cpu| {
        let bit = 1_u64.checked_shl(cpu)?;
        (set & bit == 0).then_some(set | bit)
    });
    match set {
        Some(set) if set != 0 => Ok(set),
        _ => {
            let words = "affinity: must be a list of different CPU numbers from 0 to 63";
            Err((span, words.to_owned()))
        }
    }
}

/// Line (from 1) of byte `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|&&b| b == b'\n').count() + 1
}

fn toml_error(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let message = error
        .message()
        .replace("field `", "key `")
        .replace("variant `", "value `");
    match error.span() {
        // A missing key stands nowhere: its span is the whole file.
        Some(span) if !message.starts_with("missing") => Error::config(format_args!(
            "{}:{}: {message}",
            path.display(),
            line_of(text, span.start)
        )),
        _ => Error::config(format_args!("{}: {message}", path.display())),
    }
}

#[cfg(test)]
#[path = "vmfile/tests.rs"]
mod tests;
