//! TCP: each client connection is joined with a connection to an endpoint.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::counters::Count;
use super::path_probe::{MOST_TRIES, Question};
use super::pump;
use super::relay::{Shared, Target};
use sluice_core::net::Protocol;
use sluice_kernel::listen::SocketErrors;
use sluice_kernel::sockets;

/// How long an endpoint may take to accept; another one has the next time (upstream:
/// `pkg/proxy/userspace/proxysocket.go` of Kubernetes 1.25, EndpointDialTimeouts).
const DIALS: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// How long nothing is accepted after the kernel had no descriptor or memory for it.
const PAUSE: Duration = Duration::from_millis(100);

/// Descriptors of a connection: to the client and to the endpoint.
const CONNECTION: u32 = 2;

/// Accepts until the task ends; connections continue.
pub(super) async fn listen(
    listener: TcpListener,
    at: SocketAddr,
    target: Arc<Target>,
    shared: Arc<Shared>,
) {
    let mut errors = SocketErrors::new(format!("accept connections to a relay at {at}"));
    loop {
        let (client, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if sockets::is_shortage(&error) => {
                    shared.descriptors.used_up();
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(error) => {
                    errors.failed(&error).await;
                    continue;
                }
            },
            () = shared.closing.cancelled() => return,
        };
        errors.succeeded();
        let Some(taken) = shared.descriptors.take(CONNECTION).await else { return };
        let (target, shared) = (Arc::clone(&target), Arc::clone(&shared));
        tokio::spawn(async move {
            serve(client, peer, &target, &shared).await;
            drop(taken);
        });
    }
}

async fn serve(client: TcpStream, peer: SocketAddr, target: &Target, shared: &Shared) {
    let counters = &shared.counters;
    counters.connections.increment();
    let _active = Count::one(Arc::as_ref(counters), |counters| &counters.active_connections);
    let Some((endpoint, at)) = dial(peer, target, shared).await else {
        counters.unserved.increment();
        reset(client);
        return;
    };
    let prepared = sockets::prepare(&client).and_then(|()| sockets::prepare(&endpoint));
    let ended = match prepared {
        Err(error) => Err(error),
        Ok(()) => tokio::select! {
            ended = pump::join(shared, &client, &endpoint) => ended,
            () = target.outlived(at) => Err(io::ErrorKind::ConnectionReset.into()),
        },
    };
    if ended.is_err() {
        reset(client);
        reset(endpoint);
    }
}

/// Closes a connection so that its peer sees it break, not end.
fn reset(stream: TcpStream) {
    // If it cannot be set, the connection is broken already.
    let _ = stream.set_zero_linger();
}

/// Connects to an endpoint: to another one if the first does not accept in time.
async fn dial(
    client: SocketAddr,
    target: &Target,
    shared: &Shared,
) -> Option<(TcpStream, SocketAddr)> {
    let mut tried = Vec::new();
    for patience in DIALS {
        let endpoint = target.pick(client.ip(), &tried)?;
        match connect(client, endpoint, target, shared, patience).await {
            Ok(stream) => return Some((stream, endpoint)),
            Err(error) if sockets::is_shortage(&error) => {
                shared.descriptors.used_up();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => tracing::debug!(%endpoint, %error, "an endpoint does not accept"),
        }
        shared.counters.dial_failures.increment();
        tried.push(endpoint);
    }
    None
}

/// Connects to an endpoint. Time spent on kernel queries is not part of the endpoint's `patience`, so that it
/// does not lose clients because of them.
async fn connect(
    client: SocketAddr,
    endpoint: SocketAddr,
    target: &Target,
    shared: &Shared,
    patience: Duration,
) -> io::Result<TcpStream> {
    let plain = || sockets::tcp_to(endpoint, target.mark);
    let Some(probe) = target.probe(client.ip(), endpoint, shared) else {
        return in_time(plain(), endpoint, patience).await;
    };
    let question = Question { protocol: Protocol::Tcp, client, endpoint };
    let mut tried = Vec::new();
    while tried.len() < MOST_TRIES {
        let Some(source) = probe.source(question, &tried).await else {
            return in_time(plain(), endpoint, patience).await;
        };
        let socket = sockets::tcp_from(source, endpoint, target.mark);
        match in_time(socket, endpoint, patience).await {
            Err(error) if sockets::is_taken(&error) => tried.push(source),
            connected => return connected,
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Connects a socket, if the endpoint accepts in time.
async fn in_time(
    socket: io::Result<TcpSocket>,
    endpoint: SocketAddr,
    patience: Duration,
) -> io::Result<TcpStream> {
    tokio::time::timeout(patience, socket?.connect(endpoint)).await?
}
