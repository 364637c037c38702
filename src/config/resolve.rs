//! From the file's fields, with their defaults, to values: every check.
//!
//! Upstream: `pkg/proxy/apis/config/validation/validation.go`, and for the logs
//! `staging/src/k8s.io/component-base/logs/api/v1/options.go`. Each field has two names here: the
//! file's and the one in upstream's messages.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::gates;
use super::problem::Checks;
use super::{
    Config, Conntrack, DetectLocal, GoDuration, Ipvs, KubeProxyConfiguration, LogFormat, Logging,
    Mode, NodePortAddresses, Problem, SyncPeriods, of_both_families,
};
use sluice_core::net::{Family, parse_cidr, parse_ip};

/// A field's name in the file, and in upstream's messages.
type Field<'a> = (&'a str, &'a str);

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const POSITIVE: &str = "must be greater than 0";

impl Checks {
    fn not_negative(&mut self, field: Field<'_>, value: Option<i32>) -> u32 {
        let value = value.unwrap_or_default();
        u32::try_from(value).unwrap_or_else(|_| {
            self.invalid(field, value, NOT_NEGATIVE);
            0
        })
    }

    fn duration(&mut self, field: Field<'_>, value: GoDuration) -> Duration {
        value.to_duration().unwrap_or_else(|| {
            self.invalid(field, value, NOT_NEGATIVE);
            Duration::ZERO
        })
    }

    fn positive(&mut self, field: Field<'_>, value: GoDuration, rule: &str) -> Duration {
        value.to_duration().filter(|value| !value.is_zero()).unwrap_or_else(|| {
            self.invalid(field, value, rule);
            Duration::ZERO
        })
    }

    /// A duration where zero means "keep the kernel's value".
    fn timeout(&mut self, field: Field<'_>, value: GoDuration) -> Option<Duration> {
        Some(self.duration(field, value)).filter(|value| !value.is_zero())
    }

    fn bit(&mut self, field: Field<'_>, value: Option<i32>) -> u8 {
        let value = value.unwrap_or_default();
        u8::try_from(value).ok().filter(|bit| *bit <= 31).unwrap_or_else(|| {
            self.invalid(field, value, "must be within the range [0, 31]");
            0
        })
    }

    fn cidrs(&mut self, (field, path): Field<'_>, texts: &[String], rule: &str) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match parse_cidr(text) {
                Some(net) => nets.push(net),
                None => {
                    let (field, path) = (format!("{field}[{index}]"), format!("{path}[{index}]"));
                    self.invalid((&field, &path), text, rule);
                }
            }
        }
        nets
    }

    /// `ip:port`. Host and port are checked separately. Empty means none.
    fn socket(&mut self, field: Field<'_>, text: &str) -> Option<SocketAddr> {
        if text.is_empty() {
            return None;
        }
        let split = text.rsplit_once(':').and_then(|(host, port)| {
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            if bare.is_none() && host.contains([':', '[', ']']) {
                return None;
            }
            Some((bare.unwrap_or(host), port))
        });
        let Some((host, port)) = split else {
            self.invalid(field, text, "must be IP:port");
            return None;
        };
        let ip = parse_ip(host);
        if ip.is_none() {
            self.invalid(field, host, "must be a valid IP");
        }
        let number = port.parse::<u16>().ok().filter(|port| *port != 0);
        if number.is_none() {
            self.invalid(field, port, "must be a valid port");
        }
        Some(SocketAddr::new(ip?, number?))
    }
}

