//! Eight Redis servers at once while another VM reboots: no interrupt is lost, no VM gets stuck.
//!
//! `make soak`. Not part of `make test`: nine VMs want more than the two CPUs of a small workstation.

use std::time::{Duration, Instant};
use tests::artifacts::Artifact;
use tests::http::free_port;
use tests::{Machine, Run, VmSpec, image, load, redis};

const SERVERS: usize = 8;

/// How long a server may take to be up: nine VMs start at once.
const START: Duration = Duration::from_secs(600);
/// After how long without an answer a server is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// How often VM `name` has been started.
fn starts(run: &mut Run, name: &str) -> u64 {
    let stat = run.shell(&format!("vm stat {name}"));
    let number = stat
        .split_once("started ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    number.unwrap_or_else(|| run.fail(&stat))
}

/// The new value of the counter that the server `name` keeps in its memory.
fn ask(run: &mut Run, name: &str, port: u16, patience: Duration) -> u64 {
    let deadline = Instant::now() + patience;
    loop {
        match redis::increment(port, "asked") {
            Some(count) => return count,
            None if Instant::now() > deadline => {
                let stat = run.shell(&format!("vm stat {name}"));
                let list = run.shell("vm list");
                run.fail(&format!("{name} does not answer\n{stat}\n{list}"))
            }
            None => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Eight servers with `kernel` are asked every second while a ninth VM reboots.
fn soak(machine: Machine, disk: &str, kernel: Artifact, shape: fn(VmSpec) -> VmSpec) {
    let duration = load::duration();
    let disk = image::with_services(disk, "redis");
    let disk = format!(
        "image = \"{}\"\nread-only = true\nshared = true",
        disk.display()
    );
    let mut machine = machine
        .cpus(4)
        .memory("3G")
        .timeout(2 * START.as_secs() + 2 * duration.as_secs())
        .interactive()
        .console("shell");
    let mut servers = Vec::new();
    for n in 0..SERVERS {
        let name = format!("server{n}");
        let port = free_port();
        machine = machine
            .tool_arg(&format!("--forward={port}:{name}:6379"))
            .vm(shape(
                VmSpec::debian(&name, kernel, "ready")
                    .vcpus(2)
                    .append("quiet root=/dev/vda ro")
                    .disk_table(&disk)
                    .net("lan", "uplink = true"),
            ));
        servers.push((name, port));
    }
    let rebooter = VmSpec::debian("rebooter", kernel, "ready,reboot");
    let mut run = machine.vm(shape(rebooter.vcpus(2).append("quiet"))).start();
    run.expect_prompt();
    for (name, port) in &servers {
        let count = ask(&mut run, name, *port, START);
        run.check(count == 1, &format!("{name} counts {count} at first"));
    }
    let before = starts(&mut run, "rebooter");
    let begin = Instant::now();
    let (mut rounds, mut slowest) = (1, Duration::ZERO);
    // For as long as was asked for, and until there was a reboot every two minutes of it, or one.
    let least = (duration.as_secs() / 120).max(1);
    while begin.elapsed() < duration || starts(&mut run, "rebooter") - before < least {
        let second = Instant::now();
        rounds += 1;
        for (name, port) in &servers {
            let asked = Instant::now();
            let count = ask(&mut run, name, *port, STUCK);
            slowest = slowest.max(asked.elapsed());
            // One that was started anew, or forgot, is found out. An answer that got lost was counted all the same.
            run.check(
                count >= rounds,
                &format!("{name} counts {count}, not {rounds}"),
            );
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(second.elapsed()));
    }
    let reboots = starts(&mut run, "rebooter") - before;
    println!(
        "{} answers in {:?}, the slowest after {slowest:?}, beside {reboots} reboots",
        (rounds - 1) * SERVERS as u64,
        begin.elapsed()
    );
    let list = run.shell("vm list");
    let running = list
        .lines()
        .filter(|line| line.starts_with("server") && line.contains("running"));
    run.check(running.count() == SERVERS, &list);
    run.shutdown();
}

#[test]
#[ignore = "make soak"]
fn eight_servers_answer_every_second_while_another_vm_reboots() {
    let machine = Machine::new().cpu("cortex-a57");
    soak(machine, "soak-open", Artifact::Kernel612, VmSpec::open);
}

#[test]
#[ignore = "make soak"]
fn so_do_protected_servers_with_a_gicv2() {
    let machine = Machine::new().cpu("max").gic(2);
    soak(
        machine,
        "soak-protected",
        Artifact::KernelPkvm,
        VmSpec::entropy,
    );
}

#[test]
#[ignore = "make soak"]
fn thirty_two_debian_vms_of_two_vcpus_run_at_once_on_four_cpus() {
    let names: Vec<String> = (0..32).map(|n| format!("debian{n}")).collect();
    let mut machine = Machine::new()
        .cpus(4)
        .memory("8G")
        .timeout(2 * START.as_secs())
        .interactive()
        .console("shell");
    for name in &names {
        let vm = VmSpec::debian(name, Artifact::Kernel612, "ready");
        machine = machine.vm(vm.vcpus(2).memory("192M").append("quiet"));
    }
    let mut run = machine.start();
    run.expect_prompt();
    for name in &names {
        run.send(&format!("vm console {name}\r"));
        run.expect("guest: ready cpus=2");
        run.detach();
    }
    let list = run.shell("vm list");
    let running = list.lines().filter(|line| line.contains("running"));
    run.check(running.count() == names.len(), &list);
    run.shutdown();
}
