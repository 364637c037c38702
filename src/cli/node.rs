//! Setting the node up: what needs more rights than CAP_NET_ADMIN, or is set once.
//!
//! Upstream: `pkg/proxy/conntrack/sysctls.go` and `cmd/kube-proxy/app/server.go`. There a setting that
//! cannot be made ends the program, unless it has its value already; here a daemon that can serve
//! serves.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::backend::ipvs;
use crate::config::{Config, Conntrack, Mode, NodePortAddresses};
use crate::kernel::ipvs::Ipvs;
use crate::kernel::sysctl::{self, Outcome, Setting, SysctlError, Wanted};

/// The most connections that are asked for on machines with many CPUs.
const MOST_CONNECTIONS: u64 = 1 << 20;

/// Connections for each bucket of the kernel's hash table.
const CONNECTIONS_PER_BUCKET: u64 = 4;

/// Sets everything up that the configuration asks for, and says once what could not be done.
pub(super) fn set_up(config: &Config) {
    let steps = conntrack(&config.conntrack, sysctl::cpus().into());
    let failures = attempt(&steps, Path::new("/"));
    if !failures.is_empty() {
        tracing::warn!(
            "some settings of this node stay as they are: {}; {WAY_OUT}",
            list(&failures)
        );
    }
    oom(config);
}

/// Sets everything up that a daemon with CAP_NET_ADMIN alone could not.
pub(super) fn initialize(config: &Config) -> Result<()> {
    let mut steps = conntrack(&config.conntrack, sysctl::cpus().into());
    steps.extend(localhost(config).map(|setting| vec![setting]));
    if config.mode == Mode::Ipvs {
        // Asking for it makes the kernel load it, and its settings with it.
        Ipvs::open().context("set this node up for mode ipvs")?;
        let settings = ipvs::settings(config.ipvs.strict_arp);
        steps.extend(settings.into_iter().map(|setting| vec![setting]));
    }
    let failures = attempt(&steps, Path::new("/"));
    if !failures.is_empty() {
        bail!("{}; {WAY_OUT}", list(&failures));
    }
    tracing::info!("this node is set up; the daemon can run with CAP_NET_ADMIN alone");
    Ok(())
}

const WAY_OUT: &str = "run `--init-only` with the same configuration in a privileged init container, \
                       set them on the node, or leave them alone with `conntrack.maxPerCore: 0` and \
                       timeouts of 0s";

