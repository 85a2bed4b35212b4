//! Ownership against an independent model, under the simulated machine's eyes; attacks by name; and
//! several CPUs at once.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test code"
)]

use super::*;
use crate::frame_table::RamRegion;
use crate::restricted::Restricted;
use crate::sim::{Machine, Setup};
use abi::PhysAddr;
use arch::hal::{Memory, Stage2Regs};
use core::sync::atomic::{AtomicU64, Ordering};
use proptest::prelude::*;

mod model;
mod stress;

const CORE_FRAMES: u64 = 256;
const A: u64 = 0x4_0000;
const B: u64 = 0x8_0003;
/// Two regions; the second neither starts nor ends with a 2 MiB block.
const RAM: [RamRegion; 2] = [
    RamRegion {
        base: Pfn(A),
        frames: 2048,
    },
    RamRegion {
        base: Pfn(B),
        frames: 1100,
    },
];
const RESTRICTED: [Restricted; 2] = [
    Restricted {
        base: PhysAddr(0x080A_0000),
        size: 0x1_0000,
        access: Access::ReadOnly,
    },
    Restricted {
        base: PhysAddr(0x0808_0000),
        size: 0x2_0000,
        access: Access::None,
    },
];
const VM1: VmId = VmId(1);
const VM2: VmId = VmId(2);

fn ipa(page: u64) -> Ipa {
    Ipa(page << PAGE_SHIFT)
}

fn small() -> Setup {
    Setup::new(&RAM)
}

fn boot(setup: &Setup) -> Ownership<'_, Machine> {
    setup.boot(CORE_FRAMES, 128, &RESTRICTED, 4)
}

/// A VM's table, under watch.
fn vm(setup: &Setup, own: &Ownership<'_, Machine>, vmid: u8) -> Stage2 {
    let table = own.new_vm_table(vmid, None).unwrap();
    setup.machine.watch(table.regs());
    table
}

fn destroy(setup: &Setup, own: &Ownership<'_, Machine>, vm: &mut Stage2) {
    let regs = vm.regs();
    while own.teardown(vm, 2) == Err(Error::Again) {}
    setup.machine.unwatch(regs);
}

fn state(own: &Ownership<'_, Machine>, pfn: u64) -> Option<State> {
    own.frames().entry(Pfn(pfn)).and_then(Entry::state)
}

const GICV: PhysAddr = PhysAddr(0x0804_F000);

/// A VM on a machine with a GICv2 has its two pages of GICV from the start, as a device, and they stay
/// where they are whatever the hostvisor and the VM ask for.
#[test]
fn a_vm_has_gicv_and_nothing_moves_it() {
    let setup = small();
    let own = boot(&setup);
    let free = own.pool().free_count();
    let mut table = own.new_vm_table(1, Some(GICV)).unwrap();
    let page = |n: u64| Ipa(GICC_IPA.0 + (n << PAGE_SHIFT));
    let whole = |table: &Stage2| {
        [0, 1, 2].map(|n| {
            let mapping = table.walk(own.pool(), page(n));
            mapping.map(|m| (m.pa.0, m.attributes == Attributes::DEVICE))
        })
    };
    let expected = [Some((GICV.0, true)), Some((GICV.0 + PAGE_SIZE, true)), None];
    assert_eq!(whole(&table), expected);
    let ram = Pfn(A + CORE_FRAMES);
    for first in [page(0), page(1)] {
        assert_eq!(
            own.donate(&mut table, VM1, first, ram, 1),
            Err(Error::Exists)
        );
        assert_eq!(own.lend(&mut table, VM1, first, ram, 1), Err(Error::Exists));
        assert_eq!(
            own.unmap_lent(&mut table, VM1, first, 1),
            Err(Error::Denied)
        );
        assert_eq!(own.vm_share(&mut table, VM1, first), Err(Error::Denied));
        assert_eq!(own.vm_unshare(&mut table, VM1, first), Err(Error::Denied));
        assert_eq!(own.vm_mark_mmio(&mut table, first), Err(Error::Exists));
    }
    assert_eq!(own.reclaim(VM1, Pfn::of(GICV), 1), Err(Error::Denied));
    assert_eq!(whole(&table), expected);
    while own.teardown(&mut table, 2) == Err(Error::Again) {}
    assert_eq!(own.pool().free_count(), free);
}

