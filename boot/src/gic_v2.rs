//! GICv2 in the device tree, and boards on which it lies otherwise than their trees say.
//!
//! GICC and GICV are two pages that a page table of 64 KiB granule could not tell from their neighbours.
//! Boards for such tables connect fewer address bits: each page of 4 KiB appears sixteen times in 64 KiB,
//! the two pages of GICV in 128 KiB, and the one place where they follow each other is 60 KiB in (Linux,
//! irq-gic.c, `gic_check_eoimode`; there for GICC).

use crate::info::{GicV2, MAX_GICV2_WITHHELD};
use crate::ranges::{List, Range};
use abi::{GICC_SIZE, PAGE_SIZE};

/// Boards that repeat each page, whatever sizes their trees give.
const ALIASED: [&str; 2] = ["apm,xgene", "xlnx,zynqmp"];
/// Boards that have the whole GIC at two addresses, which differ in this bit: once for secure accesses
/// and once for others. Nothing tells that only one of them answers here.
const TWICE: [(&str, u64); 1] = [("apm,xgene", 0x8_0000)];
/// GICV repeated.
const ALIASED_SIZE: u64 = 0x2_0000;
/// From GICV's first byte to its two pages in a row.
const ALIASED_OFFSET: u64 = 0xf000;

/// Reads `reg` (GICD, GICC, GICH, GICV) of a board that is `compatible` with these.
pub(crate) fn read<'a>(
    mut reg: impl Iterator<Item = Range>,
    compatible: impl Iterator<Item = &'a str> + Clone,
) -> GicV2 {
    let is = |prefix: &str| compatible.clone().any(|name| name.starts_with(prefix));
    let distributor = reg.next().unwrap_or_default().start;
    let (_gicc, gich, gicv) = (reg.next(), reg.next(), reg.next());
    let mut gic = GicV2 {
        distributor,
        ..GicV2::default()
    };
    let (Some(gich), Some(gicv)) = (gich, gicv) else {
        return gic;
    };
    let aliased = gicv.size() >= ALIASED_SIZE || ALIASED.iter().any(|board| is(board));
    gic.hypervisor = Some(gich.start);
    gic.virtual_cpu_interface = gicv.start + if aliased { ALIASED_OFFSET } else { 0 };
    // GICH of the other CPUs is in a page behind that of one's own, even where the tree leaves it out.
    let least = if aliased { ALIASED_SIZE } else { GICC_SIZE };
    gic.withheld = withheld([gich, gicv], least, |range| {
        TWICE
            .iter()
            .filter(|(board, _)| is(board))
            .map(move |(_, bit)| Range::sized(range.start ^ bit, range.size()))
    });
    gic
}

fn withheld<T: Iterator<Item = Range>>(
    ranges: [Range; 2],
    least: u64,
    twins: impl Fn(Range) -> T,
) -> List<Range, MAX_GICV2_WITHHELD> {
    let mut list = List::default();
    for range in ranges {
        let whole = Range::sized(range.start, range.size().max(least)).grown_to(PAGE_SIZE);
        for range in twins(whole).chain([whole]) {
            // It has place for two of each.
            let _ = list.push(range);
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(board: &str, frames: &[(u64, u64)]) -> GicV2 {
        let reg = frames.iter().map(|&(base, size)| Range::sized(base, size));
        read(reg, [board, "arm,any"].into_iter())
    }

    #[test]
    fn an_ordinary_board_is_taken_at_its_word() {
        // BCM2711.
        let gic = of(
            "raspberrypi,4-model-b",
            &[
                (0xff84_1000, 0x1000),
                (0xff84_2000, 0x2000),
                (0xff84_4000, 0x2000),
                (0xff84_6000, 0x2000),
            ],
        );
        assert_eq!(gic.hypervisor, Some(0xff84_4000));
        assert_eq!(gic.virtual_cpu_interface, 0xff84_6000);
        let kept = [0xff84_4000, 0xff84_6000].map(|base| Range::sized(base, 0x2000));
        assert_eq!(*gic.withheld, kept);
    }

    #[test]
    fn repeated_pages_are_used_where_they_follow_each_other() {
        for (board, size) in [("xlnx,zynqmp-zcu102", 0x2000), ("some,board", 0x2_0000)] {
            let gic = of(
                board,
                &[
                    (0xf901_0000, 0x1_0000),
                    (0xf902_0000, size),
                    (0xf904_0000, size),
                    (0xf906_0000, size),
                ],
            );
            assert_eq!(gic.virtual_cpu_interface, 0xf906_f000);
            let kept = [0xf904_0000, 0xf906_0000].map(|base| Range::sized(base, 0x2_0000));
            assert_eq!(*gic.withheld, kept);
        }
    }

    #[test]
    fn an_xgene_has_everything_twice() {
        let gic = of(
            "apm,xgene-storm",
            &[
                (0x7801_0000, 0x1000),
                (0x7802_0000, 0x1000),
                (0x7804_0000, 0x2000),
                (0x7806_0000, 0x2000),
            ],
        );
        assert_eq!(gic.virtual_cpu_interface, 0x7806_f000);
        let bases = [0x780c_0000, 0x7804_0000, 0x780e_0000, 0x7806_0000];
        assert_eq!(
            *gic.withheld,
            bases.map(|base| Range::sized(base, 0x2_0000))
        );
    }

    #[test]
    fn without_gich_and_gicv_there_is_nothing_to_use() {
        for frames in [
            &[(0x1000, 0x1000), (0x2000, 0x2000), (0x4000, 0x2000)][..],
            &[],
        ] {
            let gic = of("apm,xgene-storm", frames);
            assert_eq!(gic.hypervisor, None);
            assert!(gic.withheld.is_empty());
        }
    }
}
