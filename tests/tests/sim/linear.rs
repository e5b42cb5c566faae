//! Whether a history of an alias could have happened one call after the other (Wing and Gong, 1993), with what Lowe (2017)
//! adds: of what was tried from an equal place it is not tried again.

use std::collections::HashSet;

/// What a call did, as far as its caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// None: there was no such alias.
    Read(Option<u64>),
    /// Moved it to a version, from where it was expected to be if that was said.
    Set { to: u64, from: Option<Option<u64>> },
    /// Found it elsewhere.
    Refused { from: Option<u64> },
    /// As `Set`, and nobody knows whether it ever happened.
    Perhaps { to: u64, from: Option<Option<u64>> },
}

/// A call, between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub did: Did,
    pub began: u64,
    pub ended: u64,
}

impl Call {
    fn is_certain(&self) -> bool {
        !matches!(self.did, Did::Perhaps { .. })
    }

    /// Where the alias is afterwards; None: it cannot have happened here.
    fn after(&self, at: Option<u64>) -> Option<Option<u64>> {
        match self.did {
            Did::Read(found) => (found == at).then_some(at),
            Did::Refused { from } => (from != at).then_some(at),
            Did::Set { to, from } | Did::Perhaps { to, from } => from.is_none_or(|from| from == at).then_some(Some(to)),
        }
    }
}

/// One bit a call.
type Done = Vec<u64>;

fn is_done(done: &Done, call: usize) -> bool {
    done[call / 64] >> (call % 64) & 1 == 1
}

fn with(done: &Done, call: usize) -> Done {
    let mut done = done.clone();
    done[call / 64] |= 1 << (call % 64);
    done
}

/// Of an alias that is nowhere at first.
pub fn is_linearizable(calls: &[Call]) -> bool {
    let mut open = vec![(vec![0; calls.len().div_ceil(64)], None)];
    let mut seen: HashSet<(Done, Option<u64>)> = open.iter().cloned().collect();
    while let Some((done, at)) = open.pop() {
        let left = || calls.iter().enumerate().filter(|(number, _)| !is_done(&done, *number));
        // Nothing happens after the end of a call that has not happened.
        let Some(first_end) = left().filter(|(_, call)| call.is_certain()).map(|(_, call)| call.ended).min() else {
            return true;
        };
        for (number, call) in left().filter(|(_, call)| call.began <= first_end) {
            let Some(after) = call.after(at) else { continue };
            let next = (with(&done, number), after);
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::Did::{Perhaps, Read, Refused, Set};
    use super::*;

    fn holds(calls: &[(Did, u64, u64)]) -> bool {
        let calls: Vec<Call> = calls.iter().map(|&(did, began, ended)| Call { did, began, ended }).collect();
        is_linearizable(&calls)
    }

    const NEW: Did = Set { to: 1, from: Some(None) };
    const NEXT: Did = Set { to: 2, from: Some(Some(1)) };

    #[test]
    fn calls_in_order_see_each_other() {
        assert!(holds(&[(Read(None), 0, 1), (NEW, 2, 3), (Read(Some(1)), 4, 5), (NEXT, 6, 7), (Read(Some(2)), 8, 9)]));
        assert!(!holds(&[(NEW, 0, 1), (Read(None), 2, 3)]));
        assert!(!holds(&[(NEW, 0, 1), (NEXT, 2, 3), (Read(Some(1)), 4, 5)]), "an old answer");
        assert!(!holds(&[(NEXT, 0, 1)]), "it was nowhere");
    }

    #[test]
    fn calls_at_the_same_time_may_come_in_any_order_and_in_one_only() {
        assert!(holds(&[(NEW, 0, 9), (Read(None), 1, 2), (Read(Some(1)), 3, 4)]));
        assert!(!holds(&[(NEW, 0, 9), (Read(Some(1)), 1, 2), (Read(None), 3, 4)]), "back in time");
        assert!(!holds(&[(NEW, 0, 5), (NEW, 0, 5)]), "both were the first");
        assert!(holds(&[(NEW, 0, 5), (Refused { from: None }, 0, 5)]));
        assert!(!holds(&[(Refused { from: None }, 0, 1), (NEW, 2, 3)]), "there was nothing to refuse it for");
    }

    #[test]
    fn what_perhaps_happened_explains_what_was_seen_and_is_seen_from_then_on() {
        let maybe = Perhaps { to: 1, from: None };
        assert!(holds(&[(maybe, 0, 1), (Read(None), 2, 3), (Read(Some(1)), 4, 5)]), "later than its end");
        assert!(holds(&[(maybe, 0, 1), (Read(None), 2, 3)]), "never");
        assert!(!holds(&[(Read(Some(1)), 0, 1), (maybe, 2, 3)]), "before it began");
        assert!(!holds(&[(maybe, 0, 1), (Read(Some(1)), 2, 3), (Read(None), 4, 5)]), "it does not go back");
    }
}
