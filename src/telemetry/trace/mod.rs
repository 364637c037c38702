//! Traces of changes by OpenTelemetry: from the watch event that brought a change to the kernel's answer.
//!
//! Only a build with the feature `otel` has them; without it, everything here is empty and costs nothing.
//! The root of a trace is the event. The sync that carries the change out belongs to it, and has links to
//! the events of other changes that it carries out as well. `docs/traces.md` says how to see them.

#[cfg(not(feature = "otel"))]
mod nothing;
#[cfg(feature = "otel")]
mod otel;

#[cfg(not(feature = "otel"))]
pub use nothing::{Arrival, Origin, Span, Traces, note, step, sync};
#[cfg(feature = "otel")]
pub use otel::{Arrival, Origin, Span, Traces, note, step, sync};

/// Where traces are sent to (OpenTelemetry's "OTLP Exporter Configuration").
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot send traces: {reason}; set OTEL_EXPORTER_OTLP_ENDPOINT to a collector that takes OTLP over \
     HTTP, such as http://127.0.0.1:4318, or to nothing"
)]
pub struct TraceError {
    /// What is wrong.
    pub reason: String,
}

/// The variable that asks for traces, if one does.
fn asked_for() -> Option<&'static str> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    ENDPOINTS.into_iter().find(|name| set(name))
}