/// A page that the VM has named as a device's makes a table that maps nothing: memory comes there all the
/// same, and as a block.
#[test]
fn a_page_named_as_a_devices_keeps_no_memory_out() {
    for named in [0, 5, 511] {
        let setup = small();
        let own = boot(&setup);
        let mut table = vm(&setup, &own, 1);
        own.vm_mark_mmio(&mut table, ipa(512 + named)).unwrap();
        let donated = own.donate(&mut table, VM1, ipa(512), Pfn(A + 512), 512);
        assert_eq!(donated, Ok(512));
        let mapping = table.walk(own.pool(), ipa(512 + named)).unwrap();
        assert_eq!(
            (mapping.pa, mapping.size),
            (Pfn(A + 512 + named).base(), 2 << 20)
        );
        assert!(!table.is_mmio(own.pool(), ipa(512 + named)));
        assert!(setup.machine.complaints().is_empty());
        destroy(&setup, &own, &mut table);
    }
}

/// Nothing is named in a table that is being torn down, and a table that is gone is not walked.
#[test]
fn a_table_that_ends_takes_no_marks() {
    let setup = small();
    let own = boot(&setup);
    let mut table = vm(&setup, &own, 1);
    own.donate(&mut table, VM1, ipa(0), Pfn(A + 512), 3)
        .unwrap();
    let late = |own: &Ownership<'_, Machine>, table: &mut Stage2| {
        assert_eq!(own.vm_mark_mmio(table, ipa(8)), Err(Error::BadState));
        assert!(!table.is_mmio(own.pool(), ipa(8)));
        assert!(table.walk(own.pool(), ipa(0)).is_none());
        assert_eq!(own.vm_share(table, VM1, ipa(0)), Err(Error::Denied));
    };
    // Nor is one walked beyond its end.
    assert!(table.walk(own.pool(), ipa(0)).is_some());
    for beyond in [Ipa(table.limit()), Ipa(u64::MAX)] {
        assert!(table.walk(own.pool(), beyond).is_none());
        assert!(!table.is_mmio(own.pool(), beyond));
    }
    assert_eq!(own.teardown(&mut table, 0), Err(Error::Again));
    late(&own, &mut table);
    assert_eq!(own.teardown(&mut table, 9), Ok(()));
    late(&own, &mut table);
}

/// Where table frames are short, a VM that cannot have GICV has nothing.
#[test]
fn a_vm_without_room_for_gicv_leaves_nothing_behind() {
    let setup = small();
    let own = boot(&setup);
    let mut taken = Vec::new();
    loop {
        let free = own.pool().free_count();
        match own.new_vm_table(1, Some(GICV)) {
            Ok(table) => taken.push(table),
            Err(error) => {
                assert_eq!((error, own.pool().free_count()), (Error::NoMemory, free));
                break;
            }
        }
        // So that every remainder is met.
        if taken.len() % 2 == 0 {
            taken.extend(own.new_vm_table(1, None).ok());
        }
    }
    assert!(own.pool().free_count() < 3);
}

#[test]
fn boot_maps_the_hostvisor_with_the_largest_blocks() {
    let setup = Setup::new(&[RamRegion {
        base: Pfn(A),
        frames: 2 * PAGES_1G,
    }]);
    let own = boot(&setup);
    setup.machine.watch(own.host_regs());
    let size = |page| own.host_walk(ipa(page)).map(|m| (m.pa.0 >> 12, m.size));
    assert_eq!(size(A + 255), None);
    assert_eq!(size(A + 256), Some((A + 256, 4 << 10)));
    assert_eq!(size(A + 512), Some((A + 512, 2 << 20)));
    assert_eq!(size(A + PAGES_1G + 5), Some((A + PAGES_1G + 5, 1 << 30)));
    assert_eq!(size(A + 2 * PAGES_1G), None);
    assert!(setup.machine.complaints().is_empty());
}

#[test]
fn boot_maps_what_it_grants_and_nothing_beyond() {
    let setup = small();
    // Starts and ends within blocks.
    let core = 1200;
    let own = setup.boot(core, 128, &RESTRICTED, 4);
    for page in (A - PAGES_2M..A + 3072).chain(B - PAGES_2M..B + 2048) {
        let leads = own.host_walk(ipa(page)).map(|mapping| mapping.pa.0);
        let granted = state(&own, page) == Some(State::Host);
        assert_eq!(leads, granted.then_some(page << PAGE_SHIFT), "{page:#x}");
    }
    assert_eq!(state(&own, A + core - 1), Some(State::Core));
}

