//! Fault injection: switches that make the server fail as real ones do.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::resources::{Resource, Verb};

/// Availability of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outage {
    /// It answers.
    #[default]
    None,
    /// It answers every request with 503. Watches continue.
    Unavailable,
    /// It resets every connection, old and new ones.
    Disconnected,
}

/// How the server treats a watch with `sendInitialEvents`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamingLists {
    /// Served, as by Kubernetes 1.32 and later.
    #[default]
    Served,
    /// Refused with 422, as by a server whose feature gate WatchList is off.
    Forbidden,
    /// Refused with 400.
    BadRequest,
    /// Ignored, as by a server that does not know the parameter: a plain watch begins.
    Ignored,
    /// Begun with 200 and ended by an ERROR event of code 500, as over an etcd older than 3.4.25.
    Failed,
    /// Begun with 200 and the objects; then the connection breaks.
    Cut,
}

/// What the server does where a client asks for protobuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProtobufSupport {
    /// It answers in protobuf.
    #[default]
    Served,
    /// It answers in JSON if that is asked for as well, as a server of custom resources does.
    Lacking,
    /// It answers 406, whatever else is asked for.
    NotAcceptable,
    /// It answers 415, whatever else is asked for.
    Unsupported,
}

/// How a watch from a version that is too old is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GoneForm {
    /// 200, and the stream's first line is an ERROR event, as the watch cache does it.
    #[default]
    Event,
    /// HTTP status 410.
    Status,
}

/// How a watch is terminated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchEnd {
    /// The response ends properly, as at its timeout.
    Clean,
    /// The connection breaks in the middle of the response.
    Broken,
}

/// The switches. All are off initially; each call takes effect at once.
#[derive(Debug)]
pub struct Faults {
    switches: Mutex<Switches>,
    kills: watch::Sender<Kill>,
    outage: watch::Sender<Outage>,
}

#[derive(Debug, Default)]
struct Switches {
    streaming_lists: StreamingLists,
    protobuf: ProtobufSupport,
    gone_form: GoneForm,
    gone_watches: u32,
    delay: Duration,
    failures: Vec<Failure>,
}

/// Requests that are to fail.
#[derive(Debug)]
struct Failure {
    verb: Verb,
    resource: Resource,
    code: FailureCode,
    left: u32,
}

/// The answer to a failing request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCode {
    /// 403.
    Forbidden,
    /// 429.
    TooManyRequests,
    /// 500.
    Internal,
    /// 503.
    Unavailable,
}

/// The watches to terminate: those that began before the order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kill {
    /// Counts the orders.
    pub(super) order: u64,
    /// Their resource; `None` for all.
    pub(super) resource: Option<Resource>,
    /// How they end; `None` before the first order.
    pub(super) end: Option<WatchEnd>,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            switches: Mutex::default(),
            kills: watch::Sender::new(Kill::default()),
            outage: watch::Sender::new(Outage::None),
        }
    }
}

impl Faults {
    fn switches(&self) -> MutexGuard<'_, Switches> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins or ends an outage.
    pub fn set_outage(&self, outage: Outage) {
        self.outage.send_replace(outage);
    }

    /// Sets how streamed lists are served.
    pub fn set_streaming_lists(&self, treatment: StreamingLists) {
        self.switches().streaming_lists = treatment;
    }

    /// Says what becomes of those who ask for protobuf from now on.
    pub fn set_protobuf(&self, support: ProtobufSupport) {
        self.switches().protobuf = support;
    }

    /// Sets how 410 is sent.
    pub fn set_gone_form(&self, form: GoneForm) {
        self.switches().gone_form = form;
    }

    /// Answers the next `count` watches that name a version with 410, however new it is.
    pub fn refuse_next_watches_as_gone(&self, count: u32) {
        self.switches().gone_watches = count;
    }

    /// Delays every response, and every event of a watch, by this much from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.switches().delay = delay;
    }

    /// Makes the next `count` such requests fail.
    pub fn fail_next(&self, verb: Verb, resource: Resource, code: FailureCode, count: u32) {
        self.switches().failures.push(Failure { verb, resource, code, left: count });
    }

    /// Ends the open watches of one resource, or of all with `None`.
    pub fn end_watches(&self, resource: Option<Resource>, end: WatchEnd) {
        self.kills.send_modify(|kill| {
            *kill = Kill { order: kill.order + 1, resource, end: Some(end) };
        });
    }

    pub(super) fn outage(&self) -> watch::Receiver<Outage> {
        self.outage.subscribe()
    }

    pub(super) fn kills(&self) -> watch::Receiver<Kill> {
        self.kills.subscribe()
    }

    pub(super) fn streaming_lists(&self) -> StreamingLists {
        self.switches().streaming_lists
    }

    pub(super) fn protobuf(&self) -> ProtobufSupport {
        self.switches().protobuf
    }

    pub(super) fn gone_form(&self) -> GoneForm {
        self.switches().gone_form
    }

    pub(super) fn delay(&self) -> Duration {
        self.switches().delay
    }

    /// Whether to refuse this watch with 410.
    pub(super) fn take_gone_watch(&self) -> bool {
        let mut switches = self.switches();
        let taken = switches.gone_watches > 0;
        switches.gone_watches = switches.gone_watches.saturating_sub(1);
        taken
    }

    /// How to fail this request, if at all.
    pub(super) fn take_failure(&self, verb: Verb, resource: Resource) -> Option<FailureCode> {
        let mut switches = self.switches();
        let failures = &mut switches.failures;
        let index = failures.iter().position(|f| f.verb == verb && f.resource == resource)?;
        let code = failures[index].code;
        failures[index].left = failures[index].left.saturating_sub(1);
        if failures[index].left == 0 {
            failures.remove(index);
        }
        Some(code)
    }
}
