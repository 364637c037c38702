//! The daemon: from flags and file to a running loop.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::mode::{self, Opened};
use super::node::{self, NodeSettings};
use super::options::{self, Settled};
use super::servers::{self, Given};
use super::{RunFlags, cleanup, flag_values, log, reload, takeover, version};
use crate::server::{self, Http};
use crate::sync::{self, InForce, RemovedTcp, Setup, Sources};
use sluice_config as config;
use sluice_core::net::Family;
use sluice_kernel as kernel;
use sluice_kubernetes::watch::{self, ApiServer, ClientOptions, WatchOptions};
use sluice_telemetry::metrics::Metrics;
use sluice_telemetry::trace::Traces;

/// Updates that may wait for the loop; beyond that the connections are slowed down.
const INBOX: usize = 4096;

/// Open files that a daemon needs at the least; the userspace mode needs more with each connection.
const FILES: u64 = 64;

/// Threads of the runtime: one to decode what arrives, one to program the kernel.
const THREADS: usize = 2;

pub(super) fn run(flags: RunFlags) -> Result<()> {
    if let Some(answer) = version::answer(flags.version) {
        say(&answer);
        return Ok(());
    }
    let settled = options::settle(&flags)?;
    log::start(&settled.config.logging);
    settled.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if let Some(path) = &flags.write_config_to {
        options::write(&settled, path)?;
        tracing::info!(file = %path.display(), "wrote the configuration");
        return Ok(());
    }
    if flags.cleanup {
        return cleanup::run(&settled.config);
    }
    settled.config.remarks().iter().for_each(|remark| tracing::warn!("{remark}"));
    if flags.init_only {
        return node::initialize(&settled.config);
    }
    kernel::set_mmap_threshold();
    let files = open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    // Where descriptors are few, the kernel and the API server come first.
    let apart = if files < FILES { None } else { Some(server::runtime()?) };
    let http = Http::new(apart.as_ref().unwrap_or(&runtime).handle().clone(), files);
    let ended = runtime.block_on(serve(settled, flags, http));
    // Whatever had to end has ended. A thread that still reads a file need not, and a scrape that is
    // under way has nobody to read it any more.
    apart.into_iter().chain([runtime]).for_each(tokio::runtime::Runtime::shutdown_background);
    ended
}

/// Raises the limit of open files as far as it goes, and says if that is too low; gives the limit.
fn open_files() -> u64 {
    match kernel::sockets::raise_descriptor_limit() {
        Ok(files) if files < FILES => {
            tracing::warn!(
                "this process may have {files} open files and needs at least {FILES}; changes may be \
                 programmed late, and health and metrics go unanswered: raise the limit (LimitNOFILE, \
                 ulimit -n)"
            );
            files
        }
        Ok(files) => files,
        Err(error) => {
            tracing::warn!("cannot raise the limit of open files: {error}");
            FILES
        }
    }
}

#[allow(clippy::print_stdout)] // it is what was asked for
fn say(answer: &str) {
    println!("{answer}");
}

async fn serve(settled: Settled, flags: RunFlags, http: Http) -> Result<()> {
    let config = settled.config.clone();
    let node_name = match &config.hostname_override {
        Some(name) => name.clone(),
        None => kernel::host_name().context("find this host's name")?,
    };
    let node_name = node_name.trim().to_lowercase();
    let settings = NodeSettings::new();
    settings.set_up(&config);
    let Opened { backends, served, foreign, relays, by_service, in_use } =
        mode::open(&config, &flags)?;
    options::check_families(&config, &served)?;
    let families: Vec<String> = served.iter().map(ToString::to_string).collect();
    let without: InForce =
        Family::BOTH.into_iter().filter(|f| backends.iter().all(|(with, _)| with != f)).collect();
    let options =
        ClientOptions { kubeconfig: config.kubeconfig.clone(), master: flags.master.clone() };
    let metrics = Metrics::new(config.mode);
    servers::show_log(&metrics);
    servers::show_relays(&metrics, relays);
    servers::show_services(&metrics, by_service);
    servers::show_packets(&metrics, in_use);
    let server = ApiServer::new(&options).await?.measured(&metrics);
    tracing::info!(
        version = config::version(),
        mode = %config.mode,
        node = node_name,
        server = server.url,
        families = families.join(" "),
        "starting"
    );
    let traces = Traces::start()?;
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    let (show, shown) = tokio::sync::watch::channel(settled.shown());
    let given = Given {
        node_name: &node_name,
        configuration: Arc::new(move || shown.borrow().clone()),
        flags: flag_values::all(&flags),
        server: &server,
        metrics: metrics.clone(),
        http,
    };
    let servers = servers::start(&config, given, &stop).await?;
    let health = servers.health.clone();
    let addresses = kernel::addresses::follow().await?;
    let (sender, updates) = mpsc::channel(INBOX);
    let options = WatchOptions { node_name: node_name.clone() };
    let mut watches = watch::start(&server, &options, &sender, &stop);
    drop(sender);
    let (configure, configured) = tokio::sync::watch::channel(config.clone());
    let sources = Sources { updates, addresses, foreign, config: configured };
    let removed_tcp = removed_tcp(&flags);
    let (in_force, told) = tokio::sync::watch::channel(without);
    tokio::spawn(settings.clone().follow(in_force.subscribe(), stop.clone()));
    tokio::spawn(reload::follow(flags, settled, configure, show, settings, stop.clone()));
    let excluded = config.ipvs.exclude_cidrs.clone();
    tokio::spawn(takeover::follow(in_use, excluded, told, stop.clone()));
    let setup = Setup { config, node_name, backends, removed_tcp, health, metrics, in_force };
    // In a task of its own, so that the loop may block its thread while it programs the kernel.
    let running = stop.clone();
    let syncing = tokio::spawn(async move {
        sync::run(setup, sources, running).await;
    });
    syncing.await.context("the sync loop ended")?;
    stop.cancel();
    while watches.join_next().await.is_some() {}
    servers.ended().await;
    traces.end();
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