#[test]
fn the_hostvisors_blocks_come_back_after_a_vm_is_gone() {
    let setup = Setup::new(&[RamRegion {
        base: Pfn(A),
        frames: 2 * PAGES_1G,
    }]);
    let own = boot(&setup);
    setup.machine.watch(own.host_regs());
    let free = own.pool().free_count();
    let mut table = vm(&setup, &own, 1);
    let first = A + PAGES_1G + 3 * PAGES_2M;
    assert_eq!(
        own.donate(&mut table, VM1, ipa(A), Pfn(first), 512),
        Ok(512)
    );
    assert_eq!(
        own.donate(&mut table, VM1, ipa(A + 600), Pfn(first + 600), 3),
        Ok(3)
    );
    assert_eq!(
        table.walk(own.pool(), ipa(A)).map(|m| m.size),
        Some(2 << 20)
    );
    let size = |page| own.host_walk(ipa(page)).map(|m| m.size);
    assert_eq!(size(first), None);
    assert_eq!(size(first + 599), Some(4 << 10));
    assert_eq!(size(first + 2 * PAGES_2M), Some(2 << 20));
    assert_eq!(own.host_fault(ipa(first), 0), Err(Error::Denied));
    destroy(&setup, &own, &mut table);
    assert_eq!(own.reclaim(VM1, Pfn(first), 512), Ok(512));
    assert_eq!(own.host_fault(ipa(first + 9), 1), Ok(()));
    assert_eq!(size(first), Some(2 << 20), "one fault, one block");
    assert_eq!(own.reclaim(VM1, Pfn(first + 600), 3), Ok(3));
    assert_eq!(own.host_fault(ipa(first + 601), 1), Ok(()));
    assert_eq!(size(first), Some(1 << 30), "merged up to where it was");
    assert_eq!(own.pool().free_count(), free);
    assert!(
        setup.machine.complaints().is_empty(),
        "{:?}",
        setup.machine.complaints()
    );
}

#[test]
fn donating_a_whole_block_costs_one_invalidation() {
    let setup = small();
    let own = boot(&setup);
    setup.machine.watch(own.host_regs());
    let mut table = vm(&setup, &own, 1);
    let before = setup.machine.invalidations.load(Ordering::Relaxed);
    assert_eq!(
        own.donate(&mut table, VM1, ipa(0x4_0000), Pfn(A + 512), 512),
        Ok(512)
    );
    assert_eq!(
        setup.machine.invalidations.load(Ordering::Relaxed) - before,
        1
    );
    assert_eq!(
        setup.machine.tables(table.regs()),
        2,
        "root and one level-2 table"
    );
}

#[test]
fn what_is_not_the_hostvisors_cannot_be_given() {
    let setup = small();
    let own = boot(&setup);
    let (mut one, mut two) = (vm(&setup, &own, 1), vm(&setup, &own, 2));
    assert_eq!(own.donate(&mut one, VM1, ipa(0), Pfn(A + 300), 1), Ok(1));
    assert_eq!(own.donate(&mut one, VM1, ipa(1), Pfn(A + 301), 1), Ok(1));
    assert_eq!(own.vm_share(&mut one, VM1, ipa(1)), Ok(()));
    assert_eq!(own.lend(&mut one, VM1, ipa(2), Pfn(A + 302), 1), Ok(1));
    assert_eq!(own.take_run_page(VM1, Pfn(A + 303)), Ok(()));
    for (pfn, what) in [
        (A, "core image"),
        (A + 200, "page-table pool"),
        (A + 300, "private"),
        (A + 301, "shared"),
        (A + 302, "lent"),
        (A + 303, "run page"),
        (0x8000, "MMIO"),
        (A + 2048, "first frame beyond RAM"),
        (B - 1, "last frame before RAM"),
        ((1 << 36) - 1, "last frame there is"),
    ] {
        assert_eq!(
            own.donate(&mut two, VM2, ipa(9), Pfn(pfn), 1),
            Err(Error::Denied),
            "{what}"
        );
        assert_eq!(
            own.lend(&mut two, VM2, ipa(9), Pfn(pfn), 1),
            Err(Error::Denied),
            "{what}"
        );
        assert_eq!(
            own.take_run_page(VM2, Pfn(pfn)),
            Err(Error::Denied),
            "{what}"
        );
        assert_eq!(
            own.donate(&mut one, VM1, ipa(9), Pfn(pfn), 1),
            Err(Error::Denied),
            "{what}"
        );
    }
    assert_eq!(own.release_run_page(VM2, Pfn(A + 303)), Err(Error::Denied));
    assert_eq!(
        own.reclaim(VM1, Pfn(A + 303), 1),
        Err(Error::Denied),
        "run pages have their own way"
    );
    assert_eq!(
        own.reclaim(VM2, Pfn(A + 300), 3),
        Err(Error::Denied),
        "another VM's"
    );
    assert_eq!(
        own.reclaim(VM1, Pfn(A), 1),
        Err(Error::Denied),
        "the core's"
    );
    assert_eq!(
        own.vm_share(&mut two, VM2, ipa(9)),
        Err(Error::Denied),
        "maps nothing"
    );
    assert_eq!(
        own.unmap_lent(&mut one, VM1, ipa(0), 1),
        Err(Error::Denied),
        "was donated"
    );
}

