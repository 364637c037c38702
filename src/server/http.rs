//! A small HTTP server whose connections cannot do much harm.

use std::convert::Infallible;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Answer;

/// Connections of one listener that are served at a time; more wait in the kernel. Files are few in
/// a process, and a node's health is asked for by a handful of balancers.
const CONNECTIONS: usize = 128;

/// How long a connection may take for its next request before it is closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause after the kernel had no file or memory for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers requests for ever. Dropping the future closes the listener and all connections.
pub(crate) async fn serve<F, R>(listener: TcpListener, answer: F)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, answer.clone()));
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

async fn connection<F, R>(stream: TcpStream, answer: F)
where
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Answer>,
{
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    // Clients may leave as they like.
    let _ = serving.await;
}
