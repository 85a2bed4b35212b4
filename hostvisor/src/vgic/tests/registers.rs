//! The register file as guests' drivers probe it.

use super::*;

#[test]
fn the_distributor_says_what_it_is() {
    let vgic = Vgic::new(Model::V3, 4, VTIMER);
    // ITLinesNumber 8 (288 INTIDs), IDbits 9; no LPIs, extended ranges, MBIs or second security state.
    assert_eq!(vgic.read(0, GICD + 0x4, 4), 9 << 19 | 8);
    assert_eq!(vgic.read(0, GICD + 0xc, 4), 0, "GICD_TYPER2");
    assert_eq!(vgic.read(0, GICD + 0xffe8, 4) >> 4 & 0xf, 3, "GICv3");
    assert_eq!(vgic.read(0, GICR + 0xffe8, 4) >> 4 & 0xf, 3, "GICv3");
    assert_eq!(vgic.read(0, GICD + 0x8, 4) & 0xfff, 0x43b);
}

#[test]
fn control_keeps_the_group_enables_and_fixes_the_rest() {
    let mut vgic = Vgic::new(Model::V3, 1, VTIMER);
    assert_eq!(
        vgic.read(0, GICD, 4),
        1 << 4 | 1 << 6,
        "ARE and DS, nothing enabled, no RWP"
    );
    let _ = vgic.write(0, GICD, 4, u64::MAX);
    assert_eq!(vgic.read(0, GICD, 4), 1 << 4 | 1 << 6 | 0b11);
    let _ = vgic.write(0, GICD, 4, 0b10);
    assert_eq!(vgic.read(0, GICD, 4), 1 << 4 | 1 << 6 | 0b10);
}

#[test]
fn each_redistributor_names_its_vcpu_and_only_the_last_says_last() {
    let vgic = Vgic::new(Model::V3, 16, VTIMER);
    for vcpu in 0..16 {
        let base = GICR + vcpu * 0x2_0000;
        let typer = vgic.read(0, base + 8, 8);
        assert_eq!(typer >> 32, vcpu, "affinity");
        assert_eq!(typer >> 8 & 0xffff, vcpu, "processor number");
        assert_eq!(typer >> 4 & 1, u64::from(vcpu == 15), "last");
        assert_eq!(typer & 0b1001, 0, "no LPIs");
        assert_eq!(vgic.read(0, base + 8, 4), typer & 0xffff_ffff);
        assert_eq!(vgic.read(0, base + 12, 4), typer >> 32);
    }
    assert_eq!(
        vgic.read(0, GICR + 16 * 0x2_0000 + 8, 8),
        0,
        "no redistributor without vCPU"
    );
}

#[test]
fn a_redistributor_wakes_at_once() {
    let mut vgic = Vgic::new(Model::V3, 2, VTIMER);
    let waker = GICR + 0x2_0000 + 0x14;
    assert_eq!(vgic.read(0, waker, 4), 0);
    let _ = vgic.write(0, waker, 4, 0b10);
    assert_eq!(vgic.read(0, waker, 4), 0b110);
    let _ = vgic.write(0, waker, 4, 0);
    assert_eq!(vgic.read(0, waker, 4), 0);
    assert_eq!(vgic.read(0, GICR + 0xc0, 4), 0, "GICR_SYNCR is never busy");
}

#[test]
fn private_interrupts_are_in_the_redistributor_and_shared_ones_in_the_distributor() {
    let mut vgic = Vgic::new(Model::V3, 2, VTIMER);
    for offset in [ISENABLER, ISPENDR, ISACTIVER, IPRIORITYR] {
        let _ = vgic.write(0, GICD + offset, 4, 0xffff_ffff);
        assert_eq!(
            vgic.read(0, GICD + offset, 4),
            0,
            "{offset:#x} of the distributor"
        );
        let _ = vgic.write(0, sgi_frame(0) + offset + 0x20, 4, 0xffff_ffff);
        assert_eq!(
            vgic.read(0, sgi_frame(0) + offset + 0x20, 4),
            0,
            "{offset:#x} of a redistributor"
        );
        let _ = vgic.write(0, sgi_frame(0) + offset, 4, 0xf8f8_f8f8);
        assert_eq!(vgic.read(0, sgi_frame(0) + offset, 4), 0xf8f8_f8f8);
        assert_eq!(
            vgic.read(0, sgi_frame(1) + offset, 4),
            0,
            "the other vCPU's are its own"
        );
    }
    let _ = vgic.write(0, GICD + ISENABLER + 4 * 8, 4, 0xffff_ffff);
    assert_eq!(
        vgic.read(0, GICD + ISENABLER + 4 * 8, 4),
        0xffff_ffff,
        "INTIDs 256 to 287"
    );
    let _ = vgic.write(0, GICD + ISENABLER + 4 * 9, 4, 0xffff_ffff);
    assert_eq!(
        vgic.read(0, GICD + ISENABLER + 4 * 9, 4),
        0,
        "INTIDs from 288 on"
    );
}

