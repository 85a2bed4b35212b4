//! Creating, starting, stopping and destroying VMs leaves nothing behind.

use tests::{Machine, Run, VmSpec};

/// Rounds of start and destroy.
const ROUNDS: usize = 200;

/// What must be the same before and after: free frames of RAM, and of the core's page-table pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Free {
    frames: u64,
    pool: u64,
}

fn number(output: &str, name: &str) -> Option<u64> {
    let line = output.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().last()?.parse().ok()
}

fn free(run: &mut Run) -> Free {
    let output = run.shell("mem");
    let (Some(frames), Some(pool)) = (
        number(&output, "free frames"),
        number(&output, "pool frames"),
    ) else {
        run.fail(&format!(
            "`mem` has no lines `free frames N` and `pool frames N`:\n{output}"
        ));
    };
    Free { frames, pool }
}

fn start(run: &mut Run, name: &str) {
    run.send(&format!("vm start {name}\r"));
    run.expect(&format!("vm {name}: started"));
}

/// Destroys a VM and waits until it is gone.
fn destroy(run: &mut Run, name: &str) {
    run.send(&format!("vm destroy {name}\r"));
    run.expect(&format!("vm {name}: stopped"));
}

fn in_shell(machine: Machine) -> Run {
    let mut run = machine.interactive().console("shell").start();
    run.expect_prompt();
    run
}

#[test]
fn two_hundred_rounds_leave_as_many_free_frames_as_before() {
    let sleeper = VmSpec::test_guest("sleeper", "sleep")
        .vcpus(2)
        .memory("66M")
        .not_started();
    let open = VmSpec::test_guest("open", "sleep")
        .memory("66M")
        .open()
        .not_started();
    let mut run = in_shell(Machine::new().timeout(300).vm(sleeper).vm(open));
    // The first round may grow the hostvisor's heap once.
    for name in ["sleeper", "open"] {
        start(&mut run, name);
        destroy(&mut run, name);
    }
    let before = free(&mut run);
    for round in 0..ROUNDS {
        let name = if round % 4 == 3 { "open" } else { "sleeper" };
        start(&mut run, name);
        destroy(&mut run, name);
    }
    let after = free(&mut run);
    run.check(
        before == after,
        &format!("before {before:?}, after {after:?}"),
    );
    run.shutdown();
}

#[test]
fn a_busy_vm_can_be_destroyed_while_others_go_on() {
    let mut run = in_shell(
        Machine::new()
            .vm(VmSpec::test_guest("busy", "spin").vcpus(4).not_started())
            .vm(VmSpec::test_guest("flood", "uart-flood").not_started())
            .vm(VmSpec::test_guest("talk", "echo").not_started()),
    );
    start(&mut run, "talk");
    let before = free(&mut run);
    for round in 0..5 {
        start(&mut run, "busy");
        start(&mut run, "flood");
        std::thread::sleep(std::time::Duration::from_millis(100 * round));
        destroy(&mut run, "flood");
        destroy(&mut run, "busy");
    }
    let after = free(&mut run);
    run.check(
        before == after,
        &format!("before {before:?}, after {after:?}"),
    );
    run.send("vm console talk\r");
    run.expect("guest: echo ready");
    run.send("still here\r");
    run.expect("echo: still here");
    run.detach();
    run.shutdown();
}

/// One CPU for each of two VMs that never give theirs up: nothing but the end of one tells the other CPU,
/// where management is, that there is something to do.
#[test]
fn a_vm_ends_while_another_keeps_the_management_cpu_busy() {
    let spinner = |name| VmSpec::test_guest(name, "spin").memory("66M").not_started();
    let mut run = in_shell(Machine::new().vm(spinner("a")).vm(spinner("b")));
    for pair in [["a", "b"], ["b", "a"]] {
        let [stays, goes] = pair;
        start(&mut run, stays);
        for _ in 0..10 {
            start(&mut run, goes);
            destroy(&mut run, goes);
        }
        destroy(&mut run, stays);
    }
    run.shutdown();
}

#[test]
fn stop_start_and_restart_do_what_they_say() {
    let mut run =
        in_shell(Machine::new().vm(VmSpec::test_guest("box", "echo").vcpus(2).not_started()));
    start(&mut run, "box");
    let again = run.shell("vm start box");
    run.check(
        again.contains("box") && again.contains("running"),
        &format!("second start: {again:?}"),
    );
    run.send("vm restart box\r");
    run.expect("vm box: started");
    run.send("vm stop box\r");
    run.expect("vm box: stopped");
    let list = run.shell_until("vm list", |list| {
        list.contains("stopped").then(|| list.to_owned())
    });
    run.check(!list.contains("running"), &list);
    let again = run.shell("vm stop box");
    run.check(
        again.contains("stopped"),
        &format!("second stop: {again:?}"),
    );
    start(&mut run, "box");
    run.send("vm console box\r");
    run.expect("guest: echo ready");
    run.send("quit\r");
    run.expect("vm box: powered off");
    run.detach();
    run.shutdown();
}

#[test]
fn a_guest_that_resets_itself_starts_again_or_stays_off() {
    let again = VmSpec::test_guest("again", "reset");
    let mut run = Machine::new().interactive().vm(again).start();
    for _ in 0..10 {
        run.expect("guest: resetting");
    }
    run.detach();
    run.send("vm destroy again\r");
    run.expect("vm again: stopped");
    run.shutdown();
}

#[test]
fn a_reset_ends_a_vm_that_shall_not_restart() {
    let mut run = Machine::new()
        .vm(VmSpec::test_guest("once", "reset").stop_on_reboot())
        .start();
    run.expect("guest: resetting");
    run.wait_success();
    run.check(
        run.text().matches("guest: resetting").count() == 1,
        "it started again",
    );
}
