//! Unmodified Debian kernels.

use std::time::Duration;

use tests::artifacts::Artifact;
use tests::{Machine, Run, VmSpec};

/// Most exits and traps that a boot to userspace with two vCPUs may cost, kernel messages left out: each
/// character on the emulated UART costs two.
const BOOT_EXITS: u64 = 6_000;

/// Userspace is there with `vcpus` CPUs, `sleep 2` takes two seconds, and power-off ends the machine.
fn lives(cpus: u32, cpu: &str, kernel: Artifact, vcpus: u32) {
    let vm = VmSpec::debian("debian", kernel, "ready,sleep,sleep,sleep,poweroff").vcpus(vcpus);
    let mut run = Machine::new().cpus(cpus).cpu(cpu).vm(vm).start();
    ready(&mut run, vcpus);
    keeps_time(&mut run);
    run.expect("guest: poweroff");
    run.expect("vm debian: powered off");
    run.wait_success();
}

fn ready(run: &mut Run, vcpus: u32) {
    let line = run.expect_line("guest: ready cpus=");
    run.check(
        line == format!("guest: ready cpus={vcpus}"),
        &format!("{vcpus} vCPUs, but {line:?}"),
    );
}

/// By the host's clock, read when the guest's lines arrive, and by the guest's own. Of three sleeps one
/// must be right: a busy machine makes any of them longer, a wrong clock all of them.
fn keeps_time(run: &mut Run) {
    let two_seconds = 1.6..=2.4;
    let sleeps: Vec<(f64, f64)> = (0..3).map(|_| one_sleep(run)).collect();
    run.check(
        sleeps
            .iter()
            .any(|(host, guest)| two_seconds.contains(host) && two_seconds.contains(guest)),
        &format!("`sleep 2` took (by the host's, by the guest's clock): {sleeps:.2?}"),
    );
}

fn one_sleep(run: &mut Run) -> (f64, f64) {
    let begin = run.expect("guest: sleep begin uptime=").at;
    let guest_begin: f64 = run.rest_of_line().parse().unwrap_or(f64::NAN);
    let end = run.expect("guest: sleep end uptime=").at;
    let guest_end: f64 = run.rest_of_line().parse().unwrap_or(f64::NAN);
    (
        end.duration_since(begin).as_secs_f64(),
        guest_end - guest_begin,
    )
}

#[test]
fn kernel_6_1_lives_with_one_vcpu() {
    lives(1, "cortex-a57", Artifact::Kernel61, 1);
}

#[test]
fn kernel_6_12_lives_with_two_vcpus() {
    lives(2, "max", Artifact::Kernel612, 2);
}

#[test]
fn kernel_6_1_lives_with_four_vcpus() {
    lives(2, "max", Artifact::Kernel61, 4);
}

#[test]
fn kernel_6_12_lives_with_four_vcpus() {
    lives(4, "cortex-a57", Artifact::Kernel612, 4);
}

#[test]
fn kernel_6_12_lives_with_four_vcpus_on_one_cpu() {
    lives(1, "max", Artifact::Kernel612, 4);
}

#[test]
fn a_reboot_brings_the_vm_up_again() {
    let vm = VmSpec::debian("debian", Artifact::Kernel61, "ready,reboot").vcpus(2);
    let mut run = Machine::new().interactive().vm(vm).start();
    for _ in 0..3 {
        ready(&mut run, 2);
        run.expect("guest: reboot");
        run.expect("vm debian: rebooting");
    }
    run.detach();
    run.send("vm destroy debian\r");
    run.expect("vm debian: stopped");
    run.shutdown();
}

#[test]
fn the_guests_shell_answers() {
    let vm = VmSpec::debian("debian", Artifact::Kernel612, "ready,shell").vcpus(2);
    let mut run = Machine::new().vm(vm).start();
    ready(&mut run, 2);
    run.expect("guest: shell");
    std::thread::sleep(Duration::from_millis(500));
    run.send("echo $((6 * 7))-$(nproc)\r");
    run.expect("42-2\n");
    run.send("poweroff -f\r");
    run.expect("vm debian: powered off");
    run.wait_success();
}

/// The number on the line of `vm stat` that begins with `name`.
fn count(stat: &str, name: &str) -> Option<u64> {
    let line = stat
        .lines()
        .find(|line| line.trim_start().starts_with(name))?;
    line.split_whitespace().find_map(|word| word.parse().ok())
}

#[test]
fn a_boot_costs_few_exits() {
    let vm = VmSpec::debian("debian", Artifact::Kernel61, "ready quiet").vcpus(2);
    let mut run = Machine::new().interactive().vm(vm).start();
    ready(&mut run, 2);
    run.detach();
    let stat = run.shell("vm stat debian");
    let host = count(&stat, "exits to the hostvisor");
    let core = count(&stat, "traps in the core");
    let (Some(host), Some(core)) = (host, core) else {
        run.fail(&format!(
            "`vm stat` does not say how many exits there were:\n{stat}"
        ));
    };
    println!("{host} exits to the hostvisor, {core} traps in the core\n{stat}");
    run.check(host > 0, "no exit at all was counted");
    run.check(
        host + core < BOOT_EXITS,
        &format!("{} exits, more than {BOOT_EXITS}:\n{stat}", host + core),
    );
    run.shutdown();
}
