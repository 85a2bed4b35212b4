//! Which files make a bundle, read and written.

use crate::manifest::{self, Manifest};
use crate::newc::{self, Entry, Reader, Writer};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// Most VMs in a bundle: their folders are `vm00` to `vm99`.
pub const MAX_VMS: usize = 100;
/// Name of the first file.
pub const MARKER: &str = "cloister";
/// Contents of the first file: format and version.
pub const MARKER_TEXT: &str = "cloister-bundle 1\n";

/// A bundle that has been read. Kernels and initrds stay where they are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bundle<'a> {
    /// The VMs in order: number `NN` is in folder `vmNN`. A broken one does not keep the others
    /// from starting.
    pub vms: Vec<Result<VmEntry<'a>, VmError>>,
}

/// A VM whose files are all there and of the sizes its manifest says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmEntry<'a> {
    /// Number of its folder.
    pub index: usize,
    /// What it is made of.
    pub manifest: Manifest,
    /// Its kernel; not yet looked into.
    pub kernel: &'a [u8],
    /// Its initrd; empty if it has none.
    pub initrd: &'a [u8],
}

/// What is wrong with one VM of a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmError {
    /// Number of its folder.
    pub index: usize,
    /// Its name, if its manifest, good or bad, begins with one.
    pub name: Option<String>,
    /// What is wrong.
    pub fault: VmFault,
}

/// What is wrong with one VM of a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VmFault {
    /// The file ("manifest" or "kernel") is not in the archive.
    MissingFile(&'static str),
    /// The file is in the archive twice.
    DuplicateFile(&'static str),
    /// A file that does not belong into a VM's folder, or is not a regular file.
    UnknownFile(String),
    /// The manifest cannot be read.
    Manifest(manifest::Error),
    /// The file does not have the size that the manifest says.
    Size {
        /// "kernel" or "initrd".
        file: &'static str,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes in the archive.
        found: u64,
    },
    /// The VM of this number has the same name.
    DuplicateName(usize),
    /// Writing only: more than [`MAX_VMS`] VMs.
    TooMany,
    /// Writing only: the file cannot be stored.
    Write(newc::WriteError),
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "VM '{name}' (vm{:02}): ", self.index)?,
            None => write!(f, "VM vm{:02}: ", self.index)?,
        }
        match &self.fault {
            VmFault::MissingFile(file) => write!(f, "{file}: not in the bundle"),
            VmFault::DuplicateFile(file) => write!(f, "{file}: twice in the bundle"),
            VmFault::UnknownFile(file) => {
                write!(
                    f,
                    "unknown file '{}', allowed are manifest, kernel, initrd",
                    file.escape_debug()
                )
            }
            VmFault::Manifest(error) => error.fmt(f),
            VmFault::Size {
                file,
                expected,
                found: 0,
            } if *expected != 0 => {
                write!(
                    f,
                    "{file}: not in the bundle, the manifest says {expected} bytes"
                )
            }
            VmFault::Size {
                file,
                expected,
                found,
            } => {
                let what = if found < expected { "cut off: " } else { "" };
                write!(
                    f,
                    "{file}: {what}{found} bytes, the manifest says {expected}"
                )
            }
            VmFault::DuplicateName(first) => {
                write!(
                    f,
                    "name is already taken by vm{first:02}, names must be unique"
                )
            }
            VmFault::TooMany => write!(f, "a bundle holds at most {MAX_VMS} VMs"),
            VmFault::Write(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for VmError {}

/// What is wrong with a whole bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// The archive is damaged.
    Archive(newc::Error),
    /// The archive's first file is not the marker of a bundle; perhaps it is an initrd.
    NotBundle,
    /// The marker names another version; its first characters.
    Version(String),
    /// The file at this offset does not follow on what was before.
    Unexpected {
        /// Bytes from the archive's start.
        offset: usize,
        /// Its name.
        name: String,
        /// Number of the VM whose files may follow here.
        next: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive(error) => error.fmt(f),
            Self::NotBundle => {
                write!(
                    f,
                    "first file is not '{MARKER}': not made by 'cloister bundle'"
                )
            }
            Self::Version(found) => write!(
                f,
                "marker says '{}', this version reads '{}'",
                found.escape_debug(),
                MARKER_TEXT.trim_end()
            ),
            Self::Unexpected { offset, name, next } => {
                let name = name.escape_debug();
                write!(f, "byte {offset}: unexpected file '{name}', ")?;
                if *next < MAX_VMS {
                    write!(f, "VM vm{next:02} would be next")
                } else {
                    write!(f, "a bundle holds at most {MAX_VMS} VMs")
                }
            }
        }
    }
}

