//! What a guest does, and where it ends: answered at EL2, told to the hostvisor with as much as it needs, or an
//! exception in the guest (`docs/hypercalls/guest.md`, `docs/run-page.md`).

use abi::hypercall::{VM_PROTECTED, VcpuStat};
use abi::run::{self, ExitReason};
use abi::{Error, HostCall};
use arch::context::{El1Regs, GpRegs, Timer};
use arch::hal::TrapKind;
use arch::traps::{HCR_GUEST, hcr};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use verify::cpu::{Guest, Hardware, VTIMER};
use verify::machine::{BASE, Fault};
use verify::world::{CPUS, ESR_HVC, ESR_SMC, Size, Static, WorldCpu, boot};

const SIZE: Size = Size {
    frames: 40,
    pool: 14,
    vms: 2,
    vcpus: 8,
};
/// The hostvisor's first frame: run page of vCPU 0, and then of vCPU 1.
const FIRST: u64 = BASE + SIZE.pool as u64;
const ENTRY: u64 = 0x4000_0000;
const CONTEXT: u64 = 0xC0;
const DEVICE: u64 = 0x0900_0000;
/// ESR_EL2.IL, and a level 3 translation fault.
const IL: u64 = 1 << 25;
const TRANSLATION: u64 = 0x07;
const WRITE: u64 = 1 << 6;
const ON_WALK: u64 = 1 << 7;
/// ESR_EL1 of a synchronous external abort at EL1: fetch, load.
const FETCH_ABORT: u64 = 0x21 << 26 | IL | 0x10;
const LOAD_ABORT: u64 = 0x25 << 26 | IL | 0x10;

/// What makes the guest trap, and how it trapped.
#[derive(Clone, Default)]
struct Trap {
    esr: u64,
    address: u64,
    x: Vec<(usize, u64)>,
}

impl Trap {
    fn x(mut self, n: usize, value: u64) -> Self {
        self.x.push((n, value));
        self
    }
}

fn plain(esr: u64) -> Trap {
    Trap {
        esr,
        ..Trap::default()
    }
}

/// A load or store of `1 << log2` bytes from or to Xt.
fn access(log2: u64, t: u64, flags: u64, address: u64) -> Trap {
    let syndrome = 1 << 24 | log2 << 22 | 1 << 15 | t << 16;
    Trap {
        address,
        ..plain(0x24 << 26 | IL | syndrome | flags | TRANSLATION)
    }
}

/// A data access without syndrome.
fn bare(flags: u64, address: u64) -> Trap {
    Trap {
        address,
        ..plain(0x24 << 26 | IL | flags | TRANSLATION)
    }
}

fn fetch(address: u64) -> Trap {
    Trap {
        address,
        ..plain(0x20 << 26 | IL | TRANSLATION)
    }
}

fn hvc(x: [u64; 4]) -> Trap {
    let x = x.into_iter().enumerate().collect();
    Trap {
        x,
        ..plain(ESR_HVC)
    }
}

/// MRS or MSR of (op0, op1, CRn, CRm, op2) with Xt.
fn register([op0, op1, crn, crm, op2]: [u64; 5], t: u64, read: bool) -> Trap {
    let name = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1;
    plain(0x18 << 26 | IL | name | t << 5 | u64::from(read))
}

fn mrs(name: [u64; 5], t: u64) -> Trap {
    register(name, t, true)
}

fn msr(name: [u64; 5], value: u64) -> Trap {
    register(name, 3, false).x(3, value)
}

/// A guest that traps so, and is interrupted then.
#[derive(Default)]
struct Script {
    traps: VecDeque<Trap>,
    /// List registers at the last entry.
    lrs: Vec<u64>,
    hcr: u64,
}

impl Guest for Script {
    fn run(&mut self, hardware: &mut Hardware, gp: &mut GpRegs) -> TrapKind {
        self.lrs = hardware.lrs.to_vec();
        self.hcr = hardware.world.hcr;
        let Some(trap) = self.traps.pop_front() else {
            return TrapKind::Interrupt;
        };
        for (n, value) in trap.x {
            gp.x[n] = value;
        }
        hardware.esr = trap.esr;
        (hardware.far, hardware.fault_page) = (trap.address, trap.address & !0xFFF);
        TrapKind::Sync
    }
}

