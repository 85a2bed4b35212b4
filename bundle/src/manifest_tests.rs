use super::*;
use crate::device::tests::{disks, nets};
use crate::device::{DiskSource, Ipv4Cidr, MAX_LABEL, MAX_SWITCH, Mac};
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use proptest::prelude::*;

pub(crate) fn manifest() -> impl Strategy<Value = Manifest> {
    (
        ("[a-z0-9-]{1,31}", any::<bool>(), 1..=MAX_VCPUS),
        (
            MIN_MEMORY / MEMORY_ALIGN..=MAX_MEMORY / MEMORY_ALIGN,
            any::<bool>(),
            any::<bool>(),
        ),
        (any::<bool>(), "[ -~é]{0,80}", 1..=MAX_FILE, 0..=MAX_FILE),
        (
            1..=MAX_WEIGHT,
            prop::option::of(1..=u64::MAX),
            any::<bool>(),
            any::<bool>(),
        ),
        (disks(), nets()),
    )
        .prop_map(|(identity, machine, boot, scheduling, (disks, nets))| {
            let (name, linux, vcpus) = identity;
            let (memory, protected, autostart) = machine;
            let (restart, append, kernel, initrd) = boot;
            let (weight, affinity, entropy, virtio) = scheduling;
            Manifest {
                name,
                format: if linux { Format::Linux } else { Format::Flat },
                vcpus,
                memory: memory * MEMORY_ALIGN,
                protected,
                autostart,
                on_reboot: if restart {
                    OnReboot::Restart
                } else {
                    OnReboot::Stop
                },
                append,
                weight,
                affinity,
                entropy,
                console: if virtio {
                    GuestConsole::Virtio
                } else {
                    GuestConsole::Pl011
                },
                kernel,
                initrd,
                disks,
                nets,
            }
        })
}

const GOOD: &str = "name = web\nformat = linux\nvcpus = 2\nmemory = 268435456\nprotected = true\n\
                    autostart = false\non-reboot = restart\nappend = console=ttyAMA0 a = b\n\
                    weight = 100\naffinity = 0,2\nentropy = true\nconsole = virtio\n\
                    disk = rw exclusive serial web-0\ndisk = ro shared label My data\n\
                    net = 52:54:00:12:34:56 lan uplink 10.0.2.15/24\n\
                    net = 52:54:00:12:34:57 back internal auto\n\
                    kernel = 1000\ninitrd = 0\n";

/// The keys that stand once, with the index of their line in [`GOOD`].
fn singles() -> Vec<(usize, Key)> {
    let single = |(_, line): &(usize, &str)| !line.starts_with("disk") && !line.starts_with("net");
    let key =
        |(at, line): (usize, &str)| (at, Key::named(line.split(' ').next().unwrap()).unwrap());
    GOOD.lines().enumerate().filter(single).map(key).collect()
}

fn fault(text: &str) -> String {
    Manifest::parse(text.as_bytes()).unwrap_err().to_string()
}

