use super::*;
use crate::drivers::port::{CONFIG, QUEUE as USED};
use crate::virtqueue::{NEXT, WRITE};
use proptest::prelude::*;
use std::collections::BTreeSet;

const SIZE: u16 = 8;
const RING: u64 = 0x10_0000;
const PAGES: u64 = 0x20_0000;
/// VIRTIO_BLK_S_OK, _IOERR, _UNSUPP.
const GOOD: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;

const GEOMETRY: Geometry = Geometry {
    sectors: 1000,
    block_size: 512,
    read_only: false,
    flush: true,
    max_segments: 4,
    max_discard: 16,
    max_zeroes: 32,
};

/// The device's registers.
#[derive(Default)]
struct Registers {
    reasons: AtomicU32,
    broken: AtomicBool,
    /// It ignores a reset.
    stuck: AtomicBool,
    resets: AtomicU32,
    notified: AtomicU32,
}

impl Port for Arc<Registers> {
    fn notify(&self, queue: u16) {
        assert_eq!(queue, QUEUE);
        self.notified.fetch_add(1, Ordering::Relaxed);
    }

    fn acknowledge(&self) -> u32 {
        self.reasons.swap(0, Ordering::Relaxed)
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    fn reset(&self) -> bool {
        self.resets.fetch_add(1, Ordering::Relaxed);
        !self.stuck.load(Ordering::Relaxed)
    }

    fn config32(&self, _offset: u64) -> u32 {
        0
    }
}

/// The device: the other end of the ring.
struct Device {
    registers: Arc<Registers>,
    ring: Dma,
    pages: Dma,
    seen: u16,
    used: u16,
}

/// A request as it arrives at the device.
#[derive(PartialEq, Eq, Debug)]
struct Arrived {
    head: u16,
    kind: u32,
    sector: u64,
    /// Address, bytes, whether the device writes.
    data: Vec<(u64, u32, bool)>,
    status: u64,
}

fn disk(geometry: Geometry) -> (Arc<MachineDisk>, Device) {
    let ring = Dma::new(RING, Queue::bytes(SIZE)).unwrap();
    let pages = Dma::new(PAGES, SLOT * u64::from(SIZE)).unwrap();
    let registers = Arc::new(Registers::default());
    let queue = Queue::new(ring.clone(), SIZE, false).unwrap();
    let port = Box::new(registers.clone());
    let disk = MachineDisk::driving(0, geometry, queue, pages.clone(), port, "slot 3".into());
    let device = Device {
        registers,
        ring,
        pages,
        seen: 0,
        used: 0,
    };
    (disk, device)
}

impl Device {
    const AVAILABLE: u64 = 16 * SIZE as u64;
    /// Behind the available ring, aligned to 4 (virtio 1.2 §2.7).
    const USED: u64 = (Self::AVAILABLE + 6 + 2 * SIZE as u64).next_multiple_of(4);

    /// The next request, followed from the ring through its indirect table.
    fn take(&mut self) -> Option<Arrived> {
        if self.ring.read16(Self::AVAILABLE + 2) == self.seen {
            return None;
        }
        let slot = u64::from(self.seen % SIZE);
        self.seen = self.seen.wrapping_add(1);
        let head = self.ring.read16(Self::AVAILABLE + 4 + 2 * slot);
        let table = self.ring.read64(16 * u64::from(head)) - PAGES;
        let mut chain = Vec::new();
        let mut at = table;
        loop {
            let rest = self.pages.read64(at + 8);
            let flags = (rest >> 32) as u16;
            chain.push((self.pages.read64(at), rest as u32, flags & WRITE != 0));
            if flags & NEXT == 0 {
                break;
            }
            at = table + 16 * (rest >> 48);
        }
        let header = chain.remove(0).0 - PAGES;
        Some(Arrived {
            head,
            kind: self.pages.read32(header),
            sector: self.pages.read64(header + 8),
            status: chain.pop().unwrap().0 - PAGES,
            data: chain,
        })
    }

    /// Says that it is done with a request, without interrupt.
    fn finish(&mut self, request: &Arrived, status: u8) {
        self.pages.write8(request.status, status);
        self.put(request.head.into());
    }

