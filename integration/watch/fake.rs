//! An API server in a few lines: lists, streamed lists and watches, with every bad habit a test needs.
//!
//! It is called in place of a connection, so tests need no sockets, and with Tokio's clock paused a
//! silence of minutes takes no time. It speaks protobuf unless the test says otherwise ([`speak`]).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use sluice_cluster::api::{Resource as LabResource, protobuf};
use sluice_kubernetes::watch::{ApiServer, Content};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

pub(crate) const ALL: [&str; 4] = [SERVICES, SLICES, NODES, CIDRS];

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;
type Chunk = io::Result<Frame<Bytes>>;

/// What the server does where it is asked for protobuf.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Protobuf {
    /// Answers in it.
    #[default]
    Speaks,
    /// Answers in JSON.
    Lacks,
    /// Answers with this status.
    Refuses(u16),
    /// Answers with what is labelled so, and has not the magic.
    Garbles,
}

thread_local! {
    static SPOKEN: Cell<Protobuf> = const { Cell::new(Protobuf::Speaks) };
}

/// Says what servers of this thread do at first.
pub(crate) fn speak(protobuf: Protobuf) {
    SPOKEN.set(protobuf);
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Protobuf,
    Garbled,
}

/// How the server treats a watch with initial events.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Streaming {
    /// Sends them and the bookmark that ends them.
    #[default]
    Knows,
    /// Answers with this status.
    Refuses(u16),
    /// Sends objects and never ends.
    Ignores,
    /// The same, and bookmarks that end nothing.
    IgnoresWithBookmarks,
    /// Sends the objects, then this ERROR event.
    Errs(u16),
    /// Breaks the connection after this many objects, once.
    BreaksAfter(usize),
    /// Breaks the connection before the bookmark.
    Breaks,
    /// Ends the answer before the bookmark.
    Ends,
    /// Begins an answer and sends nothing.
    Silent,
    /// Never begins an answer.
    Mute,
    /// Sends an HTML page, as a proxy on the way does.
    Html,
    /// Sends the objects, then this, and ends the answer.
    Says(&'static [u8]),
}

/// Which requests are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    All,
    /// Lists by page.
    Pages,
    /// Watches, without streamed lists.
    Watches,
    Streamed,
}

/// A refusal of some requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) path: &'static str,
    pub(crate) asked: Asked,
    pub(crate) code: u16,
    /// The header Retry-After, in seconds.
    pub(crate) retry_after: Option<u64>,
    /// How many requests are still to be refused.
    pub(crate) left: usize,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) protobuf: Protobuf,
    version: u64,
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    history: Vec<(u64, &'static str, &'static str, Value)>,
    watchers: Vec<(&'static str, Encoding, UnboundedSender<Chunk>)>,
    pub(crate) requests: Vec<String>,
    /// The encodings that they asked for.
    pub(crate) accepted: Vec<String>,
    /// When they came.
    pub(crate) times: Vec<Instant>,
    pub(crate) streaming: Streaming,
    /// Connections are refused.
    pub(crate) down: bool,
    /// After this time.
    pub(crate) down_after: Duration,
    /// Pages come after this time.
    pub(crate) slow_pages: Duration,
    pub(crate) refusals: Vec<Refusal>,
    /// Everything is answered with an HTML page, and status 200.
    pub(crate) html: bool,
    /// Watches from before this version end after a while with an ERROR event of code 500.
    pub(crate) poisoned: u64,
    /// Continue tokens have expired.
    pub(crate) forgets_tokens: bool,
    /// Versions before this one are compacted.
    pub(crate) oldest: u64,
    /// A compacted version is refused with a status, not with an event.
    pub(crate) expired_by_status: bool,
    /// Every request for these is answered with a status.
    pub(crate) refused: BTreeMap<&'static str, u16>,
}

#[derive(Clone)]
pub(crate) struct Fake(Arc<Mutex<World>>);

impl Default for Fake {
    fn default() -> Fake {
        let world = World { protobuf: SPOKEN.get(), ..World::default() };
        Fake(Arc::new(Mutex::new(world)))
    }
}

