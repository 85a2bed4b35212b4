//! Time: since boot, and of day.

use crate::hw::{self, Mmio};
use crate::machine::Region;
use core::sync::atomic::{AtomicU64, Ordering};

/// Counter value at boot.
static BOOT: AtomicU64 = AtomicU64::new(0);
/// Time of day, in seconds since 1970, at counter value 0.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// Tells the counter value at which the machine entered the corevisor.
pub fn set_boot(ticks: u64) {
    BOOT.store(ticks, Ordering::Relaxed);
}

/// Takes the time of day from the machine's PL031 (Arm DDI 0224: RTCDR at offset 0).
pub fn set_epoch(rtc: Region) {
    if let Some(rtc) = Mmio::map(rtc.base, rtc.size) {
        let now = u64::from(rtc.read32(0));
        EPOCH.store(
            now.saturating_sub(hw::now() / hw::frequency()),
            Ordering::Relaxed,
        );
    }
}

/// Microseconds since the machine entered the corevisor.
#[must_use]
pub fn micros() -> u64 {
    let ticks = hw::now().saturating_sub(BOOT.load(Ordering::Relaxed));
    let (seconds, rest) = (ticks / hw::frequency(), ticks % hw::frequency());
    seconds * 1_000_000 + rest * 1_000_000 / hw::frequency()
}

/// Counter value at which [`seconds`] becomes `time`.
#[must_use]
pub fn ticks_at(time: u64) -> u64 {
    time.saturating_sub(EPOCH.load(Ordering::Relaxed))
        .saturating_mul(hw::frequency())
}

/// Time of day in seconds since 1970; since boot if the machine has no clock.
#[must_use]
pub fn seconds() -> u64 {
    EPOCH.load(Ordering::Relaxed) + hw::now() / hw::frequency()
}
