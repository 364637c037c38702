//! From the file's fields to values: defaults and checks.
//!
//! Defaults: `pkg/proxy/apis/config/v1alpha1/defaults.go`; checks:
//! `pkg/proxy/apis/config/validation/validation.go`. As there, a zero sync period means its
//! default.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::{
    Config, Conntrack, DetectLocal, GoDuration, Ipvs, KubeProxyConfiguration, LogFormat, Logging,
    Mode, NodePortAddresses, Problem, SyncPeriods,
};
use crate::net::{Family, parse_cidr, parse_ip};

const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// Collects problems while values are read; a field with a problem yields a stand-in.
#[derive(Default)]
struct Checks {
    problems: Vec<Problem>,
}

impl Checks {
    fn problem(&mut self, field: &str, value: impl ToString, rule: &str) {
        self.problems.push(Problem {
            field: field.to_owned(),
            value: value.to_string(),
            rule: rule.to_owned(),
        });
    }

    /// A whole number from `min` to `max`.
    fn number<T: TryFrom<i64> + Copy + Into<i64>>(
        &mut self,
        field: &str,
        value: i64,
        (min, max): (T, T),
    ) -> T {
        match T::try_from(value) {
            Ok(number) if (min.into()..=max.into()).contains(&value) => number,
            _ => {
                let (low, high): (i64, i64) = (min.into(), max.into());
                self.problem(field, value, &format!("must be from {low} to {high}"));
                min
            }
        }
    }

    fn duration(
        &mut self,
        field: &str,
        value: Option<GoDuration>,
        default: GoDuration,
    ) -> Duration {
        let value = value.unwrap_or(default);
        value.to_duration().unwrap_or_else(|| {
            self.problem(field, value, "must not be negative");
            Duration::ZERO
        })
    }

    /// A duration whose zero means "leave it".
    fn timeout(
        &mut self,
        field: &str,
        value: Option<GoDuration>,
        default: GoDuration,
    ) -> Option<Duration> {
        Some(self.duration(field, value, default)).filter(|value| !value.is_zero())
    }

    fn cidr(&mut self, field: &str, text: &str) -> Option<IpNet> {
        let net = parse_cidr(text);
        if net.is_none() {
            self.problem(field, text, "must be a prefix like 10.0.0.0/8 or fd00::/48");
        }
        net
    }

    fn cidrs(&mut self, field: &str, texts: &[String]) -> Vec<IpNet> {
        let indexed = texts.iter().enumerate();
        indexed.filter_map(|(i, text)| self.cidr(&format!("{field}[{i}]"), text)).collect()
    }

    /// `ip:port`, or an address alone with the default port.
    fn socket(&mut self, field: &str, text: Option<&str>, default: SocketAddr) -> SocketAddr {
        let Some(text) = non_empty(text) else { return default };
        if let Some(ip) = parse_ip(text) {
            return SocketAddr::new(ip, default.port());
        }
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
            Some(SocketAddr::new(parse_ip(host)?, port.parse().ok().filter(|port| *port != 0)?))
        });
        parsed.unwrap_or_else(|| {
            self.problem(field, text, "must be IP:port, like 0.0.0.0:10256 or [::]:10256");
            default
        })
    }
}

fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

pub(super) fn resolve(wire: &KubeProxyConfiguration) -> Result<Config, Vec<Problem>> {
    let mut checks = Checks::default();
    let mode = mode(wire, &mut checks);
    let bind_address = bind_address(wire, &mut checks);
    let (healthz, metrics) = default_sockets(bind_address);
    let (detect_local, cluster_cidrs) = detect_local(wire, &mut checks);
    let (masquerade_all, masquerade_bit) = masquerade(wire, mode, &mut checks);
    let config = Config {
        mode,
        client: client(wire, &mut checks),
        hostname_override: non_empty(wire.hostname_override.as_deref()).map(str::to_owned),
        bind_address,
        healthz_bind_address: checks.socket(
            "healthzBindAddress",
            wire.healthz_bind_address.as_deref(),
            healthz,
        ),
        metrics_bind_address: checks.socket(
            "metricsBindAddress",
            wire.metrics_bind_address.as_deref(),
            metrics,
        ),
        bind_address_hard_fail: wire.bind_address_hard_fail.unwrap_or(false),
        enable_profiling: wire.enable_profiling.unwrap_or(false),
        feature_gates: wire.feature_gates.clone().unwrap_or_default(),
        detect_local,
        cluster_cidrs,
        node_port_addresses: node_port_addresses(wire, mode, &mut checks),
        localhost_node_ports: localhost_node_ports(wire),
        masquerade_all,
        masquerade_bit,
        sync: sync_periods(wire, mode, &mut checks),
        config_sync_period: config_sync_period(wire, &mut checks),
        oom_score_adj: checks.number(
            "oomScoreAdj",
            wire.oom_score_adj.unwrap_or(-999),
            (-1000, 1000),
        ),
        conntrack: conntrack(wire, &mut checks),
        ipvs: ipvs(wire, mode, &mut checks),
        logging: logging(wire, &mut checks),
    };
    if checks.problems.is_empty() { Ok(config) } else { Err(checks.problems) }
}

