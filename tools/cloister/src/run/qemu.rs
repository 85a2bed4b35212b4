//! Finding QEMU and writing its command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::args::Bus;
use super::{Devices, RunArgs, disks};
use crate::error::{Error, Result, io_reason};

/// Oldest QEMU that is known to run Cloister.
const OLDEST: (u32, u32) = (7, 2);

/// No screen, no monitor, no default network card; a reset of the machine is its end.
pub(crate) const HEADLESS: [&str; 7] = [
    "-display",
    "none",
    "-monitor",
    "none",
    "-nic",
    "none",
    "-no-reboot",
];

/// Time passes by instructions executed, and clock and chance, which is `seed`'s, start alike: the same input, the same
/// run.
pub(crate) const fn repeatable(seed: &str) -> [&str; 6] {
    [
        "-icount",
        "shift=0,sleep=off",
        "-seed",
        seed,
        "-rtc",
        "base=2026-01-01T00:00:00,clock=vm",
    ]
}

/// A QEMU that can be started.
pub(crate) struct Qemu {
    /// The program.
    pub(crate) path: PathBuf,
    /// "QEMU 10.0.2".
    pub(crate) version: String,
}

/// Asks the program at `path` for its version.
pub(crate) fn find(path: &Path) -> Result<Qemu> {
    let name = path.display();
    let output = Command::new(path).arg("--version").output().map_err(|e| {
        Error::config(format_args!(
            "{name}: {} ('make deps' installs QEMU, --qemu names another)",
            io_reason(&e)
        ))
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_version(&text)
        .ok_or_else(|| Error::config(format_args!("{name}: says no QEMU version")))?;
    let numbers: Vec<u32> = version.split('.').filter_map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [major, minor, ..] if (major, minor) >= OLDEST => Ok(Qemu {
            path: path.to_owned(),
            version: format!("QEMU {version}"),
        }),
        _ => Err(Error::config(format_args!(
            "{name}: QEMU {version} is too old, {}.{} or newer is needed",
            OLDEST.0, OLDEST.1
        ))),
    }
}

/// "QEMU emulator version 10.0.2 (Debian …)" → "10.0.2".
fn parse_version(text: &str) -> Option<&str> {
    let word = text
        .strip_prefix("QEMU emulator version ")?
        .split_whitespace()
        .next()?;
    word.starts_with(|c: char| c.is_ascii_digit())
        .then_some(word)
}

/// The command line. The payload's own boot arguments say what the hostvisor is to do.
pub(crate) fn arguments(
    args: &RunArgs,
    payload: &Path,
    bundle: Option<&Path>,
    devices: &Devices,
    exit_when_idle: bool,
) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| line.extend(words.iter().map(OsString::from));
    add(&[
        "-M",
        &format!("virt,virtualization=on,gic-version={}", args.gic),
    ]);
    add(&["-cpu", &args.cpu, "-smp", &args.cpus.to_string()]);
    add(&["-m", &format!("{}K", args.memory.0 >> 10)]);
    // signal=off: Ctrl-C is a byte for the guest, not the end of QEMU.
    add(&HEADLESS);
    add(&[
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
    ]);
    if args.icount {
        add(&repeatable("1"));
    }
    line.extend(device_arguments(args.disk_bus, devices));
    line.push("-kernel".into());
    line.push(payload.into());
    if let Some(bundle) = bundle {
        line.push("-initrd".into());
        line.push(bundle.into());
    }
    let mut boot_arguments = Vec::new();
    if exit_when_idle {
        boot_arguments.push("exit-when-idle".to_owned());
    }
    if args.debug {
        boot_arguments.push("debug".to_owned());
    }
    boot_arguments.extend(args.console.as_ref().map(|name| format!("console={name}")));
    if !boot_arguments.is_empty() {
        line.push("-append".into());
        line.push(boot_arguments.join(" ").into());
    }
    line.extend(args.qemu_arg.iter().map(OsString::from));
    line
}

