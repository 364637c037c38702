//! Each stage between the API server and the kernel, apart and in one piece, without either: what the
//! micro-benchmarks and the guard of instruction counts run.

#![allow(dead_code)] // each program uses its own part

#[path = "../iptables_world.rs"]
mod world;

#[path = "listed.rs"]
mod listed;

pub(crate) use listed::{Api, Encoding, Form, Listed, Watching, modified};

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice::sync::pacer::{Pacer, Share};
use sluice_config::SyncPeriods;
use sluice_core::model::{Change, EndpointSlice, ServiceName, Snapshot};
use sluice_core::net::Family;
use sluice_core::plan::{ForwardingTable, Planner};
use sluice_dataplane::nftables;
use sluice_dataplane::service_table::{KernelTable, ServiceTable};
use sluice_dataplane::{Backend, Scope};
use sluice_kernel::nft::{
    ApplyError, Element, Listening, NftError, Observed, Ops, Set, TableName, encoded,
};

pub(crate) const ENDPOINTS: u8 = 5;
const FAMILY: Family = Family::V4;

/// So many Services with [`ENDPOINTS`] each.
pub(crate) fn snapshot(services: u16) -> Snapshot {
    world::many(services, ENDPOINTS)
}

pub(crate) fn table(snapshot: &Snapshot) -> ForwardingTable {
    world::table(FAMILY, snapshot)
}

pub(crate) fn planner(snapshot: &Snapshot) -> Planner {
    let mut planner = Planner::new(FAMILY, "node-a", world::host(FAMILY));
    planner.update(snapshot, &snapshot.services.keys().cloned().collect());
    planner
}

/// The slice of one Service in two forms, of which the second has an endpoint more.
pub(crate) fn versions(snapshot: &Snapshot) -> [EndpointSlice; 2] {
    let web = &snapshot.services[&ServiceName::new("default", "web-3")];
    [0, 1].map(|more| {
        let pod = |e: u8| world::ip(FAMILY, [10, 200, 3, e]);
        let pods: Vec<IpAddr> = (0..ENDPOINTS + more).map(pod).collect();
        world::slice(web, &pods)
    })
}

/// nf_tables that takes everything and has nothing.
#[derive(Debug, Default)]
pub(crate) struct Void {
    generation: u32,
    listening: bool,
    taking: Taking,
    /// What was last taken, if it is kept.
    pub(crate) last: Ops,
    /// How long the last transaction was, if it was written down.
    pub(crate) bytes: usize,
}

/// The receiver of transactions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taking {
    /// Nothing.
    #[default]
    Forgotten,
    /// They are kept.
    Kept,
    /// They are written as messages.
    Encoded,
}

/// Shared, so that it can be read while the mode has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sink(Arc<std::sync::Mutex<Void>>);

impl Sink {
    pub(crate) fn new(taking: Taking) -> Sink {
        let sink = Sink::default();
        sink.void().taking = taking;
        sink
    }

    pub(crate) fn void(&self) -> std::sync::MutexGuard<'_, Void> {
        self.0.lock().expect("nobody panics with it")
    }

    /// The nftables mode on it.
    pub(crate) fn mode(&self) -> ServiceTable<Sink> {
        nftables::table(self.clone())
    }
}

pub(crate) fn table_name() -> TableName {
    TableName::new(FAMILY, "kube-proxy")
}

impl KernelTable for Sink {
    fn apply(&mut self, ops: &Ops) -> Result<(), ApplyError> {
        let mut void = self.void();
        void.generation += 1;
        match void.taking {
            Taking::Forgotten => assert!(!ops.is_empty(), "an empty transaction"),
            Taking::Kept => void.last = ops.clone(),
            Taking::Encoded => void.bytes = encoded(&table_name(), ops)?.len(),
        }
        Ok(())
    }

    fn dump(&mut self) -> Result<Option<Observed>, NftError> {
        Ok(None)
    }

    fn elements(&mut self, _: &Set) -> Result<Vec<Element>, NftError> {
        Ok(Vec::new())
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        Ok(self.void().generation)
    }

    fn listen(&mut self) -> Result<Listening, NftError> {
        let before = std::mem::replace(&mut self.void().listening, true);
        Ok(if before { Listening::Before } else { Listening::Now })
    }

    fn drifted(&mut self) -> bool {
        false
    }
}

/// The first sync of a table.
pub(crate) fn first_sync(mode: &mut ServiceTable<Sink>, table: &ForwardingTable) -> usize {
    mode.sync(table, &Scope::default()).expect("nothing is refused").operations
}

/// A sync after a change of some Services.
pub(crate) fn sync(
    mode: &mut ServiceTable<Sink>,
    table: &ForwardingTable,
    services: BTreeSet<ServiceName>,
) -> usize {
    let scope = Scope { services, full: false };
    mode.sync(table, &scope).expect("nothing is refused").operations
}

/// So many changes, each followed by the sync that it asks for, on a clock that goes forward as the pacer says.
/// Returns how long that takes, with syncs of a millisecond.
pub(crate) fn paced(changes: u32) -> Duration {
    let cost = Duration::from_millis(1);
    let periods = SyncPeriods { min: None, period: Duration::from_secs(30) };
    let mut pacer = Pacer::new(periods, Share::of_a_core(5));
    let start = Instant::now();
    let mut now = start;
    for _ in 0..changes {
        pacer.request();
        let (at, reason) = pacer.next(now);
        now = now.max(at) + cost;
        pacer.ran(now, reason, cost, true);
    }
    now - start
}

/// The transactions of a first sync, and of the change that [`versions`] are.
pub(crate) fn transactions(services: u16) -> [Ops; 2] {
    let mut snapshot = snapshot(services);
    let mut planner = planner(&snapshot);
    let sink = Sink::new(Taking::Kept);
    let mut mode = sink.mode();
    first_sync(&mut mode, planner.table());
    let first = std::mem::take(&mut sink.void().last);
    let mut dirty = BTreeSet::new();
    let [_, second] = versions(&snapshot);
    snapshot.apply(Change::Slice(second), &mut dirty);
    let effect = planner.update(&snapshot, &dirty);
    sync(&mut mode, planner.table(), effect.services);
    let second = std::mem::take(&mut sink.void().last);
    [first, second]
}
