//! The path of one packet through the objects of a proxy mode, in the words of `nft list`, `iptables-save` and
//! `ipvsadm`: for people. Pure, from the forwarding table; each mode computes it in its own folder.

/// The objects on the way of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PacketPath {
    /// Chains, in order, and what happens at the end.
    pub steps: Vec<String>,
    /// The objects of this frontend: what they are in, and their text.
    pub objects: Vec<(String, String)>,
}
