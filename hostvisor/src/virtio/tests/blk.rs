use crate::hw::{self, Mutex};
use crate::segment;
use crate::storage::{Backend, Geometry, IoError, Op, Request, SECTOR};
use crate::virtio::blk::Blk;
use crate::virtio::device::{F_ACCESS_PLATFORM, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};
use crate::virtio::mmio::Written;
use crate::virtio::testing::{TestDevice, TestGuest, TestQueue};
use crate::virtio::transfer;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use proptest::prelude::*;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const GOOD: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;

const F_RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;

const SECTORS: u64 = 64;

/// Storage that answers when the test lets it.
struct FakeStorage {
    geometry: Geometry,
    waiting: Mutex<Vec<Request>>,
    content: Mutex<Vec<u8>>,
}

impl FakeStorage {
    fn new(change: impl FnOnce(&mut Geometry)) -> Arc<Self> {
        let mut geometry = Geometry {
            sectors: SECTORS,
            block_size: 512,
            read_only: false,
            flush: true,
            max_segments: 250,
            max_discard: 8,
            max_zeroes: 8,
        };
        change(&mut geometry);
        Arc::new(Self {
            geometry,
            waiting: Mutex::new(Vec::new()),
            content: Mutex::new((0..SECTORS * SECTOR).map(|n| (n / 7) as u8).collect()),
        })
    }

    fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    /// The kinds of what waits.
    fn ops(&self) -> Vec<Op> {
        self.waiting
            .lock()
            .iter()
            .map(|request| request.op)
            .collect()
    }

    /// Carries one request out, and answers it.
    fn answer(&self, index: usize) {
        let request = self.waiting.lock().remove(index);
        let result = self.carry_out(&request);
        request.done.done(request.token, result);
    }

    fn fail(&self, index: usize, why: IoError) {
        let request = self.waiting.lock().remove(index);
        request.done.done(request.token, Err(why));
    }

    fn answer_all(&self) {
        while self.waiting() != 0 {
            self.answer(0);
        }
    }

    fn carry_out(&self, request: &Request) -> Result<(), IoError> {
        let mut content = self.content.lock();
        let bytes = match request.op {
            Op::Discard | Op::WriteZeroes => u64::from(request.sectors) * SECTOR,
            _ => segment::total(&request.segments),
        };
        let start = (request.sector * SECTOR) as usize;
        let place = content.get_mut(start..start + bytes as usize);
        let place = place.ok_or(IoError::BadRequest)?;
        match request.op {
            Op::Read => transfer::write(&request.segments, 0, place),
            Op::Write => transfer::read(&request.segments, 0, place),
            Op::WriteZeroes => {
                place.fill(0);
                Ok(())
            }
            Op::Flush | Op::Discard => Ok(()),
        }
        .map_err(|_| IoError::Device)
    }
}

impl Backend for FakeStorage {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&self, request: Request) {
        self.waiting.lock().push(request);
    }
}

/// A guest, its driver and its disk.
struct Bench {
    guest: TestGuest,
    storage: Arc<FakeStorage>,
    device: TestDevice,
    queue: TestQueue,
}

impl Bench {
    fn with(storage: Arc<FakeStorage>, read_only: bool, protected: bool) -> Self {
        let guest = TestGuest::new();
        let backend = storage.clone();
        let device = TestDevice::new(&guest, protected, |link| {
            Arc::new(Blk::new(link, backend, "serial-7", read_only, protected))
        });
        let queue = TestQueue::new(&guest, 128);
        Self {
            guest,
            storage,
            device,
            queue,
        }
    }

    fn new() -> Self {
        let bench = Self::with(FakeStorage::new(|_| ()), false, false);
        bench.start();
        bench
    }

    fn start(&self) {
        self.device.start(F_VERSION_1 | F_FLUSH, &[&self.queue]);
    }

    /// Hands a request to the device: header, data, status. Answers where data and status are.
    fn request(&mut self, kind: u32, sector: u64, data: &[u8], device_writes: bool) -> (u64, u64) {
        let header = self.guest.allocate(16, 16);
        let at = self.guest.allocate(data.len().max(1) as u64, 512);
        let status = self.guest.allocate(1, 1);
        self.guest.write(header, &head(kind, sector));
        self.guest.write(at, data);
        self.guest.write(status, &[0xee]);
        let mut buffers = vec![(header, 16, false)];
        if !data.is_empty() {
            buffers.push((at, data.len() as u32, device_writes));
        }
        buffers.push((status, 1, true));
        self.queue.add(&self.guest, &buffers);
        self.device.notify(0);
        (at, status)
    }

