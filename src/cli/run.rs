//! The daemon: from flags and file to a running loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::mode::{self, Opened};
use super::servers::{self, Given};
use super::{RunFlags, log};
use crate::config::{self, ClientConnection, Config, KubeProxyConfiguration};
use crate::kernel;
use crate::metrics::Metrics;
use crate::sync::{self, RemovedTcp, Setup, Sources};
use crate::watch::{self, ApiServer, ClientOptions, WatchOptions};

/// Updates that may wait for the loop; beyond that the connections are slowed down.
const INBOX: usize = 4096;

/// Threads of the runtime: one to decode what arrives, one to program the kernel.
const THREADS: usize = 2;

pub(super) fn run(flags: RunFlags) -> Result<()> {
    let (wire, mut config, remarks) = configuration(&flags)?;
    config.logging.verbosity = flags.verbosity.unwrap_or(config.logging.verbosity);
    log::start(&config.logging);
    remarks.iter().for_each(|remark| tracing::warn!("{remark}"));
    mode::check(config.mode)?;
    kernel::return_large_blocks();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(serve(wire, config, flags))
}

/// The configuration, and what is to be said about it once there is a log.
fn configuration(flags: &RunFlags) -> Result<(KubeProxyConfiguration, Config, Vec<String>)> {
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
    let config = Config::new(&wire).map_err(problems)?;
    Ok((wire, config, remarks))
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

async fn serve(wire: KubeProxyConfiguration, config: Config, flags: RunFlags) -> Result<()> {
    let node_name = match &config.hostname_override {
        Some(name) => name.clone(),
        None => kernel::host_name().context("find this host's name")?,
    };
    let node_name = node_name.trim().to_lowercase();
    let Opened { backends, foreign } = mode::open(&config, &flags)?;
    let families: Vec<String> = backends.iter().map(|(family, _)| family.to_string()).collect();
    let options = ClientOptions { kubeconfig: config.kubeconfig(), master: flags.master.clone() };
    let metrics = Metrics::new(config.mode);
    let server = ApiServer::new(&options).await?.measured(&metrics);
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
    let given = Given {
        node_name: &node_name,
        configuration: Arc::new(move || serde_json::to_string(&wire).unwrap_or_default()),
        flags: BTreeMap::new(),
        server: &server,
        metrics: metrics.clone(),
    };
    let servers = servers::start(&config, given, &stop).await?;
    let health = servers.health.clone();
    let addresses = kernel::addresses::follow().await?;
    let (sender, updates) = mpsc::channel(INBOX);
    let options = WatchOptions { node_name: node_name.clone() };
    let mut watches = watch::start(&server, &options, &sender, &stop);
    drop(sender);
    let sources = Sources { updates, addresses, foreign };
    let removed_tcp = removed_tcp(&flags);
    let setup = Setup { config, node_name, backends, removed_tcp, health, metrics };
    // In a task of its own, so that the loop may block its thread while it programs the kernel.
    let running = stop.clone();
    let syncing = tokio::spawn(async move {
        sync::run(setup, sources, running).await;
    });
    syncing.await.context("the sync loop ended")?;
    stop.cancel();
    while watches.join_next().await.is_some() {}
    servers.ended().await;
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
