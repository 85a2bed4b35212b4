//! One run of QEMU: its command line, its time-out, and what it says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::contender::Contender;
use super::operation::{OPERATIONS, Operation};
use super::sample::{Figure, guest_lines, plugin_lines};
use crate::error::io_reason;
use crate::run::{HEADLESS, REPEATABLE};
use crate::{assign, pack, vmfile};

/// Memory of the guest, the same for all.
const GUEST_MEMORY: &str = "512M";
/// The machine, the same for all that have a hypervisor; without one, the processor has no EL2.
const MACHINE: &str = "virt,virtualization=on,gic-version=3";
const NATIVE_MACHINE: &str = "virt,gic-version=3";
/// The KVM host's command line; what it leaves out (messages, self-tests, random addresses) makes it quicker to
/// boot and the same each time. Without halt polling a host does not fill time with waiting.
const HOST_APPEND: &str =
    "console=ttyAMA0 loglevel=4 nokaslr cryptomgr.notests norandmaps kvm.halt_poll_ns=0";

/// Where everything is.
#[derive(Debug)]
pub(super) struct Paths {
    /// QEMU.
    pub(super) qemu: PathBuf,
    /// What `make` builds and fetches: `build`.
    pub(super) build: PathBuf,
}

impl Paths {
    fn guest(&self) -> PathBuf {
        self.build.join("test-guest.bin")
    }

    /// The host kernel.
    pub(super) fn kernel(&self) -> PathBuf {
        self.build.join("guest/6.12/Image")
    }

    /// The plugin, if it was built.
    pub(super) fn plugin(&self) -> Option<PathBuf> {
        Some(self.build.join("bench/levels.so")).filter(|path| path.is_file())
    }
}

/// One run.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) contender: Contender,
    /// CPUs of the machine.
    pub(super) cpus: u32,
    /// QEMU's name of the processor.
    pub(super) cpu: &'a str,
    /// Names of the operations.
    pub(super) operations: Vec<&'static str>,
    /// Split by exception level.
    pub(super) split: bool,
    pub(super) timeout: Duration,
    pub(super) paths: &'a Paths,
}

/// What a run brought.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The command line, as a shell takes it.
    pub(super) command: String,
    /// What the KVM host says about itself.
    pub(super) host: Option<String>,
    pub(super) figures: BTreeMap<String, Figure>,
}

/// The operations of `contender` on a machine of `cpus` CPUs, of those that `chosen` takes.
pub(super) fn operations(
    contender: Contender,
    cpus: u32,
    chosen: impl Fn(&str) -> bool,
) -> Vec<&'static str> {
    let fits = |o: &&Operation| {
        o.cpus == cpus && (o.native || contender != Contender::Native) && chosen(o.name)
    };
    OPERATIONS.iter().filter(fits).map(|o| o.name).collect()
}

