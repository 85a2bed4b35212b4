//! A GICv2: its registers, and SGIs that know their senders.

use super::*;
use abi::MAX_VCPUS_GICV2;
use abi::run::{LR_GROUP1, LR_SGI_SOURCE_SHIFT};
use proptest::prelude::*;
use std::collections::BTreeSet;

const ITARGETSR: u64 = 0x800;
const SGIR: u64 = 0xf00;
const CPENDSGIR: u64 = 0xf10;
const SPENDSGIR: u64 = 0xf20;
const OTHERS: u64 = 1 << 24;
const SELF: u64 = 2 << 24;

/// A controller that is on, every private interrupt enabled at priority 0xa0.
fn running_v2(vcpus: usize) -> Vgic {
    let mut vgic = Vgic::new(Model::V2, vcpus, VTIMER);
    let _ = vgic.write(0, GICD, 4, 1);
    for vcpu in 0..vcpus {
        let _ = vgic.write(vcpu, GICD + ISENABLER, 4, 0xffff_ffff);
        for n in 0..8 {
            let _ = vgic.write(vcpu, GICD + IPRIORITYR + 4 * n, 4, 0xa0a0_a0a0);
        }
    }
    vgic
}

#[test]
fn the_distributor_says_what_it_is() {
    let mut vgic = Vgic::new(Model::V2, 4, VTIMER);
    // ITLinesNumber 8, CPUNumber 3, no security extensions.
    assert_eq!(vgic.read(0, GICD + 4, 4), 3 << 5 | 8);
    assert_eq!(vgic.read(0, GICD + 8, 4) & 0xfff, 0x43b);
    assert_eq!(vgic.read(0, GICD + 0xfe8, 4) >> 4 & 0xf, 2, "GICv2");
    let _ = vgic.write(0, GICD, 4, u64::MAX);
    assert_eq!(vgic.read(0, GICD, 4), 0b11, "two enables and nothing else");
    assert_eq!(vgic.read(0, GICR + 8, 8), 0, "no redistributor");
    assert_eq!(
        vgic.send_sgi(0, 1 << 40, true),
        KickMask::NONE,
        "ICC_SGI1R_EL1"
    );
}

#[test]
fn private_registers_are_those_of_the_vcpu_that_asks() {
    let mut vgic = Vgic::new(Model::V2, 2, VTIMER);
    let _ = vgic.write(1, GICD + ISENABLER, 4, 1 << VTIMER);
    assert_eq!(vgic.read(1, GICD + ISENABLER, 4), 1 << VTIMER | 0xffff);
    assert_eq!(vgic.read(0, GICD + ISENABLER, 4), 0xffff);
    let _ = vgic.write(1, GICD + ICENABLER, 4, u64::MAX);
    assert_eq!(
        vgic.read(1, GICD + ISENABLER, 4),
        0xffff,
        "SGIs stay enabled"
    );
    for offset in [ISPENDR, ICPENDR] {
        let _ = vgic.write(0, GICD + offset, 4, 0xffff);
        assert_eq!(
            vgic.read(0, GICD + ISPENDR, 4),
            0,
            "SGIs pend from somebody"
        );
    }
}

#[test]
fn targets_are_sets_of_the_vcpus_there_are() {
    let mut vgic = Vgic::new(Model::V2, 3, VTIMER);
    for vcpu in 0..3 {
        let own = 0x0101_0101 << vcpu;
        assert_eq!(vgic.read(vcpu, GICD + ITARGETSR + 0x1c, 4), own);
    }
    let _ = vgic.write(0, GICD + ITARGETSR + 40, 4, 0xff02_0604);
    assert_eq!(vgic.read(0, GICD + ITARGETSR + 40, 4), 0x0702_0604);
    assert_eq!(vgic.read(2, GICD + ITARGETSR + 42, 1), 0x02);
    // INTID 41 goes to vCPU 1 or 2.
    let _ = vgic.write(0, GICD, 4, 1);
    let _ = vgic.write(0, GICD + ISENABLER + 4, 4, 1 << (41 - 32));
    let kick = vgic.write(0, GICD + ISPENDR + 4, 4, 1 << (41 - 32));
    assert_eq!(kick, KickMask(1 << 1));
    // Nobody: it waits until somebody is named.
    assert!(vgic.write(0, GICD + ITARGETSR + 41, 1, 0).is_empty());
    assert!((0..3).all(|vcpu| !vgic.deliverable(vcpu)));
    let kick = vgic.write(0, GICD + ITARGETSR + 41, 1, 0b100);
    assert_eq!(kick, KickMask(1 << 2));
    assert_consistent(&vgic);
}

