//! One boot of the machine: what QEMU loads, and what the workloads of an image bring, which run one after the other.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::console;
use super::results::{Run, Setting};
use super::workload::{APPS, Workload};
use crate::bench::contender::Contender;
pub(super) use crate::bench::emulator::Question;
use crate::bench::emulator::{self, HOST_APPEND, Images, Machine, Paths, about, present};
use crate::bench::sample::plugin_lines;
use crate::bench::versions;
use crate::{assign, pack, vmfile};

/// Memory of the machine beside its VMs': a KVM host and what it unpacks, or Cloister. Each VM adds its own, and what
/// is in a bundle for it.
const MACHINE_MEGABYTES: u32 = 1280;
const MEGABYTES_PER_VM: u32 = 256;
/// For how many seconds a guest that only starts and ends is up.
const LINGER: u32 = 2;
/// In how many seconds of the machine's clock its guests have come up: a second is 10^9 instructions of it.
const COME_UP: u32 = 10;
const COME_UP_PER_VM: u32 = 3;
/// What the machine's clock shows at power-on ([`emulator`] sets it), in seconds since 1970: 2026-01-01.
const CLOCK: u32 = 1_767_225_600;
/// The network of a server and its client: the first is .1.
const NETWORK: &str = "10.9.0";
/// The guest kernel's command line: what makes runs differ, or costs the same everywhere and hides the rest.
const GUEST_APPEND: &str = "console=ttyAMA0 loglevel=4 panic=-1 nokaslr kpti=off norandmaps \
                            randomize_kstack_offset=off cryptomgr.notests rdinit=/bench/init";

/// One run.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) setting: &'a Setting,
    /// All of one image; none for a guest that only starts and ends.
    pub(super) workloads: &'a [&'static Workload],
    /// Programs that the guest has beside the image's, by name: the user's files.
    pub(super) programs: &'a [(&'static str, PathBuf)],
    pub(super) contender: Contender,
    /// QEMU's seed.
    pub(super) seed: u32,
    pub(super) timeout: Duration,
    pub(super) paths: &'a Paths,
}

/// A run that is ready to start: its files are made.
#[derive(Debug)]
pub(super) struct Prepared {
    line: Vec<std::ffi::OsString>,
    /// Everything that decides what the run brings.
    pub(super) inputs: Vec<PathBuf>,
    /// The command line, as a shell takes it.
    pub(super) command: String,
}

/// What a boot brought.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
pub(super) struct Outcome {
    /// What the KVM host says about itself.
    pub(super) host: Option<String>,
    /// Cloister's version, if it was what ran.
    pub(super) cloister: Option<String>,
    /// By workload: figures, or why there are none.
    pub(super) runs: BTreeMap<String, Result<Run, String>>,
}

