//! Bundles that are wrong: one clear line says what and where, and the other VMs start.

use tests::artifacts::Artifact;
use tests::bundle::{RawVm, pack};
use tests::verdicts::Verdicts;
use tests::{Machine, Run};

fn guest() -> Vec<u8> {
    std::fs::read(Artifact::TestGuest.path()).expect("the test guest can be read")
}

fn good() -> RawVm {
    RawVm::flat("good", "test=device-tree", &guest())
}

/// Starts a bundle in which a VM is good; it must run, and exactly one line must name all of `words`.
fn good_vm_runs_and_one_line_names(bundle: &[u8], words: &[&str]) -> Run {
    let mut run = Machine::new().start_with_bundle(Some(bundle));
    run.expect("vm good: started");
    Verdicts::expect_all_pass(&mut run, &[]);
    run.wait_success();
    let text = run.text();
    let naming: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("[host] error") && words.iter().all(|w| line.contains(w)))
        .collect();
    run.check(
        naming.len() == 1,
        &format!("{} lines name {words:?}: {naming:#?}", naming.len()),
    );
    run
}

#[test]
fn a_bundle_cut_off_in_the_middle_starts_the_vms_before() {
    let bundle = pack(&[good(), RawVm::flat("cut", "test=rtc", &guest())]);
    let run =
        good_vm_runs_and_one_line_names(&bundle[..bundle.len() - 5000], &["bundle", "cut off"]);
    run.check(
        !run.text().contains("vm cut: started"),
        "a VM with half a kernel was started",
    );
}

#[test]
fn a_kernel_that_is_no_image_is_refused() {
    let bad = RawVm::flat("bad", "", &[0x55; 70_000]).set("format", "linux");
    let run = good_vm_runs_and_one_line_names(&pack(&[bad, good()]), &["bad", "kernel"]);
    run.check(!run.text().contains("vm bad: started"), "it was started");
}

#[test]
fn more_memory_than_the_machine_has_is_refused() {
    let bad = RawVm::flat("huge", "test=rtc", &guest()).set("memory", "8589934592");
    good_vm_runs_and_one_line_names(&pack(&[bad, good()]), &["huge"]);
}

#[test]
fn the_second_vm_of_one_name_is_refused() {
    let other = RawVm::flat("good", "test=rtc", &guest());
    let run = good_vm_runs_and_one_line_names(&pack(&[good(), other]), &["good", "name"]);
    run.check(
        run.text().matches("vm good: started").count() == 1,
        "both were started",
    );
}

#[test]
fn an_unknown_key_is_refused() {
    let bad = RawVm::flat("odd", "test=rtc", &guest()).with("colour", "blue");
    good_vm_runs_and_one_line_names(&pack(&[bad, good()]), &["odd", "colour"]);
}

#[test]
fn a_missing_key_is_refused() {
    let bad = RawVm::flat("few", "test=rtc", &guest()).without("memory");
    good_vm_runs_and_one_line_names(&pack(&[bad, good()]), &["few", "memory"]);
}

#[test]
fn a_kernel_of_another_size_than_promised_is_refused() {
    let bad = RawVm::flat("short", "test=rtc", &guest()).set("kernel", "999999");
    good_vm_runs_and_one_line_names(&pack(&[good(), bad]), &["short", "kernel"]);
}

#[test]
fn a_kernel_larger_than_its_vm_is_refused() {
    let big = RawVm::flat("tight", "test=rtc", &vec![0; 40 << 20]).set("memory", "33554432");
    good_vm_runs_and_one_line_names(&pack(&[good(), big]), &["tight"]);
}

#[test]
fn garbage_instead_of_a_bundle_leaves_a_shell() {
    let mut run = Machine::new()
        .interactive()
        .start_with_bundle(Some(&[0xa5; 9000]));
    run.expect("[host]");
    run.expect("bundle");
    run.expect_prompt();
    run.send("shutdown\r");
    run.wait_success();
}

#[test]
fn no_bundle_at_all_leaves_a_shell() {
    let mut run = Machine::new().interactive().start_with_bundle(None);
    run.expect("bundle");
    run.expect_prompt();
    run.send("shutdown\r");
    run.wait_success();
}
