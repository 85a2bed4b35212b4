//! Management of all VMs: each goes through building, running and being taken apart, a step at a time.
//!
//! On CPU 0 only. What it decides is told by log lines; what a person asks comes through
//! [`Manage`](crate::shell::manage::Manage), which `management.rs` implements on it.

use super::build::{Build, Holdings, describe};
use super::teardown::Teardown;
use super::{End, Vm};
use crate::log::VERDICT;
use crate::machine::Options;
use crate::seed::Seeds;
use crate::{console, cpu, hw};
use abi::hypercall::{CoreInfo, VcpuStat};
use abi::run::ExitReason;
use abi::{HostCall, psci};
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
    /// The operator wants it to stay stopped: a reset by the guest does not start it again.
    pub(super) held: bool,
    /// How the last run ended, in words.
    pub(super) end: Option<String>,
    /// The log does not say yet how it ended: its memory is still being taken back.
    untold: bool,
    /// What went wrong, if anything did: the verdict's reason.
    failure: Option<String>,
}

/// All VMs.
pub struct Manager {
    pub(super) slots: Vec<Slot>,
    options: Options,
    /// VMs that have been started since boot, for `exit-when-idle`.
    any_wanted: bool,
    /// The machine is to be switched off when all VMs are stopped.
    pub(super) shutting_down: bool,
    instances: u64,
    seeds: Seeds,
    first_guest_told: bool,
    /// RAM figures for `mem`.
    pub(super) memory: super::management::Reserved,
}

impl Manager {
    /// Takes the bundle's VMs over; those that start by themselves are wanted from now on.
    #[must_use]
    pub fn new(
        entries: Vec<Result<VmEntry<'static>, VmError>>,
        options: Options,
        seeds: Seeds,
        memory: super::management::Reserved,
    ) -> Self {
        let mut slots: Vec<Slot> = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let mut slot = Slot::new(index, entry);
            // Only the first one of a name goes by it.
            if slots.iter().any(|other| other.name == slot.name) {
                slot.name = format!("vm{index:02}");
            }
            slots.push(slot);
        }
        let any_wanted = !slots.is_empty();
        Self {
            slots,
            options,
            any_wanted,
            shutting_down: false,
            instances: 0,
            seeds,
            first_guest_told: false,
            memory,
        }
    }

    /// Names of all VMs, in bundle order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.slots.iter().map(|slot| slot.name.clone()).collect()
    }

    /// True if some VM starts by itself.
    #[must_use]
    pub fn any_autostart(&self) -> bool {
        self.slots.iter().any(|slot| slot.wanted)
    }

    /// The running VM at place `index`.
    #[must_use]
    pub fn live(&self, index: usize) -> Option<Arc<Vm>> {
        match &self.slots.get(index)?.stage {
            Stage::Running(vm, _) => Some(vm.clone()),
            _ => None,
        }
    }

    /// Goes on with everything by one piece. True if there is more to do at once.
    pub fn step(&mut self) -> bool {
        self.tell_first_guest();
        let mut busy = false;
        // One VM is built at a time, in bundle order; several may be taken apart.
        let mut building = false;
        for index in 0..self.slots.len() {
            let may_build = !building;
            let Some(slot) = self.slots.get_mut(index) else {
                break;
            };
            building |= matches!(slot.stage, Stage::Building(_));
            if matches!(slot.stage, Stage::Stopped) && slot.wanted && may_build {
                self.begin(index);
                building = true;
                busy = true;
            } else {
                busy |= self.step_one(index, may_build);
            }
        }
        if !busy {
            console::settled();
            if self.all_stopped() {
                self.maybe_finish();
            }
        }
        busy
    }

    fn all_stopped(&self) -> bool {
        self.slots
            .iter()
            .all(|slot| matches!(slot.stage, Stage::Stopped) && !slot.wanted)
    }

    fn begin(&mut self, index: usize) {
        let seed = self.seeds.draw();
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        slot.wanted = false;
        slot.held = false;
        let entry = match &slot.entry {
            Ok(entry) => entry,
            Err(_) => return,
        };
        match Build::begin(entry, &seed) {
            Ok(build) => slot.stage = Stage::Building(Box::new(build)),
            Err(why) => slot.fail(why),
        }
    }

    fn step_one(&mut self, index: usize, may_build: bool) -> bool {
        let Some(slot) = self.slots.get_mut(index) else {
            return false;
        };
        match core::mem::replace(&mut slot.stage, Stage::Stopped) {
            Stage::Stopped => slot.wanted,
            Stage::Building(build) if !may_build => {
                slot.stage = Stage::Building(build);
                true
            }
            Stage::Building(mut build) => {
                self.instances += 1;
                match build.step().and_then(|whole| {
                    if whole {
                        build.finish(index, self.instances).map(Some)
                    } else {
                        Ok(None)
                    }
                }) {
                    Ok(None) => slot.stage = Stage::Building(build),
                    Ok(Some(vm)) => slot.started(index, vm, build.holdings),
                    Err(why) => {
                        slot.fail(why);
                        slot.stage = Stage::TearingDown(Box::new(Teardown::new(build.holdings)));
                    }
                }
                true
            }
            Stage::Running(vm, holdings) => {
                // In this order: a vCPU that ends the run, or sees that it is ended, says so before it is off.
                let quiet = vm.is_quiet();
                if quiet && vm.is_stopping() {
                    slot.ended(&vm);
                    cpu::CPUS.iter().for_each(|cpu| cpu.forget(vm.instance));
                    slot.stage = Stage::TearingDown(Box::new(Teardown::new(holdings)));
                } else {
                    if quiet {
                        // By CPU_OFF, one after the other: nobody is left who could power one on.
                        vm.stop(Some(End::Failed("all its vCPUs are off".to_string())));
                    }
                    slot.stage = Stage::Running(vm, holdings);
                }
                quiet
            }
            Stage::TearingDown(mut teardown) => match teardown.step() {
                Ok(true) => {
                    slot.gone(index);
                    true
                }
                Ok(false) => {
                    slot.stage = Stage::TearingDown(teardown);
                    true
                }
                Err(why) => {
                    slot.gone(index);
                    slot.fail(format!("its memory is lost: {why}"));
                    true
                }
            },
        }
    }

    fn tell_first_guest(&mut self) {
        if self.first_guest_told {
            return;
        }
        let first = core_info(CoreInfo::FirstGuestTicks);
        if first != 0 {
            self.first_guest_told = true;
            let milliseconds =
                first.saturating_sub(core_info(CoreInfo::BootTicks)) * 1000 / hw::frequency();
            log::info!(target: VERDICT, "first guest instruction after {milliseconds} ms");
        }
    }

    /// Stops all VMs, then the machine.
    pub(super) fn begin_shutdown(&mut self) {
        self.shutting_down = true;
        for slot in &mut self.slots {
            slot.stop();
        }
    }

    fn maybe_finish(&mut self) {
        if self.shutting_down {
            self.finish();
        } else if self.options.exit_when_idle && self.any_wanted {
            log::info!(target: VERDICT, "all VMs powered off");
            self.finish();
        }
    }

    /// The verdict, and the end of the machine.
    fn finish(&self) -> ! {
        let failed = self
            .slots
            .iter()
            .find_map(|slot| slot.failure.as_ref().map(|why| (&slot.name, why)));
        match failed {
            Some((name, why)) => log::info!(target: VERDICT, "shutdown: VM {name}: {why}"),
            None => {
                log::info!(target: VERDICT, "shutdown: {} VMs, all powered off cleanly", self.slots.len())
            }
        }
        console::flush();
        hw::smc(psci::SYSTEM_OFF, [0; 3]);
        hw::fatal(format_args!("PSCI SYSTEM_OFF came back"))
    }
}

