//! What a running daemon shows of its own costs.

#![allow(dead_code)] // each program uses its own part

use std::time::Duration;

use sluice_cluster::Proxy;

/// The longest sync after the first one, and how many there were.
pub(crate) fn syncs(proxy: &Proxy) -> (Duration, usize) {
    let lines = proxy.lines_with(" synced family=IPv4");
    let elapsed = |line: &String| {
        let text = line.rsplit_once("elapsed=").unwrap().1;
        let text = text.split_whitespace().next().unwrap();
        let (number, unit) =
            text.split_at(text.find(|c: char| c.is_alphabetic() || c == 'µ').unwrap());
        let scale = [("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
        let scale = scale.iter().find(|(name, _)| *name == unit).unwrap().1;
        Duration::from_secs_f64(number.parse::<f64>().unwrap() * scale)
    };
    (lines.iter().map(elapsed).max().unwrap_or_default(), lines.len())
}

/// Processor time that the daemon has used, in seconds (`se.sum_exec_runtime` of its threads).
pub(crate) fn processor_seconds(proxy: &Proxy) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum()).as_secs_f64()
}

/// The most memory that the daemon has had.
pub(crate) fn memory(proxy: &Proxy) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
