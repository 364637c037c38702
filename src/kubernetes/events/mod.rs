//! Kubernetes Events about a Node or a Service (`kubectl get events`).
//!
//! A [`Recorder`] queues Events and never blocks; `watch` sends them to the API server. Repetitions become a series
//! ([`Series`], pure) as in client-go's `tools/events/event_broadcaster.go`.

mod series;

use tokio::sync::mpsc;

use sluice_core::model::ServiceName;
use sluice_telemetry::metrics::{EventOutcome, Metrics};

pub use self::series::{Key, Known, Series, Task};

/// The length of the queue; further Events are dropped and counted.
const WAITING: usize = 64;

/// The type of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Informational.
    Normal,
    /// A problem.
    Warning,
}

impl Severity {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        }
    }
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Regarding {
    /// This node's Node.
    Node(String),
    /// A Service.
    Service(ServiceName),
}

impl Regarding {
    /// `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Regarding::Node(_) => "Node",
            Regarding::Service(_) => "Service",
        }
    }

    /// `name`.
    pub fn name(&self) -> &str {
        match self {
            Regarding::Node(name) => name,
            Regarding::Service(service) => service.name(),
        }
    }

    /// The namespace of the object, if it has one.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Regarding::Node(_) => None,
            Regarding::Service(service) => Some(service.namespace()),
        }
    }
}

/// An Event to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type.
    pub severity: Severity,
    /// The reason: one word in CamelCase.
    pub reason: &'static str,
    /// What this proxy was doing.
    pub action: &'static str,
    /// The object.
    pub regarding: Regarding,
    /// The message.
    pub note: String,
}

/// Queues Events and never blocks. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Event>,
    metrics: Metrics,
}

impl Recorder {
    /// A recorder, and the receiving end of its queue.
    pub fn new(metrics: &Metrics) -> (Recorder, mpsc::Receiver<Event>) {
        let (queue, events) = mpsc::channel(WAITING);
        (Recorder { queue, metrics: metrics.clone() }, events)
    }

    /// Queues an Event.
    pub fn record(&self, event: Event) {
        if let Err(error) = self.queue.try_send(event) {
            tracing::debug!(%error, "an event is dropped");
            self.metrics.event(EventOutcome::Dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_config::Mode;

    #[test]
    fn a_recorder_drops_what_does_not_fit_and_never_waits() {
        let metrics = Metrics::new(Mode::Nftables);
        let (recorder, mut events) = Recorder::new(&metrics);
        let event = |note: usize| Event {
            severity: Severity::Normal,
            reason: "Tested",
            action: "Test",
            regarding: Regarding::Node("n1".to_owned()),
            note: note.to_string(),
        };
        (0..WAITING + 3).for_each(|note| recorder.record(event(note)));
        assert!(metrics.text().contains("sluice_events_total{outcome=\"dropped\"} 3\n"));
        assert_eq!(events.try_recv(), Ok(event(0)), "the first ones are kept");
    }
}