impl Fake {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no test panics while it holds the world")
    }

    /// A client whose every request ends here.
    pub(crate) fn server(&self) -> ApiServer {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = fake.answer(&request);
            let after = match &answer {
                Err(_) => fake.world().down_after,
                Ok(_) if request.uri().query().is_some_and(|q| asked(q) == Asked::Pages) => {
                    fake.world().slow_pages
                }
                Ok(_) => Duration::ZERO,
            };
            async move {
                tokio::time::sleep(after).await;
                match answer {
                    Ok(Some(answer)) => Ok(answer),
                    Ok(None) => std::future::pending().await,
                    Err(error) => Err(error),
                }
            }
        });
        let client = kube::Client::new(service, "default");
        ApiServer { client, url: "http://fake".to_owned(), content: Content::default() }
    }

    pub(crate) fn put(&self, path: &'static str, object: Value) {
        self.world().put(path, object);
    }

    pub(crate) fn delete(&self, path: &'static str, key: &str) {
        self.world().delete(path, key);
    }

    /// Ends every open watch the way a server does that is done with it.
    pub(crate) fn close(&self) {
        self.world().watchers.clear();
    }

    /// Breaks every open watch.
    pub(crate) fn cut(&self) {
        for (_, _, watcher) in self.world().watchers.drain(..) {
            let _ = watcher.send(Err(io::ErrorKind::ConnectionReset.into()));
        }
    }

    /// Breaks the open watches of one resource.
    pub(crate) fn cut_one(&self, path: &str) {
        self.world().watchers.retain(|(other, _, watcher)| {
            *other != path || {
                let _ = watcher.send(Err(io::ErrorKind::ConnectionReset.into()));
                false
            }
        });
    }

    /// Ends every open watch with an ERROR event.
    pub(crate) fn err(&self, code: u16) {
        for (_, encoding, watcher) in self.world().watchers.drain(..) {
            let _ = watcher.send(Ok(Frame::data(error(encoding, code))));
        }
    }

    /// Refuses that many such requests for every resource.
    pub(crate) fn refuse(&self, asked: Asked, code: u16, retry_after: Option<u64>, left: usize) {
        let refusals = ALL.map(|path| Refusal { path, asked, code, retry_after, left });
        self.world().refusals.extend(refusals);
    }

    /// Sends every open watch these bytes.
    pub(crate) fn send(&self, bytes: &Bytes) {
        for (_, _, watcher) in &self.world().watchers {
            let _ = watcher.send(Ok(Frame::data(bytes.clone())));
        }
    }

    /// Sends every open watch a bookmark.
    pub(crate) fn bookmark(&self) {
        let mut world = self.world();
        let mark = json!({ "metadata": { "resourceVersion": world.version.to_string() } });
        world.watchers.retain(|(path, encoding, watcher)| {
            let line = event(*encoding, path, "BOOKMARK", &mark);
            watcher.send(Ok(Frame::data(line))).is_ok()
        });
    }

    /// What is left when the store is restored from a backup of when it was empty.
    pub(crate) fn restore_from_backup(&self) {
        let mut world = self.world();
        world.version = 0;
        world.objects.clear();
        world.history.clear();
    }

    /// Forgets all versions so far.
    pub(crate) fn compact(&self) {
        let mut world = self.world();
        world.version += 1;
        world.oldest = world.version;
    }

    /// The newest version.
    pub(crate) fn version(&self) -> u64 {
        self.world().version
    }

    /// The store moves on, and nothing that is watched changes.
    pub(crate) fn move_on(&self) -> u64 {
        let mut world = self.world();
        world.version += 1;
        world.version
    }

    /// No answer at all is one that never comes.
    fn answer(&self, request: &Request<Body>) -> io::Result<Option<Answer>> {
        let mut world = self.world();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let path = request.uri().path().to_owned();
        world.requests.push(format!("{} {path}?{query}", request.method()));
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        let accept = accept.unwrap_or_default().to_owned();
        let asked_protobuf = accept.contains("protobuf");
        world.accepted.push(accept);
        world.times.push(Instant::now());
        if world.down {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
        }
        if world.html {
            return Ok(Some(html()));
        }
        let encoding = match world.protobuf {
            Protobuf::Refuses(code) if asked_protobuf => {
                return Ok(Some(status(Encoding::Json, code, "no protobuf here")));
            }
            Protobuf::Speaks if asked_protobuf => Encoding::Protobuf,
            Protobuf::Garbles if asked_protobuf => Encoding::Garbled,
            _ => Encoding::Json,
        };
        let known = ALL.into_iter().find(|known| *known == path);
        let Some(path) = known else {
            return Ok(Some(status(encoding, 404, "no such path")));
        };
        if let Some(code) = world.refused.get(path) {
            return Ok(Some(status(encoding, *code, "the test says so")));
        }
        if let Some(answer) = world.refusal(encoding, path, asked(&query)) {
            return Ok(Some(answer));
        }
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        if parameter("watch").is_none() {
            let limit = parameter("limit").and_then(|l| l.parse().ok()).unwrap_or(usize::MAX);
            let from = parameter("continue").and_then(|c| c.parse().ok()).unwrap_or(0);
            let not_older = parameter("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
            return Ok(Some(world.list(encoding, path, not_older, from, limit)));
        }
        let from = parameter("resourceVersion").and_then(|v| v.parse().ok());
        Ok(match from {
            Some(from) => Some(world.watch(encoding, path, from)),
            None => world.stream(encoding, path),
        })
    }
}

