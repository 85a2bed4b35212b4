//! The state of one 4 KiB frame of RAM and every decision about it.
//!
//! An entry is one word: state, BUSY mark, owning VM and the one IPA at which the owner maps the
//! frame. The `decide_*` functions are the whole policy of memory ownership. They are pure and total
//! over plain words (any word in; next word and outcome out) and keep a symbol in the shipped image,
//! so that they can be compared with a model. Everything else in this crate only carries out what
//! they answer. MMIO has no entries: what is not RAM is a device.

use abi::{Error, Ipa};

/// A VM as the owner of frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct VmId(pub u16);

/// Who reaches a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum State {
    /// Only the corevisor. The value of memory never set up: fail-safe.
    Core = 0,
    /// The hostvisor.
    Host = 1,
    /// The hostvisor and the corevisor: a run page, released with its VM.
    HostShared = 2,
    /// One VM only.
    VmPrivate = 3,
    /// One VM and the hostvisor, by the VM's wish.
    VmShared = 4,
    /// The hostvisor and an open VM, by the hostvisor's wish.
    Lent = 5,
}

const STATE_MASK: u64 = 0xF;
/// A transition is under way; the rest of the word is its goal. Whoever set it has the frame to itself.
const BUSY: u64 = 1 << 4;
const VM_SHIFT: u32 = 16;
const VM_BITS: u32 = 16;
const VM_MASK: u64 = (1 << VM_BITS) - 1;
const IPA_PAGE_SHIFT: u32 = 32;
const IPA_PAGE_BITS: u32 = 24;

const CORE: u64 = State::Core as u64;
const HOST: u64 = State::Host as u64;

/// [`Decision::outcome`] of a refusal: not in a state that allows this, or somebody else's.
pub const DENIED: u64 = 1;
/// [`Decision::outcome`] of a refusal: another CPU is changing the frame.
pub const REFUSED_BUSY: u64 = 2;
/// [`Decision::outcome`] bits 7:0: zero for a grant, else why not.
pub const STATUS_MASK: u64 = 0xFF;

/// Effect: before the commit the frame leaves the hostvisor's table, TLB invalidation complete.
pub const UNMAP_HOST: u64 = 1 << 8;
/// Effect: the frame may enter the hostvisor's table after the commit.
pub const MAP_HOST: u64 = 1 << 9;
/// Effect: the frame enters the VM's table, after [`UNMAP_HOST`].
pub const MAP_VM: u64 = 1 << 10;
/// Effect: before the commit the frame leaves the VM's table, TLB invalidation complete.
pub const UNMAP_VM: u64 = 1 << 11;
/// Effect: before the commit the frame is filled with zeros.
pub const ZERO: u64 = 1 << 12;

/// What a `decide_*` function answers. Two words, so that it travels in x0 and x1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Decision {
    /// The entry after the transition; the old entry if refused.
    pub next: u64,
    /// Status in bits 7:0, effects above.
    pub outcome: u64,
}

const fn owned(state: State, vm: u64, ipa_page: u64) -> u64 {
    state as u64 | vm << VM_SHIFT | ipa_page << IPA_PAGE_SHIFT
}

const fn refuse(entry: u64) -> Decision {
    let outcome = if entry & BUSY != 0 {
        REFUSED_BUSY
    } else {
        DENIED
    };
    Decision {
        next: entry,
        outcome,
    }
}

/// The transition from exactly `from` to `to`; VM and page numbers that do not fit are refused.
const fn step(entry: u64, from: u64, to: u64, vm: u64, ipa_page: u64, effects: u64) -> Decision {
    if entry == from && (vm >> VM_BITS) | (ipa_page >> IPA_PAGE_BITS) == 0 {
        Decision {
            next: to,
            outcome: effects,
        }
    } else {
        refuse(entry)
    }
}

/// Boot only: Core → Host.
#[inline(never)]
pub extern "C" fn decide_grant(entry: u64) -> Decision {
    step(entry, CORE, HOST, 0, 0, MAP_HOST)
}

/// Host → private to `vm` at `ipa_page`.
#[inline(never)]
pub extern "C" fn decide_donate(entry: u64, vm: u64, ipa_page: u64) -> Decision {
    step(
        entry,
        HOST,
        owned(State::VmPrivate, vm, ipa_page),
        vm,
        ipa_page,
        UNMAP_HOST | MAP_VM,
    )
}

/// Host → lent to the open VM `vm` at `ipa_page`.
#[inline(never)]
pub extern "C" fn decide_lend(entry: u64, vm: u64, ipa_page: u64) -> Decision {
    step(
        entry,
        HOST,
        owned(State::Lent, vm, ipa_page),
        vm,
        ipa_page,
        MAP_VM,
    )
}

/// Lent to `vm` at `ipa_page` → Host.
#[inline(never)]
pub extern "C" fn decide_unlend(entry: u64, vm: u64, ipa_page: u64) -> Decision {
    step(
        entry,
        owned(State::Lent, vm, ipa_page),
        HOST,
        vm,
        ipa_page,
        UNMAP_VM,
    )
}

/// Private to `vm` at `ipa_page` → shared with the hostvisor, asked by `vm`.
#[inline(never)]
pub extern "C" fn decide_share(entry: u64, vm: u64, ipa_page: u64) -> Decision {
    let (from, to) = (
        owned(State::VmPrivate, vm, ipa_page),
        owned(State::VmShared, vm, ipa_page),
    );
    step(entry, from, to, vm, ipa_page, MAP_HOST)
}

/// Shared by `vm` at `ipa_page` → private again, asked by `vm`.
#[inline(never)]
pub extern "C" fn decide_unshare(entry: u64, vm: u64, ipa_page: u64) -> Decision {
    let (from, to) = (
        owned(State::VmShared, vm, ipa_page),
        owned(State::VmPrivate, vm, ipa_page),
    );
    step(entry, from, to, vm, ipa_page, UNMAP_HOST)
}

