//! Single stories of an interrupt's way to the guest.

use super::*;
use abi::run::LR_GROUP1;

fn write_bit(vgic: &mut Vgic, vcpu: usize, intid: u32, offset: u64) -> KickMask {
    let (ipa, bit) = bit_register(vcpu, intid, offset);
    vgic.write(0, ipa, 4, bit)
}

fn read_bit(vgic: &Vgic, vcpu: usize, intid: u32, offset: u64) -> bool {
    let (ipa, bit) = bit_register(vcpu, intid, offset);
    vgic.read(0, ipa, 4) & bit != 0
}

fn route(vgic: &mut Vgic, intid: u32, value: u64) -> KickMask {
    vgic.write(0, GICD + 0x6000 + 8 * u64::from(intid), 8, value)
}

fn make_edge(vgic: &mut Vgic, intid: u32) {
    let _ = vgic.write(0, GICD + 0xc00 + u64::from(intid / 16) * 4, 4, 0xaaaa_aaaa);
}

/// The line rises and falls again.
fn edge(vgic: &mut Vgic, vcpu: usize, intid: u32) -> KickMask {
    vgic.set_level(vcpu, intid, true) | vgic.set_level(vcpu, intid, false)
}

#[test]
fn nothing_is_written_when_there_is_nothing_to_take() {
    let mut vgic = running(2);
    let mut lrs = [0x1234; LRS];
    assert_eq!(vgic.fill(0, &mut lrs), Fill::default());
    assert_eq!(lrs, [0x1234; LRS]);
    assert!(!vgic.has_lists(0) && !vgic.deliverable(0) && !vgic.vtimer_needs_active(0));
}

#[test]
fn what_sends_sgis_of_group_0_sends_no_other() {
    let mut vgic = running(3);
    let sgi = |n: u64| n << 24 | 0b111;
    assert!(vgic.send_sgi(0, sgi(5), false).is_empty(), "all in group 1");
    // SGI 5 of vCPU 1 in group 0.
    let igroupr = sgi_frame(1) + IGROUPR;
    let _ = vgic.write(1, igroupr, 4, u64::from(!(1u32 << 5)));
    assert_eq!(vgic.send_sgi(0, sgi(5), false), KickMask(0b010));
    let mut lrs = [0; LRS];
    assert_eq!(vgic.fill(1, &mut lrs).count, 1);
    assert_eq!((lrs[0] & LR_GROUP1, lrs[0] as u32), (0, 5));
    assert!(!vgic.deliverable(0) && !vgic.deliverable(2));
    assert!(vgic.send_sgi(0, sgi(6), false).is_empty(), "in group 1");
}

#[test]
fn an_sgi_reaches_whom_it_names() {
    let mut vgic = running(4);
    assert_eq!(vgic.send_sgi(0, 5 << 24 | 0b1010, true), KickMask(0b1010));
    assert!(
        vgic.deliverable(1) && vgic.deliverable(3) && !vgic.deliverable(0) && !vgic.deliverable(2)
    );
    assert_eq!(
        vgic.send_sgi(2, 1 << 40 | 6 << 24, true),
        KickMask(0b1011),
        "all but the sender"
    );
    assert!(
        vgic.send_sgi(0, 0xfff0, true).is_empty(),
        "vCPUs that do not exist"
    );
    for elsewhere in [1 << 16, 1 << 32, 1 << 44, 1 << 48] {
        assert!(
            vgic.send_sgi(0, elsewhere | 0xffff, true).is_empty(),
            "{elsewhere:#x}"
        );
    }
    let mut guest = Interface::default();
    guest.enter(&mut vgic, 1);
    let taken: Vec<_> = std::iter::from_fn(|| {
        let intid = guest.acknowledge()?;
        guest.end();
        Some(intid)
    })
    .collect();
    assert_eq!(taken, [5, 6]);
    let _ = guest.exit(&mut vgic, 1);
    assert!(!vgic.deliverable(1));
    assert_consistent(&vgic);
}

