//! Virtio devices: a hostile driver is named and harms nobody; devices work in protected and in open VMs.

use tests::artifacts::Artifact;
use tests::verdicts::Verdicts;
use tests::{Machine, VmSpec, image};

#[test]
fn a_hostile_driver_is_named_and_its_device_comes_back() {
    let mut run = Machine::new()
        .cpus(2)
        .cpu("max")
        .vm(VmSpec::test_guest(
            "mallory",
            "virtio-hostile,virtio-private,virtio-entropy",
        ))
        .vm(VmSpec::test_guest("alice", "virtio-entropy,wfi-self,virtio-entropy").open())
        .start();
    Verdicts::expect_all_pass(&mut run, &[]);
    run.wait_success();
    let text = run.text();
    for what in [
        "vm mallory: rng: queue 0: descriptor chain loops or has more than 8; the device waits for a reset",
        "(more of this is not told)",
        "vm alice: powered off",
    ] {
        run.check(text.contains(what), what);
    }
    run.check(!text.contains("vm alice: rng"), "the wrong VM is blamed");
}

#[test]
fn a_hostile_network_driver_is_named_and_its_neighbours_frames_arrive() {
    let mallory = VmSpec::test_guest("mallory", "net-hostile,net-private,net-frames");
    let alice = VmSpec::test_guest("alice", "net-frames,net-frames,net-frames").open();
    let two = |vm: VmSpec| vm.net("lan", "").net("lan", "");
    let mut run = Machine::new()
        .cpus(2)
        .vm(two(mallory))
        .vm(two(alice))
        .start();
    Verdicts::expect_all_pass(&mut run, &[]);
    run.wait_success();
    let text = run.text();
    for what in [
        "vm mallory: net0: queue 1: descriptor chain loops or has more than 8; the device waits for a reset",
        "vm mallory: net1: queue 0: a receive buffer that is to be read; the device waits for a reset",
        "vm alice: powered off",
    ] {
        run.check(text.contains(what), what);
    }
    run.check(!text.contains("vm alice: net"), "the wrong VM is blamed");
}

#[test]
fn a_virtio_console_speaks_and_hears_while_the_pl011_still_speaks() {
    let vm = VmSpec::debian("talker", Artifact::Kernel612, "ready,hvc,poweroff")
        .append("quiet")
        .virtio_console()
        .open();
    let mut run = Machine::new().vm(vm).start();
    run.expect("guest: hvc0 speaks");
    run.send("good morning\r");
    run.expect("guest: hvc0 has heard good morning");
    run.wait_success();
}

#[test]
fn a_hostile_disk_driver_is_named_and_its_neighbours_disk_works() {
    let disk = |name: &str| image::blank(&format!("virtio-{name}"), 1 << 20);
    let mallory = "disk-hostile,disk-private,disk-reset";
    let mallory = VmSpec::test_guest("mallory", mallory).disk(&disk("mallory"));
    let alice = VmSpec::test_guest("alice", "disk,disk,disk").open();
    let mut run = Machine::new()
        .cpus(2)
        .vm(mallory)
        .vm(alice.disk(&disk("alice")))
        .start();
    Verdicts::expect_all_pass(&mut run, &[]);
    run.wait_success();
    let text = run.text();
    for what in [
        "vm mallory: disk0: queue 0: a request without header; the device waits for a reset",
        "vm mallory: disk0: queue 0: no room for a request's status; the device waits for a reset",
        "vm mallory: disk0: queue 0: buffer to read behind one to write; the device waits for a reset",
        "vm alice: powered off",
    ] {
        run.check(text.contains(what), what);
    }
    run.check(!text.contains("vm alice: disk"), "the wrong VM is blamed");
}
