//! Every flag of kube-proxy 1.36 that has a field in the configuration file, and those that are accepted
//! without effect. Upstream: `cmd/kube-proxy/app/options.go`, AddFlags.

use self::Scope::{Deprecated, Field, Logging, Nothing};
use self::Shape::{Switch, Value};
use sluice_config::{GoDuration, KubeProxyConfiguration, Quantity, VModule};
use sluice_core::net::parse_ip;

/// How a flag is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `--flag` or `--flag=false`; the value never is an argument of its own.
    Switch,
    /// `--flag=value` or `--flag value`; the name of the value in the help text.
    Value(&'static str),
}

/// Which configuration a flag changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The one of flags; ignored with `--config`.
    Field,
    /// The one of the file as well.
    Logging,
    /// As [`Scope::Field`], and there is a better flag.
    Deprecated,
    /// None: the flag is accepted because kube-proxy has it.
    Nothing,
}

/// A row of the table.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) scope: Scope,
    pub(super) help: &'static str,
    pub(super) set: Set,
}

/// Sets the field, or returns what is wrong with the value.
pub(super) type Set = fn(&mut Target, &str) -> Result<(), String>;

/// What flags change.
#[derive(Debug, Clone, Default)]
pub(super) struct Target {
    pub(super) wire: KubeProxyConfiguration,
    /// Flags whose field depends on the mode, which another flag may say.
    pub(super) masquerade_all: Option<bool>,
    pub(super) iptables_period: Option<GoDuration>,
    pub(super) iptables_min_period: Option<GoDuration>,
    pub(super) ipvs_period: Option<GoDuration>,
    pub(super) ipvs_min_period: Option<GoDuration>,
    pub(super) healthz_port: Option<u16>,
    pub(super) metrics_port: Option<u16>,
}

const fn flag(
    name: &'static str,
    shape: Shape,
    scope: Scope,
    help: &'static str,
    set: Set,
) -> Flag {
    Flag { name, shape, scope, help, set }
}

