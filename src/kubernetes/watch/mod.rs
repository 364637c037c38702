//! Lists and watches the resources that this node needs, and converts them to [`Change`]s of the model.
//!
//! One task per resource ([`Resource`]) reconnects for ever; problems with the API server are reported
//! ([`Update::Connection`]) and never end the proxy, because the rules in the kernel stay right as long as
//! nothing changes.
//!
//! The client speaks protobuf, and JSON where the server has no other. It decodes only the fields that count,
//! from the bytes of the connection (`wire`, `protobuf`, `lenient`), one object at a time, straight into the
//! model (`convert`). No object of the API is ever kept. That is also why `kube::runtime::watcher` is not used: it decodes whole
//! pages into owned objects, so that one undecodable object blocks the list, and never falls back
//! from a server that refuses streaming lists.

mod backoff;
mod client;
mod client_error;
mod client_metrics;
mod connection;
mod content;
mod convert;
mod credentials;
pub mod events;
pub mod export;
mod failure;
mod kubeconfig;
mod lenient;
mod lists;
pub mod manifests;
mod object;
mod object_feed;
mod outage;
mod page;
mod protobuf;
mod proxy;
mod reachability;
mod received;
mod request;
mod reread;
mod round;
mod source;
mod tls;
mod token;
mod transport;
mod watch_stream;
mod wire;

use std::fmt;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use client::{ApiServer, ClientOptions};
pub use client_error::ClientError;
pub use content::Content;

use sluice_core::model::{Change, Warning};
use sluice_telemetry::trace::Origin;

/// What is watched. The selectors are kube-proxy's (`cmd/kube-proxy/app/server.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// core/v1 Services, without headless ones and those of other proxies.
    Services,
    /// discovery.k8s.io/v1 EndpointSlices, without those of headless Services.
    EndpointSlices,
    /// The own core/v1 Node.
    Node,
    /// networking.k8s.io/v1 ServiceCIDRs, which not every cluster has.
    ServiceCidrs,
}

impl Resource {
    /// Everything that [`start`] watches.
    pub const ALL: [Resource; 4] =
        [Resource::Services, Resource::EndpointSlices, Resource::Node, Resource::ServiceCidrs];
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Resource::Services => "services",
            Resource::EndpointSlices => "endpointslices",
            Resource::Node => "nodes",
            Resource::ServiceCidrs => "servicecidrs",
        })
    }
}

/// Whether a resource's changes arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// The list is complete and changes arrive.
    Connected,
    /// No changes arrive, for this reason; the task keeps trying.
    Lost(String),
}

/// What a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The state of the API changed. A list, the first and any later one, is one change, so that
    /// what it does not name is known to be gone.
    Change(Change),
    /// Things in API objects that cannot be used. Each is reported once until it changes.
    Warnings(Vec<Warning>),
    /// A connection was made or lost. Reported once per change.
    Connection {
        /// Which resource's connection.
        resource: Resource,
        /// The outcome.
        state: ConnectionState,
    },
}

/// An update, as it comes from a watch.
#[derive(Debug)]
pub struct Message {
    /// What is reported.
    pub update: Update,
    /// Where the trace of it began, if it has one.
    pub origin: Option<Origin>,
    /// When it arrived.
    pub arrived: Instant,
}

impl From<Update> for Message {
    fn from(update: Update) -> Message {
        Message { update, origin: None, arrived: Instant::now() }
    }
}

/// What [`start`] needs to know.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// The name of the own Node object: endpoints on it are local.
    pub node_name: String,
}

/// Starts one task per resource. They run until `stop` is cancelled or the receiver of `updates` is
/// dropped; a slow receiver slows the connections down and loses nothing.
pub fn start(
    server: &ApiServer,
    options: &WatchOptions,
    updates: &mpsc::Sender<Message>,
    stop: &CancellationToken,
) -> JoinSet<()> {
    source::start(server, options, updates, stop)
}
