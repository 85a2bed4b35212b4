//! The shell's view of [`Manager`].

use super::manager::{Manager, core_info};
use super::slot::{Look, Seen, Slot, Stage, counters};
use super::vcpu::Vcpu;
use crate::frames::FRAMES;
use crate::net::switch;
use crate::scan::{self, Scan};
use crate::shell::manage::{
    Before, CpuStat, DiskStat, Fault, Manage, ManageError, MemoryStat, SwitchStat, Usage, VmStat,
    VmState, VmSummary, VmUsage,
};
use crate::shell::parse::Typed;
use crate::virtio::bus::DeviceStat;
use crate::{cpu, hw, storage};
use abi::PAGE_SIZE;
use abi::hypercall::CoreInfo;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bundle::manifest::cpu_set_text;
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

    fn weight(&self) -> u32 {
        self.entry.as_ref().map_or(0, |entry| entry.manifest.weight)
    }

    fn affinity(&self) -> String {
        let set = self.entry.as_ref().map_or(None, |e| e.manifest.affinity);
        cpu_set_text(set)
    }

    /// What it has used since it was looked at last, if it runs.
    fn usage(&mut self) -> Option<VmUsage> {
        let Stage::Running(vm, _) = &self.stage else {
            return None;
        };
        let now = Seen {
            run_ticks: vm.vcpus.iter().map(Vcpu::run_ticks).sum(),
            wait_ticks: vm.vcpus.iter().map(Vcpu::wait_ticks).sum(),
            exits: vm.exits().iter().sum(),
        };
        let vcpus = vm.vcpus.len();
        let before = core::mem::replace(&mut self.seen, now);
        Some(VmUsage {
            name: self.name.clone(),
            vcpus,
            weight: self.weight(),
            run_ticks: now.run_ticks.saturating_sub(before.run_ticks),
            wait_ticks: now.wait_ticks.saturating_sub(before.wait_ticks),
            exits: now.exits.saturating_sub(before.exits),
        })
    }

    /// What its devices had counted when this was asked last, if it runs; they have counted `devices` now.
    fn look(&mut self, devices: &[DeviceStat]) -> Option<Before> {
        if !matches!(self.stage, Stage::Running(..)) {
            return None;
        }
        let at = hw::now();
        let devices = devices.to_vec();
        let before = core::mem::replace(&mut self.looked, Look { at, devices });
        Some(Before {
            ticks: at.saturating_sub(before.at),
            devices: before.devices,
        })
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

    fn stat(&mut self, name: &str) -> Result<VmStat, ManageError> {
        let slot = self.slot_mut(name)?;
        let counters = match &slot.stage {
            Stage::Running(vm, _) => counters(vm),
            _ => slot.last.clone(),
        };
        Ok(VmStat {
            summary: slot.summary(),
            starts: slot.starts,
            weight: slot.weight(),
            affinity: slot.affinity(),
            run_ticks: counters.run_ticks,
            wait_ticks: counters.wait_ticks,
            exits: counters.exits,
            core: counters.core,
            before: slot.look(&counters.devices),
            devices: counters.devices,
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

    fn set_weight(&mut self, name: &str, weight: u32) -> Result<(), ManageError> {
        let slot = self.slot_mut(name)?;
        match &mut slot.entry {
            Ok(entry) => entry.manifest.weight = weight,
            Err(_) => return slot.refuse(),
        }
        if let Stage::Running(vm, _) = &slot.stage {
            vm.weight.store(weight, Ordering::Relaxed);
        }
        Ok(())
    }

    fn usage(&mut self) -> Usage {
        let now = hw::now();
        let before = core::mem::replace(&mut self.looked_at, now);
        Usage {
            ticks: now.saturating_sub(before),
            vms: self.slots.iter_mut().filter_map(Slot::usage).collect(),
        }
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

    fn disks(&self) -> Vec<DiskStat> {
        storage::disks().iter().map(|d| disk(d)).collect()
    }

    fn check_disk(&self, name: &str) -> Result<(), ManageError> {
        if storage::check::start(find_disk(name)?) {
            Ok(())
        } else {
            Err(ManageError::Other("no memory to read into".to_string()))
        }
    }

    fn switches(&self) -> Vec<SwitchStat> {
        let stat = |switch: &alloc::sync::Arc<switch::Switch>| SwitchStat {
            name: switch.name().to_string(),
            ports: switch.stat(),
        };
        switch::all().iter().map(stat).collect()
    }

    fn fail_disk(&self, name: &str, count: u32) -> Result<(), ManageError> {
        find_disk(name)?.fail(count);
        Ok(())
    }

    fn probe(&self, pa: u64) -> Result<u64, Fault> {
        hw::probe(pa).map_err(|fault| Fault {
            esr: fault.esr,
            far: fault.far,
        })
    }

    fn scan(&self, complement: u64) -> Result<Scan, ManageError> {
        scan::run(complement).ok_or_else(|| {
            let why = "not allowed: the machine was started without 'debug' (cloister run --debug)";
            ManageError::Other(why.to_string())
        })
    }

    fn shutdown(&mut self) {
        self.begin_shutdown();
    }
}

fn find_disk(name: &str) -> Result<&'static Arc<storage::MachineDisk>, ManageError> {
    storage::machine::find(name)
        .map_err(|why| ManageError::Other(alloc::format!("{}: {why}", Typed(name))))
}

fn disk(disk: &storage::MachineDisk) -> DiskStat {
    let geometry = disk.geometry();
    let counters = &disk.counters;
    let (under_way, waiting) = disk.in_flight();
    let partitions = disk.partitions().unwrap_or_default().iter();
    DiskStat {
        name: disk.name().to_string(),
        bytes: geometry.sectors.saturating_mul(storage::SECTOR),
        read_only: geometry.read_only,
        dead: disk.is_dead(),
        requests: counters.requests.load(Ordering::Relaxed),
        errors: counters.errors.load(Ordering::Relaxed),
        in_flight: under_way + waiting,
        read: counters.read.load(Ordering::Relaxed),
        written: counters.written.load(Ordering::Relaxed),
        partitions: partitions
            .map(|p| {
                let bytes = p.blocks.saturating_mul(geometry.block_size.into());
                (p.label.clone(), bytes)
            })
            .collect(),
    }
}
