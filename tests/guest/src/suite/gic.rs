//! The interrupt controller.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::console::UART;
use crate::cpu::{self, mmio};
use crate::exception::catching;
use crate::gic::{self, PRIORITY, count};
use crate::platform;
use crate::runner::others;
use crate::timer::{spin, wait_for};
use crate::verdict::{Problem, Verdict, check, check_eq, fail};

/// SPIs without a device behind them.
const FREE_SPI: u32 = 60;
const FREE_SPI2: u32 = 61;

/// Takes `intid` once more on `cpu` within a second.
fn arrives(what: &str, cpu: usize, intid: u32, before: u32) -> Verdict {
    if !wait_for(1000, || count(cpu, intid) != before) {
        fail!("{what}: INTID {intid} did not arrive at cpu {cpu} within 1 s");
    }
    check_eq!(
        count(cpu, intid),
        before + 1,
        "{what}: count of INTID {intid} on cpu {cpu}"
    );
    Ok(())
}

/// All sixteen SGIs reach the CPU that sends them to itself.
pub(crate) fn self_sgi() -> Verdict {
    for round in 0..10 {
        for sgi in 0..16 {
            let before = count(0, sgi);
            gic::send(cpu::mpidr(), sgi);
            arrives("SGI to myself", 0, sgi, before)?;
        }
        // SGIs of a GICv2 are always enabled.
        if round == 0 && !gic::is_v2() {
            gic::disable(3);
            let before = count(0, 3);
            gic::send(cpu::mpidr(), 3);
            spin(5);
            check_eq!(count(0, 3), before, "a disabled SGI was taken");
            check!(gic::is_pending(3), "a disabled SGI is not pending");
            gic::enable(3);
            arrives("SGI after enabling", 0, 3, before)?;
        }
    }
    Ok(())
}

/// SGIs reach the CPU they name, and only that; a broadcast reaches all but the sender.
pub(crate) fn sgi() -> Verdict {
    for target in others()? {
        for sgi in 0..15 {
            let before = count(target, sgi);
            let mine = count(0, sgi);
            gic::send(platform::mpidr(target), sgi);
            arrives("SGI", target, sgi, before)?;
            check_eq!(
                count(0, sgi),
                mine,
                "SGI {sgi} for cpu {target} was taken by cpu 0"
            );
        }
    }
    for sgi in 0..15 {
        let mine = count(0, sgi);
        let before: [u32; cpu::MAX_CPUS] = core::array::from_fn(|index| count(index, sgi));
        gic::send_others(sgi);
        for target in others()? {
            arrives("broadcast SGI", target, sgi, before[target])?;
        }
        check_eq!(
            count(0, sgi),
            mine,
            "broadcast SGI {sgi} was taken by its sender"
        );
    }
    Ok(())
}

/// On a GICv2 the receiver of an SGI learns who sent it, and the same SGI from two senders is taken twice.
pub(crate) fn sgi_senders() -> Verdict {
    if !gic::is_v2() {
        return Err(Problem::Skip("a GICv3 does not tell"));
    }
    static FROM: AtomicU32 = AtomicU32::new(0);
    const SGI: u32 = 9;
    let gicd = platform::gicd();
    // GICD_SPENDSGIR and GICD_CPENDSGIR: a byte for each SGI, a bit for each sender.
    let (set, clear) = (gicd + 0xf20 + u64::from(SGI), gicd + 0xf10 + u64::from(SGI));
    gic::hook(
        SGI,
        Some(|_| {
            FROM.fetch_or(1 << gic::last_sender(), Ordering::SeqCst);
        }),
    );
    for round in 0..20 {
        FROM.store(0, Ordering::SeqCst);
        let before = count(0, SGI);
        cpu::mask();
        mmio::write8(set, 0b11);
        let pending = mmio::read8(set);
        if round & 1 == 1 {
            mmio::write8(clear, 0b01);
        }
        let left = mmio::read8(clear);
        cpu::unmask();
        let expected = if round & 1 == 1 { 0b10 } else { 0b11u32 };
        check!(
            wait_for(1000, || FROM.load(Ordering::SeqCst) == expected),
            "from {:#b}, not {expected:#b}",
            FROM.load(Ordering::SeqCst)
        );
        spin(1);
        check_eq!(
            count(0, SGI) - before,
            expected.count_ones(),
            "SGIs taken, one for each sender"
        );
        check_eq!(pending, 0b11, "GICD_SPENDSGIR");
        check_eq!(u32::from(left), expected, "GICD_CPENDSGIR");
    }
    gic::hook(SGI, None);
    Ok(())
}

