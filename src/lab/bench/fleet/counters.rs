//! What nodes and server have counted so far, and the differences by second.

use std::fs;
use std::time::{Duration, Instant};

use super::results::Second;
use sluice_telemetry::metrics::Metrics;

/// The length of what is counted apart.
const SECOND: Duration = Duration::from_secs(1);

/// The lab's API server is these threads of this process.
const SERVER_THREADS: &str = "lab-api";

/// Whether the server's processor time can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    /// It is the lab's.
    Here,
    /// It is a given one.
    Elsewhere,
}

/// Sums since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sums {
    answered: u64,
    unanswered: u64,
    bytes: u64,
    server_seconds: Option<f64>,
}

/// Counts by second, without a gap from one phase to the next.
pub(super) struct Counters {
    metrics: Metrics,
    server: Server,
    before: Sums,
    /// The end of the second that is under way.
    next: Instant,
}

impl Counters {
    /// Begins to count.
    pub(super) fn new(metrics: Metrics, server: Server) -> Counters {
        let before = Sums::read(&metrics, server);
        Counters { metrics, server, before, next: Instant::now() + SECOND }
    }

    /// Waits for the end of the second, and gives what it had.
    pub(super) fn second(&mut self) -> Second {
        std::thread::sleep(self.next.saturating_duration_since(Instant::now()));
        self.next += SECOND;
        let now = Sums::read(&self.metrics, self.server);
        let before = std::mem::replace(&mut self.before, now);
        let server = now.server_seconds.zip(before.server_seconds);
        Second {
            answered: now.answered - before.answered,
            unanswered: now.unanswered - before.unanswered,
            bytes: now.bytes - before.bytes,
            // A thread that has ended takes its time with it.
            server_seconds: server.map(|(now, before)| (now - before).max(0.0)),
        }
    }
}

impl Sums {
    fn read(metrics: &Metrics, server: Server) -> Sums {
        let server_seconds = (server == Server::Here).then(server_seconds);
        Sums { server_seconds, ..Sums::of(&metrics.text()) }
    }

    /// What the daemon's own metrics say.
    fn of(metrics: &str) -> Sums {
        let mut sums = Sums::default();
        for line in metrics.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            let Some(value) = value.parse::<f64>().ok().map(whole) else { continue };
            if name.starts_with("rest_client_requests_total{") {
                let answered = !name.contains("code=\"<error>\"");
                *(if answered { &mut sums.answered } else { &mut sums.unanswered }) += value;
            } else if name == "sluice_api_received_bytes_total" {
                sums.bytes = value;
            }
        }
        sums
    }
}

/// A counter's value: metrics are written as floating-point numbers.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // no counter is that large, or negative
fn whole(value: f64) -> u64 {
    value as u64
}

/// Processor time of the lab's API server, from `/proc/self/task` (proc_pid_schedstat: nanoseconds).
fn server_seconds() -> f64 {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return 0.0 };
    let of = |thread: fs::DirEntry| -> Option<f64> {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        if !name.starts_with(SERVER_THREADS) {
            return None;
        }
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let nanoseconds: u64 = text.split_whitespace().next()?.parse().ok()?;
        Some(Duration::from_nanos(nanoseconds).as_secs_f64())
    };
    threads.flatten().filter_map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_bytes_are_read_from_the_daemons_metrics() {
        let text = "# TYPE rest_client_requests_total counter\n\
                    rest_client_requests_total{code=\"200\",host=\"h\",method=\"GET\"} 7\n\
                    rest_client_requests_total{code=\"410\",host=\"h\",method=\"GET\"} 2\n\
                    rest_client_requests_total{code=\"<error>\",host=\"h\",method=\"GET\"} 5\n\
                    sluice_api_received_bytes_total 1.5e+06\n";
        let sums = Sums { answered: 9, unanswered: 5, bytes: 1_500_000, server_seconds: None };
        assert_eq!(Sums::of(text), sums);
        // The names are those that the daemon's metrics have.
        let metrics = Metrics::new(sluice_config::Mode::Nftables);
        metrics.received(12);
        assert_eq!(Sums::of(&metrics.text()).bytes, 12);
    }
}