impl Job<'_> {
    fn file(&self, ending: &str) -> PathBuf {
        let name = format!("{}-{}cpu.{ending}", self.contender.name(), self.cpus);
        self.paths.build.join("bench/runs").join(name)
    }

    /// vCPUs: two also on one CPU, where they take turns. The machine itself has no more than it has.
    fn vcpus(&self) -> u32 {
        if self.contender == Contender::Native {
            self.cpus
        } else {
            2
        }
    }

    fn append(&self) -> String {
        format!("test=micro micro={}", self.operations.join(","))
    }

    /// Runs it. The error says why there are no figures.
    pub(super) fn run(&self) -> Result<Outcome, String> {
        let log = self.file("log");
        let folder = log.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|e| about(folder, &e))?;
        let line = self.arguments()?;
        let command = std::iter::once(self.paths.qemu.as_os_str())
            .chain(line.iter().map(OsString::as_os_str))
            .map(|word| quoted(&word.to_string_lossy()))
            .collect::<Vec<_>>()
            .join(" ");
        self.execute(&line, &log)?;
        let console = fs::read(&log).map_err(|e| about(&log, &e))?;
        let console = String::from_utf8_lossy(&console);
        self.verdict(&console)?;
        let lines = guest_lines(&console)?;
        let mut splits = match self.split {
            true => {
                let file = self.file("levels");
                let text = fs::read_to_string(&file).map_err(|e| about(&file, &e))?;
                plugin_lines(&text, self.contender == Contender::Native)?
            }
            false => BTreeMap::new(),
        };
        let mut figures = BTreeMap::new();
        for (id, (name, mut figure)) in lines {
            if let Figure::Measured(sample) = &mut figure {
                sample.split = splits.remove(&id);
            }
            figures.insert(name, figure);
        }
        if let Some(missing) = self.operations.iter().find(|&&o| !figures.contains_key(o)) {
            return Err(format!("the guest said nothing about {missing}"));
        }
        let host = console
            .lines()
            .find(|line| line.starts_with("host: ") && line.contains("kvm ["));
        Ok(Outcome {
            command,
            host: host.map(|line| line["host: ".len()..].trim().to_owned()),
            figures,
        })
    }

    /// Whether all of it ran, in the mode it is measured for.
    fn verdict(&self, console: &str) -> Result<(), String> {
        let log = self.file("log");
        let fail = |why: &str| Err(format!("{why} (console: {})", log.display()));
        if let Some((_, mode)) = self.contender.kvm()
            && !console.contains(mode)
        {
            let host = console.lines().find(|line| line.starts_with("host: "));
            return fail(&format!(
                "the host did not come up as {}: {}",
                self.contender.title(),
                host.unwrap_or("no word from it").trim()
            ));
        }
        let passed = console.matches("TESTS done: 1 passed, 0 failed").count();
        if passed != self.host_runs().len().max(1) {
            let failure = console
                .lines()
                .rev()
                .find(|l| l.contains("FAIL") || l.contains("panic"));
            return fail(failure.map_or("the guest did not finish", str::trim));
        }
        Ok(())
    }

    /// What the KVM host runs: the operations, in one guest for each size of the host's pages.
    fn host_runs(&self) -> Vec<String> {
        if self.contender.kvm().is_none() {
            return Vec::new();
        }
        let of = |huge: bool| {
            let mut names = Vec::new();
            for o in OPERATIONS.iter().filter(|o| o.huge_pages == huge) {
                names.extend(
                    self.operations
                        .iter()
                        .filter(|&&name| name == o.name)
                        .copied(),
                );
            }
            let pages = if huge { "always" } else { "never" };
            (!names.is_empty()).then(|| format!("{pages}:{}", names.join(",")))
        };
        [of(false), of(true)].into_iter().flatten().collect()
    }

    fn arguments(&self) -> Result<Vec<OsString>, String> {
        let mut line: Vec<OsString> = Vec::new();
        let mut add = |words: &[&str]| line.extend(words.iter().map(OsString::from));
        let machine = if self.contender == Contender::Native {
            NATIVE_MACHINE
        } else {
            MACHINE
        };
        // A counter of 1 GHz: a tick is an instruction.
        let cpu = format!("{},cntfrq=1000000000", self.cpu);
        add(&[
            "-M",
            machine,
            "-cpu",
            &cpu,
            "-smp",
            &self.cpus.to_string(),
            "-m",
            "2G",
        ]);
        add(&HEADLESS);
        add(&["-serial", "stdio"]);
        add(&REPEATABLE);
        if self.split {
            let plugin = self.paths.plugin().ok_or("the plugin is missing")?;
            let out = self.file("levels");
            add(&[
                "-plugin",
                &format!("{},out={}", plugin.display(), out.display()),
            ]);
        }
        let (kernel, initrd, append) = self.images()?;
        line.push("-kernel".into());
        line.push(kernel.into());
        if let Some(initrd) = initrd {
            line.push("-initrd".into());
            line.push(initrd.into());
        }
        line.push("-append".into());
        line.push(append.into());
        Ok(line)
    }

    /// What QEMU loads: kernel, initrd, command line.
    fn images(&self) -> Result<(PathBuf, Option<PathBuf>, String), String> {
        let guest = present(self.paths.guest(), "make test-guest")?;
        match self.contender.kvm() {
            None if self.contender == Contender::Native => {
                Ok((guest, None, format!("platform=bare {}", self.append())))
            }
            None => {
                let payload = present(self.paths.build.join("cloister.img"), "make payload")?;
                Ok((
                    payload,
                    Some(self.bundle()?),
                    "exit-when-idle console=micro".to_owned(),
                ))
            }
            Some((mode, _)) => {
                let kernel = present(self.paths.kernel(), "make guest")?;
                let vcpus = self.vcpus();
                let runs = self.host_runs().join("/");
                let append = format!("{HOST_APPEND} {mode} bench.vcpus={vcpus} bench.runs={runs}");
                Ok((kernel, Some(self.host(&guest)?), append))
            }
        }
    }

    /// The bundle of the guest.
    fn bundle(&self) -> Result<PathBuf, String> {
        let description = self.file("toml");
        let guest =
            fs::canonicalize(self.paths.guest()).map_err(|e| about(&self.paths.guest(), &e))?;
        let text = format!(
            "name = \"micro\"\nformat = \"flat\"\nkernel = {:?}\nvcpus = {}\nmemory = \"{GUEST_MEMORY}\"\n\
             append = \"{}\"\nprotected = {}\non-reboot = \"stop\"\n",
            guest.display().to_string(),
            self.vcpus(),
            self.append(),
            self.contender == Contender::Protected
        );
        fs::write(&description, text).map_err(|e| about(&description, &e))?;
        let pack = || {
            let vms = [vmfile::read(&description)?];
            pack::pack(&vms, &assign::assign(&vms)?)
        };
        let file = self.file("bundle");
        let bytes = pack().map_err(|e| e.to_string())?;
        fs::write(&file, bytes).map_err(|e| about(&file, &e))?;
        Ok(file)
    }

    /// The KVM host's initramfs with the guest in it.
    fn host(&self, guest: &Path) -> Result<PathBuf, String> {
        let host = present(self.paths.build.join("bench/host.cpio"), "bench/fetch host")?;
        let mut bytes = fs::read(&host).map_err(|e| about(&host, &e))?;
        let image = fs::read(guest).map_err(|e| about(guest, &e))?;
        // The kernel unpacks archives that follow each other.
        let mut archive = bundle::newc::Writer::new();
        archive
            .file("test-guest.bin", &image)
            .map_err(|e| e.to_string())?;
        bytes.extend(archive.finish());
        let file = self.paths.build.join("bench/runs/host-and-guest.cpio");
        fs::write(&file, bytes).map_err(|e| about(&file, &e))?;
        Ok(file)
    }

    fn execute(&self, line: &[OsString], log: &Path) -> Result<(), String> {
        let output = File::create(log).map_err(|e| about(log, &e))?;
        let errors = output.try_clone().map_err(|e| about(log, &e))?;
        let mut child = Command::new(&self.paths.qemu)
            .args(line)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|e| about(&self.paths.qemu, &e))?;
        let deadline = Instant::now() + self.timeout;
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
                        self.timeout.as_secs(),
                        log.display()
                    ));
                }
            }
        }
    }
}

