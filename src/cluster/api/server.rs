//! The server's threads and connections.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::faults::Outage;
use super::handlers::handle;

/// How long open requests may take to end when the server stops.
const STOP_DEADLINE: Duration = Duration::from_millis(500);

/// Starts the server on threads of its own.
pub(super) fn spawn(
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    stop: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("lab-api-worker")
        .enable_all()
        .build()?;
    let listeners: Vec<tokio::net::TcpListener> = {
        let _context = runtime.enter();
        let listeners = listeners.into_iter().map(tokio::net::TcpListener::from_std);
        listeners.collect::<io::Result<_>>()?
    };
    std::thread::Builder::new()
        .name("lab-api".to_owned())
        .spawn(move || run(runtime, serve_all(shared, listeners, stop)))
}

fn run(runtime: Runtime, serving: impl Future<Output = ()>) {
    runtime.block_on(serving);
    runtime.shutdown_timeout(STOP_DEADLINE);
}

async fn serve_all(
    shared: Arc<Shared>,
    listeners: Vec<tokio::net::TcpListener>,
    stop: CancellationToken,
) {
    let mut all = JoinSet::new();
    for listener in listeners {
        all.spawn(serve(Arc::clone(&shared), listener, stop.clone()));
    }
    while all.join_next().await.is_some() {}
}

async fn serve(shared: Arc<Shared>, listener: tokio::net::TcpListener, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(&shared), stream, stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the API server cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            },
        }
    }
    let all = async { while connections.join_next().await.is_some() {} };
    // What is not finished by then is cut off.
    let _ = tokio::time::timeout(STOP_DEADLINE, all).await;
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, stop: CancellationToken) {
    let mut outage = shared.faults.outage();
    if *outage.borrow_and_update() == Outage::Disconnected {
        reset_on_close(&stream);
        return;
    }
    // An event must not wait for more bytes. Without the option it is only slower.
    let _ = stream.set_nodelay(true);
    // Hyper owns the stream; the option is set through a second handle on the socket.
    let Ok(stream) = stream.into_std() else { return };
    let Ok(handle) = stream.try_clone() else { return };
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let service = service_fn(|request| handle_request(&shared, &stop, request));
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        // In this order: a request that came after the switch must not be answered.
        biased;
        () = disconnected(&mut outage) => reset_on_close(&handle),
        // Clients may leave as they like.
        _ = serving.as_mut() => {}
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        }
    }
}

/// Waits for the switch. Its other end lives as long as the server.
async fn disconnected(outage: &mut watch::Receiver<Outage>) {
    let _ = outage.wait_for(|o| *o == Outage::Disconnected).await;
}

fn handle_request(
    shared: &Arc<Shared>,
    stop: &CancellationToken,
    request: hyper::Request<hyper::body::Incoming>,
) -> impl Future<Output = Result<hyper::Response<super::responses::Body>, std::convert::Infallible>>
+ use<> {
    handle(Arc::clone(shared), stop.clone(), request)
}

/// Makes the close of a connection a reset, which a client notices at once.
fn reset_on_close<'s, S>(stream: &'s S)
where
    SockRef<'s>: From<&'s S>,
{
    // Without the option the connection is closed in the ordinary way.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
