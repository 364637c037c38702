//! Sends Events to the API server (`events.k8s.io/v1`), one at a time, in a task of its own.

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Method, Request};
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ApiServer;
use super::backoff::Backoff;
use crate::events::{Event, Known, Regarding, Series, Task};
use sluice_telemetry::metrics::{EventOutcome, Metrics};

/// Who reports, as upstream: events are searched by it.
const CONTROLLER: &str = "kube-proxy";

/// A server that does not answer for this long is unreachable.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// An event that could not be sent for this long is no news any more.
const WORTH: Duration = Duration::from_secs(120);

/// How often growing series are checked.
const LOOK: Duration = Duration::from_secs(15);

/// How long the last events may take when the program ends.
pub const FAREWELL: Duration = Duration::from_secs(3);

/// Where events go.
struct Sink {
    client: kube::Client,
    instance: String,
    metrics: Metrics,
    series: Series,
}

/// The outcome of a request.
enum Sent {
    Done,
    /// The server does not want it.
    Refused(String),
    /// It may want it later.
    Unreachable(String),
}

/// Sends what a [`Recorder`](crate::events::Recorder) takes, until every recorder is gone. After
/// `stop`, what waits is tried once. `host` is this host's name.
pub async fn send(
    server: &ApiServer,
    host: &str,
    mut events: mpsc::Receiver<Event>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut sink = Sink {
        client: server.client.clone(),
        instance: format!("{CONTROLLER}-{host}"),
        metrics,
        series: Series::default(),
    };
    let mut look = interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            event = events.recv() => match event {
                Some(event) => sink.take(&event, &stop).await,
                None => return,
            },
            _ = look.tick() => sink.refresh().await,
        }
    }
    let rest = async {
        while let Ok(event) = events.try_recv() {
            sink.take(&event, &stop).await;
        }
    };
    let _ = timeout(FAREWELL, rest).await;
}

impl Sink {
    /// Sends an event, or counts it in a series. While the server is unreachable, it is tried again and those
    /// that come meanwhile wait in the queue.
    async fn take(&mut self, event: &Event, stop: &CancellationToken) {
        let at = Timestamp::now();
        let task = self.series.add(event, at);
        let (give_up, mut backoff) = (Instant::now() + WORTH, Backoff::default());
        loop {
            let sent = match &task {
                Task::Wait => return self.metrics.event(EventOutcome::Merged),
                Task::Create(name) => self.create(event, name, at).await,
                Task::Patch(key, known) => self.patch(key.regarding(), known).await,
            };
            let reason = match sent {
                Sent::Done => {
                    let first = matches!(task, Task::Create(_));
                    let outcome = if first { EventOutcome::Sent } else { EventOutcome::Merged };
                    return self.metrics.event(outcome);
                }
                Sent::Unreachable(reason) if Instant::now() < give_up && !stop.is_cancelled() => {
                    tracing::debug!(reason, "an event waits");
                    tokio::select! {
                        () = sleep(backoff.next()) => {}
                        () = stop.cancelled() => {}
                    }
                    continue;
                }
                Sent::Refused(reason) | Sent::Unreachable(reason) => reason,
            };
            tracing::debug!(reason, event = event.reason, "an event could not be sent");
            let (Task::Create(name) | Task::Patch(_, Known { name, .. })) = &task else { return };
            self.series.forget(name);
            return self.metrics.event(EventOutcome::Failed);
        }
    }

    /// Sends series that have grown. Failed ones are sent with the next repetition.
    async fn refresh(&mut self) {
        for (key, known) in self.series.due(Timestamp::now()) {
            if let Sent::Refused(_) = self.patch(key.regarding(), &known).await {
                self.series.forget(&known.name);
            }
        }
    }

    async fn create(&self, event: &Event, name: &str, at: Timestamp) -> Sent {
        let namespace = namespace(&event.regarding);
        let mut regarding = json!({
            "apiVersion": "v1",
            "kind": event.regarding.kind(),
            "name": event.regarding.name(),
        });
        if let Some(namespace) = event.regarding.namespace() {
            regarding["namespace"] = json!(namespace);
        }
        let mut body = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": micros(at),
            "type": event.severity.as_str(),
            "reason": event.reason,
            "action": event.action,
            "regarding": regarding,
            "reportingController": CONTROLLER,
            "reportingInstance": self.instance,
        });
        if !event.note.is_empty() {
            body["note"] = json!(shortened(&event.note));
        }
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        self.request(Method::POST, &path, "application/json", &body).await
    }

    async fn patch(&self, regarding: &Regarding, known: &Known) -> Sent {
        let (namespace, name) = (namespace(regarding), &known.name);
        let series = json!({"count": known.count, "lastObservedTime": micros(known.last)});
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events/{name}");
        let body = json!({"series": series});
        self.request(Method::PATCH, &path, "application/merge-patch+json", &body).await
    }

    async fn request(&self, method: Method, path: &str, kind: &str, body: &Value) -> Sent {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind);
        let request = match request.body(Body::from(body.to_string().into_bytes())) {
            Ok(request) => request,
            Err(error) => return Sent::Refused(error.to_string()),
        };
        match timeout(ANSWER_WITHIN, self.client.send(request)).await {
            Err(_) => Sent::Unreachable(format!("no answer within {ANSWER_WITHIN:?}")),
            Ok(Err(error)) => Sent::Unreachable(error.to_string()),
            Ok(Ok(answer)) => match answer.status().as_u16() {
                200..=299 => Sent::Done,
                code @ (429 | 500..) => Sent::Unreachable(format!("the server answers {code}")),
                code => Sent::Refused(format!("the server answers {code}")),
            },
        }
    }
}

/// Events of objects without a namespace are in `default`.
fn namespace(regarding: &Regarding) -> &str {
    regarding.namespace().unwrap_or("default")
}

/// The API server accepts up to 1 KiB.
fn shortened(note: &str) -> &str {
    const LONGEST: usize = 1024;
    &note[..note.floor_char_boundary(LONGEST)]
}

/// A time as the API's MicroTime has it.
fn micros(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_six_digits_and_notes_end_between_characters() {
        let at: Timestamp = "2026-11-23T21:49:12.06Z".parse().expect("a time");
        assert_eq!(micros(at), "2026-11-23T21:49:12.060000Z");
        let note = "ä".repeat(600);
        assert_eq!(shortened(&note).len(), 1024);
        assert_eq!(shortened("short"), "short");
    }
}