#[test]
fn with_one_vcpu_all_interrupts_are_its_own() {
    let mut vgic = running_v2(1);
    let _ = vgic.write(0, GICD + ITARGETSR + 40, 4, u64::MAX);
    assert_eq!(vgic.read(0, GICD + ITARGETSR, 4), 0);
    assert_eq!(vgic.read(0, GICD + ITARGETSR + 40, 4), 0);
    let _ = vgic.write(0, GICD + ISENABLER + 4, 4, 1 << 8);
    assert_eq!(vgic.set_level(0, 40, true), KickMask(1));
}

#[test]
fn an_sgi_goes_to_the_list_to_others_or_to_oneself() {
    for (order, targets) in [
        (0b101 << 16, 0b101),
        (0xff << 16, 0b111),
        (OTHERS | 0xff << 16, 0b101),
        (SELF, 0b010),
        (3 << 24 | 0xff << 16, 0),
    ] {
        let mut vgic = running_v2(3);
        assert_eq!(vgic.write(1, GICD + SGIR, 4, order | 5), KickMask(targets));
        for vcpu in 0..3 {
            let mut lrs = [0; LRS];
            let fill = vgic.fill(vcpu, &mut lrs);
            assert_eq!(fill.count, (targets >> vcpu & 1) as usize, "{order:#x}");
            if fill.count == 1 {
                assert_eq!(lrs[0], LR_PENDING | 0xa0 << 48 | 1 << 10 | 5);
            }
        }
    }
}

/// The list register says group 0, which the guest's GICC_CTLR lets in as an IRQ, unless told otherwise.
#[test]
fn interrupts_start_in_group_0() {
    let mut vgic = running_v2(1);
    let _ = vgic.write(0, GICD + IGROUPR, 4, 1 << 30);
    let _ = vgic.write(0, GICD, 4, 0b11);
    let _ = vgic.set_level(0, 30, true);
    let _ = vgic.set_level(0, 29, true);
    let mut lrs = [0; LRS];
    assert_eq!(vgic.fill(0, &mut lrs).count, 2);
    assert_eq!(lrs[0] & LR_GROUP1, 0);
    assert_eq!(lrs[1] & LR_GROUP1, LR_GROUP1);
}

/// Where the HW bit deactivates nothing, the guest's end of the timer's interrupt is told by maintenance
/// interrupt, and the physical one stays active until then.
#[test]
fn without_the_hw_bit_the_timer_ends_by_maintenance_interrupt() {
    let mut vgic = running_v2(1).without_hw_bit();
    let mut guest = Interface::default();
    let _ = vgic.set_level(0, VTIMER, true);
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.lrs[0] & (LR_HW | LR_EOI), LR_EOI);
    assert!(guest.vtimer_active);
    assert_eq!(guest.acknowledge(), Some(VTIMER));
    // The guest sets its timer anew, which nobody hears of, and ends the interrupt.
    assert_eq!(guest.end(), Some((VTIMER, true)));
    let _ = guest.exit(&mut vgic, 0);
    let _ = vgic.set_level(0, VTIMER, false);
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.fill.count, 0);
    assert!(!guest.vtimer_active);
}

/// An exit between: the line is low then, the guest's end is told by nobody, and the next expiry must get through.
#[test]
fn without_the_hw_bit_an_exit_in_its_handler_does_not_silence_the_timer() {
    let mut vgic = running_v2(1).without_hw_bit();
    let mut guest = Interface::default();
    let _ = vgic.set_level(0, VTIMER, true);
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), Some(VTIMER));
    let _ = guest.exit(&mut vgic, 0);
    let _ = vgic.set_level(0, VTIMER, false);
    guest.enter(&mut vgic, 0);
    assert!(!guest.vtimer_active);
    assert_eq!(guest.end(), Some((VTIMER, false)));
    let _ = guest.exit(&mut vgic, 0);
    let _ = vgic.set_level(0, VTIMER, true);
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), Some(VTIMER));
}