#[test]
fn what_is_disabled_or_of_a_disabled_group_waits() {
    let mut vgic = running(1);
    let _ = write_bit(&mut vgic, 0, 40, ICENABLER);
    assert!(vgic.set_level(0, 40, true).is_empty());
    assert!(!vgic.deliverable(0) && read_bit(&vgic, 0, 40, ISPENDR));
    assert_eq!(write_bit(&mut vgic, 0, 40, ISENABLER), KickMask(1));
    let _ = vgic.write(0, GICD, 4, 0b01);
    assert!(!vgic.deliverable(0), "group 1 is off");
    let (ipa, _) = bit_register(0, 40, IGROUPR);
    let _ = vgic.write(0, ipa, 4, 0);
    assert!(vgic.deliverable(0), "now it is of group 0");
    let mut lrs = [0; 2];
    assert_eq!(vgic.fill(0, &mut lrs).count, 1);
    assert_eq!(lrs[0] & LR_GROUP1, 0);
}

#[test]
fn a_level_interrupt_comes_again_while_its_line_is_high_and_not_after() {
    let mut vgic = running(1);
    let mut guest = Interface::default();
    assert_eq!(vgic.set_level(0, 33, true), KickMask(1));
    for _ in 0..3 {
        guest.enter(&mut vgic, 0);
        assert_eq!(guest.acknowledge(), Some(33));
        assert_eq!(guest.end(), Some((33, true)), "an exit to sample the line");
        let _ = guest.exit(&mut vgic, 0);
    }
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), Some(33));
    let _ = guest.exit(&mut vgic, 0);
    let _ = vgic.set_level(0, 33, false);
    guest.enter(&mut vgic, 0);
    assert_eq!(
        guest.end(),
        Some((33, false)),
        "no exit, as the line is low"
    );
    let _ = guest.exit(&mut vgic, 0);
    assert!(!vgic.deliverable(0));
}

#[test]
fn a_level_interrupt_withdrawn_before_it_is_taken_does_not_come() {
    let mut vgic = running(1);
    let mut guest = Interface::default();
    let _ = vgic.set_level(0, 33, true);
    guest.enter(&mut vgic, 0);
    let _ = guest.exit(&mut vgic, 0);
    let _ = vgic.set_level(0, 33, false);
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), None);
}

#[test]
fn an_edge_during_the_handler_comes_once_more() {
    let mut vgic = running(1);
    make_edge(&mut vgic, 40);
    let mut guest = Interface::default();
    let _ = edge(&mut vgic, 0, 40);
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), Some(40));
    assert_eq!(
        edge(&mut vgic, 0, 40),
        KickMask(1),
        "it must get into the list register"
    );
    let _ = edge(&mut vgic, 0, 40);
    let _ = guest.refresh(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), None, "not while it is active");
    guest.end();
    assert_eq!(guest.acknowledge(), Some(40));
    guest.end();
    let _ = guest.refresh(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), None);
}

#[test]
fn a_run_that_did_not_happen_changes_nothing() {
    let mut vgic = running(1);
    make_edge(&mut vgic, 40);
    let _ = edge(&mut vgic, 0, 40);
    let _ = vgic.set_level(0, 33, true);
    let _ = vgic.send_sgi(0, 1, true);
    let mut first = [0; LRS];
    let fill = vgic.fill(0, &mut first);
    let _ = vgic.drain(0, &[]);
    let mut second = [0; LRS];
    assert_eq!((vgic.fill(0, &mut second), second), (fill, first));
    let mut third = [0; LRS];
    assert_eq!(
        (vgic.fill(0, &mut third), third),
        (fill, first),
        "a forgotten drain"
    );
    assert_consistent(&vgic);
}

