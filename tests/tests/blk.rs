//! Disks of VMs: what a guest writes is what it reads and what is in the image, whatever happens to the guest.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tests::artifacts::{Artifact, build_dir, scratch_dir};
use tests::qmp::Qmp;
use tests::{Machine, Run, VmSpec, image};

const MIB: u64 = 1 << 20;

/// An open VM with Debian's kernel, which shares nothing, and a disk.
fn debian(name: &str, steps: &str, disk: &Path) -> VmSpec {
    let vm = VmSpec::debian(name, Artifact::Kernel612, steps);
    vm.append("quiet").open().disk(disk)
}

/// What writer `n` of the guest's `disk-verify` writes.
fn numbers(n: u32) -> Vec<u8> {
    let lines = (n + 1) * 1_000_000..=(n + 1) * 1_000_000 + 249_999;
    lines.flat_map(|i| format!("{i}\n").into_bytes()).collect()
}

/// The guest finds on its disk what it wrote there, and so does the workstation.
fn verify(machine: Machine, disk: &Path, vcpus: u32) {
    let vm = debian("writer", "disk-verify,poweroff", disk).vcpus(vcpus);
    let mut run = machine.vm(vm).timeout(300).start();
    let line = run.expect_line("guest: disk verified");
    run.check(line.contains("32768 sectors, serial verify-"), &line);
    run.check(
        !run.text().contains("differs"),
        "the guest reads something else",
    );
    run.wait_success();
    let content = fs::read(disk).unwrap();
    for n in 0..4 {
        let want = numbers(n);
        let at = n as usize * 4 * MIB as usize;
        run.check(
            content[at..].starts_with(&want),
            "the image has something else",
        );
    }
}

#[test]
fn what_a_guest_writes_is_read_back_and_in_the_image() {
    let disk = image::blank("verify-mmio", 16 * MIB);
    verify(Machine::new(), &disk, 2);
}

#[test]
fn so_it_is_on_pci_with_a_gicv2_and_four_vcpus_on_one_cpu() {
    let disk = image::blank("verify-pci", 16 * MIB);
    verify(Machine::new().pci().gic(2).cpus(1).cpu("max"), &disk, 4);
}

