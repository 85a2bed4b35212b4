//! `cloister inspect`: what a bundle holds, every part of it checked.

use std::fmt::Write as _;
use std::path::Path;

use bundle::{Bundle, Format, Manifest, OnReboot, VmEntry, image, layout, manifest};

use crate::error::{Error, Result};
use crate::file;
use crate::size::Size;

/// What `inspect` found.
#[derive(Default)]
pub(crate) struct Report {
    /// For people, several lines.
    pub(crate) text: String,
    /// One line for each VM that could not be started.
    pub(crate) broken: Vec<String>,
    /// Manifests of all sound VMs.
    pub(crate) vms: Vec<Manifest>,
}

/// Reads and checks the bundle in `path`.
pub(crate) fn file(path: &Path) -> Result<(Vec<u8>, Report)> {
    let bytes = file::read(path).map_err(|e| Error::file(path, &e))?;
    let report = bundle(&bytes)
        .map_err(|error| Error::config(format_args!("{}: {error}", path.display())))?;
    Ok((bytes, report))
}

/// Checks a bundle's bytes. An error means the archive as a whole cannot be read.
pub(crate) fn bundle(bytes: &[u8]) -> std::result::Result<Report, bundle::Error> {
    let bundle = Bundle::read(bytes)?;
    let mut report = Report::default();
    for vm in &bundle.vms {
        match vm {
            Ok(vm) => match check(vm) {
                Ok(text) => {
                    report.text.push_str(&text);
                    report.vms.push(vm.manifest.clone());
                }
                Err(reason) => report.broken.push(format!(
                    "VM '{}' (vm{:02}): {reason}",
                    vm.manifest.name, vm.index
                )),
            },
            Err(error) => report.broken.push(error.to_string()),
        }
    }
    Ok(report)
}

fn check(vm: &VmEntry<'_>) -> std::result::Result<String, String> {
    let m = &vm.manifest;
    let kernel = match m.format {
        Format::Flat => "flat image".to_owned(),
        Format::Linux => {
            let header = image::Header::read(vm.kernel).map_err(|e| format!("kernel: {e}"))?;
            format!("arm64 Image, {} in memory", Size(header.image_size))
        }
    };
    let layout =
        layout::plan(m, vm.kernel, m.initrd, layout::FDT_MAX).map_err(|e| e.to_string())?;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "vm{:02}  {}: {} vCPUs, {}, {}, {}, on reboot {}",
        vm.index,
        m.name,
        m.vcpus,
        Size(m.memory),
        if m.protected { "protected" } else { "open" },
        if m.autostart {
            "starts at boot"
        } else {
            "does not start at boot"
        },
        match m.on_reboot {
            OnReboot::Restart => "restart",
            OnReboot::Stop => "stop",
        },
    );
    let _ = writeln!(
        text,
        "      kernel {} bytes at {:#x} ({kernel}), device tree at {:#x}",
        m.kernel, layout.kernel.base, layout.fdt.base
    );
    if let Some(initrd) = &layout.initrd {
        let _ = writeln!(
            text,
            "      initrd {} bytes at {:#x}",
            m.initrd, initrd.base
        );
    }
    let _ = writeln!(text, "      append \"{}\"", m.append);
    let _ = writeln!(
        text,
        "      weight {}, CPUs {}, console {}{}",
        m.weight,
        manifest::cpu_set_text(m.affinity),
        m.console.as_str(),
        if m.entropy { ", entropy" } else { "" },
    );
    for disk in &m.disks {
        let _ = writeln!(text, "      disk {disk}");
    }
    for net in &m.nets {
        let _ = writeln!(text, "      net {net}");
    }
    Ok(text)
}