#[test]
fn with_more_pending_than_list_registers_the_most_urgent_go_first() {
    let mut vgic = running(1);
    let priorities = [0xc0, 0x30, 0xa0, 0x20, 0xb0, 0x50, 0x40];
    for (n, priority) in priorities.into_iter().enumerate() {
        let _ = vgic.write(0, GICD + IPRIORITYR + 40 + n as u64, 1, priority);
        let _ = vgic.set_level(0, 40 + n as u32, true);
    }
    let mut guest = Interface::default();
    guest.enter(&mut vgic, 0);
    assert!(guest.fill.underflow);
    let mut taken = Vec::new();
    while let Some(intid) = guest.acknowledge() {
        taken.push(priorities[intid as usize - 40]);
        let _ = vgic.set_level(0, intid, false);
        if guest.end().is_some_and(|(_, maintenance)| maintenance) {
            let _ = guest.refresh(&mut vgic, 0);
        }
    }
    assert_eq!(taken, [0x20, 0x30, 0x40, 0x50, 0xa0, 0xb0, 0xc0]);
}

#[test]
fn a_more_urgent_interrupt_preempts_even_when_active_ones_fill_the_list_registers() {
    let mut vgic = running(1);
    let mut guest = Interface::default();
    for n in 0..7 {
        let intid = 40 + n;
        let _ = vgic.write(
            0,
            GICD + IPRIORITYR + u64::from(intid),
            1,
            0xe0 - 0x10 * u64::from(n),
        );
        let _ = vgic.set_level(0, intid, true);
        let _ = guest.refresh(&mut vgic, 0);
        assert_eq!(guest.acknowledge(), Some(intid), "nested {n} deep");
        let _ = vgic.set_level(0, intid, false);
    }
    for n in (0..7).rev() {
        let (intid, maintenance) = guest.end().unwrap();
        assert_eq!(intid, 40 + n);
        if maintenance {
            let _ = guest.refresh(&mut vgic, 0);
        }
    }
    let _ = guest.exit(&mut vgic, 0);
    assert_eq!(
        vgic.read(0, GICD + ISACTIVER + 4, 4),
        0,
        "all were deactivated"
    );
}

#[test]
fn an_spi_moves_with_its_route() {
    let mut vgic = running(2);
    make_edge(&mut vgic, 40);
    assert_eq!(edge(&mut vgic, 0, 40), KickMask(0b01));
    assert_eq!(
        route(&mut vgic, 40, 1),
        KickMask(0b10),
        "a queued one moves at once"
    );
    assert!(!vgic.deliverable(0) && vgic.deliverable(1));
    let mut guest = [Interface::default(), Interface::default()];
    guest[1].enter(&mut vgic, 1);
    assert!(
        route(&mut vgic, 40, 0).contains(1),
        "its holder must give it up"
    );
    assert!(!vgic.deliverable(0), "not two at a time");
    assert_eq!(guest[1].exit(&mut vgic, 1), KickMask(0b01));
    guest[0].enter(&mut vgic, 0);
    assert_eq!(guest[0].acknowledge(), Some(40));
    // Active: stays until deactivated, and what comes meanwhile goes to the new target.
    let _ = route(&mut vgic, 40, 1);
    assert_eq!(edge(&mut vgic, 0, 40), KickMask(0b01));
    let _ = guest[0].refresh(&mut vgic, 0);
    assert_eq!(guest[0].end(), Some((40, true)));
    assert_eq!(guest[0].exit(&mut vgic, 0), KickMask(0b10));
    guest[1].enter(&mut vgic, 1);
    assert_eq!(guest[1].acknowledge(), Some(40));
    assert_consistent(&vgic);
}

#[test]
fn an_spi_routed_to_nobody_waits_for_a_route_and_one_for_anybody_is_taken() {
    let mut vgic = running(2);
    let _ = route(&mut vgic, 40, 0x0001_0000);
    assert!(vgic.set_level(0, 40, true).is_empty());
    assert!(read_bit(&vgic, 0, 40, ISPENDR));
    assert!(route(&mut vgic, 40, 2).is_empty(), "vCPU 2 does not exist");
    assert_eq!(route(&mut vgic, 40, 1 << 31 | 7), KickMask(0b01));
    assert_consistent(&vgic);
}

