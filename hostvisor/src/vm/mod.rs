//! VMs as the hostvisor runs them: a handle of the core's, devices, an interrupt controller, and vCPUs that
//! are scheduled.
//!
//! Locks, in the order in which they may be taken: a vCPU's `local` (held by the CPU that runs it),
//! `devices` or those of a virtio device (see [`crate::virtio`]), `vgic`; then run queues and timers. Nothing is
//! kicked with `vgic` or `devices` held.

pub mod attach;
pub mod build;
mod exits;
mod grace;
pub mod loader;
pub mod management;
pub mod manager;
pub mod memory;
pub mod run;
mod share;
mod slot;
pub mod teardown;
mod vcpu;

use crate::devices::{self, Devices, map};
use crate::guest_tree::GuestTimers;
use crate::hw::{self, Mutex, RunPage};
use crate::interrupts::Handler;
use crate::sched::{Arrival, CpuSet, Kick};
use crate::vgic::{KickMask, Vgic};
use crate::virtio::bus::Bus;
use crate::virtio::device::Line;
use crate::{clock, cpu};
use abi::MAX_VCPUS;
use abi::run::ExitReason;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
pub use share::Share;
use spin::Once;
use vcpu::Local;
pub use vcpu::{Vcpu, VcpuRef};

/// Bytes of console input a VM may leave unread.
const INPUT_BACKLOG: usize = 4096;

/// Timers of a VM: its vCPUs', its clock's, and one for each virtio slot.
const RTC_TIMER: usize = MAX_VCPUS;
const FIRST_VIRTIO_TIMER: usize = RTC_TIMER + 1;
const TIMERS: usize = FIRST_VIRTIO_TIMER + map::VIRTIO_SLOTS as usize;

/// Why a VM came to its end by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// PSCI SYSTEM_OFF.
    PoweredOff,
    /// PSCI SYSTEM_RESET.
    Reset,
    /// It cannot go on.
    Failed(String),
}

/// One run of a VM, from its start to its end; a restart makes a new one.
pub struct Vm {
    /// Its place in the bundle.
    pub id: usize,
    /// Number of this run, unique.
    pub instance: u64,
    /// The core's handle.
    pub handle: u64,
    /// vCPUs.
    pub vcpus: Box<[Vcpu]>,
    /// Weight of each vCPU, from the next time it comes to wait on.
    pub weight: AtomicU32,
    /// CPUs they may run on.
    affinity: CpuSet,
    /// INTID of the physical timer.
    ptimer: u32,
    vgic: Mutex<Vgic>,
    devices: Mutex<Devices>,
    /// Its virtio devices, which have locks of their own.
    pub virtio: Bus,
    /// Set once: no vCPU enters the guest any more.
    stopping: AtomicBool,
    /// vCPUs that are not off.
    active: AtomicU32,
    end: Once<End>,
}

/// What a CPU's soft timer is for.
#[derive(Clone)]
pub enum Alarm {
    /// A vCPU's timers.
    Vcpu(VcpuRef),
    /// The alarm of a VM's RTC.
    Rtc(Arc<Vm>),
    /// Work that the device in a virtio slot has left.
    Virtio(Arc<Vm>, u32),
    /// Something of the machine's own.
    Call(Arc<dyn Handler>),
}

impl Alarm {
    /// Its deadline has passed.
    pub fn ring(&self) {
        match self {
            Self::Vcpu(vcpu) => vcpu.kick(),
            Self::Rtc(vm) => vm.tick(),
            Self::Virtio(vm, slot) => {
                if vm.virtio.resume(*slot) {
                    vm.resume_later(cpu::get(hw::cpu_index()), *slot);
                }
            }
            Self::Call(handler) => handler.handle(),
        }
    }

    /// The VM it belongs to, if it does to one.
    #[must_use]
    pub fn vm(&self) -> Option<&Arc<Vm>> {
        match self {
            Self::Vcpu(vcpu) => Some(&vcpu.vm),
            Self::Rtc(vm) | Self::Virtio(vm, _) => Some(vm),
            Self::Call(_) => None,
        }
    }
}

impl Vm {
    /// A VM whose vCPUs have these run pages.
    #[must_use]
    pub fn new(
        id: usize,
        instance: u64,
        handle: u64,
        pages: Vec<RunPage>,
        virtio: Bus,
        share: Share,
    ) -> Self {
        let timers = GuestTimers::new(crate::gic::vtimer());
        let mut vgic = Vgic::new(crate::gic::model(), pages.len(), timers.virt);
        if !crate::gic::hw_deactivates() {
            vgic = vgic.without_hw_bit();
        }
        Self {
            id,
            instance,
            handle,
            vcpus: pages.into_iter().map(Vcpu::new).collect(),
            weight: AtomicU32::new(share.weight),
            affinity: share.affinity,
            ptimer: timers.phys,
            vgic: Mutex::new(vgic),
            devices: Mutex::new(Devices::new(INPUT_BACKLOG)),
            virtio,
            stopping: AtomicBool::new(false),
            active: AtomicU32::new(0),
            end: Once::new(),
        }
    }

    /// Makes vCPU `index` look what is new for it.
    pub fn kick(self: &Arc<Self>, index: usize) {
        let Some(vcpu) = self.vcpus.get(index) else {
            return;
        };
        match vcpu.state.kick() {
            Kick::Nothing => {}
            Kick::Interrupt(cpu) => cpu::notify(cpu),
            Kick::Enqueue(home) => cpu::enqueue(
                VcpuRef {
                    vm: self.clone(),
                    index,
                },
                home,
                Arrival::Woken,
            ),
        }
    }

    /// Kicks all vCPUs in `mask`.
    #[inline]
    pub fn kick_all(self: &Arc<Self>, mask: KickMask) {
        if !mask.is_empty() {
            mask.iter().for_each(|index| self.kick(index));
        }
    }

