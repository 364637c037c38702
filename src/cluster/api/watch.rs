//! Watches: a stream of events, one JSON object a line, or one protobuf frame.
//!
//! A watcher has a position in the store's history and no queue. It reads from there whenever the
//! client reads more, so that a slow client delays no other; one that falls behind the history gets
//! an ERROR event with 410, and its stream ends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::faults::{GoneForm, Kill, StreamingLists, WatchEnd};
use super::list::shown_json;
use super::protobuf;
use super::query::{Form, WatchOptions, WatchStart};
use super::resources::Resource;
use super::selector::Selector;
use super::status::{ApiError, Cause};
use super::store::{Change, Event, Object};
use super::table::{self, Header};

/// The size at which a piece of the stream is handed to the connection; events are never split.
const PIECE: usize = 64 * 1024;
/// How many events are read from the history at a time.
const BATCH: usize = 512;
/// How long a watch without a timeout lasts; a real server chooses 30 to 60 minutes.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);

/// One client's view of one resource.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    resource: Resource,
    selector: Selector,
    form: Form,
    bookmarks: bool,
    header: Header,
    /// The objects that the stream begins with, the last one first.
    initial: Vec<Arc<Object>>,
    /// Whether a bookmark must tell that the initial objects are through.
    announce_end: bool,
    /// Everything up to this version has been looked at; nothing if that version is gone.
    position: Option<u64>,
    deadline: Instant,
    next_bookmark: Instant,
    changes: watch::Receiver<u64>,
    kills: watch::Receiver<Kill>,
    stop: CancellationToken,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// The last line, an ERROR event, is to be written.
    Failing,
    /// The last line has been written.
    Over,
    /// The connection is to break.
    Broken,
}

/// What a watcher without events woke up for.
enum Wake {
    Change,
    Bookmark,
    Timeout,
    Kill,
    Stop,
}

