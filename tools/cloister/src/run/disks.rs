//! The machine's disks: image files of the workstation, each looked at before QEMU is.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bundle::{DiskSource, Manifest};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::assign::Image;
use crate::error::{Error, Result, io_reason};
use crate::file::FileId;

/// Bytes of a sector: an image is a multiple of it.
const SECTOR: u64 = 512;

/// `--disk SERIAL=FILE[,ro]`.
#[derive(Clone, Debug)]
pub(crate) struct DiskArg {
    serial: String,
    path: PathBuf,
    read_only: bool,
}

impl FromStr for DiskArg {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (serial, path) = text
            .split_once('=')
            .ok_or("must be SERIAL=FILE or SERIAL=FILE,ro")?;
        if !DiskSource::Serial(serial.to_owned()).is_sound() {
            return Err(format!(
                "'{serial}' must be 1 to 20 graphic ASCII characters"
            ));
        }
        let (path, read_only) = match path.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (path, false),
        };
        Ok(Self {
            serial: serial.to_owned(),
            path: path.into(),
            read_only,
        })
    }
}

/// All disks of the machine: the images of the VMs' descriptions, and those named on the command line.
pub(crate) fn machine(mut images: Vec<Image>, more: &[DiskArg]) -> Result<Vec<Image>> {
    images.extend(more.iter().map(|disk| Image {
        path: disk.path.clone(),
        serial: disk.serial.clone(),
        read_only: disk.read_only,
        at: "--disk".to_owned(),
    }));
    let mut serials = HashSet::new();
    let mut files: Vec<(FileId, &Image)> = Vec::new();
    for image in &images {
        if !serials.insert(&image.serial) {
            let (at, serial) = (&image.at, &image.serial);
            return Err(Error::config(format_args!(
                "{at}: two disks have the serial '{serial}'"
            )));
        }
        // Two disks that are one file: QEMU, too, has it twice only if nobody writes.
        let file = FileId::of(&image.path);
        let twice = files
            .iter()
            .find(|(known, other)| *known == file && !(image.read_only && other.read_only));
        if let Some((_, other)) = twice {
            return Err(Error::config(format_args!(
                "{}: image {} is disk '{}' already ({}), and not both are read-only",
                image.at,
                image.path.display(),
                other.serial,
                other.at
            )));
        }
        check(image)?;
        files.push((file, image));
    }
    Ok(images)
}

/// Checks that the machine has every disk that a VM wants, and that none wants to write to a read-only one.
pub(crate) fn check_wanted(vms: &[Manifest], machine: &[Image]) -> Result<()> {
    for vm in vms {
        for disk in &vm.disks {
            let found = match &disk.source {
                DiskSource::Serial(serial) => machine.iter().find(|image| image.serial == *serial),
                // Which labels the disks have is for the hostvisor to see.
                DiskSource::Label(_) => machine.first(),
            };
            let (vm, source) = (&vm.name, &disk.source);
            let Some(image) = found else {
                return Err(Error::config(format_args!(
                    "VM '{vm}': the machine has no disk for {source} (--disk SERIAL=FILE attaches one)"
                )));
            };
            let whole = matches!(source, DiskSource::Serial(_));
            if whole && image.read_only && !disk.read_only {
                return Err(Error::config(format_args!(
                    "VM '{vm}': {source} is read-only in this machine, the VM wants to write to it"
                )));
            }
        }
    }
    Ok(())
}

/// Looks at one image: there, of whole sectors, writable if it has to be, and nobody else's.
fn check(image: &Image) -> Result<()> {
    let refuse = |reason: &str| {
        let (at, path) = (&image.at, image.path.display());
        Error::config(format_args!("{at}: image {path}: {reason}"))
    };
    let io = |e: std::io::Error| refuse(&io_reason(&e));
    let meta = fs::metadata(&image.path).map_err(io)?;
    if !meta.is_file() && !meta.file_type().is_block_device() {
        return Err(refuse("not a file"));
    }
    // Root could write to a file that was made read-only on purpose.
    if !image.read_only && meta.permissions().readonly() {
        return Err(refuse(
            "the file is read-only (read-only = true is missing)",
        ));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(!image.read_only)
        .open(&image.path)
        .map_err(io)?;
    let size = file.seek(SeekFrom::End(0)).map_err(io)?;
    if size == 0 {
        return Err(refuse("the file is empty"));
    }
    if size % SECTOR != 0 {
        return Err(refuse(&format!(
            "{size} bytes are not a multiple of {SECTOR}"
        )));
    }
    if is_locked(&file, image.read_only).map_err(io)? {
        return Err(refuse(if image.read_only {
            "another program writes to it (a QEMU that runs?)"
        } else {
            "another program uses it (a QEMU that runs?)"
        }));
    }
    Ok(())
}

/// Asks for the locks with which QEMU guards an image (its block/file-posix.c): open-file-description locks on
/// one byte for each permission held, from 100 on, and for each that others must not have, from 200 on.
fn is_locked(file: &File, read_only: bool) -> std::io::Result<bool> {
    const READ: i64 = 0;
    const WRITE: i64 = 1;
    const HELD: i64 = 100;
    const DENIED: i64 = 200;
    // What we want must not be denied, and nobody may write.
    let wanted = if read_only { READ } else { WRITE };
    for byte in [DENIED + wanted, HELD + WRITE] {
        let mut lock = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: byte,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        if lock.l_type != libc::F_UNLCK as i16 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// QEMU's `-blockdev` for disk `index`.
pub(crate) fn blockdev(index: usize, image: &Image) -> OsString {
    let block = fs::metadata(&image.path).is_ok_and(|meta| meta.file_type().is_block_device());
    let driver = if block { "host_device" } else { "file" };
    let read_only = if image.read_only { "on" } else { "off" };
    let mut text = OsString::from(format!(
        "driver=raw,node-name=disk{index},read-only={read_only},discard=unmap,\
         file.driver={driver},file.locking=on,file.filename="
    ));
    text.push(doubled_commas(&image.path));
    text
}

/// A path inside a QEMU option, where a comma ends a value.
fn doubled_commas(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        bytes.extend(std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 }));
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
#[path = "disks_tests.rs"]
mod tests;
