//! The hostvisor's world: how it starts on a CPU, and what becomes of what it does there besides calls
//! (`docs/hypercalls/host-smc.md`).

use arch::hal::TrapKind;
use arch::traps::{CNTHCTL_HOST, CPTR_FP_TRAP, HCR_HOST};
use corevisor::core::HostEntry;
use corevisor::host;
use verify::cpu::{Guest, Hardware, LIST_REGISTERS, SimCpu};
use verify::machine::{BASE, Fault};
use verify::world::{CPUS, ESR_LOAD_FAULT, ESR_WRITE, Size, Static, WorldCpu, boot};

const SIZE: Size = Size {
    frames: 26,
    pool: 14,
    vms: 2,
    vcpus: 8,
};
/// ESR.IL: the instruction was 32 bits long.
const IL: u64 = 1 << 25;

struct Nobody;

impl Guest for Nobody {
    fn run(&mut self, _: &mut Hardware, _: &mut arch::context::GpRegs) -> TrapKind {
        TrapKind::Interrupt
    }
}

fn machine() -> (Static, [WorldCpu<Nobody>; CPUS]) {
    boot(SIZE, &[], Fault::None, [Nobody, Nobody])
}

/// ESR_EL2 of MRS or MSR of (op0, op1, CRn, CRm, op2) with Xt.
fn register([op0, op1, crn, crm, op2]: [u64; 5], t: u64, read: bool) -> u64 {
    let name = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | crm << 1;
    0x18 << 26 | IL | name | t << 5 | u64::from(read)
}

/// At reset but for its arguments, under its own table, with its own affinity, and without FP/SIMD.
#[test]
fn the_hostvisor_starts_at_its_entry_with_its_arguments_alone() {
    let (world, _) = machine();
    for index in 0..CPUS {
        let (hardware, guest) = (Hardware::new(index, Fault::None), Nobody);
        let mut cpu = SimCpu { hardware, guest };
        let entry = HostEntry {
            pc: 0x4020_0000,
            x: [1, 2, 3, 4, 5],
        };
        let state = host::start(world.core, &mut cpu, index, entry);
        let mut x = [0; 31];
        x[..5].copy_from_slice(&entry.x);
        assert_eq!((state.host.x, state.host.pc), (x, entry.pc));
        assert_eq!(state.host.pstate, 0x3C5, "EL1h, D, A, I and F masked");
        assert_eq!(state.lrs_loaded, LIST_REGISTERS, "who knows what they held");
        let (loaded, el1) = (&cpu.hardware.world, &cpu.hardware.el1);
        assert_eq!(loaded.vmpidr, 1 << 31 | index as u64);
        assert_eq!(loaded.stage2, world.host);
        assert_eq!((loaded.hcr, loaded.cptr), (HCR_HOST, CPTR_FP_TRAP));
        assert_eq!((loaded.cnthctl, loaded.cntvoff), (CNTHCTL_HOST, 0));
        assert_eq!(el1.sctlr, 0x30D0_0800, "RES1, MMU and caches off");
    }
}

#[test]
fn two_registers_trap_and_are_constant() {
    let (world, [mut cpu, _]) = machine();
    for (name, value) in [([3, 0, 12, 12, 5], 7), ([3, 0, 1, 0, 1], 0)] {
        let pc = cpu.state.host.pc;
        let x = cpu.trap(world.core, register(name, 2, true), [9; 5]);
        assert_eq!((x, cpu.state.host.pc), ([9, 9, value, 9, 9], pc + 4));
        let x = cpu.trap(world.core, register(name, 2, false), [9; 5]);
        assert_eq!((x, cpu.state.host.pc), ([9; 5], pc + 8));
    }
    assert_eq!(cpu.cpu.hardware.injected, 0);
}

#[test]
fn all_others_and_what_is_unknown_are_undefined() {
    for esr in [
        register([3, 0, 12, 12, 4], 2, true),
        register([3, 0, 1, 0, 0], 2, true),
        register([3, 0, 0, 4, 0], 2, true),
        register([2, 0, 0, 2, 2], 2, false),
        0x07 << 26 | IL,
        0x19 << 26 | IL,
        0x19 << 26,
    ] {
        let (world, [mut cpu, _]) = machine();
        cpu.state.host.pc = 0x1234;
        assert_eq!(cpu.trap(world.core, esr, [9; 5]), [9; 5]);
        let el1 = &cpu.cpu.hardware.el1;
        assert_eq!((el1.esr, el1.elr, el1.far), (esr & IL, 0x1234, 0));
        assert_eq!(cpu.state.host.pc, el1.vbar + 0x200);
    }
}

/// An access that stays refused is an external abort of its kind at its address.
#[test]
fn what_is_not_the_hostvisors_aborts() {
    const PERMISSION: u64 = 0x0F;
    const FETCH: u64 = 0x20 << 26 | IL | 0x07;
    let (pool, own) = (BASE << 12, (BASE + SIZE.pool as u64) << 12);
    for (esr, address, taken) in [
        (ESR_LOAD_FAULT, pool, Some(0x25 << 26)),
        (ESR_LOAD_FAULT | ESR_WRITE, pool, Some(0x25 << 26 | 1 << 6)),
        (FETCH, pool, Some(0x21 << 26)),
        (ESR_LOAD_FAULT, own, None),
        (ESR_LOAD_FAULT | ESR_WRITE, own, None),
        (FETCH, own, None),
        // HPFAR_EL2 says nothing then.
        (ESR_LOAD_FAULT | PERMISSION, own, Some(0x25 << 26)),
        (FETCH | PERMISSION, own, Some(0x21 << 26)),
    ] {
        let (world, [mut cpu, _]) = machine();
        cpu.state.host.pc = 0x1234;
        cpu.cpu.hardware.far = address + 8;
        cpu.cpu.hardware.fault_page = address;
        assert_eq!(cpu.trap(world.core, esr, [9; 5]), [9; 5]);
        let el1 = &cpu.cpu.hardware.el1;
        if let Some(kind) = taken {
            let abort = (kind | IL | 0x10, 0x1234, address + 8);
            assert_eq!((el1.esr, el1.elr, el1.far), abort, "{esr:x}");
        } else {
            assert_eq!((cpu.state.host.pc, el1.esr), (0x1234, 0), "repeated");
        }
    }
}