/// A folder with what a guest needs that starts from its disk: busybox, and a first program that does `script`.
fn root(name: &str, script: &str) -> PathBuf {
    let dir = build_dir()
        .join("test-runs/images")
        .join(format!("{name}.root"));
    let _ = fs::remove_dir_all(&dir);
    for folder in ["bin", "sbin", "proc", "dev"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    fs::copy(build_dir().join("guest/busybox"), dir.join("bin/busybox")).unwrap();
    let init = dir.join("sbin/init");
    fs::write(
        &init,
        format!("#!/bin/busybox sh\nexport PATH=/bin\n{script}\n"),
    )
    .unwrap();
    for program in [init, dir.join("bin/busybox")] {
        fs::set_permissions(program, Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

#[test]
fn a_guest_boots_from_its_disk_and_keeps_what_it_writes_there() {
    let script = "echo \"disk: boot $(busybox cat /count 2>/dev/null)\"
echo -n x >>/count
busybox sync
busybox poweroff -f";
    let root = root("boot", script);
    let disk = image::ext4("boot", 32 * MIB, Some(&root));
    for count in ["", "x", "xx"] {
        let vm = debian("rooted", "never", &disk).append("root=/dev/vda");
        let mut run = Machine::new().vm(vm).start();
        let line = run.expect_line("disk: boot");
        run.check(
            line.trim_end() == format!("disk: boot {count}").trim_end(),
            &line,
        );
        run.wait_success();
        let damage = image::damage(&disk);
        run.check(damage.is_none(), &damage.unwrap_or_default());
    }
}

/// The number behind `pattern`.
fn number(run: &mut Run, pattern: &str) -> u64 {
    let line = run.expect_line(pattern);
    let number = line.trim_start_matches(pattern).trim().parse();
    number.unwrap_or_else(|_| run.fail(&line))
}

/// What the guest's `disk-churn` found on its disk in a boot that is not in `boots` yet.
fn found(run: &mut Run, boots: &mut Vec<String>) -> u64 {
    loop {
        run.expect("guest: churn ");
        let line = run.rest_of_line();
        let words: Vec<_> = line.split(' ').collect();
        if let [boot, "found", number] = words[..]
            && !boots.iter().any(|seen| seen == boot)
        {
            boots.push(boot.to_owned());
            return number.parse().unwrap_or_else(|_| run.fail(&line));
        }
        run.check(!line.starts_with("damaged"), "a file is damaged");
    }
}

/// Destroys a VM that writes files again and again: whatever it said was on its disk is there when it starts again,
/// the filesystem is clean at the end, and each round leaves as much memory as the one before.
fn destroy_under_write(machine: Machine, name: &str, bytes: u64, rounds: u64) {
    let disk = image::ext4(name, bytes, None);
    let vm = debian("churn", "disk-churn", &disk).vcpus(2);
    let mut run = machine
        .interactive()
        .vm(vm)
        .timeout(120 + 60 * rounds)
        .start();
    let (mut boots, mut written) = (Vec::new(), 0);
    let mut free = None;
    for round in 0..rounds {
        let found = found(&mut run, &mut boots);
        run.check(
            found >= written,
            &format!("{found} is newest, but {written} was on the disk"),
        );
        run.check(round == 0 || found > 0, "nothing was kept");
        for _ in 0..3 + round % 4 {
            written = number(&mut run, "guest: churn wrote ");
        }
        run.detach();
        run.send("vm destroy churn\r");
        run.expect("vm churn: stopped");
        let now = run.free_frames();
        let before = free.get_or_insert(now.clone());
        run.check(
            *before == now,
            &format!("free memory was {before}, is {now}"),
        );
        if round + 1 < rounds {
            run.send("vm start churn\r");
            run.expect("vm churn: started");
            run.send("vm console churn\r");
        }
    }
    run.check(!run.text().contains("churn damaged"), "a file is damaged");
    run.shutdown();
    let damage = image::damage(&disk);
    run.check(damage.is_none(), &damage.unwrap_or_default());
}

#[test]
fn a_guest_destroyed_while_it_writes_finds_what_it_flushed() {
    destroy_under_write(Machine::new(), "churn", 64 * MIB, 4);
}

/// `make disks`: as the issue asks.
#[test]
#[ignore = "takes long: make disks"]
fn twenty_rounds_on_a_disk_of_1_gb() {
    destroy_under_write(
        Machine::new().cpus(4).cpu("max").pci(),
        "churn-long",
        1 << 30,
        20,
    );
    destroy_under_write(Machine::new().gic(2), "churn-v2", 1 << 30, 20);
}

/// The workstation's plug is pulled, too: what the guest flushed had left QEMU.
#[test]
fn what_was_flushed_is_in_the_image_when_the_machine_dies() {
    let disk = image::ext4("killed", 64 * MIB, None);
    let mut run = Machine::new()
        .vm(debian("churn", "disk-churn", &disk))
        .start();
    let mut written = 0;
    while written < 4 {
        written = number(&mut run, "guest: churn wrote ");
    }
    drop(run);
    let mut run = Machine::new()
        .vm(debian("churn", "disk-churn", &disk))
        .start();
    let found = found(&mut run, &mut Vec::new());
    run.check(
        found >= written,
        &format!("{found} is newest, but {written} was on the disk"),
    );
    run.check(!run.text().contains("churn damaged"), "a file is damaged");
}

#[test]
fn two_vms_share_a_disk_that_neither_can_write_to() {
    // One that could write does not power off.
    let root = root(
        "shared",
        "busybox touch /file && busybox sleep 1000\nbusybox poweroff -f",
    );
    let disk = image::ext4("shared", 32 * MIB, Some(&root));
    let table = format!(
        "image = \"{}\"\nread-only = true\nshared = true",
        disk.display()
    );
    let vm = |name| {
        VmSpec::debian(name, Artifact::Kernel612, "never")
            .append("quiet ro root=/dev/vda")
            .open()
            .disk_table(&table)
    };
    let before = fs::read(&disk).unwrap();
    let mut run = Machine::new()
        .memory("2G")
        .vm(vm("one"))
        .vm(vm("two"))
        .start();
    run.wait_success();
    run.check(
        run.text().contains("/file: Read-only file system"),
        "a VM was refused for another reason",
    );
    run.check(fs::read(&disk).unwrap() == before, "the image has changed");
}

/// Two VMs with a disk each: requests of one fail, the other's do not, and the one goes on afterwards.
#[test]
fn an_error_of_the_machines_disk_is_an_io_error_of_the_guest_alone() {
    let (bad, good) = (
        image::blank("errors", 16 * MIB),
        image::blank("no-errors", 16 * MIB),
    );
    let table = |serial: &str, path: &Path| {
        format!("image = \"{}\"\nserial = \"{serial}\"", path.display())
    };
    let vm = |name: &str, serial: &str, path: &Path| {
        VmSpec::debian(name, Artifact::Kernel612, "disk-errors,poweroff")
            .append("quiet")
            .open()
            .disk_table(&table(serial, path))
    };
    let machine = Machine::new().interactive().console("victim").timeout(300);
    let mut run = machine
        .vm(vm("victim", "bad", &bad))
        .vm(vm("other", "good", &good))
        .start();
    run.expect("guest: disk works");
    run.detach();
    run.send("disk fail bad 2\r");
    run.expect("cloister> ");
    run.send("vm console victim\r");
    run.expect("guest: disk failed:");
    run.expect("guest: disk works again");
    run.expect("vm victim: powered off");
    run.detach();
    let disks = run.shell("disk");
    let errors = |name: &str| {
        let line = disks.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(4)?.parse::<u64>().ok()
    };
    run.check(errors("bad") == Some(2), &disks);
    run.check(errors("good") == Some(0), &disks);
    run.send("vm console other\r");
    run.expect("guest: disk works");
    run.check(
        !run.text().contains("vm other: "),
        "the other VM has noticed",
    );
    run.detach();
    run.shutdown();
}

/// `disk-zeroes` of the test guest checks each request; here is what it leaves in the image.
fn zero_and_discard(machine: Machine, name: &str, vm: VmSpec) {
    const PAGE: usize = 4096;
    let disk = image::blank(name, MIB);
    fs::write(&disk, vec![0xa5; MIB as usize]).unwrap();
    let mut run = machine.vm(vm.disk(&disk)).start();
    run.expect("TEST disk-zeroes: pass");
    run.wait_success();
    let content = fs::read(&disk).unwrap();
    run.check(
        content.len() == MIB as usize,
        "the image's size has changed",
    );
    for (index, page) in content.chunks(PAGE).enumerate() {
        let good = match index {
            2..5 => page.iter().all(|&byte| byte == 0),
            0..8 => page.iter().any(|&byte| byte != 0xa5 && byte != 0),
            _ => page.iter().all(|&byte| byte == 0xa5),
        };
        run.check(good, &format!("page {index} of the image is wrong"));
    }
}

#[test]
fn what_a_guest_zeroes_and_discards_is_gone_and_nothing_else() {
    let vm = || VmSpec::test_guest("zeroes", "disk-zeroes");
    zero_and_discard(Machine::new(), "zeroes", vm());
    let newest = Machine::new().cpu("max").pci().gic(2);
    zero_and_discard(newest, "zeroes-open", vm().open());
}

/// A disk `name` of the machine, beside those that `cloister run` attaches, for QEMU to do things to. `file` is its
/// backend, as options of `-blockdev`.
fn with_disk(machine: Machine, name: &str, file: &str) -> Machine {
    machine
        .qemu_arg("-blockdev")
        .qemu_arg(&format!("driver=raw,node-name={name},{file}"))
        .qemu_arg("-device")
        .qemu_arg(&format!(
            "virtio-blk-device,id={name},drive={name},serial={name},werror=report,rerror=report"
        ))
}

/// QEMU fails all writes to one disk as a full filesystem would: that VM is told so, the other writes on.
#[test]
fn a_backing_file_without_room_is_an_io_error_of_writes_alone() {
    let (full, roomy) = (image::blank("full", MIB), image::blank("roomy", MIB));
    // 28 is ENOSPC.
    let file = format!(
        "file.driver=blkdebug,file.image.driver=file,file.image.filename={},\
         file.inject-error.0.event=none,file.inject-error.0.iotype=write,file.inject-error.0.errno=28",
        full.display()
    );
    let before = fs::read(&full).unwrap();
    let mut run = with_disk(Machine::new().console("full"), "full", &file)
        .vm(VmSpec::test_guest("full", "disk-full").disk_table("serial = \"full\""))
        .vm(VmSpec::test_guest("roomy", "disk").disk(&roomy))
        .start();
    run.expect("TEST disk-full: pass");
    run.wait_success();
    run.check(
        fs::read(&full).unwrap() == before,
        "a write that failed was made",
    );
    run.check(
        fs::read(&roomy).unwrap() != before,
        "the other VM's writes are not in its image",
    );
}

/// A machine in which disk `failing` works, then `command` is done to it, and its VM gets errors; then a VM with
/// another disk starts. Answers what the first one's first sector reads as: virtio's status.
fn disk_fails(name: &str, command: &str, arguments: &str, says: Option<&str>) -> u64 {
    let (failing, other) = (
        image::blank(&format!("{name}-failing"), MIB),
        image::blank(&format!("{name}-other"), MIB),
    );
    let file = format!("file.driver=file,file.filename={}", failing.display());
    let socket = scratch_dir(&format!("{name}-socket")).join("qmp");
    let server = format!("unix:{},server=on,wait=off", socket.display());
    let vm = VmSpec::test_guest("victim", "disk-fails").disk_table("serial = \"failing\"");
    let other = VmSpec::test_guest("other", "disk").disk(&other);
    let machine = with_disk(Machine::new().interactive(), "failing", &file);
    let machine = machine.qemu_arg("-qmp").qemu_arg(&server);
    let mut run = machine.vm(vm).vm(other.not_started()).start();
    run.expect("guest: disk works");
    let done = Qmp::connect(&socket).and_then(|mut qmp| qmp.execute(command, arguments));
    if let Err(error) = done {
        run.fail(&format!("QMP: {error}"));
    }
    if let Some(line) = says {
        run.expect(line);
    }
    run.expect("guest: disk fails");
    let status = number(&mut run, "guest: its first sector has status ");
    run.expect("TEST disk-fails: pass");
    run.expect("vm victim: powered off");
    run.detach();
    run.send("vm start other\r");
    run.expect("vm other: started");
    run.send("vm console other\r");
    run.expect("TEST disk: pass");
    run.expect("vm other: powered off");
    run.detach();
    run.shutdown();
    status
}

#[test]
fn a_disk_that_shrinks_fails_what_lies_behind_its_end_alone() {
    let arguments = r#"{"node-name": "failing", "size": 524288}"#;
    let status = disk_fails("shrinks", "block_resize", arguments, None);
    assert_eq!(status, 0, "what is before the end cannot be read");
}

/// Throttled to a byte a second, a disk is as good as unplugged.
#[test]
fn a_disk_that_does_not_answer_any_more_is_given_up_and_no_other() {
    let arguments = r#"{"id": "failing", "bps": 1, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}"#;
    let says = Some("[host] error: disk failing: does not answer, not used any more");
    let status = disk_fails("silent", "block_set_io_throttle", arguments, says);
    assert_eq!(status, 1, "a disk that was given up works");
}

/// A VM with a partition writes nowhere else; the whole disk is nobody's as long as somebody has a part of it.
#[test]
fn a_partition_is_a_disk_of_its_own() {
    let disk = image::blank("parts", 48 * MIB);
    let (first, last) = (2048, 2048 + 32768 - 1);
    image::partition(
        &disk,
        &[("alpha", first, last), ("beta", last + 1, last + 8192)],
    );
    let before = fs::read(&disk).unwrap();
    let serial = format!("parts={}", disk.display());
    let mut run = Machine::new()
        .interactive()
        .tool_arg("--disk")
        .tool_arg(&serial)
        .vm(
            VmSpec::debian("part", Artifact::Kernel612, "disk-verify,shell")
                .append("quiet")
                .open()
                .disk_table("label = \"alpha\""),
        )
        .vm(VmSpec::test_guest("all", "boot")
            .open()
            .not_started()
            .disk_table("serial = \"parts\""))
        .vm(VmSpec::test_guest("none", "boot")
            .open()
            .not_started()
            .disk_table("label = \"gamma\""))
        .start();
    run.expect("disk parts: 48 MB, writable, 2 partitions: alpha, beta");
    let line = run.expect_line("guest: disk verified");
    run.check(line.contains("32768 sectors, serial alpha"), &line);
    run.expect("guest: shell");
    run.detach();
    for (vm, why) in [
        (
            "all",
            "vm all: disk serial parts: VM part has it, and not both share it",
        ),
        (
            "none",
            "vm none: disk label gamma: no partition of the machine's disks has this label",
        ),
    ] {
        run.send(&format!("vm start {vm}\r"));
        run.expect(why);
    }
    run.send("vm destroy part\r");
    run.expect("vm part: stopped");
    // Now it can be had.
    run.send("vm start all\r");
    run.expect("vm all: started");
    run.send("shutdown\r");
    let status = run.wait();
    run.check(status == 1, "VMs that could not start are no success");
    let after = fs::read(&disk).unwrap();
    let (start, end) = (first as usize * 512, (last as usize + 1) * 512);
    run.check(before[..start] == after[..start], "the table has changed");
    run.check(
        before[end..] == after[end..],
        "another partition has changed",
    );
    run.check(
        after[start..].starts_with(&numbers(0)),
        "the partition has not changed",
    );
}
