//! Why an endpoint is in a pool or not: what [`categorize`](super::categorize) decides for all endpoints of a Service
//! port at once, said of each one. Only for those who ask; the planner does not.

use super::endpoints::{Here, Topology, collect, prefers, topology};
use super::table::{PoolEndpoint, PoolKind};
use crate::model::{Condition, EndpointSlice, Hints};
use crate::net::{Family, Protocol};

/// An endpoint of a Service port, and what becomes of it in each pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The endpoint.
    pub endpoint: PoolEndpoint,
    /// Its condition, the best one if several slices have it.
    pub condition: Condition,
    /// Its hints, if it has any.
    pub hints: Option<Hints>,
    /// Which hints count for the port.
    pub topology: Topology,
    /// In the pool for policy Cluster.
    pub cluster: Standing,
    /// In the pool for policy Local.
    pub local: Standing,
}

impl Judged {
    /// What becomes of it in a pool.
    pub fn standing(&self, pool: PoolKind) -> Standing {
        match pool {
            PoolKind::Cluster => self.cluster,
            PoolKind::Local => self.local,
        }
    }
}

/// Whether an endpoint is in a pool, or the first reason against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is in the pool and ready.
    Ready,
    /// It is in the pool although it terminates: there is no ready one.
    LastResort,
    /// It is neither ready nor serving.
    Unusable,
    /// It terminates, and there are ready ones.
    Terminating,
    /// It is on another node, and the policy is Local.
    Elsewhere,
    /// Hints select others.
    HintsExclude,
}

impl Standing {
    /// Whether it is in the pool.
    pub fn is_used(self) -> bool {
        matches!(self, Standing::Ready | Standing::LastResort)
    }
}

/// Every endpoint of a Service port, sorted as in pools, with what becomes of it.
pub fn judge<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    family: Family,
    port: (&str, Protocol),
    here: Here<'_>,
) -> Vec<Judged> {
    let found = collect(slices, family, port);
    let topology = topology(found.values(), here);
    let ready = |local: bool| {
        found.values().any(|e| e.condition == Condition::Ready && (e.local || !local))
    };
    let (any_ready, local_ready) = (ready(false), ready(true));
    let by_condition = |condition: Condition, others_ready: bool| match condition {
        Condition::Ready => Standing::Ready,
        Condition::Terminating if others_ready => Standing::Terminating,
        Condition::Terminating => Standing::LastResort,
        Condition::Unusable => Standing::Unusable,
    };
    let judged = found.iter().map(|(&(ip, port), e)| {
        let cluster = match by_condition(e.condition, any_ready) {
            Standing::Ready if !prefers(e, topology, here) => Standing::HintsExclude,
            other => other,
        };
        let local = match by_condition(e.condition, local_ready) {
            Standing::Unusable => Standing::Unusable,
            _ if !e.local => Standing::Elsewhere,
            other => other,
        };
        Judged {
            endpoint: PoolEndpoint { ip, port, local: e.local },
            condition: e.condition,
            hints: e.hints.as_deref().cloned(),
            topology,
            cluster,
            local,
        }
    });
    judged.collect()
}
