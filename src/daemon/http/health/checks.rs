//! Health check node ports: load balancers ask each node whether it has pods of a Service.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Health, bodies};
use crate::http::server::{Answer, Http, ListenAddress, RETRY};
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::{ForwardingTable, NodePortAddresses};
use sluice_kernel::listen::{Reach, listen};
use sluice_kubernetes::events::{Event, Recorder, Regarding, Severity};

/// What is to be answered, by family.
pub(super) type DesiredChecks = BTreeMap<Family, FamilyChecks>;

/// What is to be answered in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FamilyChecks {
    addresses: NodePortAddresses,
    by_port: BTreeMap<u16, Check>,
}

/// What is to be answered on one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) service: ServiceName,
    pub(super) local_endpoints: usize,
}

impl FamilyChecks {
    pub(super) fn of(table: &ForwardingTable) -> FamilyChecks {
        let by_port = table.health_checks.iter().map(|(service, check)| {
            let local_endpoints = check.local_endpoints;
            (check.port, Check { service: service.clone(), local_endpoints })
        });
        FamilyChecks { addresses: table.host.node_ports.clone(), by_port: by_port.collect() }
    }

    fn sockets(&self, family: Family) -> impl Iterator<Item = SocketAddr> {
        let addresses: Vec<IpAddr> = match &self.addresses {
            NodePortAddresses::AnyLocal => vec![family.unspecified()],
            NodePortAddresses::Only(ips) => ips.iter().copied().filter(can_listen).collect(),
        };
        let ports = self.by_port.keys();
        ports.flat_map(move |port| addresses.clone().into_iter().map(|ip| (ip, *port).into()))
    }
}

/// A link-local address is useless without its link, and load balancers do not use it.
fn can_listen(ip: &IpAddr) -> bool {
    !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// What to answer at a socket.
fn check(wanted: &DesiredChecks, at: SocketAddr) -> Option<&Check> {
    wanted.get(&Family::of(at.ip()))?.by_port.get(&at.port())
}

/// The recorder of Events about sockets that cannot be bound, and the Node's name.
#[derive(Debug)]
pub(super) struct NodeEvents {
    pub(super) recorder: Recorder,
    pub(super) node_name: String,
}

/// Listens where it is wanted, until `stop`. What cannot be bound is tried again every [`RETRY`].
pub(super) async fn run(health: Health, http: Http, events: NodeEvents, stop: CancellationToken) {
    let mut wanted = health.wanted();
    let (open, refused) = (BTreeMap::new(), BTreeMap::new());
    let mut listeners = Listeners { health, http, events, open, refused };
    loop {
        let now = wanted.borrow_and_update().clone();
        listeners.follow(&now).await;
        let again = async {
            if listeners.refused.is_empty() {
                std::future::pending().await
            } else {
                tokio::time::sleep(RETRY).await
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = wanted.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// The sockets, and those that could not be bound.
struct Listeners {
    health: Health,
    http: Http,
    events: NodeEvents,
    open: BTreeMap<SocketAddr, Listener>,
    refused: BTreeMap<SocketAddr, Refusal>,
}

/// Why a socket cannot be bound, and for which Services.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    service: ServiceName,
    reason: String,
}

/// A task that owns a listening socket.
struct Listener(JoinHandle<()>);

impl Listener {
    /// Returns when the socket is closed.
    async fn close(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Listeners {
    async fn follow(&mut self, wanted: &DesiredChecks) {
        let sockets: BTreeSet<SocketAddr> =
            wanted.iter().flat_map(|(family, checks)| checks.sockets(*family)).collect();
        // Old ones first: a wildcard and an address of it cannot be bound at the same time.
        for (at, listener) in self.open.extract_if(.., |at, _| !sockets.contains(at)) {
            listener.close().await;
            tracing::debug!(%at, "no longer answering health checks");
        }
        self.refused.retain(|at, _| sockets.contains(at));
        for at in sockets {
            let Some(check) = check(wanted, at).filter(|_| !self.open.contains_key(&at)) else {
                continue;
            };
            match listen(at, Reach::OneFamily) {
                Ok(socket) => {
                    self.refused.remove(&at);
                    tracing::debug!(%at, service = %check.service, "answering health checks");
                    let health = self.health.clone();
                    let reply = move |_| std::future::ready(health.answer(at));
                    let (what, field) = ("health checks", "healthCheckNodePort");
                    let on = ListenAddress { address: at, what, field };
                    let task = self.http.spawn(self.http.clone().serve_on(socket, on, reply));
                    self.open.insert(at, Listener(task));
                }
                Err(error) => self.refuse(at, &check.service, &error),
            }
        }
    }

    /// Reports once, also as an Event for the Service's owner, why its health checks get no answer.
    fn refuse(&mut self, at: SocketAddr, service: &ServiceName, error: &io::Error) {
        let refusal = Refusal { service: service.clone(), reason: error.to_string() };
        if self.refused.get(&at) != Some(&refusal) {
            tracing::warn!(
                %service,
                "cannot answer health checks at {at}: {error}; load balancers consider this node \
                 down until it works, trying again every {RETRY:?}"
            );
            // Upstream: `pkg/proxy/healthcheck/service_health.go`, syncServices.
            let note = format!(
                "node {} failed to start healthcheck {:?} on port {}: {error}",
                self.events.node_name,
                service.to_string(),
                at.port()
            );
            self.events.recorder.record(Event {
                severity: Severity::Warning,
                reason: "FailedToStartServiceHealthcheck",
                action: "Listen",
                regarding: Regarding::Service(service.clone()),
                note,
            });
            self.refused.insert(at, refusal);
        }
    }
}

impl Health {
    /// The answer at a socket as of now.
    fn answer(&self, at: SocketAddr) -> Answer {
        let found = check(&self.wanted().borrow(), at).cloned();
        found.map_or_else(bodies::no_such_service, |check| {
            bodies::service(&check.service, check.local_endpoints, self.report().pace())
        })
    }
}
