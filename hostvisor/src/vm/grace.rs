//! When a vCPU that has to give its CPU to another does so.
//!
//! A guest that notifies a queue, or sends an IPI, mostly holds a lock meanwhile, and the one it wakes by that is the
//! one that preempts it: taken off its CPU within that exit, it would hold the lock while its siblings spin for it.
//! So an exit of the guest's own takes nobody's CPU: the vCPU goes on for a moment, and gives way at an
//! interrupt, wherever it is then. Those who wait do so for a millisecond longer at the most.

/// The end of a vCPU's turn on a CPU, once somebody has to be given way to.
pub(super) struct Grace {
    /// Ticks that a vCPU goes on after an exit of its own, and in all.
    moment: u64,
    most: u64,
    /// Since when it has had to give way, and until when it goes on.
    since: Option<u64>,
    until: u64,
}

/// What a vCPU does that has to give way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Gives way.
    Now,
    /// Goes on; an interrupt is needed after so many ticks.
    After(u64),
    /// Goes on: that interrupt is to come.
    Soon,
}

impl Grace {
    /// With a clock of `frequency` ticks a second: a fifth of a millisecond, and one in all.
    pub(super) fn new(frequency: u64) -> Self {
        Self {
            moment: frequency / 5000,
            most: frequency / 1000,
            since: None,
            until: 0,
        }
    }

    /// Nobody has to be given way to.
    #[inline]
    pub(super) fn reset(&mut self) {
        self.since = None;
    }

    /// The vCPU has to give way, at `now`, after an interrupt or an exit of its own.
    pub(super) fn way(&mut self, now: u64, interrupted: bool) -> Way {
        let since = *self.since.get_or_insert_with(|| {
            self.until = now;
            now
        });
        if now.saturating_sub(since) >= self.most {
            return Way::Now;
        }
        match interrupted {
            true if now >= self.until => Way::Now,
            true => Way::Soon,
            false => {
                self.until = now.saturating_add(self.moment);
                Way::After(self.moment)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Grace, Way};

    /// A microsecond a tick.
    fn grace() -> Grace {
        Grace::new(1_000_000)
    }

    #[test]
    fn an_interrupt_takes_the_cpu_at_once() {
        assert_eq!(grace().way(5000, true), Way::Now);
    }

    #[test]
    fn an_exit_of_its_own_takes_it_a_moment_later_at_an_interrupt() {
        let mut grace = grace();
        assert_eq!(grace.way(5000, false), Way::After(200));
        assert_eq!(grace.way(5199, true), Way::Soon);
        assert_eq!(grace.way(5200, true), Way::Now);
    }

    #[test]
    fn exits_put_it_off_for_a_millisecond_at_most() {
        let mut grace = grace();
        for now in (5000..6000).step_by(100) {
            assert_eq!(grace.way(now, false), Way::After(200));
        }
        assert_eq!(grace.way(6000, false), Way::Now);
        grace.reset();
        assert_eq!(grace.way(6100, false), Way::After(200));
        grace.reset();
        assert_eq!(grace.way(6200, true), Way::Now);
    }
}
