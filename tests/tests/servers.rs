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
    shape: VmSpec::entropy,
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

/// A stretch of a transfer, of a second or (if the client was held up) more.
struct Interval {
    from: f64,
    to: f64,
    /// Bits per second.
    rate: f64,
}

/// The intervals that iperf3 tells of, in lines like `[  5]   3.00-4.00   sec  8.50 MBytes  71.2 Mbits/sec`; no summary.
fn intervals(text: &str) -> Vec<Interval> {
    let unit = |unit: &str| match unit {
        "bits/sec" => Some(1.0),
        "Kbits/sec" => Some(1e3),
        "Mbits/sec" => Some(1e6),
        "Gbits/sec" => Some(1e9),
        _ => None,
    };
    let interval = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let before = |at: usize| words.get(at.checked_sub(1)?);
        let sec = words.iter().position(|&word| word == "sec")?;
        let (from, to) = before(sec)?.split_once('-')?;
        let at = words.iter().position(|word| unit(word).is_some())?;
        Some(Interval {
            from: from.parse().ok()?,
            to: to.parse().ok()?,
            rate: before(at)?.parse::<f64>().ok()? * unit(words[at])?,
        })
    };
    let summary = |line: &&str| line.contains("sender") || line.contains("receiver");
    text.lines()
        .filter(|line| !summary(line))
        .filter_map(interval)
        .collect()
}

/// The longest time without a byte, in seconds.
fn longest_stall(intervals: &[Interval]) -> f64 {
    let (mut since, mut longest) = (None, 0.0_f64);
    for interval in intervals {
        if interval.rate == 0.0 {
            let since = *since.get_or_insert(interval.from);
            longest = longest.max(interval.to - since);
        } else {
            since = None;
        }
    }
    longest
}

/// No ten seconds without a byte: the emulation of two CPUs may stop for some.
fn check_no_stall(what: &str, text: &str) {
    let intervals = intervals(text);
    let (end, stall) = (
        intervals.last().map_or(0.0, |last| last.to),
        longest_stall(&intervals),
    );
    assert!(
        end >= duration().as_secs_f64() - 1.0,
        "{what}: ended after {end} s: {text}"
    );
    assert!(stall < 10.0, "{what} stalls for {stall:.1} s: {text}");
    let bits: f64 = intervals.iter().map(|i| i.rate * (i.to - i.from)).sum();
    println!(
        "{what}: {:.1} Mbit/s over {end:.0} s, at most {stall:.1} s without a byte",
        bits / end / 1e6
    );
}

#[test]
fn a_stall_is_as_long_as_its_intervals() {
    let text = "[  5]   0.00-1.00   sec  8.50 MBytes  71.2 Mbits/sec    0   1.26 MBytes\n\
                [  5]   1.00-2.10   sec  0.00 Bytes  0.00 bits/sec    0   1.26 MBytes\n\
                [  5]   2.10-6.60   sec  0.00 Bytes  0.00 bits/sec    0   1.26 MBytes\n\
                [  5]   6.60-7.00   sec  128 KBytes  504 Kbits/sec    0   1.26 MBytes\n\
                [  5]   7.00-8.00   sec  0.00 Bytes  0.00 bits/sec    0   1.26 MBytes\n\
                [  5]   0.00-8.00   sec  8.6 MBytes  9.02 Mbits/sec    1   sender\n";
    let intervals = intervals(text);
    assert_eq!(intervals.len(), 5);
    assert!((longest_stall(&intervals) - 5.6).abs() < 1e-9);
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

/// A VM installs packages on its 1 GB disk, reboots, and runs what it has installed, whose files are whole.
fn installation(place: Place) {
    const PACKAGES: [&str; 7] = [
        "apache2-bin",
        "libapr1t64",
        "libaprutil1t64",
        "libcrypt1",
        "libexpat1",
        "libpcre2-8-0",
        "libuuid1",
    ];
    let script = "d=/var/lib/dpkg; if [ ! -x /usr/sbin/apache2 ]; then \
        mkdir -p $d/info /mnt; touch $d/status; mount -r /dev/vdb /mnt; \
        dpkg --force-depends -i /mnt/*.deb && reboot; sleep 1000; fi; \
        apache2 -v; cd /; cat $d/info/*.md5sums >/tmp/sums; wc -l </tmp/sums; md5sum -c /tmp/sums >/tmp/log && echo whole";
    let vm = place.vm(
        "installer",
        "iperf3",
        &format!("cloister.exec=\\\"{script}\\\""),
    );
    let root = image::path(&format!("servers-{}-installer", place.name));
    image::grow(&root, 1 << 30);
    let repository = image::packages(&format!("servers-{}-packages", place.name), &PACKAGES);
    let repository = format!("image = \"{}\"\nread-only = true", repository.display());
    let mut run = place
        .machine()
        .timeout(900)
        .console("installer")
        .vm(vm.disk_table(&repository))
        .start();
    run.expect("guest: reboot");
    run.expect("vm installer: rebooting");
    let said = run.expect("guest: cloister.exec ended with status 0").text;
    run.check(said.contains("Server version: Apache/"), "it does not run");
    run.check(said.contains("whole"), "files are damaged");
    run.send("poweroff\r");
    run.expect("vm installer: powered off");
    run.detach();
    run.shutdown();
    assert_eq!(image::damage(&root), None);
}

#[test]
#[ignore = "make servers"]
fn a_guest_installs_packages_on_a_1_gb_disk_and_runs_them_after_a_reboot() {
    installation(OPEN);
}

#[test]
#[ignore = "make servers"]
fn so_does_a_protected_one_with_a_gicv2() {
    installation(PROTECTED);
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
