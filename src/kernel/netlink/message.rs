//! The content of a netlink datagram of any subsystem (`struct nlmsghdr` of `linux/netlink.h`).

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NetlinkBuffer};

use super::attributes::{find, read_name};
use super::error::Refusal;

/// The length of a message's header.
const HEADER: usize = 16;

/// A received message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// `nlmsg_type`
    pub(crate) kind: u16,
    /// `nlmsg_flags`
    pub(crate) flags: u16,
    /// `nlmsg_seq`
    pub(crate) sequence: u32,
    /// `nlmsg_pid`
    pub(crate) port: u32,
    /// All after the header.
    pub(crate) payload: &'a [u8],
}

/// Goes through the messages of a datagram; stops at the first that is longer than what is left.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(rest).ok()?;
        let len = usize::try_from(buffer.length()).ok()?;
        let message = Message {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            port: buffer.port_number(),
            payload: rest.get(HEADER..len)?,
        };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

impl Message<'_> {
    /// The content of a message of type `NLMSG_ERROR` or `NLMSG_DONE` (`struct nlmsgerr` of `netlink.h`).
    pub(super) fn outcome(&self) -> Result<(), Refusal> {
        const TEXT: u16 = 1; // NLMSGERR_ATTR_MSG
        // The kernel never leaves the number out; without it, nothing is known to have been done.
        let code = match self.payload.first_chunk() {
            Some(code) => i32::from_ne_bytes(*code),
            None if self.kind == NLMSG_DONE => 0,
            None => -libc::EBADMSG,
        };
        if code == 0 {
            return Ok(());
        }
        let rest = self.payload.get(4..).unwrap_or_default();
        // The refused message comes next: only its header if it was capped.
        let original = match (self.kind, self.flags & NLM_F_CAPPED, rest.first_chunk()) {
            (NLMSG_DONE, ..) => 0,
            (_, 0, Some(length)) => usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(0),
            _ => HEADER,
        };
        let extras = rest.get(original.next_multiple_of(4)..).unwrap_or_default();
        let text = (self.flags & NLM_F_ACK_TLVS != 0)
            .then(|| find(extras, TEXT).and_then(read_name).map(str::to_owned))
            .flatten();
        Err(Refusal { errno: code.saturating_neg(), text })
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLMSG_ERROR;

    use super::*;

    #[test]
    fn an_answer_has_a_number_and_perhaps_a_text() {
        let mut payload = (-17_i32).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; 16]);
        payload.extend_from_slice(&[8, 0, 1, 0, b'n', b'o', b'!', 0]);
        let mut message =
            Message { kind: NLMSG_ERROR, flags: 0, sequence: 1, port: 0, payload: &payload };
        assert_eq!(message.outcome(), Err(Refusal { errno: 17, text: None }));
        message.flags = NLM_F_ACK_TLVS | NLM_F_CAPPED;
        let refusal = message.outcome().expect_err("17 is an error");
        assert_eq!(refusal.text.as_deref(), Some("no!"));
        assert!(refusal.to_string().ends_with(": no!"));
        message.payload = &[0; 20];
        assert_eq!(message.outcome(), Ok(()));
        message.payload = &[];
        assert!(message.outcome().is_err(), "an answer without a number is no success");
    }

    #[test]
    fn a_datagram_that_is_cut_off_ends_the_iteration() {
        assert_eq!(messages(&[0; 15]).count(), 0);
        assert_eq!(messages(&[0; 16]).count(), 0);
    }
}