impl core::error::Error for Error {}

/// The files found of one VM.
#[derive(Default)]
struct Files<'a> {
    manifest: Option<&'a [u8]>,
    kernel: Option<&'a [u8]>,
    initrd: Option<&'a [u8]>,
    fault: Option<VmFault>,
}

impl<'a> Files<'a> {
    fn add(&mut self, file: &str, entry: &Entry<'a>) {
        let (place, file) = match file {
            "manifest" if entry.is_file() => (&mut self.manifest, "manifest"),
            "kernel" if entry.is_file() => (&mut self.kernel, "kernel"),
            "initrd" if entry.is_file() => (&mut self.initrd, "initrd"),
            _ => {
                self.fault
                    .get_or_insert(VmFault::UnknownFile(file.to_string()));
                return;
            }
        };
        if place.is_some() {
            self.fault.get_or_insert(VmFault::DuplicateFile(file));
        } else {
            *place = Some(entry.data);
        }
    }

    /// Checks the files against each other. `earlier` are the VMs before this one.
    fn finish(
        self,
        index: usize,
        earlier: &[Result<VmEntry<'a>, VmError>],
    ) -> Result<VmEntry<'a>, VmError> {
        let nameless = |fault| VmError {
            index,
            name: None,
            fault,
        };
        let text = self
            .manifest
            .ok_or_else(|| nameless(VmFault::MissingFile("manifest")))?;
        let manifest = Manifest::parse(text).map_err(|error| VmError {
            index,
            name: Manifest::claimed_name(text).map(ToString::to_string),
            fault: VmFault::Manifest(error),
        })?;
        let named = |fault| {
            Err(VmError {
                index,
                name: Some(manifest.name.clone()),
                fault,
            })
        };
        if let Some(fault) = self.fault {
            return named(fault);
        }
        // A name is taken even if its first owner is broken: it may not change hands by damage.
        let owner = |vm: &Result<VmEntry<'_>, VmError>| match vm {
            Ok(vm) => vm.manifest.name == manifest.name,
            Err(vm) => vm.name.as_ref() == Some(&manifest.name),
        };
        if let Some(first) = earlier.iter().position(owner) {
            return named(VmFault::DuplicateName(first));
        }
        let Some(kernel) = self.kernel else {
            return named(VmFault::MissingFile("kernel"));
        };
        let initrd = self.initrd.unwrap_or_default();
        for (file, expected, data) in [
            ("kernel", manifest.kernel, kernel),
            ("initrd", manifest.initrd, initrd),
        ] {
            let found = data.len() as u64;
            if found != expected {
                return named(VmFault::Size {
                    file,
                    expected,
                    found,
                });
            }
        }
        Ok(VmEntry {
            index,
            manifest,
            kernel,
            initrd,
        })
    }
}

impl<'a> Bundle<'a> {
    /// Reads a bundle whose archive is whole.
    ///
    /// # Errors
    /// The archive is damaged or cut off anywhere, or is not a bundle. What is wrong with a single
    /// VM is in [`Self::vms`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        match Self::salvage(bytes) {
            (bundle, None) => Ok(bundle),
            (_, Some(error)) => Err(error),
        }
    }

    /// Reads the VMs that came whole, and says what ended the reading, if it was not the archive's
    /// end: for a machine that starts what it can.
    #[must_use]
    pub fn salvage(bytes: &'a [u8]) -> (Self, Option<Error>) {
        let mut vms = Vec::new();
        let mut current: Option<Files<'a>> = None;
        let outcome = read_entries(bytes, &mut vms, &mut current);
        if let Some(files) = current {
            vms.push(files.finish(vms.len(), &vms));
        }
        (Self { vms }, outcome.err())
    }
}