struct Machine {
    world: Static,
    cpus: [WorldCpu<Script>; CPUS],
    vm: u64,
}

impl Machine {
    /// A VM with two vCPUs, the first about to start, and a page of memory at its entry.
    fn new(protected: bool) -> Self {
        let guests = [(); CPUS].map(|()| Script::default());
        let (world, cpus) = boot(SIZE, &[], Fault::None, guests);
        let mut m = Self { world, cpus, vm: 0 };
        let (flags, give) = if protected {
            (VM_PROTECTED, HostCall::MemDonate)
        } else {
            (0, HostCall::MemLend)
        };
        m.vm = m.call(HostCall::VmCreate, [flags, 2, 0, 0]);
        for index in 0..2 {
            m.call(HostCall::VcpuCreate, [m.vm, index, FIRST + index, 0]);
        }
        m.call(give, [m.vm, ENTRY, FIRST + 2, 1]);
        m.call(HostCall::VmSetBoot, [m.vm, ENTRY, CONTEXT, 0]);
        m.call(HostCall::VmStart, [m.vm, 0, 0, 0]);
        m
    }

    fn try_call(&mut self, call: HostCall, args: [u64; 4]) -> [u64; 5] {
        self.cpus[0].call(self.world.core, call, args)
    }

    fn call(&mut self, call: HostCall, args: [u64; 4]) -> u64 {
        let [code, x1, ..] = self.try_call(call, args);
        assert_eq!(code, 0, "{call:?} {args:x?}");
        x1
    }

    /// vCPU 0 runs and traps so; answers reason and arguments of its exit.
    fn run<const N: usize>(&mut self, traps: [Trap; N]) -> [u64; 4] {
        self.cpus[0].cpu.guest.traps = traps.into();
        let [code, exit @ ..] = self.try_call(HostCall::VcpuRun, [self.vm, 0, 0, 0]);
        assert_eq!(code, 0);
        assert_eq!(self.cpus[0].cpu.guest.traps.len(), 0, "out before its time");
        exit
    }

    /// As [`Self::run`], with these flags and this value in the run page before it.
    fn answer(&mut self, flags: u64, value: u64) -> [u64; 4] {
        self.set(run::ENTRY_FLAGS, flags);
        self.set(run::MMIO_VALUE, value);
        self.run([])
    }

    fn word(&self, word: usize) -> u64 {
        self.world.machine.read(SIZE.pool, word)
    }

    fn set(&self, word: usize, value: u64) {
        self.world.machine.write(SIZE.pool, word, value);
    }

    fn gp(&self) -> GpRegs {
        self.world.core.vcpus[0].try_lock().unwrap().gp.clone()
    }

    fn el1(&self) -> El1Regs {
        self.world.core.vcpus[0].try_lock().unwrap().el1.clone()
    }

    /// True if the guest has taken its last exception with this syndrome, from the instruction at `pc`.
    fn took(&self, esr: u64, pc: u64) -> bool {
        let el1 = self.el1();
        (el1.esr, el1.elr) == (esr, pc) && self.gp().pc == el1.vbar + 0x200
    }

    fn counted(&mut self, stat: VcpuStat) -> u64 {
        self.call(HostCall::VcpuStat, [self.vm, 0, stat as u64, 0])
    }
}

fn exit(reason: ExitReason, args: [u64; 3]) -> [u64; 4] {
    [reason as u64, args[0], args[1], args[2]]
}

fn irq() -> [u64; 4] {
    exit(ExitReason::Irq, [0; 3])
}

