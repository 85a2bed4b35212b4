//! The promise: what the hostvisor may not see, it does not see, and it survives trying.

use tests::{Machine, Run, VmSpec};

const RAM_BASE: u64 = 0x4000_0000;
/// QEMU puts the payload, which is the core's image, 2 MB behind the start of RAM.
const CORE_IMAGE: u64 = RAM_BASE + 0x20_0000;
const RAM_BYTES: u64 = 1 << 30;
const BLOCK: u64 = 2 << 20;
/// Upper half of what the test guest's `fill` writes everywhere.
const SECRET: u64 = 0x5ec3_e75e;
/// Blocks of 2 MB that `fill` fills.
const FILLED_BLOCKS: usize = 26;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Probe {
    Value(u64),
    Fault,
}

fn probe(run: &mut Run, address: u64) -> Probe {
    let answer = run.shell(&format!("probe {address:#x}"));
    let lines: Vec<&str> = answer
        .lines()
        .filter(|line| !line.starts_with("[host]"))
        .collect();
    let value = lines.first().and_then(|line| line.split_once(": 0x"));
    match value.and_then(|(_, digits)| u64::from_str_radix(digits.trim(), 16).ok()) {
        Some(value) => Probe::Value(value),
        None if answer.contains("fault") => Probe::Fault,
        None => run.fail(&format!("neither a value nor a fault: {answer:?}")),
    }
}

/// What the hostvisor sees in the first word of each 2 MB of RAM.
#[derive(Debug, Default)]
struct View {
    faults: usize,
    secrets: usize,
}

fn scan(run: &mut Run) -> View {
    let mut view = View::default();
    for address in (RAM_BASE..RAM_BASE + RAM_BYTES).step_by(BLOCK as usize) {
        match probe(run, address) {
            Probe::Fault => view.faults += 1,
            Probe::Value(value) if value >> 32 == SECRET => view.secrets += 1,
            Probe::Value(_) => {}
        }
    }
    view
}

fn machine(vm: VmSpec) -> Machine {
    Machine::new()
        .memory("1G")
        .timeout(180)
        .interactive()
        .console("shell")
        .vm(vm.not_started())
}

fn fill(run: &mut Run) {
    run.send("vm start safe\r");
    run.expect("vm safe: started");
    run.send("vm console safe\r");
    run.expect("guest: filled");
    run.detach();
}

fn destroy(run: &mut Run) {
    run.send("vm destroy safe\r");
    run.expect("vm safe: stopped");
}

#[test]
fn the_hostvisor_takes_a_fault_on_core_memory_and_goes_on() {
    let mut run = machine(VmSpec::test_guest("safe", "fill")).start();
    run.expect_prompt();
    for address in [CORE_IMAGE, CORE_IMAGE + 0x1000, CORE_IMAGE + 0x8000] {
        let seen = probe(&mut run, address);
        run.check(
            seen == Probe::Fault,
            &format!("the core's image at {address:#x}: {seen:?}"),
        );
    }
    let scan = scan(&mut run);
    run.check(scan.faults > 0, "nothing of RAM is kept from the hostvisor");
    run.check(
        scan.faults < 32,
        &format!("{} of 512 blocks fault with no VM", scan.faults),
    );
    let help = run.shell("help");
    run.check(
        help.contains("vm list"),
        "the shell does not work afterwards",
    );
    run.shutdown();
}

#[test]
fn a_protected_vms_memory_is_never_visible() {
    let mut run = machine(VmSpec::test_guest("safe", "fill")).start();
    run.expect_prompt();
    let before = scan(&mut run);
    fill(&mut run);
    let during = scan(&mut run);
    destroy(&mut run);
    let after = scan(&mut run);
    run.check(
        during.secrets == 0,
        &format!("{} pages of a protected VM are readable", during.secrets),
    );
    // 128 MB are 64 blocks; a few may have been in use before, or begin in the middle of one.
    let hidden = during.faults.saturating_sub(before.faults);
    run.check(
        hidden >= 60,
        &format!("only {hidden} blocks more fault while the VM runs"),
    );
    run.check(
        after.secrets == 0,
        &format!("{} pages were given back unscrubbed", after.secrets),
    );
    run.check(
        after.faults == before.faults,
        &format!(
            "{} blocks fault after, {} before",
            after.faults, before.faults
        ),
    );
    run.shutdown();
}

#[test]
fn an_open_vms_memory_is_visible_to_the_same_probe() {
    let mut run = machine(VmSpec::test_guest("safe", "fill").open()).start();
    run.expect_prompt();
    fill(&mut run);
    let during = scan(&mut run);
    run.check(
        during.secrets >= FILLED_BLOCKS / 2,
        &format!("only {} of {FILLED_BLOCKS} blocks seen", during.secrets),
    );
    destroy(&mut run);
    run.shutdown();
}

#[test]
fn a_host_frame_can_be_read_and_nowhere_faults() {
    let mut run = machine(VmSpec::test_guest("safe", "fill")).start();
    run.expect_prompt();
    let last = probe(&mut run, RAM_BASE + RAM_BYTES / 2);
    run.check(
        matches!(last, Probe::Value(_)),
        &format!("the middle of RAM: {last:?}"),
    );
    let uart = probe(&mut run, 0x0900_0018);
    run.check(
        matches!(uart, Probe::Value(_)),
        &format!("the UART's flags: {uart:?}"),
    );
    let nowhere = probe(&mut run, RAM_BASE + (64 << 30));
    run.check(nowhere == Probe::Fault, &format!("behind RAM: {nowhere:?}"));
    run.shutdown();
}
