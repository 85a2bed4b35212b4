//! The machine's disks: found, named, read, and given up when they stop answering.

use std::path::{Path, PathBuf};
use tests::artifacts::build_dir;
use tests::image::crc32;
use tests::{Machine, Run};

const MIB: usize = 1 << 20;

/// A file of `bytes` that are all different from their neighbours, and the CRC-32 of its first MiB.
fn image(name: &str, bytes: usize) -> (PathBuf, u32) {
    let dir = build_dir().join("test-runs");
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("disks-{name}.img"));
    let mut state = name.len() as u32 | 1;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        // xorshift32
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(bytes)
    .collect();
    std::fs::write(&path, &content).unwrap();
    (path, crc32(&content[..bytes.min(MIB)]))
}

/// A machine that waits at its shell.
fn machine() -> Machine {
    Machine::new()
        .interactive()
        .console("shell")
        .qemu_arg("-global")
        .qemu_arg("virtio-mmio.force-legacy=false")
}

fn disk(machine: Machine, id: &str, backend: &str, device: &str) -> Machine {
    machine
        .qemu_arg("-drive")
        .qemu_arg(&format!("if=none,id={id},{backend}"))
        .qemu_arg("-device")
        .qemu_arg(&format!("{device},drive={id},serial={id}"))
}

fn raw(path: &Path) -> String {
    format!("format=raw,file={}", path.display())
}

const MMIO: &str = "virtio-blk-device";
const PCI: &str = "virtio-blk-pci,disable-legacy=on";

/// `disk check` tells the checksum that the workstation computes.
fn expect_checksum(run: &mut Run, name: &str, crc: u32) {
    run.send(&format!("disk check {name}\r"));
    run.expect(&format!("disk {name}: first 1024 KiB, CRC-32 {crc:08x}"));
}

#[test]
fn disks_on_both_buses_deliver_what_is_in_their_files() {
    let mut machine = machine().cpus(4);
    let mut expected = Vec::new();
    for (id, device) in [
        ("first", MMIO),
        ("second", PCI),
        ("third", MMIO),
        ("fourth", PCI),
    ] {
        let (path, crc) = image(id, 3 * MIB + 512);
        machine = disk(machine, id, &raw(&path), device);
        expected.push((id, crc));
    }
    let mut run = machine.start_empty();
    run.expect_prompt();
    for (id, crc) in expected {
        expect_checksum(&mut run, id, crc);
    }
    let list = run.shell("disk");
    for id in ["first", "second", "third", "fourth"] {
        let line = list.lines().find(|line| line.starts_with(id));
        // 2 or more to look for a partition table, 16 to check.
        let Some(line) = line else {
            run.fail(&format!("`disk` does not name {id}:\n{list}"));
        };
        let words: Vec<_> = line.split_whitespace().collect();
        let good = words.get(2) == Some(&"writable") && words.get(4..6) == Some(&["0", "0"]);
        run.check(good, &format!("disk {id}: {line}"));
    }
    run.shutdown();
}

#[test]
fn disks_work_with_a_gicv2() {
    let (path, crc) = image("gicv2", MIB);
    let (other, other_crc) = image("gicv2-pci", MIB);
    let machine = disk(machine().gic(2), "gicv2", &raw(&path), MMIO);
    let mut run = disk(machine, "gicv2-pci", &raw(&other), PCI).start_empty();
    run.expect_prompt();
    expect_checksum(&mut run, "gicv2", crc);
    expect_checksum(&mut run, "gicv2-pci", other_crc);
    run.shutdown();
}

#[test]
fn a_read_only_disk_and_one_of_4_kib_blocks_say_so() {
    let (path, crc) = image("blocks", 2 * MIB);
    let (other, other_crc) = image("fixed", MIB);
    let big = "virtio-blk-device,logical_block_size=4096,physical_block_size=4096";
    let machine = disk(machine(), "blocks", &raw(&path), big);
    let fixed = format!("{},readonly=on", raw(&other));
    let mut run = disk(machine, "fixed", &fixed, MMIO).start_empty();
    run.expect("disk blocks: 2 MB, writable, no GUID partition table");
    run.expect("disk fixed: 1 MB, read-only, no GUID partition table");
    run.expect_prompt();
    expect_checksum(&mut run, "blocks", crc);
    expect_checksum(&mut run, "fixed", other_crc);
    run.shutdown();
}

#[test]
fn without_disks_there_is_one_line_and_a_wrong_name_gets_one() {
    let mut run = machine().start_empty();
    run.expect_prompt();
    let list = run.shell("disk");
    run.check(list.contains("no disks in this machine"), &list);
    let answer = run.shell("disk check nowhere");
    let line = "disk check: nowhere: no disk of the machine has this serial";
    run.check(answer.trim() == line, &answer);
    run.shutdown();
}

#[test]
fn a_legacy_device_is_refused_with_a_line() {
    let (path, _) = image("legacy", MIB);
    let machine = Machine::new()
        .interactive()
        .console("shell")
        .qemu_arg("-global")
        .qemu_arg("virtio-mmio.force-legacy=true");
    let mut run = disk(machine, "legacy", &raw(&path), MMIO).start_empty();
    run.expect("legacy device (version 1): not used");
    run.expect_prompt();
    run.shutdown();
}

#[test]
fn an_error_of_the_device_is_an_error_and_the_disk_goes_on() {
    let (path, _) = image("faulty", 2 * MIB);
    // Sector 1024 cannot be read; all else can.
    let node = format!(
        "driver=raw,node-name=n0,file.driver=blkdebug,file.image.driver=file,file.image.filename={},\
         file.inject-error.0.event=read_aio,file.inject-error.0.sector=1024",
        path.display()
    );
    let mut run = machine()
        .qemu_arg("-blockdev")
        .qemu_arg(&node)
        .qemu_arg("-device")
        .qemu_arg("virtio-blk-device,drive=n0,serial=faulty,rerror=report")
        .start_empty();
    run.expect_prompt();
    for _ in 0..2 {
        run.send("disk check faulty\r");
        run.expect("disk faulty: reading at 512 KiB failed: the disk reports an error");
    }
    run.shutdown();
}

#[test]
fn a_disk_that_stops_answering_is_given_up_and_nobody_else_notices() {
    let (path, crc) = image("well", MIB);
    let machine = disk(machine().timeout(180), "well", &raw(&path), MMIO);
    // 1 KiB/s: enough for the partition table, but a piece of 64 KiB takes longer than any disk may.
    let (slow, _) = image("stuck", MIB);
    let slow = format!("{},throttling.bps-total=1024", raw(&slow));
    let mut run = disk(machine, "stuck", &slow, PCI).start_empty();
    run.expect_prompt();
    expect_checksum(&mut run, "well", crc);
    run.send("disk check stuck\r");
    run.expect("disk stuck: does not answer, not used any more: 1 requests failed");
    run.expect("KiB failed: the disk does not answer");
    expect_checksum(&mut run, "well", crc);
    let list = run.shell("disk");
    let dead = list
        .lines()
        .any(|l| l.starts_with("stuck") && l.contains("dead"));
    run.check(dead, &list);
    run.shutdown();
}