#[test]
fn a_vcpu_starts_at_its_entry_with_its_context_alone() {
    let mut m = Machine::new(true);
    assert_eq!(m.run([]), irq());
    let mut x = [0; 31];
    x[0] = CONTEXT;
    assert_eq!((m.gp().x, m.gp().pc), (x, ENTRY));
    let now = m.cpus[0].cpu.hardware.now;
    m.cpus[0].cpu.hardware.now += 5;
    m.run([]);
    let first = m.world.core.first_guest_ticks.load(Ordering::Relaxed);
    assert_eq!(first, now, "of the first run");
}

#[test]
fn a_load_from_a_device_gets_its_value_once() {
    for (log2, value) in [(0, 0x88), (1, 0x7788), (2, 0x5566_7788), (3, u64::MAX / 3)] {
        let mut m = Machine::new(true);
        let size = 1 << log2;
        let read = exit(ExitReason::MmioRead, [DEVICE + 24, size, 0]);
        assert_eq!(m.run([access(log2, 7, 0, DEVICE + 24)]), read);
        let before = m.gp();
        // Without an answer it is repeated.
        assert_eq!(m.answer(0, u64::MAX), irq());
        assert_eq!((m.gp().x, m.gp().pc), (before.x, ENTRY));
        assert_eq!(m.run([access(log2, 7, 0, DEVICE + 24)]), read);
        let beyond = if log2 == 3 { 0 } else { 1 << (8 * size) };
        assert_eq!(m.answer(run::ENTRY_REPLY, value | beyond), irq());
        let mut x = before.x;
        x[7] = value;
        assert_eq!((m.gp().x, m.gp().pc), (x, ENTRY + 4));
        assert_eq!(m.word(run::ENTRY_FLAGS), 0, "so that it is not done twice");
        // Nothing waits for this answer.
        assert_eq!(m.answer(run::ENTRY_REPLY | run::ENTRY_ABORT, 9), irq());
        assert_eq!((m.gp().x, m.gp().pc), (x, ENTRY + 4));
        assert_eq!(m.cpus[0].cpu.hardware.injected, 0);
    }
}

#[test]
fn a_store_to_a_device_shows_what_it_stores() {
    for (log2, value) in [(0, 0x88), (1, 0x7788), (2, 0x5566_7788), (3, 1 << 63 | 5)] {
        let mut m = Machine::new(true);
        let store = access(log2, 7, WRITE, DEVICE + 8).x(7, value);
        let shown = exit(ExitReason::MmioWrite, [DEVICE + 8, 1 << log2, value]);
        assert_eq!(m.run([store.clone()]), shown);
        assert_eq!(m.answer(0, 0), irq());
        assert_eq!(m.gp().pc, ENTRY, "repeated");
        let above = if log2 == 3 { 0 } else { !0 << (8 << log2) };
        assert_eq!(m.run([store.x(7, value | above)]), shown, "no more");
        let x = m.gp().x;
        assert_eq!(m.answer(run::ENTRY_REPLY, !value), irq());
        assert_eq!((m.gp().x, m.gp().pc), (x, ENTRY + 4));
    }
}

/// The hostvisor can have an access end in an external abort, which says what kind of access it was.
#[test]
fn an_access_that_is_aborted_names_its_address_and_kind() {
    for (trap, esr) in [
        (access(2, 1, 0, DEVICE + 4), LOAD_ABORT),
        (access(2, 1, WRITE, DEVICE + 4), LOAD_ABORT | WRITE),
        (bare(0, DEVICE + 4), LOAD_ABORT),
        (bare(WRITE, DEVICE + 4), LOAD_ABORT | WRITE),
        (fetch(DEVICE + 4), FETCH_ABORT),
    ] {
        let mut m = Machine::new(true);
        m.run([trap]);
        assert_eq!(m.answer(run::ENTRY_ABORT | run::ENTRY_REPLY, 0), irq());
        assert!(m.took(esr, ENTRY), "{esr:x}: {:x?}", m.el1());
        assert_eq!(m.el1().far, DEVICE + 4);
        assert_eq!(m.counted(VcpuStat::CoreInject), 1);
    }
}

