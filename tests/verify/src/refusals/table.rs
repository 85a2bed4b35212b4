//! What each hypercall must answer, from `docs/hypercalls/`: checks in the order in which those pages have
//! them, over what the machine's state looks like from outside. Shares nothing with the code under test
//! but numbers of calls and errors.

use crate::cpu::{LIST_REGISTERS, VTIMER};
use crate::machine::BASE;
use crate::world::{Static, VCPU_WORDS, VM_OUTER, vcpu_words, vm_words};
use abi::{Error, HostCall};
use std::sync::atomic::Ordering;

/// Pages of a VM's address space.
const VM_PAGES: u64 = 1 << 24;
/// Frames that an address can name.
const PFNS: u64 = 1 << 36;
const BUSY: u64 = 1 << 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frame {
    NotRam,
    Host,
    RunPage,
    /// Private to or shared by this VM, by slot.
    Owned(u64),
    /// Lent to this VM at this page.
    Lent(u64, u64),
    Core,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Free,
    Building,
    Running,
    Stopped,
    Dying,
}

struct Vm {
    handle: u64,
    life: Life,
    protected: bool,
    has_table: bool,
    has_boot: bool,
    vcpus: u64,
}

/// The machine before a call.
pub(super) struct View<'a> {
    world: &'a Static,
    vms: Vec<Vm>,
    vcpus: Vec<[u64; VCPU_WORDS]>,
    /// A vCPU slot whose state another CPU holds.
    held: Option<usize>,
}

/// What a call must answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// This error.
    Refused(Error),
    /// Success.
    Done,
    /// Success, or NO_MEMORY: how many table frames a change takes is the core's business.
    DoneIfPoolLasts,
}

impl<'a> View<'a> {
    /// Looks at the machine; `held` is a vCPU slot that another CPU is going to hold.
    pub(super) fn new(world: &'a Static, held: Option<usize>) -> Self {
        let vm = |number| {
            let words = vm_words(world.vm(number));
            let rest = &words[VM_OUTER..];
            Vm {
                handle: words[0],
                life: match words[1] {
                    0 => Life::Free,
                    1 => Life::Building,
                    2 => Life::Running,
                    3 => Life::Stopped,
                    _ => Life::Dying,
                },
                has_table: rest[0] == 1,
                protected: rest[4] != 0,
                vcpus: rest[5],
                has_boot: rest[7] != 0,
            }
        };
        Self {
            world,
            vms: (0..world.size.vms).map(vm).collect(),
            vcpus: world.core.vcpus.iter().map(vcpu_words).collect(),
            held,
        }
    }

    /// The frame, and whether another CPU is changing it.
    fn frame(&self, pfn: u64) -> (Frame, bool) {
        let index = pfn.wrapping_sub(BASE) as usize;
        let Some(word) = self.world.entries.get(index) else {
            return (Frame::NotRam, false);
        };
        let word = word.load(Ordering::Relaxed);
        // VM ids start at 1.
        let (vm, page) = ((word >> 16 & 0xFFFF).wrapping_sub(1), word >> 32);
        let frame = match word & 0xF {
            1 => Frame::Host,
            2 => Frame::RunPage,
            3 | 4 => Frame::Owned(vm),
            5 => Frame::Lent(vm, page),
            _ => Frame::Core,
        };
        (frame, word & BUSY != 0)
    }

    /// The frame that a VM maps at a page. A frame table entry says so: tables follow it.
    fn mapped(&self, vm: u64, page: u64) -> Option<(Frame, bool)> {
        let maps =
            |word: u64| word >> 16 & 0xFFFF == vm + 1 && word >> 32 == page && word & 0xF >= 3;
        let mut entries = self.world.entries.iter().map(|e| e.load(Ordering::Relaxed));
        let index = entries.position(maps)?;
        Some(self.frame(BASE + index as u64))
    }

    /// VM of a handle: its slot's number and itself.
    fn vm(&self, handle: u64) -> Result<(u64, &Vm), Error> {
        let is = |vm: &Vm| handle != 0 && vm.handle == handle && vm.life != Life::Free;
        let number = self.vms.iter().position(is).ok_or(Error::NotFound)?;
        Ok((number as u64, &self.vms[number]))
    }