/// An SGI in group 0 is an FIQ; ICC_SGI0R_EL1 sends it, and none that is in group 1.
pub(crate) fn sgi_group0() -> Verdict {
    if gic::is_v2() {
        return Err(Problem::Skip("a GICv2 has no such register"));
    }
    const SGI: u32 = 7;
    const OTHER: u32 = 8;
    cpu::mask_fiq(true);
    gic::set_group0(SGI, true);
    let other = count(0, OTHER);
    for _ in 0..20 {
        gic::send_group0(OTHER);
        gic::send_group0(SGI);
        check!(
            wait_for(1000, cpu::fiq_pending),
            "no FIQ after ICC_SGI0R_EL1"
        );
        check_eq!(gic::acknowledge_group0(), SGI, "ICC_IAR0_EL1");
        check!(!cpu::fiq_pending(), "an FIQ after its acknowledgement");
        gic::end_group0(SGI);
        spin(1);
        check!(!cpu::fiq_pending(), "the FIQ came twice");
        check!(!gic::is_active(SGI), "still active after its end");
    }
    check_eq!(count(0, OTHER), other, "an SGI of group 1 was taken");
    gic::set_group0(SGI, false);
    cpu::mask_fiq(false);
    let before = count(0, SGI);
    gic::send(cpu::mpidr(), SGI);
    arrives("SGI in group 1 again", 0, SGI, before)
}

/// An SPI without a device: pending by register, enabled and disabled, edge and level, active while
/// handled.
pub(crate) fn spi() -> Verdict {
    check!(
        gic::spis_end() > FREE_SPI2,
        "the distributor has only {} interrupts",
        gic::spis_end()
    );
    static WAS_ACTIVE: AtomicU32 = AtomicU32::new(0);
    gic::set_edge(FREE_SPI, true);
    gic::set_priority(FREE_SPI, PRIORITY);
    gic::route(FREE_SPI, cpu::mpidr());
    check_eq!(gic::routed_to(FREE_SPI), cpu::mpidr(), "GICD_IROUTER");
    check!(
        !gic::is_enabled(FREE_SPI),
        "a disabled SPI reads as enabled"
    );
    let before = count(0, FREE_SPI);
    gic::set_pending(FREE_SPI);
    check!(gic::is_pending(FREE_SPI), "set-pending does not read back");
    spin(5);
    check_eq!(count(0, FREE_SPI), before, "a disabled SPI was taken");
    gic::clear_pending(FREE_SPI);
    check!(
        !gic::is_pending(FREE_SPI),
        "clear-pending does not read back"
    );
    gic::enable(FREE_SPI);
    spin(5);
    check_eq!(
        count(0, FREE_SPI),
        before,
        "an SPI that is not pending was taken"
    );
    gic::hook(
        FREE_SPI,
        Some(|intid| WAS_ACTIVE.store(u32::from(gic::is_active(intid)), Ordering::SeqCst)),
    );
    for round in 0..50 {
        gic::set_pending(FREE_SPI);
        arrives("SPI", 0, FREE_SPI, before + round)?;
    }
    gic::hook(FREE_SPI, None);
    check!(
        WAS_ACTIVE.load(Ordering::SeqCst) == 1,
        "not active while handled"
    );
    check!(!gic::is_active(FREE_SPI), "still active after its end");
    check!(!gic::is_pending(FREE_SPI), "still pending after its end");
    gic::disable(FREE_SPI);
    Ok(())
}

