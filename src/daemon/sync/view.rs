//! What the loop knows, for those who only look: the admin socket.
//!
//! A question costs the loop nothing. The loop answers none: who looks reads the loop's own values under a lock
//! that is held for a few entries at a time ([`AT_A_TIME`]), on another thread. The loop only writes while it takes
//! changes in and plans them, never while the kernel works, and it waits for one such reading at the most, because
//! waiting writers go before new readers. Nothing is copied that nobody asks for. What is written for those who look,
//! the times of [`Progress`] and the last changes, costs work for the Services that a sync touches, and is not
//! written at all if nobody can look.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use jiff::Timestamp;
use rustc_hash::FxHashMap;
use tokio::sync::broadcast;

use sluice_config::Config;
use sluice_core::model::{EndpointSlice, Service, ServiceName, Snapshot};
use sluice_core::net::Family;
use sluice_core::plan::{ForwardingTable, Planner, ServicePlan};

/// How many entries are read at a time.
const AT_A_TIME: usize = 64;

/// How many of the last changes are kept.
const REMEMBERED: usize = 256;

/// How many Services of a change are named.
const NAMED: usize = 16;

/// Whether anybody can look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looking {
    /// Somebody may.
    Possible,
    /// Nobody can: nothing is noted.
    Impossible,
}

/// What the loop knows. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct View(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    looking: Looking,
    snapshot: RwLock<Snapshot>,
    planners: Mutex<BTreeMap<Family, Arc<RwLock<Planner>>>>,
    progress: Mutex<BTreeMap<Family, Progress>>,
    facts: Mutex<Facts>,
    last: Mutex<VecDeque<Arc<Synced>>>,
    follow: broadcast::Sender<Arc<Synced>>,
}

/// What is the same for all Services.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The configuration that counts.
    pub(crate) config: Option<Config>,
    /// The addresses of this node's interfaces.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Resources of which no changes arrive, and since when.
    pub(crate) lost: BTreeMap<String, Timestamp>,
}

/// How far a family is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    services: FxHashMap<ServiceName, Stage>,
    /// Why syncs fail, and since when.
    pub(crate) failing: Option<(String, Timestamp)>,
    /// When the last one was done.
    pub(crate) synced: Option<Timestamp>,
}

/// How far a Service is in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its change waits for a sync.
    Pending(Timestamp),
    /// The kernel has it.
    Programmed(Timestamp),
    /// The kernel refuses it.
    Refused(Box<str>, Timestamp),
}

/// A sync that had something to do.
#[derive(Debug, Clone)]
pub(crate) struct Synced {
    /// Counts up from 1.
    pub(crate) number: u64,
    /// When it was done.
    pub(crate) at: Timestamp,
    /// The family.
    pub(crate) family: Family,
    /// The first of the Services that changed.
    pub(crate) services: Vec<ServiceName>,
    /// How many there were.
    pub(crate) count: usize,
    /// How many operations it took.
    pub(crate) operations: usize,
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// Why it failed.
    pub(crate) error: Option<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl View {
    pub(crate) fn new(looking: Looking) -> View {
        View(Arc::new(Shared {
            looking,
            snapshot: RwLock::default(),
            planners: Mutex::default(),
            progress: Mutex::default(),
            facts: Mutex::default(),
            last: Mutex::default(),
            follow: broadcast::Sender::new(REMEMBERED),
        }))
    }

    fn on(&self) -> bool {
        self.0.looking == Looking::Possible
    }

    // For the loop.

    pub(super) fn snapshot(&self) -> RwLockReadGuard<'_, Snapshot> {
        read(&self.0.snapshot)
    }

