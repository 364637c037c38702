//! The modes that cases are played in.

use std::fmt;

/// A proxy mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    Iptables,
    Ipvs,
}

impl Mode {
    pub(crate) const ALL: [Mode; 3] = [Mode::Nftables, Mode::Iptables, Mode::Ipvs];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
        })
    }
}
