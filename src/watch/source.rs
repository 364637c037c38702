//! One task per resource: list, watch, and start over, for ever.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, jitter};
use super::convert::Interner;
use super::feed::{Feed, Kind, OwnNode, ServiceCidrs, Services, Slices};
use super::link::Link;
use super::loose::{Loose, Text};
use super::transport::{self, Failure, Line, Lines};
use super::{ApiServer, ConnectionState, Resource, Update, WatchOptions, wire};
use crate::model::{Change, Warning};
use crate::trace::Arrival;

/// Objects per page of a list.
const PAGE: u32 = 500;
/// A watch that lives less than this and says nothing has failed.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// How long the server lets a watch live; the spread keeps a cluster's watches from ending together.
const WATCH_FOR: std::ops::Range<Duration> = Duration::from_secs(240)..Duration::from_secs(360);
/// A watch that the server has not ended so long after its time is dead.
const OVERTIME: Duration = Duration::from_secs(30);
/// A server that streams lists pauses less than this between the objects of one.
const STREAM_PAUSE: Duration = Duration::from_secs(10);
/// A server that streams lists is done after this.
const STREAM_WITHIN: Duration = Duration::from_secs(120);
/// After so many refusals the version to go on from is suspected and the list is asked for again.
const REFUSALS_BEFORE_RELIST: u32 = 3;
/// After so many refusals, some ten seconds, it is not for being new that the server forbids something.
const REFUSALS_WHILE_STARTING: u32 = 6;
/// How often to look whether the cluster has an API that it did not have.
const LOOK_FOR_API: std::ops::Range<Duration> = Duration::from_secs(600)..Duration::from_secs(900);

pub(super) fn start(
    server: &ApiServer,
    options: &WatchOptions,
    updates: &mpsc::Sender<Update>,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let link = Arc::new(Link::new(server.url.clone()));
    let node_name = || options.node_name.clone();
    let spawn = Spawn { server, options, updates, stop, link: &link };
    spawn.source(&mut tasks, Services::default());
    spawn.source(&mut tasks, Slices { node_name: node_name(), names: Interner::default() });
    spawn.source(&mut tasks, OwnNode { node_name: node_name(), last: None });
    spawn.source(&mut tasks, ServiceCidrs::default());
    tasks
}

/// What all sources have in common.
struct Spawn<'a> {
    server: &'a ApiServer,
    options: &'a WatchOptions,
    updates: &'a mpsc::Sender<Update>,
    stop: &'a CancellationToken,
    link: &'a Arc<Link>,
}

impl Spawn<'_> {
    fn source<K: Kind>(&self, tasks: &mut JoinSet<()>, kind: K) {
        let mut source = Source {
            feed: Feed::new(kind),
            client: self.server.client.clone(),
            path: path(K::RESOURCE, &self.options.node_name),
            link: Arc::clone(self.link),
            updates: self.updates.clone(),
            backoff: Backoff::default(),
            method: ListMethod::Streaming,
            version: None,
            listed: false,
            state: None,
        };
        let stop = self.stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = source.run() => {}
            }
        });
    }
}

/// Path and selectors, which are kube-proxy's (`cmd/kube-proxy/app/server.go`).
fn path(resource: Resource, node_name: &str) -> String {
    match resource {
        Resource::Services => "/api/v1/services?labelSelector=%21service.kubernetes.io%2F\
             service-proxy-name&fieldSelector=spec.clusterIP%21%3DNone"
            .to_owned(),
        Resource::EndpointSlices => "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21\
             service.kubernetes.io%2Fheadless"
            .to_owned(),
        Resource::Node => {
            format!("/api/v1/nodes?fieldSelector=metadata.name%3D{}", percent(node_name))
        }
        Resource::ServiceCidrs => "/apis/networking.k8s.io/v1/servicecidrs?".to_owned(),
    }
}

/// Escapes everything that could mean something in a query.
fn percent(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

/// How the first state is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListMethod {
    /// As a watch that begins with all objects (KEP-3157): one object at a time in memory, and no
    /// load on etcd.
    Streaming,
    /// Page by page, where the server cannot stream.
    Paged,
}

/// How a round of [`Source::round`] ended without a failure.
enum Round {
    /// The list is there; the watch comes next.
    Listed,
    /// The server ended a watch. `spoke` says whether it sent anything.
    Ended { spoke: bool },
}

