//! What comes in a netlink datagram, whatever the subsystem (`struct nlmsghdr` of `linux/netlink.h`).

use netlink_packet_core::NetlinkBuffer;

/// The length of a message's header.
pub(super) const HEADER: usize = 16;

/// A received message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    /// `nlmsg_type`
    pub(super) kind: u16,
    /// `nlmsg_flags`
    pub(super) flags: u16,
    /// `nlmsg_seq`
    pub(super) sequence: u32,
    /// `nlmsg_pid`
    pub(super) port: u32,
    /// All after the header.
    pub(super) payload: &'a [u8],
}

/// Goes through the messages of a datagram; stops at the first that is longer than what is left.
pub(super) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
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
