//! The options of `cloister run`.

use std::path::PathBuf;

use bundle::{Format, GuestConsole, OnReboot};
use clap::{Args, ValueEnum};

use super::ask::Ask;
use super::disks::DiskArg;
use super::network::Forward;
use crate::size::Size;
use crate::vmfile::{Backing, DEFAULT_SWITCH, DEFAULT_WEIGHT, DiskFile, NetFile, Origin, VmFile};

const IO: &str = "Disks and networks";

/// A bus of QEMU's `virt` board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bus {
    /// virtio-mmio
    Mmio,
    /// virtio over PCI Express
    Pci,
}

/// Start VMs under Cloister in QEMU
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Physical CPUs of the machine (1 to 8)
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = clap::value_parser!(u32).range(1..=abi::MAX_CPUS as i64))]
    pub(crate) cpus: u32,

    /// Memory of the machine
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    pub(crate) memory: Size,

    /// CPU model of the machine, as QEMU names it: cortex-a57, max, ...
    #[arg(long, value_name = "MODEL", default_value = "cortex-a57")]
    pub(crate) cpu: String,

    /// Version of the machine's interrupt controller, which is the guests' too
    #[arg(long, value_name = "VERSION", default_value = "3", value_parser = ["2", "3"])]
    pub(crate) gic: String,

    /// A VM described in TOML; may be repeated
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) vm: Vec<PathBuf>,

    /// A VM that is a raw image, described in TOML (format = "flat"); may be repeated
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) flat: Vec<PathBuf>,

    /// A bundle made by 'cloister bundle'
    #[arg(long, value_name = "FILE", conflicts_with_all = ["vm", "flat", "kernel"])]
    pub(crate) bundle: Option<PathBuf>,

    /// No VM at all: the management shell alone
    #[arg(long, conflicts_with_all = ["vm", "flat", "kernel", "bundle"])]
    pub(crate) empty: bool,

    /// The VM whose console is shown first, or 'shell' for the management shell
    #[arg(long, value_name = "NAME")]
    pub(crate) console: Option<String>,

    /// End the machine when every VM has powered off (the default without a terminal)
    #[arg(long)]
    pub(crate) exit_when_idle: bool,

    /// Do not end the machine when every VM has powered off (the default on a terminal)
    #[arg(long, conflicts_with = "exit_when_idle")]
    pub(crate) interactive: bool,

    /// Allow what the management shell has for debugging (scan), which holds the machine up
    #[arg(long)]
    pub(crate) debug: bool,

    /// End the run after SECS seconds, with exit status 124
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) timeout: Option<u64>,

    /// Write the console to FILE, too
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,

    /// Count instructions for time: a run that repeats exactly
    #[arg(long)]
    pub(crate) icount: bool,

    /// Cloister's image [default: build/cloister.img]
    #[arg(long, value_name = "FILE")]
    pub(crate) payload: Option<PathBuf>,

    /// QEMU program
    #[arg(
        long,
        value_name = "PATH",
        env = "CLOISTER_QEMU",
        default_value = "qemu-system-aarch64"
    )]
    pub(crate) qemu: PathBuf,

    /// An argument handed to QEMU as it is; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) qemu_arg: Vec<String>,

    /// A raw image that becomes a disk of the machine with this serial number; ',ro' makes it read-only;
    /// may be repeated. (Images that VMs' descriptions name need none.)
    #[arg(long, value_name = "SERIAL=FILE[,ro]", help_heading = IO)]
    pub(crate) disk: Vec<DiskArg>,

    /// How disks and network cards are attached to the machine
    #[arg(long, value_name = "BUS", default_value = "mmio", help_heading = IO)]
    pub(crate) disk_bus: Bus,

    /// Forward a port of the workstation to a VM behind an uplink: [ADDRESS:]PORT:VM:PORT[/udp], like
    /// 8080:web:80; may be repeated
    #[arg(long, value_name = "PORT:VM:PORT", help_heading = IO)]
    pub(crate) forward: Vec<Forward>,

    /// Ask a server in a VM until it answers, and say how long one request takes: http://ADDRESS:PORT/PATH or
    /// redis://ADDRESS:PORT; may be repeated
    #[arg(long, value_name = "URL", help_heading = IO)]
    pub(crate) ask: Vec<Ask>,

    /// What the Nth of these is for the Nth uplink, instead of QEMU's user network: QEMU's -netdev without id,
    /// like tap,ifname=tap0,script=no,downscript=no
    #[arg(long, value_name = "OPTIONS", help_heading = IO)]
    pub(crate) netdev: Vec<String>,

    /// A switch that is meant to have one port only; may be repeated
    #[arg(long, value_name = "NAME", help_heading = IO)]
    pub(crate) switch: Vec<String>,

    /// Start even VMs that the machine has no room for (to test the hostvisor)
    #[arg(long, hide = true)]
    pub(crate) unchecked: bool,

    #[command(flatten)]
    pub(crate) guest: GuestArgs,
}

/// One Linux VM given by options.
#[derive(Args, Debug)]
#[command(next_help_heading = "One Linux VM without a TOML file")]
pub(crate) struct GuestArgs {
    /// Its kernel: an arm64 Image
    #[arg(long, value_name = "IMAGE")]
    pub(crate) kernel: Option<PathBuf>,

    /// Its initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,

    /// Its kernel command line
    #[arg(
        long,
        value_name = "TEXT",
        requires = "kernel",
        default_value = "console=ttyAMA0",
        allow_hyphen_values = true
    )]
    pub(crate) append: String,

    /// Its virtual CPUs (1 to 16)
    #[arg(long, value_name = "N", requires = "kernel", default_value_t = 1)]
    pub(crate) vcpus: u32,

    /// Its memory
    #[arg(long, value_name = "SIZE", requires = "kernel", default_value = "256M")]
    pub(crate) vm_memory: Size,

    /// Its name
    #[arg(
        long,
        value_name = "NAME",
        requires = "kernel",
        default_value = "linux"
    )]
    pub(crate) name: String,

    /// A raw image that becomes its disk; may be repeated
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) image: Vec<PathBuf>,

    /// Give it a network interface with an uplink
    #[arg(long, requires = "kernel")]
    pub(crate) uplink: bool,
}

impl GuestArgs {
    /// The VM these options describe, if they do.
    pub(crate) fn vm(&self) -> Option<VmFile> {
        let disk = |path: &PathBuf| DiskFile {
            line: 0,
            backing: Backing::Image {
                path: path.clone(),
                serial: None,
            },
            read_only: false,
            shared: false,
        };
        let net = NetFile {
            line: 0,
            mac: None,
            switch: DEFAULT_SWITCH.to_owned(),
            uplink: true,
            address: None,
            gateway: None,
        };
        Some(VmFile {
            origin: Origin::CommandLine,
            name: self.name.clone(),
            format: Format::Linux,
            kernel: self.kernel.clone()?,
            initrd: self.initrd.clone(),
            vcpus: self.vcpus,
            memory: self.vm_memory,
            append: self.append.clone(),
            protected: true,
            autostart: true,
            on_reboot: OnReboot::Restart,
            weight: DEFAULT_WEIGHT,
            affinity: None,
            entropy: false,
            console: GuestConsole::Pl011,
            disks: self.image.iter().map(disk).collect(),
            nets: self.uplink.then_some(net).into_iter().collect(),
        })
    }
}
