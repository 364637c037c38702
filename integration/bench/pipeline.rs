//! Each stage between the API server and the kernel, apart and in one piece, without either: what the
//! micro-benchmarks and the guard of instruction counts run.

#![allow(dead_code)] // each program uses its own part

#[path = "../iptables_world.rs"]
mod world;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use futures::stream::StreamExt;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use sluice_core::model::{Change, EndpointSlice, Service, ServiceName, Snapshot};
use sluice_core::net::Family;
use sluice_core::plan::{ForwardingTable, Planner};
use sluice_dataplane::nftables;
use sluice_dataplane::service_table::{KernelTable, ServiceTable};
use sluice_dataplane::{Backend, Scope};
use sluice_kernel::nft::{
    ApplyError, Element, Listening, NftError, Observed, Ops, Set, TableName, encoded,
};
use sluice_kubernetes::watch::{ApiServer, Message, Update, WatchOptions, start};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, UnboundedSender, channel, unbounded_channel};
use tokio_util::sync::CancellationToken;

pub(crate) const ENDPOINTS: u8 = 5;
const FAMILY: Family = Family::V4;
/// What arrives at once: a record of TLS.
const PIECE: usize = 16 << 10;
/// Objects per page of a list; the watch requests as many.
const PAGE: usize = 500;

/// So many Services with [`ENDPOINTS`] each.
pub(crate) fn snapshot(services: u16) -> Snapshot {
    world::many(services, ENDPOINTS)
}

pub(crate) fn table(snapshot: &Snapshot) -> ForwardingTable {
    world::table(FAMILY, snapshot)
}

pub(crate) fn planner(snapshot: &Snapshot) -> Planner {
    let mut planner = Planner::new(FAMILY, "node-a", world::host(FAMILY));
    planner.update(snapshot, &snapshot.services.keys().cloned().collect());
    planner
}

/// The slice of one Service in two forms, of which the second has an endpoint more.
pub(crate) fn versions(snapshot: &Snapshot) -> [EndpointSlice; 2] {
    let web = &snapshot.services[&ServiceName::new("default", "web-3")];
    [0, 1].map(|more| {
        let pod = |e: u8| world::ip(FAMILY, [10, 200, 3, e]);
        let pods: Vec<IpAddr> = (0..ENDPOINTS + more).map(pod).collect();
        world::slice(web, &pods)
    })
}

/// nf_tables that takes everything and has nothing.
#[derive(Debug, Default)]
pub(crate) struct Void {
    generation: u32,
    listening: bool,
    taking: Taking,
    /// What was last taken, if it is kept.
    pub(crate) last: Ops,
    /// How long the last transaction was, if it was written down.
    pub(crate) bytes: usize,
}

/// The receiver of transactions.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taking {
    /// Nothing.
    #[default]
    Forgotten,
    /// They are kept.
    Kept,
    /// They are written as messages.
    Encoded,
}

/// Shared, so that it can be read while the mode has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sink(Arc<std::sync::Mutex<Void>>);

impl Sink {
    pub(crate) fn new(taking: Taking) -> Sink {
        let sink = Sink::default();
        sink.void().taking = taking;
        sink
    }

    pub(crate) fn void(&self) -> std::sync::MutexGuard<'_, Void> {
        self.0.lock().expect("nobody panics with it")
    }

    /// The nftables mode on it.
    pub(crate) fn mode(&self) -> ServiceTable<Sink> {
        nftables::table(self.clone())
    }
}

pub(crate) fn table_name() -> TableName {
    TableName::new(FAMILY, "kube-proxy")
}

impl KernelTable for Sink {
    fn apply(&mut self, ops: &Ops) -> Result<(), ApplyError> {
        let mut void = self.void();
        void.generation += 1;
        match void.taking {
            Taking::Forgotten => assert!(!ops.is_empty(), "an empty transaction"),
            Taking::Kept => void.last = ops.clone(),
            Taking::Encoded => void.bytes = encoded(&table_name(), ops)?.len(),
        }
        Ok(())
    }

    fn dump(&mut self) -> Result<Option<Observed>, NftError> {
        Ok(None)
    }

