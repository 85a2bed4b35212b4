//! What descriptions leave open about disks and networks, decided for all VMs of a machine together:
//! serial numbers of images and hardware addresses. Refuses what two VMs cannot both have.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use bundle::device::MAX_SERIAL;
use bundle::{Disk, DiskSource, Mac, Net};

use crate::error::{Error, Result};
use crate::file::FileId;
use crate::vmfile::{Backing, DiskFile, VmFile};

/// First bytes of the hardware addresses given out: locally administered, those that QEMU uses.
const MAC_PREFIX: [u8; 3] = [0x52, 0x54, 0x00];

/// The devices of all VMs, in their order.
#[derive(Debug, Default)]
pub(crate) struct Assignment {
    /// For each VM its disks.
    pub(crate) disks: Vec<Vec<Disk>>,
    /// For each VM its network interfaces.
    pub(crate) nets: Vec<Vec<Net>>,
    /// The image files that become disks of the machine.
    pub(crate) images: Vec<Image>,
}

/// An image file that becomes a disk of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// The file.
    pub(crate) path: PathBuf,
    /// The disk's serial number.
    pub(crate) serial: String,
    /// No VM writes to it.
    pub(crate) read_only: bool,
    /// Where the first VM that has it names it, for messages.
    pub(crate) at: String,
}

/// Decides for all VMs together.
pub(crate) fn assign(vms: &[VmFile]) -> Result<Assignment> {
    let uses = uses(vms);
    check_sharing(&uses)?;
    let images = images(&uses)?;
    let source = |disk: &DiskFile| match &disk.backing {
        Backing::Serial(serial) => DiskSource::Serial(serial.clone()),
        Backing::Label(label) => DiskSource::Label(label.clone()),
        Backing::Image { path, .. } => {
            let id = FileId::of(path);
            let image = images.iter().find(|(known, _)| *known == id);
            // Every image of every VM is in the list.
            DiskSource::Serial(image.map_or_else(String::new, |(_, image)| image.serial.clone()))
        }
    };
    let disks_of = |vm: &VmFile| {
        let disk = |disk: &DiskFile| Disk {
            source: source(disk),
            read_only: disk.read_only,
            shared: disk.shared,
        };
        vm.disks.iter().map(disk).collect()
    };
    Ok(Assignment {
        disks: vms.iter().map(disks_of).collect(),
        nets: nets(vms)?,
        images: images.into_iter().map(|(_, image)| image).collect(),
    })
}

/// What two VMs may be at odds over.
#[derive(PartialEq)]
enum Thing {
    Image(FileId),
    Source(DiskSource),
}

/// One VM's use of one disk.
struct Use<'a> {
    vm: usize,
    at: String,
    thing: Thing,
    disk: &'a DiskFile,
}

fn uses(vms: &[VmFile]) -> Vec<Use<'_>> {
    let mut uses = Vec::new();
    for (index, vm) in vms.iter().enumerate() {
        uses.extend(vm.disks.iter().map(|disk| Use {
            vm: index,
            at: vm.origin.line(disk.line),
            thing: match &disk.backing {
                Backing::Image { path, .. } => Thing::Image(FileId::of(path)),
                Backing::Serial(serial) => Thing::Source(DiskSource::Serial(serial.clone())),
                Backing::Label(label) => Thing::Source(DiskSource::Label(label.clone())),
            },
            disk,
        }));
    }
    uses
}

impl Use<'_> {
    /// The disk in words.
    fn name(&self) -> String {
        match &self.disk.backing {
            Backing::Image { path, .. } => format!("image {}", path.display()),
            Backing::Serial(serial) => format!("disk '{serial}'"),
            Backing::Label(label) => format!("partition '{label}'"),
        }
    }
}