    fn put(&mut self, id: u32) {
        let entry = Self::USED + 4 + 8 * u64::from(self.used % SIZE);
        self.ring.write32(entry, id);
        self.used = self.used.wrapping_add(1);
        self.ring.write16(Self::USED + 2, self.used);
        self.registers.reasons.store(USED, Ordering::Relaxed);
    }
}

/// Remembers what it is told.
#[derive(Default)]
struct Listener(Mutex<Vec<(u64, Result<(), IoError>)>>);

impl Done for Listener {
    fn done(&self, token: u64, result: Result<(), IoError>) {
        self.0.lock().push((token, result));
    }
}

impl Listener {
    fn heard(&self) -> Vec<(u64, Result<(), IoError>)> {
        core::mem::take(&mut self.0.lock())
    }

    /// A request of this listener's; `segments` are lengths.
    fn request(self: &Arc<Self>, op: Op, sector: u64, lengths: &[u32], token: u64) -> Request {
        let segment = |(n, &len): (u64, &u32)| Segment {
            pa: 0x5000_0000 + n * 0x1_0000,
            len,
        };
        Request {
            op,
            sector,
            sectors: 0,
            segments: (0..).zip(lengths).map(segment).collect(),
            done: self.clone(),
            token,
        }
    }

    fn range(self: &Arc<Self>, op: Op, sector: u64, sectors: u32) -> Request {
        Request {
            sectors,
            ..self.request(op, sector, &[], 0)
        }
    }
}

#[test]
fn a_request_reaches_the_device_and_its_status_the_requester() {
    let (disk, mut device) = disk(GEOMETRY);
    let listener = Arc::new(Listener::default());
    for (token, status, result) in [
        (7, GOOD, Ok(())),
        (8, FAILED, Err(IoError::Device)),
        (9, UNSUPPORTED, Err(IoError::Unsupported)),
        (10, 0xff, Err(IoError::Device)),
    ] {
        disk.submit(listener.request(Op::Read, 77, &[512, 1024], token));
        let arrived = device.take().unwrap();
        assert_eq!((arrived.kind, arrived.sector), (0, 77));
        let data = [(0x5000_0000, 512, true), (0x5001_0000, 1024, true)];
        assert_eq!(arrived.data, data);
        assert_eq!(disk.in_flight(), (1, 0));
        disk.handle();
        assert_eq!(listener.heard(), [], "before the device is done");
        device.finish(&arrived, status);
        disk.handle();
        assert_eq!(listener.heard(), [(token, result)]);
    }
    assert_eq!(device.registers.notified.load(Ordering::Relaxed), 4);
    assert_eq!(disk.counters.requests.load(Ordering::Relaxed), 4);
    assert_eq!(disk.counters.errors.load(Ordering::Relaxed), 3);
    assert_eq!(disk.counters.read.load(Ordering::Relaxed), 4 * 1536);
}

#[test]
fn what_is_no_request_for_this_disk_never_reaches_it() {
    let read_only = Geometry {
        read_only: true,
        ..GEOMETRY
    };
    let plain = Geometry {
        max_discard: 0,
        max_zeroes: 0,
        ..GEOMETRY
    };
    let listener = Arc::new(Listener::default());
    let at = |op, sector, lengths: &[u32]| listener.request(op, sector, lengths, 0);
    let range = |op, sector, sectors| listener.range(op, sector, sectors);
    use IoError::{BadRequest, Unsupported};
    let cases = [
        (
            "beyond the end",
            GEOMETRY,
            at(Op::Read, 1000, &[512]),
            BadRequest,
        ),
        (
            "across the end",
            GEOMETRY,
            at(Op::Write, 999, &[512, 512]),
            BadRequest,
        ),
        (
            "around 2^64",
            GEOMETRY,
            at(Op::Read, u64::MAX, &[512]),
            BadRequest,
        ),
        ("no data", GEOMETRY, at(Op::Read, 0, &[]), BadRequest),
        (
            "an empty piece",
            GEOMETRY,
            at(Op::Read, 0, &[512, 0]),
            BadRequest,
        ),
        (
            "half a sector",
            GEOMETRY,
            at(Op::Write, 0, &[512, 256]),
            BadRequest,
        ),
        (
            "five pieces",
            GEOMETRY,
            at(Op::Write, 0, &[512; 5]),
            BadRequest,
        ),
        ("a write", read_only, at(Op::Write, 0, &[512]), BadRequest),
        ("a discard", read_only, range(Op::Discard, 0, 1), BadRequest),
        ("no sectors", GEOMETRY, range(Op::Discard, 0, 0), BadRequest),
        ("too many", GEOMETRY, range(Op::Discard, 0, 17), BadRequest),
        (
            "too many",
            GEOMETRY,
            range(Op::WriteZeroes, 0, 33),
            BadRequest,
        ),
        (
            "across the end",
            GEOMETRY,
            range(Op::WriteZeroes, 990, 11),
            BadRequest,
        ),
        ("no discard", plain, range(Op::Discard, 0, 1), Unsupported),
        (
            "no zeroes",
            plain,
            range(Op::WriteZeroes, 0, 1),
            Unsupported,
        ),
    ];
    for (what, geometry, request, error) in cases {
        let (disk, mut device) = disk(geometry);
        disk.submit(request);
        assert_eq!(listener.heard(), [(0, Err(error))], "{what}");
        assert_eq!(device.take(), None, "{what}");
        assert_eq!(disk.counters.errors.load(Ordering::Relaxed), 1);
    }
    // The last sectors, and the longest ranges, are within.
    for (kind, request) in [
        (0, at(Op::Read, 996, &[512; 4])),
        (1, at(Op::Write, 999, &[512])),
        (11, range(Op::Discard, 984, 16)),
        (13, range(Op::WriteZeroes, 968, 32)),
        (4, at(Op::Flush, 0, &[])),
    ] {
        let (disk, mut device) = disk(GEOMETRY);
        disk.submit(request);
        assert_eq!(device.take().unwrap().kind, kind);
        assert_eq!(listener.heard(), []);
    }
}

#[test]
fn a_disk_without_cache_needs_no_flush() {
    let uncached = Geometry {
        flush: false,
        ..GEOMETRY
    };
    let (disk, mut device) = disk(uncached);
    let listener = Arc::new(Listener::default());
    disk.submit(listener.request(Op::Flush, 0, &[], 5));
    assert_eq!(listener.heard(), [(5, Ok(()))]);
    assert_eq!(device.take(), None);
}

proptest! {
    /// Whatever the order in which the device works, every request reaches it once, in order, and comes back once;
    /// what there is no room for waits.
    #[test]
    fn no_request_is_lost_and_none_comes_twice(steps in proptest::collection::vec((0_u8..4, any::<u8>()), 0..200)) {
        let (disk, mut device) = disk(GEOMETRY);
        let listener = Arc::new(Listener::default());
        let mut held: Vec<Arrived> = Vec::new();
        let (mut submitted, mut arrived) = (0, 0);
        let mut open = BTreeSet::new();
        for (what, choice) in steps {
            match what {
                0 | 1 => {
                    // The sector tells requests apart at the device.
                    disk.submit(listener.request(Op::Read, submitted, &[512], submitted));
                    open.insert(submitted);
                    submitted += 1;
                }
                2 => while let Some(request) = device.take() {
                    prop_assert_eq!(request.sector, arrived);
                    arrived += 1;
                    held.push(request);
                },
                _ => {
                    for _ in 0..choice % 4 {
                        if !held.is_empty() {
                            let request = held.swap_remove(usize::from(choice) % held.len());
                            device.finish(&request, GOOD);
                        }
                    }
                    disk.handle();
                    for (token, result) in listener.heard() {
                        prop_assert_eq!(result, Ok(()));
                        prop_assert!(open.remove(&token));
                    }
                }
            }
            let (under_way, waiting) = disk.in_flight();
            prop_assert!(waiting == 0 || under_way == usize::from(SIZE));
            prop_assert!(under_way + waiting >= held.len());
        }
        loop {
            held.extend(core::iter::from_fn(|| device.take()));
            if held.is_empty() {
                break;
            }
            held.drain(..).for_each(|request| device.finish(&request, GOOD));
            disk.handle();
        }
        for (token, result) in listener.heard() {
            prop_assert_eq!(result, Ok(()));
            prop_assert!(open.remove(&token));
        }
        prop_assert!(open.is_empty());
        prop_assert_eq!(disk.in_flight(), (0, 0));
    }
}

/// All of a dead disk's requests come back with `fate`, those that it never heard of as [`IoError::Dead`], and so do
/// later ones.
fn check_dead(disk: &MachineDisk, device: &Device, listener: &Arc<Listener>, fate: IoError) {
    assert!(disk.is_dead());
    assert_eq!(device.registers.resets.load(Ordering::Relaxed), 1);
    let mut heard = listener.heard();
    heard.sort_unstable_by_key(|&(token, _)| token);
    let fates = (0..10).map(|token| {
        if token < u64::from(SIZE) {
            fate
        } else {
            IoError::Dead
        }
    });
    let expected: Vec<_> = (0..).zip(fates.map(Err)).collect();
    assert_eq!(heard, expected);
    let notified = device.registers.notified.load(Ordering::Relaxed);
    disk.submit(listener.request(Op::Read, 0, &[512], 99));
    disk.handle();
    assert_eq!(listener.heard(), [(99, Err(IoError::Dead))]);
    assert!(!disk.watch(u64::MAX));
    assert_eq!(device.registers.resets.load(Ordering::Relaxed), 1);
    let after = device.registers.notified.load(Ordering::Relaxed);
    assert_eq!(after, notified, "a dead disk is notified");
}

/// A disk with ten requests, two more than it takes.
fn busy() -> (Arc<MachineDisk>, Device, Arc<Listener>) {
    let (disk, device) = disk(GEOMETRY);
    let listener = Arc::new(Listener::default());
    for token in 0..10 {
        disk.submit(listener.request(Op::Write, token, &[512], token));
    }
    assert_eq!(disk.in_flight(), (8, 2));
    (disk, device, listener)
}

#[test]
fn a_device_that_makes_requests_up_is_dead() {
    for ids in [vec![8], vec![u32::MAX], vec![0x1_0000]] {
        let (disk, mut device, listener) = busy();
        ids.into_iter().for_each(|id| device.put(id));
        disk.handle();
        check_dead(&disk, &device, &listener, IoError::Dead);
    }
}

#[test]
fn a_request_that_comes_back_twice_is_told_once() {
    let (disk, mut device) = disk(GEOMETRY);
    let listener = Arc::new(Listener::default());
    for token in 0..3 {
        disk.submit(listener.request(Op::Read, 0, &[512], token));
    }
    let first = device.take().unwrap();
    device.finish(&first, GOOD);
    device.finish(&first, GOOD);
    disk.handle();
    let mut heard = listener.heard();
    heard.sort_unstable_by_key(|&(token, _)| token);
    let dead = Err(IoError::Dead);
    assert_eq!(heard, [(0, Ok(())), (1, dead), (2, dead)]);
    assert!(disk.is_dead());
}

#[test]
fn a_device_that_asks_for_a_reset_is_dead() {
    let (disk, device, listener) = busy();
    // A change of the configuration alone is none of our business.
    device.registers.reasons.store(CONFIG, Ordering::Relaxed);
    disk.handle();
    assert!(!disk.is_dead());
    device.registers.broken.store(true, Ordering::Relaxed);
    device.registers.reasons.store(CONFIG, Ordering::Relaxed);
    disk.handle();
    check_dead(&disk, &device, &listener, IoError::Dead);
}

#[test]
fn what_a_device_has_that_does_not_reset_is_lost() {
    let (disk, device, listener) = busy();
    device.registers.stuck.store(true, Ordering::Relaxed);
    disk.give_up("fails a test");
    check_dead(&disk, &device, &listener, IoError::Lost);
}

#[test]
fn a_device_that_does_not_answer_is_dead_after_a_while() {
    let limit = PATIENCE * hw::frequency();
    let (disk, device, listener) = busy();
    assert!(disk.watch(limit), "it is busy");
    assert!(!disk.is_dead());
    assert!(!disk.watch(limit + 1));
    check_dead(&disk, &device, &listener, IoError::Dead);
}

#[test]
fn an_interrupt_that_got_lost_is_no_reason_to_give_up() {
    let (disk, mut device) = disk(GEOMETRY);
    let listener = Arc::new(Listener::default());
    assert!(!disk.watch(u64::MAX), "nothing is under way");
    disk.submit(listener.request(Op::Read, 0, &[512], 3));
    let arrived = device.take().unwrap();
    device.finish(&arrived, GOOD);
    disk.watch(u64::MAX);
    assert!(!disk.is_dead());
    assert_eq!(listener.heard(), [(3, Ok(()))]);
}

#[test]
fn errors_for_tests_hit_the_next_requests_and_no_more() {
    let (disk, mut device) = disk(GEOMETRY);
    let listener = Arc::new(Listener::default());
    disk.fail(2);
    for token in 0..3 {
        disk.submit(listener.request(Op::Read, token, &[512], token));
    }
    let failed = Err(IoError::Device);
    assert_eq!(listener.heard(), [(0, failed), (1, failed)]);
    assert_eq!(device.take().unwrap().sector, 2);
    assert_eq!(device.take(), None);
}

/// Hands the next request over from where it hears of the last one, as a guest's disk does for a flush.
struct Chained {
    disk: Arc<MachineDisk>,
    listener: Arc<Listener>,
}

impl Done for Chained {
    fn done(&self, token: u64, result: Result<(), IoError>) {
        self.listener.done(token, result);
        let next = self.listener.request(Op::Flush, 0, &[], token + 1);
        self.disk.submit(next);
    }
}

#[test]
fn who_is_told_may_ask_for_more_at_once() {
    let (disk, mut device) = disk(GEOMETRY);
    let listener = Arc::new(Listener::default());
    let chained = Arc::new(Chained {
        disk: disk.clone(),
        listener: listener.clone(),
    });
    disk.submit(Request {
        done: chained.clone(),
        ..listener.request(Op::Write, 0, &[512], 1)
    });
    let write = device.take().unwrap();
    device.finish(&write, GOOD);
    disk.handle();
    let flush = device.take().unwrap();
    assert_eq!(flush.kind, 4);
    device.finish(&flush, GOOD);
    disk.handle();
    assert_eq!(listener.heard(), [(1, Ok(())), (2, Ok(()))]);
    // Refused at once, told at once.
    disk.submit(Request {
        done: chained,
        ..listener.request(Op::Write, u64::MAX, &[512], 5)
    });
    assert_eq!(listener.heard(), [(5, Err(IoError::BadRequest))]);
    assert_eq!(device.take().unwrap().kind, 4);
}

#[test]
fn a_flood_of_one_requester_delays_anothers_request_by_one() {
    let (disk, mut device) = disk(GEOMETRY);
    let (flood, other) = (Arc::new(Listener::default()), Arc::new(Listener::default()));
    for n in 0..100 {
        disk.submit(flood.request(Op::Read, n, &[512], n));
    }
    disk.submit(other.request(Op::Read, 500, &[512], 0));
    for _ in 0..2 {
        let request = device.take().unwrap();
        device.finish(&request, GOOD);
    }
    disk.handle();
    let sectors: Vec<_> = core::iter::from_fn(|| device.take())
        .map(|r| r.sector)
        .collect();
    assert_eq!(sectors, [2, 3, 4, 5, 6, 7, 8, 500]);
}

/// Asks for one more as soon as it is told of one, which the device has done at once.
struct Insatiable {
    disk: Arc<MachineDisk>,
    device: Mutex<Device>,
    told: AtomicU32,
    most: u32,
}

impl Insatiable {
    fn ask(self: &Arc<Self>) {
        let request = Arc::new(Listener::default()).request(Op::Read, 0, &[512], 0);
        self.disk.submit(Request {
            done: Arc::new(Again(self.clone())),
            ..request
        });
        let mut device = self.device.lock();
        let arrived = device.take().unwrap();
        device.finish(&arrived, GOOD);
    }
}

struct Again(Arc<Insatiable>);

impl Done for Again {
    fn done(&self, _token: u64, result: Result<(), IoError>) {
        assert_eq!(result, Ok(()));
        if self.0.told.fetch_add(1, Ordering::Relaxed) + (BATCH as u32) < self.0.most {
            self.0.ask();
        }
    }
}

#[test]
fn a_disk_that_never_runs_dry_leaves_its_cpu_alone_now_and_then() {
    let (disk, device) = disk(GEOMETRY);
    let guest = Arc::new(Insatiable {
        disk: disk.clone(),
        device: Mutex::new(device),
        told: AtomicU32::new(0),
        most: 200,
    });
    // A batch always is full.
    (0..BATCH).for_each(|_| guest.ask());
    let told = || guest.told.load(Ordering::Relaxed);
    let handles = Arc::strong_count(&disk);
    disk.handle();
    assert_eq!(told() as usize, BATCH * BATCHES);
    // The soft timer has one, and does what this does.
    assert_eq!(Arc::strong_count(&disk), handles + 1);
    for _ in 0..200 / (BATCH * BATCHES) {
        disk.handle();
    }
    assert_eq!(told(), 200);
    assert_eq!(disk.in_flight(), (0, 0));
}
