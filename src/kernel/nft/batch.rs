//! Puts operations into one transaction.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use netlink_packet_core::NLM_F_ACK;

use super::encode::{Verb, begin, operation, put_element};
use super::error::NftError;
use super::object::{Element, TableName};
use super::op::Op;
use super::uapi::elem::LIST_ELEMENTS;
use super::uapi::{BATCH_BEGIN, BATCH_END, SUBSYS_NFTABLES};
use super::wire::Writer;

/// A transaction as bytes, and which operations each of its messages stands for.
///
/// The message at index `i` has the sequence number `first + 1 + i`; `first` is that of the
/// message that begins the batch.
#[derive(Debug)]
pub(super) struct Batch {
    writer: Writer,
    first: u32,
    messages: Vec<Range<usize>>,
}

impl Batch {
    /// Writes all operations. Elements that follow each other and go the same way are packed into
    /// one message as far as its length allows, except those in `single`.
    pub(super) fn new(
        table: &TableName,
        ops: &[Op],
        single: &HashSet<usize>,
        first: u32,
    ) -> Result<Batch, NftError> {
        let mut batch = Batch { writer: Writer::default(), first, messages: Vec::new() };
        batch.bracket(BATCH_BEGIN, first);
        let mut last_start = batch.writer.len();
        let mut next = 0;
        while next < ops.len() {
            last_start = batch.writer.len();
            let end = next + batch.pack(table, &ops[next..], next, single)?;
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
    pub(super) fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }

    /// How many sequence numbers it uses.
    pub(super) fn sequence_numbers(&self) -> u32 {
        u32::try_from(self.messages.len()).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// The sequence number of the message that begins the batch.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// The sequence number whose answer is the last one.
    pub(super) fn last(&self) -> u32 {
        self.sequence(self.messages.len().saturating_sub(1))
    }

    /// The operations of the message with this sequence number, if it is one of this batch.
    pub(super) fn ops(&self, sequence: u32) -> Option<Range<usize>> {
        let index = sequence.wrapping_sub(self.first).checked_sub(1)?;
        self.messages.get(usize::try_from(index).ok()?).cloned()
    }

    fn sequence(&self, index: usize) -> u32 {
        self.first.wrapping_add(1).wrapping_add(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn bracket(&mut self, kind: u16, sequence: u32) {
        let open = self.writer.raw_message(kind, 0, 0, u16::from(SUBSYS_NFTABLES), sequence);
        self.writer.end_message(open);
    }

    /// Writes one message with the first of these operations, and those after it that fit. Gives
    /// how many there were.
    fn pack(
        &mut self,
        table: &TableName,
        ops: &[Op],
        first: usize,
        single: &HashSet<usize>,
    ) -> Result<usize, NftError> {
        let sequence = self.sequence(self.messages.len());
        let message = begin(&mut self.writer, table, &ops[0], sequence);
        operation(&mut self.writer, &ops[0], sequence);
        let count = match element(&ops[0]) {
            None => 1,
            Some(_) => self.pack_elements(table, ops, first, single)?,
        };
        self.writer.end_message(message);
        self.check(table, &ops[0])?;
        Ok(count)
    }

    /// Writes the list of elements of a message.
    fn pack_elements(
        &mut self,
        table: &TableName,
        ops: &[Op],
        first: usize,
        single: &HashSet<usize>,
    ) -> Result<usize, NftError> {
        let list = self.writer.nest(LIST_ELEMENTS);
        let way = element(&ops[0]).map(|(verb, set, _)| (verb, set));
        let mut count = 0;
        for op in ops {
            let alone = single.contains(&(first + count)) || single.contains(&first);
            let Some((verb, set, element)) = element(op) else { break };
            if count > 0 && (alone || Some((verb, set)) != way) {
                break;
            }
            let before = self.writer.len();
            put_element(&mut self.writer, element, verb);
            if count > 0 && !self.writer.fits(list) {
                self.writer.truncate(before);
                break;
            }
            self.check(table, op)?;
            count += 1;
        }
        self.writer.end(list);
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
