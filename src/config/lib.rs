//! The configuration: kube-proxy's own file format, `kubeproxy.config.k8s.io/v1alpha1`.
//!
//! [`KubeProxyConfiguration`] is the file as written; [`with_defaults`](KubeProxyConfiguration::with_defaults) adds
//! defaults. [`Config`] is its meaning after all checks. Flags that have a field in the file fill a
//! [`KubeProxyConfiguration`] too, so that everything passes through [`Config::new`]. [`change`] has which changes of
//! the file take effect at run time.

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

/// The proxy mode.
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
    /// The mode with this name in the file or the flag.
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

/// How traffic from pods is recognized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DetectLocal {
    /// By the cluster's pod addresses, at most one prefix of each family; an empty list recognizes nothing.
    ClusterCidr(Vec<IpNet>),
    /// By `spec.podCIDRs` of this Node.
    NodeCidr,
    /// By the pods' bridge.
    BridgeInterface(String),
    /// By a prefix of the names of the pods' interfaces.
    InterfaceNamePrefix(String),
}

/// On which node addresses node ports are open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The primary addresses of the Node object.
    Primary,
    /// Local addresses within these CIDRs. A family without one is not restricted.
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

/// When syncs run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncPeriods {
    /// The least time between two syncs, if one is set; otherwise their cost decides.
    pub min: Option<Duration>,
    /// How often the kernel is checked, and the longest pause after a failed sync. A change that waits for
    /// twice as long makes the proxy unhealthy.
    pub period: Duration,
}

/// Limits of the kernel's connection tracking; `None` or zero leaves the kernel's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries per CPU core.
    pub max_per_core: Option<u32>,
    /// Minimum number of entries, for any number of cores.
    pub min: u32,
    /// Timeout of idle established TCP connections.
    pub tcp_established: Option<Duration>,
    /// Timeout of TCP connections in CLOSE_WAIT.
    pub tcp_close_wait: Option<Duration>,
    /// Whether TCP segments outside the window are accepted.
    pub tcp_be_liberal: bool,
    /// Timeout of UDP flows without a reply.
    pub udp: Option<Duration>,
    /// Timeout of UDP flows with replies.
    pub udp_stream: Option<Duration>,
}

/// Settings of the IPVS mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipvs {
    /// The scheduler's name in the kernel; empty means `rr`.
    pub scheduler: String,
    /// Virtual services in these CIDRs are not touched.
    pub exclude_cidrs: Vec<IpNet>,
    /// Whether to set `arp_ignore` and `arp_announce`.
    pub strict_arp: bool,
    /// Timeout of idle TCP sessions; `None` keeps the kernel's value.
    pub tcp_timeout: Option<Duration>,
    /// Timeout of TCP sessions after FIN; `None` keeps the kernel's value.
    pub tcp_fin_timeout: Option<Duration>,
    /// Timeout of idle UDP sessions; `None` keeps the kernel's value.
    pub udp_timeout: Option<Duration>,
}

/// Log settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// The format of a line.
    pub format: LogFormat,
    /// klog's verbosity: 0 for operators, 4 and more for developers.
    pub verbosity: u32,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text.
    Text,
    /// JSON.
    Json,
}

/// The configuration with defaults filled in and every check passed.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The mode.
    pub mode: Mode,
    /// The kubeconfig file; without one, the Pod's service account is used.
    pub kubeconfig: Option<PathBuf>,
    /// The encoding that the API server is asked for.
    pub content_type: String,
    /// The encodings that it is asked for instead; empty for none.
    pub accept_content_types: String,
    /// The Node object's name, if it differs from the host name.
    pub hostname_override: Option<String>,
    /// The node's primary address, and so its primary IP family; nothing is bound to it. Unspecified by default.
    pub bind_address: IpAddr,
    /// Address of `/healthz` and `/livez`, if enabled.
    pub healthz_bind_address: Option<SocketAddr>,
    /// Address of `/metrics` and `/proxyMode`, if enabled.
    pub metrics_bind_address: Option<SocketAddr>,
    /// Whether to exit if an address cannot be bound.
    pub bind_address_hard_fail: bool,
    /// Whether `/debug` paths are served.
    pub enable_profiling: bool,
    /// `featureGates`.
    pub feature_gates: std::collections::BTreeMap<String, bool>,
    /// How traffic from pods is recognized.
    pub detect_local: DetectLocal,
    /// Whether `clusterCIDR` or `ipvs.excludeCIDRs` has prefixes of both families, in every mode.
    pub looks_dual_stack: bool,
    /// On which addresses node ports are open.
    pub node_port_addresses: NodePortAddresses,
    /// Whether node ports are open on 127.0.0.1 (iptables mode and IPv4 only).
    pub localhost_node_ports: bool,
    /// Whether all modes guard cluster IPs as the nftables mode does. Set by the flag `--strict-cluster-ips`; the file has
    /// no such field.
    pub strict_cluster_ips: bool,
    /// Whether all traffic to cluster IPs is masqueraded.
    pub masquerade_all: bool,
    /// Which bit of the packet mark requests masquerading: 0 to 31.
    pub masquerade_bit: u8,
    /// When syncs run.
    pub sync: SyncPeriods,
    /// The OOM score adjustment, -1000 to 1000.
    pub oom_score_adj: i16,
    /// Conntrack limits.
    pub conntrack: Conntrack,
    /// Settings of the IPVS mode.
    pub ipvs: Ipvs,
    /// Log settings.
    pub logging: Logging,
}

fn of_both_families(nets: &[IpNet]) -> bool {
    Family::BOTH.iter().all(|family| nets.iter().any(|net| Family::of_net(net) == *family))
}

impl Config {
    /// Checks everything and reports all problems at once. Apply
    /// [`with_defaults`](KubeProxyConfiguration::with_defaults) and [`for_linux`](KubeProxyConfiguration::for_linux)
    /// first.
    ///
    /// # Errors
    /// One [`Problem`] per invalid field.
    pub fn new(wire: &KubeProxyConfiguration) -> Result<Config, Vec<Problem>> {
        resolve::resolve(wire)
    }

    /// Warnings about a valid configuration that is probably not intended (upstream: `cmd/kube-proxy/app/server.go`,
    /// checkBadConfig).
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        match &self.node_port_addresses {
            NodePortAddresses::Primary => {}
            NodePortAddresses::All => remarks.push(
                "nodePortAddresses is unset; NodePort connections will be accepted on all local IPs. \
                 Consider using `--nodeport-addresses primary`"
                    .to_owned(),
            ),
            NodePortAddresses::Cidrs(nets) => {
                let lacks_one = self.looks_dual_stack && !of_both_families(nets);
                if let (true, Some(net)) = (lacks_one, nets.first()) {
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

    /// Whether node ports of a family may be open on localhost, if `node_port_addresses` includes it.
    pub fn can_open_localhost(&self, family: Family) -> bool {
        match self.mode {
            Mode::Iptables => family == Family::V4 && self.localhost_node_ports,
            Mode::Userspace => true,
            Mode::Nftables | Mode::Ipvs => false,
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
