//! A small HTTP server with limits on time, size and connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::connections::{Connections, Seat};
use super::{Answer, ListenAddress};
use sluice_kernel::listen::SocketErrors;
use sluice_kernel::sockets::is_shortage;

/// How long a connection may take for its next request, or to take an answer, before it is closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest head of a request, and what is written at a time.
const BUFFER: usize = 16 * 1024;

/// No body of a request that means something is longer.
const LONGEST_BODY: usize = 4096;

/// Answers requests for ever. Dropping the future closes the listener and all its connections.
pub(crate) async fn serve<F, R>(
    listener: TcpListener,
    on: ListenAddress,
    connections: Arc<Connections>,
    answer: F,
) where
    F: Fn(Request<String>) -> R + Clone + Send + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let mut inside = JoinSet::new();
    let ListenAddress { address, what, .. } = on;
    let mut errors = SocketErrors::new(format!("accept connections to {what} on {address}"));
    loop {
        tokio::select! {
            Some(_) = inside.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    errors.succeeded();
                    inside.spawn(connection(stream, connections.admit(), answer.clone()));
                    // Its request is read before many others arrive that would replace it.
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    errors.failed(&error).await;
                    if is_shortage(&error) {
                        connections.make_way();
                        tokio::task::yield_now().await;
                    }
                }
            },
        }
    }
}

async fn connection<F, R>(stream: TcpStream, seat: Seat, answer: F)
where
    F: Fn(Request<String>) -> R + Clone,
    R: Future<Output = Answer>,
{
    let seat = Arc::new(seat);
    let seated = Arc::clone(&seat);
    let service = service_fn(move |request| {
        let (seat, answer) = (Arc::clone(&seated), answer.clone());
        async move {
            let request = whole(request).await;
            seat.asked();
            let answer = answer(request).await;
            let bytes = answer.body().size_hint().exact().unwrap_or_default();
            seat.answered(usize::try_from(bytes).unwrap_or(usize::MAX));
            Ok::<_, Infallible>(answer)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(BUFFER)
        // A client may close its half after the request, as with Go's server.
        .half_close(true)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // Clients may leave as they like.
        _ = serving => {}
        () = seat.dismissed(PATIENCE) => {}
    }
}

/// The request with its body; without one if that is longer than any that means something.
async fn whole(request: Request<Incoming>) -> Request<String> {
    let (head, body) = request.into_parts();
    let bytes = Limited::new(body, LONGEST_BODY).collect().await;
    let bytes = bytes.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Request::from_parts(head, String::from_utf8_lossy(&bytes).into_owned())
}
