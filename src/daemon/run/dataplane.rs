//! From a configuration to the backends of its proxy mode, and their metrics.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;

use crate::kernel_view::{Kernel, Mechanism, iptables_options, scheduler};
use sluice_config::{Config, Mode};
use sluice_core::model::ServiceConnections;
use sluice_core::net::Family;
use sluice_dataplane::iptables::{self, Iptables};
use sluice_dataplane::ipvs::{self, Ipvs};
use sluice_dataplane::leftovers::InUse;
use sluice_dataplane::nftables;
use sluice_dataplane::service_table::{Connection, ServiceCounters};
use sluice_dataplane::userspace::{self, Count, Counters, Relays, VisibleSource};
use sluice_dataplane::{Backend, Unopened};
use sluice_kernel as kernel;
use sluice_kernel::nft::Counting;
use sluice_kernel::xtables::{self, CountedRule, Xtables};
use sluice_telemetry::metrics::{IptablesPackets, Metrics, RelayCount};

/// How often the iptables mode checks for changes by other programs. A flushed table is repaired within this
/// time, anything that is checked in turn within three times of it.
const CANARY_PERIOD: Duration = Duration::from_secs(5);

/// How often the IPVS mode checks for changes by other programs, and whether draining destinations are still
/// in use.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// The kernel's timeouts of UDP flows without and with replies (`net/netfilter/nf_conntrack_proto_udp.c`);
/// relays use the same.
const UDP_TIMEOUT: Duration = Duration::from_secs(30);
const UDP_ANSWERED_TIMEOUT: Duration = Duration::from_secs(120);

/// Backends, one for each IP family.
pub(super) type Backends = Vec<(Family, Box<dyn Backend>)>;

/// Options of the proxy modes that have no field in the configuration file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DataplaneOptions {
    /// The shape of the rules of the iptables mode.
    pub(crate) iptables_layout: iptables::Layout,
    /// Whether the nftables mode counts connections by Service.
    pub(crate) service_counters: bool,
    /// Whether connections to endpoints that are removed are reset.
    pub(crate) reset_removed_tcp_endpoints: bool,
    /// How long relayed connections may continue after SIGTERM.
    pub(crate) userspace_drain: Duration,
    /// Whether endpoints see clients' addresses in the userspace mode.
    pub(crate) userspace_transparent: bool,
}

/// A proxy mode that is ready to work.
pub(super) struct Dataplane {
    /// Who makes the kernel match.
    pub(super) backends: Backends,
    /// The families among them whose backend can work.
    pub(super) served: Vec<Family>,
    /// Changes when another program may have changed our objects in the kernel.
    pub(super) foreign: watch::Receiver<()>,
    /// Who looks at what it has in the kernel.
    pub(super) kernel: Kernel,
    /// What it works with; the rest of what kube-proxy has in the kernel is left over.
    pub(super) in_use: InUse,
    measured: Measured,
}

/// Counters of a mode.
enum Measured {
    Nothing,
    /// The nftables mode, if enabled.
    Services(ServiceCounters),
    /// The userspace mode.
    Relays(Arc<Counters>),
    /// The iptables mode, in the kernel.
    Packets(xtables::Variant),
}

impl Dataplane {
    /// Opens the configured mode.
    pub(super) fn open(config: &Config, options: &DataplaneOptions) -> Result<Dataplane> {
        if options.service_counters
            && matches!(config.mode, Mode::Iptables | Mode::Ipvs | Mode::Userspace)
        {
            tracing::warn!(mode = %config.mode, "--service-counters has no effect: only mode nftables counts by Service");
        }
        match config.mode {
            Mode::Iptables => iptables(config, options),
            Mode::Ipvs => ipvs(config, options),
            Mode::Userspace => userspace(config, options),
            Mode::Nftables => nftables(options),
        }
    }

    /// What relays count, in the mode that has them.
    pub(super) fn relays(&self) -> Option<Arc<Counters>> {
        match &self.measured {
            Measured::Relays(counters) => Some(Arc::clone(counters)),
            Measured::Nothing | Measured::Services(_) | Measured::Packets(_) => None,
        }
    }

    /// Adds what the mode counts to the metrics.
    pub(super) fn measure(&mut self, metrics: &Metrics) {
        match std::mem::replace(&mut self.measured, Measured::Nothing) {
            Measured::Nothing => {}
            Measured::Services(counters) => {
                metrics.service_connections(move || service_connections(&counters));
            }
            Measured::Relays(counters) => {
                metrics.relays(move |which| relay_count(&counters, which).get());
            }
            Measured::Packets(variant) => measure_packets(metrics, variant),
        }
    }
}

