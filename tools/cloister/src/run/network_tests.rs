use super::*;
use crate::{assign, vmfile};
use bundle::{GuestConsole, OnReboot};
use std::fs;
use std::path::Path;

fn vm_file(folder: &Path, name: &str, tables: &str) -> VmFile {
    let path = folder.join(format!("{name}.toml"));
    let head = format!("name = \"{name}\"\nkernel = \"k\"\nvcpus = 1\nmemory = \"32M\"\n");
    fs::write(&path, format!("{head}{tables}\n")).unwrap();
    vmfile::read(&path).unwrap()
}

fn vm_files(vms: &[(&str, &str)]) -> Vec<VmFile> {
    let folder = tempfile::tempdir().unwrap();
    let read = |(name, tables): &(&str, &str)| vm_file(folder.path(), name, tables);
    vms.iter().map(read).collect()
}

/// What the machine sees of the VMs.
fn manifests(files: &[VmFile]) -> Vec<Manifest> {
    let nets = assign::assign(files).unwrap().nets;
    let manifest = |(file, nets): (&VmFile, Vec<bundle::Net>)| Manifest {
        name: file.name.clone(),
        format: file.format,
        vcpus: 1,
        memory: 32 << 20,
        protected: true,
        autostart: true,
        on_reboot: OnReboot::Stop,
        append: String::new(),
        weight: 100,
        affinity: None,
        entropy: true,
        console: GuestConsole::Pl011,
        disks: Vec::new(),
        nets,
        kernel: 1,
        initrd: 0,
    };
    files.iter().zip(nets).map(manifest).collect()
}

fn addressed(vms: &[(&str, &str)]) -> Vec<Manifest> {
    let mut files = vm_files(vms);
    give_addresses(&mut files, 0);
    manifests(&files)
}

fn forward(text: &str) -> Forward {
    text.parse().unwrap()
}

const UPLINK: &str = "[[net]]\nuplink = true";

#[test]
fn forwards_are_read_as_written() {
    assert_eq!(
        forward("8080:web:80").to_string(),
        "127.0.0.1:8080 -> web port 80 (tcp)"
    );
    assert_eq!(
        forward("0.0.0.0:53:dns:53/udp").to_string(),
        "0.0.0.0:53 -> dns port 53 (udp)"
    );
    assert_eq!(forward("8080:web:80/tcp"), forward("8080:web:80"));
    for bad in [
        "",
        "8080",
        "8080:web",
        "0:web:80",
        "8080:web:0",
        "8080:web:65536",
        "x:8080:web:80",
        "8080:web:80/sctp",
        "1:2:3:4:5",
    ] {
        assert!(bad.parse::<Forward>().is_err(), "{bad}");
    }
}

#[test]
fn vms_behind_the_user_network_get_addresses_that_no_two_have() {
    let mut files = vm_files(&[
        ("a", UPLINK),
        ("b", "[[net]]\naddress = \"10.0.2.15/24\""),
        ("c", "[[net]]\n[[net]]\nswitch = \"back\""),
        ("d", "append = \"ip=dhcp\"\n[[net]]"),
        ("e", "format = \"flat\"\n[[net]]"),
        ("f", "[[net]]\nswitch = \"second\"\nuplink = true"),
    ]);
    give_addresses(&mut files, 0);
    let nets = |at: usize| {
        files[at]
            .nets
            .iter()
            .map(|net| net.address.map(|a| a.to_string()))
    };
    assert_eq!(
        nets(0).collect::<Vec<_>>(),
        [Some("10.0.2.16/24".to_owned())]
    );
    assert_eq!(files[0].nets[0].gateway, Some(Ipv4Addr::new(10, 0, 2, 2)));
    assert_eq!(files[1].nets[0].gateway, Some(Ipv4Addr::new(10, 0, 2, 2)));
    // A switch without uplink is the VMs' own.
    assert_eq!(
        nets(2).collect::<Vec<_>>(),
        [Some("10.0.2.17/24".to_owned()), None]
    );
    // These would not listen.
    assert_eq!(nets(3).chain(nets(4)).collect::<Vec<_>>(), [None, None]);
    assert_eq!(
        nets(5).collect::<Vec<_>>(),
        [Some("10.0.3.15/24".to_owned())]
    );
}

#[test]
fn more_vms_than_addresses_get_the_rest_by_dhcp() {
    let names: Vec<String> = (0..120).map(|n| format!("vm{n}")).collect();
    let vms: Vec<_> = names.iter().map(|name| (name.as_str(), UPLINK)).collect();
    let vms = addressed(&vms);
    let given: Vec<_> = vms.iter().filter_map(|vm| vm.nets[0].address).collect();
    assert_eq!(given.len(), usize::from(FIRST_DHCP - FIRST_HOST));
}

#[test]
fn an_address_that_a_kernel_command_line_has_is_not_given_to_another() {
    let by_hand = format!("append = \"ip=10.0.2.15::10.0.2.2:255.255.255.0::eth0:off\"\n{UPLINK}");
    let vms = addressed(&[("a", &by_hand), ("b", UPLINK)]);
    assert_eq!(vms[0].nets[0].address, None);
    let given = vms[1].nets[0].address.unwrap().address;
    assert_eq!(given, user_network(0, 16));
}

