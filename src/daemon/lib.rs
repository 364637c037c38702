//! The daemon: one process per node, in place of kube-proxy. The program `sluice` is [`cli::main`].
//!
//! - [`cli`]: the command line, and the wiring of everything below
//! - [`sync`]: when the kernel is brought up to date
//! - [`health`]: `/healthz`, `/livez` and the health check ports of Services
//! - [`inspect`]: metrics, configuration and debug pages at `metricsBindAddress`
//! - [`server`]: listening and answering as Go's HTTP servers do

#![forbid(unsafe_code)]

pub mod cli;
pub mod health;
pub mod inspect;
pub mod server;
pub mod sync;
