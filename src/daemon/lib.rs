//! The daemon: one process per node, in place of kube-proxy. The program `sluice` is [`cli::main`].
//!
//! - [`cli`]: the command line, and nothing else
//! - [`run`]: from a configuration to a running daemon; `run/wiring.rs` connects everything below
//! - [`rules`]: the rules of a Service in each mode, without a kernel
//! - [`kernel_view`]: what a proxy mode has in the kernel for a connection
//! - [`sync`]: when the kernel is brought up to date, and how
//! - [`http`]: what probes, load balancers and operators ask for
//! - [`truth`]: what commands know without a daemon, from files or an API server
//! - [`admin_socket`]: what people and other programs on this node ask for
//! - [`log`]: the log, which never holds the daemon up

#![forbid(unsafe_code)]

mod admin_socket;
pub mod cli;
mod http;
mod kernel_view;
mod log;
mod rules;
mod run;
pub mod sync;
mod truth;
