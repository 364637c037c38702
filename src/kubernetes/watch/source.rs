//! One task per resource: list, watch, and repeat for ever.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, jitter, random};
use super::convert::Interner;
use super::failure::Failure;
use super::object_feed::{Kind, ObjectFeed, OwnNode, ServiceCidrs, Services, Slices};
use super::reachability::Reachability;
use super::request::{ListFrom, ListMethod, path, percent};
use super::round::{Phase, Round, is_older};
use super::transport::{self, Answer, Asking};
use super::watch_stream::{Event, Next, WatchStream};
use super::{ApiServer, ConnectionState, Content, Message, Resource, Update, WatchOptions};
use sluice_core::model::{Change, Warning};
use sluice_telemetry::trace::Arrival;

/// A watch that lasts less than this without an event has failed.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// How long the server lets a watch live, as in client-go; the spread keeps a cluster's watches from ending
/// together.
const WATCH_FOR: std::ops::Range<Duration> = Duration::from_secs(300)..Duration::from_secs(600);
/// A watch that ends so long before its time was not ended by the server's clock.
const EARLY_BY: Duration = Duration::from_secs(5);
/// How long a list waits that replaces a version which the server has forgotten: it has usually forgotten it for
/// a whole cluster at once, and a list costs a thousand times as much as a watch.
const RELIST_WITHIN: Duration = Duration::from_secs(10);
/// A watch that the server has not ended so long after its time is dead.
const OVERTIME: Duration = Duration::from_secs(30);
/// After this many consecutive refusals of a watch, its resource version is suspected.
const REFUSALS_BEFORE_RELIST: u32 = 4;
/// After this many refusals (about 15 s) a 403 is taken seriously: a starting API server also answers 403
/// until RBAC is loaded.
const REFUSALS_WHILE_STARTING: u32 = 5;
/// How often to look whether the cluster has an API that it did not have.
const LOOK_FOR_API: std::ops::Range<Duration> = Duration::from_secs(600)..Duration::from_secs(900);

pub(super) fn start(
    server: &ApiServer,
    options: &WatchOptions,
    updates: &mpsc::Sender<Message>,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let reachability = Arc::new(Reachability::new(server.url.clone()));
    let node_name = || options.node_name.clone();
    let spawn = Spawn { server, options, updates, stop, reachability: &reachability };
    spawn.source(&mut tasks, Services::default());
    spawn.source(&mut tasks, Slices { node_name: node_name(), names: Interner::default() });
    spawn.source(&mut tasks, OwnNode { node_name: node_name(), last: None, seen: false });
    spawn.source(&mut tasks, ServiceCidrs::default());
    tasks
}

/// What all sources have in common.
struct Spawn<'a> {
    server: &'a ApiServer,
    options: &'a WatchOptions,
    updates: &'a mpsc::Sender<Message>,
    stop: &'a CancellationToken,
    reachability: &'a Arc<Reachability>,
}

