//! `vm.toml`: what people write about one VM, read strictly.
//!
//! Unknown keys, missing keys and values out of range are errors that name file and line. The keys
//! are documented in `examples/vm.toml`.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bundle::{Format, OnReboot};
use serde::Deserialize;
use toml::Spanned;

use crate::error::{Error, Result};
use crate::size::Size;

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

/// Reads and checks one file. Paths in it are taken relative to its folder.
pub(crate) fn read(path: &Path) -> Result<VmFile> {
    let text = fs::read_to_string(path).map_err(|e| Error::file(path, &e))?;
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
    let folder = path.parent().unwrap_or(Path::new(""));
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
        protected: keys.protected.unwrap_or(true),
        autostart: keys.autostart.unwrap_or(true),
        on_reboot: match keys.on_reboot {
            None | Some(OnRebootKey::Restart) => OnReboot::Restart,
            Some(OnRebootKey::Stop) => OnReboot::Stop,
        },
    })
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
mod tests {
    use super::*;

    const GOOD: &str = "name = \"web\"\nkernel = \"Image\"\nvcpus = 2\nmemory = \"256M\"\n";

    fn fail(text: &str) -> String {
        parse(Path::new("dir/web.toml"), text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_mandatory_keys_are_enough() {
        let vm = parse(Path::new("dir/web.toml"), GOOD).unwrap();
        assert_eq!(vm.name, "web");
        assert_eq!(vm.kernel, Path::new("dir/Image"));
        assert_eq!(vm.memory, Size(256 << 20));
        assert!(vm.protected && vm.autostart && vm.append.is_empty() && vm.initrd.is_none());
        assert!(matches!(vm.format, Format::Linux));
        assert!(matches!(vm.on_reboot, OnReboot::Restart));
        assert_eq!(vm.origin.at("vcpus"), "dir/web.toml:3");
    }

    #[test]
    fn a_missing_mandatory_key_is_an_error_and_not_a_default() {
        for key in ["name", "kernel", "vcpus", "memory"] {
            let text: String = GOOD
                .lines()
                .filter(|l| !l.starts_with(key))
                .map(|l| format!("{l}\n"))
                .collect();
            assert_eq!(fail(&text), format!("dir/web.toml: missing key `{key}`"));
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let text = format!("{GOOD}\nmem = \"1G\"\n");
        let error = fail(&text);
        assert!(
            error.starts_with("dir/web.toml:6: unknown key `mem`"),
            "{error}"
        );
    }

    #[test]
    fn memory_without_a_unit_is_an_error() {
        let error = fail(&GOOD.replace("\"256M\"", "256"));
        assert!(
            error.starts_with("dir/web.toml:4: 256 has no unit"),
            "{error}"
        );
        let error = fail(&GOOD.replace("256M", "256"));
        assert!(
            error.starts_with("dir/web.toml:4: '256' is no amount"),
            "{error}"
        );
    }

    #[test]
    fn wrong_types_and_values_name_their_line() {
        let error = fail(&GOOD.replace("vcpus = 2", "vcpus = -2"));
        assert!(error.starts_with("dir/web.toml:3: "), "{error}");
        let error = fail(&format!("{GOOD}format = \"elf\"\n"));
        assert!(
            error.starts_with("dir/web.toml:5: unknown value `elf`"),
            "{error}"
        );
        let error = fail(&format!("{GOOD}vcpus = 3\n"));
        assert!(
            error.starts_with("dir/web.toml:5: duplicate key"),
            "{error}"
        );
        let error = fail("name = \n");
        assert!(error.starts_with("dir/web.toml:1: "), "{error}");
    }
}
