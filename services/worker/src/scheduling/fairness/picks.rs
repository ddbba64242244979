//! The jobs that a claim is to bring of one client, one after the other: of the user that has had least, by priority.
//! Pure.

use std::collections::{HashMap, btree_set};
use std::iter::Peekable;

use foreman_store::UserName;

use crate::scheduling::backlog::{Group, Queue};
use crate::scheduling::key::Key;
use crate::scheduling::shares::Had;

use super::{OLDEST_EVERY, Picking};

/// The groups of one client, in the order in which a claim takes jobs of them.
pub(super) struct Picks<'a, S> {
    queue: &'a Queue,
    /// The users that have not been looked at yet.
    waiting: Peekable<btree_set::Iter<'a, (Had, UserName)>>,
    serves: &'a S,
    /// The users that have been looked at so far.
    drawn: Vec<Drawn<'a>>,
    claims: Option<&'a HashMap<UserName, u32>>,
    /// How many jobs more the client may have in flight.
    room: usize,
    /// The next spare group: of which drawn user, and which of its groups.
    spare: (usize, usize),
}

struct Drawn<'a> {
    /// With what the jobs picked so far will cost.
    had: Had,
    /// How many jobs of the user were claimed or picked.
    claims: u32,
    /// Those that the runner serves, in their order. Never empty.
    groups: Vec<&'a Group>,
}

impl<'a, S: Fn(&Key) -> bool> Picks<'a, S> {
    /// `claims` tells how many jobs of each waiting user were claimed, and `room` how many jobs more the client may have in
    /// flight.
    pub(super) fn new(
        queue: &'a Queue,
        claims: Option<&'a HashMap<UserName, u32>>,
        room: usize,
        serves: &'a S,
    ) -> Self {
        Self {
            queue,
            waiting: queue.line().peekable(),
            serves,
            drawn: Vec::new(),
            claims,
            room,
            spare: (0, 0),
        }
    }

    /// The group of the next job: of the user that has had least.
    pub(super) fn next(&mut self, picking: &Picking) -> Option<&'a Group> {
        self.room = self.room.checked_sub(1)?;
        let least = self.drawn.iter().map(|drawn| drawn.had).min();
        if least.is_none_or(|least| self.waiting.peek().is_some_and(|(had, _)| *had < least)) {
            self.draw();
        }
        let user = self.drawn.iter_mut().min_by_key(|drawn| drawn.had)?;
        user.had = user.had.and(picking.cost, 1.0);
        user.claims += 1;
        if user.claims.is_multiple_of(OLDEST_EVERY) {
            return user.groups.iter().min_by_key(|group| group.lowest).copied();
        }
        user.groups.first().copied()
    }

    /// Each group once, whether it was picked or not.
    pub(super) fn spare(&mut self) -> Option<&'a Group> {
        let (user, group) = self.spare;
        if user == self.drawn.len() {
            self.draw();
        }
        let groups = &self.drawn.get(user)?.groups;
        self.spare = if group + 1 < groups.len() { (user, group + 1) } else { (user + 1, 0) };
        groups.get(group).copied()
    }

    /// Draws the next user that has jobs which the runner serves.
    fn draw(&mut self) {
        for (had, user) in self.waiting.by_ref() {
            let groups: Vec<_> =
                self.queue.groups(user).iter().filter(|group| (self.serves)(&group.key)).collect();
            if !groups.is_empty() {
                let claims = self.claims.and_then(|claims| claims.get(user)).copied().unwrap_or_default();
                self.drawn.push(Drawn { had: *had, claims, groups });
                return;
            }
        }
    }
}
