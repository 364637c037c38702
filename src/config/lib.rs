//! The configuration: kube-proxy's own file format, `kubeproxy.config.k8s.io/v1alpha1`.
//!
//! [`KubeProxyConfiguration`] is the file as it is written; its defaults are filled in by
//! [`with_defaults`](KubeProxyConfiguration::with_defaults). [`Config`] is what it means after all
//! checks. Flags that stand for file fields fill a [`KubeProxyConfiguration`] too, so that there is
//! one way through [`Config::new`]. [`change`] says what a changed file means for a running daemon.

pub mod change;
mod defaults;
mod duration;
mod file;
mod gates;
mod problem;
mod quantity;
mod resolve;
mod version;
mod wire;

#[cfg(test)]
mod canonical_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use sluice_core::net::Family;

pub use defaults::{HEALTHZ_PORT, METRICS_PORT, with_port};
pub use duration::{BadDuration, GoDuration};
pub use file::{ConfigError, Loaded, load, parse, read};
pub use problem::Problem;
pub use quantity::Quantity;
use version::previous_minor;
pub use version::{KUBERNETES, version};
pub use wire::{
    ClientConnection, ConntrackSection, DetectLocalSection, IptablesSection, IpvsSection,
    KubeProxyConfiguration, LogRouting, LoggingOptions, LoggingSection, NftablesSection, VModule,
    WinkernelSection,
};

/// Which kernel mechanism carries the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// nf_tables maps over netlink.
    Nftables,
    /// iptables chains. Also what an empty `mode` means.
    Iptables,
    /// IPVS.
    Ipvs,
    /// Sluice's own sockets. kube-proxy dropped this mode in 1.26.
    Userspace,
}

impl Mode {
    /// The mode that the file or the flag calls by this name.
    pub fn from_name(name: &str) -> Option<Mode> {
        match name {
            "nftables" => Some(Mode::Nftables),
            "" | "iptables" => Some(Mode::Iptables),
            "ipvs" => Some(Mode::Ipvs),
            "userspace" => Some(Mode::Userspace),
            _ => None,
        }
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

/// How traffic of this node's pods is recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DetectLocal {
    /// By the cluster's pod addresses; an empty list recognizes nothing.
    ClusterCidr(Vec<IpNet>),
    /// By `spec.podCIDRs` of the own Node.
    NodeCidr,
    /// By the bridge that pods hang on.
    BridgeInterface(String),
    /// By the names of the interfaces that lead to pods.
    InterfaceNamePrefix(String),
}

/// On which of the node's addresses NodePorts answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The addresses by which the Node object knows the node.
    Primary,
    /// Local addresses within these prefixes. A family that no prefix belongs to is not restricted.
    Cidrs(Vec<IpNet>),
    /// Every local address.
    All,
}

impl NodePortAddresses {
    /// Whether 127.0.0.1 may be one of them (upstream: `pkg/proxy/util/nodeport_addresses.go`,
    /// ContainsIPv4Loopback).
    pub fn include_localhost(&self) -> bool {
        const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        match self {
            NodePortAddresses::Primary => false,
            NodePortAddresses::All => true,
            NodePortAddresses::Cidrs(nets) => {
                let mut v4 = nets.iter().filter_map(|net| match net {
                    IpNet::V4(net) => Some(net),
                    IpNet::V6(_) => None,
                });
                let unrestricted = v4.clone().next().is_none();
                unrestricted || v4.any(|net| net.contains(&LOOPBACK) || LOOPBACK.contains(net))
            }
        }
    }
}

/// When the kernel is brought up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncPeriods {
    /// The least time between two syncs.
    pub min: Duration,
    /// How long a failed sync waits for the next try.
    pub period: Duration,
}

/// Limits of the kernel's connection tracking; `None` or zero leaves the kernel's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries per CPU core.
    pub max_per_core: Option<u32>,
    /// Entries at least, whatever the number of cores.
    pub min: u32,
    /// Life of an idle established TCP connection.
    pub tcp_established: Option<Duration>,
    /// Life of a TCP connection in CLOSE_WAIT.
    pub tcp_close_wait: Option<Duration>,
    /// Whether TCP segments outside of the window are tolerated.
    pub tcp_be_liberal: bool,
    /// Life of a UDP flow without a reply.
    pub udp: Option<Duration>,
    /// Life of a UDP flow with replies.
    pub udp_stream: Option<Duration>,
}

/// What only the IPVS mode reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipvs {
    /// The scheduler's name in the kernel; empty means `rr`.
    pub scheduler: String,
    /// Virtual services in these prefixes are not Sluice's to remove.
    pub exclude_cidrs: Vec<IpNet>,
    /// Whether to set `arp_ignore` and `arp_announce`.
    pub strict_arp: bool,
    /// Life of an idle TCP session; `None` leaves the kernel's value.
    pub tcp_timeout: Option<Duration>,
    /// Life of a TCP session after FIN; `None` leaves the kernel's value.
    pub tcp_fin_timeout: Option<Duration>,
    /// Life of an idle UDP session; `None` leaves the kernel's value.
    pub udp_timeout: Option<Duration>,
}