#[test]
fn malformed_ranges_are_refused() {
    let setup = small();
    let own = boot(&setup);
    let mut table = vm(&setup, &own, 1);
    let end = 1 << (VM_IPA_BITS - PAGE_SHIFT);
    for (at, pfn, count) in [
        (ipa(0), Pfn(A + 300), 0),
        (Ipa(0x800), Pfn(A + 300), 1),
        (ipa(end), Pfn(A + 300), 1),
        (ipa(end - 1), Pfn(A + 300), 2),
        (Ipa(!0xFFF), Pfn(A + 300), 1),
        (ipa(5), Pfn(A + 300), u64::MAX),
        (ipa(0), Pfn(1 << 36), 1),
        (ipa(0), Pfn(u64::MAX), 1),
        (ipa(0), Pfn(u64::MAX - 1), 5),
    ] {
        assert_eq!(
            own.donate(&mut table, VM1, at, pfn, count),
            Err(Error::Invalid)
        );
        assert_eq!(
            own.lend(&mut table, VM1, at, pfn, count),
            Err(Error::Invalid)
        );
        if pfn == Pfn(A + 300) {
            assert_eq!(
                own.unmap_lent(&mut table, VM1, at, count),
                Err(Error::Invalid)
            );
        } else {
            assert_eq!(own.reclaim(VM1, pfn, count), Err(Error::Invalid));
        }
    }
    assert_eq!(own.reclaim(VM1, Pfn(A), 0), Err(Error::Invalid));
    assert_eq!(
        own.vm_share(&mut table, VM1, Ipa(0x800)),
        Err(Error::Invalid)
    );
    assert_eq!(
        own.vm_unshare(&mut table, VM1, ipa(end)),
        Err(Error::Invalid)
    );
    assert_eq!(
        own.donate(&mut table, VM1, ipa(end - 1), Pfn(A + 300), 1),
        Ok(1),
        "the last page is fine"
    );
}

#[test]
fn a_long_call_does_a_part_and_can_be_resumed() {
    let setup = small();
    let own = boot(&setup);
    let mut table = vm(&setup, &own, 1);
    let (at, first) = (ipa(7), A + 300);
    assert_eq!(
        own.donate(&mut table, VM1, at, Pfn(first), 700),
        Ok(MAX_FRAMES_PER_CALL)
    );
    assert_eq!(
        own.donate(&mut table, VM1, ipa(7 + 512), Pfn(first + 512), 188),
        Ok(188)
    );
    assert_eq!(
        own.donate(&mut table, VM1, ipa(2000), Pfn(A + 2046), 9),
        Ok(2),
        "RAM ends"
    );
    assert_eq!(
        own.donate(&mut table, VM1, ipa(5), Pfn(A + 1500), 9),
        Ok(2),
        "IPA 7 is taken"
    );
    assert_eq!(
        own.donate(&mut table, VM1, ipa(7), Pfn(A + 1600), 9),
        Err(Error::Exists)
    );
}

