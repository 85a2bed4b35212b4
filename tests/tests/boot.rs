//! The machine itself: 1 to 8 CPUs, old and new, little and much memory.

use tests::verdicts::Verdicts;
use tests::{Machine, VmSpec};

/// Boots, runs a VM with `vcpus` vCPUs that sees its CPUs and its tree, and ends.
fn boots(machine: Machine, vcpus: u32) {
    let skipped: &[&str] = if vcpus == 1 { &["psci-cpu-on"] } else { &[] };
    let vm = VmSpec::test_guest("probe", "device-tree,psci-cpu-on,timer-virtual").vcpus(vcpus);
    let mut run = machine.vm(vm).start();
    Verdicts::expect_all_pass(&mut run, skipped);
    run.expect("vm probe: powered off");
    run.wait_success();
}

#[test]
fn boots_on_one_cortex_a57() {
    boots(Machine::new().cpus(1), 1);
}

#[test]
fn boots_on_two_cpus_of_the_newest_kind() {
    boots(Machine::new().cpus(2).cpu("max"), 2);
}

#[test]
fn boots_on_four_cortex_a57() {
    boots(Machine::new().cpus(4), 4);
}

#[test]
fn boots_on_eight_cpus_of_the_newest_kind() {
    boots(Machine::new().cpus(8).cpu("max"), 8);
}

#[test]
fn boots_on_three_cortex_a72() {
    boots(Machine::new().cpus(3).cpu("cortex-a72"), 2);
}

#[test]
fn boots_with_512_megabytes() {
    boots(Machine::new().memory("512M"), 2);
}

#[test]
fn boots_with_64_gigabytes() {
    let machine = Machine::new()
        .memory("64G")
        .cpu("max")
        .qemu_arg("-object")
        .qemu_arg("memory-backend-ram,id=ram,size=64G,reserve=off")
        .qemu_arg("-machine")
        .qemu_arg("memory-backend=ram");
    boots(machine, 2);
}

/// `name   123 KiB` in the output of `mem`.
fn kib(output: &str, name: &str) -> Option<u64> {
    let line = output.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().find_map(|word| word.parse().ok())
}

#[test]
fn all_cpus_are_online_and_the_core_keeps_less_than_one_percent() {
    let mut run = Machine::new()
        .cpus(8)
        .interactive()
        .console("shell")
        .vm(VmSpec::test_guest("t", "rtc").not_started())
        .start();
    run.expect_prompt();
    let memory = run.shell("mem");
    let (Some(ram), Some(core)) = (kib(&memory, "ram"), kib(&memory, "corevisor")) else {
        run.fail(&format!("`mem` does not name ram and corevisor:\n{memory}"));
    };
    run.check(ram > 1_000_000, &format!("RAM is {ram} KiB"));
    run.check(
        core > 0 && core * 100 < ram,
        &format!("the corevisor keeps {core} of {ram} KiB"),
    );
    let cpus = run.shell("cpu");
    run.check(cpus.lines().count() == 9, &format!("not 8 CPUs:\n{cpus}"));
    run.shutdown();
}

#[test]
fn a_gicv2_serves_one_to_eight_cpus_of_either_kind() {
    for (cpus, cpu) in [(1, "max"), (8, "cortex-a57")] {
        let mut run = Machine::new().gic(2).cpus(cpus).cpu(cpu).start_empty();
        run.expect("GICv2: GICD 0x8000000, GICH and GICV withheld");
        run.expect(&format!("CPUs: {cpus} of {cpus} online"));
    }
}