#[test]
fn set_and_clear_registers_show_the_same_bits() {
    let mut vgic = Vgic::new(Model::V3, 1, VTIMER);
    for (set, clear) in [
        (ISENABLER, ICENABLER),
        (ISPENDR, ICPENDR),
        (ISACTIVER, ICACTIVER),
    ] {
        let _ = vgic.write(0, GICD + set + 8, 4, 0x00ff_00ff);
        let _ = vgic.write(0, GICD + set + 8, 4, 0x0000_ff00);
        let _ = vgic.write(0, GICD + clear + 8, 4, 0x000f_000f);
        assert_eq!(vgic.read(0, GICD + set + 8, 4), 0x00f0_fff0);
        assert_eq!(vgic.read(0, GICD + clear + 8, 4), 0x00f0_fff0);
    }
}

#[test]
fn priorities_are_byte_accessible_and_have_five_bits() {
    let mut vgic = Vgic::new(Model::V3, 1, VTIMER);
    let _ = vgic.write(0, GICD + IPRIORITYR + 40, 4, 0x4433_2211);
    assert_eq!(vgic.read(0, GICD + IPRIORITYR + 40, 4), 0x4030_2010);
    let _ = vgic.write(0, GICD + IPRIORITYR + 41, 1, 0xfff);
    assert_eq!(vgic.read(0, GICD + IPRIORITYR + 41, 1), 0xf8);
    assert_eq!(vgic.read(0, GICD + IPRIORITYR + 40, 4), 0x4030_f810);
    let _ = vgic.write(0, sgi_frame(0) + IPRIORITYR + 27, 1, 0x80);
    assert_eq!(vgic.read(0, sgi_frame(0) + IPRIORITYR + 24, 4), 0x8000_0000);
}

#[test]
fn shared_interrupts_choose_their_trigger_and_private_ones_do_not() {
    let mut vgic = Vgic::new(Model::V3, 1, VTIMER);
    let _ = vgic.write(0, GICD + 0xc08, 4, 0xffff_ffff);
    assert_eq!(vgic.read(0, GICD + 0xc08, 4), 0xaaaa_aaaa);
    assert_eq!(vgic.read(0, GICD + 0xc0c, 4), 0);
    let _ = vgic.write(0, GICD + 0xc08, 4, 0x0000_0008);
    assert_eq!(vgic.read(0, GICD + 0xc08, 4), 8);
    for offset in [0xc00, 0xc04] {
        let before = vgic.read(0, sgi_frame(0) + offset, 4);
        assert_eq!(before, if offset == 0xc00 { 0xaaaa_aaaa } else { 0 });
        let _ = vgic.write(0, sgi_frame(0) + offset, 4, !before);
        assert_eq!(vgic.read(0, sgi_frame(0) + offset, 4), before);
    }
}

#[test]
fn routes_are_accessible_whole_and_by_halves() {
    let mut vgic = Vgic::new(Model::V3, 2, VTIMER);
    let router = GICD + 0x6000 + 8 * 33;
    let _ = vgic.write(0, router, 8, u64::MAX);
    assert_eq!(
        vgic.read(0, router, 8),
        0x80ff_ffff,
        "Interrupt_Routing_Mode and Aff2 to Aff0"
    );
    let _ = vgic.write(0, router, 4, 1);
    let _ = vgic.write(0, router + 4, 4, 0xff);
    assert_eq!(vgic.read(0, router, 8), 1);
    assert_eq!(vgic.read(0, router + 4, 4), 0, "no Aff3");
    let _ = vgic.write(0, GICD + 0x6000 + 8 * 31, 8, 1);
    assert_eq!(
        vgic.read(0, GICD + 0x6000 + 8 * 31, 8),
        0,
        "private interrupts have no route"
    );
    let _ = vgic.write(0, GICD + 0x6000 + 8 * 288, 8, 1);
    assert_eq!(vgic.read(0, GICD + 0x6000 + 8 * 288, 8), 0);
}

#[test]
fn accesses_of_a_size_that_a_register_does_not_have_do_nothing() {
    let mut vgic = running(2);
    for (ipa, sizes) in [
        (GICD, &[1, 2, 8][..]),
        (GICD + 4, &[1, 2, 8]),
        (GICD + ISENABLER + 4, &[1, 2, 8]),
        (GICD + IPRIORITYR + 32, &[2, 8]),
        (GICD + 0x6000 + 8 * 32, &[1, 2]),
        (sgi_frame(1) + ISENABLER, &[1, 2, 8]),
        (GICR + 8, &[1, 2]),
        (GICD + 0xffe8, &[1, 2, 8]),
    ] {
        for &size in sizes {
            let before = [vgic.read(0, ipa, 4), vgic.read(0, ipa + 4, 4)];
            assert_eq!(vgic.read(0, ipa, size), 0, "{size} bytes at {ipa:#x}");
            assert!(vgic.write(0, ipa, size, 0x5555_5555_5555_5555).is_empty());
            assert_eq!(
                [vgic.read(0, ipa, 4), vgic.read(0, ipa + 4, 4)],
                before,
                "{size} bytes at {ipa:#x}"
            );
        }
    }
    assert_eq!(vgic.read(0, GICD + ISENABLER + 5, 4), 0, "not aligned");
}
