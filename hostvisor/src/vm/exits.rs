//! Serving exits: what each reason asks of the hostvisor.

use super::End;
use super::run::{Leave, Next, Running, slice};
use crate::cpu::SCHEDULER;
use crate::devices::{Line, Target, decode};
use crate::vgic::{KickMask, Vgic};
use crate::virtio::mmio::{Transport, Written};
use crate::{clock, console, gic, hw, interrupts, service};
use abi::run::{self as page, ExitReason};
use core::sync::atomic::Ordering;

/// The device at `ipa`, of which a GICv2 has no redistributors.
#[inline]
fn target(ipa: u64, size: u64) -> Option<Target> {
    decode(ipa, size).filter(|target| *target != Target::Gic || gic::model().is_at(ipa))
}

impl Running<'_> {
    /// Serves one exit.
    pub(super) fn serve(&mut self, reason: Option<ExitReason>, [a, b, c]: [u64; 3]) -> Next {
        // A driver that notifies goes on, and may have no use for the interrupts that were left. Other writes: below.
        if reason != Some(ExitReason::MmioWrite) {
            self.settle_devices();
        }
        match reason {
            Some(ExitReason::MmioWrite) => self.mmio_write(a, b, c),
            Some(ExitReason::MmioRead) => self.mmio_read(a, b),
            Some(ExitReason::Irq) => return self.interrupted(),
            Some(ExitReason::Wfi) => return self.wait(),
            Some(ExitReason::Sgi) => {
                self.with_vgic(|vgic, index| vgic.send_sgi(index, a, b != 0));
            }
            Some(ExitReason::Timer) => {
                self.refresh = true;
                if self.local.timer_on.take() == Some(self.me) {
                    self.this.disarm(self.task.key());
                }
                self.arm_physical_timer();
            }
            Some(ExitReason::Wfe) if SCHEDULER.waiting(self.me) => {
                return Next::Leave(Leave::Yield);
            }
            Some(ExitReason::Wfe) => {}
            Some(ExitReason::CpuOn) => {
                // The core has found the target off. Where that is not yet known here, the CPU it ran on is
                // just about to say so.
                while !self.vm.power_on(a as usize) && !self.vm.is_stopping() {
                    hw::relax();
                }
            }
            Some(ExitReason::CpuOff) => return Next::Leave(Leave::Off),
            Some(ExitReason::SystemOff) => {
                self.vm.stop(Some(End::PoweredOff));
                return Next::Leave(Leave::Off);
            }
            Some(ExitReason::SystemReset) => {
                self.vm.stop(Some(End::Reset));
                return Next::Leave(Leave::Off);
            }
            Some(ExitReason::SError) => {
                let what = "a physical SError arrived while it ran";
                self.vm.stop(Some(End::Failed(what.into())));
                return Next::Leave(Leave::Off);
            }
            Some(ExitReason::MemFault) => self.local.reply = page::ENTRY_ABORT,
            None => {
                self.vm.stop(Some(End::Failed(
                    "the core gave an unknown exit reason".into(),
                )));
                return Next::Leave(Leave::Off);
            }
        }
        Next::Again
    }

    /// A physical interrupt ended the run.
    fn interrupted(&mut self) -> Next {
        self.by_interrupt = true;
        interrupts::poll(self.me);
        // The virtual timer's own may have come before it was active, and has been ended: it would come again for ever.
        self.refresh |= self.local.lines & page::TIMER_VIRTUAL != 0;
        self.this.run_timers();
        if self.me == 0 && service::has_work() {
            return Next::Leave(Leave::GiveWay);
        }
        if self.this.slice_over.load(Ordering::Relaxed) {
            if !SCHEDULER.waiting(self.me) {
                // Who comes later has a slice begin.
                self.this.slice_over.store(false, Ordering::Relaxed);
            } else if !SCHEDULER.stays_first(self.me, hw::now()) {
                return Next::Leave(Leave::GiveWay);
            } else {
                // One of great weight has several slices in a row.
                self.this.start_slice(slice(self.me));
            }
        }
        Next::Again
    }

    /// The guest waits for an interrupt.
    fn wait(&mut self) -> Next {
        // What is kicked before this point is in the vGIC, and seen; after it, blocking fails.
        self.vcpu.state.take_kick();
        let index = self.task.index;
        let (vgic, kicks) = self.settle();
        let deliverable = vgic.deliverable(index);
        drop(vgic);
        self.refresh = true;
        self.kick(kicks);
        if deliverable {
            return Next::Again;
        }
        // A line that is high already is told to the vGIC and wakes nobody any more.
        let due = |line, word| {
            if self.local.lines & line == 0 {
                self.local.page.read(word)
            } else {
                u64::MAX
            }
        };
        let deadline = due(page::TIMER_VIRTUAL, page::VTIMER_DEADLINE)
            .min(due(page::TIMER_PHYSICAL, page::PTIMER_DEADLINE));
        if deadline != u64::MAX {
            self.arm(deadline);
        }
        Next::Leave(Leave::Block)
    }

    fn mmio_write(&mut self, ipa: u64, size: u64, value: u64) {
        let target = target(ipa, size);
        self.reply(target.is_some(), 0);
        match target {
            Some(Target::Gic) => {
                self.with_vgic(|vgic, index| vgic.write(index, ipa, size, value));
                // What this vCPU itself is to be given may have changed.
                self.refresh = true;
            }
            Some(Target::Virtio { slot, offset }) => {
                match self.vm.virtio.write(slot, offset, size, value) {
                    Written::Done => {}
                    Written::More => self.vm.resume_later(self.this, slot),
                    Written::Interrupt => {
                        self.owing |= 1 << slot;
                        self.this.look_soon();
                    }
                    Written::Draining => self.local.draining = Some(slot),
                }
                if Transport::notifies(offset) {
                    return;
                }
            }
            Some(target) => {
                let written = self
                    .vm
                    .devices
                    .lock()
                    .write(target, size, value, clock::seconds());
                if let Some(byte) = written.output {
                    console::guest_output(self.vm.id, &[byte]);
                }
                self.follow(written.line);
                if let Target::Rtc(_) = target {
                    self.vm.arm_rtc(self.this);
                }
            }
            None => {}
        }
        // Afterwards: what the driver acknowledged is not what it is told now.
        self.settle_devices();
    }

    fn mmio_read(&mut self, ipa: u64, size: u64) {
        match target(ipa, size) {
            Some(Target::Gic) => {
                let mut value = 0;
                // Its own list registers are read before.
                let state = Vgic::shows_state(ipa);
                self.refresh |= state;
                self.with_vgic(|vgic, index| {
                    value = vgic.read(index, ipa, size);
                    if state {
                        vgic.holders(index, ipa, size)
                    } else {
                        KickMask::NONE
                    }
                });
                self.reply(true, value);
            }
            Some(Target::Virtio { slot, offset }) => {
                let value = self.vm.virtio.read(slot, offset, size);
                self.reply(true, value);
            }
            Some(target) => {
                let (value, line) = self.vm.devices.lock().read(target, size, clock::seconds());
                self.reply(true, value);
                self.follow(line);
            }
            None => self.reply(false, 0),
        }
    }

    /// Answers the guest's access: a value, or an abort where nobody is.
    #[inline]
    fn reply(&mut self, someone: bool, value: u64) {
        self.local.page.write(page::MMIO_VALUE, value);
        self.local.reply = if someone {
            page::ENTRY_REPLY
        } else {
            page::ENTRY_ABORT
        };
    }

    /// Takes a device's line to the vGIC.
    #[inline]
    fn follow(&mut self, line: Option<Line>) {
        if let Some(line) = line {
            self.kick(self.vm.set_line(line));
        }
    }
}
