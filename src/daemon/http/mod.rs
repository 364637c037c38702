//! The daemon's HTTP servers, on their own runtime: a slow scrape delays neither a probe nor a watch.
//!
//! - [`server`]: listening and answering as Go's HTTP servers do
//! - [`health`]: `/healthz`, `/livez` and the health check ports of Services
//! - [`admin`]: metrics, configuration and debug pages at `metricsBindAddress`

pub(crate) mod admin;
pub(crate) mod health;
pub(crate) mod server;