/// The priority mask holds interrupts back, and of two pending ones the more urgent comes first.
pub(crate) fn priority() -> Verdict {
    static ORDER: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    for intid in [FREE_SPI, FREE_SPI2] {
        gic::set_edge(intid, true);
        gic::route(intid, cpu::mpidr());
        gic::enable(intid);
        gic::hook(
            intid,
            Some(|intid| {
                ORDER[NEXT.fetch_add(1, Ordering::SeqCst) & 1].store(intid, Ordering::SeqCst)
            }),
        );
    }
    for (urgent, other) in [(FREE_SPI, FREE_SPI2), (FREE_SPI2, FREE_SPI)] {
        NEXT.store(0, Ordering::SeqCst);
        gic::set_priority(urgent, 0x40);
        gic::set_priority(other, 0x80);
        check_eq!(
            mmio::read8(gic::priority_register(urgent)),
            0x40,
            "priority byte"
        );
        gic::set_mask(0x20);
        gic::set_pending(other);
        gic::set_pending(urgent);
        spin(5);
        check_eq!(
            NEXT.load(Ordering::SeqCst),
            0,
            "taken although masked by priority"
        );
        gic::set_mask(0xff);
        check!(
            wait_for(1000, || NEXT.load(Ordering::SeqCst) == 2),
            "{} of 2 arrived",
            NEXT.load(Ordering::SeqCst)
        );
        check_eq!(ORDER[0].load(Ordering::SeqCst), urgent, "first taken");
        check_eq!(ORDER[1].load(Ordering::SeqCst), other, "second taken");
    }
    for intid in [FREE_SPI, FREE_SPI2] {
        gic::hook(intid, None);
        gic::disable(intid);
    }
    Ok(())
}

/// More interrupts at once than there are list registers: each is taken once, the most urgent first, also
/// one that comes last.
pub(crate) fn many_pending() -> Verdict {
    const FIRST: u32 = FREE_SPI;
    const MANY: u32 = 20;
    static ORDER: [AtomicU32; MANY as usize] = [const { AtomicU32::new(0) }; MANY as usize];
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let record = |intid: u32| {
        let place = NEXT.fetch_add(1, Ordering::SeqCst);
        ORDER[place % ORDER.len()].store(intid, Ordering::SeqCst);
    };
    let all = || FIRST..FIRST + MANY;
    // A permutation; 0x20 to 0xb8 in steps that every implementation tells apart.
    let priority = |intid: u32| (0x20 + (intid - FIRST) * 7 % MANY * 8) as u8;
    for intid in all() {
        gic::set_edge(intid, true);
        gic::route(intid, cpu::mpidr());
        gic::set_priority(intid, priority(intid));
        gic::hook(intid, Some(record));
        gic::enable(intid);
    }
    let urgent = all().min_by_key(|&intid| priority(intid)).unwrap_or(FIRST);
    for round in 0..20u32 {
        NEXT.store(0, Ordering::SeqCst);
        let before: [u32; MANY as usize] = core::array::from_fn(|n| count(0, FIRST + n as u32));
        cpu::mask();
        // In another order each time; the most urgent one when the list registers are full already.
        let turned = all().map(|intid| FIRST + (intid - FIRST + round * 3) % MANY);
        turned
            .filter(|&intid| intid != urgent)
            .for_each(gic::set_pending);
        check!(gic::is_pending(FIRST + 1), "set-pending does not read back");
        gic::set_pending(urgent);
        cpu::unmask();
        let taken = || NEXT.load(Ordering::SeqCst);
        check!(
            wait_for(2000, || taken() >= MANY as usize),
            "{} of {MANY} arrived",
            taken()
        );
        for (n, intid) in all().enumerate() {
            check_eq!(count(0, intid), before[n] + 1, "count of INTID {intid}");
        }
        for (n, pair) in ORDER.windows(2).enumerate() {
            let [a, b] = [&pair[0], &pair[1]].map(|taken| taken.load(Ordering::SeqCst));
            check!(
                priority(a) < priority(b),
                "number {n} taken was INTID {a}, and then the more urgent {b} (round {round})"
            );
        }
    }
    for intid in all() {
        gic::hook(intid, None);
        gic::disable(intid);
        gic::set_priority(intid, PRIORITY);
    }
    Ok(())
}

