//! What there is without the feature `otel`: types without content and functions that do nothing.

use std::fmt::Display;

use super::{TraceError, asked_for};

/// When something arrived.
#[derive(Debug, Clone, Copy)]
pub struct Arrival;

impl Arrival {
    /// Now.
    #[inline]
    pub fn now() -> Arrival {
        Arrival
    }

    /// Begins the trace of a change that a watch brought.
    #[inline]
    pub fn watch_event(self, _resource: &dyn Display) -> Option<Origin> {
        None
    }
}

/// Where a trace began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(());

impl Origin {
    /// A part of what follows.
    #[inline]
    pub fn step(&self, _name: &'static str) -> Span {
        Span(())
    }
}

/// A part of a trace, until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Span(());

/// The sync that carries out what began there.
#[inline]
pub fn sync(_origins: &[Origin]) -> Span {
    Span(())
}

/// A part of what is under way on this thread.
#[inline]
pub fn step(_name: &'static str) -> Span {
    Span(())
}

/// Says something about what is under way on this thread.
#[inline]
pub fn note(_key: &'static str, _value: impl FnOnce() -> String) {}

/// The connection to the collector.
#[derive(Debug)]
pub struct Traces(());

impl Traces {
    /// Says that there will be no traces, where some are asked for.
    ///
    /// # Errors
    /// Never.
    pub fn start() -> Result<Traces, TraceError> {
        if let Some(name) = asked_for() {
            tracing::warn!("{name} has no effect: this program was built without the feature otel");
        }
        Ok(Traces(()))
    }

    /// Sends what is left.
    pub fn end(self) {}
}