    fn read(&mut self, sector: u64) -> (u64, u64) {
        self.request(IN, sector, &[0; 512], true)
    }

    fn write(&mut self, sector: u64, byte: u8) -> (u64, u64) {
        self.request(OUT, sector, &[byte; 512], false)
    }

    fn status(&self, at: u64) -> u8 {
        self.guest.read(at, 1)[0]
    }

    /// A request that nothing waits for: its status.
    fn answered(&mut self, kind: u32, sector: u64, data: &[u8], device_writes: bool) -> u8 {
        let (_, status) = self.request(kind, sector, data, device_writes);
        assert_eq!(self.storage.waiting(), 0, "it went to the storage");
        assert!(self.queue.take(&self.guest).is_some());
        self.status(status)
    }
}

fn head(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}

#[test]
fn the_configuration_says_what_the_storage_is() {
    let bench = Bench::with(FakeStorage::new(|g| g.block_size = 4096), false, false);
    let get = |offset: u64| bench.device.get(0x100 + offset);
    assert_eq!(bench.device.get(8), 2);
    assert_eq!((get(0), get(4)), (SECTORS as u32, 0));
    assert_eq!((get(12), get(20)), (125, 4096));
    assert_eq!((get(36), get(40), get(44)), (8, 1, 8));
    assert_eq!((get(48), get(52)), (8, 1));
    let offered = bench.device.offered();
    assert_eq!(offered & (F_RO | F_FLUSH), F_FLUSH);
    assert_ne!(offered & (1 << 13 | 1 << 14), 0);
}

#[test]
fn what_the_storage_cannot_do_is_not_offered() {
    let storage = FakeStorage::new(|g| {
        g.flush = false;
        g.max_discard = 0;
        g.max_zeroes = 0;
        g.max_segments = 2;
    });
    let bench = Bench::with(storage, false, false);
    assert_eq!(bench.device.offered() & (1 << 9 | 1 << 13 | 1 << 14), 0);
    assert_eq!(bench.device.get(0x10c), 1);
    let bench = Bench::with(FakeStorage::new(|_| ()), true, false);
    let offered = bench.device.offered();
    assert_eq!(offered & (F_RO | F_FLUSH | 1 << 13 | 1 << 14), F_RO);
}

proptest! {
    /// A disk keeps what is written to it, whatever descriptors the driver cuts its requests into, with and without
    /// indirect tables, and in whatever order the storage answers.
    #[test]
    fn a_disk_is_an_array_of_sectors(
        features in prop_oneof![Just(0), Just(F_INDIRECT_DESC), Just(F_EVENT_IDX | F_INDIRECT_DESC)],
        steps in proptest::collection::vec(
            (any::<bool>(), 0..SECTORS - 4, 1..4_u64, proptest::collection::vec(1..900_u64, 0..4), any::<usize>()),
            1..20,
        ),
    ) {
        let mut bench = Bench::with(FakeStorage::new(|_| ()), false, false);
        bench.device.start(F_VERSION_1 | F_FLUSH | features, &[&bench.queue]);
        let mut model = bench.storage.content.lock().clone();
        for (n, (write, sector, sectors, cuts, order)) in steps.into_iter().enumerate() {
            let bytes = sectors * SECTOR;
            let (start, end) = ((sector * SECTOR) as usize, ((sector + sectors) * SECTOR) as usize);
            let guest = &bench.guest;
            // One run of bytes for each direction, cut anywhere.
            let (readable, writable) = if write { (16 + bytes, 1) } else { (16, bytes + 1) };
            let from = guest.allocate(readable, 1);
            let to = guest.allocate(writable, 1);
            guest.write(from, &head(write.into(), sector));
            let pattern = vec![n as u8 ^ 0x5a; bytes as usize];
            if write {
                guest.write(from + 16, &pattern);
                model[start..end].copy_from_slice(&pattern);
            }
            let pieces = |at: u64, mut left: u64, device_writes| {
                let mut at = at;
                let mut buffers = Vec::new();
                for cut in cuts.iter().copied().chain([u64::MAX]) {
                    let len = cut.min(left);
                    if len != 0 {
                        buffers.push((at, len as u32, device_writes));
                    }
                    at += len;
                    left -= len;
                }
                buffers
            };
            let mut buffers = pieces(from, readable, false);
            buffers.extend(pieces(to, writable, true));
            if features & F_INDIRECT_DESC != 0 && n % 2 == 0 {
                bench.queue.add_indirect(guest, &buffers);
            } else {
                bench.queue.add(guest, &buffers);
            }
            bench.device.notify(0);
            let waiting = bench.storage.waiting();
            prop_assert_eq!(waiting, 1);
            bench.storage.answer(order % waiting);
            let (_, written) = bench.queue.take(guest).unwrap();
            prop_assert_eq!(u64::from(written), writable);
            let got = guest.read(to, writable as usize);
            prop_assert_eq!(got.last(), Some(&GOOD));
            if !write {
                prop_assert_eq!(&got[..bytes as usize], &model[start..end]);
            }
        }
        prop_assert_eq!(&*bench.storage.content.lock(), &model);
    }
}

