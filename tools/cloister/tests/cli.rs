//! The tool from outside: every bad input gives exactly one line on standard error that says what and
//! where, and exit status 2; good input makes a bundle that `inspect` accepts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder with a small but valid kernel, initrd and `vm.toml` in it.
struct Folder(tempfile::TempDir);

const VM: &str =
    "name = \"web\"\nkernel = \"Image\"\ninitrd = \"initrd\"\nvcpus = 2\nmemory = \"256M\"\n";

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("Image", &image());
        folder.write("initrd", b"an initrd");
        folder.write("vm.toml", VM.as_bytes());
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn cloister(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_cloister"))
            .args(arguments)
            .current_dir(self.path())
            .env_remove("CLOISTER_QEMU")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs the tool, which must refuse with one line; returns the line.
    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.cloister(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("cloister: "), "{stderr}");
        stderr.trim_end().to_owned()
    }

    /// Runs the tool, which must refuse with one line that says `want`, and must not have made `made`.
    fn refuses(&self, arguments: &[&str], want: &str, made: &str) {
        let line = self.refusal(arguments);
        assert!(line.contains(want), "wanted {want:?}, got {line:?}");
        assert!(
            !self.path().join(made).exists(),
            "{line}: {made:?} was made all the same"
        );
    }

    fn bundle(&self) -> PathBuf {
        let output = self.cloister(&["bundle", "vm.toml", "-o", "bundle"]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        self.path().join("bundle")
    }
}