#[test]
fn what_gives_no_syndrome_shows_its_page_and_is_repeated() {
    for (trap, kind) in [
        (bare(0, DEVICE + 0x123), 0),
        (bare(WRITE, DEVICE + 0x123), 1),
        (access(3, 1, ON_WALK, DEVICE + 0x123), 0),
        (fetch(DEVICE + 0x123), 2),
    ] {
        let mut m = Machine::new(true);
        let fault = exit(ExitReason::MemFault, [DEVICE, kind, 0]);
        assert_eq!(m.run([trap]), fault);
        let x = m.gp().x;
        assert_eq!(m.answer(run::ENTRY_REPLY, 9), irq());
        assert_eq!((m.gp().x, m.gp().pc), (x, ENTRY));
    }
}

/// Nobody but the guest hears of an access that no device can answer.
#[test]
fn an_access_beyond_its_page_or_of_another_fault_is_the_guests_own() {
    for (log2, offset) in [(0, 0xFFF), (1, 0xFFE), (2, 0xFFC), (3, 0xFF8)] {
        let mut m = Machine::new(true);
        let inside = m.run([access(log2, 1, 0, DEVICE + offset)]);
        let read = exit(ExitReason::MmioRead, [DEVICE + offset, 1 << log2, 0]);
        assert_eq!(inside, read);
    }
    // Permission fault; external abort.
    let kinds = [0x0F, 0x10].map(|fsc| {
        let mut trap = access(2, 1, WRITE, DEVICE);
        trap.esr = trap.esr & !0x3F | fsc;
        trap
    });
    let beyond = access(3, 1, WRITE, DEVICE + 0xFF9);
    for trap in kinds.into_iter().chain([beyond]) {
        let mut m = Machine::new(true);
        let address = trap.address;
        assert_eq!(m.run([trap]), irq());
        assert!(m.took(LOAD_ABORT | WRITE, ENTRY));
        assert_eq!(m.el1().far, address);
    }
    let mut m = Machine::new(true);
    let mut trap = fetch(DEVICE);
    trap.esr ^= TRANSLATION ^ 0x0F;
    assert_eq!(m.run([trap]), irq());
    assert!(m.took(FETCH_ABORT, ENTRY));
    assert_eq!(m.el1().far, DEVICE);
}

/// A change of a live table breaks entries before it makes them: whoever ran into the gap tries again.
#[test]
fn a_fault_on_a_page_that_is_mapped_by_now_is_repeated() {
    for trap in [fetch(ENTRY), access(3, 1, 0, ENTRY), bare(WRITE, ENTRY)] {
        let mut m = Machine::new(true);
        assert_eq!(m.run([trap.clone()]), irq());
        assert_eq!((m.gp().pc, m.cpus[0].cpu.hardware.injected), (ENTRY, 0));
        // Once it has found a page unmapped, it looks again only after a change.
        m.run([bare(0, ENTRY + 0x1000)]);
        assert_eq!(m.run([bare(0, ENTRY)])[0], ExitReason::MemFault as u64);
        m.call(HostCall::MemDonate, [m.vm, ENTRY + 0x1000, FIRST + 3, 1]);
        assert_eq!(m.run([bare(0, ENTRY + 0x1000), trap]), irq());
    }
    let mut open = Machine::new(false);
    open.run([bare(0, 0)]);
    open.call(HostCall::MemUnmap, [open.vm, ENTRY, 1, 0]);
    let gone = exit(ExitReason::MemFault, [ENTRY, 2, 0]);
    assert_eq!(open.run([fetch(ENTRY)]), gone);
}

