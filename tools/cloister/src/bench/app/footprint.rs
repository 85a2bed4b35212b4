//! What a hypervisor takes of the machine's memory, without a VM and for one, beside the VM's own memory.
//!
//! Cloister is asked in its shell, a KVM host says it itself (`bench/host-init`). Nothing is counted meanwhile, so
//! there is no plugin.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::job::{Job, Question};
use crate::bench::contender::Contender;
use crate::bench::report::thousands;

/// One contender's, in KiB.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct Footprint {
    /// What is gone from the machine's memory before there is a VM: Cloister's bundle and the files of the KVM host not
    /// counted, which stand for what is on disks.
    idle: u64,
    /// Of these, the corevisor's.
    core: Option<u64>,
    /// What a VM takes, beside its own memory and copies of its kernel and initramfs.
    vm: u64,
    /// Copies of the VM's kernel and initramfs that are kept.
    copies: u64,
}

/// Asks a contender.
pub(super) fn measure(job: &Job<'_>) -> Result<Footprint, String> {
    match job.contender {
        Contender::Native => Err("there is no hypervisor".to_owned()),
        Contender::Open | Contender::Protected => {
            let console = job.ask(&[
                Question::new("cloister> ", "mem\r"),
                Question::new(" KiB of ", "vm start bench-1\r"),
                Question::new("first guest instruction", "\rmem\r"),
                Question::new(" KiB of ", ""),
            ])?;
            cloister(&console, job.setting.megabytes.into())
        }
        Contender::KvmNvhe | Contender::KvmVhe | Contender::Pkvm => {
            kvm(&job.ask(&[])?, job.megabytes().into(), job.copies()?)
        }
    }
}

/// A number of KiB in a line that begins with `name`, as the shell's `mem` writes it; each time that there is one.
fn shown(console: &str, name: &str) -> Vec<u64> {
    let line = |line: &str| {
        let mut words = line.strip_prefix(name)?.split_whitespace();
        words.next()?.parse().ok()
    };
    console.lines().filter_map(line).collect()
}

fn cloister(console: &str, megabytes: u64) -> Result<Footprint, String> {
    let twice = |name: &str| match shown(console, name)[..] {
        [before, with] => Ok((before, with)),
        _ => Err(format!(
            "the shell did not say twice what it has for {name}"
        )),
    };
    let bundle = (console.lines()).find_map(|line| line.split_once("bundle: ")?.1.split_once(", "));
    let bundle = bundle.and_then(|(_, size)| size.split(' ').next()?.parse::<u64>().ok());
    let bundle = bundle.ok_or("the hostvisor did not say how large its bundle is")?;
    let (core, _) = twice("corevisor ")?;
    let (host, _) = twice("hostvisor ")?;
    let (none, own) = twice("VMs ")?;
    let (heap, heap_with) = twice("heap ")?;
    // The core's, of what it has reserved: 4 KiB each.
    let (pool, pool_with) = twice("pool frames")?;
    let frames = (own - none).saturating_sub(megabytes * 1024);
    let pool = pool.saturating_sub(pool_with) * 4;
    Ok(Footprint {
        idle: (core + host).saturating_sub(bundle),
        core: Some(core),
        vm: frames + pool + heap_with.saturating_sub(heap),
        copies: bundle,
    })
}

/// `KEY=NUMBER` of the line with `host: memory WHAT`.
fn said(console: &str, what: &str) -> Result<BTreeMap<String, u64>, String> {
    let head = format!("host: memory {what} ");
    let words = (console.lines()).find_map(|line| line.strip_prefix(head.as_str()));
    let words = words.ok_or_else(|| format!("the host did not say its memory {what}"))?;
    let pair = |word: &str| {
        let (key, value) = word.split_once('=')?;
        Some((key.to_owned(), value.parse().ok()?))
    };
    Ok(words.split_whitespace().filter_map(pair).collect())
}

