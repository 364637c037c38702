//! `sluice-lab bench --fleet`: what many nodes ask of one API server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::bench::Scale;
use crate::bench::fleet::results::FleetResults;
use crate::bench::fleet::{self, Plan};
use sluice_kubernetes::watch::ClientOptions;

/// Flags of a fleet.
#[derive(Debug, Args)]
pub(crate) struct FleetFlags {
    /// Numbers of nodes; what so many nodes ask of one API server is measured in place of the proxy modes, with
    /// the daemon's own client.
    #[arg(long, value_name = "LIST", value_delimiter = ',',
          conflicts_with_all = ["against", "quantities", "html", "report_from", "in_guest"])]
    pub(crate) fleet: Vec<u32>,
    /// How long the API server of a fleet is out of reach; how long a given one is observed.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = crate::duration::duration)]
    outage: Duration,
    /// The API server of a fleet, as the daemon's own flag; the lab's if unset. It is only read.
    #[arg(long, value_name = "FILE", requires = "fleet")]
    kubeconfig: Option<PathBuf>,
    /// The URL of that server; overrides the kubeconfig's.
    #[arg(long, value_name = "URL", requires = "fleet")]
    master: Option<String>,
}

/// Measures.
pub(crate) fn run(
    flags: &FleetFlags,
    scale: Scale,
    time_limit: Duration,
    command: String,
    progress: &dyn Fn(&str),
) -> Result<FleetResults> {
    ensure!(flags.outage >= Duration::from_secs(1), "--outage must be a second or more");
    let given = (flags.kubeconfig.is_some() || flags.master.is_some()).then(|| ClientOptions {
        kubeconfig: flags.kubeconfig.clone(),
        master: flags.master.clone(),
        ..ClientOptions::default()
    });
    let fleets = flags.fleet.clone();
    let plan = Plan { fleets, scale, given, outage: flags.outage, time_limit };
    Ok(fleet::run(&plan, command, progress)?)
}
