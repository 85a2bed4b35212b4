//! `cloister run` as a user meets it: exit statuses and error lines.

use tests::artifacts::Artifact;
use tests::{Machine, VmSpec};

#[test]
fn a_time_out_has_its_own_status() {
    let mut run = Machine::new()
        .tool_timeout(8)
        .interactive()
        .vm(VmSpec::test_guest("t", "sleep"))
        .start();
    run.expect("guest: sleeping");
    let status = run.wait();
    run.check(status == 124, &format!("exit status {status}"));
}

#[test]
fn two_vms_of_one_name_are_refused_with_one_line() {
    let vm = || VmSpec::test_guest("twin", "rtc");
    refused(Machine::new().vm(vm()).vm(vm().vcpus(2)), &["twin"]);
}

#[test]
fn a_kernel_that_is_no_image_is_refused_with_one_line() {
    let vm = VmSpec::debian("bad", Artifact::Initrd, "ready");
    refused(Machine::new().vm(vm), &["initrd.gz", "Image"]);
}

#[test]
fn more_memory_than_the_machine_has_is_refused_with_one_line() {
    refused(
        Machine::new().vm(VmSpec::test_guest("huge", "rtc").memory("8G")),
        &["memory"],
    );
}

#[test]
fn what_a_guest_prints_does_not_make_a_run_fail() {
    let mut run = Machine::new()
        .vm(VmSpec::test_guest("forger", "forge-panic"))
        .start();
    run.wait_success();
    run.check(
        run.text().contains("[core] panic: a guest said so"),
        "the guest did not print what it was to print",
    );
}

#[test]
fn what_a_guest_prints_does_not_make_a_run_succeed() {
    let mut run = Machine::new()
        .vm(VmSpec::test_guest("forger", "forge-success"))
        .start();
    let status = run.wait();
    run.check(status == 1, &format!("exit status {status}"));
    run.check(
        run.errors().contains("VM forger: all its vCPUs are off"),
        "the reason is not handed on",
    );
}

#[track_caller]
fn refused(machine: Machine, words: &[&str]) {
    let mut run = machine.start();
    let status = run.wait();
    run.check(status == 2, &format!("exit status {status}"));
    let errors = run.errors();
    let lines: Vec<&str> = errors
        .lines()
        .filter(|line| line.starts_with("cloister: "))
        .collect();
    run.check(lines.len() == 1, &format!("not one line: {lines:#?}"));
    for word in words {
        run.check(
            lines.concat().contains(word),
            &format!("{word:?} is not in {lines:?}"),
        );
    }
}
