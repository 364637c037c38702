//! The modes that cases are played in.

use std::fmt;

use sluice_core::net::Protocol;
use sluice_dataplane::userspace::is_relayed;

use super::case::{Case, SourceSeen};
use super::oracle::Outcome;

/// A case for each kind of rule and each module of the kernel that rules use. `SLUICE_CASES=few` plays
/// no others.
const FEW: [&str; 9] = [
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

/// A proxy mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Nftables,
    /// With iptables-nft.
    Iptables,
    /// With iptables-legacy, because a chain of the kubelet's on node-a says that this is in use.
    IptablesLegacy,
    Ipvs,
    Userspace,
    /// With `--userspace-transparent`.
    UserspaceTransparent,
}

impl Mode {
    pub(crate) const ALL: [Mode; 6] = [
        Mode::Nftables,
        Mode::Iptables,
        Mode::IptablesLegacy,
        Mode::Ipvs,
        Mode::Userspace,
        Mode::UserspaceTransparent,
    ];

    /// One of each mode of the configuration.
    pub(crate) const SETTINGS: [Mode; 4] =
        [Mode::Nftables, Mode::Iptables, Mode::Ipvs, Mode::Userspace];

    /// What the configuration calls it.
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables | Mode::IptablesLegacy => "iptables",
            Mode::Ipvs => "ipvs",
            Mode::Userspace | Mode::UserspaceTransparent => "userspace",
        }
    }

    /// Flags of the daemon in addition to its configuration.
    pub(crate) fn flags(self) -> Option<&'static str> {
        (self == Mode::UserspaceTransparent).then_some("--userspace-transparent")
    }

    /// Whether it plays a case. The legacy variant differs in the program that writes and in nothing
    /// that is written: it plays sequences of steps, and the cases of [`FEW`]. The transparent variant
    /// plays only the latter, unless SLUICE_MODES asks for it.
    pub(crate) fn plays(self, case: &Case) -> bool {
        let one_of_few = FEW.contains(&case.name.as_str());
        match std::env::var("SLUICE_CASES").as_deref() {
            Ok("few") => one_of_few,
            _ if self == Mode::UserspaceTransparent && std::env::var("SLUICE_MODES").is_err() => {
                one_of_few
            }
            _ => self != Mode::IptablesLegacy || case.steps.len() > 1 || one_of_few,
        }
    }

    /// Whether it plays the steps of a case in other orders, too.
    pub(crate) fn plays_orders(self) -> bool {
        self != Mode::IptablesLegacy
    }

    /// The outcome of a packet in this mode, given that of the case or the plan. Where the proxy
    /// itself makes the connection to the endpoint, the endpoint sees the node where others keep the
    /// sender's address: the one difference of the userspace mode, and nothing else may differ. The
    /// transparent variant differs only where the endpoint is on another node.
    pub(crate) fn outcome(self, protocol: Protocol, mut decided: Outcome) -> Outcome {
        if let Outcome::Forward { to, here, .. } = &mut decided
            && matches!(self, Mode::Userspace | Mode::UserspaceTransparent)
            && is_relayed(protocol)
        {
            let shown = |at| self == Mode::UserspaceTransparent && here.contains(at);
            let others = to.iter_mut().filter(|(at, _)| !shown(at));
            others.for_each(|(_, seen)| *seen = SourceSeen::Masqueraded);
        }
        decided
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
            Mode::IptablesLegacy => "iptables-legacy",
            Mode::Ipvs => "ipvs",
            Mode::Userspace => "userspace",
            Mode::UserspaceTransparent => "userspace-transparent",
        })
    }
}
