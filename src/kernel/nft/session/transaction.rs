//! The socket through which tables are written and read.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use netlink_packet_core::NLMSG_ERROR;

use super::batch::Batch;
use super::error::{ApplyError, NftError, Refused};
use super::socket::{Answer, NetfilterSocket, Wait};
use crate::datagram::messages;
use crate::nft::model::{Op, Operations, Set, TableName};

/// How often a transaction is sent again that the kernel could not take at the moment.
const ATTEMPTS: u32 = 5;

/// How many messages of refused elements are sent again in pieces. More are refused only if the
/// whole set is missing or full, and then one name is as good as a hundred thousand.
const MOST_SPLIT: usize = 8;

/// nf_tables of the network namespace in which it was opened.
///
/// One for the life of the process: closing such a socket waits for the kernel to free what
/// earlier transactions deleted (20 ms and more).
#[derive(Debug)]
pub struct Nft {
    pub(crate) socket: NetfilterSocket,
    pub(crate) sequence: u32,
}

/// What came of a batch.
enum Outcome {
    Done,
    /// The kernel could not take it at the moment.
    Again(Answer),
    /// The kernel took none of it, for a reason that is not one of the operations.
    Rejected(Answer),
    /// Messages were refused: the operations of each, and why.
    Refused(Vec<(Range<usize>, Answer)>),
}

impl Nft {
    /// Opens the socket and finds out whether nf_tables may be used.
    pub fn open() -> Result<Nft, NftError> {
        let mut nft = Nft { socket: NetfilterSocket::open()?, sequence: 1 };
        nft.generation()?;
        Ok(nft)
    }

    /// The socket's address, by which [`crate::nft::NftEvents`] knows our own changes.
    pub fn port_id(&self) -> u32 {
        self.socket.port()
    }

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
                Outcome::Again(answer) | Outcome::Rejected(answer) => {
                    return Err(rejected(&answer).into());
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

    /// Takes sequence numbers that no other message has had for a long time.
    pub(crate) fn take_sequence(&mut self, count: u32) -> u32 {
        // 0 stands for messages that answer nothing.
        if self.sequence.checked_add(count).is_none() {
            self.sequence = 1;
        }
        let first = self.sequence;
        self.sequence += count;
        first
    }

    fn attempt<O: Operations + ?Sized>(
        &mut self,
        table: &TableName,
        ops: &O,
        single: &HashSet<usize>,
    ) -> Result<Outcome, ApplyError> {
        let most = u32::try_from(ops.len()).unwrap_or(u32::MAX).saturating_add(2);
        let first = self.take_sequence(most);
        let batch = Batch::new(table, ops.each(), single, first)?;
        self.sequence = first + batch.sequence_numbers();
        self.socket.send(batch.bytes())?;
        Ok(self.outcome(&batch)?)
    }

    /// Reads the answers to a batch. The kernel sends them while it takes the batch, so that all
    /// of them are there by now: refusals in order, the answer to the last message last.
    fn outcome(&mut self, batch: &Batch) -> Result<Outcome, NftError> {
        let mut refused = Vec::new();
        let mut lost = false;
        'all: loop {
            let wait = if lost { Wait::Not } else { Wait::Patiently };
            let datagram = match self.socket.receive(wait) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => {
                    lost = true;
                    continue;
                }
                Err(NftError::Timeout { .. }) if lost => break,
                Err(error) => return Err(error),
            };
            for message in messages(datagram).filter(|message| message.kind == NLMSG_ERROR) {
                let Some(answer) = Answer::read(&message) else { continue };
                if message.sequence == batch.first() && answer.errno != 0 {
                    return Ok(judge(answer));
                }
                let Some(ops) = batch.ops(message.sequence) else { continue };
                if answer.errno != 0 {
                    refused.push((ops, answer));
                }
                if message.sequence == batch.last() {
                    break 'all;
                }
            }
        }
        match refused.iter().find(|(_, answer)| is_passing(answer.errno)) {
            Some((_, answer)) => Ok(Outcome::Again(answer.clone())),
            None if !refused.is_empty() => Ok(Outcome::Refused(refused)),
            None if lost => Err(NftError::Receive(io::Error::from_raw_os_error(libc::ENOBUFS))),
            None => Ok(Outcome::Done),
        }
    }

    /// Says which operations were refused, in words.
    fn name<O: Operations + ?Sized>(
        &mut self,
        table: &TableName,
        ops: &O,
        refused: Vec<(Range<usize>, Answer)>,
    ) -> Vec<Refused> {
        // The definitions only make the words better, so that a failure to read them is no matter.
        let mut sets = self.set_definitions(table, &mut Vec::new()).unwrap_or_default();
        sets.extend(ops.each().filter_map(|op| match &*op {
            Op::AddSet(set) => Some((Arc::clone(&set.name), set.clone())),
            _ => None,
        }));
        let describe = |(range, answer): (Range<usize>, Answer)| Refused {
            op: range.start,
            count: range.len(),
            errno: answer.errno,
            detail: match range.len() {
                1 => answer.words(),
                many => format!("{} (it or others of {many} elements)", answer.words()),
            },
            object: ops
                .each()
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
fn judge(answer: Answer) -> Outcome {
    if is_passing(answer.errno) { Outcome::Again(answer) } else { Outcome::Rejected(answer) }
}

/// Whether the kernel means "at this moment": another transaction came in between, or a module
/// had to be loaded.
fn is_passing(errno: i32) -> bool {
    const ERESTART: i32 = 85; // never leaves the kernel but here, so libc has no name for it
    [libc::EAGAIN, libc::EINTR, ERESTART].contains(&errno)
}

pub(crate) fn rejected(answer: &Answer) -> NftError {
    match answer.errno {
        libc::EPERM => NftError::NotPermitted,
        errno => NftError::Batch(io::Error::from_raw_os_error(errno)),
    }
}
