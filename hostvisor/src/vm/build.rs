//! Making a VM: frames, contents, the core's objects; 2 MiB at a time.

use super::attach::Attached;
use super::loader::{self, Contents, FDT_MAX, Layout, RAM_BASE, Region};
use super::memory::GuestMemory;
use super::{End, Share, Vm, VmLine};
use crate::cpu::SCHEDULER;
use crate::frames::{BLOCK, BLOCK_FRAMES, FRAMES};
use crate::gic;
use crate::guest_tree::{self, GuestConfig, GuestTimers};
use crate::hw::{self, RunPage};
use crate::storage::Claim;
use crate::virtio::bus::Bus;
use crate::virtio::device::Line;
use abi::hypercall::VM_PROTECTED;
use abi::{Error, HostCall, Ipa, PAGE_SHIFT, PAGE_SIZE};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bundle::{Manifest, VmEntry};

/// What a VM holds: everything that has to be given back.
#[derive(Debug, Default)]
pub struct Holdings {
    /// The core's handle.
    pub handle: Option<u64>,
    /// 2 MiB blocks of memory, in the order of the VM's addresses.
    pub blocks: Vec<u64>,
    /// How many frames of them, from the first on, the core has been given.
    pub given: u64,
    /// Run pages.
    pub pages: Vec<u64>,
    /// Disks.
    pub claims: Vec<Claim>,
}

/// A VM in the making.
pub struct Build {
    entry: VmEntry<'static>,
    layout: Layout,
    tree: Vec<u8>,
    share: Share,
    attached: Attached,
    /// What it holds so far.
    pub holdings: Holdings,
}

impl Build {
    /// Checks that the VM can be made, and makes it known to the core. `seed` is the guest's
    /// randomness.
    pub fn begin(entry: &VmEntry<'static>, seed: &[u8]) -> Result<Self, String> {
        let manifest = &entry.manifest;
        let share = Share::new(manifest, SCHEDULER.online())?;
        let (attached, claims) = Attached::new(manifest)?;
        let initrd = entry.initrd.len() as u64;
        let layout =
            loader::plan(manifest, entry.kernel, initrd, FDT_MAX).map_err(|e| e.to_string())?;
        let tree = guest_tree::build(&GuestConfig {
            name: &manifest.name,
            vcpus: manifest.vcpus as usize,
            memory_bytes: manifest.memory,
            append: &manifest.append,
            initrd: layout.initrd.map(|r| (r.base.0, r.base.0 + initrd)),
            rng_seed: seed.get(8..).unwrap_or_default(),
            kaslr_seed: seed.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
            gic: gic::model(),
            timers: GuestTimers::new(gic::vtimer()),
            virtio_slots: Bus::slots(manifest),
            dma_pool: dma_pool(manifest, &layout)?,
        })
        .map_err(|e| e.to_string())?;
        if tree.len() as u64 > FDT_MAX {
            return Err("device tree too large".to_string());
        }
        if hw::heap_is_low() {
            return Err("the hostvisor's own memory is nearly full".to_string());
        }
        let need = (manifest.memory >> PAGE_SHIFT) + u64::from(manifest.vcpus);
        let free = FRAMES.lock().free();
        if need > free {
            return Err(not_enough(manifest, free));
        }
        let flags = if manifest.protected { VM_PROTECTED } else { 0 };
        let answer = hw::hypercall(HostCall::VmCreate, [flags, u64::from(manifest.vcpus), 0, 0])
            .map_err(|e| refused("to create the VM", e))?;
        let [handle, ..] = answer.values;
        Ok(Self {
            entry: entry.clone(),
            layout,
            tree,
            share,
            attached,
            holdings: Holdings {
                handle: Some(handle),
                claims,
                ..Holdings::default()
            },
        })
    }

    fn handle(&self) -> u64 {
        self.holdings.handle.unwrap_or(0)
    }