fn about(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {}", path.display(), io_reason(error))
}

fn present(path: PathBuf, maker: &str) -> Result<PathBuf, String> {
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("{} is missing: run '{maker}'", path.display())),
    }
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

    fn job(contender: Contender, cpus: u32, paths: &Paths) -> Job<'_> {
        Job {
            contender,
            cpus,
            cpu: "neoverse-n1",
            operations: operations(contender, cpus, |_| true),
            split: false,
            timeout: Duration::from_secs(1),
            paths,
        }
    }

    fn paths() -> Paths {
        Paths {
            qemu: "/nonexistent/qemu".into(),
            build: "/nonexistent".into(),
        }
    }

    #[test]
    fn the_2_mb_fault_has_a_host_with_2_mb_pages_of_its_own() {
        let paths = paths();
        let runs = job(Contender::KvmVhe, 1, &paths).host_runs();
        assert_eq!(runs.len(), 2);
        assert!(runs[0].starts_with("never:null,") && !runs[0].contains("fault-2m"));
        assert_eq!(runs[1], "always:fault-2m");
        assert_eq!(
            job(Contender::KvmVhe, 2, &paths).host_runs(),
            ["never:ipi-running,ipi-blocked"]
        );
    }

    #[test]
    fn a_missing_file_names_itself_and_what_makes_it() {
        let error = job(Contender::Native, 1, &paths()).images().unwrap_err();
        assert_eq!(
            error,
            "/nonexistent/test-guest.bin is missing: run 'make test-guest'"
        );
    }

    #[test]
    fn a_host_in_another_mode_gives_no_figures() {
        let paths = paths();
        let job = job(Contender::KvmVhe, 2, &paths);
        let done = "TESTS done: 1 passed, 0 failed, 0 skipped\n";
        let host = |mode: &str| {
            format!("host: 6.12, kvm [1]: {mode} mode initialized successfully\n{done}")
        };
        assert!(job.verdict(&host("VHE")).is_ok());
        for other in ["Hyp nVHE", "Protected hVHE"] {
            assert!(
                job.verdict(&host(other))
                    .unwrap_err()
                    .contains("did not come up as KVM VHE")
            );
        }
        assert!(
            job.verdict(&host("VHE").replace("1 passed, 0 failed", "0 passed, 1 failed"))
                .is_err()
        );
        assert!(job.verdict("").is_err());
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("a b'c"), "'a b'\\''c'");
        assert_eq!(quoted("virt,gic-version=3"), "virt,gic-version=3");
    }
}
