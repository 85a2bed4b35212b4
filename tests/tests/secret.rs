//! What a Linux VM keeps in its memory, its page cache and its registers is found nowhere by a hostvisor that looks
//! through all the RAM it can read, as long as the VM is protected; if it is open, it is found, so that the
//! looking is known to work.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use tests::artifacts::Artifact;
use tests::http::{free_port, get};
use tests::{Machine, Run, VmSpec, image};

/// The complement of the secret: the secret itself is in no file, no command line and no program.
const COMPLEMENT: u64 = 0x3a91_c5e0_7d46_b82f;
/// How often the guest writes it: into memory, into its page cache, into the registers of each CPU.
const TIMES: u64 = 10_000;
const VCPUS: u32 = 2;
const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
const RAM_MIB: u64 = 1024;
const VM_MIB: u64 = 256;
/// Pages that the hostvisor leaves out of its own map: two below stacks, for each of the CPUs it is built for.
const GUARD_PAGES: u64 = 16;

/// What `scan` says of pages and words.
#[derive(Clone, Copy, Debug)]
struct Scan {
    refused: u64,
    found: u64,
}

fn scan(run: &mut Run) -> Scan {
    let said = run.shell(&format!("scan {COMPLEMENT:#x}"));
    let line = said.lines().find(|line| line.starts_with("scan: "));
    let numbers: Vec<u64> = line
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [read, refused, found] = numbers[..] else {
        run.fail(&format!("scan says {said:?}"))
    };
    run.check(
        read + refused == RAM_MIB * MIB / PAGE,
        &format!("{read} pages read and {refused} refused are not all RAM"),
    );
    Scan { refused, found }
}

/// Pages that cannot be read even without VMs: the corevisor's, by the shell's `mem`, and guard pages.
fn refused_always(run: &mut Run) -> u64 {
    let said = run.shell("mem");
    let kib = said.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("corevisor")?;
        rest.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    kib.map_or_else(
        || run.fail(&format!("mem says {said:?}")),
        |kib| kib / 4 + GUARD_PAGES,
    )
}

/// A Linux that keeps the secret on both CPUs, after it has carried out `steps`.
fn keeper(kernel: Artifact, steps: &str) -> VmSpec {
    VmSpec::debian("keeper", kernel, &format!("ready,{steps}program"))
        .program(Artifact::SecretKeeper)
        .append(&format!("cloister.program={COMPLEMENT:x},{TIMES}"))
        .vcpus(VCPUS)
        .memory(&format!("{VM_MIB}M"))
        .stop_on_reboot()
}

/// A disk of its own for each test, without anything of the secret.
fn disk(name: &str) -> PathBuf {
    image::blank(&format!("secret-{name}"), MIB)
}

/// With virtio devices: it reads its entropy device first, and all the while a disk and an uplink carry bytes that are
/// not the secret.
fn virtio_keeper(disk: &str) -> VmSpec {
    let image = self::disk(disk);
    let lines = format!("image = \"{}\"\nread-only = true", image.display());
    keeper(Artifact::KernelPkvm, "entropy,network,io:10.0.2.2,")
        .entropy()
        .disk_table(&lines)
        .net("lan", "uplink = true")
}

/// What the VM's disk has read, and what its network card has sent and received, by `vm stat`.
fn carried(stat: &str) -> Option<[u64; 3]> {
    let count = |name: &str| {
        let mut lines = stat.lines().map(str::trim);
        let number = lines.find_map(|line| line.strip_prefix(name))?;
        number.split_ascii_whitespace().next()?.parse().ok()
    };
    Some([
        count("reads")?,
        count("packets sent")?,
        count("packets received")?,
    ])
}

/// Waits until each of [`carried`] is more than it was.
fn more_is_carried(run: &mut Run) {
    let before = run.shell_until("vm stat keeper", carried);
    run.shell_until("vm stat keeper", |stat| {
        let mut pairs = carried(stat)?.into_iter().zip(before);
        pairs.all(|(now, before)| now > before).then_some(())
    });
}

fn machine() -> Machine {
    Machine::new().memory(&format!("{RAM_MIB}M"))
}

/// Boots it up to where it keeps the secret, and has leaked it if it is one that `leaks`, and goes to the shell.
fn boot(machine: Machine, vm: VmSpec, leaks: bool) -> Run {
    let mut run = machine.vm(vm).interactive().debug().timeout(400).start();
    run.expect(&format!("guest: ready cpus={VCPUS}"));
    // Each CPU says so, in whichever order.
    let said = VCPUS + u32::from(leaks);
    for _ in 0..said {
        run.expect_any(&["secret: held by CPU 0", "guest: leaked"]);
    }
    run.detach();
    run
}

