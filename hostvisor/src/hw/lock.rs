//! Locks, and how a CPU waits for one.

use super::relax;

/// Lets the CPU that holds the lock go on, where the two share something.
pub struct Relax;

impl spin::RelaxStrategy for Relax {
    #[inline]
    fn relax() {
        relax();
    }
}

/// A lock that a CPU spins for.
pub type Mutex<T> = spin::mutex::Mutex<T, Relax>;