/// In the order of upstream's checks, so that its messages come in the same order.
pub(super) fn resolve(wire: &KubeProxyConfiguration) -> Result<Config, Vec<Problem>> {
    let checks = &mut Checks::default();
    gates::check(&wire.feature_gates, checks);
    let mode = Mode::from_name(&wire.mode);
    let masquerade_bit = masquerade_bit(wire, mode, checks);
    let ipvs = ipvs(wire, mode, checks);
    let conntrack = conntrack(wire, checks);
    let oom_score_adj = oom_score_adj(wire, checks);
    let mode = mode.unwrap_or_else(|| {
        let rule = "must be iptables, ipvs, nftables, userspace or blank (blank means iptables)";
        checks.invalid(("mode", "Mode.ProxyMode"), &wire.mode, rule);
        Mode::Iptables
    });
    client(wire, checks);
    // Upstream refuses it too; Sluice's watches need no resync.
    let resync = ("configSyncPeriod", "ConfigSyncPeriod");
    checks.positive(resync, wire.config_sync_period, POSITIVE);
    let sync = sync_periods(wire, mode, checks);
    let bind_address = bind_address(wire, checks);
    let healthz_bind_address =
        checks.socket(("healthzBindAddress", "HealthzBindAddress"), &wire.healthz_bind_address);
    let metrics_bind_address =
        checks.socket(("metricsBindAddress", "MetricsBindAddress"), &wire.metrics_bind_address);
    let node_port_addresses = node_port_addresses(wire, checks);
    hidden_metrics(wire, checks);
    let detect_local = detect_local(wire, checks);
    // Upstream looks at clusterCIDR for this in every mode of detection.
    let cluster_cidrs = cluster_cidrs(wire, &mut Checks::default());
    let looks_dual_stack =
        of_both_families(&cluster_cidrs) || of_both_families(&ipvs.exclude_cidrs);
    let config = Config {
        mode,
        kubeconfig: Some(&wire.client_connection.kubeconfig)
            .filter(|path| !path.is_empty())
            .map(Into::into),
        content_type: wire.client_connection.content_type.clone(),
        accept_content_types: wire.client_connection.accept_content_types.clone(),
        hostname_override: Some(wire.hostname_override.clone()).filter(|name| !name.is_empty()),
        bind_address,
        healthz_bind_address,
        metrics_bind_address,
        bind_address_hard_fail: wire.bind_address_hard_fail,
        enable_profiling: wire.enable_profiling,
        feature_gates: wire.feature_gates.clone(),
        detect_local,
        looks_dual_stack,
        node_port_addresses,
        localhost_node_ports: wire.iptables.localhost_node_ports.unwrap_or(true),
        strict_cluster_ips: false,
        masquerade_all: match mode {
            Mode::Nftables => wire.nftables.masquerade_all,
            Mode::Iptables | Mode::Ipvs | Mode::Userspace => wire.iptables.masquerade_all,
        },
        masquerade_bit,
        sync,
        oom_score_adj,
        conntrack,
        ipvs,
        logging: logging(wire, checks),
    };
    if checks.problems.is_empty() { Ok(config) } else { Err(std::mem::take(&mut checks.problems)) }
}

/// The iptables section is checked in every mode, the nftables section in its own. The IPVS mode and the
/// userspace mode read the iptables section.
fn masquerade_bit(wire: &KubeProxyConfiguration, mode: Option<Mode>, checks: &mut Checks) -> u8 {
    let field = ("iptables.masqueradeBit", "KubeProxyIPTablesConfiguration.MasqueradeBit");
    let iptables = checks.bit(field, wire.iptables.masquerade_bit);
    if mode != Some(Mode::Nftables) {
        return iptables;
    }
    let field = ("nftables.masqueradeBit", "KubeProxyNFTablesConfiguration.MasqueradeBit");
    checks.bit(field, wire.nftables.masquerade_bit)
}

/// The section is checked in its own mode only.
fn ipvs(wire: &KubeProxyConfiguration, mode: Option<Mode>, checks: &mut Checks) -> Ipvs {
    let mut unchecked = Checks::default();
    let checks = if mode == Some(Mode::Ipvs) { checks } else { &mut unchecked };
    let section = &wire.ipvs;
    Ipvs {
        tcp_timeout: checks.timeout(
            ("ipvs.tcpTimeout", "KubeProxyIPVSConfiguration.TCPTimeout"),
            section.tcp_timeout,
        ),
        tcp_fin_timeout: checks.timeout(
            ("ipvs.tcpFinTimeout", "KubeProxyIPVSConfiguration.TCPFinTimeout"),
            section.tcp_fin_timeout,
        ),
        udp_timeout: checks.timeout(
            ("ipvs.udpTimeout", "KubeProxyIPVSConfiguration.UDPTimeout"),
            section.udp_timeout,
        ),
        scheduler: section.scheduler.clone(),
        exclude_cidrs: checks.cidrs(
            ("ipvs.excludeCIDRs", "KubeProxyIPVSConfiguration.ExcludeCidrs"),
            &section.exclude_cidrs,
            "must be a valid CIDR",
        ),
        strict_arp: section.strict_arp,
    }
}

