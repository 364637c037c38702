//! The limit of connections of the HTTP servers, and which one a new connection replaces.
//!
//! No client is refused: a new connection replaces the one that has been idle, or has not read its last
//! answer, for the longest time. So idle, half-open and slow connections cost a bounded number of descriptors
//! and bytes, and probes are answered.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// The most connections of all servers together.
const MOST: u64 = 256;

/// One in so many descriptors is for connections, where descriptors are few.
const SHARE: u64 = 16;

/// The maximum size of unread answers of all connections, in addition to the last one.
const UNREAD: usize = 16 << 20;

/// The connections of all HTTP servers.
#[derive(Debug)]
pub(crate) struct Connections {
    most: usize,
    unread: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The turn that the next one to wait gets.
    next: u64,
    /// Who waits for a request, or for its answer to be taken; the longest first.
    waiting: BTreeMap<u64, Waiting>,
    /// Connections whose request is being answered.
    busy: usize,
    /// Bytes of answers to those who wait.
    unread: usize,
    /// A descriptor that is kept for a connection: others of this process may use up all the rest.
    spare: Option<File>,
}

#[derive(Debug)]
struct Waiting {
    leave: Arc<Notify>,
    unread: usize,
}

/// A connection's place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    connections: Arc<Connections>,
    leave: Arc<Notify>,
    doing: Mutex<Doing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// It waits, in this turn.
    Waits(u64),
    /// Its request is being answered.
    IsAnswered,
}

impl Connections {
    /// For a process that may have `files` open files.
    pub(super) fn new(files: u64) -> Connections {
        let most = usize::try_from((files / SHARE).clamp(1, MOST)).unwrap_or(1);
        let connections = Connections { most, unread: UNREAD, state: Mutex::default() };
        connections.state().keep_spare();
        connections
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection. Another one has to leave if there are too many.
    pub(super) fn admit(self: &Arc<Connections>) -> Seat {
        let leave = Arc::new(Notify::new());
        let mut state = self.state();
        let turn = state.wait(&leave, 0);
        while state.busy + state.waiting.len() > self.most && state.dismiss_other(turn, 0) {}
        drop(state);
        let (connections, doing) = (Arc::clone(self), Mutex::new(Doing::Waits(turn)));
        Seat { connections, leave, doing }
    }

    /// Frees a descriptor if possible.
    pub(super) fn make_way(&self) {
        let mut state = self.state();
        let oldest = state.waiting.keys().next().copied();
        match oldest {
            Some(turn) => state.dismiss(turn),
            None => state.spare = None,
        }
    }
}

impl State {
    fn wait(&mut self, leave: &Arc<Notify>, unread: usize) -> u64 {
        let turn = self.next;
        self.next += 1;
        self.unread += unread;
        self.waiting.insert(turn, Waiting { leave: Arc::clone(leave), unread });
        turn
    }

    /// Whether a connection that waited in this round no longer does.
    fn remove(&mut self, turn: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&turn)?;
        self.unread -= waiting.unread;
        Some(waiting)
    }

    fn dismiss(&mut self, turn: u64) {
        if let Some(waiting) = self.remove(turn) {
            waiting.leave.notify_one();
        }
    }

    /// Sends away who waits for the longest and has so many bytes to take, but not `turn`.
    fn dismiss_other(&mut self, turn: u64, unread: usize) -> bool {
        let mut others = self.waiting.iter().filter(|(other, _)| **other != turn);
        let found = others.find(|(_, waiting)| waiting.unread >= unread).map(|(turn, _)| *turn);
        found.inspect(|turn| self.dismiss(*turn)).is_some()
    }

    fn keep_spare(&mut self) {
        if self.spare.is_none() {
            self.spare = File::open("/dev/null").ok();
        }
    }
}

