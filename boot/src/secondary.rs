//! Bringing up the other CPUs: PSCI starts them in a stub with the MMU off, which takes over the
//! boot CPU's translation regime and its own guarded stack.

use crate::{handover, image, panic};
use arch::el2::{cache, mmu::Regime, psci, redist};
use boot::info::{BootInfo, Gic};
use boot::layout::STACKS;
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;

/// Words of a CPU's boot block: TTBR0, TCR, MAIR, SCTLR, stack top, CPU index.
const BLOCK_WORDS: usize = 8;

/// What the stub reads with caches off; a cache line or more each.
#[repr(C, align(64))]
struct Block([AtomicU64; BLOCK_WORDS]);

static BLOCKS: [Block; STACKS] =
    [const { Block([const { AtomicU64::new(0) }; BLOCK_WORDS]) }; STACKS];

static REGIME: Once<Regime> = Once::new();
static INFO: Once<BootInfo> = Once::new();

global_asm!(
    r#"
    .section .text.secondary, "ax"
    .global secondary_entry
    // x0 = physical address of the CPU's block. EL2, MMU off.
secondary_entry:
    msr     daifset, #0xf
    msr     spsel, #1
    mov     x19, x0
    bl      el2_known_state
    ldp     x0, x1, [x19, #0]
    ldp     x2, x3, [x19, #16]
    ldp     x4, x5, [x19, #32]
    msr     ttbr0_el2, x0
    msr     tcr_el2, x1
    msr     mair_el2, x2
    dsb     sy
    isb
    tlbi    alle2
    dsb     sy
    isb
    msr     sctlr_el2, x3
    isb
    mov     sp, x4
    msr     tpidr_el2, x5
    mov     x0, x5
    mov     x29, xzr
    mov     x30, xzr
    b       {main}
"#,
    main = sym secondary_main,
);

unsafe extern "C" {
    fn secondary_entry();
}

/// Facts every CPU needs when it comes up. Called once, by the boot CPU, with caches on.
pub(crate) fn prepare(regime: Regime, info: &BootInfo) -> &'static BootInfo {
    REGIME.call_once(|| regime);
    INFO.call_once(|| *info)
}

/// Starts the CPU `mpidr` (affinity fields) as CPU `index` of the core. It arrives in
/// [`handover::secondary`].
///
/// # Errors
/// The PSCI error code: the firmware's, or INVALID_PARAMETERS for an index without a stack, of the
/// boot CPU, or before [`prepare`].
pub(crate) fn start_cpu(mpidr: u64, index: usize) -> Result<(), i64> {
    let invalid = abi::psci::INVALID_PARAMETERS;
    let block = BLOCKS.get(index).filter(|_| index != 0).ok_or(invalid)?;
    let regime = REGIME.get().ok_or(invalid)?;
    let stack_top = image::stack(index).end;
    let words = [
        regime.ttbr0,
        regime.tcr,
        regime.mair,
        regime.sctlr,
        stack_top,
        index as u64,
    ];
    for (slot, word) in block.0.iter().zip(words) {
        slot.store(word, Ordering::Relaxed);
    }
    cache::clean((&raw const *block) as u64, size_of::<Block>() as u64);
    let entry = secondary_entry as *const () as u64;
    // SAFETY: the stub is made for the state PSCI leaves a CPU in; the block and the stack are
    // static, and this CPU's alone while it is off (the firmware refuses CPU_ON while it is on).
    unsafe { psci::cpu_on(mpidr, entry, (&raw const *block) as u64) }
}

extern "C" fn secondary_main(index: usize) -> ! {
    let Some(info) = INFO.get() else {
        panic::refuse(format_args!("CPU {index} came up before the boot CPU"))
    };
    wake_interrupts(info);
    handover::secondary(index, info)
}

/// Wakes this CPU's GICv3 redistributor.
pub(crate) fn wake_interrupts(info: &BootInfo) {
    let Gic::V3 { redistributors, .. } = &info.gic else {
        return;
    };
    // SAFETY: the tree says that these are redistributors; they are mapped as device memory.
    if let Err(error) = unsafe { redist::wake(redistributors, redist::mpidr()) } {
        panic::refuse(format_args!(
            "GIC redistributor of CPU {:#x}: {error:?}",
            redist::mpidr()
        ));
    }
}
