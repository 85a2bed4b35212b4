//! A guest that writes anything anywhere, and list registers that come back with anything in them.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Read {
        vcpu: usize,
        ipa: u64,
        size: u64,
    },
    Write {
        vcpu: usize,
        ipa: u64,
        size: u64,
        value: u64,
    },
    Sgi {
        from: usize,
        value: u64,
        either: bool,
    },
    Level {
        vcpu: usize,
        intid: u32,
        level: bool,
    },
    Fill {
        vcpu: usize,
        room: usize,
    },
    Drain {
        vcpu: usize,
        lrs: Vec<u64>,
    },
}

fn ipa() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0u64..0x380).prop_map(|n| GICD + 0x80 + n),
        2 => (0u64..0x1_0000).prop_map(|n| GICD + n),
        2 => (0u64..300).prop_map(|n| GICD + 0x6000 + 8 * n),
        4 => (0usize..4, 0u64..0xd00).prop_map(|(vcpu, n)| sgi_frame(vcpu) + n),
        1 => (0u64..0x10_0000).prop_map(|n| GICR + n),
        1 => Just(GICD),
        2 => (0u64..0x80).prop_map(|n| GICD + 0x800 + n),
        2 => (0u64..0x40).prop_map(|n| GICD + 0xf00 + n),
        1 => any::<u64>(),
    ]
    .prop_flat_map(|ipa| prop_oneof![3 => Just(ipa & !3), 1 => Just(ipa)])
}

fn op() -> impl Strategy<Value = Op> {
    let size = || prop_oneof![6 => Just(4u64), 2 => Just(8), 2 => Just(1), 1 => any::<u64>()];
    let value = || {
        prop_oneof![
            any::<u64>(),
            (0u64..64).prop_map(|n| 1 << n),
            Just(u64::MAX),
            0u64..4
        ]
    };
    let vcpu = || prop_oneof![8 => 0usize..3, 1 => any::<usize>()];
    let intid = || prop_oneof![6 => 0u32..300, 1 => any::<u32>()];
    prop_oneof![
        1 => (vcpu(), ipa(), size()).prop_map(|(vcpu, ipa, size)| Op::Read { vcpu, ipa, size }),
        8 => (vcpu(), ipa(), size(), value())
            .prop_map(|(vcpu, ipa, size, value)| Op::Write { vcpu, ipa, size, value }),
        1 => (vcpu(), value(), any::<bool>())
            .prop_map(|(from, value, either)| Op::Sgi { from, value, either }),
        3 => (vcpu(), intid(), any::<bool>()).prop_map(|(vcpu, intid, level)| Op::Level { vcpu, intid, level }),
        3 => (vcpu(), 0usize..20).prop_map(|(vcpu, room)| Op::Fill { vcpu, room }),
        3 => (vcpu(), prop::collection::vec(any::<u64>(), 0..20)).prop_map(|(vcpu, lrs)| Op::Drain { vcpu, lrs }),
    ]
}

proptest! {
    #[test]
    fn no_access_breaks_the_controller(ops in prop::collection::vec(op(), 1..200), start in 0..3) {
        let mut vgic = match start {
            0 => running(3),
            1 => Vgic::new(Model::V3, 3, VTIMER),
            _ => Vgic::new(Model::V2, 3, VTIMER),
        };
        for op in ops {
            let kick = match op {
                Op::Read { vcpu, ipa, size } => {
                    let value = vgic.read(vcpu, ipa, size);
                    prop_assert!(size >= 8 || value >> (8 * size) == 0);
                    KickMask::NONE
                }
                Op::Write { vcpu, ipa, size, value } => vgic.write(vcpu, ipa, size, value),
                Op::Sgi { from, value, either } => vgic.send_sgi(from, value, either),
                Op::Level { vcpu, intid, level } => vgic.set_level(vcpu, intid, level),
                Op::Fill { vcpu, room } => {
                    let mut lrs = [0; 20];
                    let fill = vgic.fill(vcpu, &mut lrs[..room]);
                    prop_assert!(fill.count <= room.min(16));
                    prop_assert!(lrs[..fill.count].iter().all(|lr| lr & (LR_PENDING | LR_ACTIVE) != 0));
                    prop_assert!(lrs[fill.count..].iter().all(|&lr| lr == 0));
                    KickMask::NONE
                }
                Op::Drain { vcpu, lrs } => vgic.drain(vcpu, &lrs),
            };
            prop_assert!(kick.0 < 1 << 3);
            assert_consistent(&vgic);
        }
    }
}

#[test]
fn any_number_of_vcpus_is_brought_into_range() {
    for vcpus in [0, 1, 16, 17, usize::MAX] {
        let mut vgic = Vgic::new(Model::V3, vcpus, VTIMER);
        let _ = vgic.send_sgi(0, 1 << 40, true);
        let _ = vgic.send_sgi(usize::MAX, 0xffff, true);
        let _ = vgic.fill(usize::MAX, &mut [0; LRS]);
        let _ = vgic.drain(usize::MAX, &[0; LRS]);
        assert!(!vgic.deliverable(usize::MAX));
        assert_consistent(&vgic);
    }
}
