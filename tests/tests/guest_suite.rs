//! The bare-metal test guest in a VM: every property of the guest's machine, on the oldest and the
//! newest CPU, with one vCPU, with one for each CPU, and with more vCPUs than CPUs.

use tests::verdicts::{SMP_ONLY, Verdicts, not_of_gic};
use tests::{Machine, VmSpec};

fn suite(gic: u32, cpus: u32, cpu: &str, vm: VmSpec, skipped: &[&str]) {
    let mut run = Machine::new()
        .gic(gic)
        .cpus(cpus)
        .cpu(cpu)
        .timeout(180)
        .vm(vm)
        .start();
    Verdicts::expect_all_pass(&mut run, &[skipped, not_of_gic(gic)].concat());
    run.expect("vm suite: powered off");
    run.wait_success();
}

fn all() -> VmSpec {
    VmSpec::test_guest("suite", "all")
        .net("lan", "")
        .net("lan", "")
}

#[test]
fn all_tests_pass_with_one_vcpu_on_one_cortex_a57() {
    suite(3, 1, "cortex-a57", all(), &SMP_ONLY);
}

#[test]
fn all_tests_pass_with_one_vcpu_on_one_cpu_of_the_newest_kind() {
    suite(3, 1, "max", all(), &SMP_ONLY);
}

#[test]
fn all_tests_pass_with_four_vcpus_on_four_cortex_a57() {
    suite(3, 4, "cortex-a57", all().vcpus(4), &[]);
}

#[test]
fn all_tests_pass_with_four_vcpus_on_four_cpus_of_the_newest_kind() {
    suite(3, 4, "max", all().vcpus(4), &[]);
}

#[test]
fn all_tests_pass_with_four_vcpus_on_one_cpu() {
    suite(3, 1, "cortex-a57", all().vcpus(4), &[]);
}

#[test]
fn all_tests_pass_with_sixteen_vcpus_on_two_cpus() {
    suite(3, 2, "max", all().vcpus(16), &[]);
}

#[test]
fn all_tests_pass_in_an_open_vm() {
    suite(3, 2, "cortex-a57", all().vcpus(2).open(), &[]);
}

#[test]
fn all_tests_pass_with_one_vcpu_and_a_gicv2() {
    suite(2, 1, "cortex-a57", all(), &SMP_ONLY);
}

#[test]
fn all_tests_pass_with_four_vcpus_and_a_gicv2() {
    suite(2, 4, "cortex-a57", all().vcpus(4), &[]);
}

#[test]
fn all_tests_pass_with_eight_vcpus_on_two_cpus_of_the_newest_kind_and_a_gicv2() {
    suite(2, 2, "max", all().vcpus(8), &[]);
}

#[test]
fn all_tests_pass_with_four_vcpus_on_one_cpu_and_a_gicv2() {
    suite(2, 1, "cortex-a57", all().vcpus(4), &[]);
}

#[test]
fn all_tests_pass_in_an_open_vm_with_a_gicv2() {
    suite(2, 2, "cortex-a57", all().vcpus(2).open(), &[]);
}

#[test]
fn a_gicv2_has_no_more_than_eight_vcpus() {
    let machine = Machine::new().gic(2).vm(all().vcpus(9));
    let mut run = machine.tool_arg("--unchecked").start();
    run.expect("9 vCPUs: on this machine, which has a GICv2, a VM has 1 to 8");
}

#[test]
fn two_vms_keep_their_registers_while_they_share_one_cpu() {
    let tests = "state-switches,wfi-ping-pong,state-exits,time-monotonic";
    let mut run = Machine::new()
        .cpus(1)
        .cpu("max")
        .vm(VmSpec::test_guest("suite", tests).vcpus(2))
        .vm(VmSpec::test_guest("other", tests).vcpus(2))
        .start();
    Verdicts::expect_all_pass(&mut run, &[]);
    run.wait_success();
    run.check(
        run.text().contains("vm other: powered off"),
        "the other VM did not come to its end",
    );
}
