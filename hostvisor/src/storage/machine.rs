//! The machine's disks: a list made at boot, and finding one by what an operator calls it.

use super::gpt::{self, Blocks};
use super::{Done, IoError, MachineDisk, Op, Request, SECTOR, Volume};
use crate::hw::{self, Dma};
use crate::interrupts::Handler;
use crate::segment::Segment;
use crate::shell::parse::Typed;
use crate::{dma, drivers};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bundle::DiskSource;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};
use log::{info, warn};
use spin::Once;

/// Bytes of a serial (VIRTIO_BLK_ID_BYTES).
const SERIAL: u32 = 20;
/// Bytes read at a time while disks are looked at.
const BOUNCE: u64 = 64 << 10;
/// Seconds that a disk may take for each answer while the machine boots.
const BOOT_PATIENCE: u64 = 5;

static DISKS: Once<Vec<Arc<MachineDisk>>> = Once::new();

/// All disks, in the order in which they were found.
pub fn disks() -> &'static [Arc<MachineDisk>] {
    DISKS.get().map_or(&[], Vec::as_slice)
}

/// Why a disk or partition cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// No disk has this serial.
    NoDisk,
    /// Two disks have it.
    TwoDisks,
    /// The disk has stopped answering.
    Dead,
    /// No partition has this label.
    NoPartition,
    /// Two partitions have it.
    TwoPartitions,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDisk => f.write_str("no disk of the machine has this serial"),
            Self::TwoDisks => f.write_str("two disks of the machine have this serial"),
            Self::Dead => f.write_str("the disk does not answer"),
            Self::NoPartition => f.write_str("no partition of the machine's disks has this label"),
            Self::TwoPartitions => {
                f.write_str("two partitions of the machine's disks have this label")
            }
        }
    }
}

/// The disk with this serial, or, for one without, at this place.
pub fn find(name: &str) -> Result<&'static Arc<MachineDisk>, OpenError> {
    only(disks().iter().filter(|disk| disk.name() == name)).map_err(|many| {
        if many {
            OpenError::TwoDisks
        } else {
            OpenError::NoDisk
        }
    })
}

/// What a VM's description calls `source`.
pub fn open(source: &DiskSource) -> Result<Volume, OpenError> {
    match source {
        DiskSource::Serial(serial) => {
            let disk = find(serial)?;
            if disk.is_dead() {
                return Err(OpenError::Dead);
            }
            Ok(Volume::whole(disk.clone()))
        }
        DiskSource::Label(label) => {
            let all = disks().iter().filter(|disk| !disk.is_dead());
            let all = all.flat_map(|disk| partitions(disk).filter(|p| p.0 == label));
            only(all.map(|(_, volume)| volume)).map_err(|many| {
                if many {
                    OpenError::TwoPartitions
                } else {
                    OpenError::NoPartition
                }
            })
        }
    }
}

/// The labels of a disk's partitions, and what they name.
fn partitions(disk: &'static Arc<MachineDisk>) -> impl Iterator<Item = (&'static str, Volume)> {
    let ratio = u64::from(disk.geometry().block_size) / SECTOR;
    let all = disk.partitions().unwrap_or_default().iter();
    all.filter_map(move |p| {
        // The table's reader has made sure that the partition lies on the disk.
        let volume = Volume::new(disk.clone(), p.first * ratio, p.blocks * ratio)?;
        Some((p.label.as_str(), volume))
    })
}

/// The only item; else whether there are many.
fn only<T>(mut all: impl Iterator<Item = T>) -> Result<T, bool> {
    let first = all.next().ok_or(false)?;
    match all.next() {
        None => Ok(first),
        Some(_) => Err(true),
    }
}

/// Makes disks of the machine's block devices: asks for serials, reads partition tables. Once, at boot.
/// Answers whom their interrupts are for.
pub fn init(devices: Vec<drivers::probe::Found>) -> Vec<(crate::machine::Line, Arc<dyn Handler>)> {
    let mut lines: Vec<(_, Arc<dyn Handler>)> = Vec::new();
    let mut all = Vec::new();
    // Kept only if a disk that does not answer might still write to it.
    let bounce = (!devices.is_empty())
        .then(|| dma::allocate(BOUNCE))
        .flatten();
    for (number, device) in (0..).zip(devices) {
        let line = device.line;
        match MachineDisk::new(number, device.transport, device.port, device.place.clone()) {
            Err(why) => warn!("disk at {}: {why}: not used", device.place),
            Ok(disk) => {
                if let Some(bounce) = &bounce {
                    look_at(&disk, bounce);
                }
                lines.push((line, disk.clone()));
                all.push(disk);
            }
        }
    }
    if let Some(bounce) = bounce
        && all.iter().all(|disk| !disk.is_dead())
    {
        dma::release(bounce);
    }
    DISKS.call_once(|| all);
    lines
}