/// Sorts the archive's files into VMs; the last VM is left in `current`.
fn read_entries<'a>(
    bytes: &'a [u8],
    vms: &mut Vec<Result<VmEntry<'a>, VmError>>,
    current: &mut Option<Files<'a>>,
) -> Result<(), Error> {
    let mut reader = Reader::new(bytes);
    match reader.next() {
        Some(entry) => check_marker(&entry.map_err(Error::Archive)?)?,
        None => return Err(Error::NotBundle),
    }
    for entry in reader {
        let entry = entry.map_err(Error::Archive)?;
        let (folder, file) = entry.name.split_once('/').unwrap_or((entry.name, ""));
        let here = current.as_ref().map(|_| vms.len());
        let next = here.map_or(0, |index| index.saturating_add(1));
        match folder_number(folder) {
            Some(index) if Some(index) == here => {}
            Some(index) if index == next => {
                if let Some(files) = current.take() {
                    vms.push(files.finish(vms.len(), vms));
                }
                *current = Some(Files::default());
            }
            _ => {
                let name = entry.name.to_string();
                return Err(Error::Unexpected {
                    offset: entry.offset,
                    name,
                    next,
                });
            }
        }
        if let Some(files) = current {
            files.add(file, &entry);
        }
    }
    Ok(())
}

fn check_marker(entry: &Entry<'_>) -> Result<(), Error> {
    if entry.name != MARKER || !entry.is_file() {
        return Err(Error::NotBundle);
    }
    if entry.data != MARKER_TEXT.as_bytes() {
        let text = String::from_utf8_lossy(entry.data.get(..40).unwrap_or(entry.data));
        return Err(Error::Version(text.trim_end().to_string()));
    }
    Ok(())
}

/// 7 for `vm07`.
fn folder_number(folder: &str) -> Option<usize> {
    match folder.strip_prefix("vm")?.as_bytes() {
        &[tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => {
            let digit = |b: u8| usize::from(b.saturating_sub(b'0'));
            Some(digit(tens).saturating_mul(10).saturating_add(digit(ones)))
        }
        _ => None,
    }
}

/// A VM to be written into a bundle.
#[derive(Clone, Copy, Debug)]
pub struct NewVm<'a> {
    /// What it is made of; its sizes must be those of the files.
    pub manifest: &'a Manifest,
    /// Its kernel.
    pub kernel: &'a [u8],
    /// Its initrd; empty for none.
    pub initrd: &'a [u8],
}

/// Makes a bundle. The same VMs give the same bytes. What [`Bundle::read`] would refuse is not
/// written.
pub fn write(vms: &[NewVm<'_>]) -> Result<Vec<u8>, VmError> {
    let mut writer = Writer::new();
    // Neither the name nor the size of the marker can be refused.
    let _ = writer.file(MARKER, MARKER_TEXT.as_bytes());
    for (index, vm) in vms.iter().enumerate() {
        let refuse = |fault| VmError {
            index,
            name: Some(vm.manifest.name.clone()),
            fault,
        };
        if index >= MAX_VMS {
            return Err(refuse(VmFault::TooMany));
        }
        vm.manifest
            .check()
            .map_err(|e| refuse(VmFault::Manifest(e)))?;
        let same = |other: &NewVm<'_>| other.manifest.name == vm.manifest.name;
        if let Some(first) = vms.iter().take(index).position(same) {
            return Err(refuse(VmFault::DuplicateName(first)));
        }
        for (file, expected, data) in [
            ("kernel", vm.manifest.kernel, vm.kernel),
            ("initrd", vm.manifest.initrd, vm.initrd),
        ] {
            let found = data.len() as u64;
            if found != expected {
                return Err(refuse(VmFault::Size {
                    file,
                    expected,
                    found,
                }));
            }
        }
        let text = vm.manifest.to_string();
        for (file, data) in [
            ("manifest", text.as_bytes()),
            ("kernel", vm.kernel),
            ("initrd", vm.initrd),
        ] {
            if !data.is_empty() {
                writer
                    .file(&format!("vm{index:02}/{file}"), data)
                    .map_err(|e| refuse(VmFault::Write(e)))?;
            }
        }
    }
    Ok(writer.finish())
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
