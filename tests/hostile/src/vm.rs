//! VMs that this program makes to attack them.

use crate::guest::{self, Guest};
use crate::{access, call, cpu, frames};
use abi::hypercall::VM_PROTECTED;
use abi::{Error, HostCall, PAGE_SIZE};

/// Pages of RAM of an ordinary VM: the guest's program and room for secrets.
pub(crate) const PAGES: u64 = 16;
/// Of them, the first that the program does not use.
pub(crate) const FREE_PAGE: u64 = 4;
/// IPA of that page.
pub(crate) const SECRET_IPA: u64 = guest::RAM + FREE_PAGE * PAGE_SIZE;
const MOST: usize = 24;

/// Repeats a memory call until all of `count` is done: x1 sums up.
pub(crate) fn whole(call: HostCall, args: [u64; 3], count: u64) -> Result<u64, Error> {
    let mut done = 0;
    while done < count {
        let [vm, ipa, pfn] = args;
        let left = count - done;
        let now = match call {
            HostCall::MemReclaim => call::host(call, &[vm, pfn + done, left])?,
            HostCall::MemUnmap => call::host(call, &[vm, ipa + done * PAGE_SIZE, left])?,
            _ => call::host(call, &[vm, ipa + done * PAGE_SIZE, pfn + done, left])?,
        };
        done += now;
    }
    Ok(done)
}

/// A VM with its memory. Dropping it destroys it and takes everything back.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) handle: u64,
    /// Physical address of its RAM.
    pub(crate) ram: u64,
    protected: bool,
    /// (first frame, frames) given to it.
    given: [(u64, u64); MOST],
    used: usize,
    pages: [u64; abi::MAX_VCPUS],
    vcpus: u64,
    gone: bool,
}

impl Vm {
    /// An empty VM.
    pub(crate) fn create(protected: bool, vcpus: u64) -> Result<Self, Error> {
        let flags = if protected { VM_PROTECTED } else { 0 };
        let handle = call::host(HostCall::VmCreate, &[flags, vcpus])?;
        Ok(Self {
            handle,
            ram: 0,
            protected,
            given: [(0, 0); MOST],
            used: 0,
            pages: [0; abi::MAX_VCPUS],
            vcpus,
            gone: false,
        })
    }

    /// A VM of `vcpus` with the guest's program in [`PAGES`] pages of RAM, running.
    pub(crate) fn running(protected: bool, vcpus: u64) -> Result<Self, Error> {
        let mut vm = Self::create(protected, vcpus)?;
        vm.load()?;
        vm.start(0)?;
        Ok(vm)
    }

    /// Gives it RAM with the guest's program, and its vCPUs.
    pub(crate) fn load(&mut self) -> Result<(), Error> {
        let ram = frames::take(PAGES);
        self.load_at(ram)
    }

    /// The same with RAM from `ram` on.
    pub(crate) fn load_at(&mut self, ram: u64) -> Result<(), Error> {
        let run_pages = frames::take(self.vcpus);
        self.load_with(ram, run_pages)
    }

    /// The same with run pages from `run_pages` on.
    pub(crate) fn load_with(&mut self, ram: u64, run_pages: u64) -> Result<(), Error> {
        self.ram = ram;
        access::copy_to(self.ram, guest::program());
        cpu::sync_code(self.ram, PAGES * PAGE_SIZE);
        self.give(guest::RAM, self.ram, PAGES)?;
        for index in 0..self.vcpus {
            let page = run_pages + index * PAGE_SIZE;
            call::host(
                HostCall::VcpuCreate,
                &[self.handle, index, page / PAGE_SIZE],
            )?;
            self.pages[index as usize] = page;
        }
        Ok(())
    }

    /// Starts it; its first vCPU finds `context` in x0.
    pub(crate) fn start(&self, context: u64) -> Result<(), Error> {
        call::host(HostCall::VmSetBoot, &[self.handle, guest::RAM, context])?;
        call::host(HostCall::VmStart, &[self.handle]).map(|_| ())
    }

    /// The call that gives this kind of VM memory.
    pub(crate) fn give_call(&self) -> HostCall {
        if self.protected {
            HostCall::MemDonate
        } else {
            HostCall::MemLend
        }
    }

    /// Gives it `count` pages at `pa`.
    pub(crate) fn give(&mut self, ipa: u64, pa: u64, count: u64) -> Result<(), Error> {
        whole(self.give_call(), [self.handle, ipa, pa / PAGE_SIZE], count)?;
        self.note(pa, count);
        Ok(())
    }

    /// Takes down that it owns `count` pages at `pa`, to be reclaimed at its end.
    pub(crate) fn note(&mut self, pa: u64, count: u64) {
        self.given[self.used] = (pa / PAGE_SIZE, count);
        self.used += 1;
    }

    /// Its vCPU `index`.
    pub(crate) fn guest(&self, index: u64) -> Guest {
        Guest {
            vm: self.handle,
            index,
            page: self.pages[index as usize],
        }
    }

    /// Its first vCPU.
    pub(crate) fn first(&self) -> Guest {
        self.guest(0)
    }

    /// Physical address of the page at [`SECRET_IPA`].
    pub(crate) fn secret_pa(&self) -> u64 {
        self.ram + FREE_PAGE * PAGE_SIZE
    }

    /// VM_DESTROY until it asks for nothing but frames back; how many.
    pub(crate) fn kill(&self) -> Result<u64, Error> {
        kill(self.handle)
    }

    /// Destroys it and takes its frames back.
    pub(crate) fn destroy(mut self) -> Result<(), Error> {
        self.finish()
    }

    /// Its frames back, and its slot free. For a VM that is killed.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        if core::mem::replace(&mut self.gone, true) {
            return Ok(());
        }
        let mut left = self.kill()?;
        for &(pfn, count) in &self.given[..self.used] {
            // Frames that were unmapped are not its own any more: pass them over.
            let mut done = 0;
            while left != 0 && done < count {
                let args = [self.handle, pfn + done, count - done];
                done += call::host(HostCall::MemReclaim, &args).unwrap_or(1);
            }
        }
        if left != 0 {
            left = self.kill()?;
        }
        if left == 0 { Ok(()) } else { Err(Error::Again) }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

/// VM_DESTROY on a handle, repeated while it asks for it.
pub(crate) fn kill(handle: u64) -> Result<u64, Error> {
    for _ in 0..100_000 {
        match call::host(HostCall::VmDestroy, &[handle]) {
            Err(Error::Again | Error::Busy) => {}
            other => return other,
        }
    }
    Err(Error::Again)
}
