//! Default values.

use super::{GoDuration, KubeProxyConfiguration, Mode};
use sluice_core::net::{Family, parse_ip};

/// The port of `/healthz` if only an address is given.
pub const HEALTHZ_PORT: u16 = 10256;

/// The port of `/metrics` if only an address is given.
pub const METRICS_PORT: u16 = 10249;

/// The bit of the packet mark that requests masquerading.
const MASQUERADE_BIT: i32 = 14;

/// The OOM score adjustment (upstream: `pkg/kubelet/qos/policy.go`).
const OOM_SCORE_ADJ: i32 = -999;

impl KubeProxyConfiguration {
    /// Fills in upstream's defaults (`pkg/proxy/apis/config/v1alpha1/defaults.go`), but for `minSyncPeriod`:
    /// it stays zero, so that a second that somebody wrote is told apart from the default.
    #[must_use]
    pub fn with_defaults(mut self) -> KubeProxyConfiguration {
        let half_a_minute = GoDuration::from_secs(30);
        or_text(&mut self.bind_address, "0.0.0.0");
        self.default_sockets();
        self.oom_score_adj.get_or_insert(OOM_SCORE_ADJ);
        or_duration(&mut self.iptables.sync_period, half_a_minute);
        self.iptables.localhost_node_ports.get_or_insert(true);
        self.iptables.masquerade_bit.get_or_insert(MASQUERADE_BIT);
        or_duration(&mut self.ipvs.sync_period, half_a_minute);
        or_duration(&mut self.nftables.sync_period, half_a_minute);
        self.nftables.masquerade_bit.get_or_insert(MASQUERADE_BIT);
        self.conntrack.max_per_core.get_or_insert(32 * 1024);
        self.conntrack.min.get_or_insert(128 * 1024);
        self.conntrack.tcp_established_timeout.get_or_insert(GoDuration::from_secs(24 * 3600));
        self.conntrack.tcp_close_wait_timeout.get_or_insert(GoDuration::from_secs(3600));
        or_duration(&mut self.config_sync_period, GoDuration::from_secs(15 * 60));
        let client = &mut self.client_connection;
        or_text(&mut client.content_type, "application/vnd.kubernetes.protobuf");
        if client.qps == 0.0 {
            client.qps = 5.0;
        }
        if client.burst == 0 {
            client.burst = 10;
        }
        or_text(&mut self.logging.format, "text");
        or_duration(&mut self.logging.flush_frequency, GoDuration::from_secs(5));
        self
    }

    /// By default, health and metrics listen in the family of the bind address.
    fn default_sockets(&mut self) {
        let v4 = parse_ip(&self.bind_address).is_some_and(|ip| Family::of(ip) == Family::V4);
        let (everywhere, here) = if v4 { ("0.0.0.0", "127.0.0.1") } else { ("::", "::1") };
        or_text(&mut self.healthz_bind_address, everywhere);
        or_text(&mut self.metrics_bind_address, here);
        self.healthz_bind_address = with_port(&self.healthz_bind_address, HEALTHZ_PORT);
        self.metrics_bind_address = with_port(&self.metrics_bind_address, METRICS_PORT);
    }

    /// Applies the Linux defaults (upstream: `cmd/kube-proxy/app/server_linux.go`, platformApplyDefaults).
    #[must_use]
    pub fn for_linux(mut self) -> KubeProxyConfiguration {
        or_text(&mut self.mode, "iptables");
        or_text(&mut self.detect_local_mode, "ClusterCIDR");
        if self.mode == "nftables" && self.node_port_addresses.is_empty() {
            self.node_port_addresses = vec!["primary".to_owned()];
        }
        self
    }

    /// Clears fields that the mode does not read. Upstream loses them in the conversion to its internal type, so its
    /// effective configuration has zeros there (`pkg/proxy/apis/config/v1alpha1/conversion.go`).
    #[must_use]
    pub fn of_its_mode(mut self) -> KubeProxyConfiguration {
        let mode = Mode::from_name(&self.mode);
        let zero = GoDuration::ZERO;
        if mode == Some(Mode::Nftables) {
            self.iptables.masquerade_all = false;
        } else {
            self.nftables.masquerade_all = false;
            (self.nftables.sync_period, self.nftables.min_sync_period) = (zero, zero);
        }
        if mode != Some(Mode::Ipvs) {
            (self.ipvs.sync_period, self.ipvs.min_sync_period) = (zero, zero);
        }
        self.port_range.clear();
        if matches!(mode, Some(Mode::Nftables | Mode::Ipvs)) {
            (self.iptables.sync_period, self.iptables.min_sync_period) = (zero, zero);
        }
        self
    }
}

fn or_text(field: &mut String, default: &str) {
    if field.is_empty() {
        default.clone_into(field);
    }
}

fn or_duration(field: &mut GoDuration, default: GoDuration) {
    if *field == GoDuration::ZERO {
        *field = default;
    }
}

/// Adds a port to an address without one (upstream: `pkg/proxy/util/utils.go`, AppendPortIfNeeded).
pub fn with_port(address: &str, port: u16) -> String {
    match parse_ip(address) {
        Some(_) if address.contains(':') => format!("[{address}]:{port}"),
        Some(_) => format!("{address}:{port}"),
        None => address.to_owned(),
    }
}
