//! `disk check`: reads the beginning of a disk and tells its checksum, to see that a disk works and is the right one.
//!
//! Asynchronous like everything else: each answer asks for the next piece; the last one writes a line to the log.

use super::{CRC32, Done, IoError, MachineDisk, Op, Request, SECTOR};
use crate::dma;
use crate::hw::{Dma, Mutex};
use crate::segment::Segment;
use alloc::sync::Arc;
use crc::Digest;
use log::{info, warn};

/// Bytes that are read, if the disk has so many.
const BYTES: u64 = 1 << 20;
/// Bytes read at a time.
const PIECE: u64 = 64 << 10;

/// A check under way.
struct Check {
    disk: Arc<MachineDisk>,
    state: Mutex<State>,
}

struct State {
    /// `None` when it is over.
    buffer: Option<Dma>,
    crc: Digest<'static, u32>,
}

/// Starts reading. False if there is no memory for it.
pub fn start(disk: &Arc<MachineDisk>) -> bool {
    let Some(buffer) = dma::allocate(PIECE) else {
        return false;
    };
    let check = Arc::new(Check {
        disk: disk.clone(),
        state: Mutex::new(State {
            buffer: Some(buffer),
            crc: CRC32.digest(),
        }),
    });
    next(&check, 0);
    true
}

/// Bytes from the disk's beginning that are looked at.
fn bytes(disk: &MachineDisk) -> u64 {
    BYTES.min(disk.geometry().sectors * SECTOR)
}

/// Asks for the piece at byte `at`, or tells the outcome.
fn next(check: &Arc<Check>, at: u64) {
    let len = PIECE.min(bytes(&check.disk) - at);
    let mut state = check.state.lock();
    if len == 0 {
        info!(
            "disk {}: first {} KiB, CRC-32 {:08x}",
            check.disk.name(),
            at >> 10,
            state.crc.clone().finalize()
        );
        if let Some(buffer) = state.buffer.take() {
            dma::release(buffer);
        }
        return;
    }
    let pa = state.buffer.as_ref().map_or(0, Dma::address);
    drop(state);
    check.disk.submit(Request {
        op: Op::Read,
        sector: at / SECTOR,
        sectors: 0,
        segments: alloc::vec![Segment {
            pa,
            len: len as u32
        }],
        done: Arc::new(Step(check.clone())),
        token: at,
    });
}

/// Hears of one piece.
struct Step(Arc<Check>);

impl Done for Step {
    fn done(&self, at: u64, result: Result<(), IoError>) {
        let Self(check) = self;
        let len = PIECE.min(bytes(&check.disk) - at);
        if let Err(error) = result {
            warn!(
                "disk {}: reading at {} KiB failed: {error}",
                check.disk.name(),
                at >> 10
            );
            // The disk might still write to the buffer.
            if error != IoError::Lost
                && let Some(buffer) = check.state.lock().buffer.take()
            {
                dma::release(buffer);
            }
            return;
        }
        {
            let mut state = check.state.lock();
            let State { buffer, crc } = &mut *state;
            if let Some(buffer) = buffer {
                let mut piece = [0; 512];
                for offset in (0..len).step_by(piece.len()) {
                    buffer.read(offset, &mut piece);
                    crc.update(&piece);
                }
            }
        }
        next(check, at + len);
    }
}