/// Scans while the VM lives and when it is destroyed. `shared` is how many of its pages may be read.
fn is_not_found(run: &mut Run, shared: RangeInclusive<u64>) {
    let always = refused_always(run);
    // The VM goes on meanwhile.
    for _ in 0..3 {
        let alive = scan(run);
        run.check(
            alive.found == 0,
            &format!("a living VM's secret: {alive:?}"),
        );
        let readable = (always + VM_MIB * MIB / PAGE).wrapping_sub(alive.refused);
        run.check(
            shared.contains(&readable),
            &format!("{readable} of a protected VM's pages can be read: {alive:?}"),
        );
    }
    run.send("vm destroy keeper\r");
    run.expect("vm keeper: stopped: on request");
    let dead = scan(run);
    run.check(dead.found == 0, &format!("a dead VM's secret: {dead:?}"));
    run.check(
        dead.refused == always,
        &format!("{dead:?}, but without VMs {always} pages are refused"),
    );
}

fn is_found(vm: VmSpec) -> Run {
    let mut run = boot(machine(), vm, false);
    let always = refused_always(&mut run);
    let alive = scan(&mut run);
    run.check(
        alive.found >= 2 * TIMES,
        &format!("memory and page cache hold {TIMES} each: {alive:?}"),
    );
    run.check(
        alive.refused == always,
        &format!("{alive:?}, but without VMs {always} pages are refused"),
    );
    run
}

#[test]
fn nothing_of_a_protected_vms_secret_is_in_ram_that_the_hostvisor_reads() {
    // Debian's kernel shares nothing.
    let mut run = boot(machine(), keeper(Artifact::Kernel612, ""), false);
    is_not_found(&mut run, 0..=0);
    run.shutdown();
}

#[test]
fn the_same_secret_of_an_open_vm_is_found() {
    is_found(keeper(Artifact::Kernel612, "").open()).shutdown();
}

/// With devices that carry something while it is kept.
fn virtio_shares_nothing_of_it(machine: Machine, disk: &str) {
    let some = 1..=(VM_MIB * MIB / PAGE / 2);
    let mut run = boot(machine, virtio_keeper(disk), false);
    more_is_carried(&mut run);
    is_not_found(&mut run, some);
    let said = [
        "guest: entropy 64 bytes",
        "guest: network eth0 10.0.2.15/24",
        "guest: io works",
    ];
    for what in said {
        run.check(run.text().contains(what), what);
    }
    run.check(!run.text().contains("guest: io failed"), "a device stopped");
    run.shutdown();
}

#[test]
#[ignore = "compiles a kernel first: make secret"]
fn nothing_of_it_is_there_if_the_vm_shares_memory_with_virtio_devices() {
    virtio_shares_nothing_of_it(machine(), "shared");
}

#[test]
#[ignore = "compiles a kernel first: make secret"]
fn nothing_of_it_is_there_on_a_newer_cpu_with_pci() {
    virtio_shares_nothing_of_it(machine().cpu("max").pci(), "max");
}

#[test]
#[ignore = "compiles a kernel first: make secret"]
fn the_same_secret_of_an_open_vm_with_virtio_devices_is_found() {
    is_found(virtio_keeper("open").open()).shutdown();
}

/// What a protected VM itself gives to a device is found, though its memory is not read.
fn is_found_where_it_leaked(mut run: Run) {
    let always = refused_always(&mut run);
    let alive = scan(&mut run);
    run.check(
        (1..TIMES).contains(&alive.found),
        &format!("some of the secret passes through a device: {alive:?}"),
    );
    run.check(
        alive.refused > always,
        &format!("a protected VM's pages can all be read: {alive:?}"),
    );
    run.shutdown();
}

#[test]
#[ignore = "compiles a kernel first: make secret"]
fn what_a_protected_vm_writes_to_its_disk_is_found() {
    let vm = keeper(Artifact::KernelPkvm, "leak:disk,").disk(&disk("leak"));
    let run = boot(machine(), vm, true);
    is_found_where_it_leaked(run);
}

#[test]
#[ignore = "compiles a kernel first: make secret"]
fn what_a_protected_vm_sends_is_found() {
    let port = free_port();
    let vm = keeper(Artifact::KernelPkvm, "network,leak:network,").net("lan", "uplink = true");
    let forward = format!("--forward={port}:keeper:80");
    let run = boot(machine().tool_arg(&forward), vm, true);
    let served = get(port, "leak").unwrap_or_default();
    run.check(
        served.starts_with(&(!COMPLEMENT).to_ne_bytes()),
        "the guest does not serve it",
    );
    is_found_where_it_leaked(run);
}

#[test]
fn nothing_is_looked_for_unless_the_machines_command_line_allows_it() {
    let mut run = Machine::new().interactive().start_empty();
    run.expect_prompt();
    let said = run.shell("scan 1");
    run.check(
        said == "scan: not allowed: the machine was started without 'debug' (cloister run --debug)",
        &said,
    );
    run.shutdown();
}
