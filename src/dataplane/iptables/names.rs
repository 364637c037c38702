//! Names of chains.
//!
//! Those of Services are the Go kube-proxy's, letter by letter (upstream: `pkg/proxy/iptables/proxier.go`,
//! portProtoHash and servicePortEndpointChainName): a prefix and 16 characters of a hash, because the
//! kernel allows 28.

use std::fmt;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use sluice_core::model::ServiceName;
use sluice_core::plan::{PoolKind, PortPlan};
use sluice_kernel::xtables::Table;

/// A chain of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ChainId {
    pub(super) table: Table,
    pub(super) name: Arc<str>,
}

impl ChainId {
    pub(super) fn new(table: Table, name: &str) -> ChainId {
        ChainId { table, name: name.into() }
    }
}

pub(super) const SERVICES: &str = "KUBE-SERVICES";
pub(super) const NODE_PORTS: &str = "KUBE-NODEPORTS";
pub(super) const POSTROUTING: &str = "KUBE-POSTROUTING";
pub(super) const MARK_MASQ: &str = "KUBE-MARK-MASQ";
pub(super) const FORWARD: &str = "KUBE-FORWARD";
pub(super) const EXTERNAL: &str = "KUBE-EXTERNAL-SERVICES";
pub(super) const FIREWALL: &str = "KUBE-PROXY-FIREWALL";
/// The kubelet has the same chain with the same rule.
pub(super) const LOCALNET: &str = "KUBE-FIREWALL";
pub(super) const CANARY: &str = "KUBE-PROXY-CANARY";

/// Chains that upstream does not have. Of those in the table filter none may lead to one that it has:
/// it does not delete them there, and could not delete the other then.
///
/// Marks what no pod sent, where that takes more than one prefix to tell. It leads to a chain that the
/// Go kube-proxy deletes, and so must have a name that it takes for a Service's.
pub(super) const MARK_NOT_POD: &str = "KUBE-SVC-MARK-NOT-POD";
/// Refuses, by a reset for TCP.
pub(super) const REJECT: &str = "KUBE-REJECT";
/// Node ports without endpoints.
pub(super) const EXTERNAL_NODE_PORTS: &str = "KUBE-EXTERNAL-NODEPORTS";

/// Prefixes of the names of chains that belong to one Service or one part of a dispatch. Such a chain is
/// deleted when it is not needed, no matter which program wrote it. The Go kube-proxy does the same with
/// these prefixes (upstream: `pkg/proxy/iptables/proxier.go`, isServiceChainName): a chain with another name
/// would outlive us, and its targets could not be deleted. `KUBE-XLB-` was in use before Kubernetes 1.24.
const PREFIXES: [&str; 6] =
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-XLB-"];

/// Whether a chain that is not needed is to be deleted.
pub(super) fn is_perishable(chain: &str) -> bool {
    let ours = [REJECT, EXTERNAL_NODE_PORTS];
    PREFIXES.iter().any(|prefix| chain.starts_with(prefix)) || ours.contains(&chain)
}

/// Whether a chain is this mode's or that of the Go kube-proxy. `KUBE-FIREWALL` is the kubelet's too.
pub fn is_of_proxy(chain: &str) -> bool {
    let always =
        [SERVICES, NODE_PORTS, POSTROUTING, MARK_MASQ, FORWARD, EXTERNAL, FIREWALL, CANARY];
    always.contains(&chain) || is_perishable(chain)
}

/// The port of a Service, as upstream writes it: `namespace/name:port`.
#[derive(Debug, Clone)]
pub(super) struct PortName(String, &'static str);

impl PortName {
    pub(super) fn new(service: &ServiceName, port: &PortPlan) -> PortName {
        use sluice_core::net::Protocol::{Sctp, Tcp, Udp};
        let protocol = match port.protocol {
            Tcp => "tcp",
            Udp => "udp",
            Sctp => "sctp",
        };
        let separator = if port.name.is_empty() { "" } else { ":" };
        PortName(format!("{service}{separator}{}", port.name), protocol)
    }

    /// The chain that draws from a pool.
    pub(super) fn pool(&self, kind: PoolKind) -> Arc<str> {
        match kind {
            PoolKind::Cluster => self.chain("KUBE-SVC-", ""),
            PoolKind::Local => self.chain("KUBE-SVL-", ""),
        }
    }

    /// The chain that draws from a part of a pool.
    pub(super) fn part(&self, kind: PoolKind, number: usize) -> Arc<str> {
        match kind {
            PoolKind::Cluster => self.chain("KUBE-SVC-", &format!(" part {number}")),
            PoolKind::Local => self.chain("KUBE-SVL-", &format!(" part {number}")),
        }
    }

    /// The chain of traffic that comes to an external address.
    pub(super) fn external(&self) -> Arc<str> {
        self.chain("KUBE-EXT-", "")
    }

    /// The chain of those who may use the addresses of a load balancer.
    pub(super) fn firewall(&self) -> Arc<str> {
        self.chain("KUBE-FW-", "")
    }

    /// The chain of an endpoint, given as `address:port`.
    pub(super) fn endpoint(&self, endpoint: &str) -> Arc<str> {
        self.chain("KUBE-SEP-", endpoint)
    }

    fn chain(&self, prefix: &str, more: &str) -> Arc<str> {
        format!("{prefix}{}", hash(&format!("{}{}{more}", self.0, self.1))).into()
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number that is evenly distributed over texts, and the same on every machine (FNV-1a, 32 bits).
pub(super) fn number(text: &str) -> usize {
    let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    let mixed = text.bytes().fold(0x811c_9dc5, mix);
    // Its low bits are the weakest.
    usize::try_from(mixed ^ (mixed >> 16)).unwrap_or(0)
}

/// The first 80 bits of SHA-256, in base 32 (RFC 4648).
pub(super) fn hash(text: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = digest(&SHA256, text.as_bytes());
    let bits = digest.as_ref().iter().take(10).fold(0_u128, |bits, b| bits << 8 | u128::from(*b));
    let letter = |n: u32| {
        let index = usize::try_from(bits >> (75 - 5 * n) & 31).unwrap_or(0);
        char::from(ALPHABET[index])
    };
    (0..16).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_have_the_names_that_the_go_kube_proxy_gives_them() {
        // From upstream's proxier_test.go.
        let table = [
            ("ns1/svc1:p80", "", "XPGD46QRK7WJZT7O"),
            ("ns1/svc1:p80", "10.180.0.1:80", "SXIVWICOYRO3J4NJ"),
            ("ns2/svc2:p80", "", "GNZBNJ2PO5MGZ6GT"),
            ("ns3/svc3:p80", "", "X27LE4BHSL4DOUIK"),
        ];
        for (port, endpoint, expected) in table {
            assert_eq!(hash(&format!("{port}tcp{endpoint}")), expected, "{port} {endpoint}");
        }
    }
}
