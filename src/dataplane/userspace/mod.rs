//! The userspace mode: this process relays the traffic.
//!
//! The kernel's part is the [service table](crate::service_table), for a forwarding table in which every pool
//! is one socket of this process ([`mod@redirected`]): it decides by source, rejects, drops and redirects;
//! [`data_path`] has the rules that this mode adds. The sockets are in [`listeners`]; [`tcp`] joins
//! connections ([`pump`] moves the bytes), [`udp`] keeps a socket for each client ([`client_lru`]),
//! [`choice`] picks endpoints. They run on separate threads, so that no traffic waits while rules are
//! written. For transparent relays, [`path_probe`] decides whether an endpoint can see the client's address,
//! and [`return_path`] delivers the replies. See `docs/modes/userspace.md`.

mod choice;
mod client_lru;
mod counters;
mod data_path;
mod descriptors;
mod inspect;
mod listeners;
mod operations;
mod path_probe;
mod pipes;
mod pump;
mod redirected;
mod relay;
mod return_path;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod visible_source;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

pub use self::counters::{Count, Counters};
pub use self::data_path::{path, table, try_sockets};
pub use self::inspect::inspect;
use self::listeners::{ListenAddress, Listener, Listeners, TakenPorts};
pub use self::operations::operations;
use self::path_probe::PathProbe;
use self::redirected::{RelayKey, needed, redirected, sources};
pub use self::redirected::{is_relayed, relayed};
pub use self::relay::Options;
use self::relay::Shared;
use self::return_path::ReturnPath;
pub use self::visible_source::VisibleSource;
use crate::{Backend, RefusedService, Report, Scope, SyncError};
use sluice_core::model::ServiceName;
use sluice_core::net::{Family, Protocol};
use sluice_core::plan::{
    Address, Affinity, ForwardingTable, Host, PoolKind, PortPlan, ServicePlan,
};
use sluice_kernel::policy_routing::{self, PolicyRoutingError};
use sluice_kernel::sockets;

/// The interval of checks whether connections have ended.
const LOOK: Duration = Duration::from_millis(20);

/// The relay threads, for all families.
#[derive(Debug, Clone)]
pub struct Relays(Arc<Threads>);

#[derive(Debug)]
struct Threads {
    /// Taken when it ends.
    runtime: Option<Runtime>,
    handle: Handle,
    shared: Arc<Shared>,
    /// Changes when routing rules have gone, if endpoints may see clients.
    gone: Option<watch::Receiver<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Does not wait for connections; that was the drain.
            runtime.shutdown_background();
        }
    }
}

impl Relays {
    /// Starts the threads, and prepares the process and the network namespace for many connections. Must
    /// be called within a Tokio runtime.
    ///
    /// # Errors
    /// If threads cannot be started or the limit cannot be read; with transparent relays, if routes and flows
    /// cannot be queried.
    pub fn start(options: Options) -> io::Result<Relays> {
        let limit = sockets::raise_descriptor_limit()?;
        if let Err(error) = sockets::reuse_ports() {
            tracing::warn!(
                %error,
                "cannot set net.ipv4.tcp_tw_reuse=1: in the long run, an endpoint gets some 470 \
                 connections a second at the most; set it on the node"
            );
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("relay")
            .enable_all()
            .build()?;
        let (probe, gone) = match options.visible {
            VisibleSource::Node => (None, None),
            VisibleSource::Client => {
                let gone = policy_routing::follow().map_err(io::Error::other)?;
                (Some(PathProbe::open()?), Some(gone))
            }
        };
        let shared = Arc::new(Shared::new(options, limit, probe));
        let handle = runtime.handle().clone();
        Ok(Relays(Arc::new(Threads { runtime: Some(runtime), handle, shared, gone })))
    }

    /// What the relays have done and are doing.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.0.shared.counters)
    }

    /// Changes when another program may have removed routing rules that relays need; `None` if they need
    /// none.
    pub fn gone(&self) -> Option<watch::Receiver<()>> {
        self.0.gone.clone()
    }

