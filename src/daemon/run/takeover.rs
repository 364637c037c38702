//! Removes leftovers after the start.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::sync::InForce;
use sluice_core::net::Family;
use sluice_dataplane::leftovers::{self, Connections, InUse, LeftoverError, Outcome};

/// Pauses after a failure: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often the daemon checks whether IPVS connections have ended.
const LOOK: Duration = Duration::from_secs(5);

/// How long they may take. IPVS expires idle connections after fifteen minutes; this is for those that are
/// never idle.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Removes leftovers of the families in `in_force`: without rules of this mode, those of another mode may
/// still work.
pub(super) async fn follow(
    in_use: InUse,
    excluded: Vec<IpNet>,
    mut in_force: watch::Receiver<InForce>,
    stop: CancellationToken,
) {
    if in_force.changed().await.is_err() {
        return;
    }
    let started = Instant::now();
    let mut said = Said::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let patient = started.elapsed() < LONGEST_WAIT;
        let connections = if patient { Connections::Keep } else { Connections::Cut };
        let (families, excluded) = (in_force.borrow_and_update().clone(), excluded.clone());
        let all = Family::BOTH.iter().all(|family| families.contains(family));
        let removing = move || leftovers::remove(in_use, &families, &excluded, connections);
        let Ok(outcome) = tokio::task::spawn_blocking(removing).await else { return };
        let rest = if outcome.failed.iter().any(LeftoverError::may_pass) {
            pause = (pause * 2).min(LONGEST_PAUSE);
            Some(pause)
        } else if outcome.connections > 0 {
            Some(LOOK)
        } else if !all {
            None
        } else {
            said.hear(outcome);
            tracing::info!("nothing is left of other modes");
            return;
        };
        said.hear(outcome);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = in_force.changed(), if !all => if changed.is_err() { return },
            () = tokio::time::sleep(rest.unwrap_or_default()), if rest.is_some() => {}
        }
    }
}

/// What was logged already.
#[derive(Default)]
struct Said {
    lines: Vec<String>,
    waits: bool,
}

impl Said {
    fn hear(&mut self, outcome: Outcome) {
        for removed in outcome.removed {
            tracing::info!("removed a leftover: {removed}");
        }
        for used in outcome.used {
            self.once(format!("left in place: {used}"));
        }
        for error in outcome.failed {
            self.once(error.to_string());
        }
        if outcome.connections > 0 && !std::mem::replace(&mut self.waits, true) {
            tracing::info!(
                connections = outcome.connections,
                "IPVS still has connections; its leftovers are removed when they have ended"
            );
        }
    }

    fn once(&mut self, line: String) {
        if !self.lines.contains(&line) {
            tracing::warn!("{line}");
            self.lines.push(line);
        }
    }
}
