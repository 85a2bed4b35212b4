//! Who gets the CPUs, while more is wanted than there is. Where shares or latencies are measured, time
//! passes by instructions executed.

use tests::{Machine, Run, VmSpec};

/// The number behind `name` in `text`, without its unit.
fn number(text: &str, name: &str) -> Option<f64> {
    let rest = text.split_once(name)?.1;
    rest.split_whitespace()
        .find_map(|word| word.trim_end_matches('%').parse().ok())
}

/// Waits for the work that VM `name` counts.
fn work(run: &mut Run, name: &str) -> f64 {
    run.send(&format!("vm console {name}\r"));
    run.expect("guest: work ");
    let done = run.rest_of_line();
    run.detach();
    done.parse()
        .unwrap_or_else(|_| run.fail(&format!("{name} has done {done:?}")))
}

/// Seconds that the vCPUs of `heavy` and `light` have run.
fn run_times(run: &mut Run) -> (f64, f64) {
    let mut seconds = |name: &str| {
        let stat = run.shell(&format!("vm stat {name}"));
        number(&stat, "run time vCPU 0")
            .unwrap_or_else(|| run.fail(&format!("no run time:\n{stat}")))
    };
    (seconds("heavy"), seconds("light"))
}

#[test]
fn two_vms_that_spin_share_a_cpu_by_their_weights() {
    let mut run = Machine::new()
        .cpus(1)
        .icount()
        .interactive()
        .console("shell")
        .vm(VmSpec::test_guest("light", "work").weight(100))
        .vm(VmSpec::test_guest("heavy", "work").weight(300))
        .start();
    run.expect_prompt();
    let (heavy, light) = (work(&mut run, "heavy"), work(&mut run, "light"));
    let ratio = heavy / light;
    run.check(
        (2.7..3.3).contains(&ratio),
        &format!("weights 300 and 100, but work {heavy} and {light}: {ratio:.2}"),
    );
    // Both spin on; now alike, which takes some of the machine's time to show: a busy development host gives
    // it little of that in a second.
    run.send("vm weight light 300\r");
    let (before, mut now) = (run_times(&mut run), run_times(&mut run));
    let spent = |now: (f64, f64)| (now.0 - before.0, now.1 - before.1);
    while spent(now).0 + spent(now).1 < 2.0 {
        now = run_times(&mut run);
    }
    let (heavy, light) = spent(now);
    run.check(
        (heavy - light).abs() < 0.1 * (heavy + light),
        &format!("alike by weight, but one ran {heavy:.3} s, the other {light:.3} s"),
    );
    let top = run.shell("vm top");
    run.check(top.matches(" 300 ").count() == 2, &top);
    let stat = run.shell("vm stat light");
    run.check(
        number(&stat, "weight") == Some(300.0) && stat.contains("affinity"),
        &stat,
    );
    run.check(
        number(&stat, "wait time vCPU 0").is_some_and(|s| s > 1.0),
        &format!("it has hardly waited:\n{stat}"),
    );
    run.shutdown();
}

#[test]
fn vms_that_spin_do_not_stop_the_ticks_of_another() {
    let mut run = Machine::new()
        .cpus(1)
        .icount()
        .interactive()
        .console("ticker")
        .vm(VmSpec::test_guest("one", "spin"))
        .vm(VmSpec::test_guest("two", "spin").vcpus(2))
        .vm(VmSpec::test_guest("ticker", "ticks"))
        .start();
    run.expect("guest: 200 ticks, ");
    let late = run.rest_of_line();
    let micros: u64 = late
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(u64::MAX);
    // It preempts who spins: it waits for no slice.
    run.check(micros < 3_000, &format!("three spinning vCPUs, {late}"));
    run.expect("TESTS done: 1 passed, 0 failed");
    run.detach();
    run.shutdown();
}

#[test]
fn a_vcpu_that_wakes_another_lets_its_lock_go_before_it_gives_way() {
    let mut run = Machine::new()
        .cpus(1)
        .icount()
        .console("locks")
        .vm(VmSpec::test_guest("locks", "lock-and-wake").vcpus(2))
        .start();
    run.expect("guest: 200 wake-ups, ");
    let text = run.rest_of_line();
    let held = text.split_whitespace().next().and_then(|n| n.parse().ok());
    // An interrupt may come while it holds the lock.
    run.check(
        held.is_some_and(|n: u32| n <= 10),
        &format!("200 wake-ups: {text}"),
    );
    let late = number(&text, "the lock held,");
    run.check(
        late.is_some_and(|micros| micros < 1000.0),
        &format!("200 wake-ups: {text}"),
    );
    run.expect("TESTS done: 1 passed, 0 failed");
}

