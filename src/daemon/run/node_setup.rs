//! Node set-up: settings that need more than CAP_NET_ADMIN, or are applied once.
//!
//! Upstream: `pkg/proxy/conntrack/sysctls.go` and `cmd/kube-proxy/app/server.go`. There a setting that fails
//! ends the program, unless it has its value already; here the daemon continues.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::sync::InForce;
use sluice_config::{Config, Conntrack, Mode};
use sluice_core::net::Family;
use sluice_dataplane::ipvs;
use sluice_kernel::ipvs::Ipvs;
use sluice_kernel::sysctl::{self, Outcome, Setting, SysctlError, Wanted};

/// The cap of tracked connections on machines with many CPUs.
const MOST_CONNECTIONS: u64 = 1 << 20;

/// Connections for each bucket of the kernel's hash table.
const CONNECTIONS_PER_BUCKET: u64 = 4;

/// How often the daemon checks whether missing kernel settings have appeared. This takes a few system calls,
/// and only while some are missing.
const LOOK: Duration = Duration::from_secs(2);

/// Settings that build on each other.
type Step = Vec<Setting>;

/// The settings of this node, and which of them wait for the kernel to have them: those of connection
/// tracking come with its module, which is mostly loaded by the first rule that needs it.
#[derive(Debug, Clone)]
pub(super) struct NodeSettings {
    /// `/`, or elsewhere in tests.
    root: Arc<Path>,
    absent: Arc<watch::Sender<Vec<Step>>>,
    /// Held while settings are made: those of a configuration that was replaced meanwhile must not come last.
    turn: Arc<Mutex<()>>,
}

impl NodeSettings {
    /// Those of this machine.
    pub(super) fn new() -> NodeSettings {
        NodeSettings::below(Path::new("/"))
    }

    fn below(root: &Path) -> NodeSettings {
        let absent = Arc::new(watch::Sender::new(Vec::new()));
        NodeSettings { root: root.into(), absent, turn: Arc::default() }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies all configured settings, and logs once what failed. Blocks.
    pub(super) fn set_up(&self, config: &Config) {
        let _turn = self.turn();
        let steps = conntrack(&config.conntrack, sysctl::cpus().into());
        let absent = self.attempt(steps);
        if !absent.is_empty() {
            tracing::info!(
                "nf_conntrack is not loaded yet; these settings are applied as soon as it is: {}",
                files(&absent)
            );
        }
        self.absent.send_replace(absent);
        oom(config);
    }

    /// Applies settings and logs failures; returns those that the kernel does not have.
    fn attempt(&self, steps: Vec<Step>) -> Vec<Step> {
        let (mut absent, mut failures) = (Vec::new(), Vec::new());
        for step in steps {
            match ensure(&step, &self.root) {
                Ok(()) => {}
                Err(error) if error.is_absent() => absent.push(step),
                Err(error) => failures.push(error),
            }
        }
        if !failures.is_empty() {
            tracing::warn!(
                "some settings of this node stay as they are: {}; {WAY_OUT}",
                list(&failures)
            );
        }
        absent
    }

    /// Retries settings that the kernel did not have, and returns those that it still lacks; `None` if there
    /// was nothing to try. Blocks.
    fn again(&self) -> Option<Vec<Step>> {
        let _turn = self.turn();
        let absent = self.absent.borrow().clone();
        if absent.is_empty() {
            return None;
        }
        let rest = self.attempt(absent);
        self.absent.send_replace(rest.clone());
        Some(rest)
    }

    /// Makes settings that the kernel did not have as soon as it has them: after the first sync, when the
    /// rules are there that need connection tracking, or later. Until `stop`.
    pub(super) async fn follow(
        self,
        mut in_force: watch::Receiver<InForce>,
        stop: CancellationToken,
    ) {
        let mut absent = self.absent.subscribe();
        let (mut synced, mut said) = (false, false);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                some = absent.wait_for(|absent| !absent.is_empty()) => if some.is_err() { return },
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = in_force.changed(), if !synced => synced = true,
                () = tokio::time::sleep(LOOK) => {}
            }
            let settings = self.clone();
            let Ok(rest) = tokio::task::spawn_blocking(move || settings.again()).await else {
                return;
            };
            let Some(rest) = rest else { continue };
            if rest.is_empty() {
                tracing::info!(
                    "the settings of nf_conntrack that were missing are there now, and were applied"
                );
            } else if synced && !std::mem::replace(&mut said, true) {
                tracing::warn!(
                    "the kernel still lacks these settings of nf_conntrack after the first sync; they are \
                     applied as soon as it has them (modprobe nf_conntrack): {}",
                    files(&rest)
                );
            }
        }
    }
}