/// MMIO_GUARD: from the first page that is named as a device's, no other reaches the hostvisor.
#[test]
fn guarded_pages_alone_reach_the_hostvisor() {
    let name = |page| hvc([0xC600_0007, page, 0, 0]);
    let mut m = Machine::new(true);
    assert_eq!(m.run([bare(0, DEVICE)])[0], ExitReason::MemFault as u64);
    assert_eq!(m.run([name(DEVICE)]), irq());
    assert_eq!(m.gp().x[0], 0);
    for (trap, esr) in [
        (access(2, 1, 0, DEVICE + 0x1000), LOAD_ABORT),
        (access(2, 1, WRITE, DEVICE + 0x1000), LOAD_ABORT | WRITE),
        (fetch(DEVICE + 0x1000), FETCH_ABORT),
    ] {
        let pc = m.gp().pc;
        assert_eq!(m.run([trap]), irq());
        assert!(m.took(esr, pc));
    }
    for trap in [access(2, 1, 0, DEVICE), access(2, 1, WRITE, DEVICE)] {
        assert_eq!(m.run([trap])[1], DEVICE);
    }
    assert_eq!(m.run([fetch(DEVICE)])[0], ExitReason::MemFault as u64);
    // An open VM has no such call.
    let mut m = Machine::new(false);
    assert_eq!(m.run([name(DEVICE)]), irq());
    assert_eq!(m.gp().x[0].cast_signed(), -1);
    assert_eq!(
        m.run([fetch(ENTRY + 0x1000)])[0],
        ExitReason::MemFault as u64
    );
}

/// A refused MMIO_GUARD guards all the same; a VM's successor in the slot is not guarded.
#[test]
fn guarding_starts_with_the_first_call_and_ends_with_the_vm() {
    let mut m = Machine::new(true);
    assert_eq!(m.run([hvc([0xC600_0007, ENTRY, 0, 0])]), irq());
    assert_eq!(m.gp().x[0].cast_signed(), -3, "is memory");
    assert_eq!(m.run([fetch(DEVICE)]), irq());
    assert!(m.took(FETCH_ABORT, ENTRY));
    assert_eq!(m.call(HostCall::VmDestroy, [m.vm, 0, 0, 0]), 1);
    m.call(HostCall::MemReclaim, [m.vm, FIRST + 2, 1, 0]);
    assert_eq!(m.call(HostCall::VmDestroy, [m.vm, 0, 0, 0]), 0);
    let old = m.vm;
    m.vm = m.call(HostCall::VmCreate, [VM_PROTECTED, 2, 0, 0]);
    assert_eq!((m.vm & 0xFF, m.vm == old), (old & 0xFF, false));
    m.call(HostCall::VcpuCreate, [m.vm, 0, FIRST, 0]);
    m.call(HostCall::VmSetBoot, [m.vm, ENTRY, 0, 0]);
    m.call(HostCall::VmStart, [m.vm, 0, 0, 0]);
    assert_eq!(m.run([fetch(DEVICE)])[0], ExitReason::MemFault as u64);
}

/// Naming a page again costs nothing of what a VM may name.
#[test]
fn a_page_is_named_once() {
    let name = |page| hvc([0xC600_0007, page, 0, 0]);
    let mut m = Machine::new(true);
    for _ in 0..300 {
        m.run([name(DEVICE)]);
        assert_eq!(m.gp().x[0], 0);
    }
    for n in 1..256 {
        m.run([name(DEVICE + n * 0x1000)]);
        assert_eq!(m.gp().x[0], 0, "page {n}");
    }
    m.run([name(DEVICE + 256 * 0x1000)]);
    assert_eq!(m.gp().x[0].cast_signed(), -3);
    m.run([name(DEVICE)]);
    assert_eq!(m.gp().x[0], 0);
}

/// MEM_SHARE and MEM_UNSHARE are for one page; what asks for more changes nothing.
#[test]
fn sharing_takes_no_further_arguments() {
    let mut m = Machine::new(true);
    let core = m.world.core;
    let page = (FIRST + 2) << 12;
    let mut reached = |function, b, c| {
        m.run([hvc([function, ENTRY, b, c])]);
        let code = m.gp().x[0].cast_signed();
        (code, m.cpus[0].touch(core, page, true))
    };
    for (function, before) in [(0xC600_0003, false), (0xC600_0004, true)] {
        for (b, c) in [(1, 0), (0, 1), (1 << 63, 0), (0, 4096)] {
            assert_eq!(reached(function, b, c), (-3, before), "{b} {c}");
        }
        assert_eq!(reached(function, 0, 0), (0, !before));
    }
}