impl Job<'_> {
    /// A name that no other run has.
    pub(super) fn name(&self) -> String {
        let workloads: Vec<&str> = self.workloads.iter().map(|w| w.name).collect();
        let workloads = match workloads.is_empty() {
            true => "start".to_owned(),
            false => workloads.join("+"),
        };
        let name = self.setting.name(&workloads);
        format!("{name}-{}", self.contender.name())
    }

    /// A name that no other run has with another seed, either. What QEMU loads is the same for all seeds.
    pub(super) fn run_name(&self) -> String {
        match self.seed {
            1 => self.name(),
            seed => format!("{}-seed{seed}", self.name()),
        }
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.paths.of_run(&format!("{}.{ending}", self.name()))
    }

    /// What a run with this seed leaves.
    fn output(&self, ending: &str) -> PathBuf {
        self.paths.of_run(&format!("{}.{ending}", self.run_name()))
    }

    /// Makes the run's files. The error says what is missing.
    pub(super) fn prepare(&self) -> Result<Prepared, String> {
        let plugin = self.paths.plugin();
        let plugin = plugin.ok_or("build/bench/levels.so is missing: run 'bench/fetch plugin'")?;
        let folder = self.output("log");
        let folder = folder.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|e| about(folder, &e))?;
        let images = self.images(true)?;
        let mut inputs = vec![plugin.clone(), images.kernel.clone()];
        inputs.extend(images.initrd.clone());
        let counts = self.output("levels");
        let plugin = format!(
            "{},out={},vms={}",
            plugin.display(),
            counts.display(),
            self.clients()
        );
        let line = self.machine().arguments(Some(&plugin), images);
        let command = emulator::command_line(&self.paths.qemu, &line);
        Ok(Prepared {
            line,
            inputs,
            command,
        })
    }

    /// The machine's memory.
    pub(super) fn megabytes(&self) -> u32 {
        MACHINE_MEGABYTES + self.setting.vms * (self.setting.megabytes + MEGABYTES_PER_VM)
    }

    fn machine(&self) -> Machine<'_> {
        Machine {
            contender: self.contender,
            cpus: self.setting.vcpus,
            cpu: &self.setting.cpu,
            megabytes: self.megabytes(),
            disk: false,
            seed: self.seed,
        }
    }

    /// The size of a guest's kernel and initramfs, in KiB.
    pub(super) fn copies(&self) -> Result<u64, String> {
        let size = |path: PathBuf| {
            fs::metadata(&path)
                .map(|m| m.len())
                .map_err(|e| about(&path, &e))
        };
        Ok((size(self.paths.kernel())? + size(self.guest()?)?) >> 10)
    }

    /// Runs the machine without counting: Cloister without a VM, whose shell is asked `questions`, or a KVM host that
    /// says by itself what a guest takes. Gives what the machine said.
    pub(super) fn ask(&self, questions: &[Question]) -> Result<String, String> {
        let mut images = self.images(false)?;
        let log = self.file("memory.log");
        let qemu = &self.paths.qemu;
        if self.contender.is_cloister() {
            images.append = "console=shell".to_owned();
            let line = self.machine().arguments(None, images);
            emulator::converse(qemu, &line, &log, self.timeout, questions)?;
        } else {
            images.append += " bench.memory=1";
            let line = self.machine().arguments(None, images);
            emulator::execute(qemu, &line, &log, self.timeout)?;
        }
        let bytes = fs::read(&log).map_err(|e| about(&log, &e))?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }

    /// Runs it; gives what the KVM host says about itself, and each workload's figures or why there are none.
    pub(super) fn run(&self, prepared: &Prepared) -> Result<Outcome, String> {
        let log = self.output("log");
        let (ended, console, counts) = self.boot(prepared)?;
        let mut windows = plugin_lines(&counts, self.contender == Contender::Native, |_| false)?;
        let mut runs = BTreeMap::new();
        for (number, workload) in (1..).zip(self.workloads) {
            let mut run = || {
                // What ended before the machine was stopped is whole.
                let done = console::read(&console, workload.name, self.clients());
                let done = done.map_err(|why| match &ended {
                    Ok(()) => format!("{why} (console: {})", log.display()),
                    Err(ended) => ended.clone(),
                })?;
                let split = windows.remove(&number).ok_or("the plugin saw no marks")?;
                Ok(Run {
                    operations: done.operations,
                    unit: done.unit,
                    ticks: done.ticks,
                    split,
                    says: done.says,
                })
            };
            runs.insert(workload.name.to_owned(), run());
        }
        let host = emulator::host_line(&console);
        let cloister = self.contender.is_cloister().then(versions::cloister);
        Ok(Outcome {
            host,
            cloister,
            runs,
        })
    }

    /// Runs a guest that only starts and ends; gives what the machine said, and the plugin's lines.
    pub(super) fn execute(&self, prepared: &Prepared) -> Result<(String, String), String> {
        let (ended, console, counts) = self.boot(prepared)?;
        ended.map(|()| (console, counts))
    }

    /// Runs QEMU: how it ended, what the machine said, and the plugin's lines.
    fn boot(&self, prepared: &Prepared) -> Result<(Result<(), String>, String, String), String> {
        let log = self.output("log");
        let (qemu, line) = (&self.paths.qemu, &prepared.line);
        let ended = match self.contender.is_cloister() && self.setting.vms > 1 {
            true => emulator::converse(qemu, line, &log, self.timeout, &self.consoles()),
            false => emulator::execute(qemu, line, &log, self.timeout),
        };
        let bytes = fs::read(&log).map_err(|e| about(&log, &e))?;
        let console = String::from_utf8_lossy(&bytes).into_owned();
        if ended.is_ok() {
            emulator::check_mode(self.contender, &console)
                .map_err(|why| format!("{why} (console: {})", log.display()))?;
        }
        let file = self.output("levels");
        let counts = fs::read_to_string(&file).map_err(|e| about(&file, &e))?;
        Ok((ended, console, counts))
    }

    /// Cloister's console is one guest's at a time, and keeps what the others say: once all are off, each is shown. By
    /// then nothing is counted any more.
    fn consoles(&self) -> Vec<Question> {
        let numbers = || 1..=self.setting.vms;
        let off = numbers().map(|n| Question::new(format!("vm bench-{n}: powered off"), ""));
        let mut all: Vec<Question> = off.collect();
        let mut before = "cloister> ".to_owned();
        for number in numbers() {
            // Ctrl-] leaves the one before.
            let escape = if number == 1 { "" } else { "\x1d" };
            all.push(Question::new(
                before,
                format!("{escape}vm console bench-{number}\r"),
            ));
            before = format!("console of bench-{number}, Ctrl-] leaves it");
        }
        all.push(Question::new(before, "\x1dshutdown\r"));
        all.push(Question::new("all powered off cleanly", ""));
        all
    }

    /// Whether a server and its client are in a VM each.
    fn pair(&self) -> bool {
        self.workloads.iter().any(|w| w.pair)
    }

    /// How many guests set marks and say what they did.
    fn clients(&self) -> u32 {
        if self.pair() { 1 } else { self.setting.vms }
    }

    /// The command line of guest `number`.
    fn append(&self, number: u32) -> String {
        let names: Vec<&str> = self.workloads.iter().map(|w| w.name).collect();
        match (names.is_empty(), self.setting.vms) {
            (true, _) => format!("{GUEST_APPEND} bench.linger={LINGER}"),
            (false, _) if self.pair() => format!(
                "{GUEST_APPEND} ip={NETWORK}.{number}:::255.255.255.0::eth0:off bench.run={} bench.role={} \
                 bench.server={NETWORK}.1",
                names.join(","),
                if number == 1 { "server" } else { "client" }
            ),
            (false, 1) => format!("{GUEST_APPEND} bench.run={}", names.join(",")),
            // A tmpfs takes half of the memory at most, and what an image unpacks to is more than half of 256 MB.
            (false, vms) => format!(
                "{GUEST_APPEND} rootfstype=ramfs bench.run={} bench.vms={vms} bench.clock={CLOCK} bench.every={}",
                names.join(","),
                COME_UP + vms * COME_UP_PER_VM
            ),
        }
    }

    /// `autostart`: whether Cloister starts its VMs by itself.
    fn images(&self, autostart: bool) -> Result<Images, String> {
        let kernel = present(self.paths.kernel(), "make guest")?;
        let initrd = self.guest()?;
        let guests_kernel = match self.pair() {
            true => present(self.paths.sharing_kernel(), "make guest-kernel")?,
            false => kernel.clone(),
        };
        match self.contender.kvm() {
            None if self.contender == Contender::Native => Ok(Images {
                kernel,
                initrd: Some(initrd),
                append: format!("{} mem={}M", self.append(1), self.setting.megabytes),
            }),
            None => Ok(Images {
                kernel: self.paths.payload()?,
                initrd: Some(self.bundle(&guests_kernel, &initrd, autostart)?),
                append: match self.setting.vms {
                    1 => "exit-when-idle console=bench-1".to_owned(),
                    _ => "console=shell".to_owned(),
                },
            }),
            Some((mode, _)) => Ok(Images {
                initrd: Some(self.host(&guests_kernel, &initrd)?),
                kernel,
                append: format!(
                    "{HOST_APPEND} {mode} bench.vcpus={} bench.vms={} bench.megabytes={}{}",
                    self.setting.vcpus,
                    self.setting.vms,
                    self.setting.megabytes,
                    if self.pair() { " bench.network=1" } else { "" }
                ),
            }),
        }
    }

    /// The guest's initramfs.
    fn guest(&self) -> Result<PathBuf, String> {
        // All workloads are of one image, and any image does for a guest that only starts.
        let image = (self.workloads.first()).map_or(APPS, |w| w.image(self.setting.vms));
        let image = format!("bench/images/{image}.cpio");
        let image = present(self.paths.build.join(image), "bench/fetch")?;
        if self.programs.is_empty() {
            return Ok(image);
        }
        let mut programs = bundle::newc::Writer::new();
        for (name, path) in self.programs {
            let program = fs::read(path).map_err(|e| about(path, &e))?;
            let added = programs.file(&format!("bench/{name}"), &program);
            added.map_err(|e| e.to_string())?;
        }
        // The kernel unpacks archives that follow each other.
        let mut bytes = fs::read(&image).map_err(|e| about(&image, &e))?;
        bytes.extend(programs.finish());
        let file = self.file("guest.cpio");
        fs::write(&file, bytes).map_err(|e| about(&file, &e))?;
        Ok(file)
    }

    /// The bundle of the guests.
    fn bundle(&self, kernel: &Path, initrd: &Path, autostart: bool) -> Result<PathBuf, String> {
        let absolute = |path: &Path| fs::canonicalize(path).map_err(|e| about(path, &e));
        let (kernel, initrd) = (absolute(kernel)?, absolute(initrd)?);
        let mut vms = Vec::new();
        for number in 1..=self.setting.vms {
            let mut text = String::new();
            let _ = write!(
                text,
                "name = \"bench-{number}\"\nkernel = {:?}\ninitrd = {:?}\nvcpus = {}\nmemory = \"{}M\"\n\
                 append = \"{}\"\nprotected = {}\non-reboot = \"stop\"\nautostart = {autostart}\n\
                 entropy = false\n",
                kernel.display().to_string(),
                initrd.display().to_string(),
                self.setting.vcpus,
                self.setting.megabytes,
                self.append(number),
                self.contender == Contender::Protected
            );
            if self.pair() {
                text.push_str("[[net]]\nswitch = \"bench\"\n");
            }
            let description = self.file(&format!("{number}.toml"));
            fs::write(&description, text).map_err(|e| about(&description, &e))?;
            vms.push(vmfile::read(&description).map_err(|e| e.to_string())?);
        }
        let devices = assign::assign(&vms).map_err(|e| e.to_string())?;
        let bytes = pack::pack(&vms, &devices).map_err(|e| e.to_string())?;
        let file = self.file("bundle");
        fs::write(&file, bytes).map_err(|e| about(&file, &e))?;
        Ok(file)
    }

    /// The KVM host's initramfs with the guest in it.
    fn host(&self, kernel: &Path, initrd: &Path) -> Result<PathBuf, String> {
        let read = |path: &Path| fs::read(path).map_err(|e| about(path, &e));
        let mut bytes = read(&self.paths.host()?)?;
        // The kernel unpacks archives that follow each other.
        let mut archive = bundle::newc::Writer::new();
        let mut files = vec![
            ("guest-kernel".to_owned(), read(kernel)?),
            ("guest-initrd".to_owned(), read(initrd)?),
        ];
        files.extend((1..=self.setting.vms).map(|number| {
            let append = self.append(number).into_bytes();
            (format!("guest-append-{number}"), append)
        }));
        for (name, data) in files {
            archive.file(&name, &data).map_err(|e| e.to_string())?;
        }
        bytes.extend(archive.finish());
        let file = self.file("host.cpio");
        fs::write(&file, bytes).map_err(|e| about(&file, &e))?;
        Ok(file)
    }
}
