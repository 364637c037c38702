//! An API server in a few lines: lists, streamed lists and watches, with every bad habit a test needs.
//!
//! It is called in place of a connection, so tests need no sockets, and with Tokio's clock paused a
//! silence of minutes takes no time.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use sluice::watch::ApiServer;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;
type Chunk = io::Result<Frame<Bytes>>;

/// What the server does when a watch asks for initial events.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Streaming {
    /// Sends them and the bookmark that ends them.
    #[default]
    Knows,
    /// Answers with this status.
    Refuses(u16),
    /// Sends objects and never ends.
    Ignores,
    /// Breaks the connection after this many objects, once.
    BreaksAfter(usize),
}

#[derive(Default)]
pub(crate) struct World {
    version: u64,
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    history: Vec<(u64, &'static str, String)>,
    watchers: Vec<(&'static str, UnboundedSender<Chunk>)>,
    pub(crate) requests: Vec<String>,
    pub(crate) streaming: Streaming,
    /// Connections are refused.
    pub(crate) down: bool,
    /// Versions before this one are forgotten.
    pub(crate) oldest: u64,
    /// A forgotten version is refused by a status, not by an event.
    pub(crate) expired_by_status: bool,
    /// Every request for these is answered with a status.
    pub(crate) refused: BTreeMap<&'static str, u16>,
}

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<World>>);

impl Fake {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("no test panics while it holds the world")
    }

    /// A client whose every request ends here.
    pub(crate) fn server(&self) -> ApiServer {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = fake.answer(&request);
            async move { answer }
        });
        let client = kube::Client::new(service, "default");
        ApiServer { client, url: "http://fake".to_owned() }
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
        for (_, watcher) in self.world().watchers.drain(..) {
            let _ = watcher.send(Err(io::ErrorKind::ConnectionReset.into()));
        }
    }

    /// Sends every open watch a bookmark.
    pub(crate) fn bookmark(&self) {
        let mut world = self.world();
        let mark = json!({ "metadata": { "resourceVersion": world.version.to_string() } });
        let line = event("BOOKMARK", &mark);
        let send = |w: &UnboundedSender<Chunk>| w.send(Ok(Frame::data(line.clone().into())));
        world.watchers.retain(|(_, watcher)| send(watcher).is_ok());
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

    fn answer(&self, request: &Request<Body>) -> io::Result<Answer> {
        let mut world = self.world();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let path = request.uri().path().to_owned();
        world.requests.push(format!("{} {path}?{query}", request.method()));
        if world.down {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"));
        }
        let known = [SERVICES, SLICES, NODES, CIDRS].into_iter().find(|known| *known == path);
        let Some(path) = known else { return Ok(status(404, "no such path")) };
        if let Some(code) = world.refused.get(path) {
            return Ok(status(*code, "the test says so"));
        }
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        if parameter("watch").is_none() {
            let limit = parameter("limit").and_then(|l| l.parse().ok()).unwrap_or(usize::MAX);
            let from = parameter("continue").and_then(|c| c.parse().ok()).unwrap_or(0);
            return Ok(world.list(path, from, limit));
        }
        let from = parameter("resourceVersion").and_then(|v| v.parse().ok());
        Ok(match from {
            Some(from) => world.watch(path, from),
            None => world.stream(path),
        })
    }
}

impl World {
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

    fn tell(&mut self, path: &'static str, kind: &str, object: &Value) {
        let line = event(kind, object);
        self.watchers.retain(|(other, watcher)| {
            *other != path || watcher.send(Ok(Frame::data(line.clone().into()))).is_ok()
        });
        self.history.push((self.version, path, line));
    }

    fn list(&self, path: &str, from: usize, limit: usize) -> Answer {
        let objects = self.objects.get(path);
        let all: Vec<&Value> = objects.into_iter().flat_map(BTreeMap::values).collect();
        let items: Vec<&&Value> = all.iter().skip(from).take(limit).collect();
        let next = from + items.len();
        let mut page = json!({ "metadata": { "resourceVersion": self.version.to_string() } });
        page["items"] = json!(items);
        if next < all.len() {
            page["metadata"]["continue"] = json!(next.to_string());
        }
        body(200, page.to_string())
    }

    fn watch(&mut self, path: &'static str, from: u64) -> Answer {
        let (send, receive) = unbounded_channel();
        if from < self.oldest {
            let gone =
                json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "old" });
            if self.expired_by_status {
                return body(410, gone.to_string());
            }
            let _ = send.send(Ok(Frame::data(event("ERROR", &gone).into())));
            return streamed(receive);
        }
        let missed =
            self.history.iter().filter(|(version, other, _)| *version > from && *other == path);
        for (_, _, line) in missed {
            let _ = send.send(Ok(Frame::data(line.clone().into())));
        }
        self.watchers.push((path, send));
        streamed(receive)
    }

    fn stream(&mut self, path: &'static str) -> Answer {
        if let Streaming::Refuses(code) = self.streaming {
            return status(code, "sendInitialEvents is forbidden");
        }
        let (send, receive) = unbounded_channel();
        let broken = match self.streaming {
            Streaming::BreaksAfter(count) => count,
            _ => usize::MAX,
        };
        for (i, object) in self.objects.entry(path).or_default().values().enumerate() {
            if i == broken {
                let _ = send.send(Err(io::ErrorKind::ConnectionReset.into()));
                self.streaming = Streaming::Knows;
                return streamed(receive);
            }
            let _ = send.send(Ok(Frame::data(event("ADDED", object).into())));
        }
        if !matches!(self.streaming, Streaming::Ignores) {
            let end = json!({ "metadata": {
                "resourceVersion": self.version.to_string(),
                "annotations": { "k8s.io/initial-events-end": "true" },
            }});
            let _ = send.send(Ok(Frame::data(event("BOOKMARK", &end).into())));
        }
        self.watchers.push((path, send));
        streamed(receive)
    }
}

fn key(object: &Value) -> String {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    match part("namespace") {
        namespace if namespace.is_empty() => part("name"),
        namespace => format!("{namespace}/{}", part("name")),
    }
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}

fn body(code: u16, text: String) -> Answer {
    let full = Full::new(Bytes::from(text)).map_err(|never: Infallible| match never {});
    let mut answer = Response::new(full.boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(code).expect("tests use real status codes");
    answer
}

fn status(code: u16, message: &str) -> Answer {
    body(code, json!({ "kind": "Status", "code": code, "message": message }).to_string())
}

fn streamed(chunks: UnboundedReceiver<Chunk>) -> Answer {
    let stream = stream::unfold(chunks, |mut chunks| async {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    });
    Response::new(StreamBody::new(stream).boxed_unsync())
}
