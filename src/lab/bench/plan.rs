//! What a run is to measure.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::contestant::{self, Contestant, kube_proxy_version};
use super::objects::{MOST_ENDPOINTS, MOST_SERVICES};
use super::results::Quantity;
use sluice_config::Mode;

/// How long after it is at rest a program gets the next change, beyond its `minSyncPeriod`.
const MARGIN: Duration = Duration::from_millis(100);

/// `minSyncPeriod` by default in kube-proxy; Sluice has none.
const LONGEST_DEFAULT: Duration = Duration::from_secs(1);

/// An invalid plan.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum PlanError {
    /// A number of Services.
    #[error("{0} Services: there is room for 2 to {MOST_SERVICES}")]
    Services(u32),
    /// A number of endpoints.
    #[error(
        "{services} Services with {endpoints} endpoints each: there is room for 1 to {MOST_ENDPOINTS} endpoints"
    )]
    Endpoints { services: u32, endpoints: u32 },
    /// There is nothing to measure.
    #[error("no number of Services was given")]
    Nothing,
}

/// What to measure, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// This program's own file.
    pub program: PathBuf,
    /// Proxy modes.
    pub modes: Vec<Mode>,
    /// Whether direct connections to endpoints are measured, too.
    pub direct: Direct,
    /// Numbers of Services.
    pub services: Vec<u32>,
    /// Endpoints of each Service.
    pub endpoints: u32,
    /// The Go kube-proxy's program, if it is to be measured, too.
    pub against: Option<PathBuf>,
    /// Repetitions of starts, restarts and windows of traffic.
    pub repeat: usize,
    /// Changes whose latency is measured.
    pub changes: usize,
    /// What is measured.
    pub quantities: BTreeSet<Quantity>,
    /// Changes a second beside which the latency of a change in a busy cluster is measured.
    pub busy_rate: u32,
    /// `minSyncPeriod` of all programs; none for what each has by itself.
    pub min_sync: Option<Duration>,
    /// The time between two changes; none for as much as no program has to wait.
    pub spacing: Option<Duration>,
    /// The length of a window of bulk traffic or connections.
    pub window: Duration,
    /// The whole run.
    pub time_limit: Duration,
    /// One start, change or restart.
    pub step_limit: Duration,
    /// The kernel of the guest that this runs in, if it does.
    pub guest: Option<String>,
}

/// Whether direct connections are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    /// They are.
    Measured,
    /// They are not.
    LeftOut,
}

impl Plan {
    /// Checks what can be checked before anything is built.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.services.is_empty() {
            return Err(PlanError::Nothing);
        }
        for &services in &self.services {
            if !(2..=MOST_SERVICES).contains(&services) {
                return Err(PlanError::Services(services));
            }
            let all = services.checked_mul(self.endpoints);
            if !all.is_some_and(|all| (1..=MOST_ENDPOINTS).contains(&all)) {
                return Err(PlanError::Endpoints { services, endpoints: self.endpoints });
            }
        }
        Ok(())
    }

    /// Whether a quantity is to be measured.
    pub fn wants(&self, quantity: Quantity) -> bool {
        self.quantities.contains(&quantity)
    }

    /// The time between two changes of one program.
    pub fn spacing(&self) -> Duration {
        let least = self.min_sync.unwrap_or(LONGEST_DEFAULT);
        self.spacing.unwrap_or_else(|| least + MARGIN)
    }

    /// Who takes part: in each mode Sluice and then kube-proxy, which has no userspace mode.
    pub(super) fn contestants(&self) -> Result<Vec<Contestant>, contestant::Error> {
        let guest = self.guest.as_deref();
        let against = match &self.against {
            Some(program) => Some((program, kube_proxy_version(program)?)),
            None => None,
        };
        let mut contestants = Vec::new();
        for &mode in &self.modes {
            contestants.push(Contestant::sluice(&self.program, mode, guest));
            if let Some((program, version)) = against.as_ref().filter(|_| mode != Mode::Userspace) {
                contestants.push(Contestant::kube_proxy(program, version, mode, guest));
            }
        }
        for contestant in &contestants {
            contestant.warm_up()?;
        }
        Ok(contestants)
    }
}