#[test]
fn many_requests_are_under_way_and_come_back_in_any_order() {
    let mut bench = Bench::new();
    let all: Vec<_> = (0..40).map(|n| bench.read(n)).collect();
    assert_eq!(bench.storage.waiting(), 40);
    for n in (0..40).rev() {
        bench.storage.answer(n);
    }
    for (sector, (data, status)) in all.into_iter().enumerate() {
        let want = bench.storage.content.lock()[sector * 512..][..512].to_vec();
        assert_eq!(bench.guest.read(data, 512), want);
        assert_eq!(bench.status(status), GOOD);
        assert!(bench.queue.take(&bench.guest).is_some());
    }
    assert_eq!(bench.queue.take(&bench.guest), None);
}

#[test]
fn outcomes_of_the_storage_are_the_drivers() {
    for (why, status) in [
        (IoError::BadRequest, FAILED),
        (IoError::Device, FAILED),
        (IoError::Dead, FAILED),
        (IoError::Lost, FAILED),
        (IoError::Unsupported, UNSUPPORTED),
    ] {
        let mut bench = Bench::new();
        let (_, at) = bench.read(3);
        bench.storage.fail(0, why);
        assert_eq!(bench.status(at), status);
        let (_, written) = bench.queue.take(&bench.guest).unwrap();
        assert_eq!(written, 0, "no data, so the status is not behind any");
        assert_eq!(
            bench.device.transport.device().has_lost_memory(),
            why == IoError::Lost
        );
        // And the disk goes on.
        let (_, at) = bench.read(3);
        bench.storage.answer_all();
        assert_eq!(bench.status(at), GOOD);
    }
}

#[test]
fn flush_discard_and_zeroes_reach_the_storage() {
    let mut bench = Bench::new();
    let (_, flushed) = bench.request(FLUSH, 0, &[], false);
    let (_, zeroed) = bench.request(WRITE_ZEROES, 0, &range(5, 2, 1), false);
    let (_, discarded) = bench.request(DISCARD, 0, &range(9, 3, 0), false);
    assert_eq!(
        bench.storage.ops(),
        [Op::Flush, Op::WriteZeroes, Op::Discard]
    );
    {
        let waiting = bench.storage.waiting.lock();
        assert_eq!((waiting[1].sector, waiting[1].sectors), (5, 2));
        assert_eq!((waiting[2].sector, waiting[2].sectors), (9, 3));
    }
    bench.storage.answer_all();
    for at in [flushed, zeroed, discarded] {
        assert_eq!(bench.status(at), GOOD);
    }
    assert_eq!(bench.storage.content.lock()[5 * 512..7 * 512], [0; 1024]);
}

#[test]
fn the_serial_is_given_as_far_as_there_is_room() {
    let mut bench = Bench::new();
    for (room, want) in [(20, &b"serial-7\0\0\0\0\0\0\0\0\0\0\0\0"[..]), (4, b"seri")] {
        let (data, status) = bench.request(GET_ID, 0, &vec![0xff; room], true);
        assert_eq!(bench.guest.read(data, room), want);
        assert_eq!(bench.status(status), GOOD);
    }
    let (data, _) = bench.request(GET_ID, 0, &[0xff; 30], true);
    assert_eq!(bench.guest.read(data + 20, 10), [0xff; 10]);
    assert_eq!(bench.storage.waiting(), 0);
}