    /// The mode for one family, with `redirect` for the kernel's part.
    ///
    /// # Errors
    /// With transparent relays, if this process may not bind to clients' addresses, or the kernel cannot
    /// deliver the replies.
    pub fn mode(&self, family: Family, redirect: Box<dyn Backend>) -> Result<Userspace, OpenError> {
        let return_path = match self.gone() {
            None => None,
            Some(gone) => {
                sockets::try_transparent(family).map_err(OpenError::Transparent)?;
                Some(ReturnPath::open(family, gone)?)
            }
        };
        Ok(Userspace {
            redirect,
            return_path,
            relays: self.clone(),
            listen_at: None,
            redirected: None,
            listeners: Listeners::new(),
            leaving: Vec::new(),
            owners: FxHashMap::default(),
            promised: BTreeMap::new(),
            taken: TakenPorts::default(),
            failed: BTreeMap::new(),
        })
    }
}

/// Endpoints cannot see clients.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Sockets cannot have clients' addresses.
    #[error("use clients' addresses (IP_TRANSPARENT, needs CAP_NET_ADMIN): {0}")]
    Transparent(#[source] io::Error),
    /// Answers to clients' addresses cannot be delivered here.
    #[error(transparent)]
    PolicyRouting(#[from] PolicyRoutingError),
}

/// The userspace mode for one IP family.
pub struct Userspace {
    redirect: Box<dyn Backend>,
    /// The return path, for transparent relays.
    return_path: Option<ReturnPath>,
    relays: Relays,
    /// Where listeners are opened; `None` without an address of this family.
    listen_at: Option<ListenAddress>,
    /// What the kernel is to have.
    redirected: Option<ForwardingTable>,
    listeners: Listeners,
    /// Listeners that nothing should lead to once the kernel is up to date, by whose they are.
    leaving: Vec<(ServiceName, Listener)>,
    /// The owner of each port.
    owners: FxHashMap<(Protocol, u16), ServiceName>,
    /// Ports of the node that each Service claims.
    promised: BTreeMap<ServiceName, BTreeSet<(Protocol, u16)>>,
    taken: TakenPorts,
    /// Services that lack a listener, with the reason.
    failed: BTreeMap<ServiceName, String>,
}

impl Userspace {
    /// Where listeners belong now; whether that is another place than before.
    fn settle(&mut self, table: &ForwardingTable) -> bool {
        let ip = address(table.family, &table.host);
        let mark = table.host.masquerade_mark;
        let same = |at: &ListenAddress| Some(at.ip) == ip && at.mark == mark;
        if self.listen_at.as_ref().is_some_and(same) || (self.listen_at.is_none() && ip.is_none()) {
            return self.redirected.is_none();
        }
        let threads = &self.relays.0;
        self.listen_at = ip.map(|ip| ListenAddress {
            ip,
            mark,
            shared: Arc::clone(&threads.shared),
            runtime: threads.handle.clone(),
        });
        true
    }

    /// Brings listeners and the kernel's table in line for some Services; gives all that it concerned.
    fn prepare(
        &mut self,
        table: &ForwardingTable,
        names: BTreeSet<ServiceName>,
    ) -> BTreeSet<ServiceName> {
        let mut concerned = names;
        let mut displaced = BTreeSet::new();
        for name in &concerned {
            displaced.extend(self.promise(table, name));
        }
        // Listeners on ports that are needed for another purpose move.
        concerned.extend(displaced);
        for name in &concerned {
            let plan = self.serve(name, table.plan(name));
            let Some(redirected) = &mut self.redirected else { continue };
            match plan {
                Some(plan) => redirected.services.insert(name.clone(), Arc::new(plan)),
                None => redirected.services.remove(name),
            };
        }
        concerned
    }

    /// Notes the node's ports that a Service claims; gives the owners of listeners on them.
    fn promise(&mut self, table: &ForwardingTable, name: &ServiceName) -> BTreeSet<ServiceName> {
        let frontends = table.services.get(name).into_iter().flat_map(|plan| &plan.ports);
        let node_port = |at| match at {
            Address::NodePort { protocol, port } => Some((protocol, port)),
            Address::Vip { .. } => None,
        };
        let mut ports: BTreeSet<(Protocol, u16)> = frontends
            .flat_map(|port| &port.frontends)
            .filter_map(|frontend| node_port(frontend.at))
            .collect();
        ports.extend(table.health_checks.get(name).map(|check| (Protocol::Tcp, check.port)));
        self.taken.add(&ports);
        let displaced = ports.iter().filter_map(|port| self.owners.get(port)).cloned().collect();
        let before = if ports.is_empty() {
            self.promised.remove(name)
        } else {
            self.promised.insert(name.clone(), ports)
        };
        self.taken.remove(&before.unwrap_or_default());
        displaced
    }

    /// Opens the listeners that a Service needs, closes the others once no rule leads to them, and gives
    /// its plan for the kernel.
    fn serve(&mut self, name: &ServiceName, plan: Option<&ServicePlan>) -> Option<ServicePlan> {
        self.failed.remove(name);
        let mut before = self.take_listeners(name);
        let visible = self.relays.0.shared.options.visible;
        let needed = plan.into_iter().flat_map(needed);
        let each = |(port, pool)| sources(visible).iter().map(move |source| (port, pool, *source));
        for (port, pool, source) in needed.flat_map(each) {
            let key = RelayKey::new(name, port, pool, source);
            let standing = before.remove(&key).filter(|listener| self.stands(listener, &key));
            let listener = match standing.map_or_else(|| self.open(&key, &before), Ok) {
                Ok(listener) => listener,
                Err(why) => {
                    self.failed.insert(name.clone(), why);
                    continue;
                }
            };
            let timeout = port.affinity.map(|Affinity { timeout, .. }| timeout);
            listener.target.update(port.pool(pool), timeout);
            self.owners.insert((port.protocol, listener.at.port()), name.clone());
            self.listeners.insert(key, listener);
        }
        self.leaving.extend(before.into_values().map(|listener| (name.clone(), listener)));
        let listeners = &self.listeners;
        let at = |port: &PortPlan, pool, source| {
            listeners.get(&RelayKey::new(name, port, pool, source)).map(|listener| listener.at)
        };
        plan.map(|plan| redirected(plan, visible, at))
    }

    fn take_listeners(&mut self, name: &ServiceName) -> Listeners {
        let first = RelayKey::first_of(name);
        let keys: Vec<RelayKey> = self
            .listeners
            .range(first..)
            .map(|(key, _)| key)
            .take_while(|key| key.service == *name)
            .cloned()
            .collect();
        let taken = keys.into_iter().filter_map(|key| self.listeners.remove_entry(&key));
        let taken: Listeners = taken.collect();
        for (key, listener) in &taken {
            self.owners.remove(&(key.protocol, listener.at.port()));
        }
        taken
    }

    /// Whether a listener can stay where it is.
    fn stands(&self, listener: &Listener, key: &RelayKey) -> bool {
        let here = self
            .listen_at
            .as_ref()
            .is_some_and(|at| at.ip == listener.at.ip() && at.mark == listener.target.mark);
        here && !self.taken.contains(key.protocol, listener.at.port())
    }

    fn open(&self, key: &RelayKey, before: &Listeners) -> Result<Listener, String> {
        let listen_at = self.listen_at.as_ref().ok_or("this node has no address to redirect to")?;
        let twin = match key.source {
            VisibleSource::Node => RelayKey { source: VisibleSource::Client, ..key.clone() },
            VisibleSource::Client => RelayKey { source: VisibleSource::Node, ..key.clone() },
        };
        let twin = self.listeners.get(&twin).or_else(|| before.get(&twin));
        let choice = twin.map(|twin| twin.target.choice()).unwrap_or_default();
        listen_at
            .open(key.protocol, (key.source, choice), &self.taken)
            .map_err(|error| error.to_string())
    }
}

impl Userspace {
    /// The listeners of a port.
    fn relays_of(&self, service: &ServiceName, port: &PortPlan) -> impl Iterator<Item = &Listener> {
        let pools = [PoolKind::Cluster, PoolKind::Local];
        let each = |pool| [VisibleSource::Node, VisibleSource::Client].map(|source| (pool, source));
        let keys: Vec<RelayKey> = pools
            .into_iter()
            .flat_map(each)
            .map(|(pool, source)| RelayKey::new(service, port, pool, source))
            .collect();
        keys.into_iter().filter_map(|key| self.listeners.get(&key))
    }
}

/// The address that traffic is redirected to: the node's own, or else any that routing can find.
fn address(family: Family, host: &Host) -> Option<IpAddr> {
    host.node_ip.filter(|ip| sockets::is_local(*ip)).or_else(|| sockets::any_address(family))
}

impl Backend for Userspace {
    fn sync(&mut self, table: &ForwardingTable, scope: &Scope) -> Result<Report, SyncError> {
        let ensured = match &mut self.return_path {
            Some(path) => path.ensure(table.host.masquerade_mark, scope.full),
            None => Ok(0),
        };
        let changes = ensured.map_err(|error| SyncError {
            backend: "userspace",
            family: table.family,
            reason: error.to_string(),
        })?;
        let mut names = scope.services.clone();
        if self.settle(table) {
            names.extend(table.services.keys().cloned());
            names.extend(self.listeners.keys().map(|key| key.service.clone()));
        }
        let redirected = self.redirected.get_or_insert_with(|| ForwardingTable {
            family: table.family,
            host: table.host.clone(),
            service_cidrs: BTreeSet::new(),
            services: BTreeMap::new(),
            health_checks: BTreeMap::new(),
        });
        redirected.host.clone_from(&table.host);
        redirected.service_cidrs.clone_from(&table.service_cidrs);
        let services = self.prepare(table, names);
        let scope = Scope { services, full: scope.full };
        let Some(redirected) = &self.redirected else { return Ok(Report::default()) };
        let mut report = self.redirect.sync(redirected, &scope)?;
        report.operations += changes;
        // A Service that the kernel refuses keeps what it had.
        let refused: BTreeSet<&ServiceName> = report.refused.iter().map(|r| &r.service).collect();
        self.leaving.retain(|(service, _)| refused.contains(service));
        let failed = self.failed.iter().map(|(service, reason)| RefusedService {
            service: service.clone(),
            reason: reason.clone(),
        });
        report.refused.extend(failed);
        Ok(report)
    }

    fn translated_to(
        &self,
        service: &ServiceName,
        port: &PortPlan,
        endpoints: BTreeSet<SocketAddr>,
    ) -> BTreeSet<SocketAddr> {
        if !is_relayed(port.protocol) {
            return endpoints;
        }
        self.relays_of(service, port).map(|listener| listener.at).collect()
    }

    fn retain_endpoints(
        &mut self,
        service: &ServiceName,
        port: &PortPlan,
        endpoints: &BTreeSet<SocketAddr>,
    ) {
        self.relays_of(service, port)
            .for_each(|listener| listener.target.retain_endpoints(endpoints));
    }

    fn stop(&mut self) {
        let shared = &self.relays.0.shared;
        shared.closing.cancel();
        let deadline = *shared.drain_until.get_or_init(|| Instant::now() + shared.options.drain);
        let active = || shared.counters.active_connections.get();
        if active() > 0 {
            tracing::info!(connections = active(), patience = ?shared.options.drain, "waiting for connections to end");
        }
        while active() > 0 && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        if active() > 0 {
            tracing::warn!(connections = active(), "closing connections");
        }
    }
}

impl std::fmt::Debug for Userspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Userspace").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}