impl Seat {
    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole request has come: it is answered before the connection may be sent away.
    pub(super) fn asked(&self) {
        let mut doing = self.doing();
        let mut state = self.connections.state();
        if let Doing::Waits(turn) = *doing
            && state.remove(turn).is_some()
        {
            state.busy += 1;
            *doing = Doing::IsAnswered;
        }
    }

    /// The answer is there, so many bytes of it.
    pub(super) fn answered(&self, bytes: usize) {
        let mut doing = self.doing();
        let mut state = self.connections.state();
        if *doing == Doing::IsAnswered {
            state.busy -= 1;
            let turn = state.wait(&self.leave, bytes);
            *doing = Doing::Waits(turn);
            while state.unread > self.connections.unread && state.dismiss_other(turn, 1) {}
        }
    }

    /// Returns when the connection is replaced by another one, or has waited for at least `patience`.
    pub(super) async fn dismissed(&self, patience: Duration) {
        loop {
            let before = *self.doing();
            tokio::select! {
                () = self.leave.notified() => return,
                () = tokio::time::sleep(patience) => {}
            }
            if *self.doing() == before && before != Doing::IsAnswered {
                return;
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let doing = *self.doing();
        let mut state = self.connections.state();
        match doing {
            Doing::Waits(turn) => drop(state.remove(turn)),
            Doing::IsAnswered => state.busy -= 1,
        }
        state.keep_spare();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn connections(most: usize, unread: usize) -> Arc<Connections> {
        Arc::new(Connections { most, unread, state: Mutex::default() })
    }

    fn leaves(seat: &Seat) -> bool {
        seat.leave.notified().now_or_never().is_some()
    }

    #[test]
    fn who_has_waited_for_the_longest_makes_way_and_who_is_answered_stays() {
        let connections = connections(3, UNREAD);
        let [answered, idle, active] = [(); 3].map(|()| connections.admit());
        answered.asked();
        active.asked();
        active.answered(10);
        let fourth = connections.admit();
        assert_eq!([&answered, &idle, &active, &fourth].map(leaves), [false, true, false, false]);
        let fifth = connections.admit();
        assert_eq!([&answered, &active, &fourth, &fifth].map(leaves), [false, true, false, false]);
        // A replaced connection does not count any more, and gets no answer.
        idle.asked();
        drop((idle, active));
        answered.answered(10);
        let state = connections.state();
        assert_eq!((state.busy, state.waiting.len(), state.unread), (0, 3, 10));
    }

    #[test]
    fn answers_that_are_not_taken_are_bounded_in_bytes() {
        let connections = connections(10, 100);
        let [idle, first, second, third] = [(); 4].map(|()| connections.admit());
        for seat in [&first, &second, &third] {
            seat.asked();
            seat.answered(60);
        }
        assert_eq!([&idle, &first, &second, &third].map(leaves), [false, true, true, false]);
        // One that is larger alone is still an answer.
        third.asked();
        third.answered(1000);
        assert!(!leaves(&third));
    }

    #[test]
    fn a_descriptor_is_kept_for_who_comes_when_there_are_no_others() {
        let connections = Arc::new(Connections::new(16));
        let [first, second] = [(); 2].map(|()| connections.admit());
        assert!(leaves(&first), "one place");
        connections.make_way();
        assert!(leaves(&second) && connections.state().spare.is_some());
        connections.make_way();
        assert!(connections.state().spare.is_none(), "somebody can come in");
        drop(second);
        assert!(connections.state().spare.is_some(), "and the next one can");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_too_long_leaves_but_not_who_is_answered() {
        let connections = connections(10, UNREAD);
        let [idle, slow] = [(); 2].map(|()| connections.admit());
        let patience = Duration::from_secs(30);
        idle.dismissed(patience).await;
        slow.asked();
        let long = tokio::time::timeout(patience * 100, slow.dismissed(patience)).await;
        assert!(long.is_err(), "it is being answered");
        slow.answered(1);
        slow.dismissed(patience).await;
    }
}