const VCPUS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Op {
    Send { from: usize, targets: u64, sgi: u32 },
    Set { vcpu: usize, sgi: u32, from: u8 },
    Clear { vcpu: usize, sgi: u32, from: u8 },
    Acknowledge { vcpu: usize },
    End { vcpu: usize },
    Exit { vcpu: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let vcpu = || 0..VCPUS;
    let sgi = || prop::sample::select(&[0u32, 1, 7, 8, 15][..]);
    let from = || 0u8..1 << VCPUS;
    prop_oneof![
        4 => (vcpu(), 0u64..256, sgi()).prop_map(|(from, targets, sgi)| Op::Send { from, targets, sgi }),
        1 => (vcpu(), sgi(), from()).prop_map(|(vcpu, sgi, from)| Op::Set { vcpu, sgi, from }),
        1 => (vcpu(), sgi(), from()).prop_map(|(vcpu, sgi, from)| Op::Clear { vcpu, sgi, from }),
        6 => vcpu().prop_map(|vcpu| Op::Acknowledge { vcpu }),
        5 => vcpu().prop_map(|vcpu| Op::End { vcpu }),
        2 => vcpu().prop_map(|vcpu| Op::Exit { vcpu }),
    ]
}

proptest! {
    /// What was sent is taken once from each sender, by whom it was sent to; and what can be taken is.
    #[test]
    fn each_sender_is_heard_once(ops in prop::collection::vec(op(), 1..200)) {
        let mut vgic = running_v2(VCPUS);
        let mut guests = [const { None::<Interface> }; VCPUS].map(Option::unwrap_or_default);
        let mut pending = BTreeSet::<(usize, u32, u32)>::new();
        for op in ops {
            let mut kick = KickMask::NONE;
            match op {
                Op::Send { from, targets, sgi } => {
                    kick = vgic.write(from, GICD + SGIR, 4, targets << 16 | u64::from(sgi));
                    let reached = (0..VCPUS).filter(|to| targets >> to & 1 != 0);
                    pending.extend(reached.map(|to| (to, sgi, from as u32)));
                }
                Op::Set { vcpu, sgi, from } => {
                    kick = vgic.write(vcpu, GICD + SPENDSGIR + u64::from(sgi), 1, from.into());
                    let senders = (0..VCPUS as u32).filter(|sender| from >> sender & 1 != 0);
                    pending.extend(senders.map(|sender| (vcpu, sgi, sender)));
                }
                Op::Clear { vcpu, sgi, from } => {
                    kick = vgic.write(vcpu, GICD + CPENDSGIR + u64::from(sgi), 1, from.into());
                    pending.retain(|&(to, id, sender)| {
                        (to, id) != (vcpu, sgi) || from >> sender & 1 == 0
                    });
                }
                Op::Acknowledge { vcpu } => {
                    let mine = pending.iter().filter(|&&(to, ..)| to == vcpu).count();
                    let free = guests[vcpu].stack.is_empty();
                    let taken = guests[vcpu].acknowledge();
                    prop_assert_eq!(taken.is_some(), free && mine != 0);
                    if let Some(word) = taken {
                        let sender = word >> LR_SGI_SOURCE_SHIFT;
                        prop_assert!(pending.remove(&(vcpu, word & 0x3ff, sender)), "{:#x}", word);
                    }
                }
                Op::End { vcpu } => {
                    if let Some((_, true)) = guests[vcpu].end() {
                        kick = guests[vcpu].refresh(&mut vgic, vcpu);
                    }
                }
                Op::Exit { vcpu } => kick = guests[vcpu].refresh(&mut vgic, vcpu),
            }
            for vcpu in kick.iter() {
                let more = guests[vcpu].refresh(&mut vgic, vcpu);
                prop_assert!(more.without(vcpu).is_empty());
            }
            for vcpu in 0..VCPUS {
                for sgi in 0..16u32 {
                    // A list register that the guest has taken still counts until the next exit.
                    let seen = vgic.read(vcpu, GICD + SPENDSGIR + u64::from(sgi), 1) as u32;
                    let ideal = (0..VCPUS as u32)
                        .filter(|&sender| pending.contains(&(vcpu, sgi, sender)))
                        .fold(0, |bits, sender| bits | 1 << sender);
                    prop_assert_eq!(seen & ideal, ideal, "vCPU {} SGI {}", vcpu, sgi);
                }
            }
            assert_consistent(&vgic);
        }
    }
}

#[test]
fn any_number_of_vcpus_is_brought_into_range() {
    for vcpus in [0, 1, 8, 9, usize::MAX] {
        let mut vgic = Vgic::new(Model::V2, vcpus, VTIMER);
        let _ = vgic.write(usize::MAX, GICD + SGIR, 4, OTHERS);
        let _ = vgic.write(0, GICD + SGIR, 4, 0xff << 16);
        let _ = vgic.read(usize::MAX, GICD + ISENABLER, 4);
        assert!(!vgic.deliverable(MAX_VCPUS_GICV2));
        assert_consistent(&vgic);
    }
}
