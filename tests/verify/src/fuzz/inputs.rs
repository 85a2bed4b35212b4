//! Inputs to start from, and random changes to them.

use crate::rng::Rng;
use bundle::{
    Disk, DiskSource, Format, GuestConsole, Ipv4Cidr, Mac, Manifest, Net, NewVm, OnReboot,
};
use std::net::Ipv4Addr;
use vm_fdt::FdtWriter;

/// No seeds: random bytes do.
pub(super) fn none() -> Vec<Vec<u8>> {
    Vec::new()
}

/// A bundle of two VMs, and one of none.
pub(super) fn bundles() -> Vec<Vec<u8>> {
    let disk = |source, shared| Disk {
        source,
        read_only: shared,
        shared,
    };
    let manifest = |name: &str, kernel: u64, initrd: u64| Manifest {
        name: name.to_owned(),
        format: Format::Flat,
        vcpus: 2,
        memory: 128 << 20,
        protected: true,
        autostart: true,
        on_reboot: OnReboot::Restart,
        append: "console=ttyAMA0".to_owned(),
        weight: 100,
        affinity: Some(0b101),
        entropy: true,
        console: GuestConsole::Virtio,
        kernel,
        initrd,
        disks: vec![
            disk(DiskSource::Serial("root".to_owned()), false),
            disk(DiskSource::Label("My data".to_owned()), true),
        ],
        nets: vec![Net {
            mac: Mac([0x52, 0x54, 0, 1, 2, 3]),
            switch: "lan".to_owned(),
            uplink: true,
            address: Some(Ipv4Cidr {
                address: Ipv4Addr::new(10, 0, 2, 15),
                prefix: 24,
            }),
        }],
    };
    let (kernel, initrd) = ([0x14_u8; 64], [7_u8; 21]);
    let [one, two] = [manifest("one", 64, 21), manifest("two", 64, 0)];
    let vms = [
        NewVm {
            manifest: &one,
            kernel: &kernel,
            initrd: &initrd,
        },
        NewVm {
            manifest: &two,
            kernel: &kernel,
            initrd: &[],
        },
    ];
    let text = one.to_string().into_bytes();
    let archives = [&vms[..], &vms[..1], &[]].map(|vms| bundle::write(vms).unwrap());
    archives.into_iter().chain([text]).collect()
}

/// A small machine's tree.
pub(super) fn trees() -> Vec<Vec<u8>> {
    tree().into_iter().collect()
}

fn tree() -> Result<Vec<u8>, vm_fdt::Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("stdout-path", "/pl011@9000000")?;
    fdt.property_u64("linux,initrd-start", 0x4800_0000)?;
    fdt.property_u64("linux,initrd-end", 0x4900_0000)?;
    fdt.end_node(chosen)?;
    let memory = fdt.begin_node("memory@40000000")?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[0x4000_0000, 0x2000_0000, 0x8000_0000, 0x2000_0000])?;
    fdt.end_node(memory)?;
    let reserved = fdt.begin_node("reserved-memory")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    let secure = fdt.begin_node("secure@41000000")?;
    fdt.property_array_u64("reg", &[0x4100_0000, 0x10_0000])?;
    fdt.property_null("no-map")?;
    fdt.end_node(secure)?;
    fdt.end_node(reserved)?;
    let psci = fdt.begin_node("psci")?;
    fdt.property_string("compatible", "arm,psci-1.0")?;
    fdt.property_string("method", "smc")?;
    fdt.end_node(psci)?;
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for index in 0..2 {
        let cpu = fdt.begin_node(&format!("cpu@{index}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,cortex-a57")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", index)?;
        fdt.end_node(cpu)?;
    }
    fdt.end_node(cpus)?;
    let timer = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_array_u32("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])?;
    fdt.end_node(timer)?;
    let gic = fdt.begin_node("intc@8000000")?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_array_u64("reg", &[0x0800_0000, 0x1_0000, 0x080A_0000, 0x4_0000])?;
    fdt.end_node(gic)?;
    let uart = fdt.begin_node("pl011@9000000")?;
    fdt.property_string_list(
        "compatible",
        vec!["arm,pl011".into(), "arm,primecell".into()],
    )?;
    fdt.property_array_u64("reg", &[0x0900_0000, 0x1000])?;
    fdt.end_node(uart)?;
    fdt.end_node(root)?;
    fdt.finish()
}

/// Changes an input: bytes, words, pieces; makes one up if it is empty.
pub(super) fn change(input: &mut Vec<u8>, rng: &mut Rng<'_>) {
    if input.is_empty() {
        let length = rng.below(600);
        input.extend((0..length).map(|_| rng.word() as u8));
        return;
    }
    for _ in 0..=rng.below(6) {
        let at = rng.below(input.len().max(1) as u64) as usize;
        match rng.below(8) {
            0..=2 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = rng.word() as u8;
                }
            }
            3 | 4 => {
                let word = rng.pick(&[0_u32, 1, 2, 3, 4, 9, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x8000_0000]);
                let at = at & !3;
                if let Some(bytes) = input.get_mut(at..at + 4) {
                    bytes.copy_from_slice(&word.to_be_bytes());
                }
            }
            5 => input.truncate(at),
            6 => {
                let from = rng.below(input.len().max(1) as u64) as usize;
                let count = rng.below(40) as usize;
                let piece: Vec<u8> = input.iter().skip(from).take(count).copied().collect();
                input.splice(at.min(input.len())..at.min(input.len()), piece);
            }
            _ => {
                let end = (at + rng.below(16) as usize).min(input.len());
                input.drain(at.min(end)..end);
            }
        }
    }
}
