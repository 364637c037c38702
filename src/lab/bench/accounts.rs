//! What the kernel accounts to a process, and to itself.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// The interval at which the processor time of a process is read.
const LOOK: Duration = Duration::from_millis(10);

/// A process that uses less than this part of the time is at rest.
const AT_REST: f64 = 0.05;

/// A process is at rest after so many readings in a row.
const LOOKS: u32 = 5;

/// Seconds of processor time, user and kernel, that a process and those of its children that have
/// ended have used so far. The process' own time is exact, that of its children comes in steps of
/// 10 ms (`clock_getcpuclockid(3)`, proc_pid_stat(5)).
pub(super) fn processor_seconds(pid: Pid) -> io::Result<f64> {
    let own = clock_gettime(clock_getcpuclockid(pid)?)?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = sysconf(SysconfVar::CLK_TCK)?.filter(|n| *n > 0).unwrap_or(100);
    let children = children_ticks(&stat).ok_or_else(|| unreadable("stat"))?;
    Ok(Duration::from(own).as_secs_f64() + children as f64 / ticks as f64)
}

/// `cutime` and `cstime`, the 16th and 17th field.
fn children_ticks(stat: &str) -> Option<u64> {
    // The program's name comes second and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(13);
    let mut number = || fields.next()?.parse::<u64>().ok();
    Some(number()? + number()?)
}

fn unreadable(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("/proc/PID/{what} does not read as documented"),
    )
}

/// Whether a process has children that run.
fn has_children(pid: Pid) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().any(|thread| {
        let children = fs::read_to_string(thread.path().join("children"));
        children.is_ok_and(|text| !text.trim().is_empty())
    })
}

/// Waits until a process is at rest: it runs no programs and has used hardly any processor time
/// for 50 ms. Gives the processor time that it has used by then.
pub(super) fn wait_for_rest(pid: Pid, until: Instant) -> io::Result<f64> {
    let (mut before, mut at) = (processor_seconds(pid)?, Instant::now());
    let mut looks = 0;
    while looks < LOOKS && Instant::now() < until {
        std::thread::sleep(LOOK);
        let (used, now) = (processor_seconds(pid)?, Instant::now());
        let busy = (used - before) / (now - at).as_secs_f64();
        looks = if busy < AT_REST && !has_children(pid) { looks + 1 } else { 0 };
        (before, at) = (used, now);
    }
    Ok(before)
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// Resident now.
    pub(super) resident: u64,
    /// The most that ever was.
    pub(super) peak: u64,
}

/// Reads it (`VmRSS` and `VmHWM` of proc_pid_status(5)).
pub(super) fn memory(pid: Pid) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name| kilobytes(&text, name).map(|n| n * 1024).ok_or_else(|| unreadable("status"));
    Ok(Memory { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
}

/// Unreclaimable kernel memory in bytes: slabs that are not caches,
/// `vmalloc` and per-processor memory (proc_meminfo(5)).
fn kernel_memory() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let sum =
        |names: [&str; 3]| names.iter().map(|name| kilobytes(&text, name)).sum::<Option<u64>>();
    sum(["SUnreclaim:", "VmallocUsed:", "Percpu:"])
        .map(|n| n * 1024)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo lacks a line"))
}

/// The same once it hardly changes any more, or after half a second: what ended a moment ago is freed
/// in the background.
pub(super) fn settled_kernel_memory() -> io::Result<u64> {
    const SETTLED: u64 = 64 * 1024;
    const PAUSE: Duration = Duration::from_millis(50);
    let mut before = kernel_memory()?;
    for _ in 0..10 {
        std::thread::sleep(PAUSE);
        let now = kernel_memory()?;
        if now.abs_diff(before) < SETTLED {
            return Ok(now);
        }
        before = now;
    }
    Ok(before)
}

/// The number in a line `Name:   123 kB`.
pub(super) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_what_the_kernel_prints() {
        let stat = "42 (a) name) S 1 42 42 0 -1 4194560 9 0 0 0 70 30 11 22 20 0 3 0 555 8192 6 1";
        assert_eq!(children_ticks(stat), Some(33));
        assert_eq!(kilobytes("VmHWM:\t    1234 kB\nVmRSS:\t 99 kB\n", "VmRSS:"), Some(99));
        assert_eq!(kilobytes("VmHWM:\t    1234 kB\n", "VmRSS:"), None);
    }

    #[test]
    fn this_process_uses_processor_time_and_memory() {
        let pid = Pid::this();
        let before = processor_seconds(pid).expect("/proc is mounted");
        let until = Instant::now() + Duration::from_millis(20);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let used = processor_seconds(pid).expect("/proc is mounted") - before;
        assert!(used > 0.001, "{used}");
        let memory = memory(pid).expect("/proc is mounted");
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
        assert!(kernel_memory().expect("/proc is mounted") > 0);
    }
}
