//! Windows of many rounds, measured by the counter and marked for the plugin.

use core::arch::asm;

use crate::console::println;
use crate::timer::now;

/// Windows an operation is measured in. The least counts: an interrupt of the host's adds to a window now and then, so
/// they are short.
pub(super) const WINDOWS: u64 = 20;
/// Rounds in a window.
pub(super) const ROUNDS: u64 = 250;

/// Measures one operation and prints its line:
/// `MICRO ID NAME rounds=ROUNDS windows=WINDOWS least=TICKS most=TICKS`, the ticks those of a window.
pub(super) struct Meter {
    id: usize,
    name: &'static str,
}

/// The plugin's marks (bench/plugin/levels.c): NOPs to everybody else.
fn mark_start(id: usize) {
    // SAFETY: a hint without effect.
    unsafe { asm!("hint #0x60", in("x9") id) };
}

fn mark_end(rounds: u64) {
    // SAFETY: as above.
    unsafe { asm!("hint #0x61", in("x9") rounds) };
}

impl Meter {
    /// For operation number `id`.
    pub(super) fn new(id: usize, name: &'static str) -> Self {
        Self { id, name }
    }

    /// From before the first round to after the last: what an operation costs that is over when it returns.
    pub(super) fn rounds(&self, operation: impl FnMut()) {
        self.windows(WINDOWS, ROUNDS, 1, operation);
    }

    /// `windows` windows of `rounds` rounds, in each of which the operation happens `times` times.
    pub(super) fn windows(
        &self,
        windows: u64,
        rounds: u64,
        times: u64,
        mut operation: impl FnMut(),
    ) {
        self.measure(windows, rounds * times, || {
            let begin = now();
            for _ in 0..rounds {
                operation();
            }
            now() - begin
        });
    }

    /// The sum of what the operation answers: for one that begins in the middle of the round, or waits in it.
    pub(super) fn latencies(&self, windows: u64, rounds: u64, mut operation: impl FnMut() -> u64) {
        self.measure(windows, rounds, || (0..rounds).map(|_| operation()).sum());
    }

    /// Says that this machine does not have the operation.
    pub(super) fn absent(&self, why: &str) {
        println!("MICRO {} {} absent: {why}", self.id, self.name);
    }

    fn measure(&self, windows: u64, rounds: u64, mut window: impl FnMut() -> u64) {
        let (mut least, mut most) = (u64::MAX, 0);
        for _ in 0..windows {
            mark_start(self.id);
            let ticks = window();
            mark_end(rounds);
            least = least.min(ticks);
            most = most.max(ticks);
        }
        println!(
            "MICRO {} {} rounds={rounds} windows={windows} least={least} most={most}",
            self.id, self.name
        );
    }
}