#[test]
fn pending_cleared_while_held_by_a_running_vcpu_does_not_come_back() {
    let mut vgic = running(2);
    make_edge(&mut vgic, 40);
    let mut guest = Interface::default();
    let _ = edge(&mut vgic, 0, 40);
    guest.enter(&mut vgic, 0);
    assert!(
        read_bit(&vgic, 0, 40, ISPENDR),
        "still pending, though in a list register"
    );
    assert_eq!(
        write_bit(&mut vgic, 0, 40, ICPENDR),
        KickMask(1),
        "its holder must give it up"
    );
    let _ = guest.refresh(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), None);
    assert!(!read_bit(&vgic, 0, 40, ISPENDR));
}

#[test]
fn disabling_while_held_takes_it_back_and_enabling_gives_it_again() {
    let mut vgic = running(1);
    make_edge(&mut vgic, 40);
    let mut guest = Interface::default();
    let _ = edge(&mut vgic, 0, 40);
    guest.enter(&mut vgic, 0);
    assert_eq!(write_bit(&mut vgic, 0, 40, ICENABLER), KickMask(1));
    let _ = guest.refresh(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), None);
    let _ = write_bit(&mut vgic, 0, 40, ISENABLER);
    let _ = guest.refresh(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), Some(40));
}

#[test]
fn active_written_while_held_wins_over_the_list_register() {
    let mut vgic = running(2);
    let mut guest = Interface::default();
    let _ = vgic.set_level(0, 40, true);
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), Some(40));
    assert_eq!(write_bit(&mut vgic, 0, 40, ICACTIVER), KickMask(1));
    let _ = guest.exit(&mut vgic, 0);
    assert!(!read_bit(&vgic, 0, 40, ISACTIVER));
    assert!(vgic.deliverable(0), "its line is still high");

    guest = Interface::default();
    guest.enter(&mut vgic, 0);
    assert_eq!(write_bit(&mut vgic, 0, 40, ISACTIVER), KickMask(1));
    let _ = guest.exit(&mut vgic, 0);
    assert!(read_bit(&vgic, 0, 40, ISACTIVER) && !vgic.deliverable(0));
    assert_consistent(&vgic);
}

#[test]
fn a_read_of_what_a_running_vcpu_holds_names_it_so_that_the_next_one_is_right() {
    let mut vgic = running(2);
    let mut guest = Interface::default();
    let _ = route(&mut vgic, 40, 1);
    let _ = vgic.set_level(0, 40, true);
    let holders = |vgic: &Vgic, offset| {
        let (ipa, _) = bit_register(0, 40, offset);
        assert!(Vgic::shows_state(ipa) || vgic.holders(0, ipa, 4).is_empty());
        vgic.holders(0, ipa, 4)
    };
    assert_eq!(holders(&vgic, ISACTIVER), KickMask::NONE);
    guest.enter(&mut vgic, 1);
    assert_eq!(guest.acknowledge(), Some(40));
    for offset in [ISPENDR, ICPENDR, ISACTIVER, ICACTIVER] {
        assert_eq!(holders(&vgic, offset), KickMask(0b10));
    }
    assert!(!read_bit(&vgic, 0, 40, ISACTIVER));
    let _ = guest.refresh(&mut vgic, 1);
    assert!(read_bit(&vgic, 0, 40, ISACTIVER));
    for offset in [ISENABLER, ICENABLER, IGROUPR, IPRIORITYR] {
        assert_eq!(holders(&vgic, offset), KickMask::NONE);
    }
    let _ = guest.exit(&mut vgic, 1);
    assert_eq!(holders(&vgic, ISACTIVER), KickMask::NONE);
    // A private one, in another's redistributor.
    let _ = vgic.send_sgi(0, 1 << 1, true);
    guest.enter(&mut vgic, 1);
    let (ipa, _) = bit_register(1, 0, ISPENDR);
    assert_eq!(vgic.holders(0, ipa, 4), KickMask(0b10));
    assert_eq!(vgic.holders(0, ipa, 1), KickMask::NONE, "not a register");
    assert_eq!(vgic.holders(0, GICR + 4, 4), KickMask::NONE);
}