#[test]
fn what_makes_no_sense_gets_a_status_and_no_storage() {
    let mut bench = Bench::new();
    for (kind, data, device_writes, status) in [
        (99, &[0; 512][..], true, UNSUPPORTED),
        (IN, &[], true, FAILED),
        (IN, &[0; 100], true, FAILED),
        (OUT, &[], false, FAILED),
        (OUT, &[0; 513], false, FAILED),
        (DISCARD, &range(0, 1, 0)[..15], false, FAILED),
        (
            DISCARD,
            &[range(0, 1, 0), range(2, 1, 0)].concat(),
            false,
            FAILED,
        ),
        (DISCARD, &range(0, 1, 1), false, UNSUPPORTED),
        (WRITE_ZEROES, &range(0, 1, 2), false, UNSUPPORTED),
        (WRITE_ZEROES, &range(0, 9, 0), false, FAILED),
        (DISCARD, &range(0, u32::MAX, 0), false, FAILED),
    ] {
        assert_eq!(
            bench.answered(kind, 0, data, device_writes),
            status,
            "{kind} {}",
            data.len()
        );
    }
    assert!(!bench.device.is_broken());
}

#[test]
fn a_request_longer_than_was_offered_is_refused() {
    let mut bench = Bench::with(FakeStorage::new(|g| g.max_segments = 2), false, false);
    bench.start();
    let data = vec![0; (128 << 10) + 512];
    assert_eq!(bench.answered(OUT, 0, &data, false), FAILED);
}

#[test]
fn what_was_not_offered_is_not_supported() {
    let storage = FakeStorage::new(|g| (g.max_discard, g.max_zeroes) = (0, u32::MAX));
    let mut bench = Bench::with(storage, false, false);
    bench.start();
    assert_eq!(
        bench.answered(DISCARD, 0, &range(0, 1, 0), false),
        UNSUPPORTED
    );
    // Less than the storage can: it must not take long.
    let most = bench.device.get(0x100 + 48);
    assert_eq!(most, 64 << 10);
    assert_eq!(
        bench.answered(WRITE_ZEROES, 0, &range(0, most + 1, 0), false),
        FAILED
    );
}

#[test]
fn nothing_is_written_to_a_read_only_disk() {
    for storage in [
        FakeStorage::new(|_| ()),
        FakeStorage::new(|g| g.read_only = true),
    ] {
        let mut bench = Bench::with(storage, true, false);
        bench.device.start(F_VERSION_1, &[&bench.queue]);
        assert_eq!(bench.answered(OUT, 0, &[1; 512], false), FAILED);
        assert_eq!(
            bench.answered(WRITE_ZEROES, 0, &range(0, 1, 0), false),
            FAILED
        );
        assert_eq!(bench.answered(DISCARD, 0, &range(0, 1, 0), false), FAILED);
        let (_, status) = bench.read(0);
        bench.storage.answer_all();
        assert_eq!(bench.status(status), GOOD);
    }
}

#[test]
fn a_driver_that_cannot_flush_is_told_of_a_write_when_it_lasts() {
    let mut bench = Bench::with(FakeStorage::new(|_| ()), false, false);
    bench.device.start(F_VERSION_1, &[&bench.queue]);
    let (_, status) = bench.write(1, 7);
    bench.storage.answer(0);
    assert_eq!(bench.storage.ops(), [Op::Flush]);
    assert_eq!(bench.status(status), 0xee, "told too early");
    assert_eq!(bench.device.transport.device().in_flight(), 1);
    bench.storage.answer(0);
    assert_eq!(bench.status(status), GOOD);
    // Zeroes are written, too.
    let (_, status) = bench.request(WRITE_ZEROES, 0, &range(5, 2, 0), false);
    bench.storage.answer(0);
    assert_eq!(bench.storage.ops(), [Op::Flush]);
    assert_eq!(bench.status(status), 0xee, "told too early");
    bench.storage.answer(0);
    assert_eq!(bench.status(status), GOOD);
    // A write that fails is over; so is a flush that fails.
    let (_, status) = bench.write(1, 7);
    bench.storage.fail(0, IoError::Device);
    assert_eq!((bench.status(status), bench.storage.waiting()), (FAILED, 0));
    let (_, status) = bench.write(1, 7);
    bench.storage.answer(0);
    bench.storage.fail(0, IoError::Device);
    assert_eq!((bench.status(status), bench.storage.waiting()), (FAILED, 0));
    // A read needs none.
    bench.read(1);
    bench.storage.answer(0);
    assert_eq!(bench.storage.waiting(), 0);
}

