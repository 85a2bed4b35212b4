//! Exceptions of this program: expected ones are recorded and skipped, others end the run.

use crate::cpu::mrs;
use crate::{call, console, cpu};
use abi::MAX_CPUS;
use core::sync::atomic::{AtomicU64, Ordering};

/// What stopped an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    /// ESR_EL1.
    pub(crate) esr: u64,
    /// FAR_EL1.
    pub(crate) far: u64,
}

impl Fault {
    /// Exception class.
    pub(crate) fn class(self) -> u64 {
        self.esr >> 26
    }

    /// A synchronous external abort: what the corevisor injects.
    pub(crate) fn is_external_abort(self) -> bool {
        matches!(self.class(), 0x21 | 0x25) && self.esr & 0x3f == 0x10
    }

    /// An unknown instruction or register; class 0x18 where the processor has FEAT_IDST.
    pub(crate) fn is_undefined(self) -> bool {
        matches!(self.class(), 0 | 0x18)
    }
}

const IDLE: u64 = 0;
const EXPECTING: u64 = 1;
const CAUGHT: u64 = 2;

struct Slot {
    state: AtomicU64,
    esr: AtomicU64,
    far: AtomicU64,
}

static SLOTS: [Slot; MAX_CPUS] = [const {
    Slot {
        state: AtomicU64::new(IDLE),
        esr: AtomicU64::new(0),
        far: AtomicU64::new(0),
    }
}; MAX_CPUS];

#[repr(C)]
pub(crate) struct Frame {
    x: [u64; 20],
    x29: u64,
    x30: u64,
    elr: u64,
    spsr: u64,
}

/// Runs `access`, in which one instruction may fault: the first fault, if any. A data access that faults
/// is skipped, a jump to where nothing can be fetched returns.
pub(crate) fn attempt(access: impl FnOnce()) -> Option<Fault> {
    let slot = &SLOTS[cpu::index()];
    slot.state.store(EXPECTING, Ordering::SeqCst);
    access();
    cpu::barrier();
    (slot.state.swap(IDLE, Ordering::SeqCst) == CAUGHT).then(|| Fault {
        esr: slot.esr.load(Ordering::SeqCst),
        far: slot.far.load(Ordering::SeqCst),
    })
}

pub(crate) extern "C" fn handle(kind: u64, frame: &mut Frame) {
    let (esr, far) = (mrs!("esr_el1"), mrs!("far_el1"));
    let slot = &SLOTS[cpu::index()];
    if kind.is_multiple_of(4) && slot.state.load(Ordering::SeqCst) != IDLE {
        if slot.state.swap(CAUGHT, Ordering::SeqCst) == EXPECTING {
            slot.esr.store(esr, Ordering::SeqCst);
            slot.far.store(far, Ordering::SeqCst);
        }
        // PSTATE.IL, after an illegal return: one exception is enough.
        frame.spsr &= !(1 << 20);
        let fetch = esr >> 26 == 0x21;
        frame.elr = if fetch { frame.x30 } else { frame.elr + 4 };
        return;
    }
    console::last_words(format_args!(
        "ATTACKS broken: CPU {}: vector {kind} at {:#x}, ESR {esr:#x}, FAR {far:#x}",
        cpu::index(),
        frame.elr
    ));
    call::system_off()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::last_words(format_args!("ATTACKS broken: CPU {}: {info}", cpu::index()));
    call::system_off()
}
