//! Graceful termination: a removed destination gets no new connections (weight 0), and is deleted when its
//! last one has ended.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::applied::{Applied, AppliedService};
use super::desired::Desired;
use super::kernel::{Kernel, KernelError};
use sluice_core::net::Protocol;
use sluice_kernel::ipvs::{Key, Op};

/// The time limit for draining a destination. IPVS expires idle connections after fifteen minutes
/// (`ipvs.tcpTimeout`); this is for connections that are never idle, and for wrong counts.
const LIMIT: Duration = Duration::from_secs(3600);

/// How often connections are counted.
const PERIOD: Duration = Duration::from_secs(4);

/// What happens to connections to a removed destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// They may end in peace; only UDP flows find another destination at once.
    Gracefully,
    /// They are cut.
    AtOnce,
}

/// Destinations that are to go.
#[derive(Debug)]
pub(super) struct Drains {
    leaving: Leaving,
    /// Virtual services that may have some.
    watched: BTreeSet<Key>,
    since: FxHashMap<(Key, IpAddr, u16), Instant>,
    counted: Option<Instant>,
}

impl Drains {
    pub(super) fn new(leaving: Leaving) -> Drains {
        Drains { leaving, watched: BTreeSet::new(), since: FxHashMap::default(), counted: None }
    }

    /// Whether connections to destinations of a virtual service may end in peace.
    pub(super) fn allows(&self, key: &Key) -> bool {
        let has_connections =
            matches!(key, Key::Address { protocol: Protocol::Tcp | Protocol::Sctp, .. });
        self.leaving == Leaving::Gracefully && has_connections
    }

    /// Virtual services of an address that may have destinations that are to go.
    pub(super) fn at(&self, address: IpAddr) -> impl Iterator<Item = &Key> {
        let is_there = move |key: &&Key| matches!(key, Key::Address { ip, .. } if *ip == address);
        self.watched.iter().filter(is_there)
    }

    /// An operation was applied.
    pub(super) fn record(&mut self, op: &Op) {
        if matches!(op, Op::SetDestination(_, to) if to.weight == 0) {
            self.watched.insert(op.key());
        }
    }

    /// Everything was read again.
    pub(super) fn watch_all(&mut self, applied: &Applied) {
        let idle =
            |service: &AppliedService| service.destinations.values().any(|to| to.weight == 0);
        let idle = applied.services.iter().filter(|(_, service)| idle(service));
        self.watched = idle.map(|(key, _)| *key).collect();
    }

    /// Operations that remove destinations without connections, and virtual services without
    /// destinations, that are not desired. Those that were not known yet are counted at once.
    pub(super) fn finished(
        &mut self,
        kernel: &mut impl Kernel,
        applied: &Applied,
        desired: &Desired,
        now: Instant,
    ) -> Result<Vec<Op>, KernelError> {
        let recently = |at: Instant| now.duration_since(at) < PERIOD;
        let due = !self.counted.is_some_and(recently);
        let mut ops = Vec::new();
        let mut still = FxHashMap::default();
        let watched = std::mem::take(&mut self.watched);
        for key in watched {
            let leaving = idle_destinations(&key, applied, desired);
            if leaving.is_empty() {
                continue;
            }
            self.watched.insert(key);
            let known = |(ip, port): &(IpAddr, u16)| self.since.contains_key(&(key, *ip, *port));
            let busy = if due || !leaving.iter().all(known) {
                kernel.destinations(&key)?
            } else {
                leaving.iter().for_each(|(ip, port)| {
                    still.extend(self.since.get_key_value(&(key, *ip, *port)));
                });
                continue;
            };
            let before = ops.len();
            for (ip, port) in &leaving {
                let since = *self.since.get(&(key, *ip, *port)).unwrap_or(&now);
                let here =
                    busy.iter().find(|to| (to.destination.ip, to.destination.port) == (*ip, *port));
                let connections = here.map_or(0, |to| to.active + to.inactive);
                if connections == 0 || now.duration_since(since) >= LIMIT {
                    ops.push(Op::DeleteDestination(key, *ip, *port));
                } else {
                    still.insert((key, *ip, *port), since);
                }
            }
            let gone = ops.len() - before;
            if gone == busy.len() && desired.service(&key).is_none() {
                ops.truncate(before);
                ops.push(Op::DeleteService(key));
            }
        }
        if due {
            self.counted = Some(now);
        }
        self.since = still;
        Ok(ops)
    }
}

/// Destinations of a virtual service that have weight 0 and are not desired.
fn idle_destinations(key: &Key, applied: &Applied, desired: &Desired) -> Vec<(IpAddr, u16)> {
    let desired = desired.service(key).map(|(_, service)| &service.destinations);
    let all = applied.services.get(key).into_iter().flat_map(|service| &service.destinations);
    let idle = all
        .filter(|(at, to)| to.weight == 0 && !desired.is_some_and(|desired| desired.contains(at)));
    idle.map(|(at, _)| *at).collect()
}