#[test]
fn waiting_shows_and_goes_on_behind_the_instruction() {
    let mut m = Machine::new(true);
    let wfi = 0x01 << 26 | IL;
    assert_eq!(m.run([plain(wfi)]), exit(ExitReason::Wfi, [0; 3]));
    assert_eq!(m.gp().pc, ENTRY + 4);
    assert_eq!(m.run([plain(wfi | 1)]), exit(ExitReason::Wfe, [0; 3]));
    assert_eq!(m.gp().pc, ENTRY + 8);
    assert_eq!(m.cpus[0].cpu.guest.hcr, HCR_GUEST);
    m.set(run::ENTRY_FLAGS, run::ENTRY_TRAP_WFE);
    m.run([]);
    assert_eq!(m.cpus[0].cpu.guest.hcr, HCR_GUEST | hcr::TWE);
    assert_eq!(m.word(run::ENTRY_FLAGS), run::ENTRY_TRAP_WFE, "no answer");
}

/// There is no firmware for a guest; what is unknown is UNDEFINED.
#[test]
fn smc_is_not_supported_and_the_unknown_is_undefined() {
    let mut m = Machine::new(true);
    assert_eq!(m.run([plain(ESR_SMC).x(0, 0x8400_0000)]), irq());
    assert_eq!((m.gp().x[0].cast_signed(), m.gp().pc), (-1, ENTRY + 4));
    assert_eq!(m.counted(VcpuStat::CoreHypercall), 1);
    // A Thumb instruction of 16 bits, and one of 32; SVE.
    for il in [0, IL] {
        let pc = m.gp().pc;
        assert_eq!(m.run([plain(0x19 << 26 | il)]), irq());
        assert!(m.took(il, pc));
    }
    let pc = m.gp().pc;
    assert_eq!(m.run([mrs([3, 7, 15, 15, 7], 1)]), irq());
    assert!(m.took(IL, pc));
    assert_eq!(m.counted(VcpuStat::CoreInject), 3);
    assert_eq!(m.counted(VcpuStat::CoreSysreg), 0);
}

#[test]
fn registers_that_trap_read_and_write_as_documented() {
    const PFR0: [u64; 5] = [3, 0, 0, 4, 0];
    const SRE: [u64; 5] = [3, 0, 12, 12, 5];
    const MDSCR: [u64; 5] = [2, 0, 0, 2, 2];
    const SGI1R: [u64; 5] = [3, 0, 12, 11, 5];
    const ASGI1R: [u64; 5] = [3, 0, 12, 11, 6];
    const SGI0R: [u64; 5] = [3, 0, 12, 11, 7];
    let mut m = Machine::new(true);
    assert_eq!(m.run([mrs(PFR0, 5), mrs(SRE, 6), mrs(SRE, 31)]), irq());
    assert_eq!((m.gp().x[5], m.gp().x[6]), (0x11, 7));
    assert_eq!(m.gp().pc, ENTRY + 12);
    assert_eq!(m.counted(VcpuStat::CoreSysreg), 3);
    // A constant stays what it is, and a write leaves the register it comes from.
    assert_eq!(m.run([msr(SRE, 0), mrs(SRE, 6)]), irq());
    assert_eq!((m.gp().x[3], m.gp().x[6]), (0, 7));
    // Of MDSCR_EL1 only what concerns software step and the debug channel.
    assert_eq!(m.run([msr(MDSCR, u64::MAX), mrs(MDSCR, 6)]), irq());
    let kept = 1 | 1 << 12 | 1 << 13;
    assert_eq!((m.gp().x[3], m.gp().x[6]), (u64::MAX, kept));
    assert_eq!(m.el1().mdscr, kept);
    for (register, groups) in [(SGI1R, 1), (ASGI1R, 0), (SGI0R, 0)] {
        let sgi = exit(ExitReason::Sgi, [0x0102_0304, groups, 0]);
        assert_eq!(m.run([msr(register, 0x0102_0304)]), sgi);
    }
    assert_eq!(m.gp().pc, ENTRY + 40);
}

