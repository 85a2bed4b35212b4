//! Ticket locks that know their place in the lock order.
//!
//! A lock's rank is part of its type; a CPU takes locks in rising rank only. Test builds check that
//! for every lock taken, by thread; the shipped core carries plain ticket locks. The order itself is
//! written at the top of [`crate::ownership`].

use core::ops::{Deref, DerefMut};
use spin::mutex::{SpinMutex, SpinMutexGuard, TicketMutex, TicketMutexGuard};
use spin::relax::RelaxStrategy;

/// Rank of a VM's own lock: taken first.
pub const VM: u8 = 1;
/// Rank of the hostvisor's stage-2 table.
pub const HOST: u8 = 2;
/// Rank of the page-table pool.
pub const POOL: u8 = 3;
/// Rank of what is held for a few loads and stores: the power state of a vCPU, the entry of a CPU. Taken last.
pub const LEAF: u8 = 4;

/// A lock that nobody waits for, and that therefore has no rank: it is taken if it is free.
#[derive(Debug)]
pub struct TryLock<T>(SpinMutex<T, Relax>);

impl<T> TryLock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self(SpinMutex::new(value))
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<TryGuard<'_, T>> {
        self.0.try_lock()
    }
}

/// A [`TryLock`] held; dropping it releases.
pub type TryGuard<'a, T> = SpinMutexGuard<'a, T>;

/// A CPU is about to wait for something that is not a [`Lock`]: test builds check that it holds none.
pub fn before_waiting() {
    rank::enter(0);
    rank::leave(0);
}

/// A ticket lock of rank `RANK` around a `T`.
#[derive(Debug)]
pub struct Lock<const RANK: u8, T>(TicketMutex<T, Relax>);

impl<const RANK: u8, T> Lock<RANK, T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self(TicketMutex::new(value))
    }

    /// Waits for the lock, first come first served.
    pub fn lock(&self) -> Guard<'_, RANK, T> {
        rank::enter(RANK);
        #[cfg(any(test, feature = "sim"))]
        if let Some(guard) = crate::sim::hook::take(RANK, || self.0.try_lock()) {
            return Guard(guard);
        }
        Guard(self.0.lock())
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, RANK, T>> {
        let guard = self.0.try_lock()?;
        rank::enter(RANK);
        Some(Guard(guard))
    }
}

/// What a CPU does while it waits. Test threads outnumber CPUs and let the holder run.
pub(crate) struct Relax;

impl RelaxStrategy for Relax {
    fn relax() {
        #[cfg(any(test, feature = "sim"))]
        if !crate::sim::hook::point(crate::sim::hook::Point::Waiting) {
            std::thread::yield_now();
        }
        #[cfg(not(any(test, feature = "sim")))]
        core::hint::spin_loop();
    }
}

/// The lock held; dropping it releases.
pub struct Guard<'a, const RANK: u8, T>(TicketMutexGuard<'a, T>);

impl<const RANK: u8, T> Deref for Guard<'_, RANK, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<const RANK: u8, T> DerefMut for Guard<'_, RANK, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<const RANK: u8, T> Drop for Guard<'_, RANK, T> {
    fn drop(&mut self) {
        rank::leave(RANK);
    }
}

#[cfg(any(test, feature = "sim"))]
pub use rank::swap as swap_held;

#[cfg(any(test, feature = "sim"))]
mod rank {
    use std::cell::Cell;

    std::thread_local! {
        static HELD: Cell<u8> = const { Cell::new(0) };
    }

    pub(super) fn enter(rank: u8) {
        let held = HELD.get();
        assert!(
            held >> rank == 0,
            "lock order: rank {rank} asked for while holding {held:#b}"
        );
        HELD.set(held | 1 << rank);
    }

    pub(super) fn leave(rank: u8) {
        HELD.set(HELD.get() & !(1 << rank));
    }

    /// Replaces the ranks that this thread holds, for a scheduler that runs several CPUs on it.
    pub fn swap(held: u8) -> u8 {
        HELD.replace(held)
    }
}

#[cfg(not(any(test, feature = "sim")))]
mod rank {
    pub(super) const fn enter(_rank: u8) {}
    pub(super) const fn leave(_rank: u8) {}
}

#[cfg(test)]
mod tests {
    use super::{HOST, Lock, POOL};

    #[test]
    fn rising_rank_is_allowed_and_release_forgets() {
        let (host, pool) = (Lock::<HOST, _>::new(1), Lock::<POOL, _>::new(2));
        for _ in 0..2 {
            let mut a = host.lock();
            assert!(host.try_lock().is_none());
            let b = pool.lock();
            *a += *b;
        }
        assert_eq!(*host.lock(), 5);
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn falling_rank_is_caught() {
        let (host, pool) = (Lock::<HOST, _>::new(()), Lock::<POOL, _>::new(()));
        let _pool = pool.lock();
        let _host = host.lock();
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn waiting_for_anything_else_with_a_lock_is_caught() {
        let host = Lock::<HOST, _>::new(());
        super::before_waiting();
        let _host = host.lock();
        super::before_waiting();
    }
}