    /// Slot of a vCPU.
    fn vcpu(&self, handle: u64, index: u64) -> Option<usize> {
        let is =
            |words: &[u64; VCPU_WORDS]| words[0] != 0 && words[6] == handle && words[7] == index;
        self.vcpus.iter().position(is)
    }

    fn check_held(&self, slot: usize) -> Result<(), Error> {
        if self.held == Some(slot) {
            Err(Error::Busy)
        } else {
            Ok(())
        }
    }

    /// What the call in `x`, x0 to x4, must answer on CPU `cpu`.
    pub(super) fn verdict(&self, cpu: usize, x: [u64; 5]) -> Verdict {
        match self.check(cpu, x) {
            Ok(verdict) => verdict,
            Err(error) => Verdict::Refused(error),
        }
    }

    fn check(&self, cpu: usize, [number, a, b, c, d]: [u64; 5]) -> Result<Verdict, Error> {
        let call = HostCall::decode(number).ok_or(Error::NotSupported)?;
        match call {
            HostCall::CoreInfo => require(a <= 10, Error::Invalid)?,
            HostCall::VmCreate => {
                require(a <= 1 && (1..=16).contains(&b), Error::Invalid)?;
                require(
                    self.vms.iter().any(|vm| vm.life == Life::Free),
                    Error::NoMemory,
                )?;
                return Ok(Verdict::DoneIfPoolLasts);
            }
            HostCall::VmSetBoot => {
                let (_, vm) = self.vm(a)?;
                require(vm.life == Life::Building, Error::BadState)?;
                require(b % 4 == 0 && b < VM_PAGES << 12, Error::Invalid)?;
            }
            HostCall::VmStart => {
                let (_, vm) = self.vm(a)?;
                require(vm.life == Life::Building && vm.has_boot, Error::BadState)?;
                require(self.vcpu(a, 0).is_some(), Error::BadState)?;
                for index in 0..vm.vcpus {
                    self.vcpu(a, index)
                        .map_or(Ok(()), |slot| self.check_held(slot))?;
                }
            }
            HostCall::VmDestroy => {
                let (_, vm) = self.vm(a)?;
                for index in 0..vm.vcpus {
                    self.vcpu(a, index)
                        .map_or(Ok(()), |slot| self.check_held(slot))?;
                }
            }
            HostCall::MemDonate | HostCall::MemLend => return self.give(call, a, b, c, d),
            HostCall::MemUnmap => {
                let (number, vm) = self.vm(a)?;
                require(vm.has_table, Error::BadState)?;
                require_pages(b, c)?;
                let page = b >> 12;
                let (frame, busy) = self.mapped(number, page).ok_or(Error::Denied)?;
                require(!busy, Error::Busy)?;
                require(frame == Frame::Lent(number, page), Error::Denied)?;
                return Ok(Verdict::DoneIfPoolLasts);
            }
            HostCall::MemReclaim => {
                let (number, vm) = self.vm(a)?;
                require(vm.life == Life::Dying && !vm.has_table, Error::BadState)?;
                require_frames(b, c)?;
                let (frame, busy) = self.frame(b);
                require(!busy, Error::Busy)?;
                let own = frame == Frame::Owned(number)
                    || matches!(frame, Frame::Lent(vm, _) if vm == number);
                require(own, Error::Denied)?;
            }
            HostCall::VcpuCreate => {
                let (_, vm) = self.vm(a)?;
                require(vm.life == Life::Building, Error::BadState)?;
                require(b < vm.vcpus, Error::Invalid)?;
                require(self.vcpu(a, b).is_none(), Error::Exists)?;
                require(
                    self.vcpus.iter().any(|words| words[0] == 0),
                    Error::NoMemory,
                )?;
                self.host_frame(c)?;
            }
            HostCall::VcpuRun => self.run(cpu, a, b)?,
            HostCall::VcpuPut => {
                self.vm(a)?;
                let slot = self.vcpu(a, b).ok_or(Error::NotFound)?;
                self.check_held(slot)?;
                let home = self.fp_home(slot);
                require(home.is_none_or(|home| home == cpu), Error::Elsewhere)?;
            }
            HostCall::VcpuStat => {
                self.vm(a)?;
                self.vcpu(a, b).ok_or(Error::NotFound)?;
                require(c <= 3, Error::Invalid)?;
            }
        }
        Ok(Verdict::Done)
    }