/// What a proxy asks of a browser.
const HTML: &str = "<html>\n<body>Sign in to go on.</body>\n</html>\n";

/// The kind of a request.
fn asked(query: &str) -> Asked {
    if query.contains("sendInitialEvents=true") {
        Asked::Streamed
    } else if query.contains("watch=true") {
        Asked::Watches
    } else {
        Asked::Pages
    }
}

impl World {
    fn refusal(&mut self, encoding: Encoding, path: &str, asked: Asked) -> Option<Answer> {
        let meant = |refusal: &&mut Refusal| {
            refusal.path == path
                && refusal.left > 0
                && (refusal.asked == Asked::All || refusal.asked == asked)
        };
        let refusal = self.refusals.iter_mut().find(meant)?;
        refusal.left -= 1;
        let mut answer = status(encoding, refusal.code, "the test says so");
        if let Some(seconds) = refusal.retry_after {
            answer.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        Some(answer)
    }

    pub(crate) fn put(&mut self, path: &'static str, mut object: Value) {
        self.version += 1;
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.insert("resourceVersion".to_owned(), json!(self.version.to_string()));
        }
        let known = self.objects.entry(path).or_default();
        let kind = if known.contains_key(&key(&object)) { "MODIFIED" } else { "ADDED" };
        known.insert(key(&object), object.clone());
        self.tell(path, kind, &object);
    }

    fn delete(&mut self, path: &'static str, key: &str) {
        self.version += 1;
        let known = self.objects.entry(path).or_default();
        let mut object = known.remove(key).expect("the object to delete is there");
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.tell(path, "DELETED", &object);
    }

    fn tell(&mut self, path: &'static str, kind: &'static str, object: &Value) {
        self.watchers.retain(|(other, encoding, watcher)| {
            let send = || watcher.send(Ok(Frame::data(event(*encoding, path, kind, object))));
            *other != path || send().is_ok()
        });
        self.history.push((self.version, path, kind, object.clone()));
    }

    fn list(
        &self,
        encoding: Encoding,
        path: &str,
        not_older: u64,
        from: usize,
        limit: usize,
    ) -> Answer {
        if self.forgets_tokens && from > 0 {
            return status(encoding, 410, "the token is too old");
        }
        if not_older > self.version {
            return status(encoding, 504, "Too large resource version");
        }
        let objects = self.objects.get(path);
        let all: Vec<&Value> = objects.into_iter().flat_map(BTreeMap::values).collect();
        let items: Vec<&&Value> = all.iter().skip(from).take(limit).collect();
        let next = from + items.len();
        let mut metadata = json!({ "resourceVersion": self.version.to_string() });
        if next < all.len() {
            metadata["continue"] = json!(next.to_string());
        }
        if encoding == Encoding::Json {
            return body(
                encoding,
                200,
                json!({ "metadata": metadata, "items": items }).to_string(),
            );
        }
        let messages = items.iter().map(|item| protobuf::message(resource(path), item));
        let messages: Vec<Vec<u8>> = messages.collect();
        let messages = messages.iter().map(Vec::as_slice);
        body(encoding, 200, protobuf::list(resource(path), &metadata, messages))
    }