fn list(failures: &[SysctlError]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn attempt(steps: &[Vec<Setting>], root: &Path) -> Vec<SysctlError> {
    steps.iter().filter_map(|step| ensure(step, root).err()).collect()
}

/// Makes settings that build on each other; the first that stays as it is ends the row.
fn ensure(step: &[Setting], root: &Path) -> Result<(), SysctlError> {
    for setting in step {
        let file = setting.file;
        match setting.ensure(root)? {
            Outcome::Kept => {}
            Outcome::Changed { before, now } => {
                tracing::info!(file, ?before, now, "changed a setting of this node");
            }
            Outcome::Suffices(there) => {
                tracing::info!(
                    file,
                    there,
                    "cannot change a setting of this node; it is high enough"
                );
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A process that the OOM killer takes first is no reason to serve nobody.
fn oom(config: &Config) {
    if let Err(error) = sysctl::set_oom_score_adj(config.oom_score_adj) {
        tracing::info!(
            score = config.oom_score_adj,
            "cannot set this process's oom_score_adj, which takes CAP_SYS_RESOURCE: {error}"
        );
    }
}

/// What the iptables mode sets itself as soon as it needs it, if it may.
fn localhost(config: &Config) -> Option<Setting> {
    let open = config.localhost_node_ports && config.node_port_addresses == NodePortAddresses::All;
    (config.mode == Mode::Iptables && open)
        .then(|| exactly("proc/sys/net/ipv4/conf/all/route_localnet", 1))
}

fn exactly(file: &'static str, value: u64) -> Setting {
    Setting { file, wanted: Wanted::Exactly(value), enough: None }
}

/// What the configuration asks for on a machine with so many CPUs: rows of settings that build on each
/// other.
fn conntrack(conntrack: &Conntrack, cpus: u64) -> Vec<Vec<Setting>> {
    let mut steps = Vec::new();
    if let Some(max) = connections(conntrack, cpus) {
        let limit = Setting {
            file: "proc/sys/net/netfilter/nf_conntrack_max",
            wanted: Wanted::Exactly(max),
            enough: Some(max),
        };
        let buckets = Setting {
            file: "sys/module/nf_conntrack/parameters/hashsize",
            wanted: Wanted::AtLeast(max / CONNECTIONS_PER_BUCKET),
            enough: None,
        };
        steps.push(vec![limit, buckets]);
    }
    let timeouts = [
        ("proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established", conntrack.tcp_established),
        ("proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait", conntrack.tcp_close_wait),
        ("proc/sys/net/netfilter/nf_conntrack_udp_timeout", conntrack.udp),
        ("proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream", conntrack.udp_stream),
    ];
    let seconds = |(file, timeout): (_, Option<std::time::Duration>)| {
        Some(vec![exactly(file, timeout?.as_secs())])
    };
    steps.extend(timeouts.into_iter().filter_map(seconds));
    if conntrack.tcp_be_liberal {
        steps.push(vec![exactly("proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal", 1)]);
    }
    steps
}

/// How many connections to track; the cap beats the minimum only where the CPUs reach it.
fn connections(conntrack: &Conntrack, cpus: u64) -> Option<u64> {
    let scaled = u64::from(conntrack.max_per_core?) * cpus;
    Some(if scaled > MOST_CONNECTIONS {
        MOST_CONNECTIONS
    } else {
        scaled.max(conntrack.min.into())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOTHING: Conntrack = Conntrack {
        max_per_core: None,
        min: 131_072,
        tcp_established: None,
        tcp_close_wait: None,
        tcp_be_liberal: false,
        udp: None,
        udp_stream: None,
    };

    #[test]
    fn connections_are_counted_by_cpu_with_a_minimum_and_a_cap() {
        let table = [
            (None, 131_072, 8, None),
            (Some(32_768), 131_072, 2, Some(131_072)),
            (Some(32_768), 131_072, 8, Some(262_144)),
            (Some(32_768), 131_072, 32, Some(1_048_576)),
            (Some(32_768), 131_072, 256, Some(1_048_576)),
            (Some(1), 0, 3, Some(3)),
            // As upstream: the cap is one of the product, not of the minimum.
            (Some(1), 2_000_000, 2, Some(2_000_000)),
            (Some(1_000_000), 2_000_000, 2, Some(1_048_576)),
        ];
        for (max_per_core, min, cpus, expected) in table {
            let section = Conntrack { max_per_core, min, ..NOTHING };
            assert_eq!(connections(&section, cpus), expected, "{max_per_core:?} {min} {cpus}");
        }
    }

    #[test]
    fn only_what_is_configured_is_set() {
        assert_eq!(conntrack(&NOTHING, 4), [[]; 0]);
        let some = |seconds| Some(Duration::from_secs(seconds));
        let all = Conntrack {
            max_per_core: Some(100_000),
            tcp_established: some(86_400),
            tcp_close_wait: some(3600),
            tcp_be_liberal: true,
            udp: some(30),
            udp_stream: some(120),
            ..NOTHING
        };
        let steps = conntrack(&all, 4);
        let last_word = |setting: &Setting| {
            let name = setting.file.rsplit('/').next().unwrap_or_default();
            (name.to_owned(), setting.wanted)
        };
        let named: Vec<Vec<_>> =
            steps.iter().map(|step| step.iter().map(last_word).collect()).collect();
        let one = |name: &str, value| vec![(name.to_owned(), Wanted::Exactly(value))];
        let mut limits = one("nf_conntrack_max", 400_000);
        limits.push(("hashsize".to_owned(), Wanted::AtLeast(100_000)));
        let expected = [
            limits,
            one("nf_conntrack_tcp_timeout_established", 86_400),
            one("nf_conntrack_tcp_timeout_close_wait", 3600),
            one("nf_conntrack_udp_timeout", 30),
            one("nf_conntrack_udp_timeout_stream", 120),
            one("nf_conntrack_tcp_be_liberal", 1),
        ];
        assert_eq!(named, expected);
    }

    #[test]
    fn settings_that_build_on_one_that_stays_are_left_alone() {
        let root = tempfile::TempDir::new().expect("a folder");
        let second = root.path().join("second");
        std::fs::write(&second, "5").expect("a file");
        let step = [exactly("first", 1), exactly("second", 6)];
        let failures = attempt(&[step.to_vec()], root.path());
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(std::fs::read_to_string(&second).expect("a file"), "5");
        std::fs::write(root.path().join("first"), "0").expect("a file");
        assert!(attempt(&[step.to_vec()], root.path()).is_empty());
        assert_eq!(std::fs::read_to_string(&second).expect("a file"), "6");
    }
}
