//! The proxy's own health: `/healthz` and `/livez`.

use std::io;

use hyper::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Health, answer};
use crate::metrics::{Metrics, Probe};
use crate::server::{Answer, Place, not_found, serve};

/// Serves until `stop`, from `first` if that is bound already.
pub(super) async fn run(
    health: Health,
    place: Place,
    first: io::Result<TcpListener>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let serving = async {
        let listener = place.bound(first).await;
        let reply = move |request| {
            let answer = answer(&health, &metrics, &request);
            async move { answer }
        };
        serve(listener, reply).await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = serving => {}
    }
}

fn answer(health: &Health, metrics: &Metrics, request: &Request<Incoming>) -> Answer {
    let (probe, answer) = match request.uri().path() {
        "/healthz" => (Probe::Healthz, answer::healthz(&health.report())),
        "/livez" => (Probe::Livez, answer::livez(&health.report())),
        _ => return not_found(),
    };
    metrics.probed(probe, answer.status().as_u16());
    answer
}