    pub(super) fn change_snapshot(&self) -> RwLockWriteGuard<'_, Snapshot> {
        write(&self.0.snapshot)
    }

    /// The planner of a family, from now on shown.
    pub(super) fn show(&self, planner: Planner) -> Arc<RwLock<Planner>> {
        let family = planner.table().family;
        let planner = Arc::new(RwLock::new(planner));
        locked(&self.0.planners).insert(family, Arc::clone(&planner));
        planner
    }

    /// Changes what is the same for all Services.
    pub(super) fn note(&self, change: impl FnOnce(&mut Facts)) {
        if self.on() {
            change(&mut locked(&self.0.facts));
        }
    }

    /// Changes of these Services wait.
    pub(super) fn pending(&self, family: Family, services: &BTreeSet<ServiceName>) {
        if !self.on() || services.is_empty() {
            return;
        }
        let now = Timestamp::now();
        let mut progress = locked(&self.0.progress);
        let stages = &mut progress.entry(family).or_default().services;
        for service in services {
            if !matches!(stages.get(service), Some(Stage::Pending(_))) {
                stages.insert(service.clone(), Stage::Pending(now));
            }
        }
    }

    /// These Services are in the kernel, but for the refused ones.
    pub(super) fn applied(
        &self,
        table: &ForwardingTable,
        services: &BTreeSet<ServiceName>,
        refused: &BTreeMap<ServiceName, String>,
    ) {
        if !self.on() {
            return;
        }
        let now = Timestamp::now();
        let mut progress = locked(&self.0.progress);
        let progress = progress.entry(table.family).or_default();
        (progress.failing, progress.synced) = (None, Some(now));
        for service in services.iter().chain(refused.keys()) {
            match (refused.get(service), table.services.contains_key(service)) {
                (Some(reason), _) => progress.refuse(service, reason, now),
                (None, true) => progress.settle(service, now),
                (None, false) => drop(progress.services.remove(service)),
            }
        }
    }

    /// The sync of a family failed.
    pub(super) fn failed(&self, family: Family, reason: &str) {
        if self.on() {
            let mut progress = locked(&self.0.progress);
            let failing = &mut progress.entry(family).or_default().failing;
            let since = failing.take().map_or_else(Timestamp::now, |(_, since)| since);
            *failing = Some((reason.to_owned(), since));
        }
    }

    /// A sync has ended that had something to do.
    pub(super) fn synced(
        &self,
        family: Family,
        services: &BTreeSet<ServiceName>,
        (operations, elapsed): (usize, Duration),
        error: Option<String>,
    ) {
        if !self.on() || (operations == 0 && services.is_empty() && error.is_none()) {
            return;
        }
        let mut last = locked(&self.0.last);
        let synced = Arc::new(Synced {
            number: last.back().map_or(0, |synced| synced.number) + 1,
            at: Timestamp::now(),
            family,
            services: services.iter().take(NAMED).cloned().collect(),
            count: services.len(),
            operations,
            elapsed,
            error,
        });
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(Arc::clone(&synced));
        // Nobody may follow.
        let _ = self.0.follow.send(synced);
    }

    // For those who look.

    /// What is the same for all Services.
    pub(crate) fn facts(&self) -> Facts {
        locked(&self.0.facts).clone()
    }

    /// The families that are served.
    pub(crate) fn families(&self) -> Vec<Family> {
        locked(&self.0.planners).keys().copied().collect()
    }

    /// How far a family is, but for its Services.
    pub(crate) fn progress(&self, family: Family) -> Progress {
        let progress = locked(&self.0.progress);
        let Some(found) = progress.get(&family) else { return Progress::default() };
        Progress {
            services: FxHashMap::default(),
            failing: found.failing.clone(),
            synced: found.synced,
        }
    }

    /// How far these Services are.
    pub(crate) fn stages(&self, family: Family, names: &[ServiceName]) -> Vec<Option<Stage>> {
        let progress = locked(&self.0.progress);
        let stages = progress.get(&family).map(|progress| &progress.services);
        names.iter().map(|name| stages?.get(name).cloned()).collect()
    }

    /// Services of a family that the kernel does not have as planned.
    pub(crate) fn unsettled(&self, family: Family) -> BTreeMap<ServiceName, Stage> {
        let progress = locked(&self.0.progress);
        let all = progress.get(&family).into_iter().flat_map(|progress| &progress.services);
        let unsettled = all.filter(|(_, stage)| !matches!(stage, Stage::Programmed(_)));
        unsettled.map(|(name, stage)| (name.clone(), stage.clone())).collect()
    }

    /// The forwarding table of a family without Services.
    pub(crate) fn bare_table(&self, family: Family) -> Option<ForwardingTable> {
        let planner = locked(&self.0.planners).get(&family).map(Arc::clone)?;
        let planner = read(&planner);
        let table = planner.table();
        Some(ForwardingTable {
            family,
            host: table.host.clone(),
            service_cidrs: table.service_cidrs.clone(),
            services: BTreeMap::new(),
            health_checks: BTreeMap::new(),
        })
    }

    /// The plan of a Service.
    pub(crate) fn plan(&self, family: Family, name: &ServiceName) -> Option<Arc<ServicePlan>> {
        let planner = locked(&self.0.planners).get(&family).map(Arc::clone)?;
        let planner = read(&planner);
        planner.table().services.get(name).map(Arc::clone)
    }

    /// How many Services a family serves.
    pub(crate) fn count(&self, family: Family) -> usize {
        let planner = locked(&self.0.planners).get(&family).map(Arc::clone);
        planner.map_or(0, |planner| read(&planner).table().services.len())
    }

    /// The plans of a family, a few at a time: what changes meanwhile may be there as before or as after.
    pub(crate) fn plans(&self, family: Family) -> Vec<(ServiceName, Arc<ServicePlan>)> {
        self.plans_where(family, |_, _| true)
    }

    /// Some of them.
    pub(crate) fn plans_where(
        &self,
        family: Family,
        wanted: impl Fn(&ServiceName, &ServicePlan) -> bool,
    ) -> Vec<(ServiceName, Arc<ServicePlan>)> {
        let planner = locked(&self.0.planners).get(&family).map(Arc::clone);
        let Some(planner) = planner else { return Vec::new() };
        let mut found: Vec<(ServiceName, Arc<ServicePlan>)> = Vec::new();
        let mut last: Option<ServiceName> = None;
        loop {
            let planner = read(&planner);
            let services = &planner.table().services;
            let from = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut end = None;
            for (name, plan) in services.range((from, Bound::Unbounded)).take(AT_A_TIME) {
                if wanted(name, plan) {
                    found.push((name.clone(), Arc::clone(plan)));
                }
                end = Some(name);
            }
            let Some(end) = end.cloned() else { return found };
            last = Some(end);
        }
    }

    /// The names of all Services, sorted.
    pub(crate) fn names(&self) -> Vec<ServiceName> {
        self.names_where(|_| true)
    }

    /// The names of some Services, sorted.
    pub(crate) fn names_where(&self, wanted: impl Fn(&ServiceName) -> bool) -> Vec<ServiceName> {
        let names = |snapshot: &Snapshot| {
            snapshot.services.keys().filter(|name| wanted(name)).cloned().collect()
        };
        let mut names: Vec<ServiceName> = names(&self.snapshot());
        names.sort_unstable();
        names
    }

    /// A Service and its EndpointSlices.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<(Service, Vec<EndpointSlice>)> {
        let snapshot = self.snapshot();
        let service = Service::clone(snapshot.services.get(name)?);
        Some((service, snapshot.slices.get(name).cloned().unwrap_or_default()))
    }

    /// What the API says that is not about one Service.
    pub(crate) fn node(&self) -> Snapshot {
        let snapshot = self.snapshot();
        let mut bare = Snapshot::default();
        bare.node.clone_from(&snapshot.node);
        bare.kept.clone_from(&snapshot.kept);
        bare.service_cidrs.clone_from(&snapshot.service_cidrs);
        bare
    }

    /// The last changes, the oldest first.
    pub(crate) fn changes(&self) -> Vec<Arc<Synced>> {
        locked(&self.0.last).iter().map(Arc::clone).collect()
    }

    /// Those that come.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<Synced>> {
        self.0.follow.subscribe()
    }
}

