//! Numbers that others keep: the kernel, the log, the relays of the userspace mode. They are read when
//! metrics are, which may take seconds.

use super::Metrics;
use super::families::{External, Kind, Labelled};
use sluice_core::model::ServiceConnections;

/// What the relays of the userspace mode count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the help texts of `RELAYS` say what they are
pub enum RelayCount {
    ActiveConnections,
    Connections,
    BytesToEndpoints,
    BytesToClients,
    DialFailures,
    Unserved,
    ActiveUdpClients,
    DatagramsToEndpoints,
    DatagramsToClients,
    LostDatagrams,
    Evictions,
    Shortages,
}

#[rustfmt::skip] // a line each
const RELAYS: [(RelayCount, Kind, &str, &str); 12] = [
    (RelayCount::ActiveConnections, Kind::Gauge, "sluice_userspace_connections", "TCP connections that are joined or being joined"),
    (RelayCount::Connections, Kind::Counter, "sluice_userspace_connections_total", "TCP connections that were accepted"),
    (RelayCount::BytesToEndpoints, Kind::Counter, "sluice_userspace_bytes_to_endpoints_total", "Bytes of TCP from clients to endpoints"),
    (RelayCount::BytesToClients, Kind::Counter, "sluice_userspace_bytes_to_clients_total", "Bytes of TCP from endpoints to clients"),
    (RelayCount::DialFailures, Kind::Counter, "sluice_userspace_dial_failures_total", "Attempts to reach an endpoint that failed"),
    (RelayCount::Unserved, Kind::Counter, "sluice_userspace_unserved_total", "TCP connections that were reset because no endpoint could be reached"),
    (RelayCount::ActiveUdpClients, Kind::Gauge, "sluice_userspace_udp_clients", "UDP clients with a socket of their own"),
    (RelayCount::DatagramsToEndpoints, Kind::Counter, "sluice_userspace_datagrams_to_endpoints_total", "Datagrams from clients to endpoints"),
    (RelayCount::DatagramsToClients, Kind::Counter, "sluice_userspace_datagrams_to_clients_total", "Datagrams from endpoints to clients"),
    (RelayCount::LostDatagrams, Kind::Counter, "sluice_userspace_lost_datagrams_total", "Datagrams that were lost because a queue was full or there was no endpoint"),
    (RelayCount::Evictions, Kind::Counter, "sluice_userspace_evictions_total", "UDP clients that were forgotten early to make room"),
    (RelayCount::Shortages, Kind::Counter, "sluice_userspace_shortages_total", "How often a connection had to wait for lack of descriptors"),
];

/// Rules of the iptables mode whose packets are counted, by upstream's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IptablesPackets {
    /// Dropped because connection tracking holds them for invalid.
    InvalidDropped,
    /// The first ones of connections to a node port on a loopback address.
    LocalhostNodePorts,
}

const SERVICE_LABELS: &[&str] =
    &["address", "ip_family", "namespace", "port", "protocol", "service"];

/// The values of [`SERVICE_LABELS`], and the count.
fn service_row(it: ServiceConnections) -> (Vec<String>, u64) {
    let (family, protocol) = (it.family.to_string(), it.protocol.to_string().to_uppercase());
    let (namespace, name) = (it.service.namespace().to_owned(), it.service.name().to_owned());
    (vec![it.address, family, namespace, it.port, protocol, name], it.connections)
}

impl Metrics {
    /// Lines of the log that nobody could read.
    pub fn lost_log_lines(&self, read: impl Fn() -> u64 + Send + Sync + 'static) {
        let help = "Lines of the log that were lost because nobody read standard error";
        self.add(Kind::Counter, "sluice_log_lost_lines_total", help, move || Some(read()));
    }

    /// What the relays of the userspace mode count.
    pub fn relays(&self, read: impl Fn(RelayCount) -> u64 + Clone + Send + Sync + 'static) {
        for (which, kind, name, help) in RELAYS {
            let read = read.clone();
            self.add(kind, name, help, move || Some(read(which)));
        }
    }

    /// New connections by Service port, as the nftables mode counts them with `--service-counters`.
    pub fn service_connections(
        &self,
        read: impl Fn() -> Vec<ServiceConnections> + Send + Sync + 'static,
    ) {
        let name = "sluice_service_connections_total";
        let help =
            "New connections to an address of a Service port, whether or not there was an endpoint";
        let rows = move || read().into_iter().map(service_row).collect();
        let family = Labelled::new(name, help, SERVICE_LABELS, Box::new(rows));
        self.register(name, family);
    }

    /// Packets that rules of the iptables mode have met. Where nothing can be read, nothing is shown.
    pub fn iptables_packets(
        &self,
        which: IptablesPackets,
        read: impl Fn() -> Option<u64> + Send + Sync + 'static,
    ) {
        let (name, help) = match which {
            IptablesPackets::InvalidDropped => (
                "kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
                "[ALPHA] packets dropped by iptables to work around conntrack problems",
            ),
            IptablesPackets::LocalhostNodePorts => (
                "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
                "[ALPHA] Number of packets accepted on nodeports of loopback interface",
            ),
        };
        self.add(Kind::Counter, name, help, read);
    }

    fn add(
        &self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Option<u64> + Send + Sync + 'static,
    ) {
        self.register(name, External::new(kind, name, help, Box::new(read)));
    }

    fn register(&self, name: &str, family: impl prometheus::core::Collector + 'static) {
        if self.0.registry.register(Box::new(family)).is_err() {
            tracing::error!(name, "this metric is registered already");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::tests::value;
    use super::*;
    use sluice_config::Mode;

    #[test]
    fn a_number_of_somebody_else_is_read_when_it_is_asked_for() {
        let metrics = Metrics::new(Mode::Iptables);
        let kept = Arc::new(AtomicU64::new(3));
        for (kind, name) in [(Kind::Counter, "elsewhere_total"), (Kind::Gauge, "elsewhere")] {
            let read = Arc::clone(&kept);
            metrics.add(kind, name, "Kept elsewhere", move || {
                Some(read.load(Ordering::Relaxed)).filter(|n| *n > 3)
            });
        }
        assert_eq!(value(&metrics, "elsewhere_total"), None, "it cannot be read");
        kept.store(8, Ordering::Relaxed);
        assert_eq!(value(&metrics, "elsewhere_total"), Some(8.0));
        assert_eq!(value(&metrics, "elsewhere"), Some(8.0));
        assert!(metrics.text().contains("# TYPE elsewhere gauge\n"));
    }

    #[test]
    fn each_count_of_the_relays_is_shown_once() {
        let metrics = Metrics::new(Mode::Userspace);
        metrics.relays(|which| which as u64);
        for (index, (which, _, name, _)) in RELAYS.into_iter().enumerate() {
            assert_eq!(which as usize, index, "{which:?}");
            assert_eq!(value(&metrics, name), Some(index as f64), "{name}");
        }
    }
}
