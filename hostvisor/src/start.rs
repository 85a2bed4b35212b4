//! From the entry stub to the run loops: discovery, memory, interrupts, the other CPUs, the bundle.

use crate::console::{self, First};
use crate::frames::FRAMES;
use crate::hw::{self, BootInfo};
use crate::machine::{GicInterface, Machine, Region, without};
use crate::seed::Seeds;
use crate::vm::VcpuRef;
use crate::vm::management::Reserved;
use crate::vm::manager::{Manager, core_info};
use crate::{
    clock, cpu, drivers, gic, interrupts, log as host_log, net, random, scan, service, storage,
    uart, vm,
};
use abi::hypercall::CoreInfo;
use abi::{MAX_CPUS, PAGE_SIZE};
use alloc::string::ToString;
use alloc::vec::Vec;
use bundle::Bundle;
use core::sync::atomic::{AtomicU32, Ordering};
use log::{error, info, warn};

/// Heap taken from RAM besides what the boot reserved, at most 1/64 of RAM.
const HEAP: u64 = 16 << 20;
/// How long a CPU may take to start.
const CPU_START_SECONDS: u64 = 2;

/// Private interrupts that every CPU enables, as a mask.
static PPIS: AtomicU32 = AtomicU32::new(0);

/// The first CPU comes here with MMU and initial heap.
pub fn first(boot: BootInfo) -> ! {
    let machine = match read_machine(&boot) {
        Ok(machine) => machine,
        Err(why) => hw::fatal(format_args!("{why}")),
    };
    // RAM first: what is RAM is never mapped as a device.
    for ram in &machine.ram {
        if !hw::map_ram(ram.base, ram.end()) {
            hw::fatal(format_args!(
                "no page tables left for RAM at {:#x}",
                ram.base
            ));
        }
    }
    if let Some(registers) = &machine.uart {
        uart::init(registers);
    }
    clock::set_boot(core_info(CoreInfo::BootTicks));
    host_log::init(clock::micros);
    console::init(uart::write);
    if let Some(rtc) = machine.rtc {
        clock::set_epoch(rtc);
    }
    let abi = core_info(CoreInfo::AbiVersion);
    info!(
        "Cloister hostvisor {} (ABI {}.{})",
        env!("CARGO_PKG_VERSION"),
        abi >> 16,
        abi & 0xffff
    );
    let reserved = memory(&machine, &boot);
    controller(&machine);
    start_cpus(&machine);
    enable_console_input();
    start_devices(&machine);
    if machine.options.debug {
        scan::allow(machine.ram.clone());
    }
    let manager = read_bundle(&machine, reserved);
    service::init(manager);
    cpu_loop(0)
}

/// Any other CPU comes here.
pub fn other(index: usize) -> ! {
    init_cpu(index);
    cpu_loop(index)
}

fn read_machine(boot: &BootInfo) -> Result<Machine, &'static str> {
    // FDT header: magic, totalsize, big-endian.
    let header = hw::boot_bytes(boot.fdt, 8).ok_or("the device tree cannot be read")?;
    let size = header
        .last_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let tree = hw::boot_bytes(boot.fdt, u64::from(size)).ok_or("the device tree cannot be read")?;
    let mut machine = Machine::read(tree).map_err(|missing| missing.as_str())?;
    // The boot CPU is CPU 0, wherever the tree lists it.
    let own = hw::mpidr();
    machine.cpus.sort_by_key(|&mpidr| mpidr != own);
    Ok(machine)
}

