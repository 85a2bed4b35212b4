//! Block device (virtio 1.2 §5.2), over storage that answers when it likes.
//!
//! A request's data goes between the machine's disk and the guest's memory without a copy: what is handed over are
//! the guest's own buffers. So a request that the machine is at outlives what the guest does to the device meanwhile:
//! after a reset, or when the driver broke the rules, it is *disowned*: it is awaited, nothing is told of it, and until
//! then [`Device::in_flight`] keeps the guest from going on and its VM from being taken apart.
//!
//! Nothing is handed over with the lock held, as storage may answer before that returns.

mod config;
mod request;

use super::device::{CONFIG, Device, Left, Link};
use super::queue::{Chain, Queue, Violation};
use super::transfer;
use crate::hw::{self, Mutex};
use crate::segment::{self, Segment};
use crate::storage::{Backend, Done, IoError, Op, Request, SECTOR};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use config::{F_FLUSH, Offer, QUEUE_SIZE};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use request::{Action, Parsed, Status};

const KIND: u32 = 2;
/// Bytes of a serial (VIRTIO_BLK_ID_BYTES).
const ID_BYTES: usize = 20;
/// Most requests taken before the guest gets to run again.
const BUDGET: usize = 64;
/// Segments of requests under way above which no more are taken: they may lie in the machine's heap until its disk
/// has room for them. At least one request always gets through; not more while the heap is low.
const MAX_SEGMENTS_OUT: usize = 2048;
/// The same for their bytes, those to be zeroed or discarded included: a slow disk serves other VMs, too, and must have
/// done all of this long before it counts as stuck.
const MAX_BYTES_OUT: u64 = 16 << 20;

/// A disk of a VM.
pub struct Blk {
    disk: Arc<Disk>,
}

/// What requests under way refer to.
struct Disk {
    /// Itself: who hears of outcomes.
    me: Weak<Self>,
    link: Arc<Link>,
    backend: Arc<dyn Backend>,
    offer: Offer,
    serial: String,
    /// The VM's memory can be reached only where the VM shares it.
    shared_only: bool,
    state: Mutex<State>,
    /// Requests that the machine is at, disowned ones too.
    in_flight: AtomicU32,
    /// Somebody waits for `in_flight` to become 0.
    awaited: AtomicBool,
    /// The machine's disk may write to the guest's memory for ever.
    lost: AtomicBool,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    flushes: AtomicU64,
    others: AtomicU64,
    errors: AtomicU64,
}

struct State {
    /// `None` without a driver, and once that has broken the rules.
    queue: Option<Queue>,
    /// Which life of the queue this is: requests of an earlier one are disowned.
    life: u64,
    /// The driver does not flush: what is written has to last once it is told so.
    write_through: bool,
    chain: Chain,
    under_way: Vec<Option<UnderWay>>,
    free: Vec<u16>,
    /// Segments and bytes of all requests under way.
    segments: usize,
    bytes: u64,
    /// Requests may be in the queue that there was no room for.
    stalled: bool,
    /// The VM is at its end.
    closed: bool,
}

/// A request that the machine is at.
struct UnderWay {
    life: u64,
    /// The chain's name.
    head: u16,
    /// Where the outcome goes.
    status: Segment,
    /// Bytes of data that the device may write before it.
    room: u64,
    segments: usize,
    bytes: u64,
    /// It is a write that has to be flushed before the driver is told.
    flush: bool,
}

/// What was taken out of the queue.
enum Taken {
    /// A request for the machine.
    Request(Request),
    /// A request that could be answered here.
    Answered,
    /// Nothing: there is none, or too much is under way.
    Nothing,
}

impl Blk {
    /// A disk without driver. `serial` is what the guest calls it by, `read_only` keeps this VM from writing,
    /// `shared_only` says that the VM's memory can be reached only where the VM shares it.
    #[must_use]
    pub fn new(
        link: Arc<Link>,
        backend: Arc<dyn Backend>,
        serial: &str,
        read_only: bool,
        shared_only: bool,
    ) -> Self {
        let state = State {
            queue: None,
            life: 0,
            write_through: false,
            chain: Chain::default(),
            under_way: (0..QUEUE_SIZE).map(|_| None).collect(),
            free: (0..QUEUE_SIZE).rev().collect(),
            segments: 0,
            bytes: 0,
            stalled: false,
            closed: false,
        };
        let disk = Arc::new_cyclic(|me: &Weak<Disk>| Disk {
            me: me.clone(),
            link,
            offer: Offer::new(backend.geometry(), read_only),
            backend,
            serial: serial.into(),
            shared_only,
            state: Mutex::new(state),
            in_flight: AtomicU32::new(0),
            awaited: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            counters: Counters::default(),
        });
        Self { disk }
    }
}

impl State {
    /// The queue comes to its end; what is under way is disowned.
    fn forget_queue(&mut self) {
        self.queue = None;
        self.life += 1;
        self.stalled = false;
    }

