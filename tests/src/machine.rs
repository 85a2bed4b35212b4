//! A machine as a test describes it, and how it is started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::artifacts::{Artifact, scratch_dir};
use crate::run::Run;
use crate::vm::VmSpec;

/// The emulated machine, with its VMs.
#[derive(Clone, Debug)]
pub struct Machine {
    cpus: u32,
    cpu: String,
    gic: u32,
    memory: String,
    vms: Vec<VmSpec>,
    console: Option<String>,
    interactive: bool,
    debug: bool,
    timeout: Duration,
    tool_timeout: Option<u64>,
    qemu_args: Vec<String>,
    tool_args: Vec<String>,
    icount: bool,
    bus: &'static str,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// 2 CPUs, 1 GB, cortex-a57, GICv3, two minutes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cpus: 2,
            cpu: "cortex-a57".to_owned(),
            gic: 3,
            memory: "1G".to_owned(),
            vms: Vec::new(),
            console: None,
            interactive: false,
            debug: false,
            timeout: Duration::from_secs(240),
            tool_timeout: None,
            qemu_args: Vec::new(),
            tool_args: Vec::new(),
            icount: false,
            bus: "mmio",
        }
    }

    /// Physical CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// QEMU's name of the CPU model.
    #[must_use]
    pub fn cpu(mut self, cpu: &str) -> Self {
        cpu.clone_into(&mut self.cpu);
        self
    }

    /// Version of the interrupt controller, 2 or 3.
    #[must_use]
    pub fn gic(mut self, version: u32) -> Self {
        self.gic = version;
        self
    }

    /// RAM, with its unit.
    #[must_use]
    pub fn memory(mut self, memory: &str) -> Self {
        memory.clone_into(&mut self.memory);
        self
    }

    /// One more VM.
    #[must_use]
    pub fn vm(mut self, vm: VmSpec) -> Self {
        self.vms.push(vm);
        self
    }

    /// Stays until `shutdown`, so that the test can use the shell.
    #[must_use]
    pub fn interactive(mut self) -> Self {
        self.interactive = true;
        self
    }

    /// Allows the shell's `scan`.
    #[must_use]
    pub fn debug(mut self) -> Self {
        self.debug = true;
        self
    }

    /// What the console is attached to first: a VM's name, or `shell`.
    #[must_use]
    pub fn console(mut self, name: &str) -> Self {
        self.console = Some(name.to_owned());
        self
    }

    /// The whole run's time-out.
    #[must_use]
    pub fn timeout(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    /// What `cloister run --timeout` is told, where that is what the test is about.
    #[must_use]
    pub fn tool_timeout(mut self, seconds: u64) -> Self {
        self.tool_timeout = Some(seconds);
        self
    }

    /// Time passes by instructions executed: a run repeats, however busy the development host is.
    #[must_use]
    pub fn icount(mut self) -> Self {
        self.icount = true;
        self
    }

    /// Disks and network cards are on PCI.
    #[must_use]
    pub fn pci(mut self) -> Self {
        self.bus = "pci";
        self
    }

    /// One more argument for `cloister run`.
    #[must_use]
    pub fn tool_arg(mut self, arg: &str) -> Self {
        self.tool_args.push(arg.to_owned());
        self
    }

    /// One more argument for QEMU.
    #[must_use]
    pub fn qemu_arg(mut self, arg: &str) -> Self {
        self.qemu_args.push(arg.to_owned());
        self
    }

    /// Starts the machine by way of `cloister run`.
    #[must_use]
    #[track_caller]
    pub fn start(&self) -> Run {
        let dir = scratch_dir(&test_name());
        let command = self.tool(&dir);
        Run::start(command, &dir, self.timeout)
    }

    /// Starts the machine without any VM.
    #[must_use]
    #[track_caller]
    pub fn start_empty(&self) -> Run {
        let dir = scratch_dir(&test_name());
        let mut command = self.tool(&dir);
        command.arg("--empty");
        Run::start(command, &dir, self.timeout)
    }

    fn tool(&self, dir: &Path) -> Command {
        let mut command = Command::new(Artifact::Tool.path());
        command
            .arg("run")
            .arg("--payload")
            .arg(Artifact::Payload.path());
        command.args([
            "--cpus",
            &self.cpus.to_string(),
            "--memory",
            &self.memory,
            "--cpu",
            &self.cpu,
            "--gic",
            &self.gic.to_string(),
        ]);
        command.args(["--disk-bus", self.bus]);
        command.args(&self.tool_args);
        for (index, vm) in self.vms.iter().enumerate() {
            command.arg("--vm").arg(vm.write_to(dir, index));
        }
        if let Some(console) = &self.console {
            command.args(["--console", console]);
        }
        command.arg(if self.interactive {
            "--interactive"
        } else {
            "--exit-when-idle"
        });
        let limit = self.tool_timeout.unwrap_or(self.timeout.as_secs() + 10);
        command.args(["--timeout", &limit.to_string()]);
        if self.debug {
            command.arg("--debug");
        }
        if self.icount {
            command.arg("--icount");
        }
        for arg in &self.qemu_args {
            command.arg(format!("--qemu-arg={arg}"));
        }
        command
    }

    /// Starts QEMU itself with a bundle that `cloister` would refuse, or with none.
    #[must_use]
    #[track_caller]
    pub fn start_with_bundle(&self, bundle: Option<&[u8]>) -> Run {
        let dir = scratch_dir(&test_name());
        let mut command = self.qemu(&Artifact::Payload.path(), "virt,virtualization=on");
        if let Some(bundle) = bundle {
            let path = dir.join("bundle");
            std::fs::write(&path, bundle).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            command.arg("-initrd").arg(path);
        }
        let console = self.console.as_ref().map(|name| format!("console={name}"));
        let idle = (!self.interactive).then(|| "exit-when-idle".to_owned());
        let append: Vec<String> = console.into_iter().chain(idle).collect();
        command.args(["-append", &append.join(" ")]);
        Run::start(command, &dir, self.timeout)
    }

    /// Starts the bare-metal test guest without any hypervisor.
    #[must_use]
    #[track_caller]
    pub fn start_bare(&self, tests: &str) -> Run {
        let dir = scratch_dir(&test_name());
        let mut command = self.qemu(&Artifact::TestGuest.path(), "virt");
        command.args(["-append", &format!("platform=bare test={tests}")]);
        Run::start(command, &dir, self.timeout)
    }

    /// Starts the payload with the hostile hostvisor, which does what `arguments` say: `attack=NAME,NAME` (or
    /// `attack=all`), or `churn=ROUNDS`.
    #[must_use]
    #[track_caller]
    pub fn start_hostile(&self, arguments: &str) -> Run {
        let dir = scratch_dir(&test_name());
        let mut command = self.qemu(&Artifact::HostilePayload.path(), "virt,virtualization=on");
        command.args(["-append", arguments]);
        Run::start(command, &dir, self.timeout)
    }

    fn qemu(&self, kernel: &Path, board: &str) -> Command {
        // `timeout` ends QEMU even if this process is killed.
        let mut command = Command::new("timeout");
        command.args([
            "--kill-after=5",
            &(self.timeout.as_secs() + 10).to_string(),
            "qemu-system-aarch64",
        ]);
        command.args([
            "-M",
            &format!("{board},gic-version={}", self.gic),
            "-cpu",
            &self.cpu,
            "-smp",
            &self.cpus.to_string(),
            "-m",
            &self.memory,
        ]);
        command.args([
            "-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio",
        ]);
        command.args(&self.qemu_args);
        command.arg("-kernel").arg(kernel);
        command
    }
}

/// The running test's name; libtest names its threads after the tests.
fn test_name() -> String {
    let name = std::thread::current().name().unwrap_or("main").to_owned();
    let program = std::env::current_exe()
        .ok()
        .and_then(|p| Some(PathBuf::from(p.file_stem()?)));
    let program = program.map_or(String::new(), |p| p.display().to_string());
    let program = program
        .rsplit_once('-')
        .map_or(program.as_str(), |(stem, _)| stem);
    format!("{program}-{name}")
}
