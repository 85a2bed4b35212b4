//! Taking a VM apart: everything it held comes back, a piece at a time.

use super::build::Holdings;
use crate::frames::{BLOCK_FRAMES, FRAMES};
use crate::hw;
use abi::{Error, HostCall, PAGE_SHIFT};
use alloc::format;
use alloc::string::String;

enum Stage {
    /// VM_DESTROY until the core has cut the VM off from its memory.
    Destroy,
    /// MEM_RECLAIM; frames taken back so far.
    Reclaim(u64),
    /// VM_DESTROY until the slot is free.
    Free,
}

/// A VM being taken apart. None of its vCPUs runs.
pub struct Teardown {
    holdings: Holdings,
    stage: Stage,
}

impl Teardown {
    /// Begins with what a VM, whole or in the making, holds.
    #[must_use]
    pub fn new(holdings: Holdings) -> Self {
        Self {
            holdings,
            stage: Stage::Destroy,
        }
    }

    /// Goes on. True once all is given back; an error means that the core keeps some of it, which is
    /// lost then.
    pub fn step(&mut self) -> Result<bool, String> {
        let Some(handle) = self.holdings.handle else {
            self.give_back();
            return Ok(true);
        };
        match self.stage {
            Stage::Destroy => {
                match hw::hypercall(HostCall::VmDestroy, [handle, 0, 0, 0]) {
                    Err(Error::Again | Error::Busy) => {}
                    // Nothing was left to reclaim.
                    Err(Error::NotFound) if self.holdings.given == 0 => self.holdings.handle = None,
                    Ok(_) => self.stage = Stage::Reclaim(0),
                    Err(e) => return Err(format!("the core does not destroy it: {e:?}")),
                }
                Ok(false)
            }
            Stage::Reclaim(done) if done < self.holdings.given => {
                let index = (done / BLOCK_FRAMES) as usize;
                let Some(&block) = self.holdings.blocks.get(index) else {
                    return Err("more frames given than held".into());
                };
                let within = done % BLOCK_FRAMES;
                let count = (BLOCK_FRAMES - within).min(self.holdings.given - done);
                let pfn = (block >> PAGE_SHIFT) + within;
                match hw::hypercall(HostCall::MemReclaim, [handle, pfn, count, 0]) {
                    Ok(answer) => {
                        self.stage = Stage::Reclaim(done + answer.values[0].clamp(1, count))
                    }
                    Err(Error::Again | Error::Busy) => {}
                    Err(e) => {
                        return Err(format!("the core does not give frame {pfn:#x} back: {e:?}"));
                    }
                }
                Ok(false)
            }
            Stage::Reclaim(_) => {
                self.stage = Stage::Free;
                Ok(false)
            }
            Stage::Free => {
                match hw::hypercall(HostCall::VmDestroy, [handle, 0, 0, 0]) {
                    Err(Error::Again | Error::Busy) => {}
                    // The slot was freed with the last frame.
                    Ok(_) | Err(Error::NotFound) => self.holdings.handle = None,
                    Err(e) => return Err(format!("the core does not free its slot: {e:?}")),
                }
                Ok(false)
            }
        }
    }

    fn give_back(&mut self) {
        let mut frames = FRAMES.lock();
        self.holdings
            .blocks
            .drain(..)
            .for_each(|block| frames.give_block(block));
        self.holdings
            .pages
            .drain(..)
            .for_each(|page| frames.give_frame(page));
    }
}
