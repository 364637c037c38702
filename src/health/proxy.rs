//! The proxy's own health: `/healthz` and `/livez`.

use std::io;
use std::net::SocketAddr;

use hyper::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::answer::{self, Answer};
use super::http::serve;
use super::{Health, RETRY};
use crate::kernel::listen::{Reach, listen};

/// Serves until `stop`, from `first` if that is bound already.
pub(super) async fn run(
    health: Health,
    address: SocketAddr,
    first: io::Result<TcpListener>,
    stop: CancellationToken,
) {
    let serving = async {
        let listener = bound(address, first).await;
        serve(listener, move |request| answer(&health, request)).await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = serving => {}
    }
}

/// Tries until the address can be bound, and says once why it cannot.
async fn bound(address: SocketAddr, first: io::Result<TcpListener>) -> TcpListener {
    let mut attempt = first;
    let mut said = String::new();
    loop {
        match attempt {
            Ok(listener) => {
                tracing::info!(%address, "serving /healthz and /livez");
                return listener;
            }
            Err(error) => {
                let reason = error.to_string();
                if said != reason {
                    tracing::error!(
                        "cannot serve /healthz on {address}: {reason}; trying again every {RETRY:?}"
                    );
                    said = reason;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
        attempt = listen(address, Reach::BothFamilies);
    }
}

fn answer(health: &Health, request: &Request<Incoming>) -> Answer {
    match request.uri().path() {
        "/healthz" => answer::healthz(&health.report()),
        "/livez" => answer::livez(&health.report()),
        _ => answer::not_found(),
    }
}
