//! VMs are created, run and destroyed for ever, on four CPUs at once, and nothing gets lost: the hostile hostvisor
//! does it by plain hypercalls, without the hostvisor's management between.

use std::env;

use tests::Machine;

/// Rounds in CI; `make churn` sets more.
const ROUNDS: u64 = 1000;

#[test]
fn everything_comes_back_after_a_thousand_vms_made_on_four_cpus_at_once() {
    let rounds = env::var("CLOISTER_CHURN_ROUNDS")
        .map_or(ROUNDS, |n| n.parse().expect("a number of rounds"));
    // A round takes some 10 ms where two processors carry four CPUs.
    let machine = Machine::new()
        .cpus(4)
        .memory("512M")
        .timeout(300 + rounds / 10);
    let mut run = machine.start_hostile(&format!("churn={rounds}"));
    let end = run.expect_line("CHURN ");
    let expected = format!("CHURN done: {rounds} rounds on 4 CPUs, all back: ");
    run.check(end.starts_with(&expected), &end);
    run.check(end.ends_with("64 VMs, 256 vCPUs"), &end);
    run.wait_success();
}
