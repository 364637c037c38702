//! The modes that cases are played in.

use std::fmt;

use super::case::Case;

/// A proxy mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    /// With iptables-nft.
    Iptables,
    /// With iptables-legacy, because a chain of the kubelet's on node-a says that this is in use.
    IptablesLegacy,
}

impl Mode {
    pub(crate) const ALL: [Mode; 3] = [Mode::Nftables, Mode::Iptables, Mode::IptablesLegacy];

    /// What the configuration calls it.
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables | Mode::IptablesLegacy => "iptables",
        }
    }

    /// Whether it plays a case. The legacy variant differs in the program that writes and in nothing
    /// that is written: it plays sequences of steps, and a case of each module that rules use.
    pub(crate) fn plays(self, case: &Case) -> bool {
        let modules = [
            "affinity",
            "detect-bridge",
            "external-local",
            "hairpin",
            "many-endpoints",
            "no-endpoints",
            "node-port-addresses",
            "protocols",
            "source-ranges",
        ];
        self != Mode::IptablesLegacy
            || case.steps.len() > 1
            || modules.contains(&case.name.as_str())
    }

    /// Whether it plays the steps of a case in other orders, too.
    pub(crate) fn plays_orders(self) -> bool {
        self != Mode::IptablesLegacy
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
            Mode::IptablesLegacy => "iptables-legacy",
        })
    }
}
