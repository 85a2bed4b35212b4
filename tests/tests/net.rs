//! Guests' networks: VMs on a switch reach each other, and a client on the workstation reaches them.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests::artifacts::Artifact;
use tests::http::{free_port, get};
use tests::{Machine, Run, VmSpec};

/// Nothing lost, however late.
const ALL_ANSWERED: &str = "50 packets transmitted, 50 packets received, 0% packet loss";

fn address(n: u8) -> String {
    format!("address = \"10.9.0.{n}/24\"")
}

/// A VM that serves, and one that fetches from it while it pings it.
fn expect_traffic_on_a_switch(machine: Machine, kernel: Artifact, shape: fn(VmSpec) -> VmSpec) {
    let server = VmSpec::debian("server", kernel, "network,serve").net("lan", &address(1));
    let client = VmSpec::debian("client", kernel, "network,fetch:10.9.0.1,load:10.9.0.1")
        .net("lan", &address(2));
    let mut run = machine
        .timeout(300)
        .interactive()
        .console("client")
        .vm(shape(server))
        .vm(shape(client))
        .start();
    run.expect("guest: network eth0 10.9.0.2/24");
    for _ in 0..3 {
        let line = run.expect_line("guest: fetch 10.9.0.1: ");
        run.check(line.ends_with("checksum right"), &line);
    }
    let line = run.expect_line("guest: load 10.9.0.1: ");
    run.check(line.ends_with(ALL_ANSWERED), &line);
    run.detach();
    let net = run.shell("net");
    for part in ["switch lan: 2 ports", "vm server: net0", "vm client: net0"] {
        run.check(net.contains(part), &net);
    }
    for vm in ["server", "client"] {
        let stat = run.shell(&format!("vm stat {vm}"));
        let fine = count(&stat, "packets refused") == 0 && count(&stat, "violations") == 0;
        run.check(fine && count(&stat, "packets received") > 100, &stat);
    }
    run.shutdown();
}

/// Destroys and starts again first the receiver, then the sender of an endless transfer: each time as much memory is
/// free as before, the other VM goes on, and the transfer begins anew.
#[test]
fn a_vm_destroyed_in_the_middle_of_traffic_leaves_nothing_behind() {
    let kernel = Artifact::Kernel612;
    let steps = format!("network{}", ",fetch:10.9.0.1".repeat(40));
    let server = VmSpec::debian("server", kernel, "network,serve").net("lan", &address(1));
    let client = VmSpec::debian("client", kernel, &steps).net("lan", &address(2));
    let mut run = Machine::new()
        .cpus(2)
        .timeout(400)
        .interactive()
        .console("client")
        .vm(server.open())
        .vm(client.open())
        .start();
    let right = "guest: fetch 10.9.0.1: checksum right";
    run.expect(right);
    run.detach();
    let mut before = None;
    for victim in ["client", "client", "client", "server"] {
        run.send(&format!("vm destroy {victim}\r"));
        run.expect(&format!("vm {victim}: stopped"));
        let now = run.free_frames();
        let before = before.get_or_insert_with(|| now.clone());
        run.check(*before == now, &format!("free was {before}, is {now}"));
        run.send(&format!("vm start {victim}\r"));
        run.expect(&format!("vm {victim}: started"));
        run.send("vm console client\r");
        // Of a transfer that broke off the sum is wrong, of the next it is right.
        run.expect(right);
        run.expect(right);
        run.detach();
    }
    let text = run.text();
    run.check(!text.contains("waits for a reset"), "a device has stopped");
    run.shutdown();
}

/// The number behind the first `name` in `text`.
fn count(text: &str, name: &str) -> u64 {
    let rest = text.split_once(name).map_or("", |(_, rest)| rest);
    let word = rest.split_whitespace().next();
    word.and_then(|word| word.parse().ok()).unwrap_or(u64::MAX)
}

