//! Accounting of this process by the kernel.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::{SysconfVar, sysconf};

/// Processor time that the calling thread has used, and all programs that this process ran and that have ended.
/// Zero where the kernel does not tell.
pub fn processor_time() -> Duration {
    [UsageWho::RUSAGE_THREAD, UsageWho::RUSAGE_CHILDREN]
        .into_iter()
        .filter_map(|who| getrusage(who).ok())
        .map(|used| duration(used.user_time()).saturating_add(duration(used.system_time())))
        .sum()
}

fn duration(time: TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// What this process has used and uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_files: u64,
    /// How many it may open.
    pub max_files: u64,
    /// Address space in use, in bytes.
    pub virtual_bytes: u64,
    /// The limit of the address space in bytes; without one, the largest number.
    pub max_virtual_bytes: u64,
    /// Memory in use, in bytes.
    pub resident_bytes: u64,
    /// When it started, in seconds since 1970.
    pub start_time: f64,
    /// Bytes that this network namespace received and sent over IP.
    pub network: Option<(u64, u64)>,
}

/// Reads it from `/proc/self` (proc_pid_stat(5), proc_pid_limits(5)).
///
/// # Errors
/// If `/proc` is not there or does not read as documented.
pub fn usage() -> io::Result<Usage> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let boot = fs::read_to_string("/proc/stat")?;
    let limits = fs::read_to_string("/proc/self/limits")?;
    let open_files = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1);
    let network = fs::read_to_string("/proc/self/net/netstat").ok();
    let numbers = Numbers::read(&stat).ok_or_else(|| unreadable("/proc/self/stat"))?;
    let boot = after(&boot, "btime ").ok_or_else(|| unreadable("/proc/stat"))?;
    let ticks = sysconf(SysconfVar::CLK_TCK)?.filter(|n| *n > 0).unwrap_or(100);
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|n| u64::try_from(n).ok()).unwrap_or(4096);
    let seconds = |count: u64| count as f64 / ticks as f64;
    Ok(Usage {
        cpu_seconds: seconds(numbers.cpu),
        open_files: u64::try_from(open_files).unwrap_or(u64::MAX),
        max_files: after(&limits, "Max open files").unwrap_or(u64::MAX),
        virtual_bytes: numbers.virtual_bytes,
        max_virtual_bytes: after(&limits, "Max address space").unwrap_or(u64::MAX),
        resident_bytes: numbers.resident_pages.saturating_mul(page),
        start_time: boot as f64 + seconds(numbers.started),
        network: network.and_then(|text| octets(&text)),
    })
}

fn unreadable(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} does not read as documented"))
}

/// The number that follows a word in a text; `None` for `unlimited`.
fn after(text: &str, word: &str) -> Option<u64> {
    let rest = &text[text.find(word)? + word.len()..];
    rest.split_whitespace().next()?.parse().ok()
}

/// Numbers of `/proc/self/stat`; times are in clock ticks.
struct Numbers {
    cpu: u64,
    started: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Numbers {
    fn read(stat: &str) -> Option<Numbers> {
        // The program's name comes second and may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index - 3)?.parse::<u64>().ok();
        Some(Numbers {
            cpu: number(14)?.saturating_add(number(15)?),
            started: number(22)?,
            virtual_bytes: number(23)?,
            resident_pages: number(24)?,
        })
    }
}

/// `InOctets` and `OutOctets` of `/proc/net/netstat`: lines come in pairs of names and values.
fn octets(netstat: &str) -> Option<(u64, u64)> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |wanted: &str| {
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        pairs.find(|(name, _)| *name == wanted)?.1.parse().ok()
    };
    Some((value("InOctets")?, value("OutOctets")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_name() {
        let stat = "42 (a) name) S 1 42 42 0 -1 4194560 9 0 0 0 70 30 0 0 20 0 3 0 555 8192 6 1";
        let numbers = Numbers::read(stat).expect("it has all fields");
        assert_eq!((numbers.cpu, numbers.started), (100, 555));
        assert_eq!((numbers.virtual_bytes, numbers.resident_pages), (8192, 6));
    }

    #[test]
    fn an_unlimited_value_is_no_number() {
        let limits = "Max open files            1024   4096   files\nMax address space  unlimited";
        assert_eq!(after(limits, "Max open files"), Some(1024));
        assert_eq!(after(limits, "Max address space"), None);
        let netstat = "TcpExt: A B\nTcpExt: 1 2\nIpExt: InOctets X OutOctets\nIpExt: 7 8 9\n";
        assert_eq!(octets(netstat), Some((7, 9)));
    }

    #[test]
    fn this_process_uses_something() {
        let usage = usage().expect("/proc is mounted");
        assert!(usage.resident_bytes > 0 && usage.virtual_bytes >= usage.resident_bytes);
        assert!(usage.open_files > 0 && usage.open_files <= usage.max_files);
        assert!(usage.start_time > 1.7e9, "{usage:?}");
    }
}
