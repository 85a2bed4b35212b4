//! The test guest on QEMU's board without a hypervisor: shows that its tests are right about the
//! machine, so that a failure under Cloister is Cloister's.

use tests::Machine;
use tests::verdicts::{SMP_ONLY, Verdicts, not_of_gic};

/// Their answers rightly differ without a hypervisor.
const HYPERVISOR_ONLY: [&str; 12] = [
    "smccc-version",
    "smccc-host-calls",
    "id-features",
    "sysreg-undef",
    "mmio-walk",
    "beyond-ram",
    "virtio-entropy",
    "virtio-hostile",
    "virtio-private",
    "net-frames",
    "net-hostile",
    "net-private",
];

#[test]
fn the_test_guest_passes_on_four_bare_cpus_with_either_gic() {
    for gic in [2, 3] {
        let mut run = Machine::new()
            .gic(gic)
            .cpus(4)
            .memory("256M")
            .start_bare("all");
        let skipped = [&HYPERVISOR_ONLY[..], not_of_gic(gic)].concat();
        Verdicts::expect_all_pass(&mut run, &skipped);
        run.wait_success();
    }
}

#[test]
fn the_test_guest_passes_on_one_bare_cpu_of_the_newest_kind() {
    let mut run = Machine::new()
        .cpus(1)
        .cpu("max")
        .memory("256M")
        .start_bare("all");
    let verdicts = Verdicts::expect_all_pass(
        &mut run,
        &[&HYPERVISOR_ONLY[..], &SMP_ONLY[..], not_of_gic(3)].concat(),
    );
    assert!(
        verdicts.passed.len() >= 25,
        "only {} tests ran",
        verdicts.passed.len()
    );
    run.wait_success();
}

#[test]
fn a_failing_test_and_a_crash_are_noticed() {
    let mut run = Machine::new()
        .cpus(1)
        .memory("256M")
        .start_bare("fail,crash,device-tree,no-such-test");
    run.expect_line("TESTS done: ");
    let verdicts = Verdicts::parse(&run.text());
    assert_eq!(verdicts.passed, ["device-tree"]);
    assert_eq!(verdicts.failed.len(), 3, "{:?}", verdicts.failed);
}

#[test]
fn a_reset_starts_the_guest_again() {
    let mut run = Machine::new().cpus(1).memory("256M").start_bare("reset");
    for _ in 0..3 {
        run.expect("guest: resetting");
    }
}
