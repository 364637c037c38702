//! Without the feature `otel`: empty types and functions that do nothing.

use std::fmt::Display;

use super::{TraceError, asked_for};

/// A time of arrival.
#[derive(Debug, Clone, Copy)]
pub struct Arrival;

impl Arrival {
    /// Now.
    #[inline]
    pub fn now() -> Arrival {
        Arrival
    }

    /// Starts the trace of a change from a watch.
    #[inline]
    pub fn watch_event(self, _resource: &dyn Display) -> Option<Origin> {
        None
    }
}

/// The root span of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(());

impl Origin {
    /// Starts a child span.
    #[inline]
    pub fn step(&self, _name: &'static str) -> Span {
        Span(())
    }
}

/// A span, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Span(());

/// The sync that applies these changes.
#[inline]
pub fn sync(_origins: &[Origin]) -> Span {
    Span(())
}

/// A child of this thread's current span.
#[inline]
pub fn step(_name: &'static str) -> Span {
    Span(())
}

/// Sets an attribute of this thread's current span.
#[inline]
pub fn note(_key: &'static str, _value: impl FnOnce() -> String) {}

/// The connection to the collector.
#[derive(Debug)]
pub struct Traces(());

impl Traces {
    /// Logs that traces are requested but not available.
    ///
    /// # Errors
    /// Never.
    pub fn start() -> Result<Traces, TraceError> {
        if let Some(name) = asked_for() {
            tracing::warn!("{name} has no effect: this program was built without the feature otel");
        }
        Ok(Traces(()))
    }

    /// Sends the remaining spans.
    pub fn end(self) {}
}
