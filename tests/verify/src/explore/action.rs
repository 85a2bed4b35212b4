//! What two CPUs of a hostile hostvisor, and the guests on them, may do next.

use abi::HostCall;
use std::fmt;

/// Page-table pool: the hostvisor's four tables, three for each VM, and one.
pub const POOL: usize = 11;
/// Frames of the hostvisor's at boot.
pub const DATA: usize = 5;
/// First page number of VM memory.
const IPA_BASE: u64 = 0x4_0000;

/// What a guest does when its vCPU runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Play {
    /// An interrupt comes before it does anything.
    Nothing,
    /// MEM_SHARE of its page, wiped first.
    Share(u64),
    /// MEM_UNSHARE of its page.
    Unshare(u64),
    /// MMIO_GUARD of a page.
    Guard(u64),
    /// SYSTEM_OFF.
    Off,
    /// It loads from a page and faults.
    Load(u64),
    /// It uses FP/SIMD registers.
    Fp,
}

/// One call of a CPU. VMs are named by slot, pages by number within the VM, frames by index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// VM_CREATE, protected or open.
    Create(bool),
    /// VM_SET_BOOT.
    SetBoot(usize),
    /// VCPU_CREATE of vCPU 0 with this run page.
    VcpuCreate(usize, usize),
    /// VM_START.
    Start(usize),
    /// VM_DESTROY.
    Destroy(usize),
    /// MEM_DONATE: VM, page, frame, count.
    Donate(usize, u64, usize, u64),
    /// MEM_LEND.
    Lend(usize, u64, usize, u64),
    /// MEM_UNMAP: VM, page, count.
    Unmap(usize, u64, u64),
    /// MEM_RECLAIM: VM, frame, count.
    Reclaim(usize, usize, u64),
    /// VCPU_RUN of vCPU 0.
    Run(usize, Play),
    /// VCPU_PUT of vCPU 0.
    Put(usize),
    /// The hostvisor touches a frame and faults.
    Touch(usize),
}

/// Address of page `page` of a VM. Page 2 lies in another GiB, with tables of its own.
#[must_use]
pub const fn ipa(page: u64) -> u64 {
    match page {
        2 => (2 * IPA_BASE) << 12,
        _ => (IPA_BASE + page) << 12,
    }
}

/// The page number within the VM, the inverse of [`ipa`].
#[must_use]
pub const fn page_of(ipa: u64) -> u64 {
    match ipa >> 12 {
        0x8_0000 => 2,
        page => page.wrapping_sub(IPA_BASE),
    }
}

impl Action {
    /// An action as numbers, for hashing.
    #[must_use]
    pub fn code(self) -> [u64; 5] {
        let play = |play| match play {
            Play::Nothing => 0,
            Play::Share(page) => 10 + page,
            Play::Unshare(page) => 20 + page,
            Play::Guard(page) => 40 + page,
            Play::Off => 1,
            Play::Load(page) => 30 + page,
            Play::Fp => 2,
        };
        match self {
            Self::Create(protected) => [0, u64::from(protected), 0, 0, 0],
            Self::SetBoot(vm) => [1, vm as u64, 0, 0, 0],
            Self::VcpuCreate(vm, frame) => [2, vm as u64, frame as u64, 0, 0],
            Self::Start(vm) => [3, vm as u64, 0, 0, 0],
            Self::Destroy(vm) => [4, vm as u64, 0, 0, 0],
            Self::Donate(vm, page, frame, count) => [5, vm as u64, page, frame as u64, count],
            Self::Lend(vm, page, frame, count) => [6, vm as u64, page, frame as u64, count],
            Self::Unmap(vm, page, count) => [7, vm as u64, page, count, 0],
            Self::Reclaim(vm, frame, count) => [8, vm as u64, frame as u64, count, 0],
            Self::Run(vm, p) => [9, vm as u64, play(p), 0, 0],
            Self::Put(vm) => [10, vm as u64, 0, 0, 0],
            Self::Touch(frame) => [11, frame as u64, 0, 0, 0],
        }
    }

    /// The VM it is about.
    #[must_use]
    pub const fn vm(self) -> Option<usize> {
        match self {
            Self::Create(_) | Self::Touch(_) => None,
            Self::SetBoot(vm)
            | Self::VcpuCreate(vm, _)
            | Self::Start(vm)
            | Self::Destroy(vm)
            | Self::Donate(vm, ..)
            | Self::Lend(vm, ..)
            | Self::Unmap(vm, ..)
            | Self::Reclaim(vm, ..)
            | Self::Run(vm, _)
            | Self::Put(vm) => Some(vm),
        }
    }

