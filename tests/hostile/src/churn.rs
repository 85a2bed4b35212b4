//! VMs for ever: created, run and destroyed on all CPUs at once, thousands of times. Afterwards everything is there
//! again: page-table frames, VM slots (and with them VMIDs, one a slot), vCPU slots, and the memory.

use crate::console::say;
use crate::guest::Do;
use crate::verdict::{Failure, Outcome, refused, require};
use crate::vm::{PAGES, SECRET_IPA, Vm, kill};
use crate::{access, call, frames, smp};
use abi::hypercall::{CoreInfo, VM_PROTECTED};
use abi::{Error, HostCall, MAX_CPUS, MAX_VCPUS, PAGE_SIZE};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// vCPUs of the machine.
const VCPUS: usize = 256;
/// More VMs than a machine has slots for.
const MOST_VMS: usize = 256;
/// What guests count to.
const COUNT: u64 = 100;
/// What guests keep in memory.
const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;

/// Memory that a CPU makes its VMs of, over and over.
#[derive(Clone, Copy, Default)]
struct Plot {
    ram: u64,
    run_page: u64,
}

/// What can be had at once.
#[derive(PartialEq, Eq, Debug)]
struct Inventory {
    table_frames: u64,
    vms: usize,
    vcpus: usize,
}

/// Makes `rounds` VMs in all, and ends the machine.
pub(crate) fn run(rounds: u64) -> ! {
    smp::start_all();
    match churn(rounds) {
        Ok(how) => say!("CHURN done: {how}"),
        Err(why) => say!("CHURN FAILED: {why}"),
    }
    call::system_off()
}

fn churn(rounds: u64) -> Outcome {
    let cpus = smp::count();
    let mut plots = [Plot::default(); MAX_CPUS];
    // All in the same 2 MiB, so that the CPUs meet at one block of the hostvisor's table.
    for plot in &mut plots[..cpus] {
        plot.ram = frames::take(PAGES);
        plot.run_page = frames::take(1);
    }
    say!("churn: {rounds} rounds on {cpus} CPUs");
    // The first round maps what this program had not touched yet.
    round(0, plots[0])?;
    frames::settle();
    let before = inventory()?;
    say!("churn: at hand: {before:?}");

    let ready = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    smp::together(cpus, &|cpu| {
        smp::meet(&ready, cpus);
        for (number, _) in (0..).zip((cpu as u64..rounds).step_by(cpus)) {
            if failed.load(Ordering::SeqCst) {
                return;
            }
            if let Err(why) = round(number, plots[cpu]) {
                failed.store(true, Ordering::SeqCst);
                say!("churn: round {number} of CPU {cpu}: {why}");
            }
            let all = done.fetch_add(1, Ordering::SeqCst) + 1;
            if all.is_multiple_of(1000) {
                say!("churn: {all} rounds");
            }
        }
    });
    require!(!failed.load(Ordering::SeqCst), "a round failed");

    for address in frames::taken() {
        require!(
            access::read(address).is_ok(),
            "page {address:#x} did not come back"
        );
    }
    let after = inventory()?;
    require!(after == before, "{before:?} were at hand, {after:?} are");
    refused!(
        "{rounds} rounds on {cpus} CPUs, all back: {} table frames, {} VMs, {} vCPUs",
        after.table_frames,
        after.vms,
        after.vcpus
    )
}

/// A VM from its beginning to its end. Three of four of a CPU's are protected, and leave nothing behind.
fn round(number: u64, plot: Plot) -> Result<(), Failure> {
    let protected = number % 4 != 3;
    let mut vm = Vm::create(protected, 1)?;
    vm.load_with(plot.ram, plot.run_page)?;
    vm.start(number)?;
    let counted = vm.first().command(Do::Count, &[COUNT])?;
    require!(counted == COUNT, "the guest counted to {counted}");
    vm.first().poke(SECRET_IPA, SECRET)?;
    let secret = vm.secret_pa();
    vm.destroy()?;
    let left = access::read(secret)?;
    require!(
        left == if protected { 0 } else { SECRET },
        "{left:#x} is left of a secret"
    );
    Ok(())
}

/// Takes VM and vCPU slots until there are none, and gives them back.
fn inventory() -> Result<Inventory, Failure> {
    let table_frames = call::info(CoreInfo::PoolFree);
    let mark = frames::mark();
    let mut handles = [0; MOST_VMS];
    let (mut vms, mut vcpus) = (0, 0);
    while vms < MOST_VMS {
        match call::host(HostCall::VmCreate, &[VM_PROTECTED, MAX_VCPUS as u64]) {
            Ok(handle) => handles[vms] = handle,
            Err(Error::NoMemory) => break,
            Err(error) => return Err(error.into()),
        }
        vms += 1;
    }
    'all: for handle in &handles[..vms] {
        for index in 0..MAX_VCPUS as u64 {
            let page = frames::take(1) / PAGE_SIZE;
            match call::host(HostCall::VcpuCreate, &[*handle, index, page]) {
                Ok(_) => vcpus += 1,
                Err(Error::NoMemory) => break 'all,
                Err(error) => return Err(error.into()),
            }
        }
    }
    for handle in &handles[..vms] {
        kill(*handle)?;
    }
    frames::reset_to(mark);
    require!(vcpus == VCPUS, "{vcpus} vCPUs could be made");
    Ok(Inventory {
        table_frames,
        vms,
        vcpus,
    })
}