/// Sets everything up that a daemon with CAP_NET_ADMIN alone could not.
pub(crate) fn initialize(config: &Config) -> Result<()> {
    let mut steps = conntrack(&config.conntrack, sysctl::cpus().into());
    steps.extend(localhost(config).map(|setting| vec![setting]));
    if config.mode == Mode::Ipvs {
        // Asking for it makes the kernel load it, and its settings with it.
        Ipvs::open().context("set this node up for mode ipvs")?;
        let settings = ipvs::settings(config.ipvs.strict_arp);
        steps.extend(settings.into_iter().map(|setting| vec![setting]));
    }
    let failed = |step: &Step| ensure(step, Path::new("/")).err();
    let failures: Vec<SysctlError> = steps.iter().filter_map(failed).collect();
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

fn files(steps: &[Step]) -> String {
    let all = steps.iter().flatten().map(|setting| setting.file);
    all.collect::<Vec<_>>().join(", ")
}

/// Makes settings that build on each other. One that cannot be made ends the row, and one that is more
/// than what is needed: who chose it has chosen the rest.
fn ensure(step: &[Setting], root: &Path) -> Result<(), SysctlError> {
    for setting in step {
        let file = setting.file;
        match setting.ensure(root)? {
            Outcome::Kept => {}
            Outcome::Changed { before, now } => {
                tracing::info!(file, ?before, now, "changed a setting of this node");
            }
            Outcome::Exceeds(there) => {
                let asked = setting.wanted;
                tracing::debug!(file, there, ?asked, "a setting of this node is higher; it stays");
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Failing to set `oom_score_adj` is not fatal: a process that the OOM killer prefers still serves.
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
    let open = config.mode == Mode::Iptables
        && config.can_open_localhost(Family::V4)
        && config.node_port_addresses.include_localhost();
    open.then(|| exactly("proc/sys/net/ipv4/conf/all/route_localnet", 1))
}

fn exactly(file: &'static str, value: u64) -> Setting {
    Setting { file, wanted: Wanted::Exactly(value) }
}

/// The settings on a machine with this number of CPUs: rows of settings that depend on each other.
fn conntrack(conntrack: &Conntrack, cpus: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(max) = connections(conntrack, cpus) {
        let limit = Setting {
            file: "proc/sys/net/netfilter/nf_conntrack_max",
            // Never lowered, as upstream (k/k#142035).
            wanted: Wanted::AtLeast(max),
        };
        let buckets = Setting {
            file: "sys/module/nf_conntrack/parameters/hashsize",
            wanted: Wanted::AtLeast(max / CONNECTIONS_PER_BUCKET),
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
        let mut limits = vec![("nf_conntrack_max".to_owned(), Wanted::AtLeast(400_000))];
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
        let write = |name: &str, text: &str| {
            std::fs::write(root.path().join(name), text).expect("a file");
        };
        let read = |name: &str| std::fs::read_to_string(root.path().join(name)).expect("a file");
        write("second", "5");
        let first = Setting { file: "first", wanted: Wanted::AtLeast(1) };
        let step = [first, exactly("second", 6)];
        let error = ensure(&step, root.path()).expect_err("there is no such file");
        assert!(error.is_absent(), "{error}");
        assert_eq!(read("second"), "5");
        write("first", "2");
        assert!(ensure(&step, root.path()).is_ok());
        assert_eq!(
            (read("first"), read("second")),
            ("2".to_owned(), "5".to_owned()),
            "more is kept"
        );
        write("first", "0");
        assert!(ensure(&step, root.path()).is_ok());
        assert_eq!((read("first"), read("second")), ("1".to_owned(), "6".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn settings_that_the_kernel_does_not_have_yet_are_made_when_it_has() {
        let root = tempfile::TempDir::new().expect("a folder");
        let folder = root.path().join("proc/sys/net/netfilter");
        let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                    oomScoreAdj: 0\n\
                    conntrack: {maxPerCore: 1, min: 200, tcpEstablishedTimeout: 1h, udpTimeout: 20s}";
        let config = sluice_config::parse(text, Path::new("file")).expect("it can be used").config;
        let settings = NodeSettings::below(root.path());
        settings.set_up(&config);
        let mut absent = settings.absent.subscribe();
        let waiting = absent.borrow_and_update().len();
        assert_eq!(waiting, 4, "the limit, two timeouts, and the default of a third");
        let (synced, in_force) = watch::channel(InForce::default());
        let stop = CancellationToken::new();
        let task = tokio::spawn(settings.clone().follow(in_force, stop.clone()));

        // The first rule brings the module.
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = |name: &str| folder.join(format!("nf_conntrack_{name}"));
        std::fs::write(path("tcp_timeout_established"), "60").expect("a file");
        std::fs::write(path("udp_timeout"), "30").expect("a file");
        synced.send_replace(InForce::default());
        absent.wait_for(|absent| absent.len() == 2).await.expect("it runs");
        let read = |name: &str| std::fs::read_to_string(path(name)).expect("a file");
        assert_eq!(read("tcp_timeout_established"), "3600");
        assert_eq!(read("udp_timeout"), "20");

        // The rest comes much later.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        for (name, text) in [("max", "262144"), ("tcp_timeout_close_wait", "60")] {
            // As the kernel does: a file is there with its value, or not at all.
            std::fs::write(path("new"), text).expect("a file");
            std::fs::rename(path("new"), path(name)).expect("a file");
        }
        absent.wait_for(Vec::is_empty).await.expect("it runs");
        assert_eq!(
            (read("max").as_str(), read("tcp_timeout_close_wait").as_str()),
            ("262144", "3600")
        );
        stop.cancel();
        task.await.expect("it ends");
    }
}
