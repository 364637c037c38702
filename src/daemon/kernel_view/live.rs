//! This node's kernel, for one connection.

use super::computed::path;
use super::reader::Kernel;
use sluice_core::model::ServiceName;
use sluice_core::net::Family;
use sluice_core::plan::{Hit, PoolEndpoint, ServicePlan};
use sluice_explain::Looked;
use sluice_explain::truth::{KernelView, Observed, Path, Way};

/// How often the kernel is read again because the Service changed meanwhile.
const ATTEMPTS: usize = 3;

/// Whether the kernel is to have a plan just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It is.
    Yes,
    /// It is being written.
    NotYet,
    /// There is another plan by now.
    Changed,
}

/// A kernel that can be asked.
pub(crate) struct Live<'a> {
    pub(crate) kernel: &'a Kernel,
    /// How far the writing of a plan is.
    pub(crate) settled: &'a dyn Fn(Family, &ServiceName, &ServicePlan) -> Settled,
}

impl KernelView for Live<'_> {
    fn path(&self, hit: &Hit<'_>) -> Path {
        path(self.kernel.mode(), hit)
    }

    fn observed(&self, hit: &Hit<'_>) -> Looked<Observed> {
        let settled = || (self.settled)(hit.table.family, hit.service, hit.plan);
        for _ in 0..ATTEMPTS {
            match settled() {
                Settled::Yes => {}
                Settled::NotYet => {
                    return Looked::Not(format!("a change of {} is being written", hit.service));
                }
                Settled::Changed => break,
            }
            match self.kernel.inspect(hit.table, hit.service, Some(hit)) {
                Err(why) => return Looked::Not(why),
                Ok(seen) if settled() == Settled::Yes => return Looked::At(seen),
                Ok(_) => {}
            }
        }
        Looked::Not(format!("{} changes while it is looked at; ask again", hit.service))
    }

    fn way(&self, hit: &Hit<'_>, endpoints: &[PoolEndpoint]) -> Looked<Way> {
        self.kernel.way(hit, endpoints).map_or_else(Looked::Not, Looked::At)
    }

    fn others(&self, hit: &Hit<'_>) -> Looked<Vec<String>> {
        self.kernel.others(hit).map_or_else(Looked::Not, Looked::At)
    }
}
