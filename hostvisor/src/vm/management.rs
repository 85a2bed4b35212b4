//! The shell's view of [`Manager`].

use super::manager::{Manager, core_info};
use super::slot::{Slot, Stage, counters};
use crate::frames::FRAMES;
use crate::shell::manage::{
    CpuStat, Fault, Manage, ManageError, MemoryStat, VmStat, VmState, VmSummary,
};
use crate::{cpu, hw};
use abi::PAGE_SIZE;
use abi::hypercall::CoreInfo;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// RAM that is not frame pool, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reserved {
    /// RAM in all.
    pub ram: u64,
    /// The corevisor's.
    pub core: u64,
}

impl Slot {
    fn state(&self) -> VmState {
        match &self.stage {
            Stage::Stopped if self.entry.is_err() => VmState::Broken,
            Stage::Stopped if self.wanted => VmState::Starting,
            Stage::Stopped => VmState::Stopped,
            Stage::Building(_) => VmState::Starting,
            Stage::Running(vm, _) if vm.is_stopping() => VmState::Stopping,
            Stage::Running(..) => VmState::Running,
            Stage::TearingDown(_) => VmState::Stopping,
        }
    }

    fn summary(&self) -> VmSummary {
        let manifest = self.entry.as_ref().ok().map(|entry| &entry.manifest);
        let state = self.state();
        VmSummary {
            name: self.name.clone(),
            state,
            vcpus: manifest.map_or(0, |m| m.vcpus),
            memory: manifest.map_or(0, |m| m.memory),
            protected: manifest.is_some_and(|m| m.protected),
            uptime_ticks: (state == VmState::Running)
                .then(|| hw::now().saturating_sub(self.started_at)),
        }
    }

    fn refuse<T>(&self) -> Result<T, ManageError> {
        Err(match &self.entry {
            Err(why) => ManageError::Other(why.clone()),
            Ok(_) => ManageError::BadState {
                name: self.name.clone(),
                state: self.state(),
            },
        })
    }
}

impl Manager {
    fn slot(&self, name: &str) -> Result<&Slot, ManageError> {
        self.slots
            .iter()
            .find(|s| s.name == name)
            .ok_or_else(|| ManageError::NoSuchVm(name.to_string()))
    }

    fn slot_mut(&mut self, name: &str) -> Result<&mut Slot, ManageError> {
        self.slots
            .iter_mut()
            .find(|s| s.name == name)
            .ok_or_else(|| ManageError::NoSuchVm(name.to_string()))
    }

    /// A VM to be started, unless none is any more.
    fn slot_to_start(&mut self, name: &str) -> Result<&mut Slot, ManageError> {
        if self.shutting_down {
            let why = "the machine is being switched off";
            return Err(ManageError::Other(why.to_string()));
        }
        self.slot_mut(name)
    }
}

/// Ticks since `start`; none if that is 0.
fn since(start: &AtomicU64) -> u64 {
    match start.load(Ordering::Relaxed) {
        0 => 0,
        since => hw::now().saturating_sub(since),
    }
}

impl Manage for Manager {
    fn frequency(&self) -> u64 {
        hw::frequency()
    }

    fn list(&self) -> Vec<VmSummary> {
        self.slots.iter().map(Slot::summary).collect()
    }

    fn stat(&self, name: &str) -> Result<VmStat, ManageError> {
        let slot = self.slot(name)?;
        let counters = match &slot.stage {
            Stage::Running(vm, _) => counters(vm),
            _ => slot.last.clone(),
        };
        Ok(VmStat {
            summary: slot.summary(),
            starts: slot.starts,
            run_ticks: counters.run_ticks,
            exits: counters.exits,
            core: counters.core,
            end: slot.end.clone(),
        })
    }

    fn start(&mut self, name: &str) -> Result<(), ManageError> {
        let slot = self.slot_to_start(name)?;
        match slot.state() {
            VmState::Stopped => slot.wanted = true,
            // It is on its way down: it comes up again behind that.
            VmState::Stopping if !slot.wanted => slot.wanted = true,
            _ => return slot.refuse(),
        }
        Ok(())
    }

    fn stop(&mut self, name: &str) -> Result<(), ManageError> {
        self.destroy(name)
    }

    fn restart(&mut self, name: &str) -> Result<(), ManageError> {
        let slot = self.slot_to_start(name)?;
        match slot.state() {
            VmState::Stopped => {}
            VmState::Running => slot.stop(),
            _ => return slot.refuse(),
        }
        // Behind the stop, which says otherwise.
        slot.wanted = true;
        Ok(())
    }

    fn destroy(&mut self, name: &str) -> Result<(), ManageError> {
        let slot = self.slot_mut(name)?;
        match slot.state() {
            VmState::Running | VmState::Starting => slot.stop(),
            // Unless it was told so before: it may be on its way to a restart.
            VmState::Stopping if slot.wanted || !slot.held => slot.stop(),
            _ => return slot.refuse(),
        }
        Ok(())
    }

    fn memory(&self) -> MemoryStat {
        let frames = FRAMES.lock();
        let (heap_used, heap_total) = hw::heap_stats();
        let pool = frames.total() * PAGE_SIZE;
        MemoryStat {
            ram: self.memory.ram,
            core: self.memory.core,
            host: self
                .memory
                .ram
                .saturating_sub(self.memory.core)
                .saturating_sub(pool),
            vms: (frames.total() - frames.free()) * PAGE_SIZE,
            free: frames.free() * PAGE_SIZE,
            free_frames: frames.free(),
            pool_frames: core_info(CoreInfo::PoolFree),
            heap_used,
            heap_total,
        }
    }

    fn cpus(&self) -> Vec<CpuStat> {
        let online = cpu::CPUS
            .iter()
            .enumerate()
            .filter(|(_, cpu)| cpu.online.load(Ordering::Relaxed));
        online
            .map(|(index, cpu)| CpuStat {
                index,
                mpidr: cpu.mpidr.load(Ordering::Relaxed),
                busy_ticks: cpu.guest_ticks.load(Ordering::Relaxed) + since(&cpu.guest_since),
                idle_ticks: cpu.idle_ticks.load(Ordering::Relaxed) + since(&cpu.asleep_since),
                queue: cpu::SCHEDULER.length(index),
            })
            .collect()
    }

    fn probe(&self, pa: u64) -> Result<u64, Fault> {
        hw::probe(pa).map_err(|fault| Fault {
            esr: fault.esr,
            far: fault.far,
        })
    }

    fn shutdown(&mut self) {
        self.begin_shutdown();
    }
}
