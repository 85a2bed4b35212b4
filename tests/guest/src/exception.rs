//! Exceptions: interrupts go to the GIC driver; a synchronous one is recorded and skipped where a
//! test expects it, and ends the test where not.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::console::println;
use crate::cpu::{self, MAX_CPUS, read_reg};
use crate::{gic, runner};

/// What the vectors save (`asm/vectors.s`).
#[repr(C)]
pub(crate) struct Frame {
    /// x0–x30.
    pub(crate) x: [u64; 31],
    /// ELR_EL1.
    pub(crate) elr: u64,
    /// SPSR_EL1.
    pub(crate) spsr: u64,
}

/// Exception classes (Arm ARM D24.2.40, ESR_EL1.EC).
pub(crate) mod class {
    pub(crate) const UNKNOWN: u64 = 0x00;
    pub(crate) const SVC: u64 = 0x15;
    pub(crate) const SYSREG: u64 = 0x18;
    pub(crate) const SVE: u64 = 0x19;
    pub(crate) const SME: u64 = 0x1d;
    pub(crate) const FETCH_ABORT: u64 = 0x21;
    pub(crate) const DATA_ABORT: u64 = 0x25;
    pub(crate) const BRK: u64 = 0x3c;
}

/// Fault status: synchronous external abort, not on a table walk.
pub(crate) const STATUS_EXTERNAL: u64 = 0x10;
/// Fault status: synchronous external abort on a table walk, levels 0 to 3.
const STATUS_EXTERNAL_WALK: core::ops::RangeInclusive<u64> = 0x14..=0x17;

/// A synchronous exception a test had announced.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    /// ESR_EL1.
    pub(crate) esr: u64,
    /// FAR_EL1.
    pub(crate) far: u64,
    /// How many were taken; the fields tell of the last.
    pub(crate) count: u32,
}

impl Taken {
    /// ESR_EL1.EC.
    pub(crate) fn class(&self) -> u64 {
        self.esr >> 26 & 0x3f
    }

    /// ESR_EL1.ISS[5:0], the fault status of an abort.
    pub(crate) fn status(&self) -> u64 {
        self.esr & 0x3f
    }

    /// An instruction that does not exist here, by either class KVM and hardware use for it. SVE and SME
    /// that a hypervisor hides but the processor has are disabled by CPACR_EL1 first, with classes of
    /// their own that no hypervisor sees.
    pub(crate) fn is_undef(&self) -> bool {
        matches!(
            self.class(),
            class::UNKNOWN | class::SYSREG | class::SVE | class::SME
        )
    }

    /// A synchronous external abort of a load or store.
    pub(crate) fn is_external_data_abort(&self) -> bool {
        self.class() == class::DATA_ABORT && self.status() == STATUS_EXTERNAL
    }

    /// A synchronous external abort, be it of the access or of its table walk.
    pub(crate) fn is_external(&self) -> bool {
        matches!(self.class(), class::DATA_ABORT | class::FETCH_ABORT)
            && (self.status() == STATUS_EXTERNAL || STATUS_EXTERNAL_WALK.contains(&self.status()))
    }
}

/// Per CPU: bit 0 of `expecting` while exceptions are announced, and the last one's record.
struct Record {
    expecting: AtomicU32,
    count: AtomicU32,
    esr: AtomicU64,
    far: AtomicU64,
}

static RECORDS: [Record; MAX_CPUS] = [const {
    Record {
        expecting: AtomicU32::new(0),
        count: AtomicU32::new(0),
        esr: AtomicU64::new(0),
        far: AtomicU64::new(0),
    }
}; MAX_CPUS];

/// Stack of each CPU; `asm/entry.s` knows the size.
const STACK_BYTES: usize = 1 << 15;

#[repr(C, align(4096))]
struct Stacks(UnsafeCell<[[u8; STACK_BYTES]; MAX_CPUS]>);
// SAFETY: each CPU touches its own stack only.
unsafe impl Sync for Stacks {}
#[unsafe(no_mangle)]
static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK_BYTES]; MAX_CPUS]));

/// Runs `action`, in which synchronous exceptions of this CPU are recorded and skipped: the next
/// instruction follows, or the caller (x30) where the fetch itself failed. The last one, if any.
pub(crate) fn catching<R>(action: impl FnOnce() -> R) -> Option<Taken> {
    let record = &RECORDS[cpu::index()];
    record.count.store(0, Ordering::SeqCst);
    record.expecting.store(1, Ordering::SeqCst);
    cpu::barrier();
    let _ = action();
    cpu::barrier();
    record.expecting.store(0, Ordering::SeqCst);
    let count = record.count.load(Ordering::SeqCst);
    (count > 0).then(|| Taken {
        esr: record.esr.load(Ordering::SeqCst),
        far: record.far.load(Ordering::SeqCst),
        count,
    })
}

/// Called by the vectors. `kind`: 0 synchronous, 1 IRQ, 2 FIQ, 3 SError, 4 from another level.
#[unsafe(no_mangle)]
extern "C" fn exception_dispatch(kind: u64, frame: &mut Frame) {
    match kind {
        1 => gic::handle_interrupt(),
        0 => synchronous(frame),
        _ => unexpected(
            ["sync", "IRQ", "FIQ", "SError", "strange"][(kind as usize).min(4)],
            frame,
        ),
    }
}

fn synchronous(frame: &mut Frame) {
    let record = &RECORDS[cpu::index()];
    if record.expecting.load(Ordering::SeqCst) == 0 {
        return unexpected("exception", frame);
    }
    let esr = read_reg!("esr_el1");
    record.esr.store(esr, Ordering::SeqCst);
    record.far.store(read_reg!("far_el1"), Ordering::SeqCst);
    record.count.fetch_add(1, Ordering::SeqCst);
    let in_code = (frame.elr >> 30) == 1;
    match esr >> 26 & 0x3f {
        class::SVC => {}
        _ if !in_code => frame.elr = frame.x[30],
        _ => frame.elr += 4,
    }
}

fn unexpected(what: &str, frame: &mut Frame) {
    let (esr, far) = (read_reg!("esr_el1"), read_reg!("far_el1"));
    let index = cpu::index();
    println!(
        "guest: cpu {index}: unexpected {what} ESR={esr:#x} FAR={far:#x} ELR={:#x} x30={:#x}",
        frame.elr, frame.x[30]
    );
    match runner::escape_frame(index) {
        Some((pc, context)) => {
            RECORDS[index].expecting.store(0, Ordering::SeqCst);
            frame.elr = pc;
            frame.x[0] = context;
        }
        None => {
            crate::psci::cpu_off();
        }
    }
}
