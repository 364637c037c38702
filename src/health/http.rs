//! Small HTTP servers: a listening socket, and connections that cannot do much harm.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::answer::Answer;

/// Connections of one listener that are served at a time; more wait in the kernel. Files are few in
/// a process, and a node's health is asked for by a handful of balancers.
const CONNECTIONS: usize = 128;

/// How long a connection may take for its next request before it is closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections that may wait in the kernel (its own limit is `net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// The pause after the kernel had no file or memory for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Whom an unspecified address serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Its own family.
    OneFamily,
    /// Both, as in Go: `0.0.0.0` also listens on `::`.
    BothFamilies,
}

/// Listens on an address.
pub(super) fn listen(address: SocketAddr, reach: Reach) -> io::Result<TcpListener> {
    if reach == Reach::OneFamily || !address.ip().is_unspecified() {
        return bind(address, Reach::OneFamily);
    }
    let everywhere = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
    match bind(everywhere, Reach::BothFamilies) {
        // A kernel without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            bind(address, Reach::OneFamily)
        }
        bound => bound,
    }
}

fn bind(address: SocketAddr, reach: Reach) -> io::Result<TcpListener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(reach == Reach::OneFamily)?;
    }
    // Connections of a predecessor that are still closing are no reason to fail.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Answers requests for ever. Dropping the future closes the listener and all connections.
pub(super) async fn serve<F>(listener: TcpListener, answer: F)
where
    F: Fn(&Request<Incoming>) -> Answer + Clone + Send + 'static,
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

async fn connection<F>(stream: TcpStream, answer: F)
where
    F: Fn(&Request<Incoming>) -> Answer,
{
    let service = service_fn(move |request| {
        let answer = answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    // Clients may leave as they like.
    let _ = serving.await;
}