    /// Goes on with one block. True once all memory is there.
    pub fn step(&mut self) -> Result<bool, String> {
        let blocks = self.entry.manifest.memory / BLOCK;
        let done = self.holdings.blocks.len() as u64;
        if done >= blocks {
            return Ok(true);
        }
        let Some(block) = FRAMES.lock().take_block() else {
            return Err(not_enough(&self.entry.manifest, FRAMES.lock().free()));
        };
        self.holdings.blocks.push(block);
        let ipa = Ipa(RAM_BASE.0 + done * BLOCK);
        let contents = Contents::new(
            &self.layout,
            self.entry.kernel,
            &self.tree,
            self.entry.initrd,
        );
        // Zeroing is cheap, by whole cache lines: finding out what of the block the files leave would not pay.
        let filled = hw::pool_zero(block, BLOCK)
            && (contents.parts(ipa, BLOCK))
                .all(|(offset, bytes)| hw::pool_write(block + offset, bytes).is_ok());
        if !filled {
            return Err(format!("block {block:#x} is not frame pool"));
        }
        // The guest starts with its caches off. What is donated leaves the caches as the core takes it.
        if !self.entry.manifest.protected {
            hw::pool_clean(block, BLOCK);
        }
        self.give(ipa, block)?;
        Ok(done + 1 >= blocks)
    }

    /// Makes the block the VM's.
    fn give(&mut self, ipa: Ipa, block: u64) -> Result<(), String> {
        let call = if self.entry.manifest.protected {
            HostCall::MemDonate
        } else {
            HostCall::MemLend
        };
        let mut done = 0;
        while done < BLOCK_FRAMES {
            let offset = done << PAGE_SHIFT;
            let pfn = (block + offset) >> PAGE_SHIFT;
            let answer = hw::hypercall(
                call,
                [self.handle(), ipa.0 + offset, pfn, BLOCK_FRAMES - done],
            );
            match answer.map(|answer| answer.values) {
                Ok([0, ..]) => return Err("the core took no frames".to_string()),
                Ok([frames, ..]) => {
                    done += frames;
                    self.holdings.given += frames;
                }
                Err(Error::Busy | Error::Again) => {}
                Err(e) => return Err(refused("the VM's memory", e)),
            }
        }
        Ok(())
    }

    /// Makes the vCPUs and starts the VM.
    pub fn finish(&mut self, id: usize, instance: u64) -> Result<Arc<Vm>, String> {
        let handle = self.handle();
        let mut pages = Vec::new();
        for vcpu in 0..u64::from(self.entry.manifest.vcpus) {
            let Some(page) = FRAMES.lock().take_frame() else {
                return Err("no frame is left for a run page".to_string());
            };
            self.holdings.pages.push(page);
            let run_page = RunPage::new(page).filter(|_| hw::pool_zero(page, PAGE_SIZE));
            pages.push(run_page.ok_or("the run page is not frame pool")?);
            hw::hypercall(HostCall::VcpuCreate, [handle, vcpu, page >> PAGE_SHIFT, 0])
                .map_err(|e| refused("to create a vCPU", e))?;
        }
        hw::hypercall(
            HostCall::VmSetBoot,
            [handle, self.layout.entry.0, self.layout.fdt.base.0, 0],
        )
        .map_err(|e| refused("the entry point", e))?;
        hw::publish_code();
        hw::hypercall(HostCall::VmStart, [handle, 0, 0, 0])
            .map_err(|e| refused("to start the VM", e))?;
        let memory = Arc::new(GuestMemory::new(&self.holdings.blocks));
        Ok(Arc::new_cyclic(|vm: &Weak<Vm>| {
            let line = || Box::new(VmLine(vm.clone())) as Box<dyn Line>;
            let virtio = Bus::new(id, &self.entry.manifest, &self.attached, &memory, &line);
            Vm::new(id, instance, handle, pages, virtio, self.share)
        }))
    }
}