/// Disks and network cards, on either bus as virtio 1.0 devices.
fn device_arguments(bus: Bus, devices: &Devices) -> Vec<OsString> {
    let mut line: Vec<OsString> = Vec::new();
    let none = devices.disks.is_empty() && devices.cards.is_empty();
    let (block, net) = match bus {
        Bus::Mmio => ("virtio-blk-device", "virtio-net-device"),
        Bus::Pci => (
            "virtio-blk-pci,disable-legacy=on",
            "virtio-net-pci,disable-legacy=on,romfile=",
        ),
    };
    if bus == Bus::Mmio && !none {
        // QEMU's virtio-mmio is the legacy interface if nothing is said.
        line.extend(["-global", "virtio-mmio.force-legacy=false"].map(OsString::from));
    }
    for (index, image) in devices.disks.iter().enumerate() {
        line.push("-blockdev".into());
        line.push(disks::blockdev(index, image));
        let serial = image.serial.replace(',', ",,");
        line.push("-device".into());
        // Else QEMU stops the machine, all VMs, when the workstation's disk is full.
        line.push(
            format!("{block},drive=disk{index},serial={serial},werror=report,rerror=report").into(),
        );
    }
    for (index, card) in devices.cards.iter().enumerate() {
        line.push("-netdev".into());
        line.push(format!("{},id=uplink{index}", card.backend).into());
        line.push("-device".into());
        line.push(format!("{net},netdev=uplink{index},mac={}", card.mac).into());
    }
    line
}

#[cfg(test)]
mod tests {
    use bundle::Mac;
    use clap::Parser;

    use super::super::network::Card;
    use super::*;
    use crate::assign::Image;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        run: RunArgs,
    }

    fn line(options: &[&str], exit_when_idle: bool) -> String {
        let cli = Cli::parse_from([&["run"], options].concat());
        let bundle = Path::new("b");
        let devices = Devices {
            disks: vec![Image {
                path: "a,b.img".into(),
                serial: "x,y".to_owned(),
                read_only: true,
                at: String::new(),
            }],
            cards: vec![Card {
                mac: Mac([0x52, 0x54, 1, 0, 0, 0]),
                backend: "user".to_owned(),
            }],
        };
        let none = Devices::default();
        let devices = if options.contains(&"--disk-bus") {
            &devices
        } else {
            &none
        };
        let words = arguments(
            &cli.run,
            Path::new("p"),
            Some(bundle),
            devices,
            exit_when_idle,
        );
        words.join(std::ffi::OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn defaults() {
        let line = line(&[], false);
        assert!(
            line.starts_with("-M virt,virtualization=on,gic-version=3 -cpu cortex-a57 -smp 2 ")
        );
        assert!(line.contains(" -m 2097152K "));
        assert!(line.ends_with("-kernel p -initrd b"), "{line}");
    }

    #[test]
    fn options_reach_qemu_and_the_hostvisor() {
        let line = line(
            &[
                "--console",
                "web",
                "--debug",
                "--icount",
                "--qemu-arg",
                "-S",
            ],
            true,
        );
        assert!(
            line.contains("-icount shift=0,sleep=off -seed 1 -rtc base="),
            "{line}"
        );
        assert!(
            line.ends_with("-append exit-when-idle debug console=web -S"),
            "{line}"
        );
    }

    #[test]
    fn disks_and_cards_are_virtio_1_devices_on_the_bus_asked_for() {
        let mmio = line(&["--disk-bus", "mmio"], false);
        let blockdev = "-blockdev driver=raw,node-name=disk0,read-only=on,discard=unmap,file.driver=file,\
                        file.locking=on,file.filename=a,,b.img";
        let expected = format!(
            "-global virtio-mmio.force-legacy=false {blockdev} \
             -device virtio-blk-device,drive=disk0,serial=x,,y,werror=report,rerror=report -netdev user,id=uplink0 \
             -device virtio-net-device,netdev=uplink0,mac=52:54:01:00:00:00 -kernel p"
        );
        assert!(mmio.contains(&expected), "{mmio}");
        let pci = line(&["--disk-bus", "pci"], false);
        assert!(!pci.contains("virtio-mmio"), "{pci}");
        assert!(
            pci.contains("-device virtio-blk-pci,disable-legacy=on,drive=disk0,"),
            "{pci}"
        );
        assert!(
            pci.contains("-device virtio-net-pci,disable-legacy=on,romfile=,netdev=uplink0"),
            "{pci}"
        );
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(
            parse_version("QEMU emulator version 10.0.2 (Debian 1:10)"),
            Some("10.0.2")
        );
        assert_eq!(parse_version("ls (GNU coreutils) 9.1"), None);
    }
}
