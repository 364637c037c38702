//! How it is known that the daemon has caught up: a Service of our own, changed after everything else.
//!
//! It is there for good, and TCP: that a frontend comes or goes, and each change of one for UDP, makes the
//! daemon read conntrack, which takes longer than the change itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use sluice_cluster::Answer;
use sluice_core::net::Family;

use super::plan;

/// Its address; cases use lower ones.
const IP: Ipv4Addr = Ipv4Addr::new(10, 96, 200, 1);

/// Its port.
const PORT: u16 = 9;

/// Its only endpoint.
const POD: &str = "b1";

/// The names of its port, which take turns.
const NAMES: [&str; 2] = ["even", "odd"];

/// The pod's ports that the names stand for, one row for each turn of the slices: which of them answers shows
/// the turn of the Service and that of the slices.
const TARGETS: [[u16; 2]; 2] = [[8080, 8081], [9090, 5353]];

/// The last version that was written; 0 before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sentinel(u32);

impl Sentinel {
    /// The one that follows.
    pub(crate) fn next(self) -> Sentinel {
        Sentinel(self.0 + 1)
    }

    fn turn(self) -> usize {
        usize::from(self.0 % 2 == 1)
    }

    /// Where it is asked.
    pub(crate) fn at(family: Family) -> SocketAddr {
        SocketAddr::new(plan::twin(IP, family), PORT)
    }

    /// Whether an answer is from the rules of this version, given that the one before was in force.
    pub(crate) fn is_shown_by(self, answer: &Answer) -> bool {
        let wanted = TARGETS[self.turn()][self.turn()];
        matches!(answer, Answer::Answered { local, .. } if local.port() == wanted)
    }

    /// The Service, and a slice in each family.
    pub(crate) fn objects(self) -> Result<Vec<Value>, String> {
        let ips: [IpAddr; 2] = Family::BOTH.map(|family| plan::twin(IP, family));
        let mut all = vec![json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "sentinel", "namespace": "default"},
            "spec": {"type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips,
                     "ports": [{"name": NAMES[self.turn()], "port": PORT, "protocol": "TCP"}]},
        })];
        let ports: Vec<Value> = NAMES
            .iter()
            .zip(TARGETS[self.turn()])
            .map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"}))
            .collect();
        for family in Family::BOTH {
            let endpoint = plan::address_of(POD, family).ok_or("no endpoint")?;
            all.push(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": format!("sentinel-{family}").to_lowercase(), "namespace": "default",
                             "labels": {"kubernetes.io/service-name": "sentinel"}},
                "addressType": family.to_string(), "ports": ports,
                "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}}],
            }));
        }
        Ok(all)
    }
}