    /// True, once, if what `token` stands for has to be flushed before it is over.
    fn must_flush(&mut self, token: u64) -> bool {
        let request = self
            .under_way
            .get_mut(token as usize)
            .and_then(Option::as_mut);
        request.is_some_and(|request| core::mem::take(&mut request.flush))
    }

    /// What `token` stands for is over.
    fn take_back(&mut self, token: u64) -> Option<UnderWay> {
        let request = self.under_way.get_mut(token as usize)?.take()?;
        self.free.push(token as u16);
        self.segments -= request.segments;
        self.bytes -= request.bytes;
        Some(request)
    }
}

impl Disk {
    /// Takes requests and hands them over. True if there may be more than are taken at once.
    ///
    /// One at a time: to hold the lock once more costs less than to keep requests anywhere until it is free.
    fn serve(&self) -> bool {
        for _ in 0..BUDGET {
            match self.locked(|state| self.take(state)) {
                Some(Taken::Request(request)) => self.backend.submit(request),
                Some(Taken::Answered) => {}
                Some(Taken::Nothing) | None => return false,
            }
        }
        let published = self.locked(|state| match &mut state.queue {
            Some(queue) => self.publish(queue),
            None => Ok(()),
        });
        published.is_some()
    }

    /// Does something with the queue. `None` if the driver has broken the rules.
    fn locked<T>(&self, work: impl FnOnce(&mut State) -> Result<T, Violation>) -> Option<T> {
        let mut state = self.state.lock();
        let result = work(&mut state);
        result
            .map_err(|violation| self.broken(&mut state, &violation))
            .ok()
    }

    fn broken(&self, state: &mut State, violation: &Violation) {
        state.forget_queue();
        self.link.broken(0, violation);
    }

    /// Takes one request out of the queue.
    fn take(&self, state: &mut State) -> Result<Taken, Violation> {
        let Some(queue) = &mut state.queue else {
            return Ok(Taken::Nothing);
        };
        let more = state.free.len() < usize::from(QUEUE_SIZE);
        let full = state.segments >= MAX_SEGMENTS_OUT
            || state.bytes >= MAX_BYTES_OUT
            || more && hw::heap_is_low();
        if full || state.free.is_empty() {
            state.stalled = true;
            self.publish(queue)?;
            return Ok(Taken::Nothing);
        }
        // Nothing, but the driver is asked to notify, and looked at once more.
        if !queue.pop(&mut state.chain)? {
            self.publish(queue)?;
            if !queue.want_notifications()? || !queue.pop(&mut state.chain)? {
                return Ok(Taken::Nothing);
            }
        }
        self.take_one(state)
    }

    /// Shows the driver what it got back.
    fn publish(&self, queue: &mut Queue) -> Result<(), Violation> {
        if queue.publish()? {
            self.link.used_buffers();
        }
        Ok(())
    }

    /// Reads the chain that was taken, and answers it if that needs no storage.
    fn take_one(&self, state: &mut State) -> Result<Taken, Violation> {
        let Parsed {
            action,
            status,
            room,
        } = request::parse(&state.chain, &self.offer, self.shared_only)?;
        let head = state.chain.head;
        let (op, sector, sectors, segments) = match action {
            Action::Submit {
                op,
                sector,
                sectors,
                segments,
            } => (op, sector, sectors, segments),
            Action::Identify => {
                count(&self.counters.others, 1);
                let bytes = self.identify(&state.chain, room)?;
                let written = if bytes == room { bytes + 1 } else { bytes };
                answer(state, head, status, Status::Good, written as u32)?;
                return Ok(Taken::Answered);
            }
            Action::Answer(outcome) => {
                count(&self.counters.errors, 1);
                answer(state, head, status, outcome, written_in_vain(room))?;
                return Ok(Taken::Answered);
            }
        };
        // What is disowned holds slots, too; whoever calls this has seen that one is free.
        let (Some(slot), Some(done)) = (state.free.pop(), self.me.upgrade()) else {
            return Ok(Taken::Nothing);
        };
        let under_way = UnderWay {
            life: state.life,
            head,
            status,
            room,
            segments: segments.len(),
            bytes: segment::total(&segments) + u64::from(sectors) * SECTOR,
            flush: matches!(op, Op::Write | Op::WriteZeroes) && state.write_through,
        };
        state.segments += under_way.segments;
        state.bytes += under_way.bytes;
        if let Some(place) = state.under_way.get_mut(usize::from(slot)) {
            *place = Some(under_way);
        }
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.counters.request(op, &segments);
        Ok(Taken::Request(Request {
            op,
            sector,
            sectors,
            segments,
            done,
            token: slot.into(),
        }))
    }

    /// Writes the serial; answers how many bytes of it there was room for.
    fn identify(&self, chain: &Chain, room: u64) -> Result<u64, Violation> {
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(self.serial.bytes()) {
            *to = from;
        }
        let bytes = room.min(ID_BYTES as u64);
        let id = id.get(..bytes as usize).unwrap_or_default();
        transfer::write(&chain.writable, 0, id)?;
        Ok(bytes)
    }