/// An SPI goes to the CPU that GICD_IROUTER names, also after it was moved.
pub(crate) fn routing() -> Verdict {
    gic::set_edge(FREE_SPI, true);
    gic::set_priority(FREE_SPI, PRIORITY);
    gic::enable(FREE_SPI);
    for _ in 0..20 {
        for target in others()?.chain([0]) {
            gic::route(FREE_SPI, platform::mpidr(target));
            let before = count(target, FREE_SPI);
            gic::set_pending(FREE_SPI);
            arrives("routed SPI", target, FREE_SPI, before)?;
        }
    }
    gic::disable(FREE_SPI);
    Ok(())
}

/// Each CPU has a redistributor with its affinity, and the last one says so.
pub(crate) fn redistributors() -> Verdict {
    if gic::is_v2() {
        return Err(Problem::Skip("a GICv2 has none"));
    }
    for index in 0..platform::cpus() {
        let typer = mmio::read64(gic::redistributor(index) + 8);
        let affinity = typer >> 32;
        check_eq!(
            affinity,
            platform::mpidr(index),
            "affinity of redistributor {index}"
        );
        let last = typer >> 4 & 1 == 1;
        // QEMU's board announces more redistributors than CPUs in one region, but marks the last.
        check!(
            last == (index + 1 == platform::cpus()),
            "GICR_TYPER.Last of redistributor {index} is {last}"
        );
    }
    Ok(())
}

/// Reading every register of the distributor and the redistributors, in three widths, goes on.
pub(crate) fn register_sweep() -> Verdict {
    let mut aborts = 0;
    let mut sweep = |base: u64, bytes: u64| {
        for offset in (0..bytes).step_by(4) {
            // Reserved space repeats itself: after the first page, look at every 16th register.
            let dense = offset & 0xffff < 0x1000 || offset & 0xf000 >= 0xf000;
            if dense || offset % 64 == 0 {
                let taken = catching(|| {
                    mmio::read32(base + offset);
                    mmio::read8(base + offset + 3);
                    if offset % 8 == 0 {
                        mmio::read64(base + offset);
                    }
                });
                aborts += taken.map_or(0, |t| t.count);
            }
        }
    };
    let pidr2 = if let Some(gicc) = platform::gicc() {
        sweep(platform::gicd(), 0x1000);
        // Not GICC_IAR, which takes an interrupt, nor its alias.
        for (from, to) in [(0, 0xc), (0x10, 0x20), (0x24, 0x1000)] {
            sweep(gicc + from, to - from);
        }
        0xfe8
    } else {
        sweep(platform::gicd(), 0x1_0000);
        for index in 0..platform::cpus().min(2) {
            sweep(gic::redistributor(index), 0x2_0000);
        }
        0xffe8
    };
    crate::console::println!("gic-register-sweep: {aborts} accesses aborted");
    let id = mmio::read32(platform::gicd() + pidr2) >> 4 & 0xf;
    check!(
        if gic::is_v2() {
            id == 2
        } else {
            id == 3 || id == 4
        },
        "GICD_PIDR2 names architecture version {id}"
    );
    Ok(())
}

/// The UART's interrupt is level-sensitive: it comes while its cause lasts, and no longer.
pub(crate) fn uart_interrupt() -> Verdict {
    const INTID: u32 = 33;
    const IMSC: u64 = UART + 0x38;
    const ICR: u64 = UART + 0x44;
    const TX: u32 = 1 << 5;
    gic::set_edge(INTID, false);
    gic::set_priority(INTID, PRIORITY);
    gic::route(INTID, cpu::mpidr());
    gic::hook(
        INTID,
        Some(|_| {
            mmio::write32(IMSC, 0);
            mmio::write32(ICR, TX);
        }),
    );
    gic::enable(INTID);
    for _ in 0..20 {
        let before = count(0, INTID);
        mmio::write32(ICR, TX);
        mmio::write32(IMSC, TX);
        mmio::write32(UART, u32::from(b'.'));
        arrives("UART transmit", 0, INTID, before)?;
    }
    mmio::write32(UART, u32::from(b'\n'));
    gic::disable(INTID);
    gic::hook(INTID, None);
    Ok(())
}