fn conntrack(wire: &KubeProxyConfiguration, checks: &mut Checks) -> Conntrack {
    const PATH: &str = "KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration";
    let section = &wire.conntrack;
    let path = |name: &str| format!("{PATH}.{name}");
    let mut timeout = |field: &str, name: &str, value: Option<GoDuration>| {
        checks.timeout((field, &path(name)), value.unwrap_or_default())
    };
    let established = section.tcp_established_timeout;
    let close_wait = section.tcp_close_wait_timeout;
    Conntrack {
        tcp_established: timeout(
            "conntrack.tcpEstablishedTimeout",
            "TCPEstablishedTimeout",
            established,
        ),
        tcp_close_wait: timeout("conntrack.tcpCloseWaitTimeout", "TCPCloseWaitTimeout", close_wait),
        tcp_be_liberal: section.tcp_be_liberal,
        udp: timeout("conntrack.udpTimeout", "UDPTimeout", Some(section.udp_timeout)),
        udp_stream: timeout(
            "conntrack.udpStreamTimeout",
            "UDPStreamTimeout",
            Some(section.udp_stream_timeout),
        ),
        max_per_core: Some(
            checks
                .not_negative(("conntrack.maxPerCore", &path("MaxPerCore")), section.max_per_core),
        )
        .filter(|max| *max != 0),
        min: checks.not_negative(("conntrack.min", &path("Min")), section.min),
    }
}

fn oom_score_adj(wire: &KubeProxyConfiguration, checks: &mut Checks) -> i16 {
    let value = wire.oom_score_adj.unwrap_or_default();
    i16::try_from(value).ok().filter(|score| (-1000..=1000).contains(score)).unwrap_or_else(|| {
        let field = ("oomScoreAdj", "KubeProxyLinuxConfiguration.OOMScoreAdj");
        checks.invalid(field, value, "must be within the range [-1000, 1000]");
        0
    })
}

fn client(wire: &KubeProxyConfiguration, checks: &mut Checks) {
    let field = ("clientConnection.burst", "ClientConnection.Burst");
    checks.not_negative(field, Some(wire.client_connection.burst));
}

fn sync_periods(wire: &KubeProxyConfiguration, mode: Mode, checks: &mut Checks) -> SyncPeriods {
    let (section, min, period) = match mode {
        Mode::Nftables => ("nftables", wire.nftables.min_sync_period, wire.nftables.sync_period),
        Mode::Ipvs => ("ipvs", wire.ipvs.min_sync_period, wire.ipvs.sync_period),
        Mode::Iptables | Mode::Userspace => {
            ("iptables", wire.iptables.min_sync_period, wire.iptables.sync_period)
        }
    };
    let (min_field, period_field) =
        (format!("{section}.minSyncPeriod"), format!("{section}.syncPeriod"));
    let period_field = (period_field.as_str(), "SyncPeriod");
    let periods = SyncPeriods {
        period: checks.positive(period_field, period, POSITIVE),
        min: checks.timeout((&min_field, "MinSyncPeriod"), min),
    };
    if min > period {
        let rule = "must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod";
        checks.invalid(period_field, period, rule);
    }
    periods
}

fn bind_address(wire: &KubeProxyConfiguration, checks: &mut Checks) -> IpAddr {
    parse_ip(&wire.bind_address).unwrap_or_else(|| {
        let rule = "not a valid textual representation of an IP address";
        checks.invalid(("bindAddress", "BindAddress"), &wire.bind_address, rule);
        Family::V4.unspecified()
    })
}

fn node_port_addresses(wire: &KubeProxyConfiguration, checks: &mut Checks) -> NodePortAddresses {
    const FIELD: Field<'_> = ("nodePortAddresses", "NodePortAddresses");
    let texts = wire.node_port_addresses.as_slice();
    match texts {
        [] => return NodePortAddresses::All,
        [only] if only == "primary" => return NodePortAddresses::Primary,
        _ => {}
    }
    let primary = texts.iter().position(|text| text == "primary");
    let nets =
        checks.cidrs(FIELD, &texts[..primary.unwrap_or(texts.len())], "must be a valid CIDR");
    if let Some(index) = primary {
        let (field, path) = (format!("{}[{index}]", FIELD.0), format!("{}[{index}]", FIELD.1));
        checks.invalid((&field, &path), "primary", "can't use both 'primary' and CIDRs");
    }
    NodePortAddresses::Cidrs(nets)
}

/// Upstream allows the previous minor version only, and Sluice hides no metrics.
fn hidden_metrics(wire: &KubeProxyConfiguration, checks: &mut Checks) {
    let version = &wire.show_hidden_metrics_for_version;
    let previous = super::previous_minor();
    if !version.is_empty() && *version != previous {
        let rule = format!("must be omitted or have the value '{previous}'");
        let field = ("showHiddenMetricsForVersion", "ShowHiddenMetricsForVersion");
        checks.invalid(field, version, &rule);
    }
}

