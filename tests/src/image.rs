//! Disk images for tests, in `build/test-runs/images/`.

use std::fs::{File, create_dir_all};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::artifacts::build_dir;

/// A place for the image `name`; what is there is left from an earlier run.
///
/// # Panics
/// If the folder cannot be made.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    let dir = build_dir().join("test-runs/images");
    create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    dir.join(format!("{name}.img"))
}

/// A new image of `bytes` zeros.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn blank(name: &str, bytes: u64) -> PathBuf {
    let path = path(name);
    let _ = std::fs::remove_file(&path);
    let file = File::create(&path).and_then(|file| file.set_len(bytes));
    file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

/// A new ext4 filesystem of `bytes`, with what is in `content` in it.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn ext4(name: &str, bytes: u64, content: Option<&Path>) -> PathBuf {
    let path = blank(name, bytes);
    let mut command = e2fs("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0"]);
    if let Some(content) = content {
        command.arg("-d").arg(content);
    }
    run(command.arg(&path), &[0]);
    path
}

/// A copy, called `name`, of the disk with `service` that `make guest-images` makes. The disk itself may have been left
/// in the middle of things; the copy is clean.
///
/// # Panics
/// If there is no such disk, or it is damaged.
#[must_use]
pub fn with_services(name: &str, service: &str) -> PathBuf {
    let image = build_dir().join(format!("guest/images/{service}.img"));
    assert!(
        image.is_file(),
        "{} is missing: make guest-images",
        image.display()
    );
    let copy = path(name);
    self::copy(&image, &copy);
    assert_eq!(damage(&copy), None, "{}", image.display());
    copy
}

/// Copies an image, holes as holes, which `std::fs::copy` writes out.
///
/// # Panics
/// If it cannot be.
pub fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    run(command.arg("--sparse=always").args([from, to]), &[0]);
}

/// Makes an image and the ext4 filesystem in it `bytes` long.
///
/// # Panics
/// If it cannot be.
pub fn grow(path: &Path, bytes: u64) {
    let file = File::options().write(true).open(path);
    let grown = file.and_then(|file| file.set_len(bytes));
    grown.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    run(e2fs("resize2fs").arg(path), &[0]);
}

/// An ext4 filesystem with these packages, as `make guest-images` has fetched them.
///
/// # Panics
/// If one is missing.
#[must_use]
pub fn packages(name: &str, packages: &[&str]) -> PathBuf {
    let folder = path(name).with_extension("packages");
    let _ = std::fs::remove_dir_all(&folder);
    create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let cache = build_dir().join("guest/packages/packages");
    let files = std::fs::read_dir(&cache);
    let files = files.unwrap_or_else(|e| panic!("{}: {e}: make guest-images", cache.display()));
    let mut missing = packages.to_vec();
    for file in files.flatten().map(|entry| entry.path()) {
        let fields = [file.as_os_str(), "Package".as_ref()];
        let package = run(Command::new("dpkg-deb").arg("-f").args(fields), &[0]);
        let package = package.trim();
        if let Some(n) = missing.iter().position(|name| *name == package) {
            missing.swap_remove(n);
            let to = folder.join(format!("{package}.deb"));
            std::fs::copy(&file, &to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
        }
    }
    assert!(missing.is_empty(), "{missing:?}: make guest-images");
    ext4(name, 64 << 20, Some(&folder))
}

/// What is wrong with the ext4 filesystem once its journal is replayed; `None` if it is clean.
///
/// # Panics
/// If e2fsck is missing.
#[must_use]
pub fn damage(path: &Path) -> Option<String> {
    // Replays the journal and mends nothing.
    let replay = ["-y", "-E", "journal_only"];
    let replayed = run(e2fs("e2fsck").args(replay).arg(path), &[0, 1]);
    let output = e2fs("e2fsck").args(["-f", "-n"]).arg(path).output();
    let output = output.unwrap_or_else(|e| panic!("e2fsck: {e}"));
    let text = String::from_utf8_lossy(&output.stdout);
    (!output.status.success()).then(|| format!("{replayed}{text}"))
}

/// CRC-32 as in IEEE 802.3.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 0 { 0 } else { 0xedb8_8320 }
        })
    })
}

/// Sectors of a GUID partition table's entries.
const ENTRY_SECTORS: u64 = 32;

/// Writes a GUID partition table (UEFI 2.10 §5.3) and its backup into the image: label, first and last sector of
/// each partition.
///
/// # Panics
/// If the image cannot be written.
pub fn partition(path: &Path, partitions: &[(&str, u64, u64)]) {
    let file = File::options().write(true).open(path);
    let file = file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let sectors = file.metadata().map_or(0, |meta| meta.len()) / 512;
    let mut entries = vec![0; ENTRY_SECTORS as usize * 512];
    for (n, &(label, first, last)) in partitions.iter().enumerate() {
        let entry = &mut entries[128 * n..][..128];
        // Linux filesystem data, and some GUID of its own.
        entry[..16].copy_from_slice(&0xe47d_47d8_693d_798e_4772_8483_0fc6_3daf_u128.to_le_bytes());
        entry[16] = n as u8 + 1;
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (unit, to) in label.encode_utf16().zip(entry[56..].chunks_mut(2)) {
            to.copy_from_slice(&unit.to_le_bytes());
        }
    }
    let last = sectors - 1;
    let header = |here: u64, other: u64, table: u64| {
        let mut header = vec![0; 512];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x1_0000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        for (at, value) in [
            (24, here),
            (32, other),
            (40, 2 + ENTRY_SECTORS),
            (48, last - ENTRY_SECTORS - 1),
            (72, table),
        ] {
            header[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        header[80..84].copy_from_slice(&(4 * ENTRY_SECTORS as u32).to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
        let crc = crc32(&header[..92]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        header
    };
    for (sector, bytes) in [
        (1, header(1, last, 2)),
        (2, entries.clone()),
        (last - ENTRY_SECTORS, entries.clone()),
        (last, header(last, 1, last - ENTRY_SECTORS)),
    ] {
        file.write_all_at(&bytes, sector * 512)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// A program of e2fsprogs, which lie where an ordinary user does not look.
fn e2fs(name: &str) -> Command {
    let places = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
    let found = places.iter().map(|dir| Path::new(dir).join(name));
    let found = found.into_iter().find(|path| path.exists());
    Command::new(found.unwrap_or_else(|| name.into()))
}

fn run(command: &mut Command, good: &[i32]) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e} (e2fsprogs is missing?)"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let status = output.status.code().unwrap_or(-1);
    assert!(good.contains(&status), "{program}: status {status}: {text}");
    text
}