proptest! {
    #[test]
    fn the_text_form_survives(manifest in manifest()) {
        prop_assert_eq!(manifest.check(), Ok(()));
        prop_assert_eq!(Manifest::parse(manifest.to_string().as_bytes()), Ok(manifest));
    }

    #[test]
    fn what_parses_is_its_own_only_text(manifest in manifest(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut text = manifest.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(parsed) = Manifest::parse(&text) {
            prop_assert_eq!(parsed.check(), Ok(()));
            prop_assert_eq!(parsed.to_string().into_bytes(), text);
        }
    }

    #[test]
    fn cut_off_anywhere_is_an_error(manifest in manifest(), at in any::<prop::sample::Index>()) {
        let text = manifest.to_string().into_bytes();
        prop_assert!(Manifest::parse(&text[..at.index(text.len())]).is_err());
    }

    #[test]
    fn any_bytes_give_an_answer_of_one_line(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let error = Manifest::parse(&bytes).unwrap_err();
        prop_assert!(!error.to_string().contains('\n'));
    }

    #[test]
    fn any_lines_give_an_answer_of_one_line(lines in prop::collection::vec("(name|memory|append|x\u{7}) = \\PC{0,99}", 0..9)) {
        let error = Manifest::parse((lines.join("\n") + "\n").as_bytes()).unwrap_err();
        prop_assert!(!error.to_string().chars().any(char::is_control));
    }

    #[test]
    fn each_key_is_needed_once_and_in_its_place(
        which in prop::sample::select(singles()),
        other in prop::sample::select(singles()),
    ) {
        let lines: Vec<_> = GOOD.lines().collect();
        let (which, key) = which;
        let (other, _) = other;
        let text = |lines: &[&str]| lines.join("\n") + "\n";

        let mut without = lines.clone();
        without.remove(which);
        let error = Manifest::parse(text(&without).as_bytes()).unwrap_err();
        prop_assert_eq!(error.fault, Fault::MissingKey(key));

        let mut twice = lines.clone();
        twice.push(lines[which]);
        let error = Manifest::parse(text(&twice).as_bytes()).unwrap_err();
        prop_assert_eq!(error, Error { line: lines.len() + 1, fault: Fault::DuplicateKey(key, which + 1) });

        let mut swapped = lines.clone();
        swapped.swap(which, other);
        let swapped = Manifest::parse(text(&swapped).as_bytes());
        if which == other {
            prop_assert!(swapped.is_ok());
        } else {
            prop_assert!(matches!(swapped.unwrap_err().fault, Fault::OutOfOrder(_)));
        }
    }
}

#[test]
fn a_manifest_is_read_as_written() {
    let manifest = Manifest::parse(GOOD.as_bytes()).unwrap();
    assert_eq!(manifest.name, "web");
    assert_eq!(manifest.append, "console=ttyAMA0 a = b");
    assert!(manifest.protected && !manifest.autostart);
    assert_eq!(manifest.affinity, Some(0b101));
    assert_eq!((manifest.disks.len(), manifest.nets.len()), (2, 2));
    assert_eq!(manifest.to_string(), GOOD);
}

#[test]
fn disks_and_interfaces_may_be_none_or_many_but_stand_together() {
    let (before, rest) = GOOD.split_once("disk = ").unwrap();
    let after = &rest[rest.find("kernel = ").unwrap()..];
    let with = |lines: &[String]| {
        let text = [before, &lines.concat(), after].concat();
        Manifest::parse(text.as_bytes())
    };
    let disk = |n: usize| format!("disk = rw exclusive serial d{n}\n");
    let net = |n: usize| format!("net = 52:54:00:00:00:{n:02x} lan internal auto\n");
    assert!(with(&[]).unwrap().disks.is_empty());

    let most: Vec<_> = (0..8).map(disk).chain((0..8).map(net)).collect();
    assert_eq!(with(&most).unwrap().disks.len(), MAX_DISKS);
    let nine: Vec<_> = (0..9).map(net).collect();
    let error = Error {
        line: 12 + 9,
        fault: Fault::TooMany(Key::Net),
    };
    assert_eq!(with(&nine), Err(error));
    let mixed = [disk(0), net(0), disk(1)];
    let error = with(&mixed).unwrap_err();
    assert_eq!(error.fault, Fault::OutOfOrder(Key::Net));

    let twice = [disk(0), disk(1), disk(0)];
    assert_eq!(
        with(&twice).unwrap_err().to_string(),
        "manifest line 15: disk serial d0 twice in one VM"
    );
    let twice = [net(1), net(1)];
    assert_eq!(
        with(&twice).unwrap_err().to_string(),
        "manifest line 14: net 52:54:00:00:00:01 twice in one VM"
    );
}

#[test]
fn the_largest_manifest_fits() {
    let good = Manifest::parse(GOOD.as_bytes()).unwrap();
    let largest = Manifest {
        name: "n".repeat(MAX_NAME),
        vcpus: MAX_VCPUS,
        memory: MAX_MEMORY,
        append: "x".repeat(MAX_APPEND),
        weight: MAX_WEIGHT,
        affinity: Some(u64::MAX),
        initrd: MAX_FILE,
        kernel: MAX_FILE,
        disks: (0..MAX_DISKS)
            .map(|n| Disk {
                // Three bytes of UTF-8 for one UTF-16 code unit is the most there is.
                source: DiskSource::Label(format!("{n}{}", "€".repeat(MAX_LABEL - 1))),
                read_only: true,
                shared: false,
            })
            .collect(),
        nets: (0..MAX_NETS)
            .map(|n| Net {
                mac: Mac([0x52, 0x54, 0, 0, 0, n as u8]),
                switch: "s".repeat(MAX_SWITCH),
                uplink: false,
                address: Some(Ipv4Cidr {
                    address: Ipv4Addr::new(222, 222, 222, 222),
                    prefix: 24,
                }),
            })
            .collect(),
        ..good
    };
    let text = largest.to_string();
    assert!(text.len() <= MAX_MANIFEST, "{} bytes", text.len());
    assert_eq!(Manifest::parse(text.as_bytes()), Ok(largest));
}

#[test]
fn uplinks_are_in_the_order_in_which_they_are_mentioned() {
    let vm = |nets: &[(&str, bool)]| Manifest {
        nets: (0_u8..)
            .zip(nets)
            .map(|(n, (switch, uplink))| Net {
                mac: Mac([0x52, 0x54, 0, 0, 0, n]),
                switch: String::from(*switch),
                uplink: *uplink,
                address: None,
            })
            .collect(),
        ..Manifest::parse(GOOD.as_bytes()).unwrap()
    };
    let vms = [
        vm(&[("b", false), ("c", true)]),
        vm(&[("b", true), ("a", false), ("c", true)]),
    ];
    assert_eq!(crate::uplinks(&vms), ["c", "b"]);
}

#[test]
fn messages_say_line_key_and_what_is_allowed() {
    let with = |from: &str, to: &str| {
        assert!(GOOD.contains(from));
        fault(&GOOD.replace(from, to))
    };
    assert_eq!(
        with("name = web", "name = Web"),
        "manifest line 1: name = 'Web', must be 1 to 31 characters a-z, 0-9, '-'"
    );
    assert_eq!(
        with("linux", "elf"),
        "manifest line 2: format = 'elf', must be linux or flat"
    );
    for bad in [
        "0",
        "17",
        "+2",
        "02",
        "",
        "two",
        "18446744073709551616",
        "2 ",
    ] {
        assert_eq!(
            with("vcpus = 2", &format!("vcpus = {bad}")),
            format!("manifest line 3: vcpus = '{bad}', must be a number from 1 to 16")
        );
    }
    for bad in ["31457280", "268435457", "67647832064", "-1"] {
        assert!(with("268435456", bad).starts_with(&format!(
            "manifest line 4: memory = '{bad}', must be bytes: a multiple"
        )));
    }
    assert_eq!(
        with("protected = true", "protected = yes"),
        "manifest line 5: protected = 'yes', must be true or false"
    );
    assert_eq!(
        with("restart", "never"),
        "manifest line 7: on-reboot = 'never', must be restart or stop"
    );
    assert!(with("a = b", "a\tb").starts_with("manifest line 8: append = "));
    assert!(with("a = b", &"x".repeat(MAX_APPEND)).starts_with("manifest line 8: append = "));
    assert!(with("kernel = 1000", "kernel = 0").starts_with("manifest line 17: kernel = '0'"));
    for bad in ["0", "1001", "-1", ""] {
        assert_eq!(
            with("weight = 100", &format!("weight = {bad}")),
            format!("manifest line 9: weight = '{bad}', must be a number from 1 to 1000")
        );
    }
    for bad in [
        "", "2,0", "0,0", "0,64", "0,,2", "0, 2", "00", "none", "All",
    ] {
        assert_eq!(
            with("affinity = 0,2", &format!("affinity = {bad}")),
            format!(
                "manifest line 10: affinity = '{bad}', must be all, or CPU numbers from 0 to 63 in \
                 ascending order, parted by commas"
            )
        );
    }
    assert_eq!(
        with("console = virtio", "console = vga"),
        "manifest line 12: console = 'vga', must be pl011 or virtio"
    );
    assert!(
        with("ro shared label", "rw shared label").starts_with(
            "manifest line 14: disk = 'rw shared label My data', must be 'ro' or 'rw'"
        )
    );
    assert!(with("lan uplink", "lan up").starts_with("manifest line 15: net = "));
    assert_eq!(
        with("vcpus = 2", "cpus = 2"),
        "manifest line 3: unknown key 'cpus', allowed are name, format, vcpus, memory, protected, \
         autostart, on-reboot, append, weight, affinity, entropy, console, disk, net, kernel, initrd"
    );
    assert_eq!(
        with("vcpus = 2", "vcpus=2"),
        "manifest line 3: not of the form 'key = value'"
    );
    assert_eq!(
        with("vcpus = 2", ""),
        "manifest line 3: not of the form 'key = value'"
    );
    assert_eq!(
        with("autostart = false\n", ""),
        "manifest: key 'autostart' is missing, must be true or false"
    );
    assert_eq!(
        fault(&GOOD[..GOOD.len() - 1]),
        "manifest line 18: cut off, no line feed at its end"
    );
    assert_eq!(
        fault(&"x".repeat(9000)),
        "manifest: 9000 bytes, at most 8192 are allowed"
    );
}

#[test]
fn the_limits_in_words_are_the_limits() {
    assert!(Key::Name.allowed().contains(&MAX_NAME.to_string()));
    assert!(Key::Vcpus.allowed().contains(&MAX_VCPUS.to_string()));
    for number in [MEMORY_ALIGN, MIN_MEMORY, MAX_MEMORY] {
        assert!(Key::Memory.allowed().contains(&number.to_string()));
    }
    assert!(Key::Weight.allowed().contains(&MAX_WEIGHT.to_string()));
    assert!(Key::Append.allowed().contains(&MAX_APPEND.to_string()));
    assert!(Key::Kernel.allowed().contains(&MAX_FILE.to_string()));
}