/// A disk belongs to one VM, or to several that all can only read it.
fn check_sharing(uses: &[Use<'_>]) -> Result<()> {
    for (i, second) in uses.iter().enumerate() {
        let Some(first) = uses
            .iter()
            .take(i)
            .find(|first| first.thing == second.thing)
        else {
            continue;
        };
        let refuse = |words: &str| {
            let (at, name, other) = (&second.at, second.name(), &first.at);
            Error::config(format_args!("{at}: {name} is a disk of {other} {words}"))
        };
        if first.vm == second.vm {
            return Err(refuse("already, and one VM has it once"));
        }
        if !first.disk.shared || !second.disk.shared {
            return Err(refuse(
                "already: several VMs can have it with read-only = true and shared = true in each",
            ));
        }
    }
    Ok(())
}

/// The images, each once, with serial numbers: the one wanted, or the file's name as far as it fits.
fn images(uses: &[Use<'_>]) -> Result<Vec<(FileId, Image)>> {
    let mut taken: HashSet<String> = uses.iter().filter_map(machine_serial).collect();
    let mut images: Vec<(FileId, Image, bool)> = Vec::new();
    for use_ in uses {
        let (Backing::Image { path, serial }, Thing::Image(id)) = (&use_.disk.backing, &use_.thing)
        else {
            continue;
        };
        let known = images.iter_mut().find(|(known, _, _)| known == id);
        let Some((_, image, explicit)) = known else {
            if let Some(serial) = serial
                && !taken.insert(serial.clone())
            {
                return Err(Error::config(format_args!(
                    "{}: serial '{serial}' is another disk's",
                    use_.at
                )));
            }
            let image = Image {
                path: path.clone(),
                serial: serial.clone().unwrap_or_default(),
                read_only: use_.disk.read_only,
                at: use_.at.clone(),
            };
            images.push((id.clone(), image, serial.is_some()));
            continue;
        };
        image.read_only &= use_.disk.read_only;
        match serial {
            Some(serial) if !*explicit || image.serial != *serial => {
                return Err(Error::config(format_args!(
                    "{}: serial '{serial}' differs from what {} says of the same image",
                    use_.at, image.at
                )));
            }
            _ => {}
        }
    }
    for (_, image, _) in images.iter_mut().filter(|(_, _, explicit)| !explicit) {
        image.serial = free_serial(&image.path, &mut taken);
    }
    Ok(images
        .into_iter()
        .map(|(id, image, _)| (id, image))
        .collect())
}

/// The serial number of a disk that the machine has by itself.
fn machine_serial(use_: &Use<'_>) -> Option<String> {
    match &use_.disk.backing {
        Backing::Serial(serial) => Some(serial.clone()),
        _ => None,
    }
}

/// "web" for `images/web.img`; "web-2" if that is taken.
fn free_serial(path: &Path, taken: &mut HashSet<String>) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let plain = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' => c,
        _ => '-',
    };
    let stem: String = stem.chars().map(plain).collect();
    let mut number = 1_u32;
    loop {
        let suffix = if number == 1 {
            String::new()
        } else {
            format!("-{number}")
        };
        let room = MAX_SERIAL.saturating_sub(suffix.len());
        let serial: String = stem.chars().take(room).chain(suffix.chars()).collect();
        if !serial.is_empty() && taken.insert(serial.clone()) {
            return serial;
        }
        number = number.saturating_add(1);
    }
}

/// Every VM's interfaces, with hardware addresses that no two have.
fn nets(vms: &[VmFile]) -> Result<Vec<Vec<Net>>> {
    let mut taken: Vec<(Mac, String)> = Vec::new();
    for vm in vms {
        for net in &vm.nets {
            let Some(mac) = net.mac else { continue };
            let at = vm.origin.line(net.line);
            if let Some((_, other)) = taken.iter().find(|(known, _)| *known == mac) {
                return Err(Error::config(format_args!(
                    "{at}: mac {mac} is that of {other}, too"
                )));
            }
            taken.push((mac, at));
        }
    }
    check_addresses(vms)?;
    let mut nets = Vec::new();
    for vm in vms {
        let mut of_vm = Vec::new();
        for (index, net) in vm.nets.iter().enumerate() {
            let mac = net.mac.unwrap_or_else(|| {
                let mac = free_mac(&vm.name, index, &taken);
                taken.push((mac, String::new()));
                mac
            });
            of_vm.push(Net {
                mac,
                switch: net.switch.clone(),
                uplink: net.uplink,
                address: net.address,
            });
        }
        nets.push(of_vm);
    }
    Ok(nets)
}

/// No two interfaces at one switch have the same IPv4 address.
fn check_addresses(vms: &[VmFile]) -> Result<()> {
    let mut taken: Vec<(&str, Ipv4Addr, String)> = Vec::new();
    for vm in vms {
        for net in &vm.nets {
            let Some(address) = net.address.map(|cidr| cidr.address) else {
                continue;
            };
            let at = vm.origin.line(net.line);
            let same =
                |known: &&(&str, Ipv4Addr, String)| known.0 == net.switch && known.1 == address;
            if let Some((_, _, other)) = taken.iter().find(same) {
                return Err(Error::config(format_args!(
                    "{at}: address {address} is that of {other}, too, on switch '{}'",
                    net.switch
                )));
            }
            taken.push((&net.switch, address, at));
        }
    }
    Ok(())
}

/// The address of interface `index` of the VM called `name`: the same in every run, as far as it is free.
fn free_mac(name: &str, index: usize, taken: &[(Mac, String)]) -> Mac {
    // FNV-1a, 32 bits.
    let hash = format!("{name}/{index}")
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    let mut low = hash;
    loop {
        let [_, d, e, f] = low.to_be_bytes();
        let [a, b, c] = MAC_PREFIX;
        let mac = Mac([a, b, c, d, e, f]);
        if !taken.iter().any(|(known, _)| *known == mac) {
            return mac;
        }
        low = low.wrapping_add(1);
    }
}

#[cfg(test)]
#[path = "assign/tests.rs"]
mod tests;
