//! Requests to the API server (upstream: `component-base/metrics/prometheus/restclient`).

use prometheus::{HistogramVec, IntCounterVec};

use super::families::{Families, Stability};

const SECONDS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// 64 bytes to 16 MiB.
const BYTES: [f64; 11] = [
    64.0,
    256.0,
    512.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

pub(super) struct Client {
    pub(super) requests: IntCounterVec,
    pub(super) duration: HistogramVec,
    pub(super) request_size: HistogramVec,
    pub(super) response_size: HistogramVec,
}

impl Client {
    pub(super) fn new(registry: &prometheus::Registry) -> Client {
        let make = Families { registry, stability: Stability::Alpha };
        let labels = ["verb", "host"];
        Client {
            requests: make.counters(
                "rest_client_requests_total",
                "Number of HTTP requests, partitioned by status code, method, and host.",
                &["code", "method", "host"],
            ),
            duration: make.histograms(
                "rest_client_request_duration_seconds",
                "Request latency in seconds. Broken down by verb, and host.",
                SECONDS.to_vec(),
                &labels,
            ),
            request_size: make.histograms(
                "rest_client_request_size_bytes",
                "Request size in bytes. Broken down by verb and host.",
                BYTES.to_vec(),
                &labels,
            ),
            response_size: make.histograms(
                "rest_client_response_size_bytes",
                "Response size in bytes. Broken down by verb and host.",
                BYTES.to_vec(),
                &labels,
            ),
        }
    }
}
