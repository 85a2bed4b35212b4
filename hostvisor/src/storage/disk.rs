//! One of the machine's disks: a virtio-blk device with many requests under way (virtio 1.2 §5.2).
//!
//! A request goes from [`MachineDisk::submit`] into the device's ring at once, or waits for room, requesters
//! taking turns ([`Turns`]); the device's interrupt takes it back and tells the requester. Every request under way has a page of device
//! memory of its own ([`SlotPage`]); only waiting allocates, and no data is copied on its way. What is told in one go has a
//! budget; a soft timer goes on with the rest, so that guests who keep a disk busy leave its CPU's own their time.
//!
//! A device that breaks the protocol or does nothing for [`PATIENCE`] seconds though it has requests is *dead*: it is reset, all its
//! requests fail, one line says so, and it is not used again.

use super::blk::{self, Geometry, Kind, SLOT, SlotPage};
use super::gpt::{self, Partition};
use super::turns::Turns;
use super::{Done, IoError, Op, Request, SECTOR};
use crate::drivers::port::Port;
use crate::drivers::queue::{Broken, Descriptor, Queue};
use crate::drivers::setup::{self, Refused};
use crate::hw::{self, Dma, Mutex};
use crate::interrupts::Handler;
use crate::segment::{self, Segment};
use crate::virtqueue::INDIRECT;
use crate::vm::Alarm;
use crate::{cpu, dma, watch};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use log::error;
use spin::Once;
use virtio_drivers::transport::Transport;

/// Most requests that a device is given at once.
const SLOTS: u16 = 128;
/// Completions told in one go, between two holds of the lock. Few: most often there is one, and room for more costs.
const BATCH: usize = 4;
/// Most batches in one go.
const BATCHES: usize = 16;
/// Key of the first disk's soft timer; the others' follow. VMs' are far below, network cards' far above.
const TIMERS: u64 = 1 << 63;
/// Seconds after which a device that has finished nothing will not.
const PATIENCE: u64 = 30;
/// The only queue used.
const QUEUE: u16 = 0;

/// Counts of one kind of thing that happened to a disk.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests handed over.
    pub requests: AtomicU64,
    /// Requests that failed, for whatever reason.
    pub errors: AtomicU64,
    /// Bytes read.
    pub read: AtomicU64,
    /// Bytes written.
    pub written: AtomicU64,
}

/// A request that the device has.
struct Flight {
    done: Arc<dyn Done>,
    token: u64,
    /// When it was handed to the device, in ticks.
    since: u64,
}

/// A request that there is no room for yet.
struct Waiting {
    kind: Kind,
    request: Request,
}

/// Somebody to be told something, without the lock.
struct Outcome {
    done: Arc<dyn Done>,
    token: u64,
    result: Result<(), IoError>,
}

struct State {
    queue: Queue,
    slots: Dma,
    flights: Vec<Option<Flight>>,
    free: Vec<u16>,
    waiting: Turns<Waiting>,
    /// When the device last finished something, in ticks.
    progress: u64,
}

/// A disk.
pub struct MachineDisk {
    /// Where it is, for messages until its serial is known.
    place: String,
    /// Its own handle and its key, for the soft timer.
    own: Weak<Self>,
    timer: u64,
    identity: Once<String>,
    partitions: Once<Result<Vec<Partition>, gpt::Fault>>,
    geometry: Geometry,
    port: Box<dyn Port>,
    state: Mutex<State>,
    /// It has stopped answering. Set with `state` locked.
    dead: AtomicBool,
    /// So many requests fail from now on, without the device hearing of them: for tests of who uses the disk.
    failing: AtomicU32,
    /// What has happened to it.
    pub counters: Counters,
}

