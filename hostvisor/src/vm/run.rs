//! Running a vCPU: fill list registers, VCPU_RUN, serve the exit, again; until it blocks, has to give way
//! or is switched off.
//!
//! The way from an MMIO exit back into the guest takes one lock (the device's), and none of the vGIC's unless
//! list registers or timer lines changed, or somebody kicked.

use super::grace::{Grace, Way};
use super::{Alarm, End, Local, Vcpu, VcpuRef, Vm};
use crate::cpu::{self, Cpu, SCHEDULER, count};
use crate::sched::Arrival;
use crate::vgic::{KickMask, Vgic};
use crate::{gic, hw, interrupts, service};
use abi::run::{self as page, ExitReason};
use abi::{Error, HostCall};
use alloc::format;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use spin::MutexGuard;

/// ICH_HCR_EL2.UIE.
const UNDERFLOW: u64 = 1 << 1;

/// List registers of this machine.
static LIST_REGISTERS: AtomicUsize = AtomicUsize::new(4);
/// Somebody has run a vCPU.
static FIRST_RUN: AtomicBool = AtomicBool::new(false);

/// Tells how many list registers the machine has.
pub fn set_list_registers(number: usize) {
    LIST_REGISTERS.store(number.clamp(1, page::MAX_LIST_REGISTERS), Ordering::Relaxed);
}

/// Why the vCPU leaves the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leave {
    Block,
    /// For whoever is next.
    GiveWay,
    /// It waits for another vCPU, which may wait for this CPU.
    Yield,
    Off,
}

/// What to do after an exit was served.
pub(super) enum Next {
    /// Enter the guest again.
    Again,
    Leave(Leave),
}

/// Runs a Runnable vCPU that was taken out of a queue, and puts it where it belongs afterwards.
pub fn run(me: usize, task: VcpuRef) {
    let this = cpu::get(me);
    let Some(vcpu) = task.vm.vcpus.get(task.index) else {
        return;
    };
    vcpu.state.begin(me);
    vcpu.stop_waiting(hw::now());
    this.start_slice(slice(me));
    let leave = loop {
        let leave = {
            let start = hw::now();
            vcpu.on_since.store(start, Ordering::Relaxed);
            this.guest_since.store(start, Ordering::Relaxed);
            let mut local = vcpu.local.lock();
            let mut on = Running {
                me,
                this,
                task: &task,
                vm: &task.vm,
                vcpu,
                local: &mut local,
                refresh: true,
                grace: Grace::new(hw::frequency()),
                by_interrupt: false,
                owing: 0,
            };
            on.come();
            let leave = on.enter_until_leave();
            on.go(leave);
            // While nobody else can have it.
            let now = hw::now();
            let spent = now.wrapping_sub(start);
            count(&vcpu.run_ticks, spent);
            count(&this.guest_ticks, spent);
            vcpu.on_since.store(0, Ordering::Relaxed);
            this.guest_since.store(0, Ordering::Relaxed);
            let vtime = match leave {
                Leave::Block | Leave::Off => SCHEDULER.charge(me, now),
                Leave::GiveWay | Leave::Yield => SCHEDULER.retire(me, now),
            };
            vcpu.vtime.store(vtime, Ordering::Relaxed);
            leave
        };
        // The lock is free before anybody else can take the vCPU.
        match leave {
            Leave::Block if !vcpu.state.try_block(me) => {}
            _ => break leave,
        }
    };
    match leave {
        // Somebody else may have it by now.
        Leave::Block => {}
        Leave::GiveWay => {
            vcpu.state.give_way(me);
            cpu::enqueue(task, me, Arrival::Displaced);
        }
        Leave::Yield => {
            vcpu.state.give_way(me);
            cpu::enqueue(task, me, Arrival::Yielded);
        }
        Leave::Off => {
            vcpu.state.power_off(me);
            if task.vm.active.fetch_sub(1, Ordering::SeqCst) == 1 {
                service::ask();
            }
        }
    }
}

/// How long a vCPU may run: 1 ms while CPU 0 has management to do besides.
pub(super) fn slice(me: usize) -> Option<u64> {
    if me == 0 && service::is_busy() {
        Some(hw::frequency() / 1000)
    } else {
        SCHEDULER.slice(me, hw::now())
    }
}

/// A vCPU on a CPU.
pub(super) struct Running<'a> {
    pub(super) me: usize,
    pub(super) this: &'static Cpu,
    pub(super) task: &'a VcpuRef,
    pub(super) vm: &'a Arc<Vm>,
    pub(super) vcpu: &'a Vcpu,
    pub(super) local: &'a mut Local,
    /// List registers may not be what the vGIC wants.
    pub(super) refresh: bool,
    grace: Grace,
    /// An interrupt, and nothing that the guest did, ended its last run.
    pub(super) by_interrupt: bool,
    /// Bit n: the device in virtio slot n has left an interrupt.
    pub(super) owing: u32,
}

