//! OpenTelemetry traces of changes, from the watch event to the kernel's answer.
//!
//! They exist only in builds with the feature `otel`; without it, everything here is empty and costs nothing. The root
//! span is the event. The sync that applies the change is in the same trace and has links to the events of other
//! changes in that sync. See `docs/traces.md`.

#[cfg(not(feature = "otel"))]
mod nothing;
#[cfg(feature = "otel")]
mod otel;

#[cfg(not(feature = "otel"))]
pub use nothing::{Arrival, Origin, Span, Traces, note, step, sync};
#[cfg(feature = "otel")]
pub use otel::{Arrival, Origin, Span, Traces, note, step, sync};

/// Variables with the collector's address (OpenTelemetry's "OTLP Exporter Configuration").
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot send traces: {reason}; set OTEL_EXPORTER_OTLP_ENDPOINT to a collector that takes OTLP over \
     HTTP, such as http://127.0.0.1:4318, or to nothing"
)]
pub struct TraceError {
    /// What is wrong.
    pub reason: String,
}

/// The variable that requests traces, if set.
fn asked_for() -> Option<&'static str> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    ENDPOINTS.into_iter().find(|name| set(name))
}
