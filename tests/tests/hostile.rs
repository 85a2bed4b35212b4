//! The promise against a hostvisor that breaks it wherever it can: all its attacks are refused, and the
//! machine is alive after each. `docs/attacks.md` lists them; `make hostile-mutants` shows that each can succeed.

use tests::Machine;

/// Attacks that need one CPU only.
const ALONE: usize = 127;
/// All of them, with three CPUs and more.
const ALL: usize = 151;

/// Attacks all along; requires `expected` to be refused, none to succeed and none to attack nothing.
fn attack(cpu: &str, cpus: u32, expected: usize) {
    let machine = Machine::new()
        .cpu(cpu)
        .cpus(cpus)
        .memory("512M")
        .timeout(600);
    let mut run = machine.start_hostile("attack=all");
    let end = run.expect_line("ATTACKS done: ");
    let text = run.text();
    for line in text.lines().filter(|line| line.starts_with("ATTACK ")) {
        let wrong = line.contains(": SUCCEEDED") || line.contains(": VOID");
        run.check(!wrong, line);
    }
    let refused = text
        .lines()
        .filter(|l| l.starts_with("ATTACK ") && l.contains(": refused"))
        .count();
    run.check(
        refused == expected,
        &format!("{refused} attacks refused, not {expected}: {end}"),
    );
    let skipped = ALL - expected;
    let summary = format!("{expected} refused, 0 succeeded, 0 void, {skipped} skipped");
    run.check(end.ends_with(&summary), &end);
    run.wait_success();
}

#[test]
fn one_cpu_attacks() {
    attack("cortex-a57", 1, ALONE);
}

#[test]
fn one_cpu_of_the_newest_kind_attacks() {
    attack("max", 1, ALONE);
}

#[test]
fn four_cpus_attack() {
    attack("cortex-a57", 4, ALL);
}

#[test]
fn four_cpus_of_the_newest_kind_attack() {
    attack("max", 4, ALL);
}
