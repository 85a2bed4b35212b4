//! The promise against a hostvisor that breaks it wherever it can: all its attacks are refused, and the
//! machine is alive after each. `docs/attacks.md` lists them; `make hostile-mutants` shows that each can succeed.

use tests::Machine;

/// Attacks that there are.
const ALL: usize = 156;
/// Those that there are on a machine with a GICv3, and three CPUs or more.
const GICV3: usize = 152;
/// Those of them that need one CPU only.
const ALONE: usize = 128;
/// Those that there are on a machine with a GICv2, and three CPUs or more.
const GICV2: usize = 149;

/// Attacks all along; requires `expected` to be refused, none to succeed and none to attack nothing.
fn attack(cpu: &str, gic: u32, cpus: u32, expected: usize) {
    let machine = Machine::new()
        .cpu(cpu)
        .gic(gic)
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
    attack("cortex-a57", 3, 1, ALONE);
}

#[test]
fn one_cpu_of_the_newest_kind_attacks() {
    attack("max", 3, 1, ALONE);
}

#[test]
fn four_cpus_attack() {
    attack("cortex-a57", 3, 4, GICV3);
}

#[test]
fn four_cpus_of_the_newest_kind_attack() {
    attack("max", 3, 4, GICV3);
}

#[test]
fn four_cpus_with_a_gicv2_attack() {
    attack("cortex-a57", 2, 4, GICV2);
}
