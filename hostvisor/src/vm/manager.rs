//! Management of all VMs: each goes through building, running and being taken apart, a step at a time.
//!
//! On CPU 0 only. What it decides is told by log lines; what a person asks comes through
//! [`Manage`](crate::shell::manage::Manage), which `management.rs` implements on it.

use super::build::Build;
use super::slot::{Slot, Stage};
use super::teardown::Teardown;
use super::{End, Vm};
use crate::log::VERDICT;
use crate::machine::Options;
use crate::seed::Seeds;
use crate::{console, cpu, hw};
use abi::hypercall::CoreInfo;
use abi::{HostCall, psci};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bundle::{VmEntry, VmError};

/// All VMs.
pub struct Manager {
    pub(super) slots: Vec<Slot>,
    options: Options,
    /// VMs that have been started since boot, for `exit-when-idle`.
    any_wanted: bool,
    /// The machine is to be switched off when all VMs are stopped.
    pub(super) shutting_down: bool,
    /// The VM that was taken apart by a piece last.
    dismantled: usize,
    instances: u64,
    seeds: Seeds,
    first_guest_told: bool,
    /// When `vm top` looked last.
    pub(super) looked_at: u64,
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
            dismantled: 0,
            instances: 0,
            seeds,
            first_guest_told: false,
            looked_at: hw::now(),
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

    /// Goes on by a piece of what is built, and one of what is taken apart: each may be 2 MiB to clear. True if there
    /// is more to do at once.
    pub fn step(&mut self) -> bool {
        self.tell_first_guest();
        let mut busy = false;
        // One VM is built at a time, in bundle order; those that are taken apart take turns.
        let mut building = false;
        self.dismantled = next_turn(self.dismantled, self.slots.len(), |index| {
            let slot = self.slots.get(index);
            slot.is_some_and(|slot| matches!(slot.stage, Stage::TearingDown(_)))
        });
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
                if quiet && vm.is_stopping() && !vm.let_go() {
                    // Devices of the machine are at work on its memory; the last one asks for another look.
                    slot.stage = Stage::Running(vm, holdings);
                    return false;
                }
                if quiet && vm.is_stopping() {
                    slot.ended(&vm);
                    cpu::CPUS.iter().for_each(|cpu| cpu.forget(vm.instance));
                    if vm.has_lost_memory() {
                        slot.gone(index);
                        slot.fail("its memory is lost: a disk may still write to it".to_string());
                        return true;
                    }
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
            Stage::TearingDown(teardown) if index != self.dismantled => {
                slot.stage = Stage::TearingDown(teardown);
                true
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

/// Whose turn of `count` it is after `last`'s, of those that `wants` it; `last` if nobody does.
fn next_turn(last: usize, count: usize, wants: impl Fn(usize) -> bool) -> usize {
    let mut others = (last + 1..count).chain(0..last);
    others.find(|&index| wants(index)).unwrap_or(last)
}

/// A fact about the core; 0 if it does not know.
#[must_use]
pub fn core_info(which: CoreInfo) -> u64 {
    hw::hypercall(HostCall::CoreInfo, [which as u64, 0, 0, 0]).map_or(0, |answer| answer.values[0])
}

#[cfg(test)]
mod tests {
    use super::next_turn;

    #[test]
    fn turns_go_round_those_that_want_one() {
        let wants = |index| [true, false, true, true].get(index) == Some(&true);
        let turns: Vec<usize> =
            core::iter::successors(Some(0), |&last| Some(next_turn(last, 4, wants)))
                .take(5)
                .collect();
        assert_eq!(turns, [0, 2, 3, 0, 2]);
        assert_eq!(next_turn(2, 4, |_| false), 2);
        assert_eq!(next_turn(1, 4, |index| index == 1), 1, "alone");
        assert_eq!(next_turn(3, 4, |index| index == 0), 0);
    }
}