/// An arm64 Image header and nothing behind it. Source: Linux, Documentation/arch/arm64/booting.rst.
fn image() -> Vec<u8> {
    let mut image = vec![0_u8; 4096];
    image[16..24].copy_from_slice(&0x20_0000_u64.to_le_bytes());
    image[24] = 0xa;
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

/// (what replaces `vm.toml`, what the refusal must say)
const BAD_TOML: &[(&str, &str)] = &[
    ("name = ", "vm.toml:1: "),
    ("", "vm.toml: missing key `name`"),
    (
        "name = \"web\"\nkernel = \"Image\"\nmemory = \"256M\"\n",
        "vm.toml: missing key `vcpus`",
    ),
    (
        "name = \"web\"\nkernel = \"Image\"\nvcpus = 2\n",
        "vm.toml: missing key `memory`",
    ),
];

/// (text to replace in the good `vm.toml`, its replacement, what the refusal must say)
const BAD_VALUES: &[(&str, &str, &str)] = &[
    ("vcpus", "cpus", "vm.toml:4: unknown key `cpus`"),
    (
        "vcpus = 2",
        "vcpus = 0",
        "vm.toml:4: vcpus = '0', must be a number from 1 to 16",
    ),
    (
        "vcpus = 2",
        "vcpus = 17",
        "vm.toml:4: vcpus = '17', must be a number from 1 to 16",
    ),
    ("vcpus = 2", "vcpus = \"2\"", "vm.toml:4: "),
    ("256M", "256", "vm.toml:5: '256' is no amount of memory"),
    ("\"256M\"", "256", "vm.toml:5: 256 has no unit"),
    (
        "256M",
        "255M",
        "vm.toml:5: memory = 255M, must be a multiple of 2M from 32M to 63G",
    ),
    ("256M", "16M", "vm.toml:5: memory = 16M"),
    ("256M", "64G", "vm.toml:5: memory = 64G"),
    ("web", "Web Server", "vm.toml:1: name = 'Web Server'"),
    ("web", "", "vm.toml:1: name = ''"),
    (
        "\"Image\"",
        "\"nothing\"",
        "vm.toml:2: kernel nothing: No such file or directory",
    ),
    (
        "\"initrd\"",
        "\"nothing\"",
        "vm.toml:3: initrd nothing: No such file or directory",
    ),
    (
        "\"initrd\"",
        "\"empty\"",
        "vm.toml:3: initrd empty: the file is empty",
    ),
    (
        "\"Image\"",
        "\"gz\"",
        "kernel gz: not an arm64 Image but gzip",
    ),
    (
        "\"Image\"",
        "\"elf\"",
        "kernel elf: not an arm64 Image but an ELF file",
    ),
    ("\"Image\"", "\"initrd\"", "kernel initrd: "),
    (
        "\"Image\"",
        "\"large\"",
        "vm.toml:5: memory: 256 MiB is too little",
    ),
    (
        "name =",
        "format = \"elf\"\nname =",
        "vm.toml:1: unknown value `elf`",
    ),
];

#[test]
fn a_bad_toml_file_is_refused_in_one_line() {
    let folder = Folder::new();
    folder.write("empty", b"");
    folder.write("gz", b"\x1f\x8b\x08 and so on");
    folder.write(
        "elf",
        b"\x7fELF and so on, for longer than a header of an Image would be, which is 64",
    );
    let mut large = image();
    large[16..24].copy_from_slice(&(300_u64 << 20).to_le_bytes());
    folder.write("large", &large);

    let replaced = BAD_VALUES
        .iter()
        .map(|(old, new, want)| (VM.replacen(old, new, 1), *want));
    let whole = BAD_TOML
        .iter()
        .map(|(text, want)| ((*text).to_owned(), *want));
    for (text, want) in whole.chain(replaced) {
        folder.write("vm.toml", text.as_bytes());
        folder.refuses(&["bundle", "vm.toml", "-o", "bundle"], want, "bundle");
    }
}

#[test]
fn two_vms_of_one_name_name_both_files() {
    let folder = Folder::new();
    folder.write("other.toml", format!("# Another\n{VM}").as_bytes());
    let line = folder.refusal(&["bundle", "vm.toml", "other.toml", "-o", "bundle"]);
    assert_eq!(
        line,
        "cloister: other.toml:2: the name 'web' is taken by vm.toml:1"
    );
}

#[test]
fn bad_usage_is_refused_in_one_line() {
    let folder = Folder::new();
    for (arguments, want) in [
        (
            &["run", "--cpu-count", "3"][..],
            "unexpected argument '--cpu-count'",
        ),
        (&["run", "--cpus", "9"], "invalid value '9' for '--cpus"),
        (&["run", "--memory", "2"], "'2' is no amount of memory"),
        (&["run", "--gic", "4"], "invalid value '4' for '--gic"),
        (&["run", "--timeout", "0"], "invalid value '0'"),
        (&["run", "--initrd", "initrd"], "--kernel"),
        (&["run"], "no VM given"),
        (
            &["run", "--vm", "none.toml"],
            "none.toml: No such file or directory",
        ),
        (
            &["run", "--kernel", "none"],
            "command line: kernel none: No such file",
        ),
        (&["run", "--kernel", "initrd"], "kernel initrd: "),
        (
            &["run", "--kernel", "Image", "--vcpus", "17"],
            "vcpus = '17'",
        ),
        (
            &["run", "--flat", "vm.toml"],
            "vm.toml: --flat wants format = \"flat\"",
        ),
        (
            &["run", "--bundle", "none"],
            "none: No such file or directory",
        ),
        (
            &["run", "--kernel", "Image", "--console", "web"],
            "--console web: no VM has this name",
        ),
        (
            &["run", "--kernel", "Image", "--memory", "256M"],
            "at least 512M",
        ),
        (
            &[
                "run",
                "--kernel",
                "Image",
                "--memory",
                "1G",
                "--vm-memory",
                "1G",
            ],
            "raise --memory",
        ),
        (
            &["run", "--kernel", "Image", "--payload", "none"],
            "payload none: No such file",
        ),
        (
            &["run", "--kernel", "Image", "--payload", "initrd"],
            "payload initrd: ",
        ),
        (
            &[
                "run",
                "--kernel",
                "Image",
                "--payload",
                "Image",
                "--qemu",
                "no-qemu",
            ],
            "no-qemu: No such file or directory",
        ),
        (
            &[
                "run",
                "--kernel",
                "Image",
                "--payload",
                "Image",
                "--qemu",
                "true",
            ],
            "no QEMU version",
        ),
        (
            &["bundle", "none.toml", "-o", "bundle"],
            "none.toml: No such file or directory",
        ),
        (&["bundle", "-o", "bundle"], "required arguments"),
        (&["inspect", "none"], "none: No such file or directory"),
        (&["inspect", "initrd"], "initrd: "),
        (&["flatten", "Image", "out"], "Image: not a 64-bit ELF file"),
        (
            &["guest-image", "--service", "nginx", "-o", "out"],
            "--service nginx: unknown, there are apache2",
        ),
        (
            &["guest-image", "--size", "1M", "-o", "out"],
            "--size 1M: must be a multiple of 1M from 16M",
        ),
        (
            &["guest-image", "--package=-o", "-o", "out"],
            "'-o' is no name in Debian",
        ),
        (
            &["guest-image", "--kernel-tree", "none", "-o", "out"],
            "none: no such folder",
        ),
        (
            &["guest-image", "--modules", "none", "-o", "out"],
            "--initramfs",
        ),
        (&["guest-image"], "required arguments"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
    ] {
        let line = folder.refusal(arguments);
        assert!(
            line.contains(want),
            "{arguments:?}: wanted {want:?}, got {line:?}"
        );
    }
}

/// (what `vm.toml` has besides, more options of `run`, what the refusal must say)
const BAD_IO: &[(&str, &[&str], &str)] = &[
    (
        "[[disk]]\nimage = \"none.img\"",
        &[],
        "vm.toml:6: image none.img: No such file or directory",
    ),
    (
        "[[disk]]\nimage = \"odd.img\"",
        &[],
        "vm.toml:6: image odd.img: 700 bytes are not a multiple of 512",
    ),
    (
        "[[disk]]\nimage = \"ro.img\"",
        &[],
        "vm.toml:6: image ro.img: the file is read-only",
    ),
    (
        "[[disk]]\nimage = \"good.img\"",
        &["--vm", "other.toml"],
        "other.toml:5: image good.img is a disk of vm.toml:6 already",
    ),
    (
        "[[disk]]\nserial = \"abc\"",
        &[],
        "VM 'web': the machine has no disk for serial abc",
    ),
    (
        "[[disk]]\nserial = \"abc\"",
        &["--disk", "abc=good.img,ro"],
        "VM 'web': serial abc is read-only in this machine",
    ),
    (
        "",
        &["--disk", "abc=none.img"],
        "--disk: image none.img: No such file or directory",
    ),
    ("", &["--disk", "good.img"], "must be SERIAL=FILE"),
    (
        "[[net]]\nswitch = \"lna\"",
        &[],
        "VM 'web': unknown switch 'lna'",
    ),
    (
        "",
        &["--forward", "8080:web:80"],
        "--forward 127.0.0.1:8080:web:80: the VM has no network",
    ),
    (
        "[[net]]",
        &["--forward", "8080:web:80"],
        "--forward 127.0.0.1:8080:web:80: none of the VM's switches has an uplink",
    ),
    (
        "[[net]]\nuplink = true",
        &["--forward", "8080:www:80"],
        "--forward 127.0.0.1:8080:www:80: no VM has this name",
    ),
    (
        "[[net]]\nuplink = true",
        &["--forward", "8080:web:80", "--forward", "8080:web:81"],
        "--forward 127.0.0.1:8080:web:81: the port is forwarded to 'web' already",
    ),
    (
        "",
        &["--forward", "8080:80"],
        "must be [ADDRESS:]PORT:VM:PORT",
    ),
    ("", &["--netdev", "tap"], "--netdev tap: no uplink for it"),
    (
        "affinity = [4]",
        &[],
        "VM 'web': affinity names CPUs 4 only, the machine has 0 to 1",
    ),
];

#[test]
fn bad_disks_and_networks_are_refused_before_anything_starts() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    fake_qemu(&folder, "touch started");
    folder.write("good.img", &[0; 1024]);
    folder.write("odd.img", &[0; 700]);
    let read_only = folder.write("ro.img", &[0; 512]);
    fs::set_permissions(&read_only, fs::Permissions::from_mode(0o444)).unwrap();
    let other = "name = 'other'\nkernel = 'Image'\nvcpus = 1\nmemory = '64M'\n[[disk]]\nimage = 'good.img'\n";
    folder.write("other.toml", other.as_bytes());
    for (tables, options, want) in BAD_IO {
        folder.write("vm.toml", format!("{VM}{tables}\n").as_bytes());
        let run = [
            "run",
            "--vm",
            "vm.toml",
            "--payload",
            "Image",
            "--qemu",
            "./qemu",
        ];
        folder.refuses(&[&run, *options].concat(), want, "started");
    }
}

#[test]
fn disks_and_forwards_reach_qemu() {
    let folder = Folder::new();
    folder.write("good.img", &[0; 1024]);
    let tables = "[[disk]]\nimage = 'good.img'\n[[net]]\nuplink = true\n";
    folder.write("vm.toml", format!("{VM}{tables}").as_bytes());
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let forward = format!("{port}:web:80");
    let script = "echo \"$@\"; echo '[host] shutdown: 1 VMs, all powered off cleanly'";
    let (status, stdout, stderr) = run(&folder, script, &["--forward", &forward]);
    assert_eq!(status, Some(0), "{stderr}");
    for want in [
        "file.filename=good.img -device virtio-blk-device,drive=disk0,serial=good,werror=report,rerror=report ".to_owned(),
        format!(
            "hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:80,id=uplink0 -device virtio-net-device,netdev=uplink0"
        ),
    ] {
        assert!(stdout.contains(&want), "{stdout}");
    }
    assert!(
        stderr.contains(&format!("forwarding 127.0.0.1:{port} -> web port 80")),
        "{stderr}"
    );
}

#[test]
fn what_bundle_makes_inspect_accepts() {
    let folder = Folder::new();
    folder.write(
        "flat.toml",
        b"name='bare'\nformat='flat'\nkernel='initrd'\nvcpus=1\nmemory='128M'\n\
                               protected=false\nautostart=false\non-reboot='stop'\nappend='a b'\n",
    );
    let output = folder.cloister(&["bundle", "vm.toml", "flat.toml", "-o", "bundle"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let output = folder.cloister(&["inspect", "bundle"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("web: 2 vCPUs, 256M, protected, starts at boot, on reboot restart"),
        "{text}"
    );
    assert!(
        text.contains("bare: 1 vCPUs, 128M, open, does not start at boot, on reboot stop"),
        "{text}"
    );
    assert!(text.contains("append \"a b\""), "{text}");
}

#[test]
fn the_same_input_makes_the_same_bundle() {
    let folder = Folder::new();
    let first = fs::read(folder.bundle()).unwrap();
    assert_eq!(first, fs::read(folder.bundle()).unwrap());
}

#[test]
fn a_bundle_cut_off_anywhere_is_refused() {
    let folder = Folder::new();
    let whole = fs::read(folder.bundle()).unwrap();
    for length in (0..whole.len() - 512).step_by(whole.len() / 40) {
        folder.write("cut", &whole[..length]);
        let line = folder.refusal(&["inspect", "cut"]);
        assert!(line.starts_with("cloister: cut: "), "{line}");
    }
}

/// A stand-in for QEMU: answers --version, else runs `script`.
fn fake_qemu(folder: &Folder, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let text = format!(
        "#!/bin/sh\n[ \"$1\" != --version ] || {{ echo 'QEMU emulator version 8.0'; exit; }}\n{script}\n"
    );
    let path = folder.write("qemu", text.as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn run(folder: &Folder, script: &str, more: &[&str]) -> (Option<i32>, String, String) {
    fake_qemu(folder, script);
    let arguments = [
        &[
            "run",
            "--vm",
            "vm.toml",
            "--payload",
            "Image",
            "--qemu",
            "./qemu",
        ],
        more,
    ];
    let output = folder.cloister(&arguments.concat());
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn the_verdict_becomes_the_exit_status() {
    let folder = Folder::new();
    let clean = "[host] shutdown: 1 VMs, all powered off cleanly";
    let (status, stdout, stderr) = run(&folder, &format!("echo '{clean}'"), &["--log", "log"]);
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(stdout, format!("{clean}\n"));
    assert_eq!(
        fs::read_to_string(folder.path().join("log")).unwrap(),
        stdout
    );

    for (script, want) in [
        (
            "echo '[host] shutdown: VM web: stopped: abort'",
            "cloister: VM web: stopped: abort",
        ),
        (
            "echo '[core] panic at boot'; exec sleep 20",
            "cloister: [core] panic at boot",
        ),
        (
            "echo hello",
            "cloister: the machine ended without a verdict",
        ),
        (
            "echo 'bad option' >&2; exit 3",
            "cloister: QEMU failed: exit status: 3",
        ),
    ] {
        let (status, _, stderr) = run(&folder, script, &[]);
        assert_eq!(status, Some(1), "{script}: {stderr}");
        assert_eq!(stderr.lines().last(), Some(want), "{script}: {stderr}");
    }
}

#[test]
fn a_hang_is_ended_and_its_last_lines_are_shown() {
    let folder = Folder::new();
    let (status, _, stderr) = run(
        &folder,
        "echo 'last words'; exec sleep 20",
        &["--timeout", "1"],
    );
    assert_eq!(status, Some(124), "{stderr}");
    assert!(stderr.contains("| last words"), "{stderr}");
    assert_eq!(stderr.lines().last(), Some("cloister: timed out after 1 s"));
}

#[test]
fn without_a_terminal_the_machine_is_told_to_end_when_idle() {
    let folder = Folder::new();
    let (_, stdout, _) = run(&folder, "echo \"$@\"", &[]);
    assert!(stdout.contains("-append exit-when-idle"), "{stdout}");
    let (_, stdout, _) = run(&folder, "echo \"$@\"", &["--interactive"]);
    assert!(!stdout.contains("-append"), "{stdout}");
}

#[test]
fn input_reaches_the_machine() {
    use std::io::Write;
    let folder = Folder::new();
    fake_qemu(&folder, "read -r line; echo \"got $line\"");
    let mut child = Command::new(env!("CARGO_BIN_EXE_cloister"))
        .args([
            "run",
            "--vm",
            "vm.toml",
            "--payload",
            "Image",
            "--qemu",
            "./qemu",
        ])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"vm list\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "got vm list\n");
}