impl MachineDisk {
    /// Initialises the device behind `transport`, whose registers `port` reaches afterwards. `number` is another one
    /// for each disk.
    pub fn new<T: Transport>(
        number: u32,
        mut transport: T,
        port: Box<dyn Port>,
        place: String,
    ) -> Result<Arc<Self>, Refused> {
        let features = setup::negotiate(&mut transport, setup::INDIRECT_DESC, blk::WANTED)?;
        let mut geometry = Geometry::read(&transport, features)?;
        let queue = setup::queue(&mut transport, QUEUE, SLOTS, features)?;
        geometry.fit(queue.size());
        let slots = dma::allocate(u64::from(queue.size()) * SLOT).ok_or(Refused::NoMemory)?;
        setup::finish(&mut transport);
        // Its end would reset the device.
        core::mem::forget(transport);
        Ok(Self::driving(number, geometry, queue, slots, port, place))
    }

    /// A device that is initialised. Each descriptor of `queue` names a [`SlotPage`] of `slots`.
    fn driving(
        number: u32,
        geometry: Geometry,
        queue: Queue,
        slots: Dma,
        port: Box<dyn Port>,
        place: String,
    ) -> Arc<Self> {
        for slot in 0..queue.size() {
            let table = Descriptor {
                address: SlotPage::new(&slots, slot).table(),
                len: 0,
                flags: INDIRECT,
                next: 0,
            };
            queue.describe(slot, table);
        }
        Arc::new_cyclic(|own| Self {
            place,
            own: own.clone(),
            timer: TIMERS + u64::from(number),
            identity: Once::new(),
            partitions: Once::new(),
            geometry,
            port,
            state: Mutex::new(State {
                flights: (0..queue.size()).map(|_| None).collect(),
                free: (0..queue.size()).rev().collect(),
                waiting: Turns::default(),
                progress: 0,
                slots,
                queue,
            }),
            dead: AtomicBool::new(false),
            failing: AtomicU32::new(0),
            counters: Counters::default(),
        })
    }

    /// Where it is in the machine.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Its serial; empty if it has none.
    #[must_use]
    pub fn serial(&self) -> &str {
        self.identity.get().map_or("", String::as_str)
    }

    /// What messages call it: the serial, else where it is.
    #[must_use]
    pub fn name(&self) -> &str {
        match self.serial() {
            "" => &self.place,
            serial => serial,
        }
    }

    /// Size and abilities.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Its GUID partitions, as they were at boot.
    pub fn partitions(&self) -> Result<&[Partition], gpt::Fault> {
        match self.partitions.get() {
            None => Err(gpt::Fault::NoTable),
            Some(Ok(all)) => Ok(all),
            Some(Err(fault)) => Err(*fault),
        }
    }

    /// True if it has stopped answering.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Lets the next `count` requests fail.
    pub fn fail(&self, count: u32) {
        self.failing.store(count, Ordering::Relaxed);
    }

    /// True if this request is to fail.
    #[inline]
    fn fails(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        self.failing.load(Ordering::Relaxed) != 0
            && self
                .failing
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .is_ok()
    }

