//! The nodes: for each the daemon's own client and watches, and nothing behind them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc::{self, Receiver};
use tokio_util::sync::CancellationToken;

use sluice_config::Mode;
use sluice_kubernetes::watch::{
    ApiServer, ClientError, ClientOptions, ConnectionState, Message, Resource, Update,
    WatchOptions, start,
};
use sluice_telemetry::metrics::Metrics;

/// Nodes that start in a second, as when a cluster's nodes are booted one after the other.
pub(super) const STARTS: u32 = 250;

/// Updates of a node that wait, as in the daemon's sync loop.
const WAITING: usize = 64;

/// How long open requests may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Why there is no fleet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The threads could not be started.
    #[error("start the threads of a fleet: {0}")]
    Threads(#[source] io::Error),
    /// The server cannot be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Nodes whose watches run until this is dropped.
pub(super) struct Nodes {
    runtime: Option<Runtime>,
    stop: CancellationToken,
    /// What all of them count together.
    pub(super) metrics: Metrics,
    connected: Arc<AtomicUsize>,
}

/// The name of a node's object.
pub(super) fn name(number: u32) -> String {
    format!("fleet-{number:05}")
}

impl Nodes {
    /// Begins to start so many nodes.
    pub(super) fn start(options: &ClientOptions, count: u32) -> Result<Nodes, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("fleet-node")
            .enable_all()
            .build()
            .map_err(Error::Threads)?;
        let (stop, metrics) = (CancellationToken::new(), Metrics::new(Mode::Nftables));
        let client =
            async { Ok::<_, ClientError>(ApiServer::new(options).await?.measured(&metrics)) };
        let connected = Arc::<AtomicUsize>::default();
        let starting = Starting {
            server: runtime.block_on(client)?,
            stop: stop.clone(),
            connected: Arc::clone(&connected),
        };
        runtime.spawn(starting.all(count));
        Ok(Nodes { runtime: Some(runtime), stop, metrics, connected })
    }

    /// How many watches get changes now.
    pub(super) fn connected(&self) -> usize {
        self.connected.load(Relaxed)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(STOP_DEADLINE);
        }
    }
}

/// What every node is started with.
struct Starting {
    /// An open watch has a connection for itself, so that nodes can share a client.
    server: ApiServer,
    stop: CancellationToken,
    connected: Arc<AtomicUsize>,
}

impl Starting {
    async fn all(self, count: u32) {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / STARTS);
        for number in 0..count {
            pace.tick().await;
            let (server, connected) = (self.server.clone(), Arc::clone(&self.connected));
            tokio::spawn(node(server, name(number), connected, self.stop.clone()));
        }
    }
}

/// Plays one node.
async fn node(
    server: ApiServer,
    node_name: String,
    connected: Arc<AtomicUsize>,
    stop: CancellationToken,
) {
    let (send, updates) = mpsc::channel(WAITING);
    let mut tasks = start(&server, &WatchOptions { node_name }, &send, &stop);
    drop(send);
    count(updates, &connected).await;
    while tasks.join_next().await.is_some() {}
}

/// Takes updates as they come, until no watch sends any.
async fn count(mut updates: Receiver<Message>, connected: &AtomicUsize) {
    let mut open: Vec<Resource> = Vec::new();
    while let Some(Message { update, .. }) = updates.recv().await {
        let Update::Connection { resource, state } = update else { continue };
        match state {
            ConnectionState::Connected if !open.contains(&resource) => {
                open.push(resource);
                connected.fetch_add(1, Relaxed);
            }
            ConnectionState::Lost(_) if open.contains(&resource) => {
                open.retain(|other| *other != resource);
                connected.fetch_sub(1, Relaxed);
            }
            _ => {}
        }
    }
}