/// Makes everything the frame pool that nobody else has.
fn memory(machine: &Machine, boot: &BootInfo) -> Reserved {
    let core = hw::boot_words(boot.core_regions, boot.core_region_count * 2).unwrap_or_default();
    let mut holes: Vec<Region> = core
        .chunks_exact(2)
        .map(|pair| Region {
            base: pair[0],
            size: pair[1],
        })
        .collect();
    holes.push(Region {
        base: boot.image,
        size: boot.reserved,
    });
    holes.extend(&machine.reserved);
    holes.extend(&machine.bundle);
    // The tree and the array behind it have been, or are just being, read: a page each side is kept too.
    let list_end = boot.core_regions + boot.core_region_count * 16;
    holes.push(Region {
        base: boot.fdt,
        size: list_end.saturating_sub(boot.fdt).max(PAGE_SIZE),
    });
    let heap = add_heap(&without(&machine.ram, &holes), machine.ram_bytes());
    holes.extend(heap);
    let mut frames = FRAMES.lock();
    for region in without(&machine.ram, &holes) {
        // Stage 1 maps whole 2 MiB blocks of RAM only.
        let ram = machine
            .ram
            .iter()
            .find(|r| r.base <= region.base && region.end() <= r.end());
        let Some(ram) = ram else { continue };
        let start = region
            .base
            .max(ram.base.next_multiple_of(2 << 20))
            .next_multiple_of(PAGE_SIZE);
        let end = region.end().min(ram.end() & !((2 << 20) - 1)) & !(PAGE_SIZE - 1);
        if start < end {
            if hw::pool_add(start, end) {
                frames.add(start, end);
            } else {
                warn!("RAM at {start:#x} is left unused: too many separate ranges");
            }
        }
    }
    let (ram, kept) = (
        core_info(CoreInfo::RamFrames) * PAGE_SIZE,
        core_info(CoreInfo::CoreFrames) * PAGE_SIZE,
    );
    let ram = if ram == 0 { machine.ram_bytes() } else { ram };
    info!(
        "memory: {} MB, corevisor {} KB ({}.{:02} %), free for VMs {} MB",
        ram >> 20,
        kept >> 10,
        kept * 100 / ram.max(1),
        kept * 10_000 / ram.max(1) % 100,
        (frames.free() * PAGE_SIZE) >> 20
    );
    Reserved { ram, core: kept }
}

/// Takes memory for the heap from the first free range that is large enough.
fn add_heap(free: &[Region], ram: u64) -> Option<Region> {
    const BLOCK: u64 = 2 << 20;
    let size = HEAP.min(ram / 64) & !(BLOCK - 1);
    let region = free
        .iter()
        .map(|r| Region {
            base: r.base.next_multiple_of(BLOCK),
            size,
        })
        .find(|h| size != 0 && free.iter().any(|r| r.base <= h.base && h.end() <= r.end()))?;
    hw::heap_add(region.base, region.size).then_some(region)
}

fn controller(machine: &Machine) {
    if !gic::init(&machine.gic) {
        hw::fatal(format_args!("the GIC's registers cannot be mapped"));
    }
    for (index, &mpidr) in machine.cpus.iter().take(MAX_CPUS).enumerate() {
        cpu::get(index).mpidr.store(mpidr, Ordering::Relaxed);
        if !gic::find_cpu(&machine.gic, index, mpidr) {
            error!("CPU {index}: no GIC redistributor for MPIDR {mpidr:#x}");
        }
    }
    gic::set_vtimer(core_info(CoreInfo::VtimerIntid));
    let ppis = [
        Some(machine.timer),
        Some(gic::vtimer()),
        Some(machine.gic.maintenance),
    ];
    let mask = ppis
        .iter()
        .flatten()
        .fold(0, |mask, &ppi| mask | 1u32.unbounded_shl(ppi));
    PPIS.store(mask, Ordering::Relaxed);
    interrupts::set_timer(machine.timer);
    let lists = core_info(CoreInfo::ListRegisters);
    vm::run::set_list_registers(lists as usize);
    let distributor = machine.gic.distributor.base;
    match &machine.gic.interface {
        GicInterface::Redistributors(rows) => info!(
            "GICv3: distributor {distributor:#x}, {} redistributor region(s), {lists} list registers",
            rows.len()
        ),
        GicInterface::Memory {
            gicc,
            hw_deactivates,
        } => info!(
            "GICv2: distributor {distributor:#x}, CPU interfaces {:#x}, {lists} list registers{}",
            gicc.base,
            if *hw_deactivates {
                ""
            } else {
                ", guests' timers end by maintenance interrupt"
            }
        ),
    }
}

fn init_cpu(index: usize) {
    hw::timer_init();
    gic::init_cpu(index, PPIS.load(Ordering::Relaxed));
    cpu::SCHEDULER.add_cpu(index);
    cpu::get(index).online.store(true, Ordering::Release);
}

