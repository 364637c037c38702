//! What the machine is.

use std::fs;

use super::accounts::kilobytes;
use super::results::Machine;

/// Reads it from `/proc`; what is not there is empty or zero.
pub(super) fn read() -> Machine {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = text("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name))
        .map_or_else(String::new, |name| name.trim().to_owned());
    Machine {
        date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        processor,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory: kilobytes(&text("/proc/meminfo"), "MemTotal:").unwrap_or(0) * 1024,
        kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
