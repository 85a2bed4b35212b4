//! The state word of a vCPU: where it is, and whether something is new for it.

use abi::MAX_CPUS;
use core::sync::atomic::{AtomicU32, Ordering};

/// Where a vCPU is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Phase {
    /// Powered off, not queued.
    Off = 0,
    /// In one run queue.
    Runnable = 1,
    /// On a CPU.
    Running = 2,
    /// Waits for an interrupt.
    Blocked = 3,
}

const PHASE: u32 = 3;
/// Something is new for this vCPU.
const KICK: u32 = 1 << 2;
/// Lowest bit of the CPU it runs or last ran on.
const CPU_SHIFT: u32 = 8;

/// What the kicker has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Kick {
    /// Nothing: it will see for itself.
    Nothing,
    /// Make this CPU leave the guest.
    Interrupt(usize),
    /// It was blocked and is Runnable now: queue it; it last ran on this CPU.
    Enqueue(usize),
}

/// The state word of one vCPU.
pub struct RunState(AtomicU32);

impl Default for RunState {
    fn default() -> Self {
        Self::new()
    }
}

const fn pack(phase: Phase, cpu: usize) -> u32 {
    phase as u32 | (cpu as u32) << CPU_SHIFT
}

impl RunState {
    /// Off.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The phase, and the CPU it runs or last ran on. For statistics.
    #[must_use]
    pub fn get(&self) -> (Phase, usize) {
        let word = self.0.load(Ordering::Relaxed);
        let phase = match word & PHASE {
            0 => Phase::Off,
            1 => Phase::Runnable,
            2 => Phase::Running,
            _ => Phase::Blocked,
        };
        (phase, (word >> CPU_SHIFT) as usize % MAX_CPUS)
    }

    /// Off → Runnable, to be queued by the caller. False if it was not off.
    pub fn power_on(&self, cpu: usize) -> bool {
        let off = |word| (word & PHASE == Phase::Off as u32).then_some(pack(Phase::Runnable, cpu));
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, off)
            .is_ok()
    }

    /// Runnable → Running on `cpu`; forgets kicks, so look at the vGIC afterwards. By the CPU that took it
    /// out of a queue.
    pub fn begin(&self, cpu: usize) {
        self.0.swap(pack(Phase::Running, cpu), Ordering::AcqRel);
    }

    /// True if it has been kicked since the last time; look at the vGIC afterwards. By the runner.
    #[inline]
    pub fn take_kick(&self) -> bool {
        self.0.load(Ordering::Acquire) & KICK != 0
            && self.0.fetch_and(!KICK, Ordering::AcqRel) & KICK != 0
    }

    /// Running → Blocked. False if it has been kicked: it goes on running. By the runner.
    pub fn try_block(&self, cpu: usize) -> bool {
        let (from, to) = (pack(Phase::Running, cpu), pack(Phase::Blocked, cpu));
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Running → Runnable, to be queued by the caller, the runner.
    pub fn give_way(&self, cpu: usize) {
        self.0.swap(pack(Phase::Runnable, cpu), Ordering::AcqRel);
    }

    /// Running → Off. By the runner.
    pub fn power_off(&self, cpu: usize) {
        self.0.swap(pack(Phase::Off, cpu), Ordering::AcqRel);
    }

    /// Tells the vCPU that something is new for it. By anybody.
    pub fn kick(&self) -> Kick {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let blocked = word & PHASE == Phase::Blocked as u32;
            let cpu = (word >> CPU_SHIFT) as usize % MAX_CPUS;
            let new = if blocked {
                pack(Phase::Runnable, cpu)
            } else {
                word | KICK
            };
            match self
                .0
                .compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) if blocked => return Kick::Enqueue(cpu),
                // A kick that is still there has had its SGI.
                Ok(_) if word & (PHASE | KICK) == Phase::Running as u32 => {
                    return Kick::Interrupt(cpu);
                }
                Ok(_) => return Kick::Nothing,
                Err(now) => word = now,
            }
        }
    }
}