/// Finds out what a disk is called and what is on it.
fn look_at(disk: &MachineDisk, bounce: &Dma) {
    let to = |len| Segment {
        pa: bounce.address(),
        len,
    };
    let waiter = Arc::new(Waiter::default());
    disk.identify(to(SERIAL), waiter.clone());
    if waiter.wait(disk).is_ok() {
        let serial: Vec<u8> = (0..u64::from(SERIAL))
            .map(|at| bounce.read8(at))
            .take_while(|&byte| byte != 0)
            .collect();
        if serial.iter().all(u8::is_ascii_graphic) {
            disk.set_serial(String::from_utf8_lossy(&serial).into_owned());
        } else {
            warn!(
                "disk at {}: its serial is not printable: not used",
                disk.place()
            );
        }
    }
    let mut reader = Reader { disk, bounce };
    let table = if disk.is_dead() {
        Err(gpt::Fault::Unreadable)
    } else {
        gpt::read(&mut reader)
    };
    let geometry = disk.geometry();
    info!(
        "disk {}: {} MB, {}, {}",
        disk.name(),
        (geometry.sectors * SECTOR) >> 20,
        if geometry.read_only {
            "read-only"
        } else {
            "writable"
        },
        Contents(&table)
    );
    if matches!(table, Ok((_, true))) {
        warn!(
            "disk {}: partition table damaged, its backup is used",
            disk.name()
        );
    }
    disk.set_partitions(table.map(|(all, _)| all));
}

/// What a table says, in few words.
struct Contents<'a>(&'a Result<(Vec<gpt::Partition>, bool), gpt::Fault>);

impl fmt::Display for Contents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Err(fault) => fault.fmt(f),
            Ok((all, _)) => {
                write!(f, "{} partitions", all.len())?;
                for (i, partition) in all.iter().take(8).enumerate() {
                    let before = if i == 0 { ": " } else { ", " };
                    write!(f, "{before}{}", Typed(&partition.label))?;
                }
                Ok(())
            }
        }
    }
}

/// Waits for one request, while the machine boots and interrupts are not served yet.
#[derive(Default)]
struct Waiter(AtomicU8);

const PENDING: u8 = 0;
const GOOD: u8 = 1;
const BAD: u8 = 2;

impl Done for Waiter {
    fn done(&self, _token: u64, result: Result<(), IoError>) {
        let outcome = if result.is_ok() { GOOD } else { BAD };
        self.0.store(outcome, Ordering::Release);
    }
}

impl Waiter {
    fn wait(&self, disk: &MachineDisk) -> Result<(), IoError> {
        let deadline = hw::now() + BOOT_PATIENCE * hw::frequency();
        loop {
            match self.0.load(Ordering::Acquire) {
                GOOD => return Ok(()),
                BAD => return Err(IoError::Device),
                _ if hw::now() > deadline => disk.give_up("does not answer"),
                _ => disk.handle(),
            }
        }
    }

    fn again(&self) {
        self.0.store(PENDING, Ordering::Release);
    }
}

/// Reads blocks by way of the bounce buffer.
struct Reader<'a> {
    disk: &'a MachineDisk,
    bounce: &'a Dma,
}

impl Blocks for Reader<'_> {
    fn block_size(&self) -> usize {
        self.disk.geometry().block_size as usize
    }

    fn blocks(&self) -> u64 {
        let geometry = self.disk.geometry();
        geometry.sectors * SECTOR / u64::from(geometry.block_size)
    }

    fn read(&mut self, first: u64, to: &mut [u8]) -> bool {
        let mut sector = first * (self.block_size() as u64 / SECTOR);
        let waiter = Arc::new(Waiter::default());
        for piece in to.chunks_mut(BOUNCE as usize) {
            waiter.again();
            self.disk.submit(Request {
                op: Op::Read,
                sector,
                sectors: 0,
                segments: alloc::vec![Segment {
                    pa: self.bounce.address(),
                    len: piece.len() as u32,
                }],
                done: waiter.clone(),
                token: 0,
            });
            if waiter.wait(self.disk).is_err() {
                return false;
            }
            self.bounce.read(0, piece);
            sector += piece.len() as u64 / SECTOR;
        }
        true
    }
}