    /// True if it looks at vCPU slots.
    #[must_use]
    pub const fn sees_vcpus(self) -> bool {
        matches!(
            self,
            Self::VcpuCreate(..) | Self::Start(_) | Self::Destroy(_) | Self::Run(..) | Self::Put(_)
        )
    }

    /// The hypercall and its arguments, for a VM with this handle; `None` for a touch.
    #[must_use]
    pub const fn call(self, handle: u64, base: u64) -> Option<(HostCall, [u64; 4])> {
        let h = handle;
        Some(match self {
            Self::Create(protected) => (HostCall::VmCreate, [protected as u64, 1, 0, 0]),
            Self::SetBoot(_) => (HostCall::VmSetBoot, [h, ipa(0), 0, 0]),
            Self::VcpuCreate(_, frame) => (HostCall::VcpuCreate, [h, 0, base + frame as u64, 0]),
            Self::Start(_) => (HostCall::VmStart, [h, 0, 0, 0]),
            Self::Destroy(_) => (HostCall::VmDestroy, [h, 0, 0, 0]),
            Self::Donate(_, page, frame, count) => (
                HostCall::MemDonate,
                [h, ipa(page), base + frame as u64, count],
            ),
            Self::Lend(_, page, frame, count) => (
                HostCall::MemLend,
                [h, ipa(page), base + frame as u64, count],
            ),
            Self::Unmap(_, page, count) => (HostCall::MemUnmap, [h, ipa(page), count, 0]),
            Self::Reclaim(_, frame, count) => {
                (HostCall::MemReclaim, [h, base + frame as u64, count, 0])
            }
            Self::Run(..) => (HostCall::VcpuRun, [h, 0, 0, 0]),
            Self::Put(_) => (HostCall::VcpuPut, [h, 0, 0, 0]),
            Self::Touch(_) => return None,
        })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// All that may be tried in any state.
#[must_use]
pub fn alphabet() -> Vec<Action> {
    let d = POOL;
    let mut all = vec![Action::Create(true), Action::Create(false)];
    for vm in 0..2 {
        all.extend([
            Action::SetBoot(vm),
            Action::VcpuCreate(vm, d + 3 + vm),
            Action::VcpuCreate(vm, d),
            Action::Start(vm),
            Action::Destroy(vm),
            Action::Put(vm),
            Action::Donate(vm, 0, d, 2),
            Action::Donate(vm, 2, d, 1),
            Action::Donate(vm, 0, 0, 1),
            Action::Reclaim(vm, d, 3),
        ]);
        for page in 0..2 {
            all.extend((0..3).map(|n| Action::Donate(vm, page, d + n, 1)));
            all.extend((0..2).map(|n| Action::Lend(vm, page, d + n, 1)));
            all.extend([
                Action::Unmap(vm, page, 1),
                Action::Run(vm, Play::Share(page)),
                Action::Run(vm, Play::Unshare(page)),
            ]);
        }
        all.extend((0..3).map(|n| Action::Reclaim(vm, d + n, 1)));
        let plays = [
            Play::Nothing,
            Play::Off,
            Play::Guard(2),
            Play::Guard(3),
            Play::Load(0),
            Play::Load(3),
            Play::Fp,
        ];
        all.extend(plays.map(|play| Action::Run(vm, play)));
    }
    all.extend((0..4).map(|n| Action::Touch(d + n)));
    all.push(Action::Touch(0));
    all
}

/// Histories whose ends are worth exploring from: the machine after boot, two VMs at work, one dying.
#[must_use]
pub fn roots() -> Vec<Vec<Action>> {
    use Action::{Create, Destroy, Donate, Lend, Run, SetBoot, Start, VcpuCreate};
    let d = POOL;
    let protected = vec![
        Create(true),
        Donate(0, 0, d, 2),
        SetBoot(0),
        VcpuCreate(0, d + 3),
        Start(0),
    ];
    let with = |first: &[Action], more: &[Action]| [first, more].concat();
    let shared = with(&protected, &[Run(0, Play::Share(0)), Run(0, Play::Fp)]);
    let open = with(
        &shared,
        &[
            Create(false),
            Lend(1, 0, d + 2, 1),
            SetBoot(1),
            VcpuCreate(1, d + 4),
            Start(1),
        ],
    );
    let rival = with(&protected, &[Create(true), Donate(1, 0, d + 2, 1)]);
    let dying = with(&shared, &[Create(true), Donate(1, 1, d + 2, 1), Destroy(0)]);
    vec![Vec::new(), open, shared, rival, dying, protected]
}