fn detect_local(wire: &KubeProxyConfiguration, checks: &mut Checks) -> DetectLocal {
    const BRIDGE: Field<'_> =
        ("detectLocal.bridgeInterface", "DetectLocalConfiguration.InterfaceName");
    const PREFIX: Field<'_> =
        ("detectLocal.interfaceNamePrefix", "DetectLocalConfiguration.InterfacePrefix");
    let section = &wire.detect_local;
    let mut interface = |field, name: &String| {
        if name.is_empty() {
            checks.invalid(field, name, "must not be empty");
        }
        name.clone()
    };
    match wire.detect_local_mode.as_str() {
        "" | "ClusterCIDR" => DetectLocal::ClusterCidr(cluster_cidrs(wire, checks)),
        "NodeCIDR" => DetectLocal::NodeCidr,
        "BridgeInterface" => {
            DetectLocal::BridgeInterface(interface(BRIDGE, &section.bridge_interface))
        }
        "InterfaceNamePrefix" => {
            DetectLocal::InterfaceNamePrefix(interface(PREFIX, &section.interface_name_prefix))
        }
        other => {
            let rule = "supported values: \"BridgeInterface\", \"ClusterCIDR\", \
                        \"InterfaceNamePrefix\", \"NodeCIDR\", \"\"";
            checks.unsupported(("detectLocalMode", "DetectLocalMode"), other, rule);
            DetectLocal::NodeCidr
        }
    }
}

fn cluster_cidrs(wire: &KubeProxyConfiguration, checks: &mut Checks) -> Vec<IpNet> {
    const FIELD: Field<'_> = ("clusterCIDR", "DetectLocalConfiguration.ClusterCIDRs");
    const PAIR: &str = "must be a either a single CIDR or dual-stack pair of CIDRs \
                        (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]";
    if wire.cluster_cidr.is_empty() {
        return Vec::new();
    }
    let texts: Vec<String> =
        wire.cluster_cidr.split(',').map(|text| text.trim().to_owned()).collect();
    if texts.len() > 2 {
        checks.invalid(FIELD, &texts, PAIR);
        return Vec::new();
    }
    let rule = "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)";
    let nets = checks.cidrs(FIELD, &texts, rule);
    if matches!(nets.as_slice(), [a, b] if Family::of_net(a) == Family::of_net(b)) {
        checks.invalid(FIELD, &texts, PAIR);
    }
    nets
}

fn logging(wire: &KubeProxyConfiguration, checks: &mut Checks) -> Logging {
    let section = &wire.logging;
    let flush = ("logging.flushFrequency", "logging.flushFrequency");
    checks.positive(flush, section.flush_frequency, "Must be greater than zero");
    let format = match section.format.as_str() {
        "" | "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => {
            let field = ("logging.format", "logging.format");
            checks.invalid(field, other, "Unsupported log format");
            LogFormat::Text
        }
    };
    if section.verbosity > i32::MAX.unsigned_abs() {
        let field = ("logging.verbosity", "logging.verbosity");
        checks.invalid(field, section.verbosity, &format!("Must be <= {}", i32::MAX));
    }
    vmodule(wire, format, checks);
    let alpha = wire.feature_gates.get(gates::LOGGING_ALPHA) == Some(&true);
    let rule = format!("Feature {} is disabled", gates::LOGGING_ALPHA);
    for (name, options) in [("text", &section.options.text), ("json", &section.options.json)] {
        let field = |field: &str| format!("logging.options.{name}.{field}");
        if options.split_stream && !alpha {
            checks.forbidden((&field("splitStream"), &field("splitStream")), &rule);
        }
        if !options.info_buffer_size.is_zero() && !alpha {
            checks.forbidden((&field("infoBufferSize"), &field("infoBufferSize")), &rule);
        }
    }
    Logging { format, verbosity: section.verbosity }
}

fn vmodule(wire: &KubeProxyConfiguration, format: LogFormat, checks: &mut Checks) {
    let items = &wire.logging.vmodule;
    if !items.is_empty() && format != LogFormat::Text {
        let rule = "Only supported for text log format";
        checks.forbidden(("logging.vmodule", "logging.vmodule"), rule);
    }
    for (index, item) in items.iter().enumerate() {
        let field = format!("logging.vmodule[{index}]");
        let field = (field.as_str(), field.as_str());
        if item.file_pattern.is_empty() {
            checks.required(field, "File pattern must not be empty");
        }
        if item.file_pattern.contains(['=', ',']) {
            let rule = "File pattern must not contain equal sign or comma";
            checks.invalid(field, &item.file_pattern, rule);
        }
        if item.verbosity > i32::MAX.unsigned_abs() {
            checks.invalid(field, item.verbosity, &format!("Must be <= {}", i32::MAX));
        }
    }
}
