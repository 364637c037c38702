//! The proxy's own health: `/healthz` and `/livez`.

use http::Request;

use super::{Health, answer};
use crate::server::{Answer, not_found};
use sluice_telemetry::metrics::{Metrics, Probe};

pub(super) fn answer(health: &Health, metrics: &Metrics, request: &Request<String>) -> Answer {
    let (probe, answer) = match request.uri().path() {
        "/healthz" => (Probe::Healthz, answer::healthz(&health.report())),
        "/livez" => (Probe::Livez, answer::livez(&health.report())),
        _ => return not_found(),
    };
    metrics.probed(probe, answer.status().as_u16());
    answer
}
