//! Which chains and rules of an iptables table are kube-proxy's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::iptables::is_of_proxy;

/// Chains of the Go kube-proxy's IPVS mode (upstream: `pkg/proxy/ipvs/proxier.go`).
const IPVS: [&str; 7] = [
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    // Until Kubernetes 1.24.
    "KUBE-FIRE-WALL",
    "KUBE-HEALTH-CHECK",
];

/// Chains of the Go kube-proxy's userspace mode, which ended with Kubernetes 1.25 (upstream:
/// `pkg/proxy/userspace/proxier.go`).
const USERSPACE: [&str; 5] = [
    "KUBE-PORTALS-CONTAINER",
    "KUBE-PORTALS-HOST",
    "KUBE-NODEPORT-CONTAINER",
    "KUBE-NODEPORT-HOST",
    "KUBE-NODEPORT-NON-LOCAL",
];

/// Which of kube-proxy's chains are to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those of all modes.
    EveryMode,
    /// Those that the iptables mode does not know; it looks after its own.
    ForeignToIptables,
}

impl Whose {
    fn includes(self, chain: &str) -> bool {
        let foreign = IPVS.contains(&chain) || USERSPACE.contains(&chain);
        foreign || (self == Whose::EveryMode && is_of_proxy(chain))
    }
}

/// A table: its chains and jumps, each with what is needed to delete it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing<R> {
    /// Chains that users of iptables define.
    pub(super) chains: BTreeSet<Arc<str>>,
    /// Chains that the table always has.
    pub(super) builtin: BTreeSet<Arc<str>>,
    pub(super) jumps: Vec<Jump<R>>,
}

/// A rule of a chain that leads to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Jump<R> {
    pub(super) chain: Arc<str>,
    pub(super) to: Arc<str>,
    pub(super) rule: R,
}

/// What is to be taken out of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Removal<R> {
    /// Rules, each in a chain that stays.
    pub(super) rules: Vec<Jump<R>>,
    /// Chains, with all their rules.
    pub(super) chains: Vec<Arc<str>>,
    /// Chains that stay because a chain of another program jumps to them.
    pub(super) used: BTreeMap<Arc<str>, Arc<str>>,
}

impl<R> Removal<R> {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.chains.is_empty()
    }
}

impl<R: Clone> Listing<R> {
    /// What is kube-proxy's: its chains, the rules of built-in chains that lead to them, and nothing
    /// that others use. Container runtimes may use `KUBE-MARK-MASQ`, for one; of such a chain only
    /// the way to the rest of kube-proxy's goes.
    pub(super) fn removal(&self, whose: Whose) -> Removal<R> {
        let ours = |chain: &Arc<str>| self.chains.contains(chain) && whose.includes(chain);
        let by_others = |jump: &&Jump<R>| !ours(&jump.chain) && !self.builtin.contains(&jump.chain);
        let to_ours = || self.jumps.iter().filter(|jump| ours(&jump.to));
        let used: BTreeMap<Arc<str>, Arc<str>> = to_ours()
            .filter(by_others)
            .map(|jump| (Arc::clone(&jump.to), Arc::clone(&jump.chain)))
            .collect();
        let goes = |chain: &Arc<str>| ours(chain) && !used.contains_key(chain);
        let rules = to_ours().filter(|jump| {
            let hook = self.builtin.contains(&jump.chain);
            hook || (used.contains_key(&jump.chain) && goes(&jump.to))
        });
        Removal {
            rules: rules.cloned().collect(),
            chains: self.chains.iter().filter(|chain| goes(chain)).cloned().collect(),
            used,
        }
    }
}