    fn watch(&mut self, encoding: Encoding, path: &'static str, from: u64) -> Answer {
        let (send, receive) = unbounded_channel();
        if from < self.oldest {
            let gone =
                json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "old" });
            if self.expired_by_status {
                return status(encoding, 410, "old");
            }
            let _ = send.send(Ok(Frame::data(event(encoding, path, "ERROR", &gone))));
            return streamed(encoding, receive);
        }
        if from < self.poisoned {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                let _ = send.send(Ok(Frame::data(error(encoding, 500))));
            });
            return streamed(encoding, receive);
        }
        let missed =
            self.history.iter().filter(|(version, other, ..)| *version > from && *other == path);
        for (_, _, kind, object) in missed {
            let _ = send.send(Ok(Frame::data(event(encoding, path, kind, object))));
        }
        self.watchers.push((path, encoding, send));
        streamed(encoding, receive)
    }

    fn stream(&mut self, encoding: Encoding, path: &'static str) -> Option<Answer> {
        match self.streaming {
            Streaming::Refuses(code) => {
                return Some(status(encoding, code, "sendInitialEvents is forbidden"));
            }
            Streaming::Html => return Some(html()),
            Streaming::Mute => return None,
            _ => {}
        }
        let (send, receive) = unbounded_channel();
        let answer = Some(streamed(encoding, receive));
        let line = |text: Bytes| send.send(Ok(Frame::data(text)));
        let cut = || send.send(Err(io::ErrorKind::ConnectionReset.into()));
        if !matches!(self.streaming, Streaming::Silent) {
            for (i, object) in self.objects.entry(path).or_default().values().enumerate() {
                if matches!(self.streaming, Streaming::BreaksAfter(count) if count == i) {
                    let _ = cut();
                    self.streaming = Streaming::Knows;
                    return answer;
                }
                let _ = line(event(encoding, path, "ADDED", object));
            }
        }
        let mark = |annotations: Value| {
            let version = self.version.to_string();
            event(
                encoding,
                path,
                "BOOKMARK",
                &json!({ "metadata": { "resourceVersion": version, "annotations": annotations }}),
            )
        };
        let _ = match self.streaming {
            Streaming::Errs(code) => return line(error(encoding, code)).ok().and(answer),
            Streaming::Breaks => return cut().ok().and(answer),
            Streaming::Ends => return answer,
            Streaming::Says(bytes) => {
                return line(Bytes::from_static(bytes)).ok().and(answer);
            }
            Streaming::IgnoresWithBookmarks => line(mark(json!({}))),
            Streaming::Knows | Streaming::BreaksAfter(_) => {
                line(mark(json!({ "k8s.io/initial-events-end": "true" })))
            }
            _ => Ok(()),
        };
        self.watchers.push((path, encoding, send));
        answer
    }
}

fn key(object: &Value) -> String {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    match part("namespace") {
        namespace if namespace.is_empty() => part("name"),
        namespace => format!("{namespace}/{}", part("name")),
    }
}

fn resource(path: &str) -> LabResource {
    match path {
        SERVICES => LabResource::Services,
        SLICES => LabResource::EndpointSlices,
        NODES => LabResource::Nodes,
        _ => LabResource::ServiceCidrs,
    }
}

fn event(encoding: Encoding, path: &str, kind: &str, object: &Value) -> Bytes {
    if encoding == Encoding::Json {
        return format!("{}\n", json!({ "type": kind, "object": object })).into();
    }
    let object = match kind {
        "ERROR" => protobuf::status(object),
        _ => {
            let of = resource(path);
            let message = protobuf::message(of, object);
            protobuf::envelope(&of.api_version(), of.info().kind, &message)
        }
    };
    garbled(encoding, protobuf::frame(kind, &object))
}

fn garbled(encoding: Encoding, mut bytes: Vec<u8>) -> Bytes {
    if encoding == Encoding::Garbled {
        let at = bytes.windows(4).position(|four| four == b"k8s\0").expect("it has the magic");
        bytes[at] = b'K';
    }
    bytes.into()
}

fn error(encoding: Encoding, code: u16) -> Bytes {
    let reason = "etcd is older than 3.4.25: RequestWatchProgress is disabled";
    event(encoding, "", "ERROR", &json!({ "kind": "Status", "code": code, "message": reason }))
}

fn body(encoding: Encoding, code: u16, text: impl Into<Vec<u8>>) -> Answer {
    let bytes = match encoding {
        Encoding::Json => Bytes::from(text.into()),
        Encoding::Protobuf | Encoding::Garbled => garbled(encoding, text.into()),
    };
    let full = Full::new(bytes).map_err(|never: Infallible| match never {});
    let mut answer = Response::new(full.boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(code).expect("tests use real status codes");
    labelled(answer, encoding, protobuf::MEDIA_TYPE)
}

fn labelled(mut answer: Answer, encoding: Encoding, protobuf: &'static str) -> Answer {
    let media = if encoding == Encoding::Json { "application/json" } else { protobuf };
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    answer
}

fn html() -> Answer {
    let mut answer = body(Encoding::Json, 200, HTML);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    answer
}

fn status(encoding: Encoding, code: u16, message: &str) -> Answer {
    let status = json!({ "kind": "Status", "code": code, "message": message });
    match encoding {
        Encoding::Json => body(encoding, code, status.to_string()),
        Encoding::Protobuf | Encoding::Garbled => body(encoding, code, protobuf::status(&status)),
    }
}

fn streamed(encoding: Encoding, chunks: UnboundedReceiver<Chunk>) -> Answer {
    let stream = stream::unfold(chunks, |mut chunks| async {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    });
    let answer = Response::new(StreamBody::new(stream).boxed_unsync());
    labelled(answer, encoding, protobuf::STREAM_TYPE)
}
