//! The wiring: every part of the daemon, in the order in which it starts.

use std::sync::Arc;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::dataplane::{Dataplane, DataplaneOptions};
use super::effective::{EffectiveConfig, check_families};
use super::node_setup::NodeSettings;
use super::servers::{self, ServerDeps};
use super::{Options, reload, takeover};
use crate::admin_socket::{self, Answers};
use crate::http::admin::Text;
use crate::http::server::Http;
use crate::log;
use crate::sync::{self, InForce, Looking, RemovedTcp, Setup, Sources, View};
use sluice_config::{self as config, Config};
use sluice_core::net::Family;
use sluice_kernel as kernel;
use sluice_kubernetes::watch::{self, ApiServer, ClientOptions, WatchOptions};
use sluice_telemetry::metrics::Metrics;
use sluice_telemetry::trace::Traces;

/// Updates that may wait for the loop; beyond that the connections are slowed down.
const INBOX: usize = 4096;

pub(super) async fn run(effective: EffectiveConfig, options: Options, http: Http) -> Result<()> {
    let config = effective.config.clone();
    let node_name = node_name(&config)?;
    let settings = NodeSettings::new();
    settings.set_up(&config);
    let mut dataplane = Dataplane::open(&config, &options.dataplane)?;
    let served = &dataplane.served;
    check_families(&config, served)?;
    let families: Vec<String> = served.iter().map(ToString::to_string).collect();
    let metrics = Metrics::new(config.mode);
    metrics.lost_log_lines(log::lost);
    let relays = dataplane.relays();
    dataplane.measure(&metrics);
    let Dataplane { backends, foreign, in_use, kernel, .. } = dataplane;
    let client_options = ClientOptions {
        kubeconfig: config.kubeconfig.clone(),
        master: options.master.clone(),
        content_type: config.content_type.clone(),
        accept_content_types: config.accept_content_types.clone(),
    };
    let server = ApiServer::new(&client_options).await?.measured(&metrics);
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
    let (show, shown) = tokio::sync::watch::channel(effective.configz());
    let configz: Text = Arc::new(move || shown.borrow().clone());
    let looking =
        if options.admin_socket.is_some() { Looking::Possible } else { Looking::Impossible };
    let view = View::new(looking);
    let answers = Answers {
        view: view.clone(),
        node: node_name.clone(),
        mode: config.mode,
        started: Timestamp::now(),
        configuration: Arc::clone(&configz),
        relays,
        kernel,
    };
    let admin = admin_socket::start(options.admin_socket, answers, &http, &stop);
    let deps = ServerDeps {
        node_name: &node_name,
        configz,
        flags: options.flags,
        server: &server,
        metrics: metrics.clone(),
        http,
    };
    let servers = servers::start(&config, deps, &stop).await?;
    let health = servers.health.clone();
    let addresses = kernel::addresses::follow().await?;
    let (sender, updates) = mpsc::channel(INBOX);
    let watch_options = WatchOptions { node_name: node_name.clone() };
    let mut watches = watch::start(&server, &watch_options, &sender, &stop);
    drop(sender);
    let (configure, configured) = tokio::sync::watch::channel(config.clone());
    let removed_tcp = removed_tcp(&options.dataplane);
    let without: InForce =
        Family::BOTH.into_iter().filter(|f| backends.iter().all(|(with, _)| with != f)).collect();
    let (in_force, told) = tokio::sync::watch::channel(without);
    tokio::spawn(settings.clone().follow(in_force.subscribe(), stop.clone()));
    if let Some(file) = options.file {
        let current = effective;
        let reload = reload::Reload { file, current, configure, show, settings };
        tokio::spawn(reload.follow(stop.clone()));
    }
    let excluded = config.ipvs.exclude_cidrs.clone();
    tokio::spawn(takeover::follow(in_use, excluded, told, stop.clone()));
    let sources = Sources { updates, addresses, foreign, config: configured };
    let share = options.sync_share;
    let setup =
        Setup { config, node_name, backends, removed_tcp, share, health, metrics, view, in_force };
    // On a thread of its own, which it may block while it programs the kernel. To lend it one of the runtime's for each
    // sync would cost a change two switches of threads.
    let (runtime, stopped) = (Handle::current(), stop.clone());
    let syncing = spawn_blocking(move || runtime.block_on(sync::run(setup, sources, stopped)));
    syncing.await.context("the sync loop ended")?;
    stop.cancel();
    while watches.join_next().await.is_some() {}
    servers.ended().await;
    if let Some(admin) = admin {
        admin.await.context("the admin socket's task ended")?;
    }
    traces.end();
    tracing::info!("stopped; the rules stay in force");
    Ok(())
}

/// The name of the own Node object, as kubelet makes it from the host's name.
fn node_name(config: &Config) -> Result<String> {
    let name = match &config.hostname_override {
        Some(name) => name.clone(),
        None => kernel::host_name().context("find this host's name")?,
    };
    Ok(name.trim().to_lowercase())
}

/// What happens to TCP connections to removed endpoints.
fn removed_tcp(options: &DataplaneOptions) -> RemovedTcp {
    if !options.reset_removed_tcp_endpoints {
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
