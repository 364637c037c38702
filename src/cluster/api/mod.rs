//! The lab's Kubernetes API server: in this process, over plain HTTP, with the resources that a service proxy and its
//! users need.
//!
//! It speaks the real protocol: to clients such as `kubectl` and the daemon it looks like a cluster (discovery, lists in pages and as streams, watches with
//! bookmarks, all kinds of patch, allocation of cluster IPs and node ports). What is simpler than
//! in Kubernetes:
//!
//! - nothing is stored on disk, and there are no controllers (the lab has its own, see [`ApiServer::feed`]);
//! - server-side apply does not track who owns a field, so there are no conflicts;
//! - objects other than Services are hardly validated beyond the types of their fields;
//! - what a proxy lists and watches is answered in protobuf as well; other answers are JSON (all clients
//!   accept that).
//!
//! The same store has an API of Rust calls, for tests and for making large clusters fast.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use crate::api::{ApiServer, Options};
//! let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! let api = ApiServer::start(listener, Options::default())?;
//! let service = api.create(&serde_json::json!({
//!     "apiVersion": "v1", "kind": "Service",
//!     "metadata": {"name": "web", "namespace": "default"},
//!     "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}},
//! }))?;
//! assert_eq!(service.value()["spec"]["clusterIP"], "10.96.1.0");
//! # Ok(())
//! # }
//! ```

mod access;
mod admission;
mod alloc;
mod apps;
mod deletion;
mod discovery;
mod events;
mod faults;
mod feed;
mod handlers;
mod identity;
mod list;
mod openapi;
mod options;
mod patch;
pub mod protobuf;
mod query;
mod requests;
mod resources;
mod responses;
mod scale;
mod selector;
mod server;
mod service;
mod service_fields;
mod service_rules;
mod status;
mod store;
mod strict;
mod table;
mod watch;
mod write;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use access::{Access, Identity, Token};
pub use faults::{
    FailureCode, Faults, GoneForm, Outage, ProtobufSupport, StreamingLists, WatchEnd,
};
pub use feed::{Feed, Notice};
pub use identity::Preconditions;
pub use options::{KubernetesService, Options, PodsEnd};
pub use patch::Patch;
pub use requests::{Request, Requests};
pub use resources::{Info, Resource, Scope, Verb};
pub use status::{ApiError, Cause, CauseReason};
pub use store::{Key, Object};
pub use write::{Cascade, Deletion, Part};

use alloc::Allocator;
use selector::Selector;
use store::Store;
use write::{Persist, Target};

/// State shared by the HTTP and the Rust interface.
#[derive(Debug)]
struct Shared {
    store: Store,
    faults: Faults,
    requests: Requests,
    options: Options,
}

