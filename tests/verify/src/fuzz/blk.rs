//! A hostile driver of a disk, over storage that answers late, in any order, or with an error.

use super::virtio::{BUFFERS, VERSION_1, abuse, take_over, with_guest};
use crate::rng::Rng;
use hostvisor::segment;
use hostvisor::storage::{Backend, Geometry, IoError, Op, Request, SECTOR};
use hostvisor::virtio::blk::Blk;
use hostvisor::virtio::device::F_ACCESS_PLATFORM;
use hostvisor::virtio::testing::{Descriptor, TestDevice, TestGuest, TestQueue};
use hostvisor::virtio::transfer;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTORS: u64 = 64;
const MAX_SEGMENTS: u16 = 8;
/// As the machine's disk can, and one request of the driver's may have as much.
const MAX_RANGE: u32 = 16;
/// More requests than that are never under way: the device's queue has no more entries.
const MAX_UNDER_WAY: usize = 128;

/// VIRTIO_BLK_T_*: in, out, flush, get id, discard, write zeroes.
const KINDS: [u64; 6] = [0, 1, 4, 8, 11, 13];

/// Storage that keeps what it is given until it is told to answer.
struct Storage {
    geometry: Geometry,
    waiting: Mutex<Vec<Request>>,
}

impl Storage {
    fn waiting(&self) -> MutexGuard<'_, Vec<Request>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request, as a disk of the machine may: what it reads and writes is the guest's.
    fn answer(&self, guest: &TestGuest, index: usize, result: Result<(), IoError>) {
        let request = self.waiting().swap_remove(index);
        for segment in &request.segments {
            assert!(guest.has(segment), "{segment:?} is not the guest's");
        }
        if request.op == Op::Read && result.is_ok() {
            let data = vec![0xaa; segment::total(&request.segments) as usize];
            // What is not shared any more is not written to.
            let _ = transfer::write(&request.segments, 0, &data);
        }
        request.done.done(request.token, result);
    }

    fn answer_all(&self, guest: &TestGuest) {
        while !self.waiting().is_empty() {
            self.answer(guest, 0, Ok(()));
        }
    }
}

impl Backend for Storage {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&self, request: Request) {
        let bytes = segment::total(&request.segments);
        let pieces = request.segments.len();
        match request.op {
            Op::Read | Op::Write => {
                assert!(bytes != 0 && bytes.is_multiple_of(SECTOR), "{bytes} bytes");
                assert!(pieces <= MAX_SEGMENTS.into(), "{pieces} segments");
            }
            Op::Flush => assert_eq!(bytes, 0),
            Op::Discard | Op::WriteZeroes => {
                assert!(request.sectors <= MAX_RANGE, "{} sectors", request.sectors);
            }
        }
        let writes = !matches!(request.op, Op::Read | Op::Flush);
        assert!(
            !(writes && self.geometry.read_only),
            "a read-only disk is written to"
        );
        let mut waiting = self.waiting();
        waiting.push(request);
        assert!(waiting.len() <= MAX_UNDER_WAY, "no bound on requests");
    }
}

/// A disk's driver, whatever it does: what reaches the storage is whole sectors of the guest's own memory, no more
/// than was offered; a reset waits for what is under way; afterwards a driver that keeps the rules can read.
pub fn blk(bytes: &[u8]) {
    with_guest(|guest| drive(guest, Rng::Bytes(bytes)));
}

fn drive(guest: &TestGuest, mut rng: Rng<'_>) {
    let storage = Arc::new(Storage {
        geometry: Geometry {
            sectors: SECTORS,
            block_size: 512,
            read_only: rng.one_in(4),
            flush: rng.one_in(2),
            max_segments: MAX_SEGMENTS,
            max_discard: MAX_RANGE,
            max_zeroes: MAX_RANGE,
        },
        waiting: Mutex::default(),
    });
    let protected = rng.one_in(2);
    let backend = storage.clone();
    let device = TestDevice::new(guest, protected, |link| {
        Arc::new(Blk::new(link, backend, "serial", false, protected))
    });
    let platform = if protected { F_ACCESS_PLATFORM } else { 0 };
    let features = VERSION_1 | platform;
    abuse(guest, &device, features, &mut rng, |rng, [queue]| {
        let waiting = storage.waiting().len();
        assert_eq!(
            device.transport.is_idle(),
            waiting == 0,
            "{waiting} requests"
        );
        if waiting != 0 && rng.one_in(3) {
            let results = [Ok(()), Err(IoError::Device), Err(IoError::Unsupported)];
            let index = rng.below(waiting as u64) as usize;
            storage.answer(guest, index, rng.pick(&results));
        } else {
            ask(guest, rng, queue);
            device.notify(0);
        }
    });
    storage.answer_all(guest);
    assert!(device.transport.is_idle(), "a request is never over");

    let [mut queue] = take_over(guest, &device, features);
    guest.write(BUFFERS, &[0; 16]);
    let status = BUFFERS + 16;
    guest.write(status, &[0xee]);
    let data = BUFFERS + 0x200;
    queue.add(
        guest,
        &[(BUFFERS, 16, false), (data, 512, true), (status, 1, true)],
    );
    device.notify(0);
    assert_eq!(storage.waiting().len(), 1, "a reset does not heal the disk");
    storage.answer_all(guest);
    assert!(
        queue.take(guest).is_some(),
        "the request does not come back"
    );
    assert_eq!(guest.read(status, 1), [0], "a good request fails");
    assert_eq!(guest.read(data, 512), [0xaa; 512], "nothing is read");
}

/// Something like a request: a header, a few pieces of data, a status.
fn ask(guest: &TestGuest, rng: &mut Rng<'_>, queue: &mut TestQueue) {
    let kind = rng.pick(&KINDS);
    let sector = if rng.one_in(8) {
        rng.word()
    } else {
        rng.below(SECTORS + 2)
    };
    let range = u64::from(rng.one_in(2)) << 32 | rng.below(u64::from(MAX_RANGE) + 2);
    let words = [kind, sector, sector, range];
    for (n, word) in words.into_iter().enumerate() {
        guest.write(BUFFERS + 8 * n as u64, &word.to_le_bytes());
    }
    let writes = kind == 0 || kind == 8;
    let pieces = rng.below(12);
    let first = rng.below(16);
    let put = |n: u64, address: u64, len: u32, writes: bool, last: bool| {
        let descriptor = Descriptor {
            address,
            len,
            flags: u16::from(!last) | u16::from(writes) << 1,
            next: ((first + n + 1) % 16) as u16,
        };
        queue.describe(guest, ((first + n) % 16) as u16, &descriptor);
    };
    // A range lies right behind the header.
    let header = if kind >= 11 { 32 } else { 16 };
    put(0, BUFFERS, header, false, false);
    for n in 0..pieces {
        let sectors = [512, 512, 1024, 1, 511][rng.below(5) as usize];
        put(1 + n, BUFFERS + 0x200, sectors, writes, false);
    }
    put(1 + pieces, BUFFERS + 0x40, 1, true, true);
    queue.offer(guest, first as u16);
}