impl Watcher {
    /// Begins a watch, unless its parameters or the state of the server forbid it.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        resource: Resource,
        selector: Selector,
        form: Form,
        options: &WatchOptions,
        stop: CancellationToken,
    ) -> Result<Watcher, ApiError> {
        let start = effective_start(shared, options)?;
        let changes = shared.store.changes();
        let now = Instant::now();
        shared.requests.watch_opened(resource); // Its counterpart is in `drop`.
        let mut watcher = Watcher {
            resource,
            selector,
            form,
            bookmarks: options.bookmarks,
            header: Header::Shown,
            initial: Vec::new(),
            announce_end: matches!(start, WatchStart::StreamingList(_)),
            position: None,
            deadline: now + options.timeout.unwrap_or(DEFAULT_TIMEOUT),
            next_bookmark: now + shared.options.bookmark_interval,
            changes,
            kills: shared.faults.kills(),
            stop,
            phase: Phase::Running,
            shared: Arc::clone(shared),
        };
        watcher.set_start(start)?;
        Ok(watcher)
    }

    fn set_start(&mut self, start: WatchStart) -> Result<(), ApiError> {
        let faults = &self.shared.faults;
        let state = self.shared.store.read();
        let current = state.version();
        match start {
            WatchStart::StreamingList(asked) if asked > current => {
                return Err(ApiError::VersionTooLarge { asked, current });
            }
            WatchStart::Objects | WatchStart::StreamingList(_) => {
                let objects = state.objects(self.resource).values().rev();
                if self.announce_end && faults.streaming_lists() == StreamingLists::Failed {
                    self.phase = Phase::Failing;
                }
                let selector = &self.selector;
                self.initial = objects.filter(|o| selector.matches(o)).map(Arc::clone).collect();
                self.position = Some(current);
            }
            WatchStart::After(version) => {
                self.position = Some(version);
                let gone = if faults.take_gone_watch() {
                    let message = format!("too old resource version: {version} ({current})");
                    Err(ApiError::Expired(message))
                } else {
                    state.events_after(self.resource, version, 0).map(drop)
                };
                match (gone, faults.gone_form()) {
                    (Err(error), GoneForm::Status) => return Err(error),
                    // The first read from the stream will tell.
                    (Err(_), GoneForm::Event) => self.position = None,
                    (Ok(()), _) => {}
                }
            }
        }
        Ok(())
    }

    /// The stream of the response's body.
    pub(super) fn into_stream(self) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send {
        futures::stream::unfold(self, |mut watcher| async move {
            let piece = watcher.next_piece().await?;
            let delay = watcher.shared.faults.delay();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            Some((piece.map(Frame::data), watcher))
        })
    }

    fn error(&self, error: &ApiError) -> Bytes {
        let status = error.to_status();
        match self.form {
            Form::Protobuf => protobuf::frame("ERROR", &protobuf::status(&status)).into(),
            _ => format!("{}\n", json!({"type": "ERROR", "object": status})).into(),
        }
    }

    /// Waits for the next whole events; nothing after the end.
    async fn next_piece(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            match self.phase {
                Phase::Running => {}
                Phase::Failing => {
                    self.phase = Phase::Over;
                    let message = "RequestWatchProgress is disabled";
                    return Some(Ok(self.error(&ApiError::Internal(message.to_owned()))));
                }
                Phase::Over => return None,
                Phase::Broken => {
                    self.phase = Phase::Over;
                    // What was sent so far goes out while there is nothing more for a moment.
                    tokio::task::yield_now().await;
                    let error = io::Error::other("the watch was ended by a fault switch");
                    return Some(Err(error));
                }
            }
            let mut text = Vec::new();
            self.write_initial(&mut text);
            if text.is_empty() {
                self.write_events(&mut text);
            }
            if !text.is_empty() {
                return Some(Ok(text.into()));
            }
            if self.phase == Phase::Broken {
                continue;
            }
            match self.wait().await {
                Wake::Change => {}
                Wake::Bookmark => {
                    self.next_bookmark = Instant::now() + self.shared.options.bookmark_interval;
                    return Some(Ok(self.bookmark(None)));
                }
                Wake::Timeout | Wake::Stop => {
                    self.phase = Phase::Over;
                    return self.bookmarks.then(|| Ok(self.bookmark(None)));
                }
                Wake::Kill => self.end_if_meant(),
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Wake::Stop,
            _ = self.kills.changed() => Wake::Kill,
            _ = self.changes.changed() => Wake::Change,
            () = tokio::time::sleep_until(self.deadline) => Wake::Timeout,
            () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => Wake::Bookmark,
        }
    }

    fn end_if_meant(&mut self) {
        let kill = *self.kills.borrow_and_update();
        if kill.resource.is_none_or(|r| r == self.resource) {
            self.phase = match kill.end {
                Some(WatchEnd::Clean) => Phase::Over,
                Some(WatchEnd::Broken) => Phase::Broken,
                None => self.phase,
            };
        }
    }

    fn write_initial(&mut self, text: &mut Vec<u8>) {
        while text.len() < PIECE
            && let Some(object) = self.initial.pop()
        {
            self.write_line(text, "ADDED", &object);
        }
        if self.initial.is_empty() && self.announce_end {
            self.announce_end = false;
            if self.shared.faults.streaming_lists() == StreamingLists::Cut {
                self.phase = Phase::Broken;
            } else if self.bookmarks {
                text.extend_from_slice(&self.bookmark(Some("k8s.io/initial-events-end")));
            }
        }
    }

    /// Writes what has happened since the position.
    fn write_events(&mut self, text: &mut Vec<u8>) {
        while text.is_empty() {
            let state = self.shared.store.read();
            let newest = state.version();
            let read = match self.position {
                None => Err(ApiError::Expired(format!("too old resource version ({newest})"))),
                Some(position) => state.events_after(self.resource, position, BATCH),
            };
            drop(state);
            match read {
                Ok(events) if events.is_empty() => {
                    self.position = self.position.max(Some(newest));
                    return;
                }
                Ok(events) => {
                    for event in events {
                        self.position = Some(event.version);
                        self.write_event(text, &event);
                    }
                }
                Err(error) => {
                    text.extend_from_slice(&self.error(&error));
                    self.phase = Phase::Over;
                }
            }
        }
    }

    /// Writes an event as this watcher's selector sees it: an object that is not selected any more
    /// has gone, and one that is selected from now on is new.
    fn write_event(&mut self, text: &mut Vec<u8>, event: &Event) {
        let before = event.previous.as_ref().filter(|o| self.selector.matches(o));
        let now = event.change != Change::Deleted && self.selector.matches(&event.object);
        match (before, now) {
            (None, true) => self.write_line(text, "ADDED", &event.object),
            (Some(_), true) => self.write_line(text, "MODIFIED", &event.object),
            (Some(_), false) if event.change == Change::Deleted => {
                self.write_line(text, "DELETED", &event.object);
            }
            // The client knows the object as it was when it was selected.
            (Some(before), false) => {
                self.write_line(text, "DELETED", &before.renumbered(event.version));
            }
            (None, false) => {}
        }
    }

    fn write_line(&mut self, text: &mut Vec<u8>, kind: &str, object: &Object) {
        if self.form == Form::Protobuf {
            text.extend_from_slice(&self.frame(kind, object.message()));
            return;
        }
        text.extend_from_slice(format!(r#"{{"type":"{kind}","object":"#).as_bytes());
        match self.form {
            Form::Plain | Form::Protobuf => {
                text.extend_from_slice(&shown_json(self.resource, object));
            }
            Form::Metadata => {
                let metadata = table::metadata_of(&object.value());
                text.extend_from_slice(metadata.to_string().as_bytes());
            }
            Form::Table(row) => {
                let value = object.value();
                let metadata = json!({"resourceVersion": object.version.to_string()});
                let rows = std::iter::once(value);
                let table = table::table(self.resource, &metadata, rows, row, self.header);
                self.header = Header::Hidden;
                text.extend_from_slice(table.to_string().as_bytes());
            }
        }
        text.extend_from_slice(b"}\n");
    }

    /// An event in protobuf about an object of this resource.
    fn frame(&self, kind: &str, message: &[u8]) -> Vec<u8> {
        let (version, object) = (self.resource.api_version(), self.resource.info().kind);
        protobuf::frame(kind, &protobuf::envelope(&version, object, message))
    }

    fn bookmark(&self, annotation: Option<&str>) -> Bytes {
        let mut metadata = json!({
            "resourceVersion": self.position.unwrap_or_default().to_string(),
            "creationTimestamp": null,
        });
        if let Some(name) = annotation {
            metadata["annotations"] = json!({name: "true"});
        }
        let object = match self.form {
            Form::Protobuf => {
                let message = protobuf::message(self.resource, &json!({ "metadata": metadata }));
                return self.frame("BOOKMARK", &message).into();
            }
            Form::Table(_) => {
                let none = std::iter::empty::<Value>();
                let row = super::query::RowObject::None;
                table::table(self.resource, &metadata, none, row, Header::Hidden)
            }
            Form::Plain => json!({
                "kind": self.resource.info().kind,
                "apiVersion": self.resource.api_version(),
                "metadata": metadata,
            }),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
            }),
        };
        format!("{}\n", json!({"type": "BOOKMARK", "object": object})).into()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.requests.watch_closed(self.resource);
    }
}

/// With what the watch begins on a server whose switches are set as they are.
fn effective_start(shared: &Shared, options: &WatchOptions) -> Result<WatchStart, ApiError> {
    let WatchStart::StreamingList(asked) = options.start else { return Ok(options.start) };
    let field = "sendInitialEvents";
    let why =
        "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
    match shared.faults.streaming_lists() {
        StreamingLists::Served | StreamingLists::Failed | StreamingLists::Cut => Ok(options.start),
        StreamingLists::Forbidden => {
            Err(ApiError::InvalidOptions { causes: vec![Cause::forbidden(field, why)] })
        }
        StreamingLists::BadRequest => {
            Err(ApiError::BadRequest(format!("unknown parameter {field:?}")))
        }
        StreamingLists::Ignored if asked == 0 => Ok(WatchStart::Objects),
        StreamingLists::Ignored => Ok(WatchStart::After(asked)),
    }
}