    fn elements(&mut self, _: &Set) -> Result<Vec<Element>, NftError> {
        Ok(Vec::new())
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        Ok(self.void().generation)
    }

    fn listen(&mut self) -> Result<Listening, NftError> {
        let before = std::mem::replace(&mut self.void().listening, true);
        Ok(if before { Listening::Before } else { Listening::Now })
    }

    fn drifted(&mut self) -> bool {
        false
    }
}

/// The first sync of a table.
pub(crate) fn first_sync(mode: &mut ServiceTable<Sink>, table: &ForwardingTable) -> usize {
    mode.sync(table, &Scope::default()).expect("nothing is refused").operations
}

/// A sync after a change of some Services.
pub(crate) fn sync(
    mode: &mut ServiceTable<Sink>,
    table: &ForwardingTable,
    services: BTreeSet<ServiceName>,
) -> usize {
    let scope = Scope { services, full: false };
    mode.sync(table, &scope).expect("nothing is refused").operations
}

/// The transactions of a first sync, and of the change that [`versions`] are.
pub(crate) fn transactions(services: u16) -> [Ops; 2] {
    let mut snapshot = snapshot(services);
    let mut planner = planner(&snapshot);
    let sink = Sink::new(Taking::Kept);
    let mut mode = sink.mode();
    first_sync(&mut mode, planner.table());
    let first = std::mem::take(&mut sink.void().last);
    let mut dirty = BTreeSet::new();
    let [_, second] = versions(&snapshot);
    snapshot.apply(Change::Slice(second), &mut dirty);
    let effect = planner.update(&snapshot, &dirty);
    sync(&mut mode, planner.table(), effect.services);
    let second = std::mem::take(&mut sink.void().last);
    [first, second]
}

/// How a list is requested and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As a watch that begins with all objects.
    Streamed,
    /// Page by page.
    Paged,
}

/// What a list is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    Services,
    Slices,
}

/// An API server with one list and given events.
#[derive(Clone)]
pub(crate) struct Api {
    listed: Listed,
    form: Form,
    /// The list as it is sent: in pieces, or in pages.
    chunks: Arc<Vec<Bytes>>,
    later: Arc<std::sync::Mutex<Option<tokio::sync::mpsc::UnboundedReceiver<Bytes>>>>,
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

impl Api {
    /// A server with the objects of this cluster, and the sender of its later events.
    pub(crate) fn new(
        snapshot: &Snapshot,
        listed: Listed,
        form: Form,
    ) -> (Api, UnboundedSender<Bytes>) {
        let objects: Vec<String> = match listed {
            Listed::Services => snapshot.services.values().map(service_json).collect(),
            Listed::Slices => snapshot.slices.values().flatten().map(slice_json).collect(),
        };
        let chunks = match form {
            Form::Streamed => streamed(&objects),
            Form::Paged => paged(&objects),
        };
        let (say, later) = unbounded_channel();
        let later = Arc::new(std::sync::Mutex::new(Some(later)));
        (Api { listed, form, chunks: Arc::new(chunks), later }, say)
    }

    /// How many bytes the list has.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }

    fn answer(&self, request: &Request<Body>) -> Answer {
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        let listed = match self.listed {
            Listed::Services => path.ends_with("/services"),
            Listed::Slices => path.ends_with("/endpointslices"),
        };
        let streamed = query.contains("sendInitialEvents");
        match self.form {
            _ if !listed => stream_of(streamed_end(), None),
            Form::Streamed if streamed => {
                let later = self.later.lock().ok().and_then(|mut later| later.take());
                stream_of(self.chunks.to_vec(), later)
            }
            Form::Paged if streamed => whole(400, Bytes::from_static(b"{}")),
            Form::Paged if query.contains("limit=") => {
                let page = query.split_once("continue=").and_then(|(_, n)| n.parse().ok());
                whole(200, self.chunks[page.unwrap_or(0)].clone())
            }
            Form::Streamed | Form::Paged => stream_of(Vec::new(), None),
        }
    }

    /// Connects.
    fn server(&self) -> ApiServer {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = api.answer(&request);
            async move { Ok::<_, io::Error>(answer) }
        });
        ApiServer { client: kube::Client::new(service, "default"), url: "http://bench".to_owned() }
    }
}

