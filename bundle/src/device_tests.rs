use super::*;
use alloc::string::ToString;
use alloc::vec::Vec;
use proptest::prelude::*;

fn disk() -> impl Strategy<Value = Disk> {
    let serial = "[!-~]{1,20}".prop_map(DiskSource::Serial);
    let label = "[ -~é😀]{1,18}".prop_map(DiskSource::Label);
    (prop_oneof![serial, label], any::<bool>(), any::<bool>()).prop_map(
        |(source, read_only, shared)| Disk {
            source,
            read_only,
            shared: shared && read_only,
        },
    )
}

fn cidr() -> impl Strategy<Value = Ipv4Cidr> {
    (any::<u32>(), 1..=30_u8)
        .prop_map(|(bits, prefix)| Ipv4Cidr {
            address: Ipv4Addr::from_bits(bits),
            prefix,
        })
        .prop_filter("a host's address", Ipv4Cidr::is_host)
}

fn net() -> impl Strategy<Value = Net> {
    let mac = any::<[u8; 6]>()
        .prop_map(Mac)
        .prop_filter("unicast", |mac| mac.is_unicast());
    (
        mac,
        "[a-z0-9-]{1,31}",
        any::<bool>(),
        prop::option::of(cidr()),
    )
        .prop_map(|(mac, switch, uplink, address)| Net {
            mac,
            switch,
            uplink,
            address,
        })
}

/// Disks that one VM can have together.
pub(crate) fn disks() -> impl Strategy<Value = Vec<Disk>> {
    prop::collection::vec(disk(), 0..=MAX_DISKS).prop_map(|mut disks| {
        disks.sort_by_key(|disk| disk.source.to_string());
        disks.dedup_by(|a, b| a.source == b.source);
        disks
    })
}

/// Interfaces that one VM can have together.
pub(crate) fn nets() -> impl Strategy<Value = Vec<Net>> {
    prop::collection::vec(net(), 0..=MAX_NETS).prop_map(|mut nets| {
        nets.sort_by_key(|net| net.mac);
        nets.dedup_by(|a, b| a.mac == b.mac);
        nets
    })
}

proptest! {
    #[test]
    fn the_text_form_survives(disk in disk(), net in net()) {
        prop_assert_eq!(Disk::parse(&disk.to_string()), Some(disk));
        prop_assert_eq!(Net::parse(&net.to_string()), Some(net));
    }

    #[test]
    fn what_parses_is_its_own_only_text(text in "(ro|rw|) (shared|exclusive)  ?(serial|label) [ -~]{0,40}") {
        if let Some(disk) = Disk::parse(&text) {
            prop_assert!(disk.is_sound());
            prop_assert_eq!(disk.to_string(), text);
        }
    }

    #[test]
    fn what_parses_of_an_interface_is_its_own_only_text(
        text in "[05][02]:54:00:[0-9a-fA-F]{2}:0?1:02 lan (uplink|internal) (auto|[01]?[0-9]\\.0\\.0\\.[0-9]/[0-9]{1,2})",
    ) {
        if let Some(net) = Net::parse(&text) {
            prop_assert!(net.is_sound());
            prop_assert_eq!(net.to_string(), text);
        }
    }

    #[test]
    fn the_serial_that_the_guest_reads_fits_virtio(disk in disk()) {
        prop_assert!((1..=MAX_SERIAL).contains(&disk.source.guest_serial().len()));
    }

    #[test]
    fn a_network_contains_its_own_hosts_and_no_others(cidr in cidr(), other: u32) {
        let other = Ipv4Addr::from_bits(other);
        let same = cidr.address.to_bits() >> (32 - cidr.prefix) == other.to_bits() >> (32 - cidr.prefix);
        prop_assert_eq!(cidr.contains(other), same);
        prop_assert!(cidr.contains(cidr.address));
        prop_assert_eq!(cidr.mask().to_bits().leading_ones(), u32::from(cidr.prefix));
    }
}