impl Spawn<'_> {
    fn source<K: Kind>(&self, tasks: &mut JoinSet<()>, kind: K) {
        let mut source = Source {
            feed: ObjectFeed::new(kind),
            client: self.server.client.clone(),
            content: self.server.content.clone(),
            path: path(K::RESOURCE, &self.options.node_name),
            reachability: Arc::clone(self.reachability),
            updates: self.updates.clone(),
            list_backoff: Backoff::default(),
            watch_backoff: Backoff::default(),
            phase: Phase::Listing,
            method: ListMethod::Streamed,
            version: None,
            list_from: ListFrom::Anything,
            pages_from_cache: false,
            refusals: 0,
            lot: random(),
            returns: 0,
            roused: false,
            ever_listed: false,
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

pub(super) struct Source<K: Kind> {
    pub(super) feed: ObjectFeed<K>,
    client: kube::Client,
    content: Content,
    /// Path and selectors; more parameters can be added with `&`.
    pub(super) path: String,
    pub(super) reachability: Arc<Reachability>,
    updates: mpsc::Sender<Message>,
    /// Between attempts of a list; reset by each list that succeeds.
    pub(super) list_backoff: Backoff,
    /// Between attempts of a watch; reset by each watch that lasts, however it ends, but not by lists: with a
    /// server that serves lists and ends watches, the pauses grow.
    watch_backoff: Backoff,
    phase: Phase,
    pub(super) method: ListMethod,
    /// The resource version to continue from; without one, a list is due.
    pub(super) version: Option<String>,
    /// How new a paged list must be, if there is no such version.
    pub(super) list_from: ListFrom,
    /// This server divides into pages what others have in their watch cache.
    pub(super) pages_from_cache: bool,
    /// Consecutive refusals, except 429. Connection failures do not count: if all nodes listed again after an
    /// outage, they would overload the server.
    pub(super) refusals: u32,
    /// Which of many refusals lead to a list. Another number for each node, so that few lists come together.
    lot: u64,
    /// The count of returns of the server at the last request or message.
    returns: u64,
    /// The last wait was cut short by the server's return; the next one is not.
    roused: bool,
    /// A complete list has come at least once.
    pub(super) ever_listed: bool,
    /// What was last reported.
    pub(super) state: Option<ConnectionState>,
}

impl<K: Kind> Source<K> {
    async fn run(&mut self) {
        loop {
            self.returns = self.reachability.returns();
            let outcome = match self.attempt().await {
                Ok(Round::Listed) => Ok(()),
                Ok(Round::Ended { spoke, lived, early }) => self.ended(spoke, lived, early).await,
                Err(failure) => self.recover(failure).await,
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    /// One list, or one watch, or both in one.
    async fn attempt(&mut self) -> Result<Round, Failure> {
        match &self.version {
            Some(version) if !self.suspects_version() => {
                self.phase = Phase::Watching;
                let query = format!("&resourceVersion={}", percent(version));
                let (stream, deadline) = self.open(&query).await?;
                self.follow(stream, deadline).await
            }
            // The version is kept until there is a list.
            _ => {
                self.phase = Phase::Listing;
                self.list().await
            }
        }
    }

    /// Whether a list is to be tried in place of a watch that is refused, because the version may be
    /// what is wrong, or to have changes at all. Ever more rarely: what stands between a cluster and
    /// its server refuses all of it for as long as an outage lasts, and afterwards only a few nodes
    /// must be at this. So it is one of the tries 4 to 7, one of 8 to 15, and so on, and for each node another.
    fn suspects_version(&self) -> bool {
        let doublings = self.refusals.checked_ilog2().unwrap_or_default();
        let first = 1 << doublings;
        self.refusals >= REFUSALS_BEFORE_RELIST
            && u64::from(self.refusals - first) == self.lot % u64::from(first)
    }

    pub(super) fn watching(&self) -> bool {
        self.phase == Phase::Watching
    }

    /// Goes on after the end of a watch.
    async fn ended(&mut self, spoke: bool, lived: Duration, early: bool) -> Result<(), Failure> {
        if lived < SETTLED_AFTER && !spoke {
            return self.recover(Failure::Brief).await;
        }
        if early {
            // A server that stops ends the watches of all nodes, and another must not get them all at once.
            sleep_until(self.try_again_at()).await;
        } else if !spoke && lived >= WATCH_FOR.start {
            // Not even a bookmark: after the server's store was restored from a backup, it waits for a
            // version that is far in the future.
            self.forget_version();
        }
        self.refusals = 0;
        Ok(())
    }

    /// Opens a watch; it is dead when the deadline has passed.
    pub(super) async fn open(&self, query: &str) -> Result<(WatchStream, Instant), Failure> {
        let seconds = jitter(WATCH_FOR).as_secs();
        let path = &self.path;
        let query =
            format!("{path}&watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{query}");
        let answer = self.get(&query, false, transport::WATCH_ANSWER_WITHIN).await?;
        Ok((WatchStream::new(answer), Instant::now() + Duration::from_secs(seconds) + OVERTIME))
    }

    /// Sends a request, and again for JSON if the server does not have the requested encodings.
    pub(super) async fn get(
        &self,
        path_and_query: &str,
        may_be_packed: bool,
        within: Duration,
    ) -> Result<Answer, Failure> {
        let plain =
            Asking { gzip: may_be_packed && self.content.gzip, ..Asking::plain(path_and_query) };
        let asking = Asking { accept: self.content.accept(), ..plain.clone() };
        if self.reachability.has_only_json() || asking.accept == plain.accept {
            return transport::get(&self.client, &plain, within).await;
        }
        match transport::get(&self.client, &asking, within).await {
            Err(failure) if failure.is_not_acceptable() => {
                let answer = transport::get(&self.client, &plain, within).await;
                // If it refuses that for another reason, it was for the encoding before.
                let heard = match &answer {
                    Ok(_) | Err(Failure::Expired) => true,
                    Err(other) => {
                        matches!(other, Failure::Refused { .. }) && !other.is_not_acceptable()
                    }
                };
                if heard {
                    self.reachability.only_json(&failure.to_string());
                }
                answer
            }
            answer => answer,
        }
    }

    /// Passes on what happens until the watch ends.
    pub(super) async fn follow(
        &mut self,
        stream: WatchStream,
        deadline: Instant,
    ) -> Result<Round, Failure> {
        self.phase = Phase::Watching;
        let (opened, open) = (Instant::now(), self.reachability.opened());
        let end = self.changes(stream, deadline).await;
        drop(open);
        // Up to now the server was there.
        self.returns = self.reachability.returns();
        let lived = opened.elapsed();
        if lived >= SETTLED_AFTER {
            self.watch_backoff.reset();
            self.reachability.settled();
        }
        let early = Instant::now() + EARLY_BY + OVERTIME < deadline;
        end.map(|spoke| Round::Ended { spoke, lived, early })
    }

    /// Passes on what happens until the server ends the watch, and returns whether anything did.
    async fn changes(
        &mut self,
        mut stream: WatchStream,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        let settled = Instant::now() + SETTLED_AFTER;
        let mut spoke = false;
        loop {
            let until = if self.is_connected() { deadline } else { settled };
            let event = match stream.next(until).await {
                Ok(Next::Event(event)) => event,
                Ok(Next::Silence) if self.is_connected() => {
                    tracing::debug!(resource = %K::RESOURCE, "the watch is dead");
                    return Ok(spoke);
                }
                Ok(Next::Silence) => {
                    self.connected().await?;
                    continue;
                }
                Ok(Next::End) => return Ok(spoke),
                Err(Failure::Unreachable(reason)) => {
                    // Servers restart; only if the next connection fails is that worth a word.
                    tracing::debug!(resource = %K::RESOURCE, reason, "the watch broke");
                    return Ok(spoke);
                }
                Err(other) => return Err(other),
            };
            self.event(event).await?;
            spoke = true;
            self.refusals = 0;
            if !self.is_connected() {
                self.connected().await?;
            }
        }
    }

    async fn event(&mut self, Event { kind, object }: Event<'_>) -> Result<(), Failure> {
        let (arrival, arrived) = (Arrival::now(), std::time::Instant::now());
        if kind == "ERROR" {
            return Err(object.failure());
        }
        let version = object.version()?.0;
        if is_older(version.as_deref(), self.version.as_deref()) {
            // The server's store was restored from a backup. What happened after that is not known.
            self.forget_version();
            return Err(Failure::Expired);
        }
        let (change, warnings) = match &*kind {
            "ADDED" | "MODIFIED" => self.feed.put(object),
            "DELETED" => (self.feed.delete(object), Vec::new()),
            "BOOKMARK" => (None, Vec::new()),
            other => return Err(Failure::Malformed(format!("an event {other:?}"))),
        };
        self.warn(warnings).await?;
        if let Some(change) = change {
            let origin = arrival.watch_event(&K::RESOURCE);
            self.deliver(Message { update: Update::Change(change), origin, arrived }).await?;
        }
        // Last, so that a change that was not sent is requested again.
        if version.is_some() {
            self.version = version;
        }
        Ok(())
    }

    /// Reports a failure, decides how to continue, and waits until then. An error means that the receiver is
    /// gone.
    async fn recover(&mut self, failure: Failure) -> Result<(), Failure> {
        tracing::debug!(resource = %K::RESOURCE, %failure, "starting over");
        let busy = failure.is_too_many_requests();
        self.refusals = match &failure {
            Failure::Refused { .. }
            | Failure::Malformed(_)
            | Failure::NotProtobuf(_)
            | Failure::Brief
                if !busy =>
            {
                self.refusals.saturating_add(1)
            }
            _ => 0,
        };
        match &failure {
            Failure::Unheard => return Err(failure),
            Failure::Refused { code, .. } if self.lacks_api(*code) => {
                return self.without_api(*code).await;
            }
            // What is listed next must not be older than what is known.
            Failure::Expired => {
                if let Some(version) = self.version.take() {
                    self.list_from = ListFrom::Version(version);
                }
            }
            Failure::Refused { .. }
            | Failure::Malformed(_)
            | Failure::NotProtobuf(_)
            | Failure::Brief => {
                if matches!(failure, Failure::Refused { code: 400 | 422, .. }) {
                    // It is the request that is wrong, and the version is what can be in it.
                    self.forget_version();
                }
                if let Failure::NotProtobuf(_) = failure {
                    self.reachability.only_json(&failure.to_string());
                }
                self.lost(failure.to_string(), Reachability::refused).await?;
            }
            Failure::Unreachable(_)
            | Failure::ConnectionRefused(_)
            | Failure::Silent(_)
            | Failure::Unfinished(_) => {
                let tell = |reachability: &Reachability, resource, reason: &str, _| {
                    reachability.unreachable(resource, reason)
                };
                self.lost(failure.to_string(), tell).await?;
            }
        }
        self.wait(&failure).await;
        Ok(())
    }

    /// When the next attempt is due.
    fn try_again_at(&mut self) -> Instant {
        let own = match self.phase {
            Phase::Listing => &mut self.list_backoff,
            Phase::Watching => &mut self.watch_backoff,
        };
        self.reachability.try_again_at(own)
    }

    /// Waits before the next attempt: at least Retry-After, and otherwise at most until another source gets
    /// through. That shortens at most every second wait: otherwise sources that get through and fail again
    /// would wake each other without a pause.
    async fn wait(&mut self, failure: &Failure) {
        let (due, now) = (self.try_again_at(), Instant::now());
        let least = match failure {
            Failure::Expired => now + jitter(Duration::ZERO..RELIST_WITHIN),
            _ => now + failure.retry_after().map_or(Duration::ZERO, |t| jitter(t..t * 3 / 2)),
        };
        sleep_until(least).await;
        if failure.is_too_many_requests() || std::mem::take(&mut self.roused) {
            return sleep_until(due).await;
        }
        tokio::select! {
            () = sleep_until(due) => {}
            () = self.reachability.returned(self.returns) => self.roused = true,
        }
    }

    /// Gives up a version that leads nowhere: the next list is whatever is newest.
    fn forget_version(&mut self) {
        self.version = None;
        self.list_from = ListFrom::Newest;
    }

    /// Whether a refusal means that the cluster has no such API, or that its role for proxies is older than
    /// the API. A starting server answers 403 to everything until it has loaded the roles, so what was
    /// allowed before is not meant.
    fn lacks_api(&self, code: u16) -> bool {
        let missing = code == 404 || (code == 403 && !self.ever_listed);
        K::RESOURCE == Resource::ServiceCidrs && missing
    }

    /// There are no objects, for now.
    async fn without_api(&mut self, code: u16) -> Result<(), Failure> {
        tracing::debug!(resource = %K::RESOURCE, "the API server does not offer this");
        self.forget_version();
        self.feed.begin();
        let (change, warnings) = self.feed.finish();
        self.send(change).await?;
        self.warn(warnings).await?;
        self.connected().await?;
        let starting = code == 403 && self.list_backoff.failures() < REFUSALS_WHILE_STARTING;
        sleep(if starting { self.list_backoff.next() } else { jitter(LOOK_FOR_API) }).await;
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.state == Some(ConnectionState::Connected)
    }

    pub(super) async fn connected(&mut self) -> Result<(), Failure> {
        self.reachability.answered(K::RESOURCE);
        if !self.is_connected() {
            self.reachability.wake();
        }
        self.report(ConnectionState::Connected).await
    }

    async fn lost(
        &mut self,
        reason: String,
        tell: impl Fn(&Reachability, Resource, &str, bool),
    ) -> Result<(), Failure> {
        let first = !matches!(self.state, Some(ConnectionState::Lost(_)));
        tell(&self.reachability, K::RESOURCE, &reason, first);
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

    pub(super) async fn warn(&self, warnings: Vec<Warning>) -> Result<(), Failure> {
        if warnings.is_empty() { Ok(()) } else { self.update(Update::Warnings(warnings)).await }
    }

    pub(super) async fn send(&self, change: Option<Change>) -> Result<(), Failure> {
        match change {
            Some(change) => self.update(Update::Change(change)).await,
            None => Ok(()),
        }
    }

    async fn update(&self, update: Update) -> Result<(), Failure> {
        self.deliver(update.into()).await
    }

    async fn deliver(&self, message: Message) -> Result<(), Failure> {
        self.updates.send(message).await.map_err(|_| Failure::Unheard)
    }
}
