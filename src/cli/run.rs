//! The daemon: from flags and file to a running loop.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch as watch_channel};
use tokio_util::sync::CancellationToken;

use super::{IptablesLayout, RunFlags};
use crate::backend::Backend;
use crate::backend::iptables::{self, Iptables};
use crate::backend::nftables::Connection;
use crate::config::{self, ClientConnection, Config, KubeProxyConfiguration, LogFormat, Mode};
use crate::health::{self, BindFailure, Health};
use crate::kernel;
use crate::kernel::xtables::{self, Xtables};
use crate::net::Family;
use crate::sync::{self, RemovedTcp, Setup, Sources};
use crate::watch::{self, ApiServer, ClientOptions, WatchOptions};

/// Updates that may wait for the loop; beyond that the connections are slowed down.
const INBOX: usize = 4096;

/// How often the canaries of the iptables mode are looked at. A flushed table heals within that.
const CANARY_PERIOD: Duration = Duration::from_secs(5);

/// Threads of the runtime: one to decode what arrives, one to program the kernel.
const THREADS: usize = 2;

pub(super) fn run(flags: RunFlags) -> Result<()> {
    let (config, remarks) = configuration(&flags)?;
    start_log(&config, flags.verbosity);
    remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
    if !matches!(config.mode, Mode::Nftables | Mode::Iptables) {
        bail!(
            "mode {} is not available in this version; set `mode: nftables` in the configuration",
            config.mode
        );
    }
    kernel::return_large_blocks();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(serve(config, flags))
}

/// The configuration, and what is to be said about it once there is a log.
fn configuration(flags: &RunFlags) -> Result<(Config, Vec<String>)> {
    let (mut wire, remarks) = match &flags.config {
        Some(path) => {
            let loaded = config::load(path)?;
            (loaded.wire, loaded.warnings)
        }
        None => (from_flags(flags), Vec::new()),
    };
    if flags.hostname_override.is_some() {
        wire.hostname_override.clone_from(&flags.hostname_override);
    }
    let problems = |problems: Vec<config::Problem>| {
        let lines: Vec<String> = problems.iter().map(|p| format!("\n  {p}")).collect();
        anyhow::anyhow!("the configuration cannot be used:{}", lines.concat())
    };
    Ok((Config::new(&wire).map_err(problems)?, remarks))
}

/// Flags that stand for fields of the file count only without a file, as upstream decides.
fn from_flags(flags: &RunFlags) -> KubeProxyConfiguration {
    let kubeconfig = flags.kubeconfig.as_ref().map(|path| path.display().to_string());
    KubeProxyConfiguration {
        mode: flags.proxy_mode.clone(),
        client_connection: Some(ClientConnection { kubeconfig, ..ClientConnection::default() }),
        ..KubeProxyConfiguration::default()
    }
}