/// The table. The help text of a flag without effect gives the reason.
#[rustfmt::skip] // three lines a flag
pub(super) const FLAGS: &[Flag] = &[
    flag("bind-address", Value("IP"), Field,
        "This node's primary address. No socket is bound to it",
        |t, v| ip(v).map(|ip| put(&mut t.wire.bind_address, ip))),
    flag("bind-address-hard-fail", Switch, Field,
        "Exit if an address cannot be bound, instead of retrying",
        |t, v| switch(v).map(|on| t.wire.bind_address_hard_fail = on)),
    flag("cluster-cidr", Value("CIDRS"), Field,
        "The pods' addresses, for --detect-local-mode=ClusterCIDR: one CIDR, or one of each family",
        |t, v| text(v, &mut t.wire.cluster_cidr)),
    flag("config-sync-period", Value("DURATION"), Nothing,
        "watches need no refresh",
        |t, v| duration(v).map(|d| t.wire.config_sync_period = d)),
    flag("conntrack-max-per-core", Value("N"), Field,
        "Connections to track for each CPU; 0 leaves the kernel's limit and --conntrack-min aside",
        |t, v| number(v).map(|n| t.wire.conntrack.max_per_core = Some(n))),
    flag("conntrack-min", Value("N"), Field,
        "Minimum number of connections to track, for any number of CPUs",
        |t, v| number(v).map(|n| t.wire.conntrack.min = Some(n))),
    flag("conntrack-tcp-be-liberal", Switch, Field,
        "Accept TCP segments outside the window",
        |t, v| switch(v).map(|on| t.wire.conntrack.tcp_be_liberal = on)),
    flag("conntrack-tcp-timeout-close-wait", Value("DURATION"), Field,
        "How long a TCP connection in CLOSE_WAIT is tracked",
        |t, v| duration(v).map(|d| t.wire.conntrack.tcp_close_wait_timeout = Some(d))),
    flag("conntrack-tcp-timeout-established", Value("DURATION"), Field,
        "How long an idle TCP connection is tracked; 0 leaves the kernel's value",
        |t, v| duration(v).map(|d| t.wire.conntrack.tcp_established_timeout = Some(d))),
    flag("conntrack-udp-timeout", Value("DURATION"), Field,
        "How long a UDP flow without a reply is tracked; 0 leaves the kernel's value",
        |t, v| duration(v).map(|d| t.wire.conntrack.udp_timeout = d)),
    flag("conntrack-udp-timeout-stream", Value("DURATION"), Field,
        "How long a UDP flow with replies is tracked; 0 leaves the kernel's value",
        |t, v| duration(v).map(|d| t.wire.conntrack.udp_stream_timeout = d)),
    flag("detect-local-mode", Value("MODE"), Field,
        "How traffic from pods is recognized: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
        |t, v| text(v, &mut t.wire.detect_local_mode)),
    flag("feature-gates", Value("NAME=BOOL,..."), Field,
        "Upstream's feature gates",
        gates),
    flag("healthz-bind-address", Value("ADDRESS"), Field,
        "Where /healthz and /livez are served; 0.0.0.0:10256 by default, disabled if empty",
        |t, v| socket(v).map(|s| put(&mut t.wire.healthz_bind_address, s))),
    flag("healthz-port", Value("PORT"), Deprecated,
        "Use --healthz-bind-address. The port of /healthz; 0 is off",
        |t, v| port(v).map(|n| t.healthz_port = Some(n))),
    flag("iptables-localhost-nodeports", Switch, Field,
        "Serve NodePorts on 127.0.0.1; iptables mode only",
        |t, v| switch(v).map(|on| t.wire.iptables.localhost_node_ports = Some(on))),
    flag("iptables-masquerade-bit", Value("BIT"), Field,
        "The bit of the packet mark that requests masquerading, 0 to 31, in the modes other than nftables",
        |t, v| number(v).map(|n| t.wire.iptables.masquerade_bit = Some(n))),
    flag("iptables-min-sync-period", Value("DURATION"), Field,
        "Minimum time between two syncs, in every mode but ipvs; 0 is as --sync-cpu-percent says",
        |t, v| duration(v).map(|d| t.iptables_min_period = Some(d))),
    flag("iptables-sync-period", Value("DURATION"), Field,
        "How often rules are checked, and the longest pause after a failure, in every mode but ipvs",
        |t, v| duration(v).map(|d| t.iptables_period = Some(d))),
    flag("ipvs-exclude-cidrs", Value("CIDRS"), Field,
        "Virtual services in these prefixes are left alone",
        |t, v| list(v, &mut t.wire.ipvs.exclude_cidrs)),
    flag("ipvs-min-sync-period", Value("DURATION"), Field,
        "Minimum time between two syncs in ipvs mode; 0 is as --sync-cpu-percent says",
        |t, v| duration(v).map(|d| t.ipvs_min_period = Some(d))),
    flag("ipvs-scheduler", Value("NAME"), Field,
        "The IPVS scheduler; rr by default",
        |t, v| text(v, &mut t.wire.ipvs.scheduler)),
    flag("ipvs-strict-arp", Switch, Field,
        "Set arp_ignore to 1 and arp_announce to 2",
        |t, v| switch(v).map(|on| t.wire.ipvs.strict_arp = on)),
    flag("ipvs-sync-period", Value("DURATION"), Field,
        "How often virtual services are checked in ipvs mode",
        |t, v| duration(v).map(|d| t.ipvs_period = Some(d))),
    flag("ipvs-tcp-timeout", Value("DURATION"), Field,
        "How long idle IPVS TCP connections live; 0 leaves the kernel's value",
        |t, v| duration(v).map(|d| t.wire.ipvs.tcp_timeout = d)),
    flag("ipvs-tcpfin-timeout", Value("DURATION"), Field,
        "How long IPVS TCP connections live after a FIN; 0 leaves the kernel's value",
        |t, v| duration(v).map(|d| t.wire.ipvs.tcp_fin_timeout = d)),
    flag("ipvs-udp-timeout", Value("DURATION"), Field,
        "How long IPVS UDP flows live; 0 leaves the kernel's value",
        |t, v| duration(v).map(|d| t.wire.ipvs.udp_timeout = d)),
    flag("kube-api-content-type", Value("TYPE"), Field,
        "The encoding that the API server is asked for, JSON or protobuf",
        |t, v| text(v, &mut t.wire.client_connection.content_type)),
    flag("kubeconfig", Value("FILE"), Field,
        "The kubeconfig file",
        |t, v| text(v, &mut t.wire.client_connection.kubeconfig)),
    flag("masquerade-all", Switch, Field,
        "Masquerade all traffic to cluster IPs",
        |t, v| switch(v).map(|on| t.masquerade_all = Some(on))),
    flag("metrics-bind-address", Value("ADDRESS"), Field,
        "Where /metrics is served; 127.0.0.1:10249 by default, disabled if empty",
        |t, v| socket(v).map(|s| put(&mut t.wire.metrics_bind_address, s))),
    flag("metrics-port", Value("PORT"), Deprecated,
        "Use --metrics-bind-address. The port of /metrics; 0 is off",
        |t, v| port(v).map(|n| t.metrics_port = Some(n))),
    flag("nodeport-addresses", Value("CIDRS"), Field,
        "Serve NodePorts on local addresses in these prefixes only, or on the Node's own with `primary`",
        |t, v| list(v, &mut t.wire.node_port_addresses)),
    flag("oom-score-adj", Value("N"), Field,
        "The OOM score adjustment of this process, -1000 to 1000",
        |t, v| number(v).map(|n| t.wire.oom_score_adj = Some(n))),
    flag("pod-bridge-interface", Value("NAME"), Field,
        "The bridge of --detect-local-mode=BridgeInterface",
        |t, v| text(v, &mut t.wire.detect_local.bridge_interface)),
    flag("pod-interface-name-prefix", Value("PREFIX"), Field,
        "The prefix of --detect-local-mode=InterfaceNamePrefix",
        |t, v| text(v, &mut t.wire.detect_local.interface_name_prefix)),
    flag("profiling", Switch, Field,
        "Serve profiles",
        |t, v| switch(v).map(|on| t.wire.enable_profiling = on)),
    flag("proxy-mode", Value("MODE"), Field,
        "The proxy mode: nftables, iptables, ipvs or userspace; iptables by default",
        |t, v| text(v, &mut t.wire.mode)),
    flag("show-hidden-metrics-for-version", Value("VERSION"), Nothing,
        "no metrics are hidden",
        |t, v| text(v, &mut t.wire.show_hidden_metrics_for_version)),
    flag("v", Value("LEVEL"), Logging,
        "How much is logged: 0 for operators, 2 for every sync, 4 and more for developers",
        |t, v| level(v).map(|n| t.wire.logging.verbosity = n)),
    flag("logging-format", Value("FORMAT"), Logging,
        "text or json",
        |t, v| text(v, &mut t.wire.logging.format)),
    flag("vmodule", Value("PATTERN=N,..."), Logging,
        "Has no effect: the patterns mean files of Go code",
        vmodule),
    flag("log-flush-frequency", Value("DURATION"), Logging,
        "Has no effect: every line is written at once",
        |t, v| duration(v).map(|d| t.wire.logging.flush_frequency = d)),
    flag("log-json-info-buffer-size", Value("QUANTITY"), Logging,
        "Has no effect: every line is written at once",
        |t, v| quantity(v).map(|q| t.wire.logging.options.json.info_buffer_size = q)),
    flag("log-json-split-stream", Switch, Logging,
        "Has no effect: the log goes to standard error",
        |t, v| switch(v).map(|on| t.wire.logging.options.json.split_stream = on)),
    flag("log-text-info-buffer-size", Value("QUANTITY"), Logging,
        "Has no effect: every line is written at once",
        |t, v| quantity(v).map(|q| t.wire.logging.options.text.info_buffer_size = q)),
    flag("log-text-split-stream", Switch, Logging,
        "Has no effect: the log goes to standard error",
        |t, v| switch(v).map(|on| t.wire.logging.options.text.split_stream = on)),
    flag("boot-id-file", Value("FILES"), Nothing,
        "nobody reads boot ids",
        |_, _| Ok(())),
    flag("machine-id-file", Value("FILES"), Nothing,
        "nobody reads machine ids",
        |_, _| Ok(())),
    flag("kube-api-burst", Value("N"), Nothing,
        "four watches need no rate limit",
        |t, v| number(v).map(|n| t.wire.client_connection.burst = n)),
    flag("kube-api-qps", Value("N"), Nothing,
        "four watches need no rate limit",
        |t, v| decimal(v).map(|n| t.wire.client_connection.qps = n)),
];