/// Both timers' lines and deadlines are told in the hostvisor's own time, whatever the guest's is.
#[test]
fn the_hostvisor_learns_when_timers_fire() {
    const CTL: [u64; 5] = [3, 3, 14, 2, 1];
    const CVAL: [u64; 5] = [3, 3, 14, 2, 2];
    let mut m = Machine::new(true);
    let told = |m: &Machine| {
        [run::TIMER_LINES, run::VTIMER_DEADLINE, run::PTIMER_DEADLINE].map(|word| m.word(word))
    };
    m.run([]);
    assert_eq!(told(&m), [0, u64::MAX, u64::MAX]);
    let start = m.cpus[0].cpu.hardware.now;
    let timer = exit(ExitReason::Timer, [0; 3]);
    assert_eq!(m.run([msr(CVAL, start + 40)]), timer);
    assert_eq!(told(&m), [0, u64::MAX, u64::MAX], "off");
    assert_eq!(m.run([msr(CTL, Timer::ENABLE)]), timer);
    assert_eq!(told(&m), [0, u64::MAX, start + 40]);
    m.cpus[0].cpu.hardware.now = start + 40;
    assert_eq!(m.run([mrs(CTL, 9)]), irq());
    assert_eq!(m.gp().x[9], Timer::ENABLE | Timer::ISTATUS);
    assert_eq!(told(&m), [run::TIMER_PHYSICAL, u64::MAX, start + 40]);
    assert_eq!(m.run([msr(CTL, Timer::ENABLE | Timer::IMASK)]), timer);
    assert_eq!(told(&m), [0, u64::MAX, u64::MAX], "masked");
    // The virtual timer counts from the start of the VM.
    m.world.core.vcpus[0].try_lock().unwrap().vtimer = Timer {
        ctl: Timer::ENABLE,
        cval: 50,
    };
    m.run([]);
    assert_eq!(told(&m), [0, start + 50, u64::MAX]);
    m.cpus[0].cpu.hardware.now = start + 50;
    m.run([]);
    assert_eq!(told(&m), [run::TIMER_VIRTUAL, start + 50, u64::MAX]);
}

#[test]
fn list_registers_go_in_and_come_back_and_stay_with_nobody() {
    let mut m = Machine::new(true);
    let lr = |intid| run::LR_PENDING | intid;
    m.set(run::LR_COUNT, 4);
    for n in 0..4 {
        m.set(run::LIST_REGISTERS + n, lr(40 + n as u64));
    }
    m.set(run::LIST_REGISTERS + 4, 0xEE);
    m.run([]);
    assert_eq!(m.cpus[0].cpu.guest.lrs, [40, 41, 42, 43].map(lr));
    // The guest has taken one.
    m.cpus[0].cpu.hardware.lrs[1] = 0;
    m.set(run::LR_COUNT, 1);
    m.set(run::LIST_REGISTERS, lr(VTIMER));
    m.run([]);
    assert_eq!(m.cpus[0].cpu.guest.lrs, [lr(VTIMER), 0, 0, 0]);
    assert_eq!(m.word(run::LIST_REGISTERS + 1), lr(41), "not in use");
    m.set(run::LR_COUNT, 2);
    // Inactive: 0, whatever else it says, and so it comes back.
    m.set(run::LIST_REGISTERS + 1, 99);
    m.run([]);
    assert_eq!(m.word(run::LIST_REGISTERS + 1), 0);
    assert_eq!(m.word(run::LIST_REGISTERS + 4), 0xEE);
}