/// A watch as the daemon has it, with the whole list read.
pub(crate) struct Watching {
    runtime: Runtime,
    updates: Receiver<Message>,
    stop: CancellationToken,
    /// The list.
    pub(crate) list: Option<Change>,
}

impl Watching {
    /// Starts the daemon's watches and reads until the list is complete.
    pub(crate) fn start(api: &Api) -> Watching {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (send, updates) = channel(64);
        let stop = CancellationToken::new();
        let options = WatchOptions { node_name: "node-a".to_owned() };
        // They run for as long as the runtime does.
        let inside = runtime.enter();
        start(&api.server(), &options, &send, &stop).detach_all();
        drop(inside);
        let mut watching = Watching { runtime, updates, stop, list: None };
        let wanted = api.listed;
        watching.list = Some(watching.until(|change| match change {
            Change::Services(list) => wanted == Listed::Services && !list.is_empty(),
            Change::Slices(list) => wanted == Listed::Slices && !list.is_empty(),
            _ => false,
        }));
        watching
    }

    /// The next change that is wanted.
    pub(crate) fn until(&mut self, wanted: impl Fn(&Change) -> bool) -> Change {
        let updates = &mut self.updates;
        self.runtime.block_on(async {
            loop {
                match updates.recv().await.expect("the watches are running").update {
                    Update::Change(change) if wanted(&change) => return change,
                    _ => {}
                }
            }
        })
    }

    /// The next change of one slice.
    pub(crate) fn change(&mut self) -> Change {
        self.until(|change| matches!(change, Change::Slice(_)))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A watch event with a changed slice.
pub(crate) fn modified(slice: &EndpointSlice) -> Bytes {
    format!("{{\"type\":\"MODIFIED\",\"object\":{}}}\n", slice_json(slice)).into()
}

fn streamed_end() -> Vec<Bytes> {
    vec![Bytes::from_static(
        b"{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\",\
          \"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n",
    )]
}

fn streamed(objects: &[String]) -> Vec<Bytes> {
    let mut text = String::new();
    for object in objects {
        let _ = writeln!(text, "{{\"type\":\"ADDED\",\"object\":{object}}}");
    }
    let all = Bytes::from(text);
    let pieces = (0..all.len()).step_by(PIECE).map(|at| all.slice(at..all.len().min(at + PIECE)));
    pieces.chain(streamed_end()).collect()
}

fn paged(objects: &[String]) -> Vec<Bytes> {
    let pages = objects.chunks(PAGE).enumerate().map(|(n, items)| {
        let more = (n + 1) * PAGE < objects.len();
        let next = if more { format!("\"continue\":\"{}\",", n + 1) } else { String::new() };
        let items = items.join(",");
        format!("{{\"metadata\":{{{next}\"resourceVersion\":\"9\"}},\"items\":[{items}]}}").into()
    });
    pages.collect()
}

fn whole(status: u16, body: Bytes) -> Answer {
    let mut response =
        Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    response
}

/// A watch with this text and then later events; it never ends.
fn stream_of(
    now: Vec<Bytes>,
    later: Option<tokio::sync::mpsc::UnboundedReceiver<Bytes>>,
) -> Answer {
    let later = stream::unfold(later, |later| async move {
        let mut later = later?;
        let bytes = later.recv().await?;
        Some((bytes, Some(later)))
    });
    let never = stream::pending();
    let frames = stream::iter(now).chain(later).chain(never);
    let frames = frames.map(|bytes| Ok::<_, io::Error>(Frame::data(bytes)));
    Response::new(StreamBody::new(frames).boxed_unsync())
}

/// What a controller leaves in an object and a proxy does not read, but has to skip.
fn managed(manager: &str, fields: &str) -> String {
    format!(
        "\"managedFields\":[{{\"manager\":\"{manager}\",\"operation\":\"Update\",\"apiVersion\":\"v1\",\
         \"time\":\"2026-03-01T12:00:00Z\",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":{{{fields}}}}}]"
    )
}

