//! From boot to corevisor: the machine's facts and memory in the corevisor's terms.

use crate::hardware::Hardware;
use crate::host::HostEntry as HostImage;
use crate::panic::refuse;
use abi::{MAX_CPUS, Pfn, PhysAddr};
use arch::descriptor::Access;
use arch::el2::cpu::{El2Cpu, feature_registers};
use arch::el2::{memory::El2Memory, redist};
use boot::carve::Plan;
use boot::info::{BootInfo, Gic, MAX_RAM};
use boot::ranges::{List, Range};
use core::sync::atomic::AtomicU64;
use corevisor::config::Config;
use corevisor::core::{Core, HostEntry};
use corevisor::frame_table::{FrameTable, RamRegion};
use corevisor::ownership::Ownership;
use corevisor::pool::Pool;
use corevisor::restricted::{MAX_RESTRICTED, Restricted, RestrictedRegions};
use corevisor::vcpu_slot::{self, VcpuSlot};
use corevisor::vm::Vms;
use corevisor::{host, idregs};
use spin::Once;

/// MPIDR_EL1's affinity fields.
const MPIDR_AFFINITY: u64 = 0xff_00ff_ffff;
/// Free pieces of RAM: the core takes two out.
const MAX_PIECES: usize = MAX_RAM + 4;

static HARDWARE: Once<Hardware> = Once::new();
static CORE: Once<Core<Hardware>> = Once::new();
static VMS: Vms = Vms::new();
static VCPUS: [VcpuSlot; vcpu_slot::SLOTS] = [const { VcpuSlot::new() }; vcpu_slot::SLOTS];

/// Everything the corevisor starts from.
pub(crate) struct Handover {
    /// What the device tree says. CPU 0 of its list is the one that runs.
    pub(crate) info: &'static BootInfo,
    /// One zeroed entry for each frame of `info.ram`, in that order.
    pub(crate) frame_table: &'static [AtomicU64],
    /// Where everything lies.
    pub(crate) plan: Plan,
    /// The payload image: text, data, stacks.
    pub(crate) image: Range,
    /// How to enter the hostvisor.
    pub(crate) host: HostImage,
    /// CNTPCT at entry.
    pub(crate) boot_ticks: u64,
}

/// The boot CPU is ready: EL2, MMU and caches on, interrupts masked.
pub(crate) fn primary(handover: &Handover) -> ! {
    let info = handover.info;
    // SAFETY: called once on this CPU, at EL2, on its final stack.
    let mut cpu = unsafe { El2Cpu::new(gich(info)) };
    let hardware = HARDWARE.call_once(|| {
        let mut ram = [(Pfn(0), 0); MAX_RAM];
        for (slot, range) in ram.iter_mut().zip(info.ram.iter()) {
            *slot = (
                Pfn::of(PhysAddr(range.start)),
                range.size() / abi::PAGE_SIZE,
            );
        }
        // SAFETY: `paging` mapped these regions one to one and writable, but for the image's text and
        // constants and the stacks' guard pages, which stay in state Core like all of the image.
        Hardware::new(unsafe { El2Memory::new(ram) }, info)
    });
    let memory = memory(handover, hardware);
    let config = config(handover, &cpu, &memory);
    let core = CORE.call_once(|| Core::new(memory, &VMS, &VCPUS, config));
    let entry = HostEntry {
        pc: handover.host.entry,
        x: handover.host.x,
    };
    host::run(core, &mut cpu, 0, entry)
}

/// Where GICH is, on a machine with a GICv2. `paging` mapped it.
const fn gich(info: &BootInfo) -> Option<u64> {
    match &info.gic {
        Gic::V2(gic) => gic.hypervisor,
        Gic::V3 { .. } | Gic::Unknown => None,
    }
}

/// CPU `index` is ready in the same way.
pub(crate) fn secondary(index: usize, info: &BootInfo) -> ! {
    let Some((core, own)) = CORE
        .get()
        .and_then(|core| Some((core, core.cpus.get(index)?)))
    else {
        refuse(format_args!("CPU {index} came up before the boot CPU"))
    };
    if !HARDWARE.get().is_some_and(Hardware::suits_this_cpu) {
        refuse(format_args!(
            "CPU {index} has other cache lines or zeroes other blocks than the boot CPU"
        ));
    }
    // SAFETY: called once on this CPU after each start, at EL2, on its final stack.
    let mut cpu = unsafe { El2Cpu::new(gich(info)) };
    host::run(core, &mut cpu, index, own.arrive())
}

