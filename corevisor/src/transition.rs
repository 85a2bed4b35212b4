//! Transitions of the frame state machine as types: each says by which proof it is completed.
//!
//! A transition claims frames, which makes them busy, and is completed by [`Claim::commit`], which takes a proof that
//! what the decision asked for is done: that the frames left a table and every TLB ([`Unmapped`]), that nothing of
//! a protected VM is left in them ([`Clean`]), or nothing (`()`).
//!
//! So handing a frame on before it is zeroed does not compile:
//!
//! ```
//! # use corevisor::{frame::VmId, frame_table::FrameTable, transition::Transition};
//! fn reclaim(frames: &FrameTable<'_>, vm: VmId, pfn: abi::Pfn) -> Result<(), abi::Error> {
//!     let claim = frames.claim(&Transition::reclaim(vm), 0, pfn, 1)?;
//!     let clean = claim.clear(|_| { /* zero it */ });
//!     claim.commit(clean);
//!     Ok(())
//! }
//! ```
//! ```compile_fail,E0308
//! # use corevisor::{frame::VmId, frame_table::FrameTable, transition::Transition};
//! fn reclaim(frames: &FrameTable<'_>, vm: VmId, pfn: abi::Pfn) -> Result<(), abi::Error> {
//!     let claim = frames.claim(&Transition::reclaim(vm), 0, pfn, 1)?;
//!     claim.commit(());
//!     Ok(())
//! }
//! ```
//!
//! Nor does changing its owner while the old one maps it:
//!
//! ```
//! # use corevisor::{frame::VmId, frame_table::FrameTable, stage2::Unmapped, transition::Transition};
//! # fn unmap() -> Unmapped { unimplemented!() }
//! fn donate(frames: &FrameTable<'_>, vm: VmId, pfn: abi::Pfn) -> Result<(), abi::Error> {
//!     let claim = frames.claim(&Transition::donate(vm), 0, pfn, 1)?;
//!     claim.commit(unmap());
//!     Ok(())
//! }
//! ```
//! ```compile_fail,E0308
//! # use corevisor::{frame::VmId, frame_table::FrameTable, stage2::Unmapped, transition::Transition};
//! fn donate(frames: &FrameTable<'_>, vm: VmId, pfn: abi::Pfn) -> Result<(), abi::Error> {
//!     let claim = frames.claim(&Transition::donate(vm), 0, pfn, 1)?;
//!     claim.commit(());
//!     Ok(())
//! }
//! ```
//!
//! And nobody else makes a proof:
//!
//! ```compile_fail,E0423
//! let forged = corevisor::stage2::Unmapped(());
//! ```
//! ```compile_fail,E0423
//! let forged = corevisor::transition::Clean(());
//! ```

use crate::frame::{Effects, Entry, Operation, VmId, ZERO};
#[cfg(any(test, feature = "sim"))]
use crate::sim::hook;
use crate::stage2::Unmapped;
use abi::Error;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};

/// An operation that a proof `D` completes.
#[derive(Debug)]
pub struct Transition<D>(Operation, PhantomData<fn() -> D>);

impl Transition<()> {
    /// [`decide_grant`](crate::frame::decide_grant).
    pub const GRANT: Self = Self(Operation::Grant, PhantomData);

    /// [`decide_lend`](crate::frame::decide_lend).
    pub const fn lend(vm: VmId) -> Self {
        Self(Operation::Lend(vm), PhantomData)
    }

    /// [`decide_share`](crate::frame::decide_share).
    pub const fn share(vm: VmId) -> Self {
        Self(Operation::Share(vm), PhantomData)
    }

    /// [`decide_take_run_page`](crate::frame::decide_take_run_page).
    pub const fn take_run_page(vm: VmId) -> Self {
        Self(Operation::TakeRunPage(vm), PhantomData)
    }

    /// [`decide_release_run_page`](crate::frame::decide_release_run_page).
    pub const fn release_run_page(vm: VmId) -> Self {
        Self(Operation::ReleaseRunPage(vm), PhantomData)
    }
}

impl Transition<Unmapped> {
    /// [`decide_donate`](crate::frame::decide_donate).
    pub const fn donate(vm: VmId) -> Self {
        Self(Operation::Donate(vm), PhantomData)
    }

    /// [`decide_unlend`](crate::frame::decide_unlend).
    pub const fn unlend(vm: VmId) -> Self {
        Self(Operation::Unlend(vm), PhantomData)
    }

