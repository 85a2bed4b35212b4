//! One queue: order, clock and bounds.

use crate::sched::CpuSet;
use crate::sched::fair::{Claim, Companions, DEFAULT_WEIGHT, FairQueue, Tuning};
use proptest::prelude::*;

const TUNING: Tuning = Tuning::new(1000);

fn claim(vtime: u64, weight: u32) -> Claim {
    Claim {
        vtime,
        weight,
        affinity: CpuSet::ALL,
        group: 0,
    }
}

/// Other CPUs have begun these.
fn begun(groups: &[u64]) -> Companions {
    let mut companions = Companions::default();
    groups.iter().for_each(|&group| companions.add(group));
    companions
}

/// Gives the CPU to who is next while no other CPU has begun anything.
fn pop<T>(queue: &mut FairQueue<T>, now: u64) -> Option<T> {
    queue.pop(|| (begun(&[]), TUNING), now)
}

#[test]
fn the_furthest_behind_is_next_and_equals_take_turns() {
    let mut queue = FairQueue::new();
    queue.push('a', claim(300, 100), None, 0, &TUNING);
    queue.push('b', claim(100, 100), None, 0, &TUNING);
    queue.push('c', claim(100, 100), None, 0, &TUNING);
    assert_eq!((queue.len(), queue.load()), (3, 300));
    let mut order = std::vec::Vec::new();
    while let Some(task) = pop(&mut queue, 0) {
        order.push(task);
    }
    assert_eq!(order, ['b', 'c', 'a']);
    assert_eq!(queue.load(), 0);
}

#[test]
fn virtual_time_passes_by_weight() {
    for (weight, ticks, virtual_ticks) in [
        (100, 5000, 5000),
        (300, 3000, 999),
        (1, 7, 700),
        (1000, 5000, 498),
    ] {
        let mut queue = FairQueue::new();
        queue.push((), claim(0, weight), None, 0, &TUNING);
        pop(&mut queue, 10);
        let vtime = queue.charge(10 + ticks);
        assert!(
            vtime.abs_diff(virtual_ticks) <= virtual_ticks / 200,
            "{weight}: {vtime}"
        );
        // Charged once.
        assert_eq!(queue.charge(10 + ticks), vtime);
    }
}

#[test]
fn a_sleeper_preempts_who_has_had_more_and_only_that_one() {
    let mut queue = FairQueue::new();
    queue.push('s', claim(0, DEFAULT_WEIGHT), None, 0, &TUNING);
    pop(&mut queue, 0);
    // As far as the other: no.
    assert!(!queue.push(
        'a',
        claim(TUNING.granularity, 100),
        None,
        2 * TUNING.granularity,
        &TUNING
    ));
    let mut queue = FairQueue::new();
    queue.push('s', claim(0, DEFAULT_WEIGHT), None, 0, &TUNING);
    pop(&mut queue, 0);
    let later = 100 * TUNING.credit;
    // It slept all the while; but it is behind by no more than the credit.
    assert!(queue.push('a', claim(0, 100), None, later, &TUNING));
    queue.charge(later);
    assert_eq!(pop(&mut queue, later), Some('a'));
    assert_eq!(queue.charge(later), later - TUNING.credit);
}

#[test]
fn a_stolen_task_keeps_its_distance_from_the_clock() {
    let (mut from, mut to) = (FairQueue::new(), FairQueue::new());
    from.push('x', claim(0, 100), None, 0, &TUNING);
    from.push('a', claim(2000, 100), None, 0, &TUNING);
    pop(&mut from, 0);
    to.push('y', claim(0, 100), None, 0, &TUNING);
    pop(&mut to, 0);
    assert_eq!(to.charge(900_000), 900_000);
    to.leave();
    from.charge(500);
    let (task, claim) = from.steal(1).unwrap();
    assert_eq!((task, claim.vtime, from.clock()), ('a', 2000, 500));
    to.adopt(claim, from.clock(), 900_000, &TUNING);
    assert_eq!(to.charge(900_000), 901_500);
    assert_eq!((from.load(), to.load()), (100, 100));
}

