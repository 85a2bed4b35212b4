//! The machine as the corevisor sees it: memory, TLBs and firmware in one object.

use crate::secondary;
use abi::{Ipa, Pfn, psci as numbers};
use arch::el2::memory::{El2Memory, El2Tlb};
use arch::el2::psci;
use arch::hal::{Firmware, FrameWords, Memory, Stage2Regs, Tlb};
use boot::info::{BootInfo, CpuStart};

/// This machine.
pub(crate) struct Hardware {
    memory: El2Memory,
    tlb: El2Tlb,
    info: &'static BootInfo,
}

impl Hardware {
    pub(crate) fn new(memory: El2Memory, info: &'static BootInfo) -> Self {
        Self {
            memory,
            tlb: El2Tlb,
            info,
        }
    }

    /// True if this CPU's caches are maintained as the boot CPU's are.
    pub(crate) fn suits_this_cpu(&self) -> bool {
        self.memory.suits_this_cpu()
    }
}

impl Memory for Hardware {
    fn words(&self, frame: Pfn) -> &FrameWords {
        self.memory.words(frame)
    }

    fn clean(&self, frame: Pfn) {
        self.memory.clean(frame);
    }

    fn zero(&self, frame: Pfn) {
        self.memory.zero(frame);
    }

    fn forget_instructions(&self) {
        self.memory.forget_instructions();
    }
}

impl Tlb for Hardware {
    fn publish(&self) {
        self.tlb.publish();
    }

    fn invalidate_ipa(&self, regs: Stage2Regs, ipa: Ipa) {
        self.tlb.invalidate_ipa(regs, ipa);
    }

    fn invalidate_vmid(&self, regs: Stage2Regs) {
        self.tlb.invalidate_vmid(regs);
    }
}

impl Firmware for Hardware {
    fn psci(&self, function: u32) -> i64 {
        match function {
            // Elsewhere an SMC would be UNDEFINED, or nobody's.
            _ if self.info.cpu_start != CpuStart::PsciSmc => numbers::NOT_SUPPORTED,
            numbers::CPU_OFF => psci::cpu_off(),
            numbers::SYSTEM_OFF => psci::system_off(),
            numbers::SYSTEM_RESET => psci::system_reset(),
            _ => numbers::NOT_SUPPORTED,
        }
    }

    fn start_cpu(&self, index: usize) -> i64 {
        if self.info.cpu_start != CpuStart::PsciSmc {
            return numbers::NOT_SUPPORTED;
        }
        let started = self
            .info
            .cpus
            .get(index)
            .ok_or(numbers::INVALID_PARAMETERS)
            .and_then(|cpu| secondary::start_cpu(cpu.mpidr, index));
        started.err().unwrap_or(numbers::SUCCESS)
    }
}
