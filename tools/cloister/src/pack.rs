//! Checked VM descriptions → bundle bytes.

use std::fs;
use std::path::Path;

use bundle::manifest::{self, Fault, Key, Manifest};
use bundle::{Format, NewVm, image, layout};

use crate::error::{Error, Result, io_reason};
use crate::size::Size;
use crate::vmfile::VmFile;

/// A VM with its files read.
struct Loaded {
    manifest: Manifest,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
}

/// Reads every VM's files, checks all of it, and packs the bundle.
pub(crate) fn pack(vms: &[VmFile]) -> Result<Vec<u8>> {
    unique_names(vms)?;
    let loaded: Vec<Loaded> = vms.iter().map(load).collect::<Result<_>>()?;
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

fn load(vm: &VmFile) -> Result<Loaded> {
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
        append: vm.append.clone(),
        kernel: kernel.len() as u64,
        initrd: initrd.len() as u64,
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
    let bytes = fs::read(path).map_err(|e| fail(io_reason(&e)))?;
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
