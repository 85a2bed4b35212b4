//! The management shell and the console multiplexer.

use tests::{Machine, Run, VmSpec};

fn in_shell() -> Run {
    let vm = |name| VmSpec::test_guest(name, "echo").not_started();
    let mut run = Machine::new()
        .interactive()
        .console("shell")
        .vm(vm("one"))
        .vm(vm("two"))
        .start();
    run.expect_prompt();
    run
}

#[test]
fn help_names_every_command() {
    let mut run = in_shell();
    let help = run.shell("help");
    let vm = [
        "vm list",
        "vm stat",
        "vm console",
        "vm start",
        "vm stop",
        "vm restart",
        "vm destroy",
    ];
    for command in vm
        .into_iter()
        .chain(["log", "mem", "cpu", "probe", "shutdown", "help"])
    {
        run.check(
            help.lines().any(|line| line.starts_with(command)),
            &format!("no {command:?} in:\n{help}"),
        );
    }
    run.shutdown();
}

#[test]
fn a_wrong_command_gets_one_clear_line() {
    let mut run = in_shell();
    let wrong = [
        ("frobnicate", "frobnicate"),
        ("vm", "vm"),
        ("vm fly one", "fly"),
        ("vm stat", "NAME"),
        ("vm stat nobody", "nobody"),
        ("vm start nobody", "nobody"),
        ("vm console nobody", "nobody"),
        ("vm list more", "more"),
        ("vm stop one", "one"),
        ("probe", "ADDR"),
        ("probe zz", "zz"),
        ("shutdown now", "now"),
    ];
    for (command, word) in wrong {
        let answer = run.shell(command);
        run.check(
            answer.lines().count() == 1,
            &format!("{command:?} is answered by:\n{answer}"),
        );
        run.check(
            answer.contains(word),
            &format!("{command:?} is answered by {answer:?}, without {word:?}"),
        );
    }
    run.shutdown();
}

#[test]
fn the_console_goes_back_and_forth() {
    let mut run = in_shell();
    for name in ["one", "two"] {
        run.send(&format!("vm start {name}\r"));
        run.expect(&format!("vm {name}: started"));
        run.send(&format!("vm console {name}\r"));
        run.expect("guest: echo ready");
        run.send(&format!("I am {name}\r"));
        run.expect(&format!("echo: I am {name}"));
        run.detach();
    }
    // What is typed in the shell goes to no guest.
    run.shell("help");
    run.send("vm console one\r");
    run.expect("echo: I am one");
    run.send("again\r");
    let since = run.expect("echo: again").text;
    run.check(
        !since.contains("help") && !since.contains("two"),
        &format!("foreign text on one's console: {since:?}"),
    );
    run.detach();
    let list = run.shell("vm list");
    run.check(list.matches("running").count() == 2, &list);
    run.shutdown();
}

#[test]
fn what_is_typed_while_a_command_runs_is_kept_for_afterwards() {
    let mut run = in_shell();
    // One paste: commands that print much, and one for the console of a guest in between.
    run.send("vm start one\rlog\rhelp\rvm list\r");
    run.expect("cloister> log");
    run.expect("cloister> help");
    run.expect("shutdown            ends all VMs");
    run.expect("cloister> vm list");
    run.expect("NAME");
    run.send("vm console one\r");
    run.expect("guest: echo ready");
    run.detach();
    run.send("help\rvm console one\rpasted one\rpasted two\r\x1dcpu\rmem\r");
    run.expect("cloister> cpu");
    run.expect("MPIDR");
    run.expect("cloister> mem");
    run.expect("pool frames");
    run.send("vm console one\r");
    run.expect("echo: pasted one");
    run.expect("echo: pasted two");
    run.detach();
    // Much more than any FIFO holds.
    let many = 40;
    run.send(&"vm list\r".repeat(many));
    for _ in 0..many {
        run.expect("NAME");
    }
    run.expect_prompt();
    run.shutdown();
}

#[test]
fn the_first_vm_is_attached_at_start() {
    let mut run = Machine::new()
        .interactive()
        .vm(VmSpec::test_guest("only", "echo"))
        .start();
    run.expect("guest: echo ready");
    run.send("hello\r");
    run.expect("echo: hello");
    run.detach();
    let stat = run.shell("vm stat only");
    for line in [
        "exits to the hostvisor",
        "traps in the core",
        "memory",
        "run time",
    ] {
        run.check(stat.contains(line), &format!("no {line:?} in:\n{stat}"));
    }
    let log = run.shell("log");
    run.check(
        log.contains("vm only: started"),
        &format!("no start in the log:\n{log}"),
    );
    run.shutdown();
}

#[test]
fn a_machine_without_vms_has_a_shell() {
    let mut run = Machine::new().interactive().start_empty();
    run.expect_prompt();
    let list = run.shell("vm list");
    run.check(list.contains("no VMs"), &list);
    run.shutdown();
}

#[test]
fn much_output_of_a_detached_vm_is_kept_to_its_newest_part() {
    let flood = VmSpec::test_guest("flood", "uart-flood,echo").not_started();
    let mut run = Machine::new()
        .interactive()
        .console("shell")
        .vm(flood)
        .start();
    run.expect_prompt();
    run.send("vm start flood\r");
    run.expect("vm flood: started");
    run.send("vm console flood\r");
    run.expect("guest: echo ready");
    run.detach();
    run.send("vm console flood\r");
    let replay = run.expect("guest: echo ready").text;
    run.check(
        replay.contains("flood 00999"),
        "the newest output is not replayed",
    );
    run.check(!replay.contains("flood 00000"), "the log is not bounded");
    run.detach();
    run.shutdown();
}
