//! Checked VM descriptions → bundle bytes.

use std::path::Path;

use bundle::manifest::{self, Fault, Key, Manifest};
use bundle::{Disk, Format, Net, NewVm, image, layout};

use crate::assign::Assignment;
use crate::error::{Error, Result, io_reason};
use crate::file;
use crate::size::Size;
use crate::vmfile::VmFile;

/// A VM with its files read.
struct Loaded {
    manifest: Manifest,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
}

/// Reads every VM's files, checks all of it, and packs the bundle. `devices` is what
/// [`crate::assign::assign`] made of the same VMs.
pub(crate) fn pack(vms: &[VmFile], devices: &Assignment) -> Result<Vec<u8>> {
    unique_names(vms)?;
    let devices = devices.disks.iter().zip(&devices.nets);
    let loaded: Vec<Loaded> = (vms.iter().zip(devices))
        .map(|(vm, (disks, nets))| load(vm, disks, nets))
        .collect::<Result<_>>()?;
    let new: Vec<NewVm<'_>> = loaded
        .iter()
        .map(|vm| NewVm {
            manifest: &vm.manifest,
            kernel: &vm.kernel,
            initrd: &vm.initrd,
        })
        .collect();
    bundle::write(&new).map_err(Error::config)
}

fn unique_names(vms: &[VmFile]) -> Result<()> {
    for (i, vm) in vms.iter().enumerate() {
        if let Some(first) = vms.iter().take(i).find(|other| other.name == vm.name) {
            return Err(Error::config(format_args!(
                "{}: the name '{}' is taken by {}",
                vm.origin.at("name"),
                vm.name,
                first.origin.at("name")
            )));
        }
    }
    Ok(())
}

fn load(vm: &VmFile, disks: &[Disk], nets: &[Net]) -> Result<Loaded> {
    let kernel = read(vm, "kernel", &vm.kernel)?;
    let initrd = match &vm.initrd {
        Some(path) => read(vm, "initrd", path)?,
        None => Vec::new(),
    };
    let manifest = Manifest {
        name: vm.name.clone(),
        format: vm.format,
        vcpus: vm.vcpus,
        memory: vm.memory.0,
        protected: vm.protected,
        autostart: vm.autostart,
        on_reboot: vm.on_reboot,
        append: append(vm, nets),
        weight: vm.weight,
        affinity: vm.affinity,
        entropy: vm.entropy,
        console: vm.console,
        kernel: kernel.len() as u64,
        initrd: initrd.len() as u64,
        disks: disks.to_vec(),
        nets: nets.to_vec(),
    };
    manifest.check().map_err(|error| bad_value(vm, &error))?;
    if matches!(vm.format, Format::Linux) {
        image::Header::read(&kernel).map_err(|error| {
            Error::config(format_args!(
                "{}: kernel {}: {error}",
                vm.origin.at("kernel"),
                vm.kernel.display()
            ))
        })?;
    }
    layout::plan(&manifest, &kernel, manifest.initrd, layout::FDT_MAX).map_err(|error| {
        let key = match error {
            layout::Error::DoesNotFit { .. } => "memory",
            _ => "kernel",
        };
        Error::config(format_args!("{}: {error}", vm.origin.at(key)))
    })?;
    Ok(Loaded {
        manifest,
        kernel,
        initrd,
    })
}

/// The kernel's command line: what the description says, and the fixed addresses of interfaces in the form
/// that Linux knows (Documentation/admin-guide/nfs/nfsroot.rst), unless the description has its own.
fn append(vm: &VmFile, nets: &[Net]) -> String {
    let mut words: Vec<String> = Vec::new();
    let own = vm.append.split(' ').any(|word| word.starts_with("ip="));
    if matches!(vm.format, Format::Linux) && !own {
        for (index, (net, file)) in nets.iter().zip(&vm.nets).enumerate() {
            let Some(cidr) = net.address else { continue };
            let gateway = file.gateway.map(|g| g.to_string()).unwrap_or_default();
            let (address, mask, name) = (cidr.address, cidr.mask(), &vm.name);
            words.push(format!(
                "ip={address}::{gateway}:{mask}:{name}:eth{index}:off"
            ));
        }
    }
    if !vm.append.is_empty() {
        words.insert(0, vm.append.clone());
    }
    words.join(" ")
}

/// The manifest's complaint in the words of the TOML file.
fn bad_value(vm: &VmFile, error: &manifest::Error) -> Error {
    match &error.fault {
        Fault::BadValue(Key::Memory, _) => Error::config(format_args!(
            "{}: memory = {}, must be a multiple of {} from {} to {}",
            vm.origin.at("memory"),
            vm.memory,
            Size(manifest::MEMORY_ALIGN),
            Size(manifest::MIN_MEMORY),
            Size(manifest::MAX_MEMORY)
        )),
        Fault::BadValue(key, value) => Error::config(format_args!(
            "{}: {} = '{value}', must be {}",
            vm.origin.at(key.as_str()),
            key.as_str(),
            key.allowed()
        )),
        _ => Error::config(format_args!("{}: {error}", vm.origin.at(""))),
    }
}

/// Reads one file that key `key` of `vm` names. An empty one is an error: nothing can be meant by it.
fn read(vm: &VmFile, key: &str, path: &Path) -> Result<Vec<u8>> {
    let fail = |reason: String| {
        Error::config(format_args!(
            "{}: {key} {}: {reason}",
            vm.origin.at(key),
            path.display()
        ))
    };
    let bytes = file::read(path).map_err(|e| fail(io_reason(&e)))?;
    if bytes.is_empty() {
        return Err(fail("the file is empty".to_owned()));
    }
    Ok(bytes)
}

/// A line about what a bundle holds, for progress messages.
pub(crate) fn describe(bundle: &[u8], count: usize) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} VM{plural}, {}", Size(bundle.len() as u64))
}