fn mode(wire: &KubeProxyConfiguration, checks: &mut Checks) -> Mode {
    let name = wire.mode.as_deref().unwrap_or_default();
    Mode::from_name(name).unwrap_or_else(|| {
        let rule = "must be nftables, iptables, ipvs, userspace or empty (which means iptables)";
        checks.problem("mode", name, rule);
        Mode::Iptables
    })
}

fn client(wire: &KubeProxyConfiguration, checks: &mut Checks) -> super::ClientConnection {
    let client = wire.client_connection.clone().unwrap_or_default();
    if let Some(burst) = client.burst.filter(|burst| *burst < 0) {
        checks.problem("clientConnection.burst", burst, "must not be negative");
    }
    client
}

fn bind_address(wire: &KubeProxyConfiguration, checks: &mut Checks) -> IpAddr {
    let default = Family::V4.unspecified();
    let Some(text) = non_empty(wire.bind_address.as_deref()) else { return default };
    parse_ip(text).unwrap_or_else(|| {
        checks.problem("bindAddress", text, "must be an IP address");
        default
    })
}

/// Default sockets of health and metrics, of the bind address's family.
fn default_sockets(bind_address: IpAddr) -> (SocketAddr, SocketAddr) {
    let family = Family::of(bind_address);
    let loopback = match family {
        Family::V4 => IpAddr::from([127, 0, 0, 1]),
        Family::V6 => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
    };
    (SocketAddr::new(family.unspecified(), HEALTHZ_PORT), SocketAddr::new(loopback, METRICS_PORT))
}

fn detect_local(wire: &KubeProxyConfiguration, checks: &mut Checks) -> (DetectLocal, Vec<IpNet>) {
    let section = wire.detect_local.clone().unwrap_or_default();
    let mut interface = |field: &str, name: Option<String>| {
        let name = name.unwrap_or_default();
        if name.is_empty() {
            checks.problem(field, &name, "must be set in this detectLocalMode");
        }
        name
    };
    let mode = wire.detect_local_mode.as_deref().unwrap_or_default();
    let detect = match mode {
        "" | "ClusterCIDR" => {
            let cidrs = cluster_cidrs(wire, checks);
            return (DetectLocal::ClusterCidr(cidrs.clone()), cidrs);
        }
        "NodeCIDR" => DetectLocal::NodeCidr,
        "BridgeInterface" => DetectLocal::BridgeInterface(interface(
            "detectLocal.bridgeInterface",
            section.bridge_interface,
        )),
        "InterfaceNamePrefix" => DetectLocal::InterfaceNamePrefix(interface(
            "detectLocal.interfaceNamePrefix",
            section.interface_name_prefix,
        )),
        other => {
            let rule = "must be ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix";
            checks.problem("detectLocalMode", other, rule);
            DetectLocal::NodeCidr
        }
    };
    // In these modes upstream does not look at clusterCIDR, so a bad one is no problem.
    (detect, cluster_cidrs(wire, &mut Checks::default()))
}

fn cluster_cidrs(wire: &KubeProxyConfiguration, checks: &mut Checks) -> Vec<IpNet> {
    let Some(text) = non_empty(wire.cluster_cidr.as_deref()) else { return Vec::new() };
    let cidrs: Vec<IpNet> =
        text.split(',').filter_map(|part| checks.cidr("clusterCIDR", part.trim())).collect();
    let one_family = |a, b| Family::of_net(a) == Family::of_net(b);
    if cidrs.len() > 2 || matches!(cidrs.as_slice(), [a, b] if one_family(a, b)) {
        checks.problem("clusterCIDR", text, "must be one prefix, or one IPv4 and one IPv6 prefix");
    }
    cidrs
}

fn node_port_addresses(
    wire: &KubeProxyConfiguration,
    mode: Mode,
    checks: &mut Checks,
) -> NodePortAddresses {
    const FIELD: &str = "nodePortAddresses";
    let texts = wire.node_port_addresses.as_deref().unwrap_or_default();
    match texts {
        [] if mode == Mode::Nftables => NodePortAddresses::Primary,
        [] => NodePortAddresses::All,
        [only] if only == "primary" => NodePortAddresses::Primary,
        _ if texts.iter().any(|text| text == "primary") => {
            checks.problem(
                FIELD,
                texts.join(","),
                "must be either \"primary\" or a list of prefixes",
            );
            NodePortAddresses::Primary
        }
        _ => NodePortAddresses::Cidrs(checks.cidrs(FIELD, texts)),
    }
}

fn localhost_node_ports(wire: &KubeProxyConfiguration) -> bool {
    wire.iptables.as_ref().and_then(|section| section.localhost_node_ports).unwrap_or(true)
}

