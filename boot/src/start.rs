//! The boot CPU's way from the entry stub to the hand-over.

use crate::handover::{self, Handover};
use crate::panic::{allow_switch_off, refuse};
use crate::{exception, host, image, paging, secondary};
use abi::PAGE_SIZE;
use arch::el2::cpu::now;
use arch::el2::{cache, mmu, psci, redist, uart};
use arch::platform::UartModel;
use boot::carve::{self, Plan, Request};
use boot::info::{BootInfo, CpuStart, Gic, GicV2, MAX_RESERVED, Uart};
use boot::ranges::{List, Range};
use boot::{tree, tree_check};
use core::sync::atomic::AtomicU64;
use core::{ptr, slice};

macro_rules! log {
    ($($message:tt)*) => {
        uart::print(format_args!("[core] {}\n", format_args!($($message)*)))
    };
}

/// First Rust code on the boot CPU: MMU and caches off, image relocated, bss zero.
pub(crate) extern "C" fn boot_main(x0: u64, x2: u64, level: u64) -> ! {
    let boot_ticks = now();
    // Without a tree there is no telling where a UART is: all that can be done is to stop.
    let Some(address) = find_tree(x0, x2, level) else {
        psci::park()
    };
    let (tree, info) = read_tree(address);
    log!(
        "Cloister {} at EL{level}, loaded at {:#x}",
        env!("CARGO_PKG_VERSION"),
        image::start()
    );
    if level != 2 {
        refuse(format_args!(
            "entered at EL{level}; EL2 is needed (QEMU: -M virt,virtualization=on)"
        ));
    }
    if mmu::has_vhe_only() {
        refuse(format_args!(
            "the CPU's EL2 is for VHE only (no FEAT_E2H0): HCR_EL2.E2H stays 1"
        ));
    }
    check_firmware(&info);
    match &info.gic {
        Gic::V3 { .. } => {}
        Gic::V2(gic) => check_gic_v2(gic, &info),
        Gic::Unknown => refuse(format_args!("the device tree names no GICv2 and no GICv3")),
    }
    let tree_range = Range::sized(address, tree.len() as u64);
    let plan = plan(&info, tree_range);
    let regime = paging::start(&info, plan.el2_tables, tree_range);
    uart::start_locking();
    let info = secondary::prepare(regime, &info);
    secondary::wake_interrupts(info);
    report(info, &plan);

    let host = host::install(&plan, tree, &withheld(info, &plan));
    handover::primary(&Handover {
        info,
        frame_table: frame_table(plan.frame_table, info.frames()),
        plan,
        image: image::all(),
        host,
        boot_ticks,
    })
}

/// Where the device tree is, by its magic: in x0, in x2 (U-Boot's 32-bit protocol), or at the start
/// of RAM, which is most likely the start of the gigabyte the image is in, or a little below it.
fn find_tree(x0: u64, x2: u64, level: u64) -> Option<u64> {
    const GIB: u64 = 1 << 30;
    let base = image::start();
    let near = [
        base & !(GIB - 1),
        base.wrapping_sub(2 << 20),
        base.wrapping_sub(0x8_0000),
    ];
    let lower = (1..=3).filter_map(|n| (base & !(GIB - 1)).checked_sub(n * GIB));
    [x0, x2]
        .into_iter()
        .chain(near)
        .chain(lower)
        .find(|&address| {
            // Outside EL2 an abort cannot be caught: only the likeliest are taken at their word.
            let trusted = level == 2 || address == x0 || address == near[0];
            let aligned = address != 0 && address.is_multiple_of(8) && address < 1 << 48;
            if !trusted || !aligned {
                return false;
            }
            if level == 2 {
                cache::clean_invalidate(address, tree_check::HEADER_SIZE as u64);
            }
            exception::probe(address).map(u32::from_be) == Some(tree_check::MAGIC)
        })
}

/// Checks and reads the tree at `address`, and sets the console up.
fn read_tree(address: u64) -> (&'static [u8], BootInfo) {
    // SAFETY: a tree's magic was read there; nothing else refers to the firmware's memory yet.
    let header = unsafe { slice::from_raw_parts(address as *const u8, tree_check::HEADER_SIZE) };
    // Without a size there is no console either.
    let Some(size) = tree_check::total_size(header) else {
        psci::park()
    };
    cache::clean_invalidate(address, size as u64);
    // SAFETY: as above, for the size that the tree itself states; the header reference is dead.
    let tree = unsafe { slice::from_raw_parts_mut(address as *mut u8, size) };
    if let Err(error) = tree_check::normalise(tree) {
        let base = error.pl011;
        install((base != 0).then_some(Uart {
            base,
            model: UartModel::Pl011,
        }));
        refuse(format_args!("{}", tree::ParseError::Structure(error)));
    }
    let info = match tree::parse(tree, redist::mpidr()) {
        Ok(info) => info,
        Err(error) => {
            install(tree::console_of(tree));
            refuse(format_args!("{error}"));
        }
    };
    install(info.uart);
    (tree, info)
}

fn install(console: Option<Uart>) {
    if let Some(uart) = console {
        // SAFETY: the device tree says that this is such a UART; its page gets mapped.
        unsafe { uart::install(uart.model, uart.base) };
    }
}

