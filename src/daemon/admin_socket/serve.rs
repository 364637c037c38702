//! Connections to the socket: who may ask, and bounds for all that a client can do.
//!
//! A connection is one question. Whoever is slow is cut off after [`PATIENCE`]; whoever comes when [`MOST`] are being
//! answered waits until one of them is done, for as long at the most. Those who follow changes have [`FOLLOWERS`]
//! places of their own, so that questions are answered however many follow.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;

use super::answers::Answers;
use super::routes::{self, Asked};
use super::{Body, FOLLOWERS, LONGEST};
use sluice_kernel::listen::SocketErrors;

/// The most questions at a time.
pub(super) const MOST: usize = 8;

/// How long a question may take, from the connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bounds that tests make smaller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) connections: usize,
    pub(super) patience: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { connections: MOST, patience: PATIENCE }
    }
}

/// Answers `owner` and root for ever; dropping the future ends all connections.
pub(super) async fn serve(
    listener: UnixListener,
    owner: u32,
    answers: Arc<Answers>,
    bounds: Bounds,
) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let followers = Arc::new(Semaphore::new(FOLLOWERS));
    let mut inside = JoinSet::new();
    let mut errors = SocketErrors::new("accept connections to the admin socket".to_owned());
    loop {
        while inside.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                errors.succeeded();
                if !may_ask(&stream, owner) {
                    continue;
                }
                let (answers, followers) = (Arc::clone(&answers), Arc::clone(&followers));
                inside.spawn(connection(stream, place, followers, answers, bounds.patience));
            }
            Err(error) => errors.failed(&error).await,
        }
    }
}

/// The permissions of the files say the same; this holds, too, for whoever was handed a descriptor.
fn may_ask(stream: &UnixStream, owner: u32) -> bool {
    match stream.peer_cred() {
        Ok(peer) => permitted(peer.uid(), owner),
        Err(error) => {
            tracing::warn!(%error, "a client of the admin socket is unknown; it is not answered");
            false
        }
    }
}

pub(super) fn permitted(peer: u32, owner: u32) -> bool {
    let permitted = peer == 0 || peer == owner;
    if !permitted {
        tracing::warn!(peer, "another user asks at the admin socket; it is not answered");
    }
    permitted
}

async fn connection(
    stream: UnixStream,
    place: OwnedSemaphorePermit,
    followers: Arc<Semaphore>,
    answers: Arc<Answers>,
    patience: Duration,
) {
    let (follow, follows) = oneshot::channel();
    let follow = Arc::new(std::sync::Mutex::new(Some(follow)));
    let service = service_fn(move |request| {
        let (answers, followers) = (Arc::clone(&answers), Arc::clone(&followers));
        let follow = Arc::clone(&follow);
        async move {
            let follows = |permit: OwnedSemaphorePermit| {
                let follow = follow.lock().ok().and_then(|mut follow| follow.take());
                follow.is_some_and(|follow| follow.send(permit).is_ok())
            };
            let asked = whole(request).await;
            Ok::<Response<Body>, Infallible>(
                routes::answer(&answers, asked, &followers, follows).await,
            )
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(LONGEST)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let out_of_patience = async {
        let follower = tokio::select! {
            follower = follows => follower.ok(),
            () = tokio::time::sleep(patience) => None,
        };
        if let Some(_place_among_followers) = follower {
            drop(place);
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // Clients may leave as they like.
        _ = serving => {}
        () = out_of_patience => {}
    }
}

/// The request with its body, or what is wrong with that.
async fn whole(request: Request<Incoming>) -> Asked {
    let (head, body) = request.into_parts();
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    let too_long = fields.sum::<usize>() + head.uri.to_string().len() > LONGEST;
    let body = match Limited::new(body, LONGEST).collect().await {
        Ok(_) if too_long => None,
        Ok(body) => Some(String::from_utf8_lossy(&body.to_bytes()).into_owned()),
        Err(_) => None,
    };
    Asked { method: head.method, uri: head.uri, body }
}