fn kvm(console: &str, machine: u64, copies: u64) -> Result<Footprint, String> {
    let (before, with) = (said(console, "without")?, said(console, "with-guest")?);
    let monitor = said(console, "monitor")?;
    let of = |map: &BTreeMap<String, u64>, key: &str| {
        let value = map.get(key).copied();
        value.ok_or_else(|| format!("the host did not say its {key}"))
    };
    let mut vm = of(&monitor, "other")?;
    // What is free changes by more than a VM takes while nothing happens.
    for key in ["Slab", "KernelStack", "PageTables", "SecPageTables"] {
        vm += of(&with, key)?.saturating_sub(of(&before, key)?);
    }
    let free = of(&before, "MemFree")? + of(&before, "Cached")?;
    Ok(Footprint {
        idle: (machine * 1024).saturating_sub(free),
        core: None,
        vm: vm.saturating_sub(copies),
        copies,
    })
}

/// The report's part.
pub(super) fn markdown(all: &[(Contender, Footprint)], megabytes: u32) -> String {
    let mut text = format!(
        "\n### Memory\n\nIn KiB, of the same machine, once: what is gone before there is a VM, and what a VM of {megabytes} MB takes beside its\n\
         own memory.\n\n| | without a VM | for a VM | copies of its kernel and initramfs |\n|---|--:|--:|--:|\n"
    );
    let number = |count: u64| thousands(count as f64);
    for (name, footprint) in all {
        let core = footprint
            .core
            .map_or_else(String::new, |core| format!(" (corevisor {})", number(core)));
        let _ = writeln!(
            text,
            "| {} | {}{core} | {} | {} |",
            name.title(),
            number(footprint.idle),
            number(footprint.vm),
            number(footprint.copies)
        );
    }
    text.push_str(
        "\nCloister: what corevisor and hostvisor have reserved, their heaps included and the bundle not; for a VM its tables, its\n\
         states and its devices. KVM: what is not free in a host with one program and no services, its files not counted; for\n\
         a VM, when the guest is up, QEMU's memory that is no file's and not the guest's, and what the kernel's slabs, its stacks and the\n\
         page tables of both stages have grown by. Either keeps the VM's kernel and initramfs, to start it again.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: &str = "[host] bundle: 1 VMs, 100000 KB\ncloister> mem\n\
        corevisor         11892 KiB\nhostvisor        120000 KiB\nVMs                   4 KiB\n\
        pool frames        1600\nheap                100 KiB of 19308 KiB\n\
        cloister> vm start bench-1\n\
        corevisor         11892 KiB\nhostvisor        120000 KiB\nVMs              524300 KiB\n\
        pool frames        1590\nheap                130 KiB of 19308 KiB\n";

    #[test]
    fn cloisters_vm_is_what_its_shell_shows_more() {
        let want = Footprint {
            idle: 31_892,
            core: Some(11_892),
            vm: 8 + 40 + 30,
            copies: 100_000,
        };
        assert_eq!(cloister(SHELL, 512), Ok(want));
        let once = SHELL.replace("VMs              524300 KiB\n", "");
        let why = cloister(&once, 512).unwrap_err();
        assert_eq!(why, "the shell did not say twice what it has for VMs ");
    }

    #[test]
    fn a_hosts_vm_is_its_monitor_and_what_the_kernel_has_more() {
        let host = "host: memory without MemFree=1700000 Cached=200000 Slab=10000 KernelStack=1000 PageTables=200 SecPageTables=0 \n\
            host: memory with-guest MemFree=1400000 Cached=200000 Slab=11000 KernelStack=1100 PageTables=900 SecPageTables=700 \n\
            host: memory monitor other=140000\n";
        let want = Footprint {
            idle: 2048 * 1024 - 1_900_000,
            core: None,
            vm: 42_500,
            copies: 100_000,
        };
        assert_eq!(kvm(host, 2048, 100_000), Ok(want));
        let why = kvm(&host.replace("SecPageTables=0", ""), 2048, 0).unwrap_err();
        assert_eq!(why, "the host did not say its SecPageTables");
        let why = kvm("host: memory without MemFree=1\n", 2048, 0).unwrap_err();
        assert_eq!(why, "the host did not say its memory with-guest");
    }
}