    /// Requests that the device has, and requests that wait for room.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        let state = self.state.lock();
        let under_way = state.flights.len() - state.free.len();
        (under_way, state.waiting.len())
    }

    /// Hands a request over. Never waits, never fails: its outcome comes through [`Request::done`].
    pub fn submit(&self, request: Request) {
        let kind = Kind::Op(request.op);
        count(&self.counters.requests, 1);
        let refused = if self.fails() {
            Err(IoError::Device)
        } else {
            self.check(&request)
        };
        if let Err(error) = refused {
            self.tell(Outcome {
                done: request.done,
                token: request.token,
                result: Err(error),
            });
            return;
        }
        if request.op == Op::Flush && !self.geometry.flush {
            self.tell(Outcome {
                done: request.done,
                token: request.token,
                result: Ok(()),
            });
            return;
        }
        self.hand_over(kind, request);
    }

    fn check(&self, request: &Request) -> Result<(), IoError> {
        let geometry = &self.geometry;
        let bytes = segment::total(&request.segments);
        let limit = |max: u32| match max {
            0 => Err(IoError::Unsupported),
            max if request.sectors == 0 || request.sectors > max => Err(IoError::BadRequest),
            _ => Ok(u64::from(request.sectors)),
        };
        let sectors = match request.op {
            Op::Flush => return Ok(()),
            Op::Read | Op::Write => {
                let too_many = request.segments.len() > usize::from(geometry.max_segments);
                let whole = bytes != 0 && bytes.is_multiple_of(SECTOR);
                if too_many || !whole || request.segments.iter().any(|s| s.len == 0) {
                    return Err(IoError::BadRequest);
                }
                bytes / SECTOR
            }
            Op::Discard => limit(geometry.max_discard)?,
            Op::WriteZeroes => limit(geometry.max_zeroes)?,
        };
        let within = request
            .sector
            .checked_add(sectors)
            .is_some_and(|end| end <= geometry.sectors);
        if !within || (geometry.read_only && request.op != Op::Read) {
            return Err(IoError::BadRequest);
        }
        let done = match request.op {
            Op::Read => &self.counters.read,
            Op::Write => &self.counters.written,
            _ => return Ok(()),
        };
        count(done, bytes);
        Ok(())
    }

    fn hand_over(&self, kind: Kind, request: Request) {
        let mut state = self.state.lock();
        if self.is_dead() {
            drop(state);
            self.tell(Outcome {
                done: request.done,
                token: request.token,
                result: Err(IoError::Dead),
            });
            return;
        }
        if state.free.is_empty() {
            let refused = state.waiting.push(Waiting { kind, request }, |a, b| {
                Arc::ptr_eq(&a.request.done, &b.request.done)
            });
            drop(state);
            if let Err(Waiting { request, .. }) = refused {
                self.tell(Outcome {
                    done: request.done,
                    token: request.token,
                    result: Err(IoError::NoMemory),
                });
            }
            return;
        }
        state.start(kind, request);
        if state.queue.publish() {
            self.port.notify(QUEUE);
        }
        drop(state);
        watch::start();
    }

    /// Tells a requester, and counts.
    fn tell(&self, outcome: Outcome) {
        if outcome.result.is_err() {
            count(&self.counters.errors, 1);
        }
        outcome.done.done(outcome.token, outcome.result);
    }

    /// Takes back what the device is done with, gives it what waits, and tells the requesters, within the budget.
    pub fn serve(&self) {
        for _ in 0..BATCHES {
            if !self.serve_batch() {
                return;
            }
        }
        self.resume_later();
    }

    /// One batch of it. True if there may be more.
    fn serve_batch(&self) -> bool {
        let mut outcomes = [const { None }; BATCH];
        let more = {
            let mut state = self.state.lock();
            if self.is_dead() {
                return false;
            }
            match state.collect(&mut outcomes) {
                Ok(more) => {
                    if state.refill() {
                        self.port.notify(QUEUE);
                    }
                    more
                }
                Err(Broken) => {
                    drop(state);
                    self.give_up("breaks the protocol");
                    false
                }
            }
        };
        for outcome in outcomes.iter_mut().map_while(Option::take) {
            self.tell(outcome);
        }
        more
    }

    fn resume_later(&self) {
        if let Some(own) = self.own.upgrade() {
            cpu::get(hw::cpu_index()).arm_soon(self.timer, Alarm::Call(own));
        }
    }

    /// Looks at how long the oldest request has been under way. True if there is any.
    pub fn watch(&self, now: u64) -> bool {
        let limit = PATIENCE.saturating_mul(hw::frequency());
        let late = |state: &State| {
            let mut flights = state.flights.iter().flatten();
            // A guest can make a disk's queue long, but not a disk idle.
            flights.any(|f| now.saturating_sub(f.since.max(state.progress)) > limit)
        };
        let (busy, is_late) = {
            let state = self.state.lock();
            (state.free.len() != state.flights.len(), late(&state))
        };
        // An interrupt that got lost is no reason to give a disk up; nor shall the next one be lost behind it.
        if is_late {
            self.handle();
            if late(&self.state.lock()) {
                self.give_up("does not answer");
                return false;
            }
        }
        busy
    }

    /// Declares the device dead: all requests fail.
    pub(super) fn give_up(&self, why: &str) {
        let (flights, waiting, fate) = {
            let mut state = self.state.lock();
            if self.is_dead() {
                return;
            }
            self.dead.store(true, Ordering::Relaxed);
            // Before anybody is told that the memory is theirs again.
            let fate = if self.port.reset() {
                IoError::Dead
            } else {
                error!(
                    "disk {}: does not reset; it may still write to memory",
                    self.name()
                );
                IoError::Lost
            };
            let flights: Vec<_> = state.flights.iter_mut().filter_map(Option::take).collect();
            state.free = (0..state.queue.size()).rev().collect();
            (flights, core::mem::take(&mut state.waiting), fate)
        };
        error!(
            "disk {}: {why}, not used any more: {} requests failed",
            self.name(),
            flights.len() + waiting.len()
        );
        let flights = flights.into_iter().map(|f| (f.done, f.token, fate));
        // The device has never heard of these.
        let waiting = waiting
            .into_all()
            .map(|w| (w.request.done, w.request.token, IoError::Dead));
        for (done, token, why) in flights.chain(waiting) {
            self.tell(Outcome {
                done,
                token,
                result: Err(why),
            });
        }
    }

    /// Asks for the serial: 20 bytes into `to`. For discovery.
    pub(super) fn identify(&self, to: Segment, done: Arc<dyn Done>) {
        let request = Request {
            op: Op::Read,
            sector: 0,
            sectors: 0,
            segments: alloc::vec![to],
            done,
            token: 0,
        };
        self.hand_over(Kind::Identify, request);
    }

    /// Sets the serial, for good.
    pub(super) fn set_serial(&self, serial: String) {
        self.identity.call_once(|| serial);
    }

    /// Sets the partitions, for good.
    pub(super) fn set_partitions(&self, table: Result<Vec<Partition>, gpt::Fault>) {
        self.partitions.call_once(|| table);
    }
}