fn text(text: &str, field: &mut String) -> Result<(), String> {
    text.clone_into(field);
    Ok(())
}

fn put(field: &mut String, value: String) {
    *field = value;
}

/// As Go's `strconv.ParseBool`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

fn number(text: &str) -> Result<i32, String> {
    text.parse().map_err(|_| "it is not a whole number of 32 bits".to_owned())
}

fn decimal(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| "it is not a number".to_owned())
}

fn level(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "it is not a level from 0 up".to_owned())
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "it is not a port".to_owned())
}

fn duration(text: &str) -> Result<GoDuration, String> {
    text.parse().map_err(|error: sluice_config::BadDuration| error.to_string())
}

fn quantity(text: &str) -> Result<Quantity, String> {
    text.parse()
}

/// An address; an empty one leaves the default, as in upstream.
fn ip(text: &str) -> Result<String, String> {
    match parse_ip(text) {
        Some(_) => Ok(text.to_owned()),
        None if text.is_empty() => Ok("0.0.0.0".to_owned()),
        None => Err("it is not an IP address".to_owned()),
    }
}

/// An address, with a port or without; an empty one is off.
fn socket(text: &str) -> Result<String, String> {
    let host = text.rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']));
    if text.is_empty() || parse_ip(text).is_some() || host.and_then(parse_ip).is_some() {
        return Ok(text.to_owned());
    }
    Err("it is not an IP address, with a port or without".to_owned())
}

/// Values between commas; of a repeated flag all of them.
fn list(text: &str, field: &mut Vec<String>) -> Result<(), String> {
    field.extend(text.split(',').filter(|part| !part.is_empty()).map(str::to_owned));
    Ok(())
}

fn gates(target: &mut Target, text: &str) -> Result<(), String> {
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, on) = pair.split_once('=').ok_or("write it like Name=true,Other=false")?;
        target.wire.feature_gates.insert(name.trim().to_owned(), switch(on.trim())?);
    }
    Ok(())
}

fn vmodule(target: &mut Target, text: &str) -> Result<(), String> {
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (pattern, verbosity) = pair.split_once('=').ok_or("write it like pattern=2,other=4")?;
        let item = VModule { file_pattern: pattern.to_owned(), verbosity: level(verbosity)? };
        target.wire.logging.vmodule.push(item);
    }
    Ok(())
}