    /// Powers vCPU `index` on. False if it is on, or there is none.
    pub fn power_on(self: &Arc<Self>, index: usize) -> bool {
        let Some(vcpu) = self.vcpus.get(index) else {
            return false;
        };
        // Counted before it can run, by a vCPU that is counted itself (or before the VM starts): so
        // `active` never is 0 too early.
        self.active.fetch_add(1, Ordering::SeqCst);
        let home = vcpu.last_cpu().unwrap_or((self.id + index) % cpu::online());
        if vcpu.state.power_on(home) {
            cpu::enqueue(
                VcpuRef {
                    vm: self.clone(),
                    index,
                },
                home,
                Arrival::Woken,
            );
            true
        } else {
            self.active.fetch_sub(1, Ordering::SeqCst);
            false
        }
    }

    /// Ends this run; `end` says why, if it was not management. Management takes the VM apart once
    /// [`Self::is_quiet`].
    pub fn stop(self: &Arc<Self>, end: Option<End>) {
        if let Some(end) = end {
            self.end.call_once(|| end);
        }
        self.stopping.store(true, Ordering::SeqCst);
        for index in 0..self.vcpus.len() {
            self.kick(index);
        }
        crate::service::ask();
    }

    /// True once the VM is to run no more.
    #[inline]
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// True if no vCPU runs or ever will.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.active.load(Ordering::SeqCst) == 0
    }

    /// None of its vCPUs runs any more: lets its devices go. True once nothing touches its memory.
    ///
    /// That is what taking it apart has to wait for: without an SMMU, a request that is under way would write
    /// into frames that are somebody else's by then.
    pub fn let_go(&self) -> bool {
        self.virtio.close();
        self.virtio.in_flight() == 0
    }

    /// Something may write to its memory for ever: that is never given back.
    #[must_use]
    pub fn has_lost_memory(&self) -> bool {
        self.virtio.has_lost_memory()
    }

    /// Why it came to its end by itself, if it did.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.get()
    }

    /// One key for each vCPU, [`RTC_TIMER`] for the clock, and one for each virtio slot.
    fn timer_key(&self, index: usize) -> u64 {
        self.instance * TIMERS as u64 + index as u64
    }

    /// Lets the device in `slot` go on soon, on `this` CPU, which is the caller's.
    pub fn resume_later(self: &Arc<Self>, this: &cpu::Cpu, slot: u32) {
        let key = self.timer_key(FIRST_VIRTIO_TIMER + slot as usize);
        this.arm_soon(key, Alarm::Virtio(self.clone(), slot));
    }

    /// The guest has set its RTC or its alarm: `this` CPU, which is the caller's, wakes it in time.
    pub fn arm_rtc(self: &Arc<Self>, this: &cpu::Cpu) {
        let alarm = self.devices.lock().next_alarm();
        // One that is armed on another CPU from before finds nothing to do there.
        if let Some(seconds) = alarm {
            let deadline = clock::ticks_at(seconds);
            this.arm(
                self.timer_key(RTC_TIMER),
                deadline,
                Alarm::Rtc(self.clone()),
            );
        }
    }

    /// Lets the RTC's alarm ring if it is due.
    fn tick(self: &Arc<Self>) {
        let line = self.devices.lock().tick(clock::seconds());
        self.follow(line);
    }

    /// Takes a device's line to the vGIC; whom to kick. The level is read under both locks: the CPU that comes last
    /// brings the last one, whoever saw it change.
    fn set_line(&self, line: devices::Line) -> KickMask {
        let devices = self.devices.lock();
        let mut vgic = self.vgic.lock();
        vgic.set_level(0, line.0, devices.level(line))
    }

    /// Takes a device's line to the vGIC, if it changed.
    fn follow(self: &Arc<Self>, line: Option<devices::Line>) {
        if let Some(line) = line {
            self.kick_all(self.set_line(line));
        }
    }

    /// A byte for its console. False if it takes no more at present.
    pub fn input(self: &Arc<Self>, byte: u8) -> bool {
        if let Some(taken) = self.virtio.push_input(byte) {
            return taken;
        }
        let (taken, line) = self.devices.lock().push_input(byte);
        self.follow(line);
        taken
    }

    /// Sum of a counter over all vCPUs.
    #[must_use]
    pub fn exits(&self) -> [u64; ExitReason::COUNT] {
        let mut sum = [0; ExitReason::COUNT];
        for vcpu in &self.vcpus {
            for (total, one) in sum.iter_mut().zip(&vcpu.exits) {
                *total += one.load(Ordering::Relaxed);
            }
        }
        sum
    }
}

/// The end of a device's interrupt line in its VM.
struct VmLine(Weak<Vm>);

impl Line for VmLine {
    fn follow(&self, intid: u32, pending: &AtomicU32, again: bool) {
        let Some(vm) = self.0.upgrade() else {
            return;
        };
        let mut vgic = vm.vgic.lock();
        let mut kicks = KickMask::NONE;
        if again {
            kicks |= vgic.set_level(0, intid, false);
        }
        kicks |= vgic.set_level(0, intid, pending.load(Ordering::SeqCst) != 0);
        drop(vgic);
        vm.kick_all(kicks);
    }

    fn idle(&self) {
        let Some(vm) = self.0.upgrade() else {
            return;
        };
        (0..vm.vcpus.len()).for_each(|index| vm.kick(index));
        if vm.is_stopping() {
            crate::service::ask();
        }
    }

    fn go_on(&self, intid: u32) {
        if let Some(vm) = self.0.upgrade() {
            vm.resume_later(cpu::get(hw::cpu_index()), intid - map::VIRTIO_INTID);
        }
    }
}