#[test]
fn disks_are_read_as_written() {
    let disk = Disk::parse("ro shared label My data").unwrap();
    assert_eq!(disk.source, DiskSource::Label("My data".to_owned()));
    assert!(disk.read_only && disk.shared);
    let disk = Disk::parse("rw exclusive serial web-0").unwrap();
    assert_eq!(disk.source.guest_serial(), "web-0");
    assert!(!disk.read_only && !disk.shared);
}

#[test]
fn no_disk_is_shared_and_writable_and_none_is_nameless_or_has_too_long_a_name() {
    let long_serial = ["rw exclusive serial ", &"x".repeat(MAX_SERIAL + 1)].concat();
    let long_label = ["rw exclusive label ", &"x".repeat(MAX_LABEL + 1)].concat();
    // Two UTF-16 code units each.
    let wide_label = ["rw exclusive label ", &"😀".repeat(MAX_LABEL / 2 + 1)].concat();
    for bad in [
        "rw shared serial web",
        "rw exclusive serial ",
        "rw exclusive serial",
        "rw exclusive label ",
        "rw exclusive serial a b",
        "rw exclusive serial é",
        "rw exclusive label a\u{7}",
        "rw exclusive image a",
        "exclusive rw serial a",
        "RW exclusive serial a",
        "rw  exclusive serial a",
        "",
        &long_serial,
        &long_label,
        &wide_label,
    ] {
        assert_eq!(Disk::parse(bad), None, "{bad}");
    }
}

#[test]
fn interfaces_have_addresses_that_a_host_can_have() {
    for bad in [
        // A group's address, none at all, other notations.
        "53:54:00:12:34:56 lan uplink auto",
        "00:00:00:00:00:00 lan uplink auto",
        "52:54:00:12:34 lan uplink auto",
        "52:54:00:12:34:56:78 lan uplink auto",
        "52:54:00:12:34:5G lan uplink auto",
        "52:54:00:12:34:5A lan uplink auto",
        "52:54:00:12:34:+5 lan uplink auto",
        "52-54-00-12-34-56 lan uplink auto",
        "52:54:00:12:34:56 LAN uplink auto",
        "52:54:00:12:34:56  uplink auto",
        "52:54:00:12:34:56 lan up auto",
        "52:54:00:12:34:56 lan uplink",
        "52:54:00:12:34:56 lan uplink auto ",
        // The network, its broadcast address, no host part, a group, loopback.
        "52:54:00:12:34:56 lan uplink 10.0.2.0/24",
        "52:54:00:12:34:56 lan uplink 10.0.2.255/24",
        "52:54:00:12:34:56 lan uplink 10.0.2.1/31",
        "52:54:00:12:34:56 lan uplink 10.0.2.1/0",
        "52:54:00:12:34:56 lan uplink 10.0.2.1/024",
        "52:54:00:12:34:56 lan uplink 10.0.2.1/+24",
        "52:54:00:12:34:56 lan uplink 10.0.2.1/280",
        "52:54:00:12:34:56 lan uplink 10.0.2.1",
        "52:54:00:12:34:56 lan uplink 224.0.0.1/24",
        "52:54:00:12:34:56 lan uplink 127.0.0.1/8",
        "52:54:00:12:34:56 lan uplink 0.0.0.1/8",
        "52:54:00:12:34:56 lan uplink ::1/64",
    ] {
        assert_eq!(Net::parse(bad), None, "{bad}");
    }
    let net = Net::parse("52:54:00:12:34:56 lan uplink 10.0.2.15/24").unwrap();
    let address = net.address.unwrap();
    assert_eq!(address.mask().to_string(), "255.255.255.0");
    assert!(address.contains(Ipv4Addr::new(10, 0, 2, 2)));
}

#[test]
fn the_limits_in_words_are_the_limits() {
    assert!(Disk::ALLOWED.contains(&MAX_SERIAL.to_string()));
    assert!(Disk::ALLOWED.contains(&MAX_LABEL.to_string()));
    assert!(Net::ALLOWED.contains(&MAX_SWITCH.to_string()));
}
