//! Small HTTP servers: listening with retries, and answers in the form of Go's servers.
//!
//! All of them run on a thread of their own ([`runtime`]) and share one limit of connections
//! ([`Connections`]), so that neither other work of the daemon nor other clients delay an answer.

mod connections;
mod serve;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use sluice_kernel::listen::{Reach, listen};

use self::connections::Connections;
use self::serve::serve;

/// How long to wait before an address that could not be bound is tried again (upstream:
/// `cmd/kube-proxy/app/server.go`, serveHealthz and serveMetrics).
pub(crate) const RETRY: Duration = Duration::from_secs(5);

/// After so many tasks the HTTP servers' thread looks for requests that have come: a request is read
/// before many other connections are.
const LOOK_AFTER: u32 = 8;

/// A runtime for HTTP servers: one thread that nothing else blocks, and one for long tasks. It takes four
/// descriptors.
///
/// # Errors
/// If a thread or a descriptor is not available.
pub(crate) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .thread_name("http")
        .event_interval(LOOK_AFTER)
        .enable_all()
        .build()
}

/// Where HTTP servers run, and the connections that they share. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    runtime: Handle,
    connections: Arc<Connections>,
}

impl Http {
    /// Servers on this runtime, in a process that may have `files` open files.
    pub(crate) fn new(runtime: Handle, files: u64) -> Http {
        Http { runtime, connections: Arc::new(Connections::new(files)) }
    }

    /// Starts a task where the servers run.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.runtime.spawn(task)
    }

    /// The first try to listen. What it gives goes to [`Http::serve`].
    pub(crate) fn bind(
        &self,
        on: ListenAddress,
        failure: BindFailure,
    ) -> Result<io::Result<TcpListener>, BindError> {
        let _context = self.runtime.enter();
        on.bind(failure)
    }

    /// Answers requests for ever; dropping the future closes the listener and all its connections.
    pub(crate) async fn serve<F, R>(
        self,
        on: ListenAddress,
        first: io::Result<TcpListener>,
        answer: F,
    ) where
        F: Fn(Request<String>) -> R + Clone + Send + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let listener = on.bound(first).await;
        serve(listener, on, self.connections, answer).await;
    }

    /// The same on a socket that listens already.
    pub(crate) async fn serve_on<F, R>(self, listener: TcpListener, on: ListenAddress, answer: F)
    where
        F: Fn(Request<String>) -> R + Clone + Send + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        serve(listener, on, self.connections, answer).await;
    }
}

/// A whole response.
pub(crate) type Answer = Response<Full<Bytes>>;

/// What to do when an address cannot be bound (`bindAddressHardFail`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BindFailure {
    /// Go on without it, and try again.
    Retry,
    /// Give up.
    Fatal,
}

/// An address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "serve {what} on {address}: {reason}; free the address, choose another {field}, or set \
     `bindAddressHardFail: false` to start without it"
)]
pub(crate) struct BindError {
    /// What is served there.
    pub(crate) what: &'static str,
    /// The configuration's field that names the address.
    pub(crate) field: &'static str,
    /// The address.
    pub(crate) address: SocketAddr,
    /// The error.
    pub(crate) reason: io::Error,
}

/// An address that something is served on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenAddress {
    /// The address; `0.0.0.0` and `::` both mean every address of both families, as in Go.
    pub(crate) address: SocketAddr,
    /// What is served there, for messages.
    pub(crate) what: &'static str,
    /// The configuration's field that names the address.
    pub(crate) field: &'static str,
}

impl ListenAddress {
    /// The first try. What it gives goes to [`ListenAddress::bound`].
    fn bind(self, failure: BindFailure) -> Result<io::Result<TcpListener>, BindError> {
        match (listen(self.address, Reach::BothFamilies), failure) {
            (Err(reason), BindFailure::Fatal) => {
                let ListenAddress { address, what, field } = self;
                Err(BindError { what, field, address, reason })
            }
            (attempt, _) => Ok(attempt),
        }
    }

    /// Retries until the address can be bound, and logs once why it cannot.
    async fn bound(self, first: io::Result<TcpListener>) -> TcpListener {
        let ListenAddress { address, what, .. } = self;
        let mut attempt = first;
        let mut said = String::new();
        loop {
            match attempt {
                Ok(listener) => {
                    tracing::info!(%address, "serving {what}");
                    return listener;
                }
                Err(error) => {
                    let reason = error.to_string();
                    if said != reason {
                        tracing::error!(
                            "cannot serve {what} on {address}: {reason}; trying again every {RETRY:?}"
                        );
                        said = reason;
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
            attempt = listen(address, Reach::BothFamilies);
        }
    }
}

/// A response of this type, with `nosniff`.
pub(crate) fn typed(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = bare(status, content_type, body);
    let nosniff = HeaderValue::from_static("nosniff");
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    answer
}

/// A response of this type.
pub(crate) fn bare(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// Plain text, as most of Go's handlers declare it.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";

/// A path that nothing is served under, in the words of Go's `http.NotFound`.
pub(crate) fn not_found() -> Answer {
    typed(StatusCode::NOT_FOUND, TEXT, "404 page not found\n".to_owned())
}
