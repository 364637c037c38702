//! Metrics and traces.
//!
//! - [`metrics`]: counters, gauges and histograms, and their Prometheus text
//! - [`trace`]: a change from the watch event to the kernel, with the feature `otel`

#![forbid(unsafe_code)]

pub mod metrics;
pub mod trace;
