//! Lists: streamed if the server supports it, else paged.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use super::ConnectionState;
use super::failure::Failure;
use super::object_feed::Kind;
use super::page::{self, Rest};
use super::request::{ListFrom, ListMethod, percent};
use super::round::Round;
use super::source::Source;
use super::transport::PAGE_ANSWER_WITHIN;
use super::watch_stream::{Next, WatchStream};
use sluice_core::model::Warning;

/// Objects per page of a list.
const PAGE: u32 = 500;
/// A server that streams lists pauses less than this between the objects of one.
const STREAM_PAUSE: Duration = Duration::from_secs(10);
/// A server that streams lists is done after this.
const STREAM_WITHIN: Duration = Duration::from_secs(120);

impl Failure {
    /// Whether a streamed list that ended with this error is retried as a stream: the server is unreachable,
    /// or sent Retry-After (`isWatchErrorRetriable` in client-go).
    fn leads_to_a_stream(&self) -> bool {
        matches!(self, Failure::ConnectionRefused(_)) || self.is_too_many_requests()
    }

    /// Whether a streamed list that ended with this error may have failed because of streaming. Unreachable
    /// servers, Retry-After and missing permissions are no indication.
    fn is_of_streaming(&self) -> bool {
        match self {
            Failure::Unreachable(_)
            | Failure::ConnectionRefused(_)
            | Failure::NotProtobuf(_)
            | Failure::Unheard => false,
            Failure::Refused { code: 401 | 403 | 404 | 429, .. } => false,
            Failure::Refused { code: 503, retry_after, .. } => retry_after.is_none(),
            _ => true,
        }
    }

    /// Whether a list from a version that ended with this is tried at once without.
    fn is_of_the_version(&self) -> bool {
        match self {
            Failure::Expired | Failure::Refused { code: 400 | 422, .. } => true,
            Failure::Refused { message, .. } => message.contains("Too large resource version"),
            _ => false,
        }
    }
}

impl<K: Kind> Source<K> {
    /// A complete list. If a streamed one fails, pages are requested next, as in client-go: old etcds, other
    /// stores and proxies fail in many ways.
    pub(super) async fn list(&mut self) -> Result<Round, Failure> {
        if self.method == ListMethod::Streamed {
            let failure = match self.list_streamed().await {
                Ok(watch) => return Ok(watch),
                Err(Failure::Unheard) => return Err(Failure::Unheard),
                Err(failure) if self.watching() || failure.leads_to_a_stream() => {
                    return Err(failure);
                }
                Err(failure) => failure,
            };
            if let Failure::NotProtobuf(reason) = &failure {
                self.reachability.only_json(reason);
            }
            self.method =
                ListMethod::Instead(failure.is_of_streaming().then(|| failure.to_string()));
            if matches!(failure, Failure::Unreachable(_)) || failure.retry_after().is_some() {
                return Err(failure);
            }
        }
        let list = self.list_paged().await;
        let later =
            |failure: &Failure| failure.is_too_many_requests() || failure.retry_after().is_some();
        if self.method != ListMethod::Paged && list.as_ref().is_err_and(|error| !later(error)) {
            // There are no lists at all at the moment.
            self.method = ListMethod::Streamed;
        }
        list
    }

    /// Reads the initial objects of a streamed list, then continues as a watch.
    async fn list_streamed(&mut self) -> Result<Round, Failure> {
        let query = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        let (mut stream, deadline) = self.open(query).await?;
        let version =
            self.streamed_objects(&mut stream).await.map_err(|failure| match failure {
                Failure::Unreachable(reason) => {
                    Failure::Unfinished(format!("the list broke off: {reason}"))
                }
                other => other,
            })?;
        self.listed(version).await?;
        self.follow(stream, deadline).await
    }