fn start_log(config: &Config, verbosity: Option<u32>) {
    use tracing_subscriber::EnvFilter;
    let level = match verbosity.unwrap_or(config.logging.verbosity) {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    };
    let default = format!("warn,sluice={level}");
    let filter = EnvFilter::try_from_env("SLUICE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first log.
    let _ = match config.logging.format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

async fn serve(config: Config, flags: RunFlags) -> Result<()> {
    let node_name = match &config.hostname_override {
        Some(name) => name.clone(),
        None => kernel::host_name().context("find this host's name")?,
    };
    let node_name = node_name.trim().to_lowercase();
    let (backends, foreign) = match config.mode {
        Mode::Iptables => (iptables(&config, &flags)?, canary_calls()),
        _ => {
            let connection = Connection::open()?;
            let backends = backends(|family| Ok(Box::new(connection.mode(family))))?;
            (backends, connection.follow()?)
        }
    };
    let families: Vec<String> = backends.iter().map(|(family, _)| family.to_string()).collect();
    let options = ClientOptions { kubeconfig: config.kubeconfig(), master: flags.master.clone() };
    let server = ApiServer::new(&options).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        mode = %config.mode,
        node = node_name,
        server = server.url,
        families = families.join(" "),
        "starting"
    );
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    let health = serve_health(&config, &stop)?;
    let addresses = kernel::addresses::follow().await?;
    let (sender, updates) = mpsc::channel(INBOX);
    let options = WatchOptions { node_name: node_name.clone() };
    let mut watches = watch::start(&server, &options, &sender, &stop);
    drop(sender);
    let sources = Sources { updates, addresses, foreign };
    let removed_tcp = removed_tcp(&flags);
    let setup = Setup { config, node_name, backends, removed_tcp, health };
    // In a task of its own, so that the loop may block its thread while it programs the kernel.
    let running = stop.clone();
    let syncing = tokio::spawn(async move {
        sync::run(setup, sources, running).await;
    });
    syncing.await.context("the sync loop ended")?;
    stop.cancel();
    while watches.join_next().await.is_some() {}
    tracing::info!("stopped; the rules stay in force");
    Ok(())
}

/// What becomes of TCP connections to endpoints that are removed.
fn removed_tcp(flags: &RunFlags) -> RemovedTcp {
    if !flags.reset_removed_tcp_endpoints {
        return RemovedTcp::Keep;
    }
    if !kernel::conntrack::takes_up_tcp_midstream() {
        tracing::warn!(
            "--reset-removed-tcp-endpoints has no effect: with net.netfilter.nf_conntrack_tcp_loose=0 \
             connections would hang and not be reset; set it to 1"
        );
        return RemovedTcp::Keep;
    }
    RemovedTcp::Reset
}

/// Answers who asks for this proxy's health.
fn serve_health(config: &Config, stop: &CancellationToken) -> Result<Health> {
    let health = Health::new(config.sync.period.saturating_mul(2));
    let failure =
        if config.bind_address_hard_fail { BindFailure::Fatal } else { BindFailure::Retry };
    health::start(&health, config.healthz_bind_address, failure, stop)?;
    Ok(health)
}

/// One backend per family that this kernel has.
fn backends(
    open: impl Fn(Family) -> Result<Box<dyn Backend>>,
) -> Result<Vec<(Family, Box<dyn Backend>)>> {
    let mut backends: Vec<(Family, Box<dyn Backend>)> = Vec::new();
    for family in Family::BOTH {
        if kernel::has_family(family) {
            backends.push((family, open(family)?));
        } else {
            tracing::warn!(%family, "this kernel does not have the family; it is not served");
        }
    }
    Ok(backends)
}

/// The iptables mode, in the variant of iptables that this node uses.
fn iptables(config: &Config, flags: &RunFlags) -> Result<Vec<(Family, Box<dyn Backend>)>> {
    let options = iptables::Options {
        layout: match flags.iptables_layout {
            IptablesLayout::Compact => iptables::Layout::Compact,
            IptablesLayout::Classic => iptables::Layout::Classic,
        },
        localhost_node_ports: if config.localhost_node_ports {
            iptables::LocalhostNodePorts::Open
        } else {
            iptables::LocalhostNodePorts::Closed
        },
        out_of_window: if xtables::accepts_outside_of_window() {
            iptables::OutOfWindow::Keep
        } else {
            iptables::OutOfWindow::Drop
        },
    };
    backends(|family| {
        let tables = Xtables::open(family)?;
        tracing::info!(%family, variant = %tables.variant(), "programming iptables");
        Ok(Box::new(Iptables::new(tables, options)))
    })
}

/// Changes whenever the canaries of the iptables mode are to be looked at: its kernel interface does
/// not tell of foreign changes.
fn canary_calls() -> watch_channel::Receiver<()> {
    let (sender, receiver) = watch_channel::channel(());
    tokio::spawn(async move {
        while !sender.is_closed() {
            tokio::time::sleep(CANARY_PERIOD).await;
            sender.send_replace(());
        }
    });
    receiver
}

fn stop_on_signal(stop: &CancellationToken) -> Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).context("wait for signals")?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(())
}
