//! Messages and their attributes as bytes: a writer that checks every length, and a reader.
//!
//! The writer appends to one buffer and allocates nothing per message or attribute, because a
//! batch holds hundreds of thousands of them.

use std::time::Duration;

use netlink_packet_core::{NLA_F_NESTED, NLA_HEADER_SIZE, NLA_TYPE_MASK, NLM_F_REQUEST};

/// Where an open message or attribute begins.
#[derive(Debug, Clone, Copy)]
#[must_use = "an open message or attribute must be closed"]
pub(crate) struct Open(usize);

/// Appends messages to a buffer.
///
/// A length that does not fit into its field makes the writer [`overfull`](Writer::take_overfull) and
/// what it wrote worthless; nothing ever wraps.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buffer: Vec<u8>,
    overfull: bool,
}

impl Writer {
    /// What was written.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// What was written, to keep.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.buffer
    }

    /// How much was written.
    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Returns and clears whether something did not fit.
    pub(crate) fn take_overfull(&mut self) -> bool {
        std::mem::take(&mut self.overfull)
    }

    /// Says that something could not be written for its length.
    pub(crate) fn mark_overfull(&mut self) {
        self.overfull = true;
    }

    /// Begins a message; `NLM_F_REQUEST` is added to `flags`.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, sequence: u32) -> Open {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.buffer.extend_from_slice(&sequence.to_ne_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        Open(start)
    }

    /// Writes bytes as they are; what follows a message's header has lengths of multiples of four.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Appends zeros, to be written over.
    pub(crate) fn extend(&mut self, len: usize) -> &mut [u8] {
        let start = self.buffer.len();
        self.buffer.resize(start + len, 0);
        &mut self.buffer[start..]
    }

    /// Ends a message.
    pub(crate) fn end_message(&mut self, open: Open) {
        match u32::try_from(self.buffer.len() - open.0) {
            Ok(len) => self.buffer[open.0..open.0 + 4].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.overfull = true,
        }
    }

    /// Adds flags to the message that begins at an offset.
    pub(crate) fn add_flags(&mut self, message: usize, flags: u16) {
        let place = &mut self.buffer[message + 6..message + 8];
        let old = u16::from_ne_bytes([place[0], place[1]]);
        place.copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// Begins a nested attribute.
    pub(crate) fn nest(&mut self, kind: u16) -> Open {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 2]);
        self.buffer.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        Open(start)
    }

    /// Ends a nested attribute.
    pub(crate) fn end(&mut self, open: Open) {
        match u16::try_from(self.buffer.len() - open.0) {
            Ok(len) => self.buffer[open.0..open.0 + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.overfull = true,
        }
    }

    /// Writes an attribute with this content.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let Ok(len) = u16::try_from(NLA_HEADER_SIZE + value.len()) else {
            self.overfull = true;
            return;
        };
        self.buffer.extend_from_slice(&len.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(value);
        let padding = value.len().next_multiple_of(4) - value.len();
        self.buffer.extend_from_slice(&[0; 3][..padding]);
    }

    /// Writes a 32-bit number, in network byte order as all of netfilter.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Writes a 64-bit number, in network byte order.
    pub(crate) fn put_u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Writes a duration in milliseconds. One that is too long for the field lasts as long as can be.
    pub(crate) fn put_duration(&mut self, kind: u16, value: Duration) {
        self.put_u64(kind, u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
    }

    /// Writes a name with its terminating zero, both together at most `most` bytes. A zero within would
    /// cut it short, so it is not written either.
    pub(crate) fn put_text(&mut self, kind: u16, name: &str, most: usize) {
        if name.len() >= most || name.contains('\0') {
            self.overfull = true;
            return;
        }
        let len = u16::try_from(NLA_HEADER_SIZE + name.len() + 1).unwrap_or(u16::MAX);
        self.buffer.extend_from_slice(&len.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        self.buffer.extend_from_slice(name.as_bytes());
        self.buffer.push(0);
        let padding = (name.len() + 1).next_multiple_of(4) - (name.len() + 1);
        self.buffer.extend_from_slice(&[0; 3][..padding]);
    }

    /// Whether an attribute that is still open could be closed now.
    pub(crate) fn fits(&self, open: Open) -> bool {
        u16::try_from(self.buffer.len() - open.0).is_ok()
    }

    /// Truncates to `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.buffer.truncate(len);
    }
}

/// An attribute: its type without flags, and its content.
pub(crate) type Attribute<'a> = (u16, &'a [u8]);

/// Goes through attributes; stops at the first that is longer than what is left.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let header = rest.get(..NLA_HEADER_SIZE)?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = rest.get(NLA_HEADER_SIZE..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The content of the first attribute of a type.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|&(found, _)| found == kind).map(|(_, value)| value)
}

/// A 32-bit number in network byte order.
pub(crate) fn read_u32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// A 64-bit number in network byte order.
pub(crate) fn read_u64(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

/// A number in the first attribute of a type.
pub(crate) fn find_u32(bytes: &[u8], kind: u16) -> Option<u32> {
    find(bytes, kind).and_then(read_u32)
}

/// A number in the first attribute of a type.
pub(crate) fn find_u64(bytes: &[u8], kind: u16) -> Option<u64> {
    find(bytes, kind).and_then(read_u64)
}

/// A name without its terminating zero.
pub(crate) fn read_name(value: &[u8]) -> Option<&str> {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Message, messages};

    #[test]
    fn what_is_written_is_read_back_with_padding_in_between() {
        let mut writer = Writer::default();
        let message = writer.begin(9, 0x400, 7);
        writer.put_text(1, "kube", 16);
        let nest = writer.nest(2);
        writer.put_u32(1, 5);
        writer.put(3, &[1, 2, 3]);
        writer.end(nest);
        writer.end_message(message);
        writer.add_flags(0, 4);
        assert!(!writer.take_overfull());

        let read: Vec<Message<'_>> = messages(writer.bytes()).collect();
        let [message] = read[..] else { panic!("one message, not {read:?}") };
        assert_eq!((message.kind, message.flags, message.sequence), (9, 0x405, 7));
        assert_eq!(find(message.payload, 1).and_then(read_name), Some("kube"));
        let nest = find(message.payload, 2).expect("the nest was written");
        assert_eq!((find_u32(nest, 1), find(nest, 3)), (Some(5), Some(&[1, 2, 3][..])));
    }

    #[test]
    fn a_length_that_does_not_fit_never_wraps() {
        let too_long = vec![0; 65_532];
        let mut writer = Writer::default();
        writer.put(1, &too_long[..65_531]);
        assert!(!writer.take_overfull());
        writer.put(1, &too_long);
        assert!(writer.take_overfull());

        let nest = writer.nest(1);
        writer.put(1, &too_long[..65_528]);
        writer.end(nest);
        assert!(writer.take_overfull());

        writer.put_text(1, &"n".repeat(255), 256);
        assert!(!writer.take_overfull());
        writer.put_text(1, &"n".repeat(256), 256);
        assert!(writer.take_overfull());
    }

    #[test]
    fn truncated_input_ends_the_iteration() {
        for cut in [&[8_u8, 0, 1, 0, 1, 2][..], &[3, 0, 1, 0], &[4, 0, 1]] {
            assert_eq!(attributes(cut).count(), 0, "{cut:?}");
        }
    }
}