#[test]
fn only_who_may_is_stolen() {
    let mut queue = FairQueue::new();
    let pinned = |cpu| Claim {
        affinity: CpuSet::one(cpu),
        ..claim(0, 100)
    };
    queue.push('a', pinned(0), None, 0, &TUNING);
    queue.push('b', pinned(2), None, 0, &TUNING);
    assert!(queue.steal(1).is_none());
    assert_eq!(queue.steal(2).map(|(task, _)| task), Some('b'));
    assert!(queue.steal(2).is_none());
}

/// Tasks of groups 1, 2 and 3 wait; other CPUs have begun the second, or the third.
#[test]
fn who_belongs_to_those_on_other_cpus_goes_first_within_patience() {
    let patience = TUNING.patience;
    let ahead = [0, patience, patience + 1];
    let queue = || {
        let mut queue = FairQueue::new();
        for (group, vtime) in (1..).zip(ahead) {
            let claim = Claim {
                group,
                ..claim(vtime, 100)
            };
            queue.push(group, claim, None, 0, &TUNING);
        }
        queue
    };
    for (groups, next) in [
        (&[][..], 1),
        (&[2], 2),
        (&[3], 1),
        (&[2, 1], 1),
        (&[3, 2], 2),
    ] {
        assert_eq!(
            queue().pop(|| (begun(groups), TUNING), 0),
            Some(next),
            "{groups:?}"
        );
        // The same for one that has the CPU and competes: the first runs until it is ahead of the third.
        let mut queue = queue();
        pop(&mut queue, 0);
        assert!(
            queue.stays(&begun(groups), &TUNING) == (next == 1),
            "{groups:?}"
        );
    }
    // It is not left, while its group runs elsewhere, until it is ahead by more than that.
    let mut queue = queue();
    pop(&mut queue, 0);
    queue.charge(patience * 2);
    assert!(!queue.stays(&begun(&[]), &TUNING));
    assert!(queue.stays(&begun(&[1]), &TUNING));
    queue.charge(patience * 2 + 1);
    assert!(!queue.stays(&begun(&[1]), &TUNING));
    assert_eq!((queue.load_of(1), queue.load_of(4)), (100, 0));
}

/// Patience is time on a CPU, which is as long for all: twice and a tenth of it, in virtual time, at these weights.
#[test]
fn patience_goes_by_weight() {
    for (weight, most) in [(50, TUNING.patience * 2), (1000, TUNING.patience / 10)] {
        for (vtime, next) in [(most * 99 / 100, 2), (most + 1, 1)] {
            let mut queue = FairQueue::new();
            for (group, vtime) in [(1, 0), (2, vtime)] {
                let claim = Claim {
                    group,
                    ..claim(vtime, weight)
                };
                queue.push(group, claim, None, 0, &TUNING);
            }
            let popped = queue.pop(|| (begun(&[2]), TUNING), 0);
            assert_eq!(popped, Some(next), "{weight}");
        }
    }
}

proptest! {
    /// Whatever comes and goes, the clock never goes back, load is the sum of weights, order is by virtual
    /// time, and nothing overflows.
    #[test]
    fn clock_and_load_stay_right(
        steps in proptest::collection::vec((0u8..6, any::<u64>(), 0u32..=2000, 0u64..1 << 40), 1..200)
    ) {
        let mut queue = FairQueue::new();
        let (mut now, mut clock) = (0u64, 0);
        let (mut waiting, mut running) = (0u64, 0u64);
        for (action, vtime, weight, pause) in steps {
            now = now.saturating_add(pause);
            match action {
                0 | 1 => {
                    let foreign = (action == 1).then_some(vtime / 2);
                    let claim = Claim {
                        group: pause % 4,
                        ..claim(vtime, weight)
                    };
                    queue.push(weight, claim, foreign, now, &TUNING);
                    waiting += u64::from(weight);
                }
                2 => {
                    running = 0;
                    if let Some(weight) = queue.pop(|| (begun(&[vtime % 4]), TUNING), now) {
                        running = u64::from(weight);
                        waiting -= running;
                    }
                }
                3 => { queue.charge(now); }
                4 => {
                    if let Some((weight, claim)) = queue.steal(0) {
                        prop_assert_eq!(claim.weight, weight);
                        waiting -= u64::from(weight);
                    }
                }
                _ => {
                    queue.charge(now);
                    queue.leave();
                    running = 0;
                }
            }
            prop_assert_eq!(queue.load(), waiting + running);
            prop_assert!(queue.clock() >= clock);
            clock = queue.clock();
        }
    }
}