#[test]
fn open_vms_on_a_switch_reach_each_other_without_loss() {
    let machine = Machine::new().cpus(2);
    expect_traffic_on_a_switch(machine, Artifact::Kernel612, |vm| vm.open().vcpus(2));
}

#[test]
fn vms_on_a_switch_reach_each_other_with_a_gicv2_and_one_cpu() {
    let machine = Machine::new().cpus(1).gic(2).cpu("max");
    expect_traffic_on_a_switch(machine, Artifact::Kernel61, VmSpec::open);
}

/// Fetches the file of the VM behind `port` and compares it with its checksum.
fn expect_file(run: &Run, port: u16) {
    let deadline = Instant::now() + Duration::from_secs(180);
    let sum = loop {
        match get(port, "sum").filter(|sum| !sum.is_empty()) {
            Some(sum) => break sum,
            None if Instant::now() > deadline => run.fail(&format!("port {port}: no answer")),
            None => std::thread::sleep(Duration::from_millis(500)),
        }
    };
    let data = get(port, "data").unwrap_or_default();
    run.check(
        data.len() == 4 << 20,
        &format!("port {port}: {} bytes came", data.len()),
    );
    let (sum, own) = (String::from_utf8_lossy(&sum), md5(&data));
    run.check(
        sum.trim() == own,
        &format!("port {port}: checksum {own}, not {sum}"),
    );
}

fn md5(bytes: &[u8]) -> String {
    let mut program = Command::new("md5sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("md5sum starts");
    let mut input = program.stdin.take().expect("its input");
    input.write_all(bytes).expect("md5sum reads");
    drop(input);
    let output = program.wait_with_output().expect("md5sum ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// One who serves the workstation, and one who has his address from QEMU's DHCP and fetches from the first and through
/// the workstation.
fn expect_traffic_through_the_uplink(machine: Machine, kernel: Artifact) {
    let (first, second) = (free_port(), free_port());
    let uplink = "uplink = true";
    let mut run = machine
        .timeout(420)
        .interactive()
        .console("web2")
        .vm(VmSpec::debian("web1", kernel, "network,serve")
            .open()
            .vcpus(2)
            .net("lan", uplink))
        .vm(VmSpec::debian("web2", kernel, "network,serve")
            .open()
            .net("lan", uplink))
        .vm(VmSpec::debian(
            "client",
            kernel,
            &format!("network,ping:10.0.2.2,fetch:10.0.2.15,fetch:10.0.2.2:{first}"),
        )
        .open()
        .append("ip=dhcp")
        .net("lan", uplink))
        .tool_arg(&format!("--forward={first}:web1:80"))
        .tool_arg(&format!("--forward={second}:web2:80"))
        .start();
    run.expect("guest: serving");
    for port in [first, second] {
        expect_file(&run, port);
    }
    run.detach();
    run.send("vm console client\r");
    run.expect("guest: network eth0 10.0.2.128/24");
    let line = run.expect_line("guest: ping:10.0.2.2: ");
    run.check(line.ends_with(ALL_ANSWERED), &line);
    for server in ["10.0.2.15".to_owned(), format!("10.0.2.2:{first}")] {
        let line = run.expect_line(&format!("guest: fetch {server}: "));
        run.check(line.ends_with("checksum right"), &line);
    }
    run.detach();
    let net = run.shell("net");
    run.check(net.contains("switch lan: 4 ports"), &net);
    run.check(net.contains(": network card 52:54:01:00:00:00 ("), &net);
    run.shutdown();
}

#[test]
fn the_workstation_reaches_vms_through_a_card_on_mmio() {
    expect_traffic_through_the_uplink(Machine::new().cpus(2), Artifact::Kernel612);
}

#[test]
fn the_workstation_reaches_vms_through_a_card_on_pci_with_a_gicv2() {
    let machine = Machine::new().cpus(4).gic(2).cpu("max").pci();
    expect_traffic_through_the_uplink(machine, Artifact::Kernel61);
}