/// A running server. It stops when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The listener is not usable.
    #[error("cannot use the listener of the API server; hand in a bound TCP listener")]
    Listener(#[source] io::Error),
    /// The thread could not be started.
    #[error("cannot start the API server's thread; check the limit of threads")]
    Thread(#[source] io::Error),
    /// The cluster's initial objects were refused.
    #[error("cannot create the API server's first objects; check the service CIDRs")]
    Objects(#[source] ApiError),
}

impl ApiServer {
    /// Serves on `listener`, which may be bound in another network namespace: accepted connections
    /// belong to the listener's. The server has threads of its own and needs no async runtime.
    pub fn start(listener: TcpListener, options: Options) -> Result<ApiServer, StartError> {
        ApiServer::start_on(vec![listener], options)
    }

    /// The same on several listeners, of which the first is the one that [`ApiServer::address`] tells.
    pub fn start_on(
        listeners: Vec<TcpListener>,
        options: Options,
    ) -> Result<ApiServer, StartError> {
        let none = || io::Error::other("there is none");
        let first = listeners.first().ok_or_else(|| StartError::Listener(none()))?;
        let address = first.local_addr().map_err(StartError::Listener)?;
        for listener in &listeners {
            listener.set_nonblocking(true).map_err(StartError::Listener)?;
        }
        let allocator = Allocator::new(options.node_ports.clone());
        let shared = Arc::new(Shared {
            store: Store::new(options.history, options.pods_end, allocator),
            faults: Faults::default(),
            requests: Requests::default(),
            options,
        });
        let stop = CancellationToken::new();
        let mut server = ApiServer { shared, address, stop, thread: None };
        server.create_first_objects().map_err(StartError::Objects)?;
        let shared = Arc::clone(&server.shared);
        let thread = server::spawn(shared, listeners, server.stop.clone());
        server.thread = Some(thread.map_err(StartError::Thread)?);
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, `http://127.0.0.1:12345`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Fault injection.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The HTTP requests of clients.
    pub fn requests(&self) -> &Requests {
        &self.shared.requests
    }

    /// The version of the newest write.
    pub fn resource_version(&self) -> u64 {
        self.shared.store.read().version()
    }

    /// Creates an object; `metadata.namespace` defaults to `default`. As over HTTP, a Service gets
    /// its defaults and addresses, and a status is ignored on Services (see
    /// [`ApiServer::update_status`]). [`Object::written`] is the time from which watchers can see it.
    pub fn create(&self, object: &Value) -> Result<Arc<Object>, ApiError> {
        let resource = resource_of(object)?;
        self.shared
            .store
            .write(|state| write::create(state, resource, None, object.clone(), Persist::Yes))
    }

    /// Creates many objects in one step, stopping at the first that is refused. Watchers see them
    /// all at once. 60,000 objects take a few seconds at most.
    pub fn bulk_create(&self, objects: Vec<Value>) -> Result<(), ApiError> {
        self.shared.store.write(|state| {
            for object in objects {
                let resource = resource_of(&object)?;
                write::create(state, resource, None, object, Persist::Yes)?;
            }
            Ok(())
        })
    }

    /// Replaces an object. With a `resourceVersion` that is not the current one it is a conflict.
    pub fn update(&self, object: &Value) -> Result<Arc<Object>, ApiError> {
        self.replace(object, Part::Whole)
    }

    /// Replaces an object's status (and metadata).
    pub fn update_status(&self, object: &Value) -> Result<Arc<Object>, ApiError> {
        self.replace(object, Part::Status)
    }

    fn replace(&self, object: &Value, part: Part) -> Result<Arc<Object>, ApiError> {
        let resource = resource_of(object)?;
        let key = key_of(resource, object);
        let target = Target { resource, key, part };
        self.shared
            .store
            .write(|state| write::update(state, &target, object.clone(), Persist::Yes))
            .map(|(object, _)| object)
    }

    /// Changes an object, or creates it with [`Patch::Apply`]. `namespace` is empty for objects of
    /// the cluster.
    pub fn patch(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        part: Part,
        patch: &Patch,
    ) -> Result<Arc<Object>, ApiError> {
        let target = Target { resource, key: Key::new(namespace, name), part };
        self.shared
            .store
            .write(|state| write::patch(state, &target, patch, Persist::Yes, |_| Ok(())))
            .map(|(object, _)| object)
    }

    /// Deletes an object and returns its last state, under the version of its deletion.
    pub fn delete(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, ApiError> {
        let target = Target { resource, key: Key::new(namespace, name), part: Part::Whole };
        self.shared
            .store
            .write(|state| write::delete(state, &target, &Deletion::default(), Persist::Yes))
    }

    /// Deletes what a label selector selects in a namespace (empty: in all), and returns how many.
    pub fn delete_collection(
        &self,
        resource: Resource,
        namespace: &str,
        labels: &str,
    ) -> Result<usize, ApiError> {
        let selector = Selector::parse(resource, namespace, labels, "")?;
        self.shared
            .store
            .write(|state| {
                write::delete_collection(
                    state,
                    resource,
                    &selector,
                    &Deletion::default(),
                    Persist::Yes,
                )
            })
            .map(|deleted| deleted.len())
    }

    /// Deletes an object that is still the one with this uid.
    pub fn delete_if(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        deletion: &Deletion,
    ) -> Result<Arc<Object>, ApiError> {
        let target = Target { resource, key: Key::new(namespace, name), part: Part::Whole };
        self.shared.store.write(|state| write::delete(state, &target, deletion, Persist::Yes))
    }

    /// What is there of some resources, and what happens to them from now on.
    pub fn feed(&self, resources: &[Resource]) -> Feed {
        Feed::new(Arc::clone(&self.shared), resources)
    }

    /// One object.
    pub fn get(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, ApiError> {
        self.shared.store.read().get(resource, &Key::new(namespace, name)).map(Arc::clone)
    }

    /// The objects of a namespace, or of all with an empty one, by namespace and name.
    pub fn list(&self, resource: Resource, namespace: &str) -> Vec<Arc<Object>> {
        let state = self.shared.store.read();
        let objects = state.objects(resource).values();
        let here = |o: &&Arc<Object>| namespace.is_empty() || o.key.namespace == namespace;
        objects.filter(here).map(Arc::clone).collect()
    }

    /// Creates or replaces an object without validation and defaults: invalid addresses, port 0, an address of another
    /// Service. For tests of clients.
    pub fn write_unchecked(&self, object: &Value) -> Result<Arc<Object>, ApiError> {
        let resource = resource_of(object)?;
        self.shared.store.write(|state| write::write_unchecked(state, resource, object.clone()))
    }

    /// Drops all history, as etcd's compaction does: older versions get 410.
    pub fn compact(&self) {
        self.shared.store.write(store::State::compact);
    }

    /// The initial objects: namespaces, ServiceCIDR, and the Service `kubernetes`.
    fn create_first_objects(&self) -> Result<(), ApiError> {
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            let metadata = json!({"name": name});
            self.create(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))?;
        }
        let options = &self.shared.options;
        if !options.service_cidrs.is_empty() {
            self.create(&json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": "kubernetes"},
                "spec": {"cidrs": options.service_cidrs},
            }))?;
        }
        match &options.kubernetes_service {
            KubernetesService::Absent => Ok(()),
            KubernetesService::Endpoint { address, port } => {
                self.create_own_service(*address, *port)
            }
        }
    }

    fn create_own_service(&self, address: IpAddr, port: u16) -> Result<(), ApiError> {
        // An IPv6 range has no network address to skip, but its first address is kept free too.
        let first = self.shared.options.service_cidrs.first().and_then(|cidr| match cidr {
            IpNet::V4(net) => net.hosts().next().map(IpAddr::from),
            IpNet::V6(net) => net.hosts().nth(1).map(IpAddr::from),
        });
        self.create(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "clusterIP": first,
                "ports": [{"name": "https", "port": 443, "targetPort": port}],
            },
        }))?;
        self.create(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": sluice_core::net::Family::of(address).to_string(),
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }))?;
        Ok(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It ends within the server's deadline. A panic has been reported already.
            let _ = thread.join();
        }
    }
}

fn resource_of(object: &Value) -> Result<Resource, ApiError> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    Resource::of_kind(version, kind).ok_or_else(|| {
        ApiError::BadRequest(format!("no kind {kind:?} is registered for version {version:?}"))
    })
}

fn key_of(resource: Resource, object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    match (resource.is_namespaced(), text("namespace")) {
        (false, _) => Key::new("", text("name")),
        (true, "") => Key::new("default", text("name")),
        (true, namespace) => Key::new(namespace, text("name")),
    }
}