#[test]
fn chains_without_header_or_status_break_the_rules() {
    let mut bench = Bench::new();
    let at = bench.guest.allocate(64, 16);
    for buffers in [
        &[(at, 16, false)][..],
        &[(at, 15, false), (at + 32, 1, true)],
        &[(at + 32, 1, true)],
    ] {
        bench.queue = TestQueue::new(&bench.guest, 128);
        bench.start();
        bench.queue.add(&bench.guest, buffers);
        bench.device.notify(0);
        assert!(bench.device.is_broken());
        assert_eq!(bench.storage.waiting(), 0);
    }
}

/// A reset does not end before the machine's disk is off the guest's memory; and what was under way is not told to the
/// driver that comes next.
#[test]
fn a_reset_waits_for_requests_under_way_and_disowns_them() {
    let mut bench = Bench::new();
    let (_, old) = bench.read(1);
    bench.write(2, 9);
    assert_eq!(bench.device.transport.write(0x70, 4, 0), Written::Draining);
    assert!(!bench.device.transport.is_idle());
    // Another vCPU of the guest takes the device over meanwhile.
    bench.queue = TestQueue::new(&bench.guest, 128);
    bench.start();
    let (_, new) = bench.read(3);
    assert_eq!(bench.storage.waiting(), 3);
    let edges = bench.device.line.edges.load(Ordering::SeqCst);
    bench.storage.answer(0);
    bench.storage.answer(0);
    assert_eq!(bench.status(old), 0xee, "a disowned request is told of");
    assert_eq!(bench.queue.take(&bench.guest), None);
    assert_eq!(bench.device.line.edges.load(Ordering::SeqCst), edges);
    bench.storage.answer(0);
    assert_eq!(bench.status(new), GOOD);
    assert!(bench.queue.take(&bench.guest).is_some());
    assert!(bench.device.transport.is_idle());
    assert_eq!(
        bench.device.line.idle.load(Ordering::SeqCst),
        1,
        "nobody was woken"
    );
    // Once, for who waited.
    bench.read(4);
    bench.storage.answer_all();
    assert_eq!(bench.device.line.idle.load(Ordering::SeqCst), 1);
}

#[test]
fn a_reset_with_nothing_under_way_is_over_at_once() {
    let mut bench = Bench::new();
    bench.read(1);
    bench.storage.answer_all();
    assert_eq!(bench.device.transport.write(0x70, 4, 0), Written::Done);
}

#[test]
fn what_was_under_way_when_the_rules_were_broken_is_awaited() {
    let mut bench = Bench::new();
    let (_, old) = bench.read(1);
    bench.queue.offer(&bench.guest, 999);
    bench.device.notify(0);
    assert!(bench.device.is_broken());
    assert!(!bench.device.transport.is_idle());
    bench.storage.answer_all();
    assert_eq!(bench.status(old), 0xee);
    assert!(bench.device.transport.is_idle());
}

/// What a VM's end waits for.
#[test]
fn a_closed_disk_takes_nothing_more_and_says_when_it_is_idle() {
    let mut bench = Bench::new();
    bench.write(1, 1);
    let device = bench.device.transport.device();
    device.close();
    assert_eq!(device.in_flight(), 1);
    bench.storage.answer_all();
    assert_eq!(bench.device.line.idle.load(Ordering::SeqCst), 1);
    bench.queue = TestQueue::new(&bench.guest, 128);
    bench.start();
    bench.read(1);
    assert_eq!(bench.storage.waiting(), 0);
}

/// A disk needs memory for each request under way: one it always gets.
#[test]
fn one_request_after_the_other_is_served_while_the_heap_is_low() {
    let mut bench = Bench::with(FakeStorage::new(|_| ()), false, false);
    bench.start();
    bench.write(1, 1);
    hw::tests::set_heap_used(80);
    for sector in 2..6 {
        bench.write(sector, 1);
    }
    for left in (0..5).rev() {
        assert_eq!(bench.storage.waiting(), 1);
        bench.storage.fail(0, IoError::Device);
        if left != 0 {
            assert_eq!(bench.device.line.goes_on.swap(0, Ordering::SeqCst), 1);
            while bench.device.transport.resume() {}
        }
    }
    assert_eq!(bench.storage.waiting(), 0);
}