    /// The machine is done with `request`: tells the driver, unless it is disowned.
    fn complete(
        &self,
        state: &mut State,
        request: &UnderWay,
        result: Result<(), IoError>,
    ) -> Result<(), Violation> {
        if request.life != state.life {
            return Ok(());
        }
        let (outcome, written) = match result {
            // The status is the last byte there is to write, behind the data of a read.
            Ok(()) => (
                Status::Good,
                u32::try_from(request.room + 1).unwrap_or(u32::MAX),
            ),
            Err(IoError::Unsupported) => (Status::Unsupported, written_in_vain(request.room)),
            Err(_) => (Status::Failed, written_in_vain(request.room)),
        };
        answer(state, request.head, request.status, outcome, written)?;
        match &mut state.queue {
            Some(queue) => self.publish(queue),
            None => Ok(()),
        }
    }

    /// Hands over what makes the write under `token` last.
    fn flush_behind(&self, token: u64) {
        let Some(done) = self.me.upgrade() else {
            return;
        };
        self.backend.submit(Request {
            op: Op::Flush,
            sector: 0,
            sectors: 0,
            segments: Vec::new(),
            done,
            token,
        });
    }
}

/// Gives a chain back with its outcome; `written` bytes have been written, from the first on (§2.7.8.2).
fn answer(
    state: &mut State,
    head: u16,
    status: Segment,
    outcome: Status,
    written: u32,
) -> Result<(), Violation> {
    let Some(queue) = &mut state.queue else {
        return Ok(());
    };
    transfer::write(&[status], 0, &[outcome as u8])?;
    queue.push(head, written)
}

/// Bytes written, from the first on, if it is the status alone, behind `room` for data.
const fn written_in_vain(room: u64) -> u32 {
    if room == 0 { 1 } else { 0 }
}

impl Done for Disk {
    fn done(&self, token: u64, result: Result<(), IoError>) {
        if result == Err(IoError::Lost) {
            self.lost.store(true, Ordering::SeqCst);
        }
        let mut state = self.state.lock();
        if result.is_ok() && state.must_flush(token) {
            drop(state);
            self.flush_behind(token);
            return;
        }
        let Some(request) = state.take_back(token) else {
            return;
        };
        if result.is_err() {
            count(&self.counters.errors, 1);
        }
        if let Err(violation) = self.complete(&mut state, &request, result) {
            self.broken(&mut state, &violation);
        }
        let goes_on = state.stalled
            && state.segments <= MAX_SEGMENTS_OUT / 2
            && state.bytes <= MAX_BYTES_OUT / 2;
        state.stalled &= !goes_on;
        drop(state);
        // Last: whoever waits for it may take the VM apart.
        let left = self.in_flight.fetch_sub(1, Ordering::SeqCst) - 1;
        if left == 0 && self.awaited.swap(false, Ordering::SeqCst) {
            self.link.idle();
        }
        if goes_on {
            self.link.go_on();
        }
    }
}

impl Device for Blk {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        self.disk.offer.features()
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn configuration(&self) -> [u8; CONFIG] {
        self.disk.offer.configuration()
    }

    fn activate(&self, features: u64, queues: Vec<Option<Queue>>) {
        let mut state = self.disk.state.lock();
        state.forget_queue();
        if !state.closed {
            state.queue = queues.into_iter().next().flatten();
            state.write_through = self.disk.offer.has_cache() && features & F_FLUSH == 0;
        }
    }

    fn notify(&self, _queue: usize) -> Left {
        Left::buffers(self.disk.serve())
    }

    fn resume(&self) -> bool {
        self.disk.serve()
    }

    fn reset(&self) {
        self.disk.state.lock().forget_queue();
        // In this order: either the last request finds that it is awaited, or whoever looks finds none.
        self.disk.awaited.store(true, Ordering::SeqCst);
    }

    fn close(&self) {
        self.disk.state.lock().closed = true;
        self.reset();
    }

    fn in_flight(&self) -> u32 {
        self.disk.in_flight.load(Ordering::SeqCst)
    }

    fn has_lost_memory(&self) -> bool {
        self.disk.lost.load(Ordering::SeqCst)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.disk.counters.list()
    }
}

impl Counters {
    fn request(&self, op: Op, segments: &[Segment]) {
        let bytes = segment::total(segments);
        match op {
            Op::Read => {
                count(&self.reads, 1);
                count(&self.read_bytes, bytes);
            }
            Op::Write => {
                count(&self.writes, 1);
                count(&self.written_bytes, bytes);
            }
            Op::Flush => count(&self.flushes, 1),
            Op::Discard | Op::WriteZeroes => count(&self.others, 1),
        }
    }

    fn list(&self) -> Vec<(&'static str, u64)> {
        let all = [
            ("reads", &self.reads),
            ("bytes read", &self.read_bytes),
            ("writes", &self.writes),
            ("bytes written", &self.written_bytes),
            ("flushes", &self.flushes),
            ("other requests", &self.others),
            ("errors", &self.errors),
        ];
        let value = |(name, counter): (_, &AtomicU64)| (name, counter.load(Ordering::Relaxed));
        all.into_iter().map(value).collect()
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