impl<'a> Running<'a> {
    /// On the CPU: its timers are watched by the hardware, or armed here.
    fn come(&mut self) {
        if self.local.timer_on.take() == Some(self.me) {
            self.this.disarm(self.task.key());
        }
        self.arm_physical_timer();
    }

    /// The guest's physical timer is not in hardware while it runs: a soft timer is.
    pub(super) fn arm_physical_timer(&mut self) {
        let deadline = self.local.page.read(page::PTIMER_DEADLINE);
        if deadline != u64::MAX && deadline > hw::now() {
            self.arm(deadline);
        }
    }

    pub(super) fn arm(&mut self, deadline: u64) {
        self.local.timer_on = Some(self.me);
        let key = self.task.key();
        self.this.arm(key, deadline, Alarm::Vcpu(self.task.clone()));
    }

    /// Off the CPU: nothing of it stays in list registers or FP registers.
    fn go(&mut self, leave: Leave) {
        if leave == Leave::Off && self.local.timer_on.take() == Some(self.me) {
            self.this.disarm(self.task.key());
        }
        self.settle_devices();
        if self.local.filled != 0 {
            let kicks = self.settle().1;
            self.vm.kick_all(kicks.without(self.task.index));
        }
        if self.local.page.read(page::STATE_FLAGS) & page::STATE_FP_LIVE != 0 {
            // Any other error would come again, and be reported, at the next VCPU_RUN.
            let args = [self.vm.handle, self.task.index as u64, 0, 0];
            while let Err(Error::Busy) = hw::hypercall(HostCall::VcpuPut, args) {
                hw::relax();
            }
        }
    }

    fn enter_until_leave(&mut self) -> Leave {
        let args = [self.vm.handle, self.task.index as u64, 0, 0];
        loop {
            // In this order: who sets `stopping` kicks afterwards.
            self.refresh |= self.vcpu.state.take_kick();
            if self.vm.is_stopping() {
                return Leave::Off;
            }
            if self.me == 0 && service::is_asked() {
                return Leave::GiveWay;
            }
            // Kicked when that changes.
            if let Some(slot) = self.local.draining {
                if !self.vm.virtio.is_idle(slot) {
                    return Leave::Block;
                }
                self.local.draining = None;
            }
            if self.refresh {
                self.fill();
            }
            // Behind everything that may kick others.
            let yields = match SCHEDULER.pressure(self.me) {
                (false, _) => {
                    self.grace.reset();
                    0
                }
                // Yielding matters only while somebody else could use the CPU.
                (true, false) => {
                    self.grace.reset();
                    self.share();
                    page::ENTRY_TRAP_WFE
                }
                (true, true) => {
                    match self.grace.way(hw::now(), self.by_interrupt) {
                        Way::Now => return Leave::GiveWay,
                        Way::After(ticks) => self.this.start_slice(Some(ticks)),
                        Way::Soon => {}
                    }
                    page::ENTRY_TRAP_WFE
                }
            };
            self.by_interrupt = false;
            let reply = core::mem::take(&mut self.local.reply);
            self.local.page.write(page::ENTRY_FLAGS, reply | yields);
            let answer = match hw::hypercall(HostCall::VcpuRun, args) {
                Ok(answer) => answer,
                // Another CPU is for a moment at work on this vCPU's slot.
                Err(Error::Busy) => {
                    self.local.reply = reply;
                    interrupts::poll(self.me);
                    continue;
                }
                // Another vCPU has ended the VM; the CPU that runs it is about to say how.
                Err(Error::BadState) => return Leave::Off,
                Err(error) => {
                    let what = format!(
                        "vCPU {}: the core refused to run it: {error:?}",
                        self.task.index
                    );
                    self.vm.stop(Some(End::Failed(what)));
                    return Leave::Off;
                }
            };
            if !FIRST_RUN.load(Ordering::Relaxed) {
                FIRST_RUN.store(true, Ordering::Relaxed);
                service::ask();
            }
            let [reason, a, b, c] = answer.values;
            if let Some(counter) = self.vcpu.exits.get(reason as usize) {
                count(counter, 1);
            }
            self.look();
            match self.serve(ExitReason::decode(reason), [a, b, c]) {
                Next::Again => {}
                Next::Leave(leave) => return leave,
            }
        }
    }

    /// Sees whether the guest changed anything in list registers or timer lines.
    #[inline]
    fn look(&mut self) {
        let local = &mut *self.local;
        for (n, word) in local.lists.iter_mut().take(local.filled).enumerate() {
            let now = local.page.read(page::LIST_REGISTERS + n);
            if now != *word {
                *word = now;
                self.refresh = true;
                if now & page::LR_HW != 0 && now & (page::LR_PENDING | page::LR_ACTIVE) == 0 {
                    gic::vtimer_was_deactivated(self.me);
                }
            }
        }
        if local.page.read(page::TIMER_LINES) != local.lines {
            self.refresh = true;
        }
    }