impl Progress {
    fn refuse(&mut self, service: &ServiceName, reason: &str, now: Timestamp) {
        let known = matches!(self.services.get(service),
            Some(Stage::Refused(known, _)) if **known == *reason);
        if !known {
            self.services.insert(service.clone(), Stage::Refused(reason.into(), now));
        }
    }

    fn settle(&mut self, service: &ServiceName, now: Timestamp) {
        if !matches!(self.services.get(service), Some(Stage::Programmed(_))) {
            self.services.insert(service.clone(), Stage::Programmed(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::plan::{build, fixtures};

    fn names(list: &[&str]) -> BTreeSet<ServiceName> {
        list.iter().map(|name| ServiceName::new("default", name)).collect()
    }

    fn kind(stage: Option<&Stage>) -> &'static str {
        match stage {
            Some(Stage::Pending(_)) => "pending",
            Some(Stage::Programmed(_)) => "programmed",
            Some(Stage::Refused(..)) => "refused",
            None => "unknown",
        }
    }

    #[test]
    fn a_service_is_pending_until_it_is_programmed_or_refused() {
        let view = View::new(Looking::Possible);
        let family = Family::V4;
        let (table, _) = build(family, "node-a", fixtures::host(), &fixtures::two_services());
        let name = table.services.keys().next().expect("a Service").clone();
        let of = |view: &View| {
            let stages = view.stages(family, std::slice::from_ref(&name));
            kind(stages[0].as_ref())
        };
        let all = BTreeSet::from([name.clone()]);
        assert_eq!(of(&view), "unknown");
        view.pending(family, &all);
        assert_eq!(of(&view), "pending");
        view.failed(family, "no kernel");
        assert_eq!(of(&view), "pending");
        assert!(view.progress(family).failing.is_some_and(|(reason, _)| reason == "no kernel"));
        let refused = BTreeMap::from([(name.clone(), "EINVAL".to_owned())]);
        view.applied(&table, &all, &refused);
        assert_eq!((of(&view), view.unsettled(family).len()), ("refused", 1));
        assert!(view.progress(family).failing.is_none());
        view.applied(&table, &all, &BTreeMap::new());
        assert_eq!((of(&view), view.unsettled(family).len()), ("programmed", 0));
        let gone = ForwardingTable { services: BTreeMap::new(), ..table };
        view.applied(&gone, &all, &BTreeMap::new());
        assert_eq!(of(&view), "unknown");
    }

    #[test]
    fn nothing_is_noted_if_nobody_can_look() {
        let view = View::new(Looking::Impossible);
        view.pending(Family::V4, &names(&["web"]));
        view.synced(Family::V4, &names(&["web"]), (3, Duration::ZERO), None);
        view.failed(Family::V4, "no kernel");
        assert!(view.unsettled(Family::V4).is_empty() && view.changes().is_empty());
        assert!(view.progress(Family::V4).failing.is_none());
    }

    #[test]
    fn the_last_changes_are_kept_and_followed() {
        let view = View::new(Looking::Possible);
        let mut follow = view.follow();
        view.synced(Family::V4, &BTreeSet::new(), (0, Duration::ZERO), None);
        assert!(view.changes().is_empty(), "it had nothing to do");
        for _ in 0..REMEMBERED + 3 {
            view.synced(Family::V6, &names(&["a", "b"]), (2, Duration::ZERO), None);
        }
        let changes = view.changes();
        assert_eq!((changes.len(), changes[0].number), (REMEMBERED, 4));
        assert!(follow.try_recv().is_err(), "a slow reader is told that it missed some");
        assert_eq!(follow.try_recv().expect("then it goes on").number, 4);
    }
}