#[test]
fn an_interrupt_made_active_by_register_is_held_where_it_is_routed_and_does_not_wake() {
    let mut vgic = running(2);
    let _ = route(&mut vgic, 40, 1);
    assert_eq!(write_bit(&mut vgic, 0, 40, ISACTIVER), KickMask(0b10));
    assert!(!vgic.deliverable(1));
    let mut lrs = [0; LRS];
    assert_eq!(vgic.fill(1, &mut lrs).count, 1);
    assert_eq!(lrs[0] & (LR_ACTIVE | LR_PENDING), LR_ACTIVE);
    assert_consistent(&vgic);
}

#[test]
fn the_virtual_timer_is_tied_to_the_physical_interrupt() {
    let mut vgic = running(2);
    let mut guest = Interface::default();
    assert_eq!(vgic.set_level(1, VTIMER, true), KickMask(0b10));
    assert!(!vgic.deliverable(0));
    guest.enter(&mut vgic, 1);
    assert!(guest.vtimer_active);
    assert_eq!(guest.acknowledge(), Some(VTIMER));
    let _ = guest.refresh(&mut vgic, 1);
    assert_eq!(
        guest.lists()[0] & (LR_ACTIVE | LR_PENDING),
        LR_ACTIVE,
        "never pending and active with HW"
    );
    assert_eq!(
        guest.end(),
        Some((VTIMER, false)),
        "no exit at its end: the hardware does it"
    );
    // The guest has set a new deadline: the line is low at the next exit.
    let _ = vgic.set_level(1, VTIMER, false);
    let _ = guest.exit(&mut vgic, 1);
    guest.enter(&mut vgic, 1);
    assert!(!guest.vtimer_active);
}

#[test]
fn a_virtual_timer_that_the_guest_disabled_keeps_the_physical_interrupt_quiet() {
    let mut vgic = running(1);
    let mut guest = Interface::default();
    let _ = write_bit(&mut vgic, 0, VTIMER, ICENABLER);
    let _ = vgic.set_level(0, VTIMER, true);
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.fill.count, 0);
    assert!(guest.vtimer_active);
}

#[test]
fn a_virtual_timer_made_pending_by_software_while_active_is_not_left_waiting_for_an_exit() {
    let mut vgic = running(1);
    let mut guest = Interface::default();
    let _ = vgic.set_level(0, VTIMER, true);
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), Some(VTIMER));
    let _ = vgic.set_level(0, VTIMER, false);
    let _ = guest.exit(&mut vgic, 0);
    let _ = write_bit(&mut vgic, 0, VTIMER, ISPENDR);
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.end(), Some((VTIMER, true)));
    let _ = guest.refresh(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), Some(VTIMER));
}

#[test]
fn where_an_spi_once_was_active_does_not_matter_after_it_moved() {
    let mut vgic = running(2);
    let mut guest = Interface::default();
    let _ = vgic.set_level(0, 40, true);
    guest.enter(&mut vgic, 0);
    assert_eq!(guest.acknowledge(), Some(40));
    let _ = vgic.set_level(0, 40, false);
    let _ = route(&mut vgic, 40, 1);
    guest.end();
    let _ = guest.exit(&mut vgic, 0);
    assert_eq!(write_bit(&mut vgic, 0, 40, ISACTIVER), KickMask(0b10));
    assert_consistent(&vgic);
}
