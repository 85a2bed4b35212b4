//! Who waits for a disk, in whose turn it is: one of each requester after the other.
//!
//! A requester's own are served in the order in which they came. How many a requester has waiting delays only itself:
//! while somebody waits, nobody else is served twice before him.

use alloc::collections::VecDeque;

/// What waits, of all requesters.
pub(super) struct Turns<T> {
    /// One for each requester who waits, never empty; the first one's turn is next.
    queues: VecDeque<VecDeque<T>>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            queues: VecDeque::new(),
        }
    }
}

impl<T> Turns<T> {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// Puts `item` behind those of its requester, who is told by `same`; a new requester is last. Comes back if there is
    /// no memory for it.
    pub(super) fn push(&mut self, item: T, same: impl Fn(&T, &T) -> bool) -> Result<(), T> {
        let of_same = |queue: &&mut VecDeque<T>| queue.front().is_some_and(|one| same(one, &item));
        if let Some(queue) = self.queues.iter_mut().find(of_same) {
            if queue.try_reserve(1).is_err() {
                return Err(item);
            }
            queue.push_back(item);
        } else {
            let mut queue = VecDeque::new();
            if queue.try_reserve(1).is_err() || self.queues.try_reserve(1).is_err() {
                return Err(item);
            }
            queue.push_back(item);
            self.queues.push_back(queue);
        }
        Ok(())
    }

    /// Takes one of the requester whose turn it is, who is last from now on.
    pub(super) fn pop(&mut self) -> Option<T> {
        let mut queue = self.queues.pop_front()?;
        let item = queue.pop_front();
        if !queue.is_empty() {
            // There is room: it has just been taken out.
            self.queues.push_back(queue);
        }
        item
    }

    /// All of them, each requester's own in order.
    pub(super) fn into_all(self) -> impl Iterator<Item = T> {
        self.queues.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// Requester, and which of its items.
    type Item = (u8, usize);

    fn push(turns: &mut Turns<Item>, item: Item) {
        turns.push(item, |a, b| a.0 == b.0).unwrap();
    }

    #[test]
    fn a_flood_delays_another_requester_by_one() {
        let mut turns = Turns::default();
        (0..1000).for_each(|n| push(&mut turns, (0, n)));
        push(&mut turns, (1, 0));
        assert_eq!([turns.pop(), turns.pop()], [Some((0, 0)), Some((1, 0))]);
    }

    proptest! {
        /// Nothing is lost, each requester's own stay in order, and while somebody waits nobody else is served twice
        /// before him, whatever comes meanwhile.
        #[test]
        fn everybody_has_a_turn_in_each_round(
            steps in proptest::collection::vec(prop_oneof![2 => (0u8..5).prop_map(Some), 1 => Just(None)], 0..200),
        ) {
            let mut turns = Turns::default();
            let mut waiting: Vec<Vec<usize>> = alloc::vec![Vec::new(); 5];
            // For each requester who waits: how often each other one was served since he was last.
            let mut passed = [[0; 5]; 5];
            let rest = alloc::vec![None; steps.len()];
            for (n, step) in steps.into_iter().chain(rest).enumerate() {
                if let Some(who) = step {
                    push(&mut turns, (who, n));
                    waiting[usize::from(who)].push(n);
                } else if let Some((who, number)) = turns.pop() {
                    let who = usize::from(who);
                    prop_assert_eq!(waiting[who].remove(0), number);
                    for other in 0..5 {
                        if other == who || waiting[other].is_empty() {
                            passed[other] = [0; 5];
                        } else {
                            passed[other][who] += 1;
                            prop_assert!(passed[other][who] <= 1, "{who} twice while {other} waits");
                        }
                    }
                } else {
                    prop_assert!(waiting.iter().all(Vec::is_empty));
                }
                prop_assert_eq!(turns.len(), waiting.iter().map(Vec::len).sum::<usize>());
            }
        }
    }
}