/// Whether to masquerade everything, and with which mark bit. The IPVS mode reads the iptables
/// section, and so does the userspace mode.
fn masquerade(wire: &KubeProxyConfiguration, mode: Mode, checks: &mut Checks) -> (bool, u8) {
    let iptables = wire.iptables.clone().unwrap_or_default();
    let nftables = wire.nftables.clone().unwrap_or_default();
    let mut bit = |field, value: Option<i64>| checks.number(field, value.unwrap_or(14), (0_u8, 31));
    let iptables_bit = bit("iptables.masqueradeBit", iptables.masquerade_bit);
    match mode {
        Mode::Nftables => (
            nftables.masquerade_all.unwrap_or(false),
            bit("nftables.masqueradeBit", nftables.masquerade_bit),
        ),
        Mode::Iptables | Mode::Ipvs | Mode::Userspace => {
            (iptables.masquerade_all.unwrap_or(false), iptables_bit)
        }
    }
}

fn sync_periods(wire: &KubeProxyConfiguration, mode: Mode, checks: &mut Checks) -> SyncPeriods {
    let zero = GoDuration::ZERO;
    let second = GoDuration::from_secs(1);
    let (section, min_default, min, period) = match mode {
        Mode::Nftables => {
            let section = wire.nftables.clone().unwrap_or_default();
            ("nftables", second, section.min_sync_period, section.sync_period)
        }
        Mode::Ipvs => {
            let section = wire.ipvs.clone().unwrap_or_default();
            ("ipvs", zero, section.min_sync_period, section.sync_period)
        }
        Mode::Iptables | Mode::Userspace => {
            let section = wire.iptables.clone().unwrap_or_default();
            ("iptables", second, section.min_sync_period, section.sync_period)
        }
    };
    let set = |value: Option<GoDuration>| value.filter(|value| *value != zero);
    let min_field = format!("{section}.minSyncPeriod");
    let period_field = format!("{section}.syncPeriod");
    let min = checks.duration(&min_field, set(min), min_default);
    let period = set(period).unwrap_or(GoDuration::from_secs(30));
    let period_duration = checks.duration(&period_field, Some(period), period);
    if period > zero && min > period_duration {
        checks.problem(&period_field, period, &format!("must not be less than {min_field}"));
    }
    SyncPeriods { min, period: period_duration }
}

fn config_sync_period(wire: &KubeProxyConfiguration, checks: &mut Checks) -> Duration {
    let set = wire.config_sync_period.filter(|period| *period != GoDuration::ZERO);
    checks.duration("configSyncPeriod", set, GoDuration::from_secs(15 * 60))
}

fn conntrack(wire: &KubeProxyConfiguration, checks: &mut Checks) -> Conntrack {
    let section = wire.conntrack.clone().unwrap_or_default();
    let zero = GoDuration::ZERO;
    let hour = GoDuration::from_secs(3600);
    let day = GoDuration::from_secs(24 * 3600);
    // The API's type is a signed 32-bit integer.
    let limits = (0_u32, i32::MAX.unsigned_abs());
    let max_per_core =
        checks.number("conntrack.maxPerCore", section.max_per_core.unwrap_or(32 * 1024), limits);
    Conntrack {
        max_per_core: Some(max_per_core).filter(|max| *max != 0),
        min: checks.number("conntrack.min", section.min.unwrap_or(128 * 1024), limits),
        tcp_established: checks.timeout(
            "conntrack.tcpEstablishedTimeout",
            section.tcp_established_timeout,
            day,
        ),
        tcp_close_wait: checks.timeout(
            "conntrack.tcpCloseWaitTimeout",
            section.tcp_close_wait_timeout,
            hour,
        ),
        tcp_be_liberal: section.tcp_be_liberal.unwrap_or(false),
        udp: checks.timeout("conntrack.udpTimeout", section.udp_timeout, zero),
        udp_stream: checks.timeout("conntrack.udpStreamTimeout", section.udp_stream_timeout, zero),
    }
}

/// As upstream, the section is checked in its own mode only.
fn ipvs(wire: &KubeProxyConfiguration, mode: Mode, checks: &mut Checks) -> Ipvs {
    let mut unchecked = Checks::default();
    let checks = if mode == Mode::Ipvs { checks } else { &mut unchecked };
    let section = wire.ipvs.clone().unwrap_or_default();
    let zero = GoDuration::ZERO;
    let excluded = section.exclude_cidrs.unwrap_or_default();
    Ipvs {
        scheduler: section.scheduler.unwrap_or_default(),
        exclude_cidrs: checks.cidrs("ipvs.excludeCIDRs", &excluded),
        strict_arp: section.strict_arp.unwrap_or(false),
        tcp_timeout: checks.timeout("ipvs.tcpTimeout", section.tcp_timeout, zero),
        tcp_fin_timeout: checks.timeout("ipvs.tcpFinTimeout", section.tcp_fin_timeout, zero),
        udp_timeout: checks.timeout("ipvs.udpTimeout", section.udp_timeout, zero),
    }
}

fn logging(wire: &KubeProxyConfiguration, checks: &mut Checks) -> Logging {
    let section = wire.logging.clone().unwrap_or_default();
    let format = match section.format.as_deref() {
        None | Some("" | "text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            checks.problem("logging.format", other, "must be text or json");
            LogFormat::Text
        }
    };
    let limits = (0_u32, i32::MAX.unsigned_abs());
    let verbosity = checks.number("logging.verbosity", section.verbosity.unwrap_or(0), limits);
    Logging { format, verbosity }
}
