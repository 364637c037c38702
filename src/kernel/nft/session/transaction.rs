//! Atomic transactions.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::batch::Batch;
use super::connection::Nft;
use super::error::{ApplyError, NftError, Refused};
use crate::netlink::{Heard, Refusal, SocketError};
use crate::nft::model::{Op, Operations, Set, TableName};

/// How often a transaction is sent again that the kernel could not take at the moment.
const ATTEMPTS: u32 = 5;

/// How many messages of refused elements are sent again in pieces. More are refused only if the
/// whole set is missing or full, and then one name is as good as a hundred thousand.
const MOST_SPLIT: usize = 8;

/// What came of a batch.
enum Outcome {
    Done,
    /// The kernel could not take it at the moment.
    Again(Refusal),
    /// The kernel took none of it, for a reason that is not one of the operations.
    Rejected(Refusal),
    /// Messages were refused: the operations of each, and why.
    Refused(Vec<(Range<usize>, Refusal)>),
}

impl Nft {
    /// Applies all operations in one atomic transaction, or none of them.
    ///
    /// Operations take effect in order. Any number is possible: elements are packed into as few
    /// messages as their lengths allow. If one is refused, those that were refused are named
    /// exactly, which may take sending the batch again in smaller pieces; should it succeed then,
    /// it is applied. Of thousands that are refused, only the first are named one by one.
    pub fn apply<O: Operations + ?Sized>(
        &mut self,
        table: &TableName,
        ops: &O,
    ) -> Result<(), ApplyError> {
        if ops.len() == 0 {
            return Ok(());
        }
        let mut single = HashSet::new();
        let mut split = 0;
        let mut attempt = 1;
        loop {
            match self.attempt(table, ops, &single)? {
                Outcome::Done => return Ok(()),
                Outcome::Again(_) if attempt < ATTEMPTS => attempt += 1,
                Outcome::Again(refusal) | Outcome::Rejected(refusal) => {
                    return Err(rejected(&refusal).into());
                }
                Outcome::Refused(messages) => {
                    let packed = messages.iter().filter(|(ops, _)| ops.len() > 1);
                    let before = split;
                    for (ops, _) in packed.take(MOST_SPLIT - split) {
                        single.extend(ops.clone());
                        split += 1;
                    }
                    if split == before {
                        return Err(ApplyError::Refused(self.name(table, ops, messages)));
                    }
                }
            }
        }
    }

    fn attempt<O: Operations + ?Sized>(
        &mut self,
        table: &TableName,
        ops: &O,
        single: &HashSet<usize>,
    ) -> Result<Outcome, ApplyError> {
        // One for each operation, which is one message or less, and for both ends.
        let most = u32::try_from(ops.len()).unwrap_or(u32::MAX).saturating_add(2);
        let first = self.client.take_sequence(most);
        let batch = Batch::new(table, ops.ops(), single, first)?;
        Ok(self.send(&batch)?)
    }

    /// Sends a batch and reads the answers: refusals in order, that to the last operation last.
    fn send(&mut self, batch: &Batch) -> Result<Outcome, NftError> {
        let mut refused = Vec::new();
        let mut whole = None;
        let numbers = batch.first()..=batch.last();
        let heard = self.client.transmit(batch.bytes(), numbers, |sequence, refusal| {
            match batch.ops(sequence) {
                Some(ops) => refused.push((ops, refusal)),
                // An answer to the beginning of a batch is one to the whole.
                None => {
                    whole = Some(refusal);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(refusal) = whole {
            return Ok(judge(refusal));
        }
        match refused.iter().find(|(_, refusal)| is_passing(refusal.errno)) {
            Some((_, refusal)) => Ok(Outcome::Again(refusal.clone())),
            None if !refused.is_empty() => Ok(Outcome::Refused(refused)),
            None if heard == Heard::Some => Err(SocketError::Overrun.into()),
            None => Ok(Outcome::Done),
        }
    }

    /// Says which operations were refused, in words.
    fn name<O: Operations + ?Sized>(
        &mut self,
        table: &TableName,
        ops: &O,
        refused: Vec<(Range<usize>, Refusal)>,
    ) -> Vec<Refused> {
        // The definitions only make the words better, so that a failure to read them is no matter.
        let mut sets = self.set_definitions(table, &mut Vec::new()).unwrap_or_default();
        sets.extend(ops.ops().filter_map(|op| match &*op {
            Op::AddSet(set) => Some((Arc::clone(&set.name), set.clone())),
            _ => None,
        }));
        let describe = |(range, refusal): (Range<usize>, Refusal)| Refused {
            op: range.start,
            count: range.len(),
            errno: refusal.errno,
            detail: match range.len() {
                1 => refusal.to_string(),
                many => format!("{refusal} (it or others of {many} elements)"),
            },
            object: ops
                .ops()
                .nth(range.start)
                .map_or_else(String::new, |op| op.line(table, set_of(&op, &sets)).to_string()),
        };
        refused.into_iter().map(describe).collect()
    }
}

/// The definition of the set that an operation's element belongs to.
fn set_of<'a>(op: &Op, sets: &'a BTreeMap<Arc<str>, Set>) -> Option<&'a Set> {
    match op {
        Op::AddElement { set, .. } | Op::DeleteElement { set, .. } => sets.get(set),
        _ => None,
    }
}

/// An answer to the beginning of a batch is one to the whole.
fn judge(refusal: Refusal) -> Outcome {
    if is_passing(refusal.errno) { Outcome::Again(refusal) } else { Outcome::Rejected(refusal) }
}

/// Whether the kernel means "at this moment": another transaction came in between, or a module
/// had to be loaded.
fn is_passing(errno: i32) -> bool {
    const ERESTART: i32 = 85; // never leaves the kernel but here, so libc has no name for it
    [libc::EAGAIN, libc::EINTR, ERESTART].contains(&errno)
}

fn rejected(refusal: &Refusal) -> NftError {
    match refusal.errno {
        libc::EPERM => NftError::NotPermitted,
        errno => NftError::Batch(io::Error::from_raw_os_error(errno)),
    }
}
