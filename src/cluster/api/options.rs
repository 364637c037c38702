//! Options of a server.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::access::Access;

/// Options of a server. The default is a dual-stack cluster without access control.
#[derive(Debug, Clone)]
pub struct Options {
    /// Ranges of cluster IPs; the family of the first is the one of single-stack Services. They
    /// become the ServiceCIDR object `kubernetes`.
    pub service_cidrs: Vec<IpNet>,
    /// The range from which node ports are allocated.
    pub node_ports: RangeInclusive<u16>,
    /// The number of events kept per resource. A client that is further behind gets 410.
    pub history: usize,
    /// The interval of bookmarks for watches that request them.
    pub bookmark_interval: Duration,
    /// Access control.
    pub access: Access,
    /// Whether Pods that are on a node stay until its kubelet has ended them.
    pub pods_end: PodsEnd,
    /// Whether the Service `default/kubernetes` is there.
    pub kubernetes_service: KubernetesService,
}

/// When a deleted Pod is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodsEnd {
    /// At once: nothing runs behind the objects.
    AtOnce,
    /// When its kubelet deletes it without grace, as in a cluster.
    WhenTheirKubeletSays,
}

/// The Service that stands for the API server itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KubernetesService {
    /// There is none.
    Absent,
    /// It is there, with port 443 and one endpoint.
    Endpoint {
        /// Address of the endpoint.
        address: IpAddr,
        /// Port of the endpoint.
        port: u16,
    },
}

impl Default for Options {
    fn default() -> Options {
        let v4 = IpNet::new_assert(IpAddr::from([10, 96, 0, 0]), 16);
        let v6 = IpNet::new_assert(IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0]), 112);
        Options {
            service_cidrs: vec![v4, v6],
            node_ports: 30000..=32767,
            history: 100_000,
            bookmark_interval: Duration::from_secs(30),
            access: Access::Open,
            pods_end: PodsEnd::AtOnce,
            kubernetes_service: KubernetesService::Absent,
        }
    }
}
