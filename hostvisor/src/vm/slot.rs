//! One VM of the bundle: where it is in its life, and how it goes from one run to the next.

use super::build::{Build, Holdings, describe};
use super::teardown::Teardown;
use super::{End, Vm};
use crate::log::VERDICT;
use crate::virtio::bus::DeviceStat;
use crate::{console, hw};
use abi::HostCall;
use abi::hypercall::VcpuStat;
use abi::run::ExitReason;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bundle::{OnReboot, VmEntry, VmError};

/// Where a VM is.
pub(super) enum Stage {
    Stopped,
    Building(Box<Build>),
    /// Its vCPUs run, or (once it is stopping) are on their way off.
    Running(Arc<Vm>, Holdings),
    TearingDown(Box<Teardown>),
}

/// Counters of a run.
#[derive(Clone, Default)]
pub(super) struct Counters {
    pub(super) exits: [u64; ExitReason::COUNT],
    pub(super) core: [u64; VcpuStat::COUNT],
    pub(super) run_ticks: Vec<u64>,
    pub(super) wait_ticks: Vec<u64>,
    pub(super) devices: Vec<DeviceStat>,
}

/// What a VM's run had used of the machine when `vm top` looked last.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) run_ticks: u64,
    pub(super) wait_ticks: u64,
    pub(super) exits: u64,
}

/// What the devices of a VM's run had counted when `vm stat` looked last.
#[derive(Default)]
pub(super) struct Look {
    pub(super) at: u64,
    pub(super) devices: Vec<DeviceStat>,
}

/// A VM of the bundle.
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) entry: Result<VmEntry<'static>, String>,
    pub(super) stage: Stage,
    /// To be started once it is stopped.
    pub(super) wanted: bool,
    pub(super) starts: u64,
    pub(super) started_at: u64,
    pub(super) last: Counters,
    pub(super) seen: Seen,
    pub(super) looked: Look,
    /// The operator wants it to stay stopped: a reset by the guest does not start it again.
    pub(super) held: bool,
    /// How the last run ended, in words.
    pub(super) end: Option<String>,
    /// The log does not say yet how it ended: its memory is still being taken back.
    untold: bool,
    /// What went wrong, if anything did: the verdict's reason.
    pub(super) failure: Option<String>,
}

impl Slot {
    pub(super) fn new(index: usize, entry: Result<VmEntry<'static>, VmError>) -> Self {
        let (name, failure) = match &entry {
            Ok(entry) => (entry.manifest.name.clone(), None),
            Err(error) => {
                log::error!("{error}");
                (
                    error
                        .name
                        .clone()
                        .unwrap_or_else(|| format!("vm{index:02}")),
                    Some(error.to_string()),
                )
            }
        };
        Self {
            name,
            wanted: entry.as_ref().is_ok_and(|entry| entry.manifest.autostart),
            entry: entry.map_err(|error| error.to_string()),
            stage: Stage::Stopped,
            starts: 0,
            started_at: 0,
            last: Counters::default(),
            seen: Seen::default(),
            looked: Look::default(),
            held: false,
            end: None,
            untold: false,
            failure,
        }
    }

    pub(super) fn fail(&mut self, why: String) {
        log::error!("vm {}: {why}", self.name);
        self.end = Some(why.clone());
        self.failure = Some(why);
    }

    pub(super) fn started(&mut self, index: usize, vm: Arc<Vm>, holdings: Holdings) {
        self.starts += 1;
        self.started_at = hw::now();
        // What is shown as a difference counts from the start.
        self.seen = Seen::default();
        self.looked = Look {
            at: self.started_at,
            devices: Vec::new(),
        };
        self.end = None;
        if let Ok(VmEntry { manifest, .. }) = &self.entry {
            log::info!(
                "vm {}: started, {} vCPUs, {} MB, {}",
                self.name,
                manifest.vcpus,
                manifest.memory >> 20,
                if manifest.protected {
                    "protected"
                } else {
                    "open"
                }
            );
        }
        console::vm_started(index);
        vm.power_on(0);
        self.stage = Stage::Running(vm, holdings);
    }

    /// The run is over: decides whether there is another one.
    pub(super) fn ended(&mut self, vm: &Arc<Vm>) {
        self.last = counters(vm);
        let end = vm.end();
        let restarts = self
            .entry
            .as_ref()
            .is_ok_and(|e| e.manifest.on_reboot == OnReboot::Restart);
        let mut text = describe(end);
        if matches!(end, Some(End::Reset)) {
            if self.held {
                text = describe(None);
            } else if restarts {
                self.wanted = true;
            } else {
                text = "stopped: rebooted".to_string();
            }
        }
        if let Some(End::Failed(why)) = end {
            self.failure = Some(why.clone());
        }
        self.end = Some(text);
        self.untold = true;
    }

    /// All it held is given back: tells how it ended.
    pub(super) fn gone(&mut self, index: usize) {
        if core::mem::take(&mut self.untold)
            && let Some(text) = &self.end
        {
            log::info!(target: VERDICT, "vm {}: {text}", self.name);
        }
        if !self.wanted {
            console::vm_ended(index);
        }
    }

    /// Sees to it that a VM in any stage ends up stopped, and stays so.
    pub(super) fn stop(&mut self) {
        let on_its_way_up = self.wanted || matches!(self.stage, Stage::Building(_));
        self.wanted = false;
        self.held = true;
        self.stage = match core::mem::replace(&mut self.stage, Stage::Stopped) {
            Stage::Building(build) => Stage::TearingDown(Box::new(Teardown::new(build.holdings))),
            Stage::Running(vm, holdings) => {
                vm.stop(None);
                Stage::Running(vm, holdings)
            }
            other => other,
        };
        if !on_its_way_up {
            return;
        }
        self.end = Some(describe(None));
        match self.stage {
            // It was to start next.
            Stage::Stopped => log::info!(target: VERDICT, "vm {}: {}", self.name, describe(None)),
            Stage::Running(..) => {}
            _ => self.untold = true,
        }
    }
}

/// Counters of a VM's run so far.
pub(super) fn counters(vm: &Vm) -> Counters {
    let mut counters = Counters {
        exits: vm.exits(),
        devices: vm.virtio.stat(),
        ..Counters::default()
    };
    for (index, vcpu) in vm.vcpus.iter().enumerate() {
        counters.run_ticks.push(vcpu.run_ticks());
        counters.wait_ticks.push(vcpu.wait_ticks());
        for (n, total) in counters.core.iter_mut().enumerate() {
            let args = [vm.handle, index as u64, n as u64, 0];
            *total += hw::hypercall(HostCall::VcpuStat, args).map_or(0, |a| a.values[0]);
        }
    }
    counters
}