impl Handler for MachineDisk {
    fn handle(&self) {
        // Before the ring is looked at: what comes later raises the interrupt again.
        let reasons = self.port.acknowledge();
        self.serve();
        if reasons & crate::drivers::port::CONFIG != 0 && !self.is_dead() && self.port.is_broken() {
            self.give_up("asks to be reset");
        }
    }
}

impl State {
    /// Puts a request into a free slot, of which there is one, and into the ring.
    #[inline]
    fn start(&mut self, kind: Kind, request: Request) {
        let Some(slot) = self.free.pop() else {
            return;
        };
        let page = SlotPage::new(&self.slots, slot);
        let bytes = page.write(kind, request.sector, request.sectors, &request.segments);
        self.queue.extend(slot, bytes, INDIRECT, 0);
        if let Some(flight) = self.flights.get_mut(usize::from(slot)) {
            *flight = Some(Flight {
                done: request.done,
                token: request.token,
                since: hw::now(),
            });
        }
        self.queue.offer(slot);
    }

    /// Takes used slots back, as far as `outcomes` has room. True if there may be more.
    #[inline]
    fn collect(&mut self, outcomes: &mut [Option<Outcome>]) -> Result<bool, Broken> {
        for outcome in outcomes.iter_mut() {
            let used = match self.queue.take_used()? {
                Some(used) => used,
                None if self.queue.await_used() => return Ok(true),
                None => return Ok(false),
            };
            let flight = self.flights.get_mut(usize::from(used.head));
            // A slot that the device does not have: it makes things up.
            let flight = flight.and_then(Option::take).ok_or(Broken)?;
            let result = SlotPage::new(&self.slots, used.head).status();
            self.free.push(used.head);
            self.progress = hw::now();
            *outcome = Some(Outcome {
                done: flight.done,
                token: flight.token,
                result,
            });
        }
        Ok(true)
    }

    /// Starts what waits. True if the device is to be notified.
    fn refill(&mut self) -> bool {
        while !self.free.is_empty()
            && let Some(next) = self.waiting.pop()
        {
            self.start(next.kind, next.request);
        }
        self.queue.publish()
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
