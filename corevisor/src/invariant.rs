//! The end of the line for a broken internal invariant.

/// Stops the machine, saying which invariant of the corevisor does not hold.
///
/// Nothing the hostvisor or a guest does may lead here; going on would be worse than stopping.
#[cold]
#[inline(never)]
#[allow(clippy::panic, reason = "the one place where the corevisor gives up")]
pub fn broken(what: &'static str) -> ! {
    panic!("corevisor invariant broken: {what}")
}
