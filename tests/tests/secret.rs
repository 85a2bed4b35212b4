//! What a Linux VM keeps in its memory, its page cache and its registers is found nowhere by a hostvisor that looks
//! through all the RAM it can read, as long as the VM is protected; if it is open, it is found, so that the
//! looking is known to work.

use tests::artifacts::Artifact;
use tests::{Machine, Run, VmSpec};

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

/// With virtio: it reads its entropy device first.
fn virtio_keeper() -> VmSpec {
    keeper(Artifact::KernelPkvm, "entropy,")
}

/// Boots it up to where it keeps the secret, and goes to the shell.
fn start(vm: VmSpec) -> Run {
    let machine = Machine::new().memory(&format!("{RAM_MIB}M"));
    let mut run = machine.vm(vm).interactive().debug().timeout(400).start();
    run.expect(&format!("guest: ready cpus={VCPUS}"));
    // Both say so, in whichever order.
    for _ in 0..VCPUS {
        run.expect("secret: held by CPU 0");
    }
    run.detach();
    run
}

/// Scans while the VM lives and when it is destroyed. `shared` is how many of its pages may be read.
fn is_not_found(vm: VmSpec, shared: std::ops::RangeInclusive<u64>) -> Run {
    let mut run = start(vm);
    let always = refused_always(&mut run);
    // The VM goes on meanwhile.
    for _ in 0..3 {
        let alive = scan(&mut run);
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
    let dead = scan(&mut run);
    run.check(dead.found == 0, &format!("a dead VM's secret: {dead:?}"));
    run.check(
        dead.refused == always,
        &format!("{dead:?}, but without VMs {always} pages are refused"),
    );
    run
}

fn is_found(vm: VmSpec) -> Run {
    let mut run = start(vm);
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
    is_not_found(keeper(Artifact::Kernel612, ""), 0..=0).shutdown();
}

#[test]
fn the_same_secret_of_an_open_vm_is_found() {
    is_found(keeper(Artifact::Kernel612, "").open()).shutdown();
}

#[test]
#[ignore = "compiles a kernel first: make secret"]
fn nothing_of_it_is_there_if_the_vm_shares_memory_with_virtio_devices() {
    let some = 1..=(VM_MIB * MIB / PAGE / 2);
    let mut run = is_not_found(virtio_keeper(), some);
    run.check(
        run.text().contains("guest: entropy 64 bytes"),
        "the entropy device does not work",
    );
    run.shutdown();
}

#[test]
#[ignore = "compiles a kernel first: make secret"]
fn the_same_secret_of_an_open_vm_with_virtio_devices_is_found() {
    is_found(virtio_keeper().open()).shutdown();
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
