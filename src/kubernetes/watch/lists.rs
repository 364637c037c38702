//! How a list is asked for: as a stream where the server can, else page by page.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use super::ConnectionState;
use super::object_feed::Kind;
use super::source::{Round, Source, decode, percent, text_of, version_of};
use super::transport::{self, Failure, Line, Lines};
use super::wire;

/// Objects per page of a list.
const PAGE: u32 = 500;
/// A server that streams lists pauses less than this between the objects of one.
const STREAM_PAUSE: Duration = Duration::from_secs(10);
/// A server that streams lists is done after this.
const STREAM_WITHIN: Duration = Duration::from_secs(120);

/// How the next list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ListMethod {
    /// As a watch that begins with all objects (KEP-3157): one object at a time in memory, and no
    /// load on etcd.
    Streamed,
    /// Page by page, because a streamed list has just failed. If pages come, and there is a reason
    /// why it was for being streamed, the server is asked for pages from then on.
    Instead(Option<String>),
    /// Page by page for good: this server gave pages where it gave no stream.
    Paged,
}

impl Failure {
    /// Whether a streamed list that ended with this may have failed for being streamed. A server that
    /// cannot be reached, or asks to be left alone, says nothing about that.
    fn is_of_streaming(&self) -> bool {
        match self {
            Failure::Unreachable(_) | Failure::Unheard => false,
            Failure::Refused { code: 503, retry_after, .. } => retry_after.is_none(),
            other => !other.is_too_many_requests(),
        }
    }
}

impl<K: Kind> Source<K> {
    /// A complete list. Whatever a streamed one ends with, pages are asked for next, as by client-go:
    /// old etcds, other stores and proxies on the way fail in many ways.
    pub(super) async fn list(&mut self) -> Result<Round, Failure> {
        if self.method == ListMethod::Streamed {
            let failure = match self.list_streamed().await {
                Ok(watch) => return Ok(watch),
                Err(Failure::Unheard) => return Err(Failure::Unheard),
                Err(failure) if self.watching() => return Err(failure),
                Err(failure) => failure,
            };
            let of_streaming = failure.is_of_streaming();
            self.method = ListMethod::Instead(of_streaming.then(|| failure.to_string()));
            if !of_streaming || failure.retry_after().is_some() {
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

    /// Reads the objects that a streamed list begins with, then goes on as a watch.
    async fn list_streamed(&mut self) -> Result<Round, Failure> {
        let query = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        let (mut lines, deadline) = self.open(query).await?;
        let version = self.streamed_objects(&mut lines).await.map_err(|failure| match failure {
            Failure::Unreachable(reason) => {
                Failure::Unfinished(format!("the list broke off: {reason}"))
            }
            other => other,
        })?;
        self.listed(version).await?;
        self.follow(lines, deadline).await
    }

    /// Reads up to the bookmark that completes a streamed list, and returns its version.
    async fn streamed_objects(&mut self, lines: &mut Lines) -> Result<Option<String>, Failure> {
        let unfinished = |why: &str| Err(Failure::Unfinished(why.to_owned()));
        self.feed.begin();
        let give_up = Instant::now() + STREAM_WITHIN;
        let mut last_object = Instant::now();
        loop {
            let line = match lines.next(give_up.min(last_object + STREAM_PAUSE)).await? {
                Line::Text(line) => line,
                Line::Silence => return unfinished("no bookmark completes the list"),
                Line::End => return unfinished("the list ended half-way"),
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
                "BOOKMARK" => match version_of(object)? {
                    (version, true) => return Ok(version),
                    // Of a server that streams lists, the first bookmark is the one that completes.
                    (_, false) => return unfinished("a bookmark does not complete the list"),
                },
                "ERROR" => return Err(transport::failure_of(&decode(object)?)),
                other => return Err(Failure::Malformed(format!("an event {other:?}"))),
            }
        }
    }

    async fn list_paged(&mut self) -> Result<Round, Failure> {
        let mut whole = false;
        'list: loop {
            self.feed.begin();
            let mut token = String::new();
            loop {
                let page = match self.page(&token, whole).await {
                    Err(Failure::Expired) if !token.is_empty() => {
                        // The store forgets faster than pages come.
                        whole = true;
                        continue 'list;
                    }
                    page => page?,
                };
                let text =
                    std::str::from_utf8(&page).map_err(|e| Failure::Malformed(e.to_string()))?;
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
    }

    /// One page, or the whole list.
    async fn page(&self, token: &str, whole: bool) -> Result<bytes::Bytes, Failure> {
        let mut query = self.path.clone();
        if !whole {
            let _ = write!(query, "&limit={PAGE}");
        }
        if !token.is_empty() {
            let _ = write!(query, "&continue={}", percent(token));
        }
        let answer = transport::get(&self.client, &query, transport::PAGE_ANSWER_WITHIN).await?;
        transport::page(answer).await
    }

    /// Sends the complete list.
    async fn listed(&mut self, version: Option<String>) -> Result<(), Failure> {
        let Some(version) = version else {
            return Err(Failure::Malformed("a list without a resourceVersion".to_owned()));
        };
        self.version = Some(version);
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
            // Whether changes arrive, the watch will tell; where none is to be had, each list
            // would be reported as a return, and each watch as a loss.
            self.reachability.wake();
            return Ok(());
        }
        self.connected().await
    }
}