/// Anything that `vm`, which is dead and torn down, has as memory → Host; zeroed unless it was lent.
#[inline(never)]
pub extern "C" fn decide_reclaim(entry: u64, vm: u64) -> Decision {
    let state = entry & STATE_MASK;
    let of_vm = entry & BUSY == 0 && vm >> VM_BITS == 0 && entry >> VM_SHIFT & VM_MASK == vm;
    if of_vm && (state == State::VmPrivate as u64 || state == State::VmShared as u64) {
        Decision {
            next: HOST,
            outcome: ZERO,
        }
    } else if of_vm && state == State::Lent as u64 {
        Decision {
            next: HOST,
            outcome: 0,
        }
    } else {
        refuse(entry)
    }
}

/// Host → a run page of `vm`.
#[inline(never)]
pub extern "C" fn decide_take_run_page(entry: u64, vm: u64) -> Decision {
    step(entry, HOST, owned(State::HostShared, vm, 0), vm, 0, 0)
}

/// A run page of `vm` → Host.
#[inline(never)]
pub extern "C" fn decide_release_run_page(entry: u64, vm: u64) -> Decision {
    step(entry, owned(State::HostShared, vm, 0), HOST, vm, 0, 0)
}

/// May the hostvisor's table map the frame? Status as in [`Decision::outcome`].
#[inline(never)]
pub extern "C" fn decide_host_access(entry: u64) -> u64 {
    let state = entry & STATE_MASK;
    if entry & BUSY != 0 {
        REFUSED_BUSY
    } else if state == HOST
        || state == State::HostShared as u64
        || state == State::VmShared as u64
        || state == State::Lent as u64
    {
        0
    } else {
        DENIED
    }
}

/// One word of the frame table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Entry(pub u64);

impl Entry {
    /// A frame of the corevisor.
    pub const CORE: Self = Self(CORE);
    /// A frame of the hostvisor.
    pub const HOST: Self = Self(HOST);

    /// The entry of a frame that `vm` maps at `ipa`.
    #[must_use]
    pub const fn owned(state: State, vm: VmId, ipa: Ipa) -> Self {
        Self(owned(state, vm.0 as u64, ipa.page_number()))
    }

    /// The state, or `None` where no transition ever leads. A busy entry shows its goal.
    #[must_use]
    pub const fn state(self) -> Option<State> {
        Some(match self.0 & STATE_MASK {
            0 => State::Core,
            1 => State::Host,
            2 => State::HostShared,
            3 => State::VmPrivate,
            4 => State::VmShared,
            5 => State::Lent,
            _ => return None,
        })
    }

    /// True while a CPU is changing the frame.
    #[must_use]
    pub const fn is_busy(self) -> bool {
        self.0 & BUSY != 0
    }

    /// This entry as the goal of a transition under way.
    #[must_use]
    pub const fn busy(self) -> Self {
        Self(self.0 | BUSY)
    }

    /// The goal reached.
    #[must_use]
    pub const fn settled(self) -> Self {
        Self(self.0 & !BUSY)
    }

    /// Whether the hostvisor's table may map the frame; [`Error::Busy`] or [`Error::Denied`] if not.
    pub fn host_access(self) -> Result<(), Error> {
        check(decide_host_access(self.0))
    }
}

/// A transition, with the arguments its decision takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// [`decide_grant`].
    Grant,
    /// [`decide_donate`].
    Donate(VmId),
    /// [`decide_lend`].
    Lend(VmId),
    /// [`decide_unlend`].
    Unlend(VmId),
    /// [`decide_share`].
    Share(VmId),
    /// [`decide_unshare`].
    Unshare(VmId),
    /// [`decide_reclaim`].
    Reclaim(VmId),
    /// [`decide_take_run_page`].
    TakeRunPage(VmId),
    /// [`decide_release_run_page`].
    ReleaseRunPage(VmId),
}

/// What a granted transition asks for before it may be committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effects(u64);

impl Effects {
    /// True if `effect`, one of this module's effect bits, is asked for.
    #[must_use]
    pub const fn has(self, effect: u64) -> bool {
        self.0 & effect != 0
    }
}

impl Operation {
    /// Decides for a frame with `entry`; `ipa_page` counts where the operation speaks of an IPA.
    pub fn decide(self, entry: Entry, ipa_page: u64) -> Result<(Entry, Effects), Error> {
        let entry = entry.0;
        let decision = match self {
            Self::Grant => decide_grant(entry),
            Self::Donate(vm) => decide_donate(entry, vm.0.into(), ipa_page),
            Self::Lend(vm) => decide_lend(entry, vm.0.into(), ipa_page),
            Self::Unlend(vm) => decide_unlend(entry, vm.0.into(), ipa_page),
            Self::Share(vm) => decide_share(entry, vm.0.into(), ipa_page),
            Self::Unshare(vm) => decide_unshare(entry, vm.0.into(), ipa_page),
            Self::Reclaim(vm) => decide_reclaim(entry, vm.0.into()),
            Self::TakeRunPage(vm) => decide_take_run_page(entry, vm.0.into()),
            Self::ReleaseRunPage(vm) => decide_release_run_page(entry, vm.0.into()),
        };
        check(decision.outcome & STATUS_MASK)?;
        Ok((Entry(decision.next), Effects(decision.outcome)))
    }
}

const fn check(status: u64) -> Result<(), Error> {
    match status {
        0 => Ok(()),
        REFUSED_BUSY => Err(Error::Busy),
        _ => Err(Error::Denied),
    }
}

#[cfg(test)]
mod tests;