impl Slot {
    fn new(index: usize, entry: Result<VmEntry<'static>, VmError>) -> Self {
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
            held: false,
            end: None,
            untold: false,
            failure,
        }
    }

    fn fail(&mut self, why: String) {
        log::error!("vm {}: {why}", self.name);
        self.end = Some(why.clone());
        self.failure = Some(why);
    }

    fn started(&mut self, index: usize, vm: Arc<Vm>, holdings: Holdings) {
        self.starts += 1;
        self.started_at = hw::now();
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
    fn ended(&mut self, vm: &Arc<Vm>) {
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
    fn gone(&mut self, index: usize) {
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

/// A fact about the core; 0 if it does not know.
#[must_use]
pub fn core_info(which: CoreInfo) -> u64 {
    hw::hypercall(HostCall::CoreInfo, [which as u64, 0, 0, 0]).map_or(0, |answer| answer.values[0])
}

/// Counters of a VM's run so far.
pub(super) fn counters(vm: &Vm) -> Counters {
    let mut counters = Counters {
        exits: vm.exits(),
        ..Counters::default()
    };
    for (index, vcpu) in vm.vcpus.iter().enumerate() {
        counters.run_ticks.push(vcpu.run_ticks());
        for (n, total) in counters.core.iter_mut().enumerate() {
            let args = [vm.handle, index as u64, n as u64, 0];
            *total += hw::hypercall(HostCall::VcpuStat, args).map_or(0, |a| a.values[0]);
        }
    }
    counters
}
