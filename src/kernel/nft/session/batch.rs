//! Encodes operations as one transaction.

use std::borrow::Cow;
use std::collections::HashSet;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use netlink_packet_core::NLM_F_ACK;

use super::error::NftError;
use crate::netlink::attributes::{Open, Writer};
use crate::nft::model::{Element, Op, Operations, TableName, Verb};
use crate::nft::wire::encode::{begin, operation, put_element};
use crate::nft::wire::uapi::elem::LIST_ELEMENTS;
use crate::nft::wire::uapi::{BATCH_BEGIN, BATCH_END, SUBSYS_NFTABLES};

/// A transaction as bytes, and the operations of each of its messages.
///
/// The message at index `i` has the sequence number `first + 1 + i`; `first` is that of the
/// message that begins the batch.
#[derive(Debug)]
pub(crate) struct Batch {
    writer: Writer,
    first: u32,
    messages: Vec<Range<usize>>,
}

/// The messages of a transaction as [`crate::nft::Nft::apply`] sends them, for tests and benchmarks without a
/// kernel.
///
/// # Errors
/// If an object does not fit into its message.
pub fn encoded<O: Operations + ?Sized>(table: &TableName, ops: &O) -> Result<Vec<u8>, NftError> {
    Ok(Batch::new(table, ops.ops(), &HashSet::new(), 1)?.writer.into_bytes())
}

impl Batch {
    /// Writes all operations. Consecutive additions, or deletions, of elements are packed into one message as
    /// far as its length allows, except those in `single`.
    pub(crate) fn new<'a>(
        table: &TableName,
        ops: impl Iterator<Item = Cow<'a, Op>>,
        single: &HashSet<usize>,
        first: u32,
    ) -> Result<Batch, NftError> {
        let mut batch = Batch { writer: Writer::default(), first, messages: Vec::new() };
        batch.bracket(BATCH_BEGIN, first);
        let mut last_start = batch.writer.len();
        let mut next = 0;
        let mut ops = ops.peekable();
        while let Some(op) = ops.next() {
            last_start = batch.writer.len();
            let end = next + batch.pack(table, &op, &mut ops, next, single)?;
            batch.messages.push(next..end);
            next = end;
        }
        // Only the last operation is acknowledged on success; its answer comes after all refusals.
        // Kernels before 6.10 do not acknowledge the end of the batch itself.
        batch.writer.add_flags(last_start, NLM_F_ACK);
        let sequence = batch.sequence(batch.messages.len());
        batch.bracket(BATCH_END, sequence);
        Ok(batch)
    }

    /// The whole batch.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }

    /// The sequence number of the message that begins the batch.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    /// The sequence number whose answer is the last one.
    pub(crate) fn last(&self) -> u32 {
        self.sequence(self.messages.len().saturating_sub(1))
    }

    /// The operations of the message with this sequence number, if it is one of this batch.
    pub(crate) fn ops(&self, sequence: u32) -> Option<Range<usize>> {
        let index = sequence.wrapping_sub(self.first).checked_sub(1)?;
        self.messages.get(usize::try_from(index).ok()?).cloned()
    }

    fn sequence(&self, index: usize) -> u32 {
        self.first.wrapping_add(1).wrapping_add(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn bracket(&mut self, kind: u16, sequence: u32) {
        let open = self.writer.begin_netfilter(kind, 0, 0, u16::from(SUBSYS_NFTABLES), sequence);
        self.writer.end_message(open);
    }

    /// Writes one message with an operation, the one at index `first`, and those after it that fit.
    /// Gives how many there were.
    fn pack<'a>(
        &mut self,
        table: &TableName,
        op: &Op,
        rest: &mut Peekable<impl Iterator<Item = Cow<'a, Op>>>,
        first: usize,
        single: &HashSet<usize>,
    ) -> Result<usize, NftError> {
        let sequence = self.sequence(self.messages.len());
        let message = begin(&mut self.writer, table, op, sequence);
        operation(&mut self.writer, op, sequence);
        let mut count = 1;
        if let Some((verb, set, element)) = element(op) {
            let list = self.writer.nest(LIST_ELEMENTS);
            put_element(&mut self.writer, element, verb);
            self.check(table, op)?;
            if !single.contains(&first) {
                let joins = |index: usize| !single.contains(&(first + index));
                count += self.pack_elements(table, (verb, set), list, rest, joins)?;
            }
            self.writer.end(list);
        }
        self.writer.end_message(message);
        self.check(table, op)?;
        Ok(count)
    }

    /// Writes more elements into the list of a message. Gives how many there were.
    fn pack_elements<'a>(
        &mut self,
        table: &TableName,
        way: (Verb, &Arc<str>),
        list: Open,
        rest: &mut Peekable<impl Iterator<Item = Cow<'a, Op>>>,
        joins: impl Fn(usize) -> bool,
    ) -> Result<usize, NftError> {
        let mut count = 0;
        while let Some(op) = rest.peek() {
            let Some((verb, set, element)) = element(op) else { break };
            if (verb, set) != way || !joins(count + 1) {
                break;
            }
            let before = self.writer.len();
            put_element(&mut self.writer, element, verb);
            if !self.writer.fits(list) {
                self.writer.truncate(before);
                break;
            }
            self.check(table, op)?;
            rest.next();
            count += 1;
        }
        Ok(count)
    }

    fn check(&mut self, table: &TableName, op: &Op) -> Result<(), NftError> {
        if self.writer.take_overfull() {
            return Err(NftError::TooLong {
                object: op.line(table, None).to_string(),
                why: "names are limited to 255 bytes and comments to 127, without a zero byte, \
                      and a rule to 64 KiB",
            });
        }
        Ok(())
    }
}

/// The parts of an operation on an element.
fn element(op: &Op) -> Option<(Verb, &Arc<str>, &Element)> {
    match op {
        Op::AddElement { set, element } => Some((Verb::Add, set, element)),
        Op::DeleteElement { set, element } => Some((Verb::Delete, set, element)),
        _ => None,
    }
}