    /// [`decide_unshare`](crate::frame::decide_unshare).
    pub const fn unshare(vm: VmId) -> Self {
        Self(Operation::Unshare(vm), PhantomData)
    }
}

impl Transition<Clean> {
    /// [`decide_reclaim`](crate::frame::decide_reclaim).
    pub const fn reclaim(vm: VmId) -> Self {
        Self(Operation::Reclaim(vm), PhantomData)
    }
}

impl<D> Transition<D> {
    /// As [`Operation::decide`].
    pub fn decide(&self, entry: Entry, ipa_page: u64) -> Result<(Entry, Effects), Error> {
        self.0.decide(entry, ipa_page)
    }
}

/// Frames that are busy on behalf of one transition. A claim that is neither committed nor abandoned
/// leaves its frames busy for ever, which is safe. `D` is the proof that [`Self::commit`] asks for.
#[must_use]
pub struct Claim<'a, D> {
    entries: &'a [AtomicU64],
    effects: Effects,
    duty: PhantomData<fn() -> D>,
}

/// Proof that frames hold nothing of a protected VM: [`Claim::clear`] alone makes it.
#[derive(Debug)]
#[must_use]
pub struct Clean(());

impl Claim<'_, Clean> {
    /// Has `zero` fill frame after frame of the claim, by number, if the decision asked for it.
    pub fn clear(&self, zero: impl FnMut(u64)) -> Clean {
        if self.effects.has(ZERO) {
            (0..self.count()).for_each(zero);
        }
        Clean(())
    }
}

impl<'a, D> Claim<'a, D> {
    /// The claim on frames whose entries were just made busy, for a decision with these effects.
    pub(crate) const fn new(entries: &'a [AtomicU64], effects: Effects) -> Self {
        Self {
            entries,
            effects,
            duty: PhantomData,
        }
    }

    /// Frames claimed: at least one.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Completes the transition, what it asked for being done: the frames are free for the next one.
    pub fn commit(self, _done: D) {
        for word in self.entries {
            let goal = Entry(word.load(Ordering::Relaxed));
            #[cfg(any(test, feature = "sim"))]
            hook::write(word);
            word.store(goal.settled().0, Ordering::Release);
        }
    }

    /// Undoes the claim: frame number `n` of it gets back its entry `old(n)`.
    pub fn abandon(self, old: impl Fn(u64) -> Entry) {
        for (word, n) in self.entries.iter().zip(0..) {
            #[cfg(any(test, feature = "sim"))]
            hook::write(word);
            word.store(old(n).0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{State, UNMAP_HOST, UNMAP_VM};
    use abi::Ipa;

    const VM: VmId = VmId(5);
    const PAGE: u64 = 0x4_0123;

    /// What a transition asks for before it is completed, from whatever state it starts.
    fn asked<D>(transition: &Transition<D>) -> Vec<u64> {
        let states = [
            State::Core,
            State::Host,
            State::VmPrivate,
            State::VmShared,
            State::Lent,
        ];
        let owned = states.map(|state| Entry::owned(state, VM, Ipa(PAGE << 12)));
        let run_page = Entry::owned(State::HostShared, VM, Ipa(0));
        let entries = owned
            .into_iter()
            .chain([Entry::CORE, Entry::HOST, run_page]);
        let decided = entries.filter_map(|entry| transition.decide(entry, PAGE).ok());
        let all = [UNMAP_HOST, UNMAP_VM, ZERO];
        let asked = |effects: Effects| all.into_iter().filter(move |bit| effects.has(*bit)).sum();
        decided.map(|(_, effects)| asked(effects)).collect()
    }

    /// What a transition's type asks for is what its decision asks for.
    #[test]
    fn a_transition_is_completed_by_the_proof_of_its_effect() {
        let nothing: [Transition<()>; 5] = [
            Transition::GRANT,
            Transition::lend(VM),
            Transition::share(VM),
            Transition::take_run_page(VM),
            Transition::release_run_page(VM),
        ];
        assert!(nothing.iter().all(|transition| asked(transition) == [0]));
        let unmapped: [Transition<Unmapped>; 3] = [
            Transition::donate(VM),
            Transition::unlend(VM),
            Transition::unshare(VM),
        ];
        let effects = [[UNMAP_HOST], [UNMAP_VM], [UNMAP_HOST]];
        assert_eq!(unmapped.each_ref().map(asked), effects);
        let clean: Transition<Clean> = Transition::reclaim(VM);
        assert_eq!(asked(&clean), [ZERO, ZERO, 0], "private, shared, lent");
    }
}