/// Of ICH_HCR_EL2 the hostvisor sets what asks for maintenance interrupts, and nothing else.
#[test]
fn the_interrupt_interface_gets_no_other_bits() {
    struct Look(u64);
    impl Guest for Look {
        fn run(&mut self, hardware: &mut Hardware, _gp: &mut GpRegs) -> TrapKind {
            self.0 = hardware.ich_hcr;
            TrapKind::SError
        }
    }
    let (world, mut cpus) = boot(SIZE, &[], Fault::None, [Look(0), Look(0)]);
    let mut call = |call, args| cpus[0].call(world.core, call, args);
    let [_, vm, ..] = call(HostCall::VmCreate, [VM_PROTECTED, 1, 0, 0]);
    call(HostCall::VcpuCreate, [vm, 0, FIRST, 0]);
    call(HostCall::VmSetBoot, [vm, ENTRY, 0, 0]);
    call(HostCall::VmStart, [vm, 0, 0, 0]);
    world.machine.write(SIZE.pool, run::ICH_HCR, u64::MAX);
    let [code, reason, ..] = call(HostCall::VcpuRun, [vm, 0, 0, 0]);
    assert_eq!((code, reason), (0, ExitReason::SError as u64));
    assert_eq!(cpus[0].cpu.guest.0, 0b1111, "the three, and that it is on");
}

#[test]
fn the_first_use_of_fp_is_noticed_by_counters_alone() {
    let mut m = Machine::new(true);
    assert_eq!(m.run([]), irq());
    assert_eq!(m.word(run::STATE_FLAGS), 0);
    assert_eq!(m.run([plain(0x07 << 26 | IL)]), irq());
    assert_eq!(m.gp().pc, ENTRY, "repeated");
    assert_eq!(m.word(run::STATE_FLAGS), run::STATE_FP_LIVE);
    assert_eq!(m.counted(VcpuStat::CoreFp), 1);
    let put = [m.vm, 0, 0, 0];
    m.call(HostCall::VcpuPut, put);
    m.run([]);
    assert_eq!(m.word(run::STATE_FLAGS), 0);
}

/// SYSTEM_OFF and SYSTEM_RESET: no vCPU of the VM runs again, and a VM that is being destroyed stays so.
#[test]
fn a_vm_that_has_stopped_runs_no_more() {
    let bad_state = Error::BadState.code().cast_unsigned();
    for (function, reason) in [
        (0x8400_0008, ExitReason::SystemOff),
        (0x8400_0009, ExitReason::SystemReset),
    ] {
        let mut m = Machine::new(true);
        assert_eq!(m.run([hvc([function, 0, 0, 0])]), exit(reason, [0; 3]));
        for index in 0..2 {
            let [code, ..] = m.try_call(HostCall::VcpuRun, [m.vm, index, 0, 0]);
            assert_eq!(code, bad_state);
        }
        let [code, ..] = m.try_call(HostCall::MemDonate, [m.vm, 0, FIRST + 3, 1]);
        assert_eq!(code, bad_state);
    }
}

/// CPU_SUSPEND is a wait; CPU_OFF is final until another's CPU_ON, whose entry and context it starts with.
#[test]
fn vcpus_stop_and_start_each_other() {
    let mut m = Machine::new(true);
    let suspend = m.run([hvc([0xC400_0001, 0, 0, 0])]);
    assert_eq!(suspend, exit(ExitReason::Wfi, [0; 3]));
    assert_eq!(m.gp().x[0], 0);
    let on = m.run([hvc([0xC400_0003, 1, ENTRY + 8, 77])]);
    assert_eq!(on, exit(ExitReason::CpuOn, [1, 0, 0]));
    assert_eq!(m.gp().x[0], 0);
    m.cpus[0].cpu.guest.traps = [hvc([0xC400_0003, 0, 0, 0]), hvc([0x8400_0002, 0, 0, 0])].into();
    let args = [m.vm, 1, 0, 0];
    let [code, reason, ..] = m.try_call(HostCall::VcpuRun, args);
    assert_eq!((code, reason), (0, ExitReason::CpuOff as u64));
    let second = m.world.core.vcpus[1].try_lock().unwrap();
    assert_eq!((second.gp.pc, second.gp.x[3]), (ENTRY + 8, 0));
    drop(second);
    let [code, ..] = m.try_call(HostCall::VcpuRun, args);
    assert_eq!(code, Error::BadState.code().cast_unsigned());
    assert_eq!(m.run([hvc([0xC400_0004, 1, 0, 0])]), irq());
    assert_eq!(m.gp().x[0], 1, "off");
    assert_eq!(m.counted(VcpuStat::CoreHypercall), 3);
}
