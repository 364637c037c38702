//! The proxy's own health: `/healthz` and `/livez`.

use http::Request;

use super::{Health, bodies};
use crate::http::server::{Answer, not_found};
use sluice_telemetry::metrics::{Metrics, Probe};

pub(super) fn answer(health: &Health, metrics: &Metrics, request: &Request<String>) -> Answer {
    let (probe, answer) = match request.uri().path() {
        "/healthz" => (Probe::Healthz, bodies::healthz(&health.report())),
        "/livez" => (Probe::Livez, bodies::livez(&health.report())),
        _ => return not_found(),
    };
    metrics.probed(probe, answer.status().as_u16());
    answer
}