#[test]
fn an_address_of_the_user_networks_own_is_refused() {
    for own in [2, 3] {
        let vm = format!("{UPLINK}\naddress = \"10.0.2.{own}/24\"");
        let vms = addressed(&[("web", &vm)]);
        let error = cards(&vms, &[], &[]).unwrap_err().to_string();
        let expected = format!("VM 'web': address 10.0.2.{own} is QEMU's own on this uplink");
        assert_eq!(error, expected);
        assert!(cards(&vms, &["tap".to_owned()], &[]).is_ok());
    }
}

#[test]
fn another_netdev_gets_no_addresses_of_the_user_network() {
    let mut files = vm_files(&[("a", UPLINK)]);
    give_addresses(&mut files, 1);
    assert_eq!(files[0].nets[0].address, None);
}

#[test]
fn an_uplink_is_a_card_with_its_forwards() {
    let vms = addressed(&[
        ("web", UPLINK),
        ("db", "[[net]]\n[[net]]\nswitch = \"lab\"\nuplink = true"),
    ]);
    let forwards = ["8080:web:80", "0.0.0.0:6379:db:6379", "53:db:53/udp"].map(forward);
    let cards = cards(&vms, &[], &forwards).unwrap();
    assert_eq!(
        cards[0].backend,
        "user,net=10.0.2.0/24,dhcpstart=10.0.2.128,hostfwd=tcp:127.0.0.1:8080-10.0.2.15:80,\
         hostfwd=tcp:0.0.0.0:6379-10.0.2.16:6379,hostfwd=udp:127.0.0.1:53-10.0.2.16:53"
    );
    assert_eq!(
        cards[1].backend,
        "user,net=10.0.3.0/24,dhcpstart=10.0.3.128"
    );
    assert!(cards[0].mac < cards[1].mac);
}

#[test]
fn a_forward_that_leads_nowhere_is_refused() {
    let refusal = |vms: &[(&str, &str)], netdevs: &[String], forwards: &[&str]| {
        let forwards: Vec<_> = forwards.iter().map(|text| forward(text)).collect();
        cards(&addressed(vms), netdevs, &forwards)
            .unwrap_err()
            .to_string()
    };
    let to_web =
        |tables: &str| refusal(&[("web", tables), ("db", "[[net]]")], &[], &["8080:web:80"]);
    let prefix = "--forward 127.0.0.1:8080:web:80: ";
    for (tables, reason) in [
        ("", "the VM has no network"),
        ("[[net]]", "none of the VM's switches has an uplink"),
        (
            "append = \"ip=dhcp\"\n[[net]]\nuplink = true",
            "the VM's address is not known: give its [[net]] an address",
        ),
        (
            "[[net]]\nuplink = true\naddress = \"192.168.7.2/24\"",
            "192.168.7.2/24 is not in QEMU's user network 10.0.2.0/24",
        ),
    ] {
        assert_eq!(to_web(tables), format!("{prefix}{reason}"));
    }
    assert_eq!(
        refusal(&[("db", UPLINK)], &[], &["8080:web:80"]),
        format!("{prefix}no VM has this name")
    );
    let tap = ["tap,ifname=tap0".to_owned(), "tap,ifname=tap1".to_owned()];
    assert_eq!(
        refusal(&[("web", UPLINK)], &tap[..1], &["8080:web:80"]),
        format!("{prefix}the uplink is not QEMU's user network, the VM can be reached directly")
    );
    assert_eq!(
        refusal(&[("web", UPLINK)], &tap, &[]),
        "--netdev tap,ifname=tap1: no uplink for it, the VMs have 1"
    );
}

#[test]
fn a_port_is_forwarded_once() {
    let vms = addressed(&[("web", UPLINK), ("db", UPLINK)]);
    for second in ["8080:db:80", "0.0.0.0:8080:db:80"] {
        let forwards = [forward("8080:web:80"), forward(second)];
        let error = cards(&vms, &[], &forwards).unwrap_err().to_string();
        assert!(
            error.ends_with(":8080:db:80: the port is forwarded to 'web' already"),
            "{error}"
        );
    }
    let forwards = ["8080:web:80", "8080:db:80/udp", "127.0.0.2:8080:db:80"].map(forward);
    assert!(cards(&vms, &[], &forwards).is_ok());
}

#[test]
fn a_port_in_use_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let forwards = [forward(&format!("{port}:web:80"))];
    let error = check_ports(&forwards).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("--forward 127.0.0.1:{port}:web:80: Address already in use")
    );
    drop(listener);
    assert!(check_ports(&forwards).is_ok());
}

#[test]
fn a_switch_that_connects_nothing_is_unknown() {
    let check = |vms: &[(&str, &str)], declared: &[String]| {
        check_switches(&manifests(&vm_files(vms)), declared).map_err(|e| e.to_string())
    };
    let lan = "[[net]]\nswitch = \"lan\"";
    let slip = [("a", lan), ("b", lan), ("c", "[[net]]\nswitch = \"lna\"")];
    assert_eq!(
        check(&slip, &[]).unwrap_err(),
        "VM 'c': unknown switch 'lna': no other interface is on it, and it has no uplink \
         (--switch lna if that is meant)"
    );
    assert!(check(&slip, &["lna".to_owned()]).is_ok());
    assert!(check(&slip[..2], &[]).is_ok());
    assert!(check(&[("a", "[[net]]")], &[]).is_ok());
    assert!(check(&[("a", "[[net]]\nswitch = \"lna\"\nuplink = true")], &[]).is_ok());
}