    /// Reads up to the bookmark that completes a streamed list, and returns its version.
    async fn streamed_objects(
        &mut self,
        stream: &mut WatchStream,
    ) -> Result<Option<String>, Failure> {
        let unfinished = |why: &str| Err(Failure::Unfinished(why.to_owned()));
        self.feed.begin();
        let give_up = Instant::now() + STREAM_WITHIN;
        let mut last_object = Instant::now();
        loop {
            let event = match stream.next(give_up.min(last_object + STREAM_PAUSE)).await? {
                Next::Event(event) => event,
                Next::Silence => return unfinished("no bookmark completes the list"),
                Next::End => return unfinished("the list ended half-way"),
            };
            let object = event.object;
            match &*event.kind {
                "ADDED" | "MODIFIED" => {
                    let warnings = self.feed.add(object);
                    self.warn(warnings).await?;
                    last_object = Instant::now();
                }
                "DELETED" => self.feed.withdraw(object),
                "BOOKMARK" => match object.version()? {
                    (version, true) => return Ok(version),
                    // Of a server that streams lists, the first bookmark is the one that completes.
                    (_, false) => return unfinished("a bookmark does not complete the list"),
                },
                "ERROR" => return Err(object.failure()),
                other => return Err(Failure::Malformed(format!("an event {other:?}"))),
            }
        }
    }

    /// A list by pages, or in one piece if it must not be older than a version: that is in the server's watch
    /// cache, and pages would come from etcd (`Reflector.list` in client-go).
    async fn list_paged(&mut self) -> Result<Round, Failure> {
        let from = match (&self.version, &self.list_from) {
            (_, ListFrom::Newest) => ListFrom::Newest,
            (Some(version), _) => ListFrom::Version(version.clone()),
            (None, from) => from.clone(),
        };
        match self.pages(&from).await {
            Err(failure) if from != ListFrom::Newest && failure.is_of_the_version() => {
                self.list_from = ListFrom::Newest;
                self.pages(&ListFrom::Newest).await
            }
            Err(failure @ Failure::Refused { code: 500, .. }) => {
                // Possibly for the version's sake. The next list will tell.
                self.list_from = ListFrom::Newest;
                Err(failure)
            }
            list => list,
        }
    }

    async fn pages(&mut self, from: &ListFrom) -> Result<Round, Failure> {
        let mut by_pages = self.pages_from_cache || !matches!(from, ListFrom::Version(_));
        let mut token: Option<String> = None;
        self.feed.begin();
        loop {
            let (rest, warnings) = match self.page(from, by_pages, token.as_deref()).await {
                Err(Failure::Expired) if token.is_some() => {
                    // The store compacts faster than pages are read.
                    (by_pages, token) = (false, None);
                    self.feed.begin();
                    continue;
                }
                page => page?,
            };
            self.warn(warnings).await?;
            if rest.token.is_none() {
                self.listed(rest.version).await?;
                return Ok(Round::Listed);
            }
            self.pages_from_cache |= *from == ListFrom::Anything;
            token = rest.token;
        }
    }

    /// One page, or the whole list.
    async fn page(
        &mut self,
        from: &ListFrom,
        by_pages: bool,
        token: Option<&str>,
    ) -> Result<(Rest, Vec<Warning>), Failure> {
        let mut query = self.path.clone();
        if by_pages {
            let _ = write!(query, "&limit={PAGE}");
        }
        match token {
            Some(token) => {
                let _ = write!(query, "&continue={}", percent(token));
            }
            None => query.push_str(&from.query()),
        }
        let answer = self.get(&query, true, PAGE_ANSWER_WITHIN).await?;
        let mut warnings = Vec::new();
        let rest = page::read(answer, |object| warnings.append(&mut self.feed.add(object))).await?;
        Ok((rest, warnings))
    }

    /// Sends the complete list.
    async fn listed(&mut self, version: Option<String>) -> Result<(), Failure> {
        let Some(version) = version else {
            return Err(Failure::Malformed("a list without a resourceVersion".to_owned()));
        };
        self.version = Some(version);
        self.list_from = ListFrom::Anything;
        self.ever_listed = true;
        self.list_backoff.reset();
        self.refusals = 0;
        self.method = match std::mem::replace(&mut self.method, ListMethod::Streamed) {
            ListMethod::Instead(Some(reason)) => {
                self.reachability.gives_pages(K::RESOURCE, &reason);
                ListMethod::Paged
            }
            ListMethod::Instead(None) | ListMethod::Streamed => ListMethod::Streamed,
            ListMethod::Paged => ListMethod::Paged,
        };
        let (change, warnings) = self.feed.finish();
        self.send(change).await?;
        self.warn(warnings).await?;
        if matches!(self.state, Some(ConnectionState::Lost(_))) {
            // The watch shows whether changes arrive; where no watch works, each list would be reported as
            // connected, and each watch as lost.
            self.reachability.wake();
            return Ok(());
        }
        self.connected().await
    }
}