fn service_connections(counters: &ServiceCounters) -> Vec<ServiceConnections> {
    let mut all = Vec::new();
    for family in Family::BOTH {
        let counts = counters.read(family).unwrap_or_else(|error| {
            tracing::warn!(%family, %error, "cannot read the counters of Services; they are left out");
            Vec::new()
        });
        all.extend(counts);
    }
    all
}

fn relay_count(counters: &Counters, which: RelayCount) -> &Count {
    match which {
        RelayCount::ActiveConnections => &counters.active_connections,
        RelayCount::Connections => &counters.connections,
        RelayCount::BytesToEndpoints => &counters.bytes_to_endpoints,
        RelayCount::BytesToClients => &counters.bytes_to_clients,
        RelayCount::DialFailures => &counters.dial_failures,
        RelayCount::Unserved => &counters.unserved,
        RelayCount::ActiveUdpClients => &counters.active_clients,
        RelayCount::DatagramsToEndpoints => &counters.datagrams_to_endpoints,
        RelayCount::DatagramsToClients => &counters.datagrams_to_clients,
        RelayCount::LostDatagrams => &counters.lost_datagrams,
        RelayCount::Evictions => &counters.evictions,
        RelayCount::Shortages => &counters.shortages,
    }
}

fn measure_packets(metrics: &Metrics, variant: xtables::Variant) {
    let all = [
        (IptablesPackets::InvalidDropped, CountedRule::INVALID_DROPPED),
        (IptablesPackets::LocalhostNodePorts, CountedRule::LOCALHOST_NODE_PORTS),
    ];
    for (which, counted) in all {
        let tables = Family::BOTH.map(|family| Xtables::new(family, variant));
        metrics.iptables_packets(which, move || {
            let packets = |tables: &Xtables| tables.packets(counted).ok().flatten();
            tables.iter().filter_map(packets).reduce(u64::saturating_add)
        });
    }
}

/// The userspace mode: sockets of this process, and nf_tables to redirect to them.
fn userspace(config: &Config, options: &DataplaneOptions) -> Result<Dataplane> {
    let visible =
        if options.userspace_transparent { VisibleSource::Client } else { VisibleSource::Node };
    let connection = Connection::open().context(
        "the userspace mode carries traffic itself, but redirects it by nf_tables with NAT \
         (CONFIG_NF_TABLES, CONFIG_NFT_NAT)",
    )?;
    let timeout = |configured: Option<Duration>, default| {
        configured.filter(|timeout| !timeout.is_zero()).unwrap_or(default)
    };
    let relays = Relays::start(userspace::Options {
        udp_timeout: timeout(config.conntrack.udp, UDP_TIMEOUT),
        udp_answered_timeout: timeout(config.conntrack.udp_stream, UDP_ANSWERED_TIMEOUT),
        drain: options.userspace_drain,
        visible,
    })
    .context("start the relays of the userspace mode")?;
    let (backends, served) = backends(|family| {
        let redirection = Box::new(userspace::table(connection.table(family), visible));
        let mode = match visible {
            VisibleSource::Node => relays.mode(family, redirection).map_err(anyhow::Error::new),
            VisibleSource::Client => userspace::try_sockets(&connection, family)
                .context("match sockets in nf_tables (CONFIG_NFT_SOCKET)")
                .and_then(|()| Ok(relays.mode(family, redirection)?))
                .with_context(|| format!("{NOT_TRANSPARENT} ({family})")),
        };
        Ok(Box::new(mode?))
    })?;
    let changes = connection.follow()?;
    let (foreign, in_use) = match relays.gone() {
        None => (changes, InUse::Nftables),
        Some(gone) => (any_of(changes, gone), InUse::Transparent),
    };
    let measured = Measured::Relays(relays.counters());
    let kernel = Kernel::new(Mechanism::Userspace(visible));
    Ok(Dataplane { backends, served, foreign, kernel, in_use, measured })
}

/// What to do where the kernel lacks something.
const NOT_TRANSPARENT: &str =
    "--userspace-transparent cannot work here; leave it out, or use mode nftables";

fn nftables(options: &DataplaneOptions) -> Result<Dataplane> {
    let connection = Connection::open()?;
    let (counting, measured) = if options.service_counters {
        (Counting::On, Measured::Services(ServiceCounters::open()?))
    } else {
        (Counting::Off, Measured::Nothing)
    };
    let (backends, served) = backends(|family| {
        Ok(Box::new(nftables::table(connection.table(family)).counting(counting)))
    })?;
    let foreign = connection.follow()?;
    let kernel = Kernel::new(Mechanism::Nftables);
    Ok(Dataplane { backends, served, foreign, kernel, in_use: InUse::Nftables, measured })
}

