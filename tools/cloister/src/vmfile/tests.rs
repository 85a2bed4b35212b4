use super::*;

const GOOD: &str = "name = \"web\"\nkernel = \"Image\"\nvcpus = 2\nmemory = \"256M\"\n";

fn fail(text: &str) -> String {
    parse(Path::new("dir/web.toml"), text)
        .unwrap_err()
        .to_string()
}

#[test]
fn the_mandatory_keys_are_enough() {
    let vm = parse(Path::new("dir/web.toml"), GOOD).unwrap();
    assert_eq!(vm.name, "web");
    assert_eq!(vm.kernel, Path::new("dir/Image"));
    assert_eq!(vm.memory, Size(256 << 20));
    assert!(vm.protected && vm.autostart && vm.append.is_empty() && vm.initrd.is_none());
    assert!(matches!(vm.format, Format::Linux));
    assert!(matches!(vm.on_reboot, OnReboot::Restart));
    assert_eq!(vm.origin.at("vcpus"), "dir/web.toml:3");
    assert_eq!((vm.weight, vm.affinity, vm.entropy), (100, None, false));
    assert!(matches!(vm.console, GuestConsole::Pl011));
    assert!(vm.disks.is_empty() && vm.nets.is_empty());
}

#[test]
fn a_protected_vm_has_an_entropy_device_only_if_it_asks_for_one() {
    let entropy = |lines: &str| {
        let text = format!("{GOOD}{lines}");
        parse(Path::new("dir/web.toml"), &text).unwrap().entropy
    };
    assert!(!entropy("protected = true\n"));
    assert!(entropy("protected = true\nentropy = true\n"));
    assert!(entropy("protected = false\n"));
    assert!(!entropy("protected = false\nentropy = false\n"));
}

