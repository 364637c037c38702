//! An API server in memory that has one list, and the daemon's own watch of it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use futures::stream::StreamExt;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use sluice_cluster::api::{Resource, protobuf};
use sluice_core::model::{Change, EndpointSlice, Service, Snapshot};
use sluice_kubernetes::watch::{ApiServer, Content, Message, Update, WatchOptions, start};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, UnboundedSender, channel, unbounded_channel};
use tokio_util::sync::CancellationToken;

/// What arrives at once: a record of TLS.
const PIECE: usize = 16 << 10;
/// Objects per page of a list; the watch requests as many.
const PAGE: usize = 500;

/// How a list is requested and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As a watch that begins with all objects.
    Streamed,
    /// Page by page.
    Paged,
    /// Page by page, in gzip.
    Packed,
}

/// How objects are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Protobuf,
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
    encoding: Encoding,
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
        encoding: Encoding,
    ) -> (Api, UnboundedSender<Bytes>) {
        let objects: Vec<String> = match listed {
            Listed::Services => snapshot.services.values().map(|it| service_json(it)).collect(),
            Listed::Slices => snapshot.slices.values().flatten().map(slice_json).collect(),
        };
        let of = listed.resource();
        let chunks = match (form, encoding) {
            (Form::Streamed, Encoding::Json) => streamed(&objects),
            (Form::Streamed, Encoding::Protobuf) => framed(of, &objects),
            (Form::Paged | Form::Packed, Encoding::Json) => paged(&objects),
            (Form::Paged | Form::Packed, Encoding::Protobuf) => paged_messages(of, &objects),
        };
        let chunks = match form {
            Form::Packed => chunks.iter().map(packed).collect(),
            Form::Streamed | Form::Paged => chunks,
        };
        let (say, later) = unbounded_channel();
        let later = Arc::new(std::sync::Mutex::new(Some(later)));
        (Api { listed, form, encoding, chunks: Arc::new(chunks), later }, say)
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
            _ if !listed => stream_of(vec![Bytes::from_static(STREAMED_END)], None),
            Form::Streamed if streamed => {
                let later = self.later.lock().ok().and_then(|mut later| later.take());
                self.labelled(stream_of(self.chunks.to_vec(), later))
            }
            Form::Paged | Form::Packed if streamed => whole(400, Bytes::from_static(b"{}")),
            Form::Paged | Form::Packed if query.contains("limit=") => {
                let page = query.split_once("continue=").and_then(|(_, n)| n.parse().ok());
                self.labelled(whole(200, self.chunks[page.unwrap_or(0)].clone()))
            }
            _ => stream_of(Vec::new(), None),
        }
    }

    fn labelled(&self, mut answer: Answer) -> Answer {
        let headers = answer.headers_mut();
        if self.encoding == Encoding::Protobuf {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(protobuf::MEDIA_TYPE));
        }
        if self.form == Form::Packed {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }

    /// Connects.
    fn server(&self) -> ApiServer {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = api.answer(&request);
            async move { Ok::<_, io::Error>(answer) }
        });
        ApiServer {
            client: kube::Client::new(service, "default"),
            url: "http://bench".to_owned(),
            content: Content::default(),
        }
    }
}

/// A watch as the daemon has it, with the whole list read.
pub(crate) struct Watching {
    runtime: Runtime,
    updates: Receiver<Message>,
    stop: CancellationToken,
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
pub(crate) fn modified(slice: &EndpointSlice, encoding: Encoding) -> Bytes {
    let json = slice_json(slice);
    match encoding {
        Encoding::Json => format!("{{\"type\":\"MODIFIED\",\"object\":{json}}}\n").into(),
        Encoding::Protobuf => frame(Resource::EndpointSlices, "MODIFIED", &json).into(),
    }
}

/// The object of the bookmark that ends a streamed list.
const END: &str = "{\"metadata\":{\"resourceVersion\":\"9\",\
                   \"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}";
/// That bookmark as a line.
const STREAMED_END: &[u8] =
    b"{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"9\",\
      \"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n";

impl Listed {
    fn resource(self) -> Resource {
        match self {
            Listed::Services => Resource::Services,
            Listed::Slices => Resource::EndpointSlices,
        }
    }
}

fn message(of: Resource, json: &str) -> Vec<u8> {
    protobuf::message(of, &serde_json::from_str(json).expect("it is JSON"))
}

fn frame(of: Resource, kind: &str, json: &str) -> Vec<u8> {
    let object = protobuf::envelope(&of.api_version(), of.info().kind, &message(of, json));
    protobuf::frame(kind, &object)
}

fn framed(of: Resource, objects: &[String]) -> Vec<Bytes> {
    let mut all: Vec<u8> = objects.iter().flat_map(|json| frame(of, "ADDED", json)).collect();
    all.extend(frame(of, "BOOKMARK", END));
    pieces(&all.into())
}

fn paged_messages(of: Resource, objects: &[String]) -> Vec<Bytes> {
    let pages = objects.chunks(PAGE).enumerate().map(|(n, items)| {
        let next = if (n + 1) * PAGE < objects.len() { (n + 1).to_string() } else { String::new() };
        let metadata = serde_json::json!({ "resourceVersion": "9", "continue": next });
        let items: Vec<Vec<u8>> = items.iter().map(|json| message(of, json)).collect();
        protobuf::list(of, &metadata, items.iter().map(Vec::as_slice)).into()
    });
    pages.collect()
}

fn packed(page: &Bytes) -> Bytes {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(page).and_then(|()| packer.finish()).expect("a vector takes it").into()
}

fn pieces(all: &Bytes) -> Vec<Bytes> {
    (0..all.len()).step_by(PIECE).map(|at| all.slice(at..all.len().min(at + PIECE))).collect()
}

fn streamed(objects: &[String]) -> Vec<Bytes> {
    let mut text = String::new();
    for object in objects {
        let _ = writeln!(text, "{{\"type\":\"ADDED\",\"object\":{object}}}");
    }
    let mut pieces = pieces(&text.into());
    pieces.push(Bytes::from_static(STREAMED_END));
    pieces
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
