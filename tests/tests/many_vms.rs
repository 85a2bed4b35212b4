//! Several VMs at once.

use tests::artifacts::Artifact;
use tests::{Machine, VmSpec};

#[test]
fn two_vms_with_different_kernels_run_at_once() {
    let mut run = Machine::new()
        .vm(VmSpec::debian("bookworm", Artifact::Kernel61, "ready,sleep,poweroff").vcpus(2))
        .vm(
            VmSpec::debian("trixie", Artifact::Kernel612, "ready,sleep,poweroff")
                .vcpus(2)
                .open(),
        )
        .start();
    run.expect("guest: ready cpus=2");
    run.wait_success();
    for name in ["bookworm", "trixie"] {
        run.check(
            run.text().contains(&format!("vm {name}: powered off")),
            &format!("{name} did not power off"),
        );
    }
}

#[test]
fn eight_vms_of_two_vcpus_reach_userspace_on_two_cpus() {
    let names: Vec<String> = (0..8).map(|i| format!("vm{i}")).collect();
    let mut machine = Machine::new()
        .memory("2G")
        .timeout(240)
        .interactive()
        .console("shell");
    for (i, name) in names.iter().enumerate() {
        let kernel = if i % 2 == 0 {
            Artifact::Kernel61
        } else {
            Artifact::Kernel612
        };
        machine = machine.vm(VmSpec::debian(name, kernel, "ready")
            .vcpus(2)
            .memory("192M"));
    }
    let mut run = machine.start();
    run.expect_prompt();
    for name in &names {
        run.send(&format!("vm console {name}\r"));
        run.expect(&format!("console of {name}"));
        run.expect("guest: ready cpus=2");
        run.detach();
    }
    let list = run.shell("vm list");
    run.check(
        list.matches("running").count() == 8,
        &format!("not all eight are running:\n{list}"),
    );
    run.shutdown();
}
