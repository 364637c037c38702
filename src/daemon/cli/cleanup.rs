//! `--cleanup`: removes the objects of all modes, including the Go kube-proxy's.

use anyhow::{Result, bail};

use sluice_config::Config;
use sluice_core::net::Family;
use sluice_dataplane::leftovers::{self, Connections, InUse};

/// Removes it, and fails with the names of what could not be removed.
pub(super) fn run(config: &Config) -> Result<()> {
    let (families, excluded) = (Family::BOTH.into(), &config.ipvs.exclude_cidrs);
    let outcome = leftovers::remove(InUse::Nothing, &families, excluded, Connections::Cut);
    for removed in &outcome.removed {
        tracing::info!("removed: {removed}");
    }
    let used = outcome.used.iter().map(|used| format!("in use: {used}"));
    let failed = outcome.failed.iter().map(ToString::to_string);
    let left: Vec<String> = failed.chain(used).map(|line| format!("\n  {line}")).collect();
    if !left.is_empty() {
        bail!("not everything could be removed:{}", left.concat());
    }
    tracing::info!("nothing of kube-proxy is left");
    Ok(())
}