/// Starts the other CPUs by PSCI, one after the other.
fn start_cpus(machine: &Machine) {
    cpu::SCHEDULER.set_millisecond(hw::frequency() / 1000);
    init_cpu(0);
    for (index, &mpidr) in machine.cpus.iter().enumerate().take(MAX_CPUS).skip(1) {
        let code = hw::start_cpu(index, mpidr);
        let deadline = hw::now() + CPU_START_SECONDS * hw::frequency();
        while code == 0 && !cpu::get(index).online.load(Ordering::Acquire) && hw::now() < deadline {
            hw::relax();
        }
        if !cpu::get(index).online.load(Ordering::Acquire) {
            error!("CPU {index} (MPIDR {mpidr:#x}) did not start: PSCI code {code}");
        }
    }
    let frequency = hw::frequency();
    info!(
        "CPUs: {} of {} online, counter {} kHz",
        cpu::online(),
        machine.cpus.len(),
        frequency / 1000
    );
    if machine.cpus.len() > MAX_CPUS {
        warn!("only {MAX_CPUS} CPUs are used");
    }
}

fn enable_console_input() {
    if let Some(intid) = uart::enable_receive() {
        gic::enable_spi(intid, hw::mpidr());
    }
}

/// Drives the machine's disks and network devices.
fn start_devices(machine: &Machine) {
    let devices = drivers::probe::all(machine);
    let mut lines = storage::machine::init(devices.disks);
    lines.extend(net::machine::init(devices.nics));
    interrupts::install(lines);
}

fn read_bundle(machine: &Machine, reserved: Reserved) -> Manager {
    let bytes = machine.bundle.and_then(|b| hw::boot_bytes(b.base, b.size));
    let entries = match bytes {
        None => {
            error!("bundle: there is none (no initrd in the machine's device tree)");
            Vec::new()
        }
        Some(bytes) => {
            let (bundle, fault) = Bundle::salvage(bytes);
            if let Some(fault) = fault {
                error!("bundle: {fault}");
            }
            info!("bundle: {} VMs, {} KB", bundle.vms.len(), bytes.len() >> 10);
            bundle.vms
        }
    };
    random::seed(&machine.seed);
    net::machine::join(entries.iter().flatten().map(|entry| &entry.manifest));
    let manager = Manager::new(
        entries,
        machine.options.clone(),
        Seeds::new(&machine.seed),
        reserved,
    );
    let names = manager.names();
    let first = match machine.options.console.as_deref() {
        Some("shell") => First::Shell,
        Some(name) => match names.iter().position(|n| n == name) {
            Some(index) => First::Vm(index),
            None => {
                error!("console={name}: no VM of that name");
                First::Shell
            }
        },
        None if manager.any_autostart() => First::Any,
        None => First::Shell,
    };
    let names = names.iter().map(ToString::to_string).collect();
    console::define(names, first);
    console::start_shell();
    manager
}

/// One CPU's life.
fn cpu_loop(me: usize) -> ! {
    let this = cpu::get(me);
    let mut slept = false;
    loop {
        interrupts::poll(me);
        this.run_timers();
        if core::mem::take(&mut slept) {
            // Only now: whom these have woken and was here last came here, and not to another CPU that sleeps.
            cpu::SCHEDULER.leave_idle(me);
        }
        if me == 0 {
            service::turn();
        }
        match cpu::SCHEDULER.pick(me, hw::now()).or_else(|| sleep(me)) {
            Some(task) => vm::run::run(me, task),
            None => slept = true,
        }
    }
}

/// Sleeps until there is an interrupt, unless there is work: a vCPU, if it answers one. Whoever has slept counts as idle
/// still.
fn sleep(me: usize) -> Option<VcpuRef> {
    if me == 0 && service::has_work() {
        return None;
    }
    let start = hw::now();
    if let Some(task) = cpu::SCHEDULER.enter_idle(me, start) {
        return Some(task);
    }
    let this = cpu::get(me);
    this.asleep_since.store(start, Ordering::Relaxed);
    hw::wait_for_interrupt();
    this.asleep_since.store(0, Ordering::Relaxed);
    cpu::count(&this.idle_ticks, hw::now().wrapping_sub(start));
    None
}
