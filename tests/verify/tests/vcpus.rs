//! vCPUs of one VM on one CPU: what the TLB and the instruction caches hold of one is not used by another.

use abi::{Error, HostCall, MAX_VCPUS, Pfn, hypercall::VM_PROTECTED};
use arch::context::GpRegs;
use arch::hal::TrapKind;
use verify::cpu::{Guest, Hardware};
use verify::machine::{BASE, Fault};
use verify::world::{CPUS, ESR_HVC, Size, Static, WorldCpu, boot};

const SIZE: Size = Size {
    frames: 26,
    pool: 14,
    vms: 2,
    vcpus: 8,
};
const FIRST: u64 = BASE + SIZE.pool as u64;
const CPU_ON: u64 = 0xC400_0003;

/// Turns vCPU 1 on at its first entry, and is interrupted at every other.
#[derive(Default)]
struct Starter {
    started: bool,
}

impl Guest for Starter {
    fn run(&mut self, hardware: &mut Hardware, gp: &mut GpRegs) -> TrapKind {
        if std::mem::replace(&mut self.started, true) {
            return TrapKind::Interrupt;
        }
        gp.x[..4].copy_from_slice(&[CPU_ON, 1, 0x4000_0000, 0]);
        hardware.esr = ESR_HVC;
        TrapKind::Sync
    }
}

struct Machine {
    world: Static,
    cpus: [WorldCpu<Starter>; CPUS],
}

impl Machine {
    fn new(fault: Fault) -> Self {
        let guests = [(); CPUS].map(|()| Starter::default());
        let (world, cpus) = boot(SIZE, &[], fault, guests);
        Self { world, cpus }
    }

    fn call(&mut self, cpu: usize, call: HostCall, args: [u64; 4]) -> u64 {
        let [code, x1, ..] = self.cpus[cpu].call(self.world.core, call, args);
        assert_eq!(code, 0, "{call:?} {args:x?}");
        x1
    }

    /// A VM with two vCPUs that are on; its run pages are these frames. CPU 0 ran vCPU 0.
    fn vm(&mut self, pages: [Pfn; 2]) -> u64 {
        let vm = self.call(0, HostCall::VmCreate, [VM_PROTECTED, 2, 0, 0]);
        for (index, page) in (0..).zip(pages) {
            self.call(0, HostCall::VcpuCreate, [vm, index, page.0, 0]);
        }
        self.call(0, HostCall::VmSetBoot, [vm, 0x4000_0000, 0, 0]);
        self.call(0, HostCall::VmStart, [vm, 0, 0, 0]);
        self.cpus[0].cpu.guest.started = false;
        self.call(0, HostCall::VcpuRun, [vm, 0, 0, 0]);
        vm
    }

    /// Runs vCPU `index` on `cpu`; true if something had to be dropped first.
    fn run(&mut self, cpu: usize, vm: u64, index: u64) -> bool {
        self.cpus[cpu].cpu.guest.started = true;
        let before = self.cpus[cpu].cpu.hardware.forgotten;
        self.call(cpu, HostCall::VcpuRun, [vm, index, 0, 0]);
        self.cpus[cpu].cpu.hardware.forgotten > before
    }
}

/// The simulated CPU checks at each entry that no other vCPU has filled its TLB.
#[test]
fn a_vcpu_finds_nothing_of_another_and_keeps_its_own() {
    let mut m = Machine::new(Fault::None);
    let a = m.vm([Pfn(FIRST), Pfn(FIRST + 1)]);
    let b = m.vm([Pfn(FIRST + 2), Pfn(FIRST + 3)]);
    assert!(!m.run(0, a, 0), "another VM ran, not another vCPU");
    assert!(m.run(0, a, 1));
    assert!(!m.run(0, a, 1));
    assert!(m.run(0, a, 0));
    assert!(!m.run(0, b, 0));
    // Each CPU for itself.
    assert!(m.run(1, a, 1));
    assert!(!m.run(1, a, 1));
    assert!(!m.run(0, a, 0));
}

/// A new VM in the slot, with the old one's VMID: its vCPU 1 is not the old one's.
#[test]
fn the_next_tenant_of_a_slot_is_another() {
    let mut m = Machine::new(Fault::None);
    let old = m.vm([Pfn(FIRST), Pfn(FIRST + 1)]);
    m.run(1, old, 1);
    assert_eq!(m.call(0, HostCall::VmDestroy, [old, 0, 0, 0]), 0);
    let new = m.vm([Pfn(FIRST), Pfn(FIRST + 1)]);
    assert_eq!((old & 0xFF, old == new), (new & 0xFF, false));
    assert!(m.run(1, new, 1));
}

#[test]
#[should_panic = "vCPUs share translations"]
fn a_tlb_that_keeps_them_is_seen() {
    let mut m = Machine::new(Fault::KeepVcpu);
    let vm = m.vm([Pfn(FIRST), Pfn(FIRST + 1)]);
    m.run(0, vm, 1);
}

#[test]
fn a_vm_may_have_so_many_and_no_more() {
    let mut m = Machine::new(Fault::None);
    let most = MAX_VCPUS as u64;
    m.call(0, HostCall::VmCreate, [VM_PROTECTED, most, 0, 0]);
    for count in [0, most + 1, 1 << 32 | 1, u64::MAX] {
        let args = [VM_PROTECTED, count, 0, 0];
        let [code, ..] = m.cpus[0].call(m.world.core, HostCall::VmCreate, args);
        assert_eq!(code.cast_signed(), Error::Invalid.code());
    }
}