/// IPVS and an nftables table.
fn ipvs(config: &Config, options: &DataplaneOptions) -> Result<Dataplane> {
    let section = &config.ipvs;
    let settings = ipvs::Options {
        scheduler: scheduler(config),
        excluded: section.exclude_cidrs.clone(),
        strict_arp: section.strict_arp,
        timeouts: [section.tcp_timeout, section.tcp_fin_timeout, section.udp_timeout],
    };
    // A connection that is to be reset must not find its endpoint in IPVS.
    let leaving = if options.reset_removed_tcp_endpoints {
        ipvs::Leaving::AtOnce
    } else {
        ipvs::Leaving::Gracefully
    };
    let connection = Connection::open()?;
    let (backends, served) = backends(|family| {
        let kernel = ipvs::Live::open(family, &settings)
            .with_context(|| "mode ipvs cannot work; modes nftables, iptables and userspace can")?;
        let table = ipvs::table(connection.table(family));
        Ok(Box::new(Ipvs::new(table, kernel, Arc::clone(&settings.scheduler), leaving)))
    })?;
    let foreign = any_of(connection.follow()?, every(LOOK_PERIOD));
    let measured = Measured::Nothing;
    let kernel = Kernel::new(Mechanism::Ipvs(settings.scheduler));
    Ok(Dataplane { backends, served, foreign, kernel, in_use: InUse::Ipvs, measured })
}

/// Changes whenever one of two does.
fn any_of(mut one: watch::Receiver<()>, mut other: watch::Receiver<()>) -> watch::Receiver<()> {
    let (sender, receiver) = watch::channel(());
    tokio::spawn(async move {
        while !sender.is_closed() {
            tokio::select! {
                Ok(()) = one.changed() => {}
                Ok(()) = other.changed() => {}
                else => return,
            }
            sender.send_replace(());
        }
    });
    receiver
}

/// One backend per family that this kernel has, and which of them can work. Where one cannot be opened,
/// that matters only if a Service needs it; the loop finds out.
fn backends(open: impl Fn(Family) -> Result<Box<dyn Backend>>) -> Result<(Backends, Vec<Family>)> {
    let (mut backends, mut served, mut why) = (Backends::new(), Vec::new(), None);
    for family in Family::BOTH {
        if !kernel::has_family(family) {
            tracing::warn!(%family, "this kernel does not have the family; it is not served");
            continue;
        }
        let backend = match open(family) {
            Ok(backend) => {
                served.push(family);
                backend
            }
            Err(error) => {
                let reason = format!("{error:#}; restart the daemon once that is mended");
                why.get_or_insert(error);
                Box::new(Unopened { reason })
            }
        };
        backends.push((family, backend));
    }
    match why {
        Some(error) if served.is_empty() => Err(error),
        _ => Ok((backends, served)),
    }
}

/// The iptables mode, in the variant of iptables that this node uses.
fn iptables(config: &Config, options: &DataplaneOptions) -> Result<Dataplane> {
    let rules = iptables_options(config, options.iptables_layout);
    let variant = Xtables::open(Family::V4)?.variant();
    let inspectors = RefCell::new(Vec::new());
    let (backends, served) = backends(|family| {
        tracing::info!(%family, %variant, "programming iptables");
        let mode = Iptables::new(Xtables::new(family, variant), rules);
        inspectors.borrow_mut().push((family, mode.inspector()));
        Ok(Box::new(mode))
    })?;
    let kernel = Kernel::new(Mechanism::Iptables(inspectors.into_inner()));
    let in_use = InUse::Iptables(variant);
    let (foreign, measured) = (every(CANARY_PERIOD), Measured::Packets(variant));
    Ok(Dataplane { backends, served, foreign, kernel, in_use, measured })
}

/// Changes once per period: not every kernel interface notifies about changes by other programs.
fn every(period: Duration) -> watch::Receiver<()> {
    let (sender, receiver) = watch::channel(());
    tokio::spawn(async move {
        while !sender.is_closed() {
            tokio::time::sleep(period).await;
            sender.send_replace(());
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_that_cannot_be_opened_is_left_out_unless_none_can() {
        let open = |broken: &[Family]| {
            let backend = |family| -> Result<Box<dyn Backend>> {
                anyhow::ensure!(!broken.contains(&family), "no {family} here");
                Ok(Box::new(Unopened { reason: String::new() }))
            };
            backends(backend).map(|(backends, served)| (backends.len(), served))
        };
        let there = || Family::BOTH.into_iter().filter(|family| kernel::has_family(*family));
        let count = there().count();
        assert_eq!(open(&[]).expect("all can"), (count, there().collect()));
        let error = open(&Family::BOTH).expect_err("none can").to_string();
        assert_eq!(error, "no IPv4 here");
        if count == 2 {
            assert_eq!(open(&[Family::V6]).expect("one can"), (2, vec![Family::V4]));
            assert_eq!(open(&[Family::V4]).expect("one can"), (2, vec![Family::V6]));
        }
    }
}
