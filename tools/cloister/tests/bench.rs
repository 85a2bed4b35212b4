//! `cloister bench NAME` from outside, with a program in QEMU's place that ends like a run: what it writes, what it
//! does again, and what it says of what it cannot run. No figure here is measured.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Says a version; else notes that it ran, writes the plugin's file, and says what the machine's guests would.
const QEMU: &str = r#"#!/bin/sh
if [ "$1" = --version ]; then
    echo "QEMU emulator version 10.0.0 (none)"
    exit
fi
echo run >>runs
for word in "$@"; do
    case $word in
    *,out=*) out=${word#*,out=} out=${out%%,*} ;;
    esac
done
echo "WINDOW 1 1 1 host.el1 GUEST 0 0 0 0" >"$out"
for number in 2 3 4; do
    echo "WINDOW $number $number 1 vm1.el1 GUEST 0 0 0 0" >>"$out"
done
echo "[0] kvm [1]: VHE mode initialized successfully"
echo "BENCH done redis-net operations=6000 unit=requests ticks=900 status=0"
echo "BENCH done hackbench operations=120000 unit=messages ticks=900 status=0"
echo "BENCH done secantusdb operations=2000 unit=operations ticks=900 status=0"
"#;

/// A folder with what a native run needs, and nothing of the other contenders.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in ["levels.so", "images/apps.cpio"] {
            folder.write(&format!("build/bench/{name}"), "");
        }
        folder.write("build/guest/6.12/Image", "");
        folder.qemu(1_000_000);
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Makes the program, whose guest executes as many instructions.
    fn qemu(&self, instructions: u64) {
        self.write("qemu", &QEMU.replace("GUEST", &instructions.to_string()));
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path().join("qemu"), mode).unwrap();
    }

    fn bench(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cloister"))
            .arg("bench")
            .args(arguments)
            .args(["--qemu", "./qemu"])
            .current_dir(self.path())
            .env_remove("CLOISTER_QUIET")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn runs(&self) -> usize {
        let runs = fs::read_to_string(self.path().join("runs")).unwrap_or_default();
        runs.lines().count()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }

    fn results(&self, workload: &str) -> Value {
        let results = self.read(&format!("bench/results/{workload}.json"));
        serde_json::from_str(&results).unwrap()
    }

    /// `contenders[NAME]` of the results.
    fn contender(&self, name: &str) -> Value {
        let results = self.results("hackbench");
        let all = results["contenders"].as_array().unwrap();
        all.iter().find(|c| c["name"] == name).unwrap().clone()
    }
}