/// What lies scattered, in memory or over the VM's blocks, comes back in one call.
#[test]
fn frames_come_back_wherever_they_lie() {
    let setup = small();
    let own = boot(&setup);
    let mut table = vm(&setup, &own, 1);
    let (first, at) = (A + 600, 510);
    // Pages 510 to 515, in two blocks of the VM's, and no frame beside its neighbour's.
    for n in 0..6 {
        let pfn = Pfn(first + 5 * n);
        assert_eq!(own.lend(&mut table, VM1, ipa(at + n), pfn, 1), Ok(1));
    }
    assert_eq!(own.unmap_lent(&mut table, VM1, ipa(at), 6), Ok(6));
    for n in 0..6 {
        assert_eq!(state(&own, first + 5 * n), Some(State::Host));
        assert!(table.walk(own.pool(), ipa(at + n)).is_none());
    }
    // Private, shared, lent, private: some are to be zeroed and some are not.
    for (n, pfn) in (first..first + 4).map(Pfn).enumerate() {
        let to = ipa(n as u64);
        let given = if n == 2 {
            own.lend(&mut table, VM1, to, pfn, 1)
        } else {
            own.donate(&mut table, VM1, to, pfn, 1)
        };
        assert_eq!(given, Ok(1));
        setup.machine.words(pfn)[7].store(9, Ordering::Relaxed);
    }
    assert_eq!(own.vm_share(&mut table, VM1, ipa(1)), Ok(()));
    destroy(&setup, &own, &mut table);
    assert_eq!(own.reclaim(VM1, Pfn(first), 5), Ok(4));
    let held = [0, 1, 2, 3].map(|n| {
        assert_eq!(state(&own, first + n), Some(State::Host));
        setup.machine.words(Pfn(first + n))[7].load(Ordering::Relaxed)
    });
    assert_eq!(held, [0, 0, 9, 0], "what was lent was the hostvisor's");
    assert!(setup.machine.complaints().is_empty());
}

#[test]
fn mmio_is_mapped_as_large_as_its_neighbours_allow() {
    let setup = small();
    let own = boot(&setup);
    let regs = own.host_regs();
    setup.machine.watch(regs);
    let leaf = |ipa: u64| setup.machine.translate(regs, Ipa(ipa));
    for (address, size) in [
        (0x0900_0018, 2 << 20),     // same 1 GiB as a restricted region
        (0x0800_0000, 4 << 10),     // same 2 MiB
        (0x4090_0000, 2 << 20),     // same 1 GiB as RAM
        (0x8000_0000, 4 << 10),     // same 2 MiB as RAM that starts in the middle
        (0x40_0000_0000, 1 << 30),  // far away
        (0xFFF_FFFF_FFFF, 1 << 30), // the last there is
    ] {
        assert_eq!(own.host_fault(Ipa(address), 1), Ok(()));
        assert_eq!(own.host_fault(Ipa(address), 1), Ok(()), "again, mapped");
        let Some(leaf) = leaf(address) else {
            panic!("{address:#x} is not mapped")
        };
        assert_eq!((leaf.size, leaf.pa), (size, address & !(size - 1)));
        assert!(!leaf.normal() && leaf.writable() && !leaf.executable());
    }
    assert_eq!(own.host_fault(Ipa(1 << 44), 0), Err(Error::Denied));
    assert_eq!(own.host_fault(Ipa(u64::MAX), 0), Err(Error::Denied));
    // The redistributor page: reads only, whether mapped already or not.
    assert_eq!(own.host_fault(Ipa(0x080A_0014), 1), Err(Error::Denied));
    assert_eq!(own.host_fault(Ipa(0x080A_0014), 0), Ok(()));
    assert_eq!(own.host_fault(Ipa(0x080A_0014), 1), Err(Error::Denied));
    assert!(leaf(0x080A_0000).is_some_and(|l| l.size == 4 << 10 && !l.writable() && !l.normal()));
    // The ITS: nothing.
    for page in 0..32 {
        assert_eq!(
            own.host_fault(Ipa(0x0808_0000 + (page << 12)), 0),
            Err(Error::Denied)
        );
        assert_eq!(leaf(0x0808_0000 + (page << 12)), None);
    }
    assert!(setup.machine.complaints().is_empty());
}

