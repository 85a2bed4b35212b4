//! One vCPU: its place in the scheduler, its run page, its counters.

use super::Vm;
use crate::cpu;
use crate::hw::{self, Mutex, RunPage};
use crate::sched::{Claim, RunState};
use abi::run::{ExitReason, MAX_LIST_REGISTERS};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

/// What only the CPU that runs the vCPU uses.
pub(super) struct Local {
    pub(super) page: RunPage,
    /// List registers as filled last.
    pub(super) lists: [u64; MAX_LIST_REGISTERS],
    /// How many of them are filled.
    pub(super) filled: usize,
    /// ICH_HCR word as written last.
    pub(super) hcr: u64,
    /// Timer lines as told to the vGIC last.
    pub(super) lines: u64,
    /// What becomes of the access that caused the last exit: ENTRY_FLAGS of the next entry.
    pub(super) reply: u64,
    /// The CPU in whose timer queue it is.
    pub(super) timer_on: Option<usize>,
    /// A virtio slot whose reset it waits for.
    pub(super) draining: Option<u32>,
}

/// One virtual CPU.
pub struct Vcpu {
    /// Its place in the scheduler's state machine.
    pub state: RunState,
    pub(super) local: Mutex<Local>,
    /// Exits by reason. Written by the CPU that runs it.
    pub exits: [AtomicU64; ExitReason::COUNT],
    /// Ticks on a CPU up to its last leaving. Written by the CPU that runs it.
    pub(super) run_ticks: AtomicU64,
    /// When it came onto the CPU it is on; 0 while it is on none.
    pub(super) on_since: AtomicU64,
    /// Its virtual time. Written by the CPU that runs it, read by who queues it next.
    pub(super) vtime: AtomicU64,
    /// Ticks it was Runnable and had no CPU, up to the last time it got one.
    wait_ticks: AtomicU64,
    /// Since when it is Runnable; 0 while it is not.
    waits_since: AtomicU64,
}

/// Ticks counted so far, and those since `since`, unless that is 0.
fn with_ongoing(ticks: &AtomicU64, since: &AtomicU64) -> u64 {
    let before = ticks.load(Ordering::Relaxed);
    match since.load(Ordering::Relaxed) {
        0 => before,
        since => before + hw::now().saturating_sub(since),
    }
}

impl Vcpu {
    /// Off, with this run page.
    pub(super) fn new(page: RunPage) -> Self {
        Self {
            state: RunState::new(),
            local: Mutex::new(Local {
                page,
                lists: [0; MAX_LIST_REGISTERS],
                filled: 0,
                hcr: 0,
                lines: 0,
                reply: 0,
                timer_on: None,
                draining: None,
            }),
            exits: [const { AtomicU64::new(0) }; ExitReason::COUNT],
            run_ticks: AtomicU64::new(0),
            on_since: AtomicU64::new(0),
            vtime: AtomicU64::new(0),
            wait_ticks: AtomicU64::new(0),
            waits_since: AtomicU64::new(0),
        }
    }

    /// The CPU it ran on last, by whose clock its virtual time is; none if it has never run.
    pub(super) fn last_cpu(&self) -> Option<usize> {
        (self.vtime.load(Ordering::Relaxed) != 0).then(|| self.state.get().1)
    }

    /// Ticks on a CPU so far.
    #[must_use]
    pub fn run_ticks(&self) -> u64 {
        with_ongoing(&self.run_ticks, &self.on_since)
    }

    /// Ticks it could have run and had no CPU, so far: what a guest would call stolen.
    #[must_use]
    pub fn wait_ticks(&self) -> u64 {
        with_ongoing(&self.wait_ticks, &self.waits_since)
    }

    /// It has got a CPU. By that CPU.
    pub(super) fn stop_waiting(&self, now: u64) {
        let since = self.waits_since.swap(0, Ordering::Relaxed);
        cpu::count(&self.wait_ticks, now.saturating_sub(since));
    }
}

/// A vCPU of a VM that stays alive as long as this does.
#[derive(Clone)]
pub struct VcpuRef {
    /// The VM.
    pub vm: Arc<Vm>,
    /// Index of the vCPU.
    pub index: usize,
}

impl VcpuRef {
    /// Identifies the vCPU among all timers that ever were.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.vm.timer_key(self.index)
    }

    /// What it brings along as it comes to wait at `now`. By who makes it Runnable.
    #[must_use]
    pub fn claim(&self, now: u64) -> Claim {
        let vtime = self.vm.vcpus.get(self.index).map_or(0, |vcpu| {
            vcpu.waits_since.store(now, Ordering::Relaxed);
            vcpu.vtime.load(Ordering::Relaxed)
        });
        Claim {
            vtime,
            weight: self.vm.weight.load(Ordering::Relaxed),
            affinity: self.vm.affinity,
            group: self.vm.instance,
        }
    }

    /// Makes it look what is new for it.
    pub fn kick(&self) {
        self.vm.kick(self.index);
    }
}