#[test]
fn what_cannot_run_names_itself_and_the_others_go_on() {
    let folder = Folder::new();
    let output = folder.bench(&["hackbench"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert_eq!(folder.runs(), 2, "{stderr}");
    assert_eq!(
        folder.contender("native")["runs"].as_array().unwrap().len(),
        2
    );
    for (contender, missing) in [
        (
            "cloister-open",
            "build/cloister.img is missing: run 'make payload'",
        ),
        (
            "kvm-vhe",
            "build/bench/host.cpio is missing: run 'bench/fetch host'",
        ),
    ] {
        let results = folder.contender(contender);
        assert_eq!(results["not_run"], missing);
        assert_eq!(results["runs"].as_array().unwrap().len(), 0);
    }
    assert!(
        stderr.contains("hackbench, KVM VHE: not run: build/bench/host.cpio"),
        "{stderr}"
    );
    let report = folder.read("bench/REPORT.md");
    let row = "| hackbench, 5 groups | 120,000,000 | – | – | – | – | – | – | – |";
    assert!(report.contains(row), "{report}");
    assert!(report.contains("- hackbench, 5 groups: KVM VHE: build/bench/host.cpio is missing"));
}

#[test]
fn finished_runs_are_kept_until_what_decides_them_changes() {
    let folder = Folder::new();
    let measure = || {
        let output = folder.bench(&["hackbench", "--against", "native"]);
        assert!(output.status.success());
        folder.runs()
    };
    assert_eq!(measure(), 2);
    fs::remove_file(folder.path().join("bench/results/hackbench.json")).unwrap();
    assert_eq!(measure(), 2);
    assert_eq!(
        folder.contender("native")["runs"].as_array().unwrap().len(),
        2
    );
    folder.write("build/bench/images/apps.cpio", "another");
    assert_eq!(measure(), 4);
}

#[test]
fn runs_too_far_apart_fail_and_are_kept_for_to_see() {
    let folder = Folder::new();
    let native = ["hackbench", "--against", "native"];
    assert!(folder.bench(&native).status.success());
    // The second run again, with 4 % more.
    fs::remove_file(
        folder
            .path()
            .join("build/bench/finished/hackbench-native-2.json"),
    )
    .unwrap();
    folder.qemu(1_040_000);
    let output = folder.bench(&native);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let line = "two runs of hackbench, native, are 4.00 % apart, more than 3 %";
    assert!(stderr.contains(line), "{stderr}");
    assert!(
        folder
            .read("bench/REPORT.md")
            .contains("Furthest apart: 4.00 %")
    );
}

#[test]
fn a_server_is_run_if_the_user_supplies_it_and_named_by_what_it_is() {
    let folder = Folder::new();
    folder.write("build/bench/images/mongodb.cpio", "");
    folder.write("server", "abc");
    let mongodb = ["mongodb", "--against", "native"];
    assert!(folder.bench(&mongodb).status.success());
    assert_eq!(folder.runs(), 0);
    for (workload, missing) in [
        ("mongodb", "no mongod was supplied: --mongod PATH"),
        ("secantusdb", "no secantusd was supplied: --secantusd PATH"),
    ] {
        assert_eq!(
            folder.results(workload)["contenders"][0]["not_run"],
            missing
        );
    }
    let with_server = [&mongodb[..], &["--secantusd", "server"]].concat();
    assert!(folder.bench(&with_server).status.success());
    assert_eq!(folder.runs(), 2);
    let results = folder.results("secantusdb");
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(
        results["packages"][0],
        format!("server with SHA-256 {digest}")
    );
    assert_eq!(results["contenders"][0]["runs"][0]["operations"], 2000);
    let other = folder.results("mongodb");
    assert_eq!(other["contenders"][0]["runs"].as_array().unwrap().len(), 0);
}

#[test]
fn a_client_in_a_second_vm_finds_its_server_and_speaks_for_both() {
    let folder = Folder::new();
    folder.write("build/bench/host.cpio", "");
    let network = ["network", "--against", "kvm-vhe"];
    assert!(folder.bench(&network).status.success());
    assert_eq!(folder.runs(), 0);
    let kvm = |results: &Value| results["contenders"][2].clone();
    assert_eq!(
        kvm(&folder.results("redis-net-2vms"))["not_run"],
        "build/guest/pkvm/Image is missing: run 'make guest-kernel'"
    );
    folder.write("build/guest/pkvm/Image", "");
    assert!(folder.bench(&network).status.success());
    assert_eq!(folder.runs(), 2);
    let all = kvm(&folder.results("redis-net-2vms"));
    assert_eq!(all["runs"][1]["operations"], 6000, "{all}");
    let command = all["command"].as_str().unwrap();
    assert!(command.contains("bench.vms=2 bench.megabytes=512 bench.network=1"));
    let host = command
        .split(' ')
        .find(|word| word.ends_with(".host.cpio"))
        .unwrap();
    let host = folder.read(host);
    for role in ["server", "client"] {
        assert_eq!(host.matches(&format!("bench.role={role} ")).count(), 1);
    }
    assert_eq!(host.matches("bench.server=10.9.0.1").count(), 2);
    // A client that said nothing has no figure.
    let silent = kvm(&folder.results("iperf3-net-2vms"));
    assert!(
        silent["not_run"]
            .as_str()
            .unwrap()
            .starts_with("0 of 1 guests finished")
    );
    let output = folder.bench(&["network", "--vms", "4"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_unknown_contender_and_an_old_qemu_are_refused() {
    let folder = Folder::new();
    let output = folder.bench(&["hackbench", "--against", "xen"]);
    assert_eq!(output.status.code(), Some(2));
    let old = QEMU.replace("10.0.0", "7.2.0");
    folder.write("qemu", &old);
    let output = folder.bench(&["hackbench"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("benchmarks need QEMU 9 or newer"),
        "{stderr}"
    );
    assert_eq!(folder.runs(), 0);
}

#[test]
fn without_figures_to_compare_with_only_the_guard_fails() {
    let folder = Folder::new();
    let stderr = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let output = folder.bench(&["micro", "--only", "native"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("no bench/micro.toml: not compared"),
        "{}",
        stderr(&output)
    );
    let output = folder.bench(&["micro", "--guard"]);
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("bench/micro.toml"),
        "{}",
        stderr(&output)
    );
}
