//! The simulated machine: a few frames of RAM, TLBs that keep all they can, and firmware that is not
//! there.

use crate::walker::Walker;
use abi::{Ipa, Pfn, psci};
use arch::hal::{FRAME_WORDS, Firmware, FrameWords, Memory, Stage2Regs, Tlb};
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// First frame of RAM.
pub const BASE: u64 = 0x4_0000;
/// VMs that runs are about: slots 0 and 1.
pub const VMS: usize = 2;

/// What the core asks of the machine, told to the hook before it happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It looks at a frame (by index), now or until its next event.
    Words(usize),
    /// Descriptor stores become visible.
    Publish,
    /// Translations are dropped.
    Invalidate,
    /// A frame is written back from the caches.
    Clean,
    /// A frame is filled with zeros.
    Zero,
}

/// Hardware that does not do what it was told: bugs put in on purpose, to see them found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Fault {
    /// All is well.
    None,
    /// Frames are not zeroed.
    SkipZero,
    /// The last word of a frame is not zeroed.
    ZeroShort,
    /// Invalidation by IPA does nothing.
    DropIpa,
    /// Invalidation by VMID does nothing.
    DropVmid,
    /// Invalidation takes effect only when the call is over: no DSB waits for it.
    LateInvalidation,
    /// A CPU does not see the BUSY mark that another has put on a frame.
    BusyUnseen,
    /// EL1 registers are not switched back for the hostvisor.
    KeepEl1,
    /// A CPU's TLB keeps the translations of one vCPU for the next of its VM.
    KeepVcpu,
    /// FP/SIMD registers do not trap for the hostvisor.
    OpenFp,
    /// The timer's deadline that is reported at an exit is a general register of the guest.
    LeakGp,
}

/// The machine.
pub struct Machine {
    frames: Box<[FrameWords]>,
    dirty: Box<[AtomicU64]>,
    /// Tables and TLBs as CPUs see them; used by the exploration alone.
    pub walker: Mutex<Walker>,
    /// Pages (by number within the VM) that a guest has made public: bit n of its VM's word.
    pub public: [AtomicU64; VMS],
    /// What the firmware answers to every PSCI call.
    pub firmware: AtomicI64,
    fault: Fault,
}

/// Whoever is told what the core asks for.
pub type Hook = fn(&Machine, Event);

std::thread_local! {
    static HOOK: Cell<Option<Hook>> = const { Cell::new(None) };
}

/// Sets this thread's hook.
pub fn set_hook(hook: Option<Hook>) {
    HOOK.set(hook);
}

impl Machine {
    /// A machine with `frames` frames of RAM, all zero.
    #[must_use]
    pub fn new(frames: usize, fault: Fault) -> Self {
        Self {
            frames: (0..frames)
                .map(|_| [const { AtomicU64::new(0) }; FRAME_WORDS])
                .collect(),
            dirty: (0..frames).map(|_| AtomicU64::new(0)).collect(),
            walker: Mutex::new(Walker::new(frames)),
            public: [const { AtomicU64::new(0) }; VMS],
            firmware: AtomicI64::new(psci::DENIED),
            fault,
        }
    }

    /// The bug put in.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        self.fault
    }

    /// Frames of RAM.
    #[must_use]
    pub fn frames(&self) -> &[FrameWords] {
        &self.frames
    }

    /// The frame's words, untold.
    #[must_use]
    pub fn frame(&self, index: usize) -> &FrameWords {
        &self.frames[index]
    }

    /// The frame's index, if it is RAM.
    #[must_use]
    pub fn index(&self, frame: Pfn) -> Option<usize> {
        let index = frame.0.wrapping_sub(BASE) as usize;
        (index < self.frames.len()).then_some(index)
    }

    /// A word of memory as anybody but the core writes it.
    pub fn write(&self, index: usize, word: usize, value: u64) {
        self.frames[index][word].store(value, Ordering::Relaxed);
        self.dirty[index].store(1, Ordering::Relaxed);
    }

    /// A word of memory.
    #[must_use]
    pub fn read(&self, index: usize, word: usize) -> u64 {
        self.frames[index][word].load(Ordering::Relaxed)
    }

    /// True if the frame may have changed since [`Self::clean_slate`].
    #[must_use]
    pub fn is_dirty(&self, index: usize) -> bool {
        self.dirty[index].load(Ordering::Relaxed) != 0
    }

    /// From now on nothing has changed.
    pub fn clean_slate(&self) {
        for dirty in &self.dirty {
            dirty.store(0, Ordering::Relaxed);
        }
    }

    fn tell(&self, event: Event) {
        if let Some(hook) = HOOK.get() {
            hook(self, event);
        }
    }

    fn invalidate(&self, regs: Stage2Regs, ipa: Option<u64>) {
        self.tell(Event::Invalidate);
        let mut walker = self.walker.lock().unwrap();
        walker.published(self);
        let vmid = (regs.vttbr >> 48) as u8;
        match self.fault {
            Fault::DropIpa if ipa.is_some() => {}
            Fault::DropVmid if ipa.is_none() => {}
            Fault::LateInvalidation => walker.late.push((vmid, ipa)),
            _ => walker.invalidate(vmid, ipa),
        }
    }
}

impl Memory for Machine {
    fn words(&self, frame: Pfn) -> &FrameWords {
        let Some(index) = self.index(frame) else {
            panic!("{frame:?} is not RAM");
        };
        self.dirty[index].store(1, Ordering::Relaxed);
        self.tell(Event::Words(index));
        &self.frames[index]
    }

    fn clean(&self, _frame: Pfn) {
        self.tell(Event::Clean);
    }

    fn forget_instructions(&self) {}

    fn zero(&self, frame: Pfn) {
        let Some(index) = self.index(frame) else {
            panic!("{frame:?} is not RAM");
        };
        self.dirty[index].store(1, Ordering::Relaxed);
        self.tell(Event::Zero);
        let count = match self.fault {
            Fault::SkipZero => 0,
            Fault::ZeroShort => FRAME_WORDS - 1,
            _ => FRAME_WORDS,
        };
        for word in self.frames[index].iter().take(count) {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl Tlb for Machine {
    fn publish(&self) {
        self.tell(Event::Publish);
        self.walker.lock().unwrap().published(self);
    }

    fn invalidate_ipa(&self, regs: Stage2Regs, ipa: Ipa) {
        self.invalidate(regs, Some(ipa.0));
    }

    fn invalidate_vmid(&self, regs: Stage2Regs) {
        self.invalidate(regs, None);
    }
}

impl Firmware for Machine {
    fn psci(&self, _function: u32) -> i64 {
        self.firmware.load(Ordering::Relaxed)
    }

    fn start_cpu(&self, _index: usize) -> i64 {
        self.firmware.load(Ordering::Relaxed)
    }
}
