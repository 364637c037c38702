//! Sluice, a Kubernetes service proxy.
//!
//! Modules in reading order; each layer uses only the ones above it (`docs/architecture.md` has the
//! table, `integration/layering.rs` enforces it):
//!
//! | layer | modules | what it is |
//! |---|---|---|
//! | 0 | [`net`] | small network values |
//! | 1 | [`model`] | what Kubernetes says, cleaned |
//! | 1 | [`trace`] | how long a change takes, and where (only with the feature `otel`) |
//! | 1 | [`kernel`] | the only system calls: nf_tables, links and addresses |
//! | 2 | [`metrics`], [`server`], [`events`] | what operators measure, ask for and are told |
//! | 2 | [`plan`] | what this node must do with a packet (pure) |
//! | 3 | [`backend`] | the plan in one kernel mechanism's words |
//! | 4 | [`watch`], [`health`], [`inspect`], [`sync`] | the Kubernetes API; who asks how we are, and what operators ask; the loop |
//! | 5 | [`config`], [`lab`], [`bench`](mod@bench), [`cli`] | what people touch |

pub mod backend;
pub mod bench;
pub mod cli;
pub mod config;
pub mod events;
pub mod health;
pub mod inspect;
pub mod kernel;
pub mod lab;
pub mod metrics;
pub mod model;
pub mod net;
pub mod plan;
pub mod server;
pub mod sync;
pub mod trace;
pub mod watch;
