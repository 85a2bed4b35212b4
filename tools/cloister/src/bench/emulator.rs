//! QEMU as every benchmark runs it: one machine for all contenders, a time-out, and where everything is.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::contender::Contender;
use crate::error::io_reason;
use crate::run::{HEADLESS, repeatable};

/// The machine, the same for all that have a hypervisor; without one, the processor has no EL2.
const MACHINE: &str = "virt,virtualization=on,gic-version=3";
const NATIVE_MACHINE: &str = "virt,gic-version=3";
/// A disk that holds zeros and forgets what is written. It takes 200 microseconds of the workstation's time for a
/// request, so that its interrupt finds the guest waiting and not still on its way back from the notification.
const DISK: [&str; 6] = [
    "-global",
    "virtio-mmio.force-legacy=false",
    "-blockdev",
    "driver=null-co,node-name=bench,size=67108864,read-zeroes=on,latency-ns=200000",
    "-device",
    "virtio-blk-device,drive=bench,serial=bench",
];
/// The KVM host's command line; what it leaves out (messages, self-tests, random addresses) makes it quicker to
/// boot and the same each time. Without halt polling a host does not fill time with waiting.
pub(super) const HOST_APPEND: &str =
    "console=ttyAMA0 loglevel=4 panic=-1 nokaslr cryptomgr.notests norandmaps kvm.halt_poll_ns=0";

/// Where everything is.
#[derive(Args, Clone, Debug)]
pub(super) struct Paths {
    /// What 'make' builds and fetches
    #[arg(long, value_name = "FOLDER", default_value = "build")]
    pub(super) build: PathBuf,

    /// QEMU program
    #[arg(
        long,
        value_name = "PATH",
        env = "CLOISTER_QEMU",
        default_value = "qemu-system-aarch64"
    )]
    pub(super) qemu: PathBuf,
}

impl Paths {
    /// The kernel of Linux guests and of the KVM host.
    pub(super) fn kernel(&self) -> PathBuf {
        self.build.join("guest/6.12/Image")
    }

    /// A kernel that shares memory with its devices when the VM is protected.
    pub(super) fn sharing_kernel(&self) -> PathBuf {
        self.build.join("guest/pkvm/Image")
    }

    /// Cloister.
    pub(super) fn payload(&self) -> Result<PathBuf, String> {
        present(self.build.join("cloister.img"), "make payload")
    }

    /// The KVM host's initramfs.
    pub(super) fn host(&self) -> Result<PathBuf, String> {
        present(self.build.join("bench/host.cpio"), "bench/fetch host")
    }

    /// The plugin, if it was built.
    pub(super) fn plugin(&self) -> Option<PathBuf> {
        Some(self.build.join("bench/levels.so")).filter(|path| path.is_file())
    }

    /// The packages of a guest's image.
    pub(super) fn lock(&self, image: &str) -> PathBuf {
        self.build.join(format!("bench/images/{image}.lock"))
    }

    /// A file of a run.
    pub(super) fn of_run(&self, name: &str) -> PathBuf {
        self.build.join("bench/runs").join(name)
    }
}

/// The machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine<'a> {
    pub(super) contender: Contender,
    pub(super) cpus: u32,
    /// QEMU's name of the processor.
    pub(super) cpu: &'a str,
    /// The machine's memory, in megabytes.
    pub(super) megabytes: u32,
    /// Whether it has a disk, with the serial number `bench`.
    pub(super) disk: bool,
    /// QEMU's, for what a machine takes from chance.
    pub(super) seed: u32,
}

/// What QEMU loads.
#[derive(Debug)]
pub(super) struct Images {
    pub(super) kernel: PathBuf,
    pub(super) initrd: Option<PathBuf>,
    pub(super) append: String,
}

impl Machine<'_> {
    /// QEMU's arguments. `plugin`: the plugin, with its options.
    pub(super) fn arguments(&self, plugin: Option<&str>, images: Images) -> Vec<OsString> {
        let mut line: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| line.extend(words.iter().map(OsString::from));
        let machine = match self.contender {
            Contender::Native => NATIVE_MACHINE,
            _ => MACHINE,
        };
        // A counter of 1 GHz: a tick is an instruction.
        let cpu = format!("{},cntfrq=1000000000", self.cpu);
        add(&["-M", machine, "-cpu", &cpu]);
        let memory = format!("{}M", self.megabytes);
        add(&["-smp", &self.cpus.to_string(), "-m", &memory]);
        add(&HEADLESS);
        add(&["-serial", "stdio"]);
        add(&repeatable(&self.seed.to_string()));
        if self.disk {
            add(&DISK);
        }
        if let Some(plugin) = plugin {
            add(&["-plugin", plugin]);
        }
        line.push("-kernel".into());
        line.push(images.kernel.into());
        if let Some(initrd) = images.initrd {
            line.push("-initrd".into());
            line.push(initrd.into());
        }
        line.push("-append".into());
        line.push(images.append.into());
        line
    }
}

