//! Diff: the operations that bring virtual services to what is desired.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::applied::AppliedService;
use super::desired::DesiredService;
use sluice_kernel::dummy::DummyOp;
use sluice_kernel::ipvs::{Destination, Key, Op};

/// The weight of every destination that takes new connections.
pub(super) const WEIGHT: u32 = 1;

/// Operations of a sync, by when they are due.
#[derive(Debug, Default)]
pub(super) struct Diff {
    /// Before the table refers to them.
    pub(super) arrivals: Vec<Op>,
    pub(super) addresses_gone: Vec<DummyOp>,
    pub(super) addresses_new: Vec<DummyOp>,
    /// When the table no longer refers to them.
    pub(super) departures: Vec<Op>,
}

impl Diff {
    /// Compares a virtual service with what is desired. What is not desired any more gets no new
    /// connections if it may drain, and goes otherwise.
    pub(super) fn compare(
        &mut self,
        key: &Key,
        applied: Option<&AppliedService>,
        desired: Option<&DesiredService>,
        drains: bool,
    ) {
        match (applied, desired) {
            (None, None) => {}
            (None, Some(desired)) => {
                self.arrivals.push(Op::AddService(desired.service.clone()));
                self.arrive(key, None, desired);
            }
            (Some(applied), Some(desired)) => {
                if applied.service != desired.service {
                    self.arrivals.push(Op::SetService(desired.service.clone()));
                }
                self.arrive(key, Some(applied), desired);
                self.leave(key, applied, &desired.destinations, drains);
            }
            (Some(applied), None) if drains && !applied.destinations.is_empty() => {
                self.leave(key, applied, &BTreeSet::new(), drains);
            }
            (Some(_), None) => self.departures.push(Op::DeleteService(*key)),
        }
    }

    fn arrive(&mut self, key: &Key, applied: Option<&AppliedService>, desired: &DesiredService) {
        for at @ (ip, port) in &desired.destinations {
            let to = Destination::new(*ip, *port, WEIGHT);
            match applied.and_then(|applied| applied.destinations.get(at)) {
                None => self.arrivals.push(Op::AddDestination(*key, to)),
                Some(there) if *there == to => {}
                Some(_) => self.arrivals.push(Op::SetDestination(*key, to)),
            }
        }
    }

    fn leave(
        &mut self,
        key: &Key,
        applied: &AppliedService,
        desired: &BTreeSet<(IpAddr, u16)>,
        drains: bool,
    ) {
        let undesired = applied.destinations.iter().filter(|(at, _)| !desired.contains(at));
        for ((ip, port), to) in undesired {
            if !drains {
                self.departures.push(Op::DeleteDestination(*key, *ip, *port));
            } else if to.weight > 0 {
                let idle = Destination { weight: 0, ..*to };
                self.departures.push(Op::SetDestination(*key, idle));
            }
        }
    }
}
