//! The daemon: one process per node, in place of kube-proxy. The program `sluice` is [`cli::main`].
//!
//! - [`cli`]: the command line, and nothing else
//! - [`run`]: from a configuration to a running daemon; `run/wiring.rs` connects everything below
//! - [`sync`]: when the kernel is brought up to date, and how
//! - [`http`]: what probes, load balancers and operators ask for
//! - [`truth`]: what commands know without a daemon, from files or an API server
//! - [`log`]: the log, which never holds the daemon up

#![forbid(unsafe_code)]

pub mod cli;
mod http;
mod log;
mod run;
pub mod sync;
mod truth;