/// Runs QEMU to its end, with what it says in `log`.
pub(super) fn execute(
    qemu: &Path,
    line: &[OsString],
    log: &Path,
    timeout: Duration,
) -> Result<(), String> {
    let output = File::create(log).map_err(|e| about(log, &e))?;
    let errors = output.try_clone().map_err(|e| about(log, &e))?;
    let mut child = Command::new(qemu)
        .args(line)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|e| about(qemu, &e))?;
    let deadline = Instant::now() + timeout;
    loop {
        match child.try_wait().map_err(|e| io_reason(&e))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                return Err(format!(
                    "QEMU failed: {status} (console: {})",
                    log.display()
                ));
            }
            None if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!(
                    "not finished after {} s (console: {})",
                    timeout.as_secs(),
                    log.display()
                ));
            }
        }
    }
}

/// Something that the machine says, and what it is told then. If that is nothing, what follows may have been said before.
#[derive(Clone, Debug)]
pub(super) struct Question(String, String);

impl Question {
    pub(super) fn new(words: impl Into<String>, reply: impl Into<String>) -> Self {
        Self(words.into(), reply.into())
    }
}

/// Runs QEMU, with what it says in `log`, and answers `questions` in their order; then ends it.
pub(super) fn converse(
    qemu: &Path,
    line: &[OsString],
    log: &Path,
    timeout: Duration,
    questions: &[Question],
) -> Result<(), String> {
    let output = File::create(log).map_err(|e| about(log, &e))?;
    let mut child = Command::new(qemu)
        .args(line)
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| about(qemu, &e))?;
    let answered = answer(&mut child, log, Instant::now() + timeout, questions);
    let _ = child.kill();
    let _ = child.wait();
    answered.map_err(|why| format!("{why} (console: {})", log.display()))
}

fn answer(
    child: &mut Child,
    log: &Path,
    deadline: Instant,
    questions: &[Question],
) -> Result<(), String> {
    let mut input = child.stdin.take().ok_or("QEMU has no input")?;
    let mut heard = 0;
    for Question(words, reply) in questions {
        loop {
            let bytes = fs::read(log).map_err(|e| about(log, &e))?;
            let console = String::from_utf8_lossy(bytes.get(heard..).unwrap_or_default());
            if console.contains(words.as_str()) {
                if !reply.is_empty() {
                    heard = bytes.len();
                }
                break;
            }
            let ended = child.try_wait().map_err(|e| io_reason(&e))?;
            if ended.is_some() || Instant::now() >= deadline {
                return Err(format!("the machine did not say '{}'", words.trim()));
            }
            thread::sleep(Duration::from_millis(50));
        }
        let written = input.write_all(reply.as_bytes());
        written.map_err(|e| format!("QEMU: {}", io_reason(&e)))?;
    }
    Ok(())
}

/// Whether the KVM host came up in the contender's mode, if it has one; `console` is what the machine said.
pub(super) fn check_mode(contender: Contender, console: &str) -> Result<(), String> {
    match contender.kvm() {
        Some((_, mode)) if !console.contains(mode) => {
            let host = console.lines().find(|line| line.starts_with("host: "));
            Err(format!(
                "the host did not come up as {}: {}",
                contender.title(),
                host.unwrap_or("no word from it").trim()
            ))
        }
        _ => Ok(()),
    }
}

/// What the KVM host says about itself.
pub(super) fn host_line(console: &str) -> Option<String> {
    let mut lines = console.lines();
    let line = lines.find(|line| line.starts_with("host: ") && line.contains("kvm ["))?;
    Some(line["host: ".len()..].trim().to_owned())
}

/// An error of the file system, with the file.
pub(super) fn about(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {}", path.display(), io_reason(error))
}

/// A file that `maker` makes.
pub(super) fn present(path: PathBuf, maker: &str) -> Result<PathBuf, String> {
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("{} is missing: run '{maker}'", path.display())),
    }
}

/// A command line, as a shell takes it.
pub(super) fn command_line(program: &Path, line: &[OsString]) -> String {
    let words = std::iter::once(program.as_os_str()).chain(line.iter().map(OsString::as_os_str));
    let words: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    words.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_in_another_mode_gives_no_figures() {
        let host = |mode: &str| format!("host: 6.12, kvm [1]: {mode} mode initialized\n");
        assert!(check_mode(Contender::KvmVhe, &host("VHE")).is_ok());
        for other in ["Hyp nVHE", "Protected hVHE"] {
            let error = check_mode(Contender::KvmVhe, &host(other)).unwrap_err();
            assert!(error.contains("did not come up as KVM VHE"), "{error}");
        }
        assert!(check_mode(Contender::Pkvm, "").is_err());
        assert!(check_mode(Contender::Open, "").is_ok());
    }

    #[test]
    fn all_contenders_have_one_machine_and_native_no_el2() {
        let line = |contender| {
            let images = Images {
                kernel: "k".into(),
                initrd: None,
                append: "a b".to_owned(),
            };
            let cpu = "neoverse-n1";
            let machine = Machine {
                contender,
                cpus: 2,
                cpu,
                megabytes: 2048,
                disk: true,
                seed: 1,
            };
            command_line(Path::new("qemu"), &machine.arguments(None, images))
        };
        let native = line(Contender::Native);
        assert!(native.ends_with(" -kernel k -append 'a b'"), "{native}");
        for contender in &Contender::ALL[1..] {
            let other = line(*contender).replace("virtualization=on,", "");
            assert_eq!(other, native);
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("a b'c"), "'a b'\\''c'");
        assert_eq!(quoted("virt,gic-version=3"), "virt,gic-version=3");
    }
}
