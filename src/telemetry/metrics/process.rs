//! Metrics of the process, read at each scrape (upstream: `prometheus/client_golang`, process_collector_linux.go).

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts};

use sluice_kernel::process;

/// The process's families.
pub(super) struct Process {
    described: Vec<Desc>,
}

const COUNTERS: [(&str, &str); 3] = [
    ("process_cpu_seconds_total", "Total user and system CPU time spent in seconds."),
    (
        "process_network_receive_bytes_total",
        "Number of bytes received by the process over the network.",
    ),
    (
        "process_network_transmit_bytes_total",
        "Number of bytes sent by the process over the network.",
    ),
];

const GAUGES: [(&str, &str); 6] = [
    ("process_max_fds", "Maximum number of open file descriptors."),
    ("process_open_fds", "Number of open file descriptors."),
    ("process_resident_memory_bytes", "Resident memory size in bytes."),
    ("process_start_time_seconds", "Start time of the process since unix epoch in seconds."),
    ("process_virtual_memory_bytes", "Virtual memory size in bytes."),
    ("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes."),
];

/// Which of them is the start time.
const START_TIME: usize = 3;

impl Process {
    pub(super) fn new() -> Process {
        let all = COUNTERS.into_iter().chain(GAUGES);
        let describe = |(name, help): (&str, &str)| {
            Desc::new(name.to_owned(), help.to_owned(), Vec::new(), Default::default())
        };
        Process { described: all.filter_map(|family| describe(family).ok()).collect() }
    }
}

/// When the process started, alone.
pub(super) fn start_time() -> Vec<MetricFamily> {
    let Ok(usage) = process::usage() else { return Vec::new() };
    gauge(GAUGES[START_TIME], usage.start_time)
}

fn gauge((name, help): (&str, &str), value: f64) -> Vec<MetricFamily> {
    let Ok(gauge) = Gauge::with_opts(Opts::new(name, help)) else { return Vec::new() };
    gauge.set(value);
    gauge.collect()
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.described.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Without /proc there are no values.
        let Ok(usage) = process::usage() else { return Vec::new() };
        let network = usage.network.map(|(received, sent)| (received as f64, sent as f64));
        let counters = [Some(usage.cpu_seconds), network.map(|n| n.0), network.map(|n| n.1)];
        let gauges = [
            usage.max_files as f64,
            usage.open_files as f64,
            usage.resident_bytes as f64,
            usage.start_time,
            usage.virtual_bytes as f64,
            usage.max_virtual_bytes as f64,
        ];
        let counters = COUNTERS.into_iter().zip(counters).filter_map(|((name, help), value)| {
            let counter = Counter::with_opts(Opts::new(name, help)).ok()?;
            counter.inc_by(value?);
            Some(counter.collect())
        });
        let gauges = GAUGES.into_iter().zip(gauges).map(|(family, value)| gauge(family, value));
        counters.chain(gauges).flatten().collect()
    }
}
