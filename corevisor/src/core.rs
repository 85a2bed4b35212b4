//! The core as one object: memory, VMs, vCPUs, CPUs, facts. Built once by the boot code, shared by all
//! CPUs.

use crate::config::Config;
use crate::fpu::Owner;
use crate::lock::{self, Lock};
use crate::ownership::Ownership;
use crate::pool::Platform;
use crate::vcpu_slot::VcpuSlot;
use crate::vm::{self, Vms};
use abi::MAX_CPUS;
use abi::psci;
use abi::run::MAX_LIST_REGISTERS;
use arch::context::{El1Regs, GpRegs};
use arch::hal::{Cpu, Firmware, WorldRegs};
use core::sync::atomic::{AtomicU64, Ordering};

/// Everything below the corevisor: memory, TLBs, firmware.
pub trait Machine: Platform + Firmware {}
impl<T: Platform + Firmware> Machine for T {}

/// The corevisor.
pub struct Core<P: Machine + 'static> {
    /// Who may reach which frame.
    pub memory: Ownership<'static, P>,
    /// VM slots.
    pub vms: &'static Vms,
    /// vCPU slots.
    pub vcpus: &'static [VcpuSlot],
    /// The machine's CPUs as the hostvisor has them.
    pub cpus: [HostCpu; MAX_CPUS],
    /// Facts.
    pub config: Config,
    /// CNTPCT at the first entry of any guest; 0 before.
    pub first_guest_ticks: AtomicU64,
}

impl<P: Machine> Core<P> {
    /// The core over the machine's memory and facts. CPU 0 is the one that boots.
    #[must_use]
    pub fn new(
        memory: Ownership<'static, P>,
        vms: &'static Vms,
        vcpus: &'static [VcpuSlot],
        config: Config,
    ) -> Self {
        let cpus = [const { HostCpu::new() }; MAX_CPUS];
        if let Some(boot) = cpus.first() {
            boot.power.store(ON, Ordering::Relaxed);
        }
        Self {
            memory,
            vms,
            vcpus,
            cpus,
            config,
            first_guest_ticks: AtomicU64::new(0),
        }
    }

    /// Notes the time of the first guest instruction.
    pub fn first_guest<C: Cpu>(&self, cpu: &C) {
        if self.first_guest_ticks.load(Ordering::Relaxed) == 0 {
            let _ = self.first_guest_ticks.compare_exchange(
                0,
                cpu.now(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }
}

/// What a CPU keeps while it runs the hostvisor and its guests. Lives on that CPU's stack.
#[derive(Debug)]
pub struct CpuState {
    /// CPU number.
    pub index: usize,
    /// The hostvisor's registers on this CPU.
    pub host: GpRegs,
    /// Its EL1 registers while a guest runs.
    pub host_el1: El1Regs,
    /// What EL2 loads to run it.
    pub host_world: WorldRegs,
    /// By VM slot: the vCPU whose translations and instructions this CPU may hold under the slot's VMID, as
    /// [`crate::vm::vcpu_id`] names it, or 0.
    pub last_vcpu: [u64; vm::SLOTS],
    /// Whose FP/SIMD state the registers hold.
    pub fp_owner: Option<Owner>,
    /// List registers of the processor that may be non-zero.
    pub lrs_loaded: usize,
    /// List registers on their way from a run page to the processor.
    pub lrs: [u64; MAX_LIST_REGISTERS],
}

const OFF: u64 = 0;
const CLAIMED: u64 = 1;
const ON: u64 = 2;

/// Power state of a physical CPU towards the hostvisor, and where it shall enter it.
#[derive(Debug)]
pub struct HostCpu {
    power: AtomicU64,
    entry: Lock<{ lock::LEAF }, HostEntry>,
}

/// Where a CPU enters the hostvisor.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostEntry {
    /// PC; an address under the hostvisor's stage 2 like any other.
    pub pc: u64,
    /// x0–x4.
    pub x: [u64; 5],
}

impl HostCpu {
    const fn new() -> Self {
        Self {
            power: AtomicU64::new(OFF),
            entry: Lock::new(HostEntry { pc: 0, x: [0; 5] }),
        }
    }

    /// Off → claimed, with its entry. Otherwise the PSCI code that says why not.
    pub fn claim(&self, entry: HostEntry) -> Result<(), i64> {
        match self
            .power
            .compare_exchange(OFF, CLAIMED, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => {
                *self.entry.lock() = entry;
                Ok(())
            }
            Err(ON) => Err(psci::ALREADY_ON),
            Err(_) => Err(psci::ON_PENDING),
        }
    }

    /// Claimed → on: the CPU has come up and takes its entry.
    pub fn arrive(&self) -> HostEntry {
        let entry = *self.entry.lock();
        self.power.store(ON, Ordering::Release);
        entry
    }

    /// The CPU is off, or could not be started.
    pub fn off(&self) {
        self.power.store(OFF, Ordering::Release);
    }

    /// The CPU goes on after all. Another that was asked to start it meanwhile was refused by the firmware.
    pub fn stay_on(&self) {
        self.power.store(ON, Ordering::Release);
    }

    /// AFFINITY_INFO's answer.
    pub fn affinity_info(&self) -> i64 {
        match self.power.load(Ordering::Acquire) {
            ON => psci::AFFINITY_ON,
            CLAIMED => psci::AFFINITY_ON_PENDING,
            _ => psci::AFFINITY_OFF,
        }
    }
}
