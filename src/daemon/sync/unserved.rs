//! A family whose rules cannot be applied: it matters only if a Service needs it.
//!
//! A node may have IPv6 in its kernel and no ip6tables, or nf_tables without IPv6. In an IPv4 cluster that is
//! no problem (upstream: `cmd/kube-proxy/app/server_linux.go`, platformCheckSupported). It is retried with
//! each sync, because programs may be installed and modules loaded; except for a backend that could not be
//! opened at the start.

use std::time::Duration;

use crate::http::health::Health;
use sluice_core::net::Family;
use sluice_core::plan::ForwardingTable;
use sluice_telemetry::metrics::{Extent, Metrics, Outcome};

/// A sync that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) extent: Extent,
    pub(super) elapsed: Duration,
}

/// Whether a Service needs a family that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Services have addresses of it, or no family works.
    Services,
    /// No Service does.
    None,
}

/// Who needs a family that fails, if another one works or not.
pub(super) fn need(table: &ForwardingTable, another_works: bool) -> Need {
    if another_works && table.services.is_empty() { Need::None } else { Need::Services }
}

/// Says what fails, once.
pub(super) fn tell(
    said: &mut Option<(Need, String)>,
    failure: &Failure,
    need: Need,
    family: Family,
) {
    let now = (need, failure.reason.clone());
    if said.as_ref() == Some(&now) {
        tracing::debug!("{}", failure.reason);
        return;
    }
    match need {
        Need::Services => {
            tracing::error!("{}; trying again, the rules in force stay", failure.reason);
        }
        Need::None => tracing::warn!(
            "{}; no Service has {family} addresses, so {family} is left out until this works",
            failure.reason
        ),
    }
    *said = Some(now);
}

/// Says that a family is served that was not.
pub(super) fn over(said: &mut Option<(Need, String)>, family: Family) {
    if said.take().is_some() {
        tracing::info!(%family, "the family is served again");
    }
}

/// Notes a failure where others look.
pub(super) fn note(
    failure: &Failure,
    need: Need,
    family: Family,
    health: &Health,
    metrics: &Metrics,
) {
    match need {
        Need::None => health.left_out(family),
        Need::Services => {
            health.needed(family);
            metrics.synced(family, failure.extent, Outcome::Failed, failure.elapsed);
        }
    }
}
