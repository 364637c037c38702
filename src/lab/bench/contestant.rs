//! Who is measured, and how its program is run on a node.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::results::{Program, Subject};
use sluice_cluster::{Host, Proxy, proxy};
use sluice_config::Mode;

/// Where both programs serve health and metrics; no other program is in the node's namespace.
const HEALTH_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// The metric with the time of a family's last sync.
const LAST_SYNC: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{";

/// Where configuration files are put. The lab's `/run` is private, and ends with the process.
const FILES: &str = "/run/sluice-bench";

/// The resolution of [`Running::wait_until_ready`], which grows to 2 % of the time: each question costs the
/// program some processor time.
const GRAIN: Duration = Duration::from_millis(2);

/// How long a program may take to stop after SIGTERM.
const END: Duration = Duration::from_secs(30);

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Error {
    /// Its configuration could not be written.
    #[error("write {path}: {source}")]
    Configure { path: PathBuf, source: io::Error },
    /// Its file could not be read.
    #[error("read the program {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// It could not be started or ended.
    #[error(transparent)]
    Process(#[from] proxy::Error),
    /// It does not say which version it is.
    #[error("ask {program} for its version: {source}")]
    Version { program: String, source: io::Error },
}

/// A program in a proxy mode.
#[derive(Debug, Clone)]
pub(super) struct Contestant {
    /// How results name it.
    pub(super) subject: Subject,
    /// Its proxy mode.
    pub(super) mode: Mode,
    /// The file.
    program: PathBuf,
}

impl Contestant {
    /// Sluice in a mode.
    pub(super) fn sluice(program: &Path, mode: Mode, guest: Option<&str>) -> Contestant {
        Contestant::new(Program::Sluice, program, mode, guest)
    }

    /// The Go kube-proxy in a mode.
    pub(super) fn kube_proxy(
        program: &Path,
        version: &str,
        mode: Mode,
        guest: Option<&str>,
    ) -> Contestant {
        Contestant::new(Program::KubeProxy(version.to_owned()), program, mode, guest)
    }

    fn new(name: Program, program: &Path, mode: Mode, guest: Option<&str>) -> Contestant {
        let (mode_name, guest) = (mode.to_string(), guest.map(str::to_owned));
        let subject = Subject { program: name, mode: mode_name, guest };
        Contestant { subject, mode, program: program.to_owned() }
    }

    /// Brings the program's file into memory: that is not what is to be measured.
    pub(super) fn warm_up(&self) -> Result<(), Error> {
        let path = &self.program;
        let read = fs::File::open(path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
        read.map(drop).map_err(|source| Error::Read { path: path.clone(), source })
    }

    /// Starts it on a node against the API server at `url`.
    pub(super) fn start(
        &self,
        node: &Host,
        url: &str,
        min_sync: Option<Duration>,
    ) -> Result<Running, Error> {
        let path = Path::new(FILES).join(format!("{}.yaml", node.name()));
        let text = configuration(self.mode, node.name(), min_sync);
        fs::create_dir_all(FILES)
            .and_then(|()| fs::write(&path, text))
            .map_err(|source| Error::Configure { path: path.clone(), source })?;
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&path).args(["--master", url]);
        let started = Instant::now();
        let proxy = Proxy::start_on(node, command)?;
        Ok(Running { proxy, started })
    }
}

/// The Kubernetes release that a kube-proxy prints: `1.36.2`.
pub(super) fn kube_proxy_version(program: &Path) -> Result<String, Error> {
    let failed = |source| Error::Version { program: program.display().to_string(), source };
    let output = Command::new(program).arg("--version").output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().strip_prefix("Kubernetes v").map(str::to_owned);
    version
        .ok_or_else(|| failed(io::Error::other("it does not answer --version as kube-proxy does")))
}

/// The same for everybody: what differs from the defaults is the name of the node, where health is
/// told, the pods' addresses, and that limits of connection tracking stay as they are.
fn configuration(mode: Mode, node: &str, min_sync: Option<Duration>) -> String {
    let least = min_sync.map(|least| format!("minSyncPeriod: {}ms, ", least.as_millis()));
    let periods = format!("{{{}syncPeriod: 30s}}", least.unwrap_or_default());
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
         kind: KubeProxyConfiguration\n\
         mode: {mode}\n\
         hostnameOverride: {node}\n\
         clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
         detectLocalMode: ClusterCIDR\n\
         healthzBindAddress: 127.0.0.1:{HEALTH_PORT}\n\
         metricsBindAddress: 127.0.0.1:{METRICS_PORT}\n\
         conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}\n\
         nftables: {periods}\n\
         iptables: {periods}\n\
         ipvs: {periods}\n"
    )
}

/// A program that runs. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    proxy: Proxy,
    /// When its start was begun.
    pub(super) started: Instant,
}

impl Running {
    /// The process.
    pub(super) fn pid(&self) -> Pid {
        self.proxy.pid()
    }

    /// The end of its log, in one line.
    pub(super) fn last_words(&self) -> String {
        let log = self.proxy.log();
        let lines: Vec<&str> = log.lines().rev().take(2).collect();
        lines.into_iter().rev().collect::<Vec<&str>>().join("; ")
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        self.proxy.wait_for_exit(Duration::ZERO).is_ok()
    }

    /// Stops it with SIGTERM; its rules stay.
    pub(super) fn end(mut self) -> Result<(), Error> {
        self.proxy.terminate(END)?;
        Ok(())
    }

    /// Waits until it says that so many families have been brought up to date, and gives the moment;
    /// nothing if `until` has passed. To be called in the node's network namespace.
    pub(super) fn wait_until_ready(&self, families: usize, until: Instant) -> Option<Instant> {
        loop {
            if families_up_to_date().is_some_and(|count| count >= families) {
                return Some(Instant::now());
            }
            let now = Instant::now();
            if now >= until {
                return None;
            }
            std::thread::sleep(GRAIN.max((now - self.started) / 50));
        }
    }
}

/// For how many families the last sync is known: those whose rules have been written once. (What
/// `/healthz` says will not do: it names them when the loop begins.)
fn families_up_to_date() -> Option<usize> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT));
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&at, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(count_families(&answer))
}

fn count_families(metrics: &str) -> usize {
    let known = |line: &&str| {
        let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        line.starts_with(LAST_SYNC) && value.is_some_and(|seconds| seconds > 0.0)
    };
    metrics.lines().filter(known).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_config as config;

    #[test]
    fn only_families_that_have_been_up_to_date_once_count() {
        let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
        let answer = |v4: &str, v6: &str| {
            format!(
                "HTTP/1.0 200 OK\r\n\r\n# TYPE {name} gauge\n{name}{{ip_family=\"IPv4\"}} {v4}\n\
                 {name}{{ip_family=\"IPv6\"}} {v6}\nother{{}} 1\n"
            )
        };
        assert_eq!(count_families(&answer("0", "0")), 0);
        assert_eq!(count_families(&answer("1.7e+09", "0")), 1);
        assert_eq!(count_families(&answer("1.7e+09", "1.8e+09")), 2);
        assert_eq!(count_families(""), 0);
    }

    #[test]
    fn the_configuration_is_read_without_a_warning() {
        let text = configuration(Mode::Iptables, "node-b", Some(Duration::from_secs(1)));
        let (wire, warnings) = config::read(&text, Path::new("x")).expect("it is read");
        assert_eq!(warnings, Vec::<String>::new());
        let config = config::Config::new(&wire.with_defaults()).expect("it is valid");
        assert_eq!(config.mode, Mode::Iptables);
        assert_eq!(config.sync.min, Some(Duration::from_secs(1)));
    }
}