/// However many frames the hostvisor's root table has.
#[test]
fn the_identity_holds_up_to_the_end_of_every_address_space() {
    for (pa_range, bits) in [(1, 36), (2, 40), (3, 42), (4, 44), (5, 48)] {
        let setup = small();
        let own = setup.boot(CORE_FRAMES, 128, &RESTRICTED, pa_range);
        let host = own.host_regs();
        setup.machine.watch(host);
        let addresses = (35..bits)
            .map(|bit| 1 << bit | 7 << 30)
            .chain([(1 << bits) - 1]);
        for address in addresses {
            assert_eq!(own.host_fault(Ipa(address), 1), Ok(()), "{address:#x}");
            let walked = own.host_walk(Ipa(address)).map(|mapping| mapping.pa.0);
            let leaf = setup.machine.translate(host, Ipa(address));
            let reached = leaf.map(|leaf| leaf.pa | address & (leaf.size - 1));
            assert_eq!((walked, reached), (Some(address), Some(address)));
        }
        assert_eq!(own.host_fault(Ipa(1 << bits), 0), Err(Error::Denied));
        assert!(setup.machine.complaints().is_empty());
    }
}

#[test]
fn sharing_reaches_the_hostvisor_and_unsharing_takes_it_back() {
    let setup = small();
    let own = boot(&setup);
    let host = own.host_regs();
    setup.machine.watch(host);
    let mut table = vm(&setup, &own, 1);
    assert_eq!(
        own.donate(&mut table, VM1, ipa(512), Pfn(A + 512), 512),
        Ok(512)
    );
    let pa = (A + 700) << 12;
    for _ in 0..2 {
        assert_eq!(
            own.vm_unshare(&mut table, VM1, ipa(700)),
            Err(Error::Denied)
        );
        assert_eq!(setup.machine.translate(host, Ipa(pa)), None);
        assert_eq!(own.vm_share(&mut table, VM1, ipa(700)), Ok(()));
        let leaf = setup.machine.translate(host, Ipa(pa));
        assert!(leaf.is_some_and(|l| l.pa == pa && l.size == 4096 && l.writable()));
        assert_eq!(own.vm_share(&mut table, VM1, ipa(700)), Err(Error::Denied));
        assert_eq!(own.vm_share(&mut table, VM2, ipa(701)), Err(Error::Denied));
        assert_eq!(
            own.vm_unshare(&mut table, VM2, ipa(700)),
            Err(Error::Denied)
        );
        assert_eq!(own.vm_unshare(&mut table, VM1, ipa(700)), Ok(()));
        assert!(setup.machine.complaints().is_empty());
    }
}

#[test]
fn what_leaves_the_hostvisor_is_cleaned_of_its_stores() {
    let setup = small();
    let own = boot(&setup);
    setup.machine.watch(own.host_regs());
    let cleaned = || setup.machine.cleaned.swap(0, Ordering::Relaxed);
    cleaned();
    let mut table = vm(&setup, &own, 1);
    own.donate(&mut table, VM1, ipa(512), Pfn(A + 512), 8)
        .unwrap();
    assert_eq!(cleaned(), 8);
    own.vm_share(&mut table, VM1, ipa(513)).unwrap();
    assert_eq!(cleaned(), 0);
    own.vm_unshare(&mut table, VM1, ipa(513)).unwrap();
    assert_eq!(cleaned(), 1);
    assert!(setup.machine.complaints().is_empty());
}

/// Instructions that were fetched from a VM's frames are gone before the frames are the hostvisor's, once for
/// each batch.
#[test]
fn what_leaves_a_vm_takes_its_instructions_along() {
    let setup = small();
    let own = boot(&setup);
    let mut table = vm(&setup, &own, 1);
    own.donate(&mut table, VM1, ipa(0), Pfn(A + 512), 300)
        .unwrap();
    destroy(&setup, &own, &mut table);
    assert_eq!(own.reclaim(VM1, Pfn(A + 512), 300), Ok(300));
    assert_eq!(setup.machine.forgotten.load(Ordering::Relaxed), 1);
}

