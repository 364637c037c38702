//! The modes that cases are played in.

use std::fmt;

use sluice::backend::nftables::is_relayed;
use sluice::net::Protocol;

use super::case::SourceSeen;
use super::oracle::Outcome;

/// A proxy mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    Iptables,
    Ipvs,
    Userspace,
}

impl Mode {
    pub(crate) const ALL: [Mode; 4] = [Mode::Nftables, Mode::Iptables, Mode::Ipvs, Mode::Userspace];

    /// What becomes of a packet in this mode, given what the case or the plan says. Where the proxy
    /// itself makes the connection to the endpoint, the endpoint sees the node where others keep the
    /// sender's address: the one difference of the userspace mode, and nothing else may differ.
    pub(crate) fn outcome(self, protocol: Protocol, mut decided: Outcome) -> Outcome {
        if let Outcome::Forward { to, .. } = &mut decided
            && self == Mode::Userspace
            && is_relayed(protocol)
        {
            to.values_mut().for_each(|seen| *seen = SourceSeen::Masqueraded);
        }
        decided
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
            Mode::Userspace => "userspace",
        })
    }
}