/// More segments than that would let a guest fill the machine's heap.
#[test]
fn segments_under_way_are_bounded_and_the_rest_is_taken_later() {
    let mut bench = Bench::with(FakeStorage::new(|_| ()), false, false);
    bench
        .device
        .start(F_VERSION_1 | F_FLUSH | F_INDIRECT_DESC, &[&bench.queue]);
    let page = bench.guest.allocate(1 << 16, 4096);
    let header = bench.guest.allocate(16, 16);
    bench.guest.write(header, &head(OUT, 0));
    let status = bench.guest.allocate(64, 1);
    // Sectors that do not adjoin: each is a segment.
    let data = (0..100).map(|n| (page + 1024 * (n % 60), 512, false));
    for n in 0..60 {
        let buffers: Vec<_> = core::iter::once((header, 16, false))
            .chain(data.clone())
            .chain([(status + n, 1, true)])
            .collect();
        bench.queue.add_indirect(&bench.guest, &buffers);
    }
    bench.device.notify(0);
    let first = bench.storage.waiting();
    assert!((20..30).contains(&first), "{first}");
    bench.device.notify(0);
    assert_eq!(bench.storage.waiting(), first, "not more by asking again");
    let mut done = 0;
    while bench.storage.waiting() != 0 {
        bench.storage.fail(0, IoError::Device);
        done += 1;
        let asked = bench.device.line.goes_on.swap(0, Ordering::SeqCst);
        assert!(asked <= 1);
        if asked == 1 {
            while bench.device.transport.resume() {}
        }
    }
    assert_eq!(done, 60, "requests were forgotten");
}

/// One VM's gigabytes of zeros would keep another's page waiting, and a slow disk from ever being done in time.
#[test]
fn bytes_under_way_are_bounded_though_they_are_zeros() {
    let large = FakeStorage::new(|geometry| {
        geometry.sectors = 1 << 20;
        geometry.max_zeroes = u32::MAX;
    });
    let mut bench = Bench::with(large, false, false);
    bench.start();
    let megabytes = 4;
    for _ in 0..10 {
        bench.request(WRITE_ZEROES, 0, &range(0, megabytes << 11, 0), false);
    }
    assert_eq!(bench.storage.waiting(), 4);
    let mut done = 0;
    while bench.storage.waiting() != 0 {
        bench.storage.fail(0, IoError::Device);
        done += 1;
        if bench.device.line.goes_on.swap(0, Ordering::SeqCst) == 1 {
            while bench.device.transport.resume() {}
        }
        assert!(bench.storage.waiting() <= 4);
    }
    assert_eq!(done, 10, "requests were forgotten");
}

#[test]
fn what_a_protected_vm_does_not_share_is_not_handed_over() {
    let mut bench = Bench::with(FakeStorage::new(|_| ()), false, true);
    let features = F_VERSION_1 | F_FLUSH | F_ACCESS_PLATFORM;
    bench.device.start(features, &[&bench.queue]);
    let private = bench.guest.allocate(4096, 4096);
    let header = bench.guest.allocate(16, 16);
    let status = bench.guest.allocate(1, 1);
    bench.guest.write(header, &head(IN, 0));
    bench.guest.share(private, false);
    // Its first sector is shared, its second is not.
    let buffers = [
        (header, 16, false),
        (private - 512, 1024, true),
        (status, 1, true),
    ];
    bench.queue.add(&bench.guest, &buffers);
    bench.device.notify(0);
    assert!(bench.device.is_broken());
    assert_eq!(bench.storage.waiting(), 0);
}

/// The status is written by the hostvisor; where it cannot be, the driver is to blame, and nobody else.
#[test]
fn a_status_taken_back_while_a_request_is_under_way_breaks_the_device() {
    let mut bench = Bench::with(FakeStorage::new(|_| ()), false, true);
    let features = F_VERSION_1 | F_FLUSH | F_ACCESS_PLATFORM;
    bench.device.start(features, &[&bench.queue]);
    bench.guest.allocate(4096, 4096);
    let (_, status) = bench.read(1);
    bench.guest.share(status, false);
    bench.storage.answer_all();
    assert!(bench.device.is_broken());
    assert!(bench.device.transport.is_idle());
    bench.guest.share(status, true);
}