#[test]
fn a_missing_mandatory_key_is_an_error_and_not_a_default() {
    for key in ["name", "kernel", "vcpus", "memory"] {
        let text: String = GOOD
            .lines()
            .filter(|l| !l.starts_with(key))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_eq!(fail(&text), format!("dir/web.toml: missing key `{key}`"));
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let text = format!("{GOOD}\nmem = \"1G\"\n");
    let error = fail(&text);
    assert!(
        error.starts_with("dir/web.toml:6: unknown key `mem`"),
        "{error}"
    );
}

#[test]
fn memory_without_a_unit_is_an_error() {
    let error = fail(&GOOD.replace("\"256M\"", "256"));
    assert!(
        error.starts_with("dir/web.toml:4: 256 has no unit"),
        "{error}"
    );
    let error = fail(&GOOD.replace("256M", "256"));
    assert!(
        error.starts_with("dir/web.toml:4: '256' is no amount"),
        "{error}"
    );
}

#[test]
fn wrong_types_and_values_name_their_line() {
    let error = fail(&GOOD.replace("vcpus = 2", "vcpus = -2"));
    assert!(error.starts_with("dir/web.toml:3: "), "{error}");
    let error = fail(&format!("{GOOD}format = \"elf\"\n"));
    assert!(
        error.starts_with("dir/web.toml:5: unknown value `elf`"),
        "{error}"
    );
    let error = fail(&format!("{GOOD}vcpus = 3\n"));
    assert!(
        error.starts_with("dir/web.toml:5: duplicate key"),
        "{error}"
    );
    let error = fail("name = \n");
    assert!(error.starts_with("dir/web.toml:1: "), "{error}");
}

#[test]
fn disks_and_interfaces_are_read_as_written() {
    let text = format!(
        "{GOOD}weight = 200\naffinity = [2, 0]\nentropy = false\nconsole = \"virtio\"\n\
         [[disk]]\nimage = \"web.img\"\n[[disk]]\nlabel = \"My data\"\nread-only = true\nshared = true\n\
         [[net]]\n[[net]]\nswitch = \"lan\"\nmac = \"52:54:00:AB:34:56\"\nuplink = true\n\
         address = \"10.0.0.2/24\"\ngateway = \"10.0.0.1\"\n"
    );
    let vm = parse(Path::new("dir/web.toml"), &text).unwrap();
    assert_eq!(
        (vm.weight, vm.affinity, vm.entropy),
        (200, Some(0b101), false)
    );
    assert!(matches!(vm.console, GuestConsole::Virtio));
    let backing = Backing::Image {
        path: PathBuf::from("dir/web.img"),
        serial: None,
    };
    assert_eq!(vm.disks[0].backing, backing);
    assert_eq!(vm.origin.line(vm.disks[0].line), "dir/web.toml:9");
    assert_eq!(vm.disks[1].backing, Backing::Label("My data".to_owned()));
    assert!(vm.disks[1].read_only && vm.disks[1].shared);
    let [plain, full] = &vm.nets[..] else {
        panic!("{:?}", vm.nets);
    };
    assert_eq!((plain.switch.as_str(), plain.uplink), ("default", false));
    assert_eq!(
        (plain.mac, plain.address, plain.gateway),
        (None, None, None)
    );
    assert_eq!(full.mac.unwrap().to_string(), "52:54:00:ab:34:56");
    assert_eq!(full.address.unwrap().to_string(), "10.0.0.2/24");
}

#[test]
fn a_wrong_device_names_its_line() {
    let nine = "[[disk]]\nlabel = \"a\"\n".repeat(9);
    let ten = "[[net]]\n".repeat(10);
    for (tables, says) in [
        ("weight = -1", "web.toml:5: "),
        (
            "affinity = []",
            "web.toml:5: affinity: must be a list of different CPU numbers from 0 to 63",
        ),
        ("affinity = [1, 1]", "web.toml:5: affinity: must be"),
        ("affinity = [64]", "web.toml:5: affinity: must be"),
        ("console = \"vga\"", "web.toml:5: unknown value `vga`"),
        ("disk = \"web.img\"", "web.toml:5: "),
        ("[[disk]]", "web.toml:5: disk: must have one of image"),
        (
            "[[disk]]\nimage = \"a\"\nlabel = \"b\"",
            "web.toml:5: disk: must have one of image",
        ),
        (
            "[[disk]]\nserial = \"a b\"",
            "web.toml:5: disk: serial 'a b' must be 1 to 20",
        ),
        (
            "[[disk]]\nserial = \"a23456789012345678901\"",
            "web.toml:5: disk: serial 'a",
        ),
        (
            "[[disk]]\nlabel = \"\"",
            "web.toml:5: disk: label '' must be 1 to 36",
        ),
        (
            "[[disk]]\nlabel = \"a\"\nshared = true",
            "web.toml:5: disk: shared = true needs read-only = true",
        ),
        (
            "[[disk]]\nlabel = \"a\"\nreadonly = true",
            "web.toml:7: unknown key `readonly`",
        ),
        (
            "[[net]]\nmac = \"53:54:00:12:34:56\"",
            "web.toml:6: '53:54:00:12:34:56' is no interface's address",
        ),
        (
            "[[net]]\nmac = \"52:54\"",
            "web.toml:6: '52:54' is no interface's address",
        ),
        (
            "[[net]]\nswitch = \"My LAN\"",
            "web.toml:5: net: switch 'My LAN' must be",
        ),
        (
            "[[net]]\naddress = \"10.0.0.1\"",
            "web.toml:6: '10.0.0.1' is no host's address",
        ),
        (
            "[[net]]\naddress = \"10.0.0.0/24\"",
            "web.toml:6: '10.0.0.0/24' is no host's address",
        ),
        (
            "[[net]]\ngateway = \"10.0.0.1\"",
            "web.toml:5: net: gateway needs address",
        ),
        (
            "[[net]]\naddress = \"10.0.0.2/24\"\ngateway = \"10.0.1.1\"",
            "web.toml:5: net: gateway 10.0.1.1 is not in the network of 10.0.0.2/24",
        ),
        ("[[net]]\nport = 3", "web.toml:6: unknown key `port`"),
        (&nine, "web.toml:21: disk: a VM has at most 8 disks"),
        (&ten, "web.toml:13: net: a VM has at most 8 interfaces"),
    ] {
        let error = fail(&format!("{GOOD}{tables}\n"));
        assert!(
            error.starts_with(&format!("dir/{says}")),
            "{tables}: {error}"
        );
    }
}
