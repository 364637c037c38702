//! The admin socket: what the daemon knows, for people and programs on the same node.
//!
//! HTTP/1.1 and JSON on a Unix socket. It only tells: no request changes anything, so whoever gets hold of it learns
//! what `nft list` and the API show, and can do nothing. See `docs/admin.md`.
//!
//! [`mod@listen`] makes the file, [`mod@serve`] bounds what clients can do, [`routes`] knows the paths, [`answers`] has the
//! answers, [`wire`] their JSON; [`mod@explain`] says why; [`dump`] is the one that is YAML, [`redact`] makes it fit to hand on.

mod answers;
mod dump;
mod explain;
mod listen;
mod redact;
mod routes;
mod serve;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use self::answers::{Answers, service_name};
use self::listen::{Bound, listen};
use self::serve::{Bounds, serve};
use crate::http::server::Http;

/// The most who follow changes at a time.
const FOLLOWERS: usize = 4;

/// The longest head and the longest body of a request.
const LONGEST: usize = 64 << 10;

/// The body of an answer: whole, or as it comes.
type Body = BoxBody<Bytes, Infallible>;

/// Starts to answer at a path, if there is one. Without a socket the daemon works as well: that it cannot be made is
/// a warning. The task ends after `stop`, when the socket is gone.
pub(crate) fn start(
    path: Option<PathBuf>,
    answers: Answers,
    http: &Http,
    stop: &CancellationToken,
) -> Option<JoinHandle<()>> {
    let path = path?;
    let bound = match listen(&path) {
        Ok(bound) => bound,
        Err(error) => {
            tracing::warn!(
                "there is no admin socket: {error}. Or leave it out with --admin-socket="
            );
            return None;
        }
    };
    let Bound { listener, owner } = bound;
    let stop = stop.clone();
    Some(http.spawn(async move {
        match UnixListener::from_std(listener) {
            Ok(listener) => {
                tracing::info!(path = %path.display(), "answering at the admin socket");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = serve(listener, owner, Arc::new(answers), Bounds::default()) => {}
                }
                // One that is left is replaced by the next daemon.
                let _ = std::fs::remove_file(&path);
            }
            Err(error) => tracing::warn!(%error, "there is no admin socket"),
        }
    }))
}
