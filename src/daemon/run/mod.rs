//! The daemon, from its configuration to a running loop: [`wiring`] connects all parts, in one list.

mod dataplane;
mod effective;
mod node_setup;
mod reload;
mod servers;
mod takeover;
mod wiring;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::http::server::{self, Http};
use sluice_kernel as kernel;

pub(crate) use self::dataplane::DataplaneOptions;
pub(crate) use self::effective::{ConfigFile, EffectiveConfig};
pub(crate) use self::node_setup::initialize;
pub(crate) use crate::sync::Share;

/// The minimum number of open files; the userspace mode needs more with each connection.
const FILES: u64 = 64;

/// Threads of the runtime, beside the one that programs the kernel: two large lists are decoded at once.
const THREADS: usize = 2;

/// What the daemon is started with, in addition to its configuration.
pub(crate) struct Options {
    /// The file that the configuration is from, if it is from one.
    pub(crate) file: Option<ConfigFile>,
    /// All flags with their values, for `/flagz`.
    pub(crate) flags: BTreeMap<String, String>,
    /// The URL of the API server, in place of the kubeconfig's.
    pub(crate) master: Option<String>,
    /// How much of a core syncs may take before a change has to wait.
    pub(crate) sync_share: Share,
    /// Where the admin socket is, if there is to be one.
    pub(crate) admin_socket: Option<PathBuf>,
    /// What only the proxy modes need to know.
    pub(crate) dataplane: DataplaneOptions,
}

/// Runs until SIGTERM. The rules stay.
pub(crate) fn run(effective: EffectiveConfig, options: Options) -> Result<()> {
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
    let ended = runtime.block_on(wiring::run(effective, options, http));
    // Everything that must end has ended. A thread that still reads a file need not, and a scrape in progress
    // has no reader any more.
    apart.into_iter().chain([runtime]).for_each(tokio::runtime::Runtime::shutdown_background);
    ended
}

/// Raises the limit of open files as far as possible, warns if it is too low, and returns it.
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