#[test]
fn pinned_vcpus_run_on_their_cpus_alone() {
    let mut run = Machine::new()
        .cpus(4)
        .interactive()
        .console("shell")
        .vm(VmSpec::test_guest("pinned", "spin")
            .vcpus(3)
            .affinity(&[1, 3]))
        .vm(
            VmSpec::test_guest("tests", "wfi-ring,timer-virtual,psci-cpu-off")
                .vcpus(2)
                .affinity(&[3]),
        )
        .start();
    run.expect_prompt();
    run.send("vm console tests\r");
    run.expect("TESTS done: 3 passed, 0 failed");
    run.detach();
    let cpus = run.shell("cpu");
    let busy = |cpu: usize| {
        let line = cpus.lines().nth(cpu + 1)?;
        line.split_whitespace().nth(2)?.parse::<f64>().ok()
    };
    run.check(
        busy(0) == Some(0.0) && busy(2) == Some(0.0),
        &format!("CPUs that nobody may run on are busy:\n{cpus}"),
    );
    run.check(
        busy(1).is_some_and(|s| s > 0.0) && busy(3).is_some_and(|s| s > 0.0),
        &format!("CPUs that they may run on are not used:\n{cpus}"),
    );
    let stat = run.shell("vm stat pinned");
    run.check(stat.contains("1,3"), &stat);
    run.shutdown();
}

#[test]
fn a_machine_whose_vms_all_sleep_sleeps() {
    let mut run = Machine::new()
        .cpus(2)
        .interactive()
        .console("one")
        .vm(VmSpec::test_guest("one", "sleep").vcpus(2))
        // Waiting for nothing on a CPU of its own must not keep the other one looking.
        .vm(VmSpec::test_guest("two", "sleep").affinity(&[0]))
        .start();
    run.expect("guest: sleeping");
    run.detach();
    run.send("vm console two\r");
    run.expect("guest: sleeping");
    run.detach();
    let idle = |run: &mut Run| -> f64 {
        let cpus = run.shell("cpu");
        let idle = cpus
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(4));
        idle.filter_map(|word| word.parse::<f64>().ok()).sum()
    };
    // What they said is not the last that they do before they sleep.
    std::thread::sleep(std::time::Duration::from_millis(500));
    run.shell("vm top");
    let before = idle(&mut run);
    std::thread::sleep(std::time::Duration::from_secs(2));
    let slept = idle(&mut run) - before;
    run.check(slept > 3.0, &format!("2 CPUs slept {slept:.3} s in 2 s"));
    let top = run.shell("vm top");
    run.check(
        top.matches(" 0.0 ").count() >= 4,
        &format!("VMs that sleep run:\n{top}"),
    );
    run.shutdown();
}

#[test]
fn affinity_to_cpus_that_are_not_there_is_refused_and_others_start() {
    use tests::artifacts::Artifact;
    use tests::bundle::{RawVm, pack};
    let kernel = std::fs::read(Artifact::TestGuest.path()).unwrap();
    let vms = [
        RawVm::flat("nowhere", "test=timer-virtual", &kernel).set("affinity", "5,7"),
        RawVm::flat("somewhere", "test=timer-virtual", &kernel).set("affinity", "1,7"),
    ];
    let mut run = Machine::new().cpus(2).start_with_bundle(Some(&pack(&vms)));
    run.expect("vm nowhere: affinity names CPUs 5,7 only, the machine has 0,1\n");
    run.expect("vm somewhere: started");
    run.expect("TESTS done: 1 passed");
    run.expect("shutdown: VM nowhere: affinity names CPUs 5,7 only");
}

/// 32 VMs of two vCPUs on four CPUs, each of which does `tests`.
fn thirty_two(tests: &str, seconds: u64) {
    let mut machine = Machine::new()
        .cpus(4)
        .memory("5G")
        .timeout(seconds)
        .interactive()
        .console("shell");
    let names: Vec<String> = (0..32).map(|i| format!("vm{i}")).collect();
    for name in &names {
        machine = machine.vm(VmSpec::test_guest(name, tests).vcpus(2));
    }
    let mut run = machine.start();
    run.expect_prompt();
    for _ in &names {
        run.expect(": powered off");
    }
    // All quiet: no line of the host's log comes between those of a guest.
    for name in &names {
        run.send(&format!("vm console {name}\r"));
        run.expect("TESTS done: ");
        let result = run.rest_of_line();
        run.check(
            result.ends_with(" 0 failed, 0 skipped"),
            &format!("{name}: {result}"),
        );
        run.detach();
    }
    run.shutdown();
}

#[test]
fn thirty_two_vms_of_two_vcpus_run_on_four_cpus() {
    thirty_two(
        "psci-cpu-on,timer-virtual,timer-physical,wfi-self,wfi-ping-pong,psci-cpu-off",
        170,
    );
}
