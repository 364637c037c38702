//! What all messages of nf_tables have in common.

use std::sync::Arc;

use super::uapi::{NAME_MAX, SUBSYS_NFTABLES};
use crate::netlink::Message;
use crate::netlink::attributes::{Open, Writer, find, read_name};
use crate::netlink::netfilter::nfproto;
use sluice_core::net::Family;

impl Writer {
    /// Begins an nf_tables message.
    pub(crate) fn begin_nft(
        &mut self,
        kind: u8,
        flags: u16,
        family: Family,
        sequence: u32,
    ) -> Open {
        self.begin_nft_of(kind, flags, nfproto(family), sequence)
    }

    /// The same for a family by its number.
    pub(crate) fn begin_nft_of(&mut self, kind: u8, flags: u16, family: u8, sequence: u32) -> Open {
        let kind = u16::from(SUBSYS_NFTABLES) << 8 | u16::from(kind);
        self.begin_netfilter(kind, flags, family, 0, sequence)
    }

    /// Writes the name of an object.
    pub(crate) fn put_name(&mut self, kind: u16, name: &str) {
        self.put_text(kind, name, NAME_MAX);
    }
}

impl Message<'_> {
    /// Which nf_tables message it is, if it is one.
    pub(crate) fn nft(&self) -> Option<u8> {
        let [subsystem, message] = self.kind.to_be_bytes();
        (subsystem == SUBSYS_NFTABLES).then_some(message)
    }
}

/// The name in the first attribute of a type.
pub(crate) fn find_name(bytes: &[u8], kind: u16) -> Option<Arc<str>> {
    find(bytes, kind).and_then(read_name).map(Arc::from)
}