struct Source<K: Kind> {
    feed: Feed<K>,
    client: kube::Client,
    /// Path and selectors; more parameters can be added with `&`.
    path: String,
    link: Arc<Link>,
    updates: mpsc::Sender<Update>,
    backoff: Backoff,
    method: ListMethod,
    /// The resource version to go on from; without one, a list is due.
    version: Option<String>,
    /// A complete list has come at least once.
    listed: bool,
    /// What was last reported.
    state: Option<ConnectionState>,
}

impl<K: Kind> Source<K> {
    async fn run(&mut self) {
        loop {
            let started = Instant::now();
            let round = self.round().await;
            let lived = started.elapsed();
            let brief = lived < SETTLED_AFTER;
            if !brief && round.is_ok() {
                self.backoff.reset();
            }
            let outcome = match round {
                Ok(Round::Listed) => Ok(()),
                Ok(Round::Ended { spoke: false }) if brief => {
                    let reason = "the server ends the watch at once".to_owned();
                    self.recover(Failure::Unreachable(reason)).await
                }
                Ok(Round::Ended { .. }) if brief => {
                    sleep(self.backoff.next()).await;
                    Ok(())
                }
                Ok(Round::Ended { spoke }) => {
                    if !spoke && lived >= WATCH_FOR.start {
                        // Not even a bookmark: after the server's store was restored from a backup,
                        // it waits for a version that is far in the future.
                        self.version = None;
                    }
                    Ok(())
                }
                Err(failure) => self.recover(failure).await,
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    /// One list, or one watch, or both in one.
    async fn round(&mut self) -> Result<Round, Failure> {
        match (&self.version, self.method) {
            (Some(version), _) => {
                let version = percent(version);
                let query = format!("&resourceVersion={version}");
                let (lines, deadline) = self.open(&query).await?;
                self.follow(lines, deadline).await
            }
            (None, ListMethod::Streaming) => self.list_streaming().await,
            (None, ListMethod::Paged) => self.list_paged().await,
        }
    }

    /// Opens a watch; it is dead when the deadline has passed.
    async fn open(&self, query: &str) -> Result<(Lines, Instant), Failure> {
        let life = jitter(WATCH_FOR);
        let seconds = life.as_secs();
        let path = &self.path;
        let query =
            format!("{path}&watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{query}");
        let body = transport::get(&self.client, &query).await?;
        Ok((Lines::new(body), Instant::now() + life + OVERTIME))
    }

    /// Reads the objects that a streamed list begins with, then goes on as a watch.
    async fn list_streaming(&mut self) -> Result<Round, Failure> {
        let query = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        let (mut lines, deadline) = self.open(query).await.map_err(|failure| match failure {
            Failure::Refused { code: 400..=499, .. } => Failure::NoStreaming,
            other => other,
        })?;
        self.feed.begin();
        let give_up = Instant::now() + STREAM_WITHIN;
        let mut last_object = Instant::now();
        loop {
            let line = match lines.next(give_up.min(last_object + STREAM_PAUSE)).await? {
                Line::Text(line) => line,
                Line::Silence => return Err(Failure::NoStreaming),
                Line::End => {
                    return Err(Failure::Unreachable("the list ended half-way".to_owned()));
                }
            };
            let event = decode::<wire::Event<'_>>(line)?;
            let object = event.object.get();
            match &*event.kind.0 {
                "ADDED" | "MODIFIED" => {
                    let warnings = self.feed.add(object);
                    self.warn(warnings).await?;
                    last_object = Instant::now();
                }
                "DELETED" => self.feed.withdraw(object),
                "BOOKMARK" => {
                    let (version, ends) = mark(object)?;
                    if ends {
                        self.listed(version).await?;
                        return self.follow(lines, deadline).await;
                    }
                }
                "ERROR" => return Err(transport::failure_of(&decode(object)?)),
                other => return Err(Failure::Malformed(format!("an event {other:?}"))),
            }
        }
    }

    async fn list_paged(&mut self) -> Result<Round, Failure> {
        self.feed.begin();
        let mut token = String::new();
        loop {
            let mut query = format!("{}&limit={PAGE}", self.path);
            if !token.is_empty() {
                let _ = write!(query, "&continue={}", percent(&token));
            }
            let page = transport::page(transport::get(&self.client, &query).await?).await?;
            let text = std::str::from_utf8(&page).map_err(|e| Failure::Malformed(e.to_string()))?;
            let page = decode::<wire::Page<'_>>(text)?;
            let mut warnings = Vec::new();
            for object in page.items.unwrap_or_default() {
                warnings.append(&mut self.feed.add(object.get()));
            }
            let version = text_of(page.metadata.resource_version);
            token = text_of(page.metadata.next).unwrap_or_default();
            self.warn(warnings).await?;
            if token.is_empty() {
                self.listed(version).await?;
                return Ok(Round::Listed);
            }
        }
    }

    /// Sends the complete list.
    async fn listed(&mut self, version: Option<String>) -> Result<(), Failure> {
        let Some(version) = version else {
            return Err(Failure::Malformed("a list without a resourceVersion".to_owned()));
        };
        self.version = Some(version);
        self.listed = true;
        let (change, warnings) = self.feed.finish();
        self.send(change).await?;
        self.warn(warnings).await?;
        self.connected().await
    }

    /// Passes on what happens until the server ends the watch.
    async fn follow(&mut self, mut lines: Lines, deadline: Instant) -> Result<Round, Failure> {
        let settled = Instant::now() + SETTLED_AFTER;
        let mut spoke = false;
        loop {
            let until = if self.is_connected() { deadline } else { settled };
            let line = match lines.next(until).await {
                Ok(Line::Text(line)) => line,
                Ok(Line::Silence) if self.is_connected() => {
                    tracing::debug!(resource = %K::RESOURCE, "the watch is dead");
                    return Ok(Round::Ended { spoke });
                }
                Ok(Line::Silence) => {
                    self.connected().await?;
                    continue;
                }
                Ok(Line::End) => return Ok(Round::Ended { spoke }),
                Err(Failure::Unreachable(reason)) => {
                    // Servers restart; only if the next connection fails is that worth a word.
                    tracing::debug!(resource = %K::RESOURCE, reason, "the watch broke");
                    return Ok(Round::Ended { spoke });
                }
                Err(other) => return Err(other),
            };
            self.event(line).await?;
            spoke = true;
            if !self.is_connected() {
                self.connected().await?;
            }
        }
    }

    async fn event(&mut self, line: &str) -> Result<(), Failure> {
        let arrival = Arrival::now();
        let event = decode::<wire::Event<'_>>(line)?;
        let object = event.object.get();
        let version = mark(object)?.0;
        if is_older(version.as_deref(), self.version.as_deref()) {
            // The server's store was restored from a backup. What happened after that is not known.
            return Err(Failure::Expired);
        }
        let (change, warnings) = match &*event.kind.0 {
            "ADDED" | "MODIFIED" => self.feed.put(object),
            "DELETED" => (self.feed.delete(object), Vec::new()),
            "BOOKMARK" => (None, Vec::new()),
            "ERROR" => return Err(transport::failure_of(&decode(object)?)),
            other => return Err(Failure::Malformed(format!("an event {other:?}"))),
        };
        self.warn(warnings).await?;
        if let Some(change) = change {
            let origin = arrival.watch_event(&K::RESOURCE);
            self.update(Update::Change(change).traced(origin)).await?;
        }
        // Last, so that a change that was not sent is asked for again.
        if version.is_some() {
            self.version = version;
        }
        Ok(())
    }

    /// Reports a failure, decides how to go on, and waits until then. An error means that nobody
    /// listens.
    async fn recover(&mut self, failure: Failure) -> Result<(), Failure> {
        tracing::debug!(resource = %K::RESOURCE, %failure, "starting over");
        match failure {
            Failure::Unheard => return Err(Failure::Unheard),
            Failure::NoStreaming => {
                self.method = ListMethod::Paged;
                return Ok(());
            }
            Failure::Expired => self.version = None,
            Failure::Refused { code, .. } if self.lacks_api(code) => {
                return self.without_api(code).await;
            }
            Failure::Refused { code, ref message } => {
                let text = format!("the server answers {code}: {message}");
                self.refused(code, text).await?;
            }
            Failure::Malformed(_) => {
                self.version = None;
                self.lost(failure.to_string(), Link::refused).await?;
            }
            Failure::Unreachable(reason) => {
                let tell =
                    |link: &Link, resource, reason: &str, _| link.unreachable(resource, reason);
                self.lost(reason, tell).await?;
            }
        }
        let wait = self.backoff.next();
        tokio::select! {
            () = sleep(wait) => {}
            () = self.link.reached() => {}
        }
        Ok(())
    }

    async fn refused(&mut self, code: u16, reason: String) -> Result<(), Failure> {
        let temporary = matches!(code, 401 | 403 | 429 | 500..);
        if !temporary || self.backoff.failures() >= REFUSALS_BEFORE_RELIST {
            self.version = None;
        }
        if self.version.is_none() {
            // Perhaps the refusal of the streamed list was one of all lists: try it anew.
            self.method = ListMethod::Streaming;
        }
        self.lost(reason, Link::refused).await
    }

    /// Whether a refusal says that the cluster has no such API, or that its role for proxies is older
    /// than it. A server that has just started forbids everything until it knows the roles, so what
    /// was allowed before still is.
    fn lacks_api(&self, code: u16) -> bool {
        let missing = code == 404 || (code == 403 && !self.listed);
        K::RESOURCE == Resource::ServiceCidrs && missing
    }

    /// There are no objects, for now.
    async fn without_api(&mut self, code: u16) -> Result<(), Failure> {
        tracing::debug!(resource = %K::RESOURCE, "the API server does not offer this");
        self.version = None;
        self.method = ListMethod::Streaming;
        self.feed.begin();
        let (change, warnings) = self.feed.finish();
        self.send(change).await?;
        self.warn(warnings).await?;
        self.connected().await?;
        let starting = code == 403 && self.backoff.failures() < REFUSALS_WHILE_STARTING;
        sleep(if starting { self.backoff.next() } else { jitter(LOOK_FOR_API) }).await;
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.state == Some(ConnectionState::Connected)
    }

    async fn connected(&mut self) -> Result<(), Failure> {
        self.link.answered(K::RESOURCE);
        if !self.is_connected() {
            self.link.wake();
        }
        self.report(ConnectionState::Connected).await
    }

    async fn lost(
        &mut self,
        reason: String,
        tell: impl Fn(&Link, Resource, &str, bool),
    ) -> Result<(), Failure> {
        let first = !matches!(self.state, Some(ConnectionState::Lost(_)));
        tell(&self.link, K::RESOURCE, &reason, first);
        // Another reason is no other state.
        if first { self.report(ConnectionState::Lost(reason)).await } else { Ok(()) }
    }

    async fn report(&mut self, state: ConnectionState) -> Result<(), Failure> {
        if self.state.as_ref() == Some(&state) {
            return Ok(());
        }
        self.state = Some(state.clone());
        self.update(Update::Connection { resource: K::RESOURCE, state }).await
    }

    async fn warn(&self, warnings: Vec<Warning>) -> Result<(), Failure> {
        if warnings.is_empty() { Ok(()) } else { self.update(Update::Warnings(warnings)).await }
    }

    async fn send(&self, change: Option<Change>) -> Result<(), Failure> {
        match change {
            Some(change) => self.update(Update::Change(change)).await,
            None => Ok(()),
        }
    }

    async fn update(&self, update: Update) -> Result<(), Failure> {
        self.updates.send(update).await.map_err(|_| Failure::Unheard)
    }
}

fn decode<'a, T: serde::Deserialize<'a>>(json: &'a str) -> Result<T, Failure> {
    serde_json::from_str(json).map_err(|e| Failure::Malformed(e.to_string()))
}

fn text_of(text: Loose<Text<'_>>) -> Option<String> {
    match text {
        Loose::Is(text) if !text.0.is_empty() => Some(text.0.into_owned()),
        Loose::Is(_) | Loose::Absent | Loose::Wrong(_) => None,
    }
}

/// Whether a version is from before another one. Versions are numbers that grow (KEP-5504); of others
/// nothing is known.
fn is_older(version: Option<&str>, than: Option<&str>) -> bool {
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
    matches!((number(version), number(than)), (Some(version), Some(than)) if version < than)
}

/// An object's resource version, and whether it is the bookmark that ends a streamed list.
fn mark(object: &str) -> Result<(Option<String>, bool), Failure> {
    let mark = decode::<wire::Mark<'_>>(object)?;
    let Loose::Is(meta) = mark.metadata else { return Ok((None, false)) };
    let ends = match meta.annotations {
        Loose::Is(annotations) => {
            text_of(annotations.initial_events_end).is_some_and(|text| text == "true")
        }
        Loose::Absent | Loose::Wrong(_) => false,
    };
    Ok((text_of(meta.resource_version), ends))
}
