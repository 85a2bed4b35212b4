use super::*;

const BLK: DeviceFunction = DeviceFunction {
    bus: 0,
    device: 2,
    function: 0,
};
const OTHER: DeviceFunction = DeviceFunction {
    bus: 0,
    device: 3,
    function: 0,
};
const HOST_BRIDGE: DeviceFunction = DeviceFunction {
    bus: 0,
    device: 0,
    function: 0,
};
const COMMAND: u8 = 4;

/// A bus with a host bridge, a virtio-blk device as QEMU's, and something else that firmware left on.
fn bus() -> Ecam {
    let ecam = Ecam::default();
    for (function, id, class, command) in [
        (HOST_BRIDGE, 0x0008_1b36, 0x0600_0000, 6),
        (BLK, 0x1042_1af4, 0x0100_0001, 0),
        (OTHER, 0x100e_8086, 0x0200_0003, 7),
    ] {
        ecam.define(function, 0, id, 0);
        ecam.define(function, COMMAND, command, 0xffff);
        ecam.define(function, 8, class, 0);
        ecam.define(function, INTERRUPT, 0x0100, 0xff);
    }
    // BAR 1: 32 bits, 4 KiB. BAR 4: 64 bits, prefetchable, 16 KiB.
    ecam.define(BLK, 0x14, 0, 0xffff_f000);
    ecam.define(BLK, 0x20, 0xc, 0xffff_c000);
    ecam.define(BLK, 0x24, 0, u32::MAX);
    ecam
}

fn windows(low: u64) -> [Window; 2] {
    [
        Window {
            bus: 1 << 39,
            cpu: 1 << 39,
            size: 1 << 39,
            wide: true,
        },
        Window {
            bus: 0x1000_0000,
            cpu: 0x1000_0000,
            size: low,
            wide: false,
        },
    ]
}

#[test]
fn only_bridges_stay_on() {
    let ecam = bus();
    let functions = switch_off(&mut PciRoot::new(ecam.clone()), 0);
    assert_eq!(functions.len(), 3);
    let command = |function| ecam.read_word(function, COMMAND) & 0xffff;
    assert_eq!(command(HOST_BRIDGE), 6);
    assert_eq!(command(OTHER), u32::from(Command::INTERRUPT_DISABLE.bits()));
}

#[test]
fn bars_get_aligned_disjoint_addresses_inside_a_window() {
    let ecam = bus();
    let mut root = PciRoot::new(ecam.clone());
    let mut space = Space::new(&windows(0x2eff_0000));
    let bars = assign(&mut root, BLK, &mut space).unwrap();
    assert_eq!(bars, [0, 0x1000_0000, 0, 0, 0x1000_4000, 0]);
    assert_eq!(ecam.read_word(BLK, 0x14), 0x1000_0000);
    assert_eq!(ecam.read_word(BLK, 0x20), 0x1000_400c);
    assert_eq!(ecam.read_word(BLK, 0x24), 0);
}

#[test]
fn a_wide_bar_goes_high_where_low_is_full_and_a_narrow_one_does_not() {
    let mut root = PciRoot::new(bus());
    let mut space = Space::new(&windows(0x2000));
    let bars = assign(&mut root, BLK, &mut space).unwrap();
    assert_eq!((bars[1], bars[4]), (0x1000_0000, 1 << 39));
    let mut space = Space::new(&windows(0xfff));
    assert!(assign(&mut root, BLK, &mut space).is_err());
}

#[test]
fn windows_that_translate_are_not_used() {
    let mut window = windows(0x10_0000)[1];
    window.cpu += 0x1000;
    assert_eq!(Space::new(&[window]).take(0x1000, true), None);
}

#[test]
fn absurd_bars_get_nothing() {
    let mut space = Space::new(&windows(0x2eff_0000));
    for size in [0, 3, 1 << 40, 1 << 63] {
        assert_eq!(space.take(size, true), None, "{size:#x}");
    }
    assert!(space.take(16, false).is_some());
}

#[test]
fn interrupts_go_by_the_map() {
    let ecam = bus();
    let line = |intid| Line { intid, edge: false };
    let host = PciHost {
        ecam: crate::machine::Region::default(),
        bus: 0,
        windows: Vec::new(),
        device_mask: 0x1800,
        routes: vec![
            crate::machine::Intx {
                device: 0x1000,
                pin: 2,
                line: line(36),
            },
            crate::machine::Intx {
                device: 0x1000,
                pin: 1,
                line: line(37),
            },
        ],
        coherent: true,
    };
    assert_eq!(route(&host, &ecam, BLK), Some(line(37)));
    assert_eq!(route(&host, &ecam, OTHER), None);
    ecam.define(BLK, INTERRUPT, 0, 0);
    assert_eq!(route(&host, &ecam, BLK), None);
}