/// A Service as an API server writes it.
fn service_json(service: &Service) -> String {
    let name = service.name.name();
    let port = service.ports.first().expect("it has a port");
    let managed = managed(
        "kubectl",
        "\"f:metadata\":{\"f:labels\":{\".\":{},\"f:app\":{}}},\"f:spec\":{\"f:internalTrafficPolicy\":{},\
         \"f:ports\":{\".\":{}},\"f:selector\":{},\"f:sessionAffinity\":{},\"f:type\":{}}",
    );
    format!(
        "{{\"kind\":\"Service\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"{name}\",\
         \"namespace\":\"default\",\"uid\":\"5f0e7d5c-6a4e-4a57-9a0f-2f7d3c1b0a99\",\
         \"resourceVersion\":\"8\",\"creationTimestamp\":\"2026-03-01T12:00:00Z\",\
         \"labels\":{{\"app\":\"{name}\"}},{managed}}},\"spec\":{{\"ports\":[{{\"protocol\":\"{}\",\
         \"port\":{},\"targetPort\":8080}}],\"selector\":{{\"app\":\"{name}\"}},\"clusterIP\":\"{ip}\",\
         \"clusterIPs\":[\"{ip}\"],\"type\":\"ClusterIP\",\"sessionAffinity\":\"None\",\
         \"ipFamilies\":[\"IPv4\"],\"ipFamilyPolicy\":\"SingleStack\",\
         \"internalTrafficPolicy\":\"Cluster\"}},\"status\":{{\"loadBalancer\":{{}}}}}}",
        port.protocol.to_string().to_uppercase(),
        port.port,
        ip = service.cluster_ips.first().expect("it has an address"),
    )
}

/// A slice as the controller writes it.
fn slice_json(slice: &EndpointSlice) -> String {
    let service = slice.service.name();
    let mut endpoints = String::new();
    for (n, endpoint) in slice.endpoints.iter().enumerate() {
        let comma = if n > 0 { "," } else { "" };
        let _ = write!(
            endpoints,
            "{comma}{{\"addresses\":[\"{}\"],\"conditions\":{{\"ready\":true,\"serving\":true,\
             \"terminating\":false}},\"targetRef\":{{\"kind\":\"Pod\",\"namespace\":\"default\",\
             \"name\":\"{service}-7d5c6f9b8-{n:05}\",\"uid\":\"0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d\"}},\
             \"nodeName\":\"node-{}\",\"zone\":\"zone-{}\"}}",
            endpoint.address,
            if n == 0 { "a" } else { "b" },
            n % 3,
        );
    }
    let port = slice.ports.first().expect("it has a port");
    let managed = managed(
        "kube-controller-manager",
        "\"f:addressType\":{},\"f:endpoints\":{},\"f:metadata\":{\"f:annotations\":{\".\":{}},\
         \"f:generateName\":{},\"f:labels\":{\".\":{}},\"f:ownerReferences\":{\".\":{}}},\"f:ports\":{}",
    );
    format!(
        "{{\"kind\":\"EndpointSlice\",\"apiVersion\":\"discovery.k8s.io/v1\",\"metadata\":{{\
         \"name\":\"{service}-1\",\"generateName\":\"{service}-\",\"namespace\":\"default\",\
         \"uid\":\"9b8a7c6d-5e4f-4d3c-8b2a-1f0e9d8c7b6a\",\"resourceVersion\":\"9\",\"generation\":3,\
         \"creationTimestamp\":\"2026-03-01T12:00:00Z\",\"labels\":{{\
         \"endpointslice.kubernetes.io/managed-by\":\"endpointslice-controller.k8s.io\",\
         \"kubernetes.io/service-name\":\"{service}\"}},\"annotations\":{{\
         \"endpoints.kubernetes.io/last-change-trigger-time\":\"2026-03-01T12:00:00Z\"}},\
         \"ownerReferences\":[{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"name\":\"{service}\",\
         \"uid\":\"5f0e7d5c-6a4e-4a57-9a0f-2f7d3c1b0a99\",\"controller\":true,\
         \"blockOwnerDeletion\":true}}],{managed}}},\"addressType\":\"IPv4\",\"endpoints\":[{endpoints}],\
         \"ports\":[{{\"name\":\"{}\",\"protocol\":\"{}\",\"port\":{}}}]}}",
        port.name,
        port.protocol.to_string().to_uppercase(),
        port.port,
    )
}