#[test]
fn without_table_frames_nothing_changes() {
    let setup = small();
    let own = setup.boot(CORE_FRAMES, 12, &RESTRICTED, 4);
    let mut table = vm(&setup, &own, 1);
    setup.machine.watch(own.host_regs());
    let mut hoard = Vec::new();
    while own.pool().free_count() > 2 {
        hoard.push(own.pool().alloc().unwrap());
    }
    // Two frames for the VM and one for the split are needed.
    let before = setup.machine.leaves(own.host_regs()).len();
    assert_eq!(
        own.donate(&mut table, VM1, ipa(1), Pfn(A + 600), 1),
        Err(Error::NoMemory)
    );
    assert_eq!(setup.machine.leaves(own.host_regs()).len(), before);
    assert_eq!(setup.machine.leaves(table.regs()).len(), 0);
    assert_eq!(
        (state(&own, A + 600), own.pool().free_count()),
        (Some(State::Host), 2)
    );
    own.pool().free(hoard.pop().unwrap());
    assert_eq!(own.donate(&mut table, VM1, ipa(1), Pfn(A + 600), 1), Ok(1));
}

/// A block that is lent splits only where there is a frame for the table; without one its pages stay lent, each
/// where it is.
#[test]
fn without_table_frames_what_is_lent_stays_so() {
    let setup = small();
    let own = boot(&setup);
    let mut table = vm(&setup, &own, 1);
    let lent = own.lend(&mut table, VM1, ipa(512), Pfn(A + 512), 512);
    assert_eq!(lent, Ok(512));
    assert_eq!(own.lend(&mut table, VM1, ipa(2), Pfn(A + 300), 1), Ok(1));
    let _hoard: Vec<_> = core::iter::from_fn(|| own.pool().alloc().ok()).collect();
    let entries = || (A + 512..A + 1024).map(|pfn| own.frames().entry(Pfn(pfn)).map(|e| e.0));
    let before: Vec<_> = entries().collect();
    let unmapped = own.unmap_lent(&mut table, VM1, ipa(517), 3);
    assert_eq!(unmapped, Err(Error::NoMemory));
    assert!(entries().eq(before));
    assert!(table.walk(own.pool(), ipa(518)).is_some());
    // A page needs none, and gives its table back.
    assert_eq!(own.unmap_lent(&mut table, VM1, ipa(2), 1), Ok(1));
    assert_eq!(own.unmap_lent(&mut table, VM1, ipa(517), 3), Ok(3));
}

/// A page is named as a device's with as many table frames as are missing on the way to it, and no more.
#[test]
fn a_mark_takes_the_tables_that_it_needs() {
    let setup = small();
    let own = boot(&setup);
    let mut table = vm(&setup, &own, 1);
    let mut hoard: Vec<_> = core::iter::from_fn(|| own.pool().alloc().ok()).collect();
    let mut mark = |page, frames| {
        assert_eq!(own.pool().free_count(), 0);
        hoard
            .drain(..frames)
            .for_each(|frame| own.pool().free(frame));
        own.vm_mark_mmio(&mut table, ipa(page))
    };
    let free = || own.pool().free_count();
    assert_eq!(mark(5, 2), Ok(()));
    assert_eq!(mark(6, 0), Ok(()), "the same table");
    assert_eq!(mark(PAGES_2M, 0), Err(Error::NoMemory));
    assert_eq!(mark(PAGES_2M, 1), Ok(()));
    assert_eq!(mark(PAGES_1G, 1), Err(Error::NoMemory));
    assert_eq!(free(), 1, "all or none");
    assert_eq!(own.vm_mark_mmio(&mut table, ipa(2 * PAGES_2M)), Ok(()));
    assert!(table.is_mmio(own.pool(), ipa(PAGES_2M)) && !table.is_mmio(own.pool(), ipa(PAGES_1G)));
}

/// A table is taken down in steps of so many frames: none does more, and none but the last does less.
#[test]
fn teardown_keeps_to_its_budget() {
    let setup = small();
    let own = boot(&setup);
    let before = own.pool().free_count();
    let mut table = vm(&setup, &own, 1);
    // Three tables of level 2 with four of level 3 each: fifteen frames.
    for page in (0..12).map(|n| n / 4 * PAGES_1G + n % 4 * PAGES_2M) {
        own.vm_mark_mmio(&mut table, ipa(page)).unwrap();
    }
    let free = || own.pool().free_count();
    assert_eq!(before - free(), 1 + 15);
    for step in 1..=3 {
        assert_eq!(own.teardown(&mut table, 4), Err(Error::Again));
        assert_eq!(before - free(), 1 + 15 - 4 * step);
    }
    assert_eq!(own.teardown(&mut table, 4), Ok(()));
    assert_eq!(own.teardown(&mut table, 0), Ok(()), "nothing is left");
    assert_eq!(free(), before);
}