/// The logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// How a line looks.
    pub format: LogFormat,
    /// klog's verbosity: 0 for operators, 4 and more for developers.
    pub verbosity: u32,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The configuration with defaults filled in and every check passed.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The mode.
    pub mode: Mode,
    /// The kubeconfig file that says where the API server is; without one, the Pod's service
    /// account is used.
    pub kubeconfig: Option<PathBuf>,
    /// The Node object's name if it is not the host name.
    pub hostname_override: Option<String>,
    /// kube-proxy's hint for the node's address, and so for the primary IP family; nothing is bound
    /// to it. Unspecified by default.
    pub bind_address: IpAddr,
    /// Where `/healthz` and `/livez` are served, if they are.
    pub healthz_bind_address: Option<SocketAddr>,
    /// Where `/metrics` and `/proxyMode` are served, if they are.
    pub metrics_bind_address: Option<SocketAddr>,
    /// Whether an address that cannot be bound ends the program.
    pub bind_address_hard_fail: bool,
    /// Whether profiles are served.
    pub enable_profiling: bool,
    /// `featureGates`.
    pub feature_gates: std::collections::BTreeMap<String, bool>,
    /// How traffic of this node's pods is recognized.
    pub detect_local: DetectLocal,
    /// The cluster's pod addresses, at most one prefix of each family; used only by
    /// [`DetectLocal::ClusterCidr`].
    pub cluster_cidrs: Vec<IpNet>,
    /// On which addresses NodePorts answer.
    pub node_port_addresses: NodePortAddresses,
    /// Whether NodePorts answer on 127.0.0.1 (iptables mode and IPv4 only).
    pub localhost_node_ports: bool,
    /// Whether every mode guards cluster IPs as strictly as the nftables mode. No field of the file says
    /// it, only the flag `--strict-cluster-ips`.
    pub strict_cluster_ips: bool,
    /// Whether all traffic to cluster IPs is masqueraded.
    pub masquerade_all: bool,
    /// Which bit of the packet mark says "masquerade": 0 to 31.
    pub masquerade_bit: u8,
    /// When the kernel is brought up to date.
    pub sync: SyncPeriods,
    /// `configSyncPeriod`: kube-proxy's informer resync. Sluice's watches need none.
    pub config_sync_period: Duration,
    /// The OOM killer's bias against this process, -1000 to 1000.
    pub oom_score_adj: i16,
    /// Connection tracking.
    pub conntrack: Conntrack,
    /// What only the IPVS mode reads.
    pub ipvs: Ipvs,
    /// The logs.
    pub logging: Logging,
}

impl Config {
    /// Checks everything; all problems are reported at once. Defaults are to be filled in before, with
    /// [`with_defaults`](KubeProxyConfiguration::with_defaults) and
    /// [`for_linux`](KubeProxyConfiguration::for_linux).
    ///
    /// # Errors
    /// One [`Problem`] for each field that cannot be used.
    pub fn new(wire: &KubeProxyConfiguration) -> Result<Config, Vec<Problem>> {
        resolve::resolve(wire)
    }

    /// What is to be said about a configuration that can be used, but may not be meant
    /// (upstream: `cmd/kube-proxy/app/server.go`, checkBadConfig).
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        let both = |nets: &[IpNet]| {
            Family::BOTH.iter().all(|f| nets.iter().any(|n| Family::of_net(n) == *f))
        };
        match &self.node_port_addresses {
            NodePortAddresses::Primary => {}
            NodePortAddresses::All => remarks.push(
                "nodePortAddresses is unset; NodePort connections will be accepted on all local IPs. \
                 Consider using `--nodeport-addresses primary`"
                    .to_owned(),
            ),
            NodePortAddresses::Cidrs(nets) => {
                let dual = both(&self.cluster_cidrs) || both(&self.ipvs.exclude_cidrs);
                if let (true, Some(net)) = (dual && !both(nets), nets.first()) {
                    let (there, missing) = match Family::of_net(net) {
                        Family::V4 => (Family::V4, Family::V6),
                        Family::V6 => (Family::V6, Family::V4),
                    };
                    remarks.push(format!(
                        "cluster appears to be dual-stack but nodePortAddresses contains only {there} \
                         addresses; NodePort connections will be accepted on all local {missing} IPs"
                    ));
                }
            }
        }
        remarks.extend(self.localhost_remark());
        remarks.extend(gates::warnings(&self.feature_gates));
        remarks
    }

    /// Whether NodePorts of a family may answer on localhost, where it is one of their addresses.
    pub fn can_open_localhost(&self, family: Family) -> bool {
        match self.mode {
            Mode::Iptables => family == Family::V4 && self.localhost_node_ports,
            Mode::Userspace => true,
            _ => false,
        }
    }

    fn localhost_remark(&self) -> Option<String> {
        let NodePortAddresses::Cidrs(nets) = &self.node_port_addresses else { return None };
        let named = nets.iter().find(|net| net.addr().is_loopback())?;
        (!self.can_open_localhost(Family::of_net(named))).then(|| {
            format!(
                "nodePortAddresses contains {named}, but NodePorts do not answer on localhost: they do in \
                 mode userspace, and in mode iptables in IPv4 with iptables.localhostNodePorts"
            )
        })
    }
}
