//! The bare-metal test guest in a VM: every property of the guest's machine, on the oldest and the
//! newest CPU, with one vCPU, with one for each CPU, and with more vCPUs than CPUs.

use tests::verdicts::{SMP_ONLY, Verdicts};
use tests::{Machine, VmSpec};

fn suite(cpus: u32, cpu: &str, vm: VmSpec, skipped: &[&str]) {
    let mut run = Machine::new()
        .cpus(cpus)
        .cpu(cpu)
        .timeout(180)
        .vm(vm)
        .start();
    Verdicts::expect_all_pass(&mut run, skipped);
    run.expect("vm suite: powered off");
    run.wait_success();
}

fn all() -> VmSpec {
    VmSpec::test_guest("suite", "all")
}

#[test]
fn all_tests_pass_with_one_vcpu_on_one_cortex_a57() {
    suite(1, "cortex-a57", all(), &SMP_ONLY);
}

#[test]
fn all_tests_pass_with_one_vcpu_on_one_cpu_of_the_newest_kind() {
    suite(1, "max", all(), &SMP_ONLY);
}

#[test]
fn all_tests_pass_with_four_vcpus_on_four_cortex_a57() {
    suite(4, "cortex-a57", all().vcpus(4), &[]);
}

#[test]
fn all_tests_pass_with_four_vcpus_on_four_cpus_of_the_newest_kind() {
    suite(4, "max", all().vcpus(4), &[]);
}

#[test]
fn all_tests_pass_with_four_vcpus_on_one_cpu() {
    suite(1, "cortex-a57", all().vcpus(4), &[]);
}

#[test]
fn all_tests_pass_with_sixteen_vcpus_on_two_cpus() {
    suite(2, "max", all().vcpus(16), &[]);
}

#[test]
fn all_tests_pass_in_an_open_vm() {
    suite(2, "cortex-a57", all().vcpus(2).open(), &[]);
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