fn memory(handover: &Handover, hardware: &'static Hardware) -> Ownership<'static, Hardware> {
    let info = handover.info;
    let mut regions = List::<RamRegion, MAX_RAM>::default();
    let mut free = List::<Range, MAX_PIECES>::default();
    for range in info.ram.iter() {
        let region = RamRegion {
            base: Pfn::of(PhysAddr(range.start)),
            frames: range.size() / abi::PAGE_SIZE,
        };
        if regions.push(region).is_err() || free.push(*range).is_err() {
            refuse(format_args!("too many pieces of RAM"));
        }
    }
    free.subtract(handover.image);
    free.subtract(handover.plan.core());
    let pool = handover.plan.pool;
    let built = FrameTable::new(handover.frame_table, &regions).and_then(|frames| {
        let base = Pfn::of(PhysAddr(pool.start));
        let pool = Pool::new(hardware, base, pool.size() / abi::PAGE_SIZE);
        let mut memory =
            Ownership::new(frames, pool, restricted(info)?, arch::el2::mmu::pa_range())?;
        for range in free.iter() {
            memory.grant_host(
                Pfn::of(PhysAddr(range.start)),
                range.size() / abi::PAGE_SIZE,
            )?;
        }
        Ok(memory)
    });
    match built {
        Ok(memory) => memory,
        Err(error) => refuse(format_args!("cannot set up memory: {error:?}")),
    }
}

/// What is not RAM to share out and not the hostvisor's either: memory that firmware keeps, and MMIO
/// that writes memory. Its interrupts the hostvisor keeps:
/// redistributors are readable, boot has woken them, and their SGI frames are all its own.
fn restricted(info: &BootInfo) -> Result<RestrictedRegions, abi::Error> {
    let none = Restricted {
        base: PhysAddr(0),
        size: 0,
        access: Access::None,
    };
    let mut list = [none; MAX_RESTRICTED];
    let mut count = 0;
    // Counts those without room too, so that they are noticed.
    let mut add = |base: u64, size: u64, access: Access| {
        if let Some(slot) = list.get_mut(count) {
            *slot = Restricted {
                base: PhysAddr(base),
                size,
                access,
            };
        }
        count += 1;
    };
    // RAM that firmware keeps is in no frame table; without this it would pass for MMIO.
    for range in info.reserved.iter().chain(info.withheld.iter()) {
        add(range.start, range.size(), Access::None);
    }
    match &info.gic {
        Gic::V3 {
            redistributors,
            its,
            ..
        } => {
            // GICR_PROPBASER, GICR_PENDBASER and GICR_CTLR.EnableLPIs are in RD_base; GICR_VPROPBASER and
            // GICR_VPENDBASER in VLPI_base.
            // SAFETY: the tree says that these are redistributors; they are mapped as device memory.
            for frame in unsafe { redist::frames(redistributors) } {
                add(frame.rd_base, redist::RD_SIZE, Access::ReadOnly);
                if frame.virtual_lpis() {
                    add(
                        frame.rd_base + 2 * redist::RD_SIZE,
                        2 * redist::RD_SIZE,
                        Access::None,
                    );
                }
            }
            for range in its.iter() {
                add(range.start, range.size(), Access::None);
            }
        }
        Gic::V2(gic) => {
            for range in gic.withheld.iter() {
                add(range.start, range.size(), Access::None);
            }
        }
        Gic::Unknown => {}
    }
    RestrictedRegions::new(list.get(..count).ok_or(abi::Error::NoMemory)?)
}

fn config(handover: &Handover, cpu: &El2Cpu, memory: &Ownership<'static, Hardware>) -> Config {
    let info = handover.info;
    let mut mpidr = [0; MAX_CPUS];
    for (slot, cpu) in mpidr.iter_mut().zip(info.cpus.iter()) {
        *slot = cpu.mpidr & MPIDR_AFFINITY;
    }
    let core_bytes = handover.image.size() + handover.plan.core().size();
    Config {
        mpidr,
        cpus: info.cpus.len(),
        list_registers: cpu.list_registers(),
        gicv: match &info.gic {
            Gic::V2(gic) => Some(PhysAddr(gic.virtual_cpu_interface)),
            Gic::V3 { .. } | Gic::Unknown => None,
        },
        vtimer_intid: u64::from(info.timers.virtual_),
        id_registers: idregs::sanitise_all(&feature_registers()),
        ram_frames: memory.frames().ram_frames(),
        core_frames: core_bytes / abi::PAGE_SIZE,
        boot_ticks: handover.boot_ticks,
    }
}