fn check_firmware(info: &BootInfo) {
    match info.cpu_start {
        CpuStart::PsciSmc => allow_switch_off(),
        CpuStart::PsciHvc => log!("PSCI by HVC does not reach firmware from EL2: one CPU only"),
        other => log!("no PSCI 0.2 or newer ({other:?}): one CPU only"),
    }
    if info.cpu_start == CpuStart::PsciSmc {
        let version = psci::version();
        log!("PSCI {}.{} by SMC", version >> 16, version & 0xffff);
    }
    if info.cpus_in_tree > info.cpus.len() {
        log!(
            "using the first {} of {} CPUs",
            info.cpus.len(),
            info.cpus_in_tree
        );
    }
    if info.ram_dropped != 0 {
        log!(
            "{} KB of RAM are unused: too many pieces",
            info.ram_dropped >> 10
        );
    }
}

/// A GICv2 without virtualization extensions, or without pages of its own for them, is of no use.
fn check_gic_v2(gic: &GicV2, info: &BootInfo) {
    // GICH_VTR, with its priority bits less one at the top: five of them at least.
    const VTR: u64 = 4;
    let vtr = gic.hypervisor.and_then(|gich| exception::probe(gich + VTR));
    if vtr.is_none_or(|vtr| vtr >> 29 < 4) {
        refuse(format_args!(
            "the GICv2 has no virtualization extensions (GICH and GICV)"
        ));
    }
    let gicv = gic.virtual_cpu_interface;
    let is_ram = |range: &Range| info.ram.iter().any(|ram| ram.overlaps(*range));
    if !gicv.is_multiple_of(PAGE_SIZE) || gic.withheld.iter().any(is_ram) {
        refuse(format_args!(
            "GICV at {gicv:#x} is not in pages of its own, or in RAM"
        ));
    }
}

fn plan(info: &BootInfo, tree: Range) -> Plan {
    let image = image::all();
    let limit = 1 << mmu::pa_bits();
    if let Some(last) = info.ram.last().filter(|last| last.end > limit) {
        refuse(format_args!(
            "RAM up to {:#x}, but the CPU's addresses end at {limit:#x}",
            last.end
        ));
    }
    if !info.ram.iter().any(|ram| ram.contains(image)) {
        refuse(format_args!(
            "image {:#x}-{:#x} is not in free RAM",
            image.start, image.end
        ));
    }
    let request = Request {
        ram: &info.ram,
        image,
        busy: &[tree, info.initrd],
        host_total: host::total_size(),
        tree_size: tree.size(),
    };
    match carve::plan(&request) {
        Ok(plan) => plan,
        Err(error) => refuse(format_args!(
            "{} MB of RAM: {error:?}",
            info.ram_total >> 20
        )),
    }
}

fn report(info: &BootInfo, plan: &Plan) {
    let reserved = plan.core().size() + image::all().size();
    // In hundredths of a per cent; RAM is not zero: the image is in it.
    let share = reserved.saturating_mul(10_000) / info.ram_total.max(1);
    log!(
        "CPUs: {}; RAM: {} MB, {} KB reserved by the core ({}.{:02} %)",
        info.cpus.len(),
        info.ram_total >> 20,
        reserved >> 10,
        share / 100,
        share % 100
    );
    for range in info.reserved.iter() {
        log!("reserved by firmware: {:#x}-{:#x}", range.start, range.end);
    }
    match info.gic {
        Gic::V3 {
            distributor,
            redistributors,
            its,
        } => log!(
            "GICv3: GICD {:#x}, GICR {:#x}, {} ITS withheld",
            distributor.start,
            redistributors.first().map_or(0, |row| row.base),
            its.len()
        ),
        Gic::V2(gic) => log!(
            "GICv2: GICD {:#x}, GICH and GICV withheld, VMs have GICV {:#x}",
            gic.distributor,
            gic.virtual_cpu_interface
        ),
        Gic::Unknown => {}
    }
    match info.uart {
        Some(Uart {
            base,
            model: UartModel::Pl011,
        }) => log!("UART: PL011 at {base:#x}"),
        Some(Uart { base, .. }) => log!("UART: 16550 at {base:#x}"),
        None => {}
    }
    if info.initrd.is_empty() {
        log!("no initrd: no bundle of VMs");
    }
}

/// RAM that is neither the hostvisor's now nor ever: the core's, and what firmware reserves.
fn withheld(info: &BootInfo, plan: &Plan) -> List<Range, { MAX_RESERVED + 2 }> {
    let mut list = List::default();
    for &range in [image::all(), plan.core()]
        .iter()
        .chain(info.reserved.iter())
    {
        // It has place for all of them.
        let _ = list.push(range);
    }
    list
}

/// The frame table, zeroed: all frames the core's.
fn frame_table(place: Range, frames: usize) -> &'static [AtomicU64] {
    debug_assert!(frames as u64 * 8 <= place.size());
    let first = place.start as *mut AtomicU64;
    // SAFETY: the planner set aside whole pages of mapped RAM for one entry a frame; zero bytes are a
    // valid AtomicU64, and nothing else refers to this memory, now or later.
    unsafe {
        ptr::write_bytes(first, 0, frames);
        slice::from_raw_parts(first, frames)
    }
}