    /// Devices go on that have left an interrupt.
    #[inline]
    pub(super) fn settle_devices(&mut self) {
        if self.owing != 0 {
            resume_devices(self.vm, self.this, core::mem::take(&mut self.owing));
        }
    }

    /// The timers' lines as they are now: a deadline may have passed since the last exit.
    fn lines_now(&self) -> u64 {
        let page = &self.local.page;
        let mut lines = page.read(page::TIMER_LINES);
        let (virt, phys) = (
            page.read(page::VTIMER_DEADLINE),
            page.read(page::PTIMER_DEADLINE),
        );
        // Zero before the first run.
        if virt.min(phys) != u64::MAX && virt.max(phys) != 0 {
            let now = hw::now();
            lines |= if virt <= now { page::TIMER_VIRTUAL } else { 0 };
            lines |= if phys <= now { page::TIMER_PHYSICAL } else { 0 };
        }
        lines
    }

    /// Tells the vGIC what the guest made of its list registers, and the timers' levels. Answers the vGIC,
    /// locked still, and whom to kick once it is not.
    pub(super) fn settle(&mut self) -> (MutexGuard<'a, Vgic>, KickMask) {
        let lines = self.lines_now();
        let index = self.task.index;
        let local = &mut *self.local;
        let vm: &'a Vm = self.vm;
        let mut vgic = vm.vgic.lock();
        let mut kicks = KickMask::NONE;
        if local.filled != 0 {
            kicks |= vgic.drain(index, local.lists.get(..local.filled).unwrap_or(&[]));
            local.filled = 0;
        }
        let changed = lines ^ local.lines;
        if changed & page::TIMER_VIRTUAL != 0 {
            kicks |= vgic.set_level(index, gic::vtimer(), lines & page::TIMER_VIRTUAL != 0);
        }
        if changed & page::TIMER_PHYSICAL != 0 {
            kicks |= vgic.set_level(index, self.vm.ptimer, lines & page::TIMER_PHYSICAL != 0);
        }
        local.lines = lines;
        (vgic, kicks)
    }

    /// Makes the list registers what the vGIC wants.
    fn fill(&mut self) {
        let index = self.task.index;
        let available = LIST_REGISTERS.load(Ordering::Relaxed);
        let (mut vgic, kicks) = self.settle();
        let local = &mut *self.local;
        let lists = local.lists.get_mut(..available).unwrap_or(&mut []);
        let fill = vgic.fill(index, lists);
        let active = vgic.vtimer_needs_active(index);
        drop(vgic);
        for (n, &word) in lists.iter().take(fill.count).enumerate() {
            local.page.write(page::LIST_REGISTERS + n, word);
        }
        local.page.write(page::LR_COUNT, fill.count as u64);
        let hcr = if fill.underflow { UNDERFLOW } else { 0 };
        if hcr != local.hcr {
            local.hcr = hcr;
            local.page.write(page::ICH_HCR, hcr);
        }
        local.filled = fill.count;
        self.refresh = false;
        gic::set_vtimer_active(self.me, active);
        // What is new for this vCPU itself is in its list registers by now.
        self.vm.kick_all(kicks.without(index));
    }

    /// Works on the vGIC, whose state is brought up to date first; kicks whom that concerns.
    pub(super) fn with_vgic(&mut self, work: impl FnOnce(&mut Vgic, usize) -> KickMask) {
        let index = self.task.index;
        let mut kicks = KickMask::NONE;
        if self.refresh {
            let (mut vgic, more) = self.settle();
            kicks |= work(&mut vgic, index) | more;
        } else {
            kicks |= work(&mut self.vm.vgic.lock(), index);
        }
        self.kick(kicks);
    }

    /// Kicks others; a kick for this vCPU itself is a refresh.
    #[inline]
    pub(super) fn kick(&mut self, kicks: KickMask) {
        self.refresh |= kicks.contains(self.task.index);
        let others = kicks.without(self.task.index);
        if !others.is_empty() {
            self.vm.kick_all(others);
        }
    }

    /// Somebody waits for this CPU, whoever brought them here: the slice starts, if none runs.
    fn share(&self) {
        if !self.this.has_slice() {
            self.this.start_slice(slice(self.me));
        }
    }
}

/// The devices in the slots whose bits are set go on. Not inline, and not a method: most exits find nothing owed.
#[cold]
#[inline(never)]
fn resume_devices(vm: &Arc<Vm>, this: &Cpu, owing: u32) {
    for slot in (0..u32::BITS).filter(|slot| owing >> slot & 1 != 0) {
        if vm.virtio.resume(slot) {
            vm.resume_later(this, slot);
        }
    }
}
