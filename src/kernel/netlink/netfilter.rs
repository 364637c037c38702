//! What the messages of all netfilter subsystems have in common (`linux/netfilter/nfnetlink.h`): after the
//! header comes `struct nfgenmsg`, with a family and a number.

use super::attributes::{Open, Writer};
use super::message::Message;
use sluice_core::net::Family;

/// Length of `struct nfgenmsg`.
const NFGENMSG: usize = 4;
/// `NFPROTO_IPV4` of `netfilter.h`
pub(crate) const NFPROTO_IPV4: u8 = 2;
/// `NFPROTO_IPV6` of `netfilter.h`
pub(crate) const NFPROTO_IPV6: u8 = 10;

/// The number that netfilter knows a family by.
pub(crate) fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}

impl Writer {
    /// Begins a message of netfilter; `resource` is in host byte order.
    pub(crate) fn begin_netfilter(
        &mut self,
        kind: u16,
        flags: u16,
        nfproto: u8,
        resource: u16,
        sequence: u32,
    ) -> Open {
        let open = self.begin(kind, flags, sequence);
        let [high, low] = resource.to_be_bytes();
        self.append(&[nfproto, 0, high, low]);
        open
    }
}

impl<'a> Message<'a> {
    /// The family that a netfilter message is about.
    pub(crate) fn nfproto(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// The attributes of a netfilter message.
    pub(crate) fn body(&self) -> &'a [u8] {
        self.payload.get(NFGENMSG..).unwrap_or_default()
    }
}