/// Where a protected VM's drivers put what its devices are to reach: memory that the guest shares once, as a whole,
/// and copies through (Linux: restricted-dma-pool). As high in its RAM as its files leave room: base and size.
fn dma_pool(manifest: &Manifest, layout: &Layout) -> Result<Option<(u64, u64)>, String> {
    if !manifest.protected || Bus::slots(manifest) == 0 {
        return Ok(None);
    }
    let size = if manifest.disks.is_empty() && manifest.nets.is_empty() {
        BLOCK
    } else {
        (manifest.memory / 16).clamp(4 << 20, 64 << 20) & !(BLOCK - 1)
    };
    match highest_hole(layout, size) {
        Some(base) => Ok(Some((base, size))),
        None => Err(format!(
            "memory: {} MiB is too little for its files and {} MiB that its virtio devices reach",
            manifest.memory >> 20,
            size >> 20
        )),
    }
}

/// The highest place of `size` bytes, a multiple of [`BLOCK`], that holds none of the VM's files.
fn highest_hole(layout: &Layout, size: u64) -> Option<u64> {
    let files = [Some(layout.kernel), Some(layout.fdt), layout.initrd];
    let below = |end: u64| end.checked_sub(size).map(|base| base & !(BLOCK - 1));
    let mut base = below(layout.ram.end().0)?;
    while base >= layout.ram.base.0 {
        let in_the_way = |file: &&Region| file.base.0 < base + size && base < file.end().0;
        match files.iter().flatten().find(in_the_way) {
            None => return Some(base),
            Some(file) => base = below(file.base.0)?,
        }
    }
    None
}

fn refused(what: &str, error: Error) -> String {
    format!("the core refused {what}: {error:?}")
}

fn not_enough(manifest: &Manifest, free: u64) -> String {
    format!(
        "not enough memory: it wants {} MB, {} MB are free",
        manifest.memory >> 20,
        free >> (20 - PAGE_SHIFT)
    )
}

/// How a run's end reads in the log.
#[must_use]
pub fn describe(end: Option<&End>) -> String {
    match end {
        None => "stopped: on request".to_string(),
        Some(End::PoweredOff) => "powered off".to_string(),
        Some(End::Reset) => "rebooting".to_string(),
        Some(End::Failed(why)) => format!("stopped: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region(base: u64, size: u64) -> Region {
        Region {
            base: Ipa(RAM_BASE.0 + base),
            size,
        }
    }

    fn layout(ram: u64, kernel: Region, fdt: u64, initrd: Option<Region>) -> Layout {
        Layout {
            ram: region(0, ram),
            kernel,
            fdt: region(fdt, FDT_MAX),
            initrd,
            entry: kernel.base,
        }
    }

    /// As flat images have it: the tree's slot is the last thing in 66 MiB.
    #[test]
    fn a_tree_at_the_end_of_ram_leaves_room_below_it() {
        let flat = layout(66 << 20, region(0x8_0000, 0x1_0000), 64 << 20, None);
        assert_eq!(highest_hole(&flat, BLOCK), Some(RAM_BASE.0 + (62 << 20)));
        let full = layout(66 << 20, region(0x8_0000, 63 << 20), 64 << 20, None);
        assert_eq!(highest_hole(&full, BLOCK), None);
    }

    proptest! {
        #[test]
        fn a_hole_is_in_ram_aligned_and_nobodys(
            ram in 16_u64..64,
            kernel in (0_u64..64, 1_u64..16),
            fdt in 0_u64..32,
            initrd in proptest::option::of((0_u64..64, 1_u64..16)),
            size in 1_u64..8,
        ) {
            let mega = |(base, size)| region(base << 20, size << 20);
            let layout = layout(ram << 20, mega(kernel), fdt << 21, initrd.map(mega));
            let size = size * BLOCK;
            let files = [Some(layout.kernel), Some(layout.fdt), layout.initrd];
            let free = |base: u64| {
                let clear = |f: &Region| f.end().0 <= base || base + size <= f.base.0;
                base + size <= layout.ram.end().0 && files.iter().flatten().all(clear)
            };
            let expected = (RAM_BASE.0..layout.ram.end().0)
                .step_by(BLOCK as usize)
                .filter(|&base| free(base))
                .max();
            prop_assert_eq!(highest_hole(&layout, size), expected);
        }
    }
}
