//! The id from which a table is read that is emptied in the order of its ids: the outbox by the relay, what jobs have used by
//! a janitor. While somebody holds an old snapshot (a backup, say), Postgres keeps the index entries of rows long gone, and a
//! turn that began at the first entry would walk over all of them.
//!
//! The bound must never pass a row that may still appear, or the events of a job would be told out of order. A row gets its
//! id before its transaction commits, so rows do not appear in the order of their ids. But every transition changes a room
//! before it writes to such a table, and so gets its transaction number before the id. A transaction with an id below one
//! that a turn took therefore has a smaller number than the turn. Once all transactions with smaller numbers have ended, no
//! row can appear below the ids that the turn took.

/// What is remembered between two turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DrainBound {
    /// No row has an id below this, and none will.
    from: i64,
    /// The bound moves past this turn once every older transaction has ended.
    next: Option<Next>,
    /// The last turn that took rows. It becomes `next` after the present one.
    latest: Option<Next>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Next {
    /// The highest id that a turn took.
    taken: i64,
    /// The number of that turn's transaction.
    own_number: i64,
}

impl DrainBound {
    /// The smallest id that the next turn has to look for.
    pub(crate) fn from(self) -> i64 {
        self.from
    }

    /// Learns from a turn: the highest id that it took and the number of its transaction (`None` if it took no rows),
    /// whether it may have left rows behind, and the smallest transaction number that had not ended when it began.
    pub(crate) fn learn(&mut self, taken: Option<(i64, i64)>, is_full: bool, oldest_running: i64) {
        if let Some(next) = self.next.filter(|next| next.own_number < oldest_running) {
            // A full turn may have left some of the rows that had appeared meanwhile.
            let gone = taken.filter(|_| is_full).map_or(next.taken, |(highest, _)| highest.min(next.taken));
            self.from = self.from.max(gone + 1);
            self.next = None;
        }
        if let Some((taken, own_number)) = taken {
            self.latest = Some(Next { taken, own_number });
        }
        if self.next.is_none() {
            self.next = self.latest.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_waits_for_everybody_who_may_have_a_smaller_id() {
        let mut bound = DrainBound::default();
        bound.learn(Some((100, 50)), false, 40);
        assert_eq!(bound.from(), 0);
        bound.learn(None, false, 50);
        assert_eq!(bound.from(), 0, "the turn itself had not ended");
        bound.learn(Some((200, 60)), false, 51);
        assert_eq!(bound.from(), 101);
        bound.learn(None, false, 61);
        assert_eq!(bound.from(), 201);
    }

    #[test]
    fn a_full_turn_says_nothing_of_what_lies_above_it() {
        let mut bound = DrainBound::default();
        bound.learn(Some((100, 50)), true, 40);
        bound.learn(Some((30, 60)), true, 55);
        assert_eq!(bound.from(), 31, "rows below 100 appeared late, and more of them than one turn takes");
    }
}
