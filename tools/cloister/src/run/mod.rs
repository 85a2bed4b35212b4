//! `cloister run`: builds the bundle, starts QEMU with it, carries the console, and turns what the
//! hostvisor says at the end into an exit status.

mod args;
mod ask;
mod console;
mod disks;
mod machine;
mod network;
mod qemu;
mod verdict;

pub(crate) use args::RunArgs;
pub(crate) use qemu::{HEADLESS, repeatable};

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use bundle::Format;

use crate::error::{Error, Result};
use crate::vmfile::VmFile;
use crate::{assign, file, inspect, pack, progress, vmfile};

/// Carries out `cloister run`.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("cloister-")
        .tempdir()
        .map_err(|e| Error::file(&std::env::temp_dir(), &e))?;
    let load = load(args, folder.path())?;
    if let Some(broken) = load.report.broken.first() {
        return Err(Error::config(broken));
    }
    let machine = machine(args, &load)?;
    let payload = payload(args)?;
    let interactive = args.interactive
        || (std::io::stdin().is_terminal() && args.timeout.is_none() && !args.exit_when_idle);
    let qemu = qemu::find(&args.qemu)?;
    let command = qemu::arguments(
        args,
        &payload,
        load.bundle.as_deref(),
        &machine,
        !interactive,
    );
    progress(format_args!("bundle: {}", load.about));
    for forward in &args.forward {
        progress(format_args!("forwarding {forward}"));
    }
    progress(format_args!(
        "starting {}: {} CPUs ({}), {} of memory",
        qemu.version, args.cpus, args.cpu, args.memory
    ));
    ask::begin(&args.ask);
    console::run(&qemu, &command, args, interactive)
}

/// What the machine is started with.
struct Load {
    /// The bundle's file; none for `--empty`.
    bundle: Option<PathBuf>,
    /// What is in it.
    report: inspect::Report,
    /// The same in a few words.
    about: String,
    /// Image files that its VMs have for disks.
    images: Vec<assign::Image>,
}

/// Disks and network cards of the machine.
#[derive(Default)]
struct Devices {
    disks: Vec<assign::Image>,
    cards: Vec<network::Card>,
}

/// Checks that the machine has what the VMs want, and decides what it is made of.
fn machine(args: &RunArgs, load: &Load) -> Result<Devices> {
    let vms = &load.report.vms;
    if let Some(name) = args.console.as_deref().filter(|&name| name != "shell")
        && !vms.iter().any(|vm| vm.name == name)
    {
        return Err(Error::config(format_args!(
            "--console {name}: no VM has this name"
        )));
    }
    if !args.unchecked {
        let size = (load.bundle.as_ref()).map_or(0, |b| fs::metadata(b).map_or(0, |m| m.len()));
        machine::check_memory(args.memory, vms, size)?;
        machine::check_numbers(&args.gic, vms)?;
    }
    machine::check_affinity(args.cpus, vms)?;
    network::check_switches(vms, &args.switch)?;
    let cards = network::cards(vms, &args.netdev, &args.forward)?;
    let disks = disks::machine(load.images.clone(), &args.disk)?;
    machine::check_slots(args.disk_bus, disks.len() + cards.len())?;
    // Other arguments may have given QEMU the disk.
    if args.qemu_arg.is_empty() {
        disks::check_wanted(vms, &disks)?;
    }
    network::check_ports(&args.forward)?;
    Ok(Devices { disks, cards })
}

/// The bundle, made in `folder` unless `--bundle` names one.
fn load(args: &RunArgs, folder: &Path) -> Result<Load> {
    if let Some(path) = &args.bundle {
        let (bytes, report) = inspect::file(path)?;
        return Ok(Load {
            about: pack::describe(&bytes, report.vms.len()),
            bundle: Some(path.clone()),
            report,
            images: Vec::new(),
        });
    }
    let mut vms = vms(args)?;
    if vms.is_empty() {
        if !args.empty {
            return Err(Error::config(
                "run: no VM given: --kernel, --vm, --flat or --bundle (or --empty for the shell alone)",
            ));
        }
        return Ok(Load {
            bundle: None,
            report: inspect::Report::default(),
            about: "none".to_owned(),
            images: Vec::new(),
        });
    }
    network::give_addresses(&mut vms, args.netdev.len());
    let devices = assign::assign(&vms)?;
    let bytes = pack::pack(&vms, &devices)?;
    let report = inspect::bundle(&bytes).map_err(Error::config)?;
    let path = folder.join("bundle");
    fs::write(&path, &bytes).map_err(|e| Error::file(&path, &e))?;
    Ok(Load {
        about: pack::describe(&bytes, vms.len()),
        bundle: Some(path),
        report,
        images: devices.images,
    })
}

/// The VMs that the command line names, in its order: --kernel, then --vm, then --flat.
fn vms(args: &RunArgs) -> Result<Vec<VmFile>> {
    let mut vms = Vec::new();
    vms.extend(args.guest.vm());
    for path in &args.vm {
        vms.push(vmfile::read(path)?);
    }
    for path in &args.flat {
        let vm = vmfile::read(path)?;
        if !matches!(vm.format, Format::Flat) {
            return Err(Error::config(format_args!(
                "{}: --flat wants format = \"flat\" (use --vm for Linux)",
                vm.origin.at("format")
            )));
        }
        vms.push(vm);
    }
    Ok(vms)
}

/// The payload image: `--payload`, or the one that was built together with this tool.
fn payload(args: &RunArgs) -> Result<PathBuf> {
    let path = args.payload.clone().unwrap_or_else(|| {
        std::env::current_exe()
            .ok()
            .and_then(|exe| Some(exe.parent()?.parent()?.join("cloister.img")))
            .filter(|beside| beside.exists())
            .unwrap_or_else(|| PathBuf::from("build/cloister.img"))
    });
    let image = file::read(&path).map_err(|e| {
        Error::config(format_args!(
            "payload {}: {} (build it with 'make build', or name it with --payload)",
            path.display(),
            crate::error::io_reason(&e)
        ))
    })?;
    bundle::image::Header::read(&image)
        .map_err(|e| Error::config(format_args!("payload {}: {e}", path.display())))?;
    Ok(path)
}
