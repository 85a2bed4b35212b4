//! Row 10: using everything up, and getting everything back.

use super::Attack;
use crate::guest::{self, Do};
use crate::verdict::{Outcome, given, refused, require};
use crate::vm::{Vm, kill};
use crate::{call, frames};
use abi::hypercall::{CoreInfo, VM_PROTECTED};
use abi::{Error, HostCall, MAX_VCPUS, PAGE_SIZE};

pub(crate) const ATTACKS: &[Attack] = &[
    ("exhaust-vm-slots", vm_slots),
    ("exhaust-vcpu-slots", vcpu_slots),
    ("exhaust-pool", pool),
    ("exhaust-host-splits", host_splits),
    ("exhaust-generations", generations),
];

const MOST_VMS: usize = 256;

/// Makes VMs until there are no more.
fn fill_slots(vcpus: u64, handles: &mut [u64; MOST_VMS]) -> (usize, Error) {
    for (n, slot) in handles.iter_mut().enumerate() {
        match call::host(HostCall::VmCreate, &[VM_PROTECTED, vcpus]) {
            Ok(handle) => *slot = handle,
            Err(error) => return (n, error),
        }
    }
    (MOST_VMS, Error::Again)
}

fn vm_slots() -> Outcome {
    let slots = call::info(CoreInfo::VmSlots) as usize;
    let free = call::info(CoreInfo::PoolFree);
    for round in 0..3 {
        let mut handles = [0; MOST_VMS];
        let (made, error) = fill_slots(1, &mut handles);
        for handle in &handles[..made] {
            kill(*handle)?;
        }
        require!(
            made == slots && error == Error::NoMemory,
            "{made} VMs, then {error:?} (round {round})"
        );
    }
    let after = call::info(CoreInfo::PoolFree);
    require!(after == free, "{free} table frames were free, {after} are");
    refused!("NoMemory after {slots}, three times; all back")
}

fn vcpu_slots() -> Outcome {
    for round in 0..3 {
        frames::reset();
        let mut handles = [0; MOST_VMS];
        let (made, _) = fill_slots(MAX_VCPUS as u64, &mut handles);
        let (mut vcpus, mut end) = (0, None);
        'all: for handle in &handles[..made] {
            for index in 0..MAX_VCPUS as u64 {
                let page = frames::take(1);
                match call::host(HostCall::VcpuCreate, &[*handle, index, page / PAGE_SIZE]) {
                    Ok(_) => vcpus += 1,
                    Err(error) => {
                        end = Some(error);
                        break 'all;
                    }
                }
            }
        }
        for handle in &handles[..made] {
            kill(*handle)?;
        }
        require!(
            end.is_none_or(|e| e == Error::NoMemory) && vcpus >= 64,
            "{vcpus} vCPUs, then {end:?} (round {round})"
        );
    }
    refused!("NoMemory at the end, three times; all back")
}

/// One page in each GiB of many VMs: two tables for each.
fn pool() -> Outcome {
    let victim = Vm::running(true, 1)?;
    frames::settle();
    let free = call::info(CoreInfo::PoolFree);
    let pages = frames::take(8192);
    let mut handles = [0; MOST_VMS];
    let (made, _) = fill_slots(1, &mut handles);
    let (mut used, mut error) = (0, None);
    'all: for handle in &handles[..made] {
        for gigabyte in 0..64 {
            let args = [*handle, gigabyte << 30, pages / PAGE_SIZE + used, 1];
            match call::host(HostCall::MemDonate, &args) {
                Ok(_) => used += 1,
                Err(e) => {
                    error = Some(e);
                    break 'all;
                }
            }
        }
    }
    let lowest = call::info(CoreInfo::PoolFree);
    // Nothing is left, and yet whoever runs goes on running.
    let counted = victim.first().command(Do::Count, &[50]);
    for (n, handle) in handles[..made].iter().enumerate() {
        let _ = kill(*handle);
        for page in 64 * n as u64..(64 * (n as u64 + 1)).min(used) {
            let _ = call::host(
                HostCall::MemReclaim,
                &[*handle, pages / PAGE_SIZE + page, 1],
            );
        }
        let _ = kill(*handle);
    }
    frames::settle();
    let after = call::info(CoreInfo::PoolFree);
    require!(counted == Ok(50), "a running VM stopped: {counted:x?}");
    require!(after >= free, "{free} table frames were free, {after} are");
    require!(error.is_none_or(|e| e == Error::NoMemory), "{error:?}");
    given!(
        lowest < 8,
        "{lowest} table frames are left after {used} pages"
    );
    refused!("{used} pages, {lowest} table frames left, {error:?}; all back")
}

/// One page out of each block of RAM: the host's own table needs a table for each.
fn host_splits() -> Outcome {
    frames::settle();
    let free = call::info(CoreInfo::PoolFree);
    let blocks = frames::blocks_left();
    let start = frames::take_blocks(blocks);
    let mut vm = Vm::create(true, 1)?;
    let (mut split, mut error) = (0, None);
    for block in 0..blocks {
        let page = start / PAGE_SIZE + 512 * block + 3;
        match call::host(
            HostCall::MemDonate,
            &[vm.handle, guest::RAM + block * PAGE_SIZE, page, 1],
        ) {
            Ok(_) => split += 1,
            Err(e) => {
                error = Some(e);
                break;
            }
        }
    }
    let lowest = call::info(CoreInfo::PoolFree);
    vm.kill()?;
    for block in 0..split {
        call::host(
            HostCall::MemReclaim,
            &[vm.handle, start / PAGE_SIZE + 512 * block + 3, 1],
        )?;
    }
    vm.finish()?;
    frames::settle();
    let after = call::info(CoreInfo::PoolFree);
    require!(after >= free, "{free} table frames were free, {after} are");
    require!(error.is_none_or(|e| e == Error::NoMemory), "{error:?}");
    given!(split > 16, "only {split} blocks");
    refused!("{split} blocks split, {lowest} table frames left, {error:?}; all back")
}

/// More VMs, one after the other, than there are VMIDs.
fn generations() -> Outcome {
    frames::settle();
    let free = call::info(CoreInfo::PoolFree);
    for n in 0..300 {
        frames::reset();
        let vm = Vm::running(true, 1)?;
        let counted = vm.first().command(Do::Count, &[3]);
        vm.destroy()?;
        require!(counted == Ok(3), "VM {n}: {counted:x?}");
    }
    frames::settle();
    let after = call::info(CoreInfo::PoolFree);
    require!(after >= free, "{free} table frames were free, {after} are");
    refused!("300 VMs, all table frames back")
}
