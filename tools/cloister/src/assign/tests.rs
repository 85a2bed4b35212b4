use std::fs;

use super::*;
use crate::vmfile;

/// VMs called `a`, `b`, ... with these tables, in files `a.toml`, `b.toml`, ...
fn vms(folder: &Path, tables: &[&str]) -> Vec<VmFile> {
    let read = |(letter, tables): (char, &&str)| {
        let path = folder.join(format!("{letter}.toml"));
        let head = format!("name = \"{letter}\"\nkernel = \"k\"\nvcpus = 1\nmemory = \"32M\"\n");
        fs::write(&path, format!("{head}{tables}\n")).unwrap();
        vmfile::read(&path).unwrap()
    };
    ('a'..='z').zip(tables).map(read).collect()
}

fn try_assign(tables: &[&str]) -> std::result::Result<Assignment, String> {
    let folder = tempfile::tempdir().unwrap();
    for name in ["web.img", "db.img"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    fs::hard_link(
        folder.path().join("web.img"),
        folder.path().join("link.img"),
    )
    .unwrap();
    let strip = |e: Error| {
        e.to_string()
            .replace(&format!("{}/", folder.path().display()), "")
    };
    assign(&vms(folder.path(), tables)).map_err(strip)
}

fn serials(assignment: &Assignment) -> Vec<&str> {
    assignment
        .disks
        .iter()
        .flatten()
        .map(|disk| disk.source.guest_serial())
        .collect()
}

const WEB: &str = "[[disk]]\nimage = \"web.img\"";
const SHARED: &str = "\nread-only = true\nshared = true";

#[test]
fn images_get_serials_after_their_files_and_no_two_the_same() {
    let found = try_assign(&[
        WEB,
        "[[disk]]\nserial = \"db\"\n[[disk]]\nimage = \"db.img\"",
        "[[disk]]\nimage = \"other/web.img\"",
        "[[disk]]\nimage = \"a very long and strange name.img\"",
        "[[disk]]\nimage = \"x.img\"\nserial = \"mine\"",
    ])
    .unwrap();
    let expected = ["web", "db", "db-2", "web-2", "a-very-long-and-stra", "mine"];
    assert_eq!(serials(&found), expected);
    // The machine's own disk is none of the images.
    assert_eq!(found.images.len(), 5);
}

#[test]
fn one_image_is_one_disk_whatever_it_is_called() {
    let shared = [WEB, SHARED].concat();
    let link = shared.replace("web.img", "link.img");
    let found = try_assign(&[&shared, &link]).unwrap();
    assert_eq!(serials(&found), ["web", "web"]);
    assert_eq!(found.images.len(), 1);
    assert!(found.images[0].read_only);
}

#[test]
fn a_disk_of_two_vms_is_refused_unless_both_share_it_and_only_read_it() {
    let shared = [WEB, SHARED].concat();
    let read_only = [WEB, "\nread-only = true"].concat();
    for pair in [
        [WEB, WEB],
        [WEB, &shared],
        [&shared, WEB],
        [&shared, &read_only],
        [WEB, "[[disk]]\nimage = \"link.img\""],
    ] {
        let error = try_assign(&pair).unwrap_err();
        assert!(
            error.starts_with("b.toml:5: image ")
                && error.ends_with(
                    ".img is a disk of a.toml:5 already: several VMs can have it with \
                     read-only = true and shared = true in each"
                ),
            "{error}"
        );
    }
    for (table, name) in [("serial", "disk 'x'"), ("label", "partition 'x'")] {
        let table = format!("[[disk]]\n{table} = \"x\"");
        let error = try_assign(&[&table, &table]).unwrap_err();
        assert!(
            error.starts_with(&format!("b.toml:5: {name} is a disk of a.toml:5 already")),
            "{error}"
        );
    }
}

#[test]
fn a_vm_has_a_disk_once() {
    let twice = [WEB, SHARED, "\n", WEB, SHARED].concat();
    assert_eq!(
        try_assign(&[&twice]).unwrap_err(),
        "a.toml:9: image web.img is a disk of a.toml:5 already, and one VM has it once"
    );
}

#[test]
fn serials_that_contradict_each_other_are_refused() {
    let named = |image: &str, serial: &str| {
        format!("[[disk]]\nimage = \"{image}\"\nserial = \"{serial}\"{SHARED}")
    };
    assert_eq!(
        try_assign(&[&named("web.img", "x"), &named("db.img", "x")]).unwrap_err(),
        "b.toml:5: serial 'x' is another disk's"
    );
    assert_eq!(
        try_assign(&["[[disk]]\nserial = \"x\"", &named("db.img", "x")]).unwrap_err(),
        "b.toml:5: serial 'x' is another disk's"
    );
    assert_eq!(
        try_assign(&[&named("web.img", "x"), &named("web.img", "y")]).unwrap_err(),
        "b.toml:5: serial 'y' differs from what a.toml:5 says of the same image"
    );
    assert!(try_assign(&[&named("web.img", "x"), &named("web.img", "x")]).is_ok());
}

#[test]
fn hardware_addresses_are_the_same_in_every_run_and_no_two_are_equal() {
    let many = "[[net]]\n".repeat(8);
    let tables = [many.as_str(); 26];
    let macs = |assignment: Assignment| -> Vec<Mac> {
        assignment
            .nets
            .iter()
            .flatten()
            .map(|net| net.mac)
            .collect()
    };
    let first = macs(try_assign(&tables).unwrap());
    assert_eq!(first, macs(try_assign(&tables).unwrap()));
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 26 * 8);
    // Given out around one that is wanted elsewhere.
    let wanted = format!("[[net]]\nmac = \"{}\"", first[0]);
    let second = macs(try_assign(&["[[net]]", &wanted]).unwrap());
    assert_ne!(second[0], second[1]);
    assert_eq!(second[1], first[0]);
}

#[test]
fn an_ip_address_wanted_twice_on_a_switch_is_refused() {
    let wanted = "[[net]]\naddress = \"10.1.0.5/24\"";
    assert_eq!(
        try_assign(&[wanted, wanted]).unwrap_err(),
        "b.toml:5: address 10.1.0.5 is that of a.toml:5, too, on switch 'default'"
    );
    let elsewhere = format!("{wanted}\nswitch = \"lab\"");
    assert!(try_assign(&[wanted, &elsewhere]).is_ok());
}

#[test]
fn a_hardware_address_wanted_twice_is_refused() {
    let wanted = "[[net]]\nmac = \"52:54:00:00:00:01\"";
    assert_eq!(
        try_assign(&[wanted, wanted]).unwrap_err(),
        "b.toml:5: mac 52:54:00:00:00:01 is that of a.toml:5, too"
    );
}
