//! The lab: what a Service does and costs, in a cluster out of network namespaces. The program
//! `sluice-lab` is [`cli::main`].
//!
//! - [`cli`]: the command line
//! - `up`: a cluster in the background, and the commands for it; `kubelet` runs its pods
//! - `demo`: a Service on a terminal
//! - [`bench`](mod@bench): the proxy modes side by side, and fleets of nodes

#![forbid(unsafe_code)]

pub mod bench;
pub mod cli;
mod demo;
mod duration;
mod fleet;
mod kubelet;
mod measure;
mod up;