    fn host_frame(&self, pfn: u64) -> Result<(), Error> {
        let (frame, busy) = self.frame(pfn);
        require(!busy, Error::Busy)?;
        require(frame == Frame::Host, Error::Denied)
    }

    fn give(
        &self,
        call: HostCall,
        handle: u64,
        ipa: u64,
        pfn: u64,
        count: u64,
    ) -> Result<Verdict, Error> {
        let (number, vm) = self.vm(handle)?;
        require(
            matches!(vm.life, Life::Building | Life::Running),
            Error::BadState,
        )?;
        require(vm.protected == (call == HostCall::MemDonate), Error::Denied)?;
        require_pages(ipa, count)?;
        require_frames(pfn, count)?;
        require(self.mapped(number, ipa >> 12).is_none(), Error::Exists)?;
        self.host_frame(pfn)?;
        Ok(Verdict::DoneIfPoolLasts)
    }

    /// CPU in which the FP/SIMD registers of a slot's vCPU are.
    fn fp_home(&self, slot: usize) -> Option<usize> {
        ((self.vcpus[slot][5] & 0xF) as usize).checked_sub(1)
    }

    fn run(&self, cpu: usize, handle: u64, index: u64) -> Result<(), Error> {
        let (_, vm) = self.vm(handle)?;
        let slot = self.vcpu(handle, index).ok_or(Error::NotFound)?;
        self.check_held(slot)?;
        require(vm.life == Life::Running, Error::BadState)?;
        require(
            self.fp_home(slot).is_none_or(|home| home == cpu),
            Error::Elsewhere,
        )?;
        let words = self.vcpus[slot];
        let page = self.world.machine.frame((words[11] - BASE) as usize);
        check_run_page(|word| page[word].load(Ordering::Relaxed))?;
        // Off unless it has been on, or is asked to start.
        require(words[8] != 0 || words[2] == 1, Error::BadState)
    }
}

/// docs/run-page.md: word 0 flags, word 2 count, words 16.. list registers.
fn check_run_page(word: impl Fn(usize) -> u64) -> Result<(), Error> {
    require(word(0) <= 7, Error::Invalid)?;
    let count = word(2);
    require(count <= LIST_REGISTERS as u64, Error::Invalid)?;
    let mut seen = Vec::new();
    for n in 0..count as usize {
        let lr = word(16 + n);
        let (state, hw, intid) = (lr >> 62, lr >> 61 & 1, lr & 0xFFFF_FFFF);
        if state == 0 {
            continue;
        }
        require(intid < 1020, Error::Invalid)?;
        // Bits 59:56 and 47:45 are reserved; 44:32 is pINTID, of which 12:10 are reserved, or EOI in bit 41.
        let physical = if hw == 1 { 0x3FF << 32 } else { 1 << 41 };
        require(
            lr & !(0xF0FF << 48 | 0xFFFF_FFFF | physical) == 0,
            Error::Invalid,
        )?;
        if hw == 1 {
            require(state != 3, Error::Invalid)?;
            require(intid == VTIMER && lr >> 32 & 0x3FF == VTIMER, Error::Denied)?;
        }
        seen.push(intid);
    }
    seen.sort_unstable();
    let before = seen.len();
    seen.dedup();
    require(seen.len() == before, Error::Invalid)
}

fn require(holds: bool, error: Error) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(error) }
}

fn require_pages(ipa: u64, count: u64) -> Result<(), Error> {
    let end = (ipa >> 12).checked_add(count);
    let inside = ipa.is_multiple_of(4096) && end.is_some_and(|end| end <= VM_PAGES);
    require(count > 0 && inside, Error::Invalid)
}

fn require_frames(pfn: u64, count: u64) -> Result<(), Error> {
    let inside = pfn.checked_add(count).is_some_and(|end| end <= PFNS);
    require(count > 0 && inside, Error::Invalid)
}
