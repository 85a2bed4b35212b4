//! Real servers in Debian VMs, driven by real clients: `make servers`. Not part of `make test`: they need
//! `make guest-images`, `make guest-kernel` and `tools/deps clients`.

use std::time::{Duration, Instant};
use tests::artifacts::Artifact;
use tests::http::free_port;
use tests::load::{client, duration, try_client};
use tests::{Machine, VmSpec, image};

/// Where the tests run: a machine, and VMs that suit it.
#[derive(Clone, Copy)]
struct Place {
    name: &'static str,
    cpu: &'static str,
    gic: u32,
    kernel: Artifact,
    shape: fn(VmSpec) -> VmSpec,
}

const OPEN: Place = Place {
    name: "open",
    cpu: "cortex-a57",
    gic: 3,
    kernel: Artifact::Kernel612,
    shape: VmSpec::open,
};
const PROTECTED: Place = Place {
    name: "protected",
    cpu: "max",
    gic: 2,
    kernel: Artifact::KernelPkvm,
    shape: |vm| vm,
};

impl Place {
    fn machine(self) -> Machine {
        Machine::new().cpu(self.cpu).gic(self.gic).interactive()
    }

    /// A VM called `name` that starts from a disk with `service`.
    fn vm(self, name: &str, service: &str, append: &str) -> VmSpec {
        let disk = image::with_services(&format!("servers-{}-{name}", self.name), service);
        let vm = VmSpec::debian(name, self.kernel, "ready")
            .vcpus(2)
            .append(&format!("quiet root=/dev/vda {append}"))
            .disk(&disk)
            .net("lan", "uplink = true");
        (self.shape)(vm)
    }
}

/// The bits per second of each second that iperf3 tells of, and no summary.
fn rates(text: &str) -> Vec<f64> {
    let unit = |unit: &str| match unit {
        "bits/sec" => Some(1.0),
        "Kbits/sec" => Some(1e3),
        "Mbits/sec" => Some(1e6),
        "Gbits/sec" => Some(1e9),
        _ => None,
    };
    let rate = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| unit(word).is_some())?;
        Some(words.get(at.checked_sub(1)?)?.parse::<f64>().ok()? * unit(words[at])?)
    };
    let summary = |line: &&str| line.contains("sender") || line.contains("receiver");
    text.lines()
        .filter(|line| !summary(line))
        .filter_map(rate)
        .collect()
}

/// No ten seconds in a row without a byte: the emulation of two CPUs may stop for some.
fn check_no_stall(what: &str, text: &str) {
    let (rates, seconds) = (rates(text), duration().as_secs());
    assert!(
        rates.len() as u64 >= seconds,
        "{what}: {} s of {seconds}: {text}",
        rates.len()
    );
    let stalled = rates
        .windows(10)
        .any(|ten| ten.iter().all(|&rate| rate == 0.0));
    assert!(!stalled, "{what} stalls: {text}");
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    println!("{what}: {:.1} Mbit/s over {} s", mean / 1e6, rates.len());
}

/// `ab` and `redis-benchmark` drive two VMs at once.
fn apache_and_redis(place: Place) {
    let (http, redis) = (free_port(), free_port());
    let mut run = place
        .machine()
        .timeout(900)
        .console("web")
        .vm(place.vm("web", "web", ""))
        .vm(place.vm("redis", "redis", ""))
        .tool_arg(&format!("--forward={http}:web:80"))
        .tool_arg(&format!("--forward={redis}:redis:6379"))
        .start();
    run.expect("guest: web is up");
    run.detach();
    run.send("vm console redis\r");
    run.expect("guest: redis is up");
    let url = format!("http://127.0.0.1:{http}/");
    let ab = ["-q", "-n", "1000", "-c", "8", "-s", "120"];
    let ab = std::thread::spawn(move || client("ab", &[&ab[..], &[&url]].concat()));
    let port = redis.to_string();
    let redis = ["-q", "-n", "5000", "-c", "8", "-t", "ping,set,get"];
    let redis = client("redis-benchmark", &[&redis[..], &["-p", &port]].concat());
    // Its progress, each line over the last.
    let redis = redis.lines().filter_map(|line| line.rsplit('\r').next());
    let redis = redis.collect::<Vec<_>>().join("\n");
    let ab = ab.join().expect("ab");
    println!("{}\n{redis}\n{ab}", place.name);
    assert!(ab.contains("Complete requests:      1000"), "{ab}");
    assert!(ab.contains("Failed requests:        0"), "{ab}");
    run.detach();
    run.shutdown();
}

#[test]
#[ignore = "make servers"]
fn apache_and_redis_serve_the_workstation_at_once() {
    apache_and_redis(OPEN);
}

#[test]
#[ignore = "make servers"]
fn so_they_do_in_protected_vms_with_a_gicv2() {
    apache_and_redis(PROTECTED);
}

/// `iperf3` from the workstation to a VM, back, and between two VMs, where echo requests go beside it.
fn iperf3(place: Place) {
    let seconds = duration().as_secs();
    let (port, time) = (free_port(), seconds.to_string());
    // Two echo requests a second, whose answers may take long: what counts is that none is lost.
    let echoes = 2 * seconds;
    let between = format!(
        "cloister.exec=\\\"iperf3 -c 10.0.2.15 -t {seconds} -i 1 & ping -q -c {echoes} -i 0.5 -W 60 10.0.2.15; wait $!\\\""
    );
    let mut run = place
        .machine()
        .timeout(900 + 5 * seconds)
        .console("server")
        .vm(place.vm("server", "iperf3", ""))
        .vm(place.vm("client", "iperf3", &between).not_started())
        .tool_arg(&format!("--forward={port}:server:5201"))
        .start();
    run.expect("guest: server is up");
    run.detach();
    let port = port.to_string();
    let from_workstation = |more: &[&str]| {
        let common = ["-c", "127.0.0.1", "-p", &port, "-t", &time, "-i", "1"];
        let arguments = [&common[..], more].concat();
        // Between two clients the server does not listen for a moment.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match try_client("iperf3", &arguments) {
                Ok(text) => return text,
                Err(text) if text.contains("bits/sec") || Instant::now() > deadline => {
                    panic!("{text}")
                }
                Err(_) => std::thread::sleep(Duration::from_secs(1)),
            }
        }
    };
    println!("{}", place.name);
    check_no_stall("workstation to VM", &from_workstation(&[]));
    check_no_stall("VM to workstation", &from_workstation(&["-R"]));
    run.send("vm start client\r");
    run.send("vm console client\r");
    let text = run.expect("guest: cloister.exec ended with status 0").text;
    check_no_stall("VM to VM", &text);
    let answered = format!("{echoes} packets transmitted, {echoes} packets received");
    run.check(text.contains(&answered), "an echo request was lost");
    println!("{answered} beside it");
    // The console's end of it, too.
    std::thread::sleep(Duration::from_secs(1));
    run.detach();
    run.shutdown();
}

#[test]
#[ignore = "make servers"]
fn iperf3_between_vms_and_through_the_uplink_does_not_stall() {
    iperf3(OPEN);
}

#[test]
#[ignore = "make servers"]
fn nor_does_it_between_protected_vms_with_a_gicv2() {
    iperf3(PROTECTED);
}
