//! The daemon's log, and how its level changes while it runs.

use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{LogFormat, Logging};

/// The variable that says more than a level can, for developers; it counts before the verbosity.
const VARIABLE: &str = "SLUICE_LOG";

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts the log on standard error. A second start in one process (tests) keeps the first log.
pub(super) fn start(logging: &Logging) {
    let (filter, handle) = reload::Layer::new(filter(logging.verbosity));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let started = match logging.format {
        LogFormat::Text => registry.with(lines.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    if started.is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Changes how much is logged.
pub(super) fn set_verbosity(verbosity: u32) {
    match LEVEL.get().map(|handle| handle.reload(filter(verbosity))) {
        Some(Err(error)) => tracing::warn!("the log keeps its level: {error}"),
        _ => tracing::debug!(verbosity, "the log has this level"),
    }
}

fn filter(verbosity: u32) -> EnvFilter {
    let level = match verbosity {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    };
    EnvFilter::try_from_env(VARIABLE)
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,sluice={level}")))
}
