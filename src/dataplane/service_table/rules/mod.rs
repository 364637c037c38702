//! The chains and rules: a constant number of them, whatever the number of Services.
//!
//! ```text
//!             nat-prerouting, nat-output ──▶ services ──▶ service-pools ──▶ service-draw-N ──▶ dnat
//!                                               │  └────▶ nodeports ──▶ nodeport-pools ──▶ …
//!                                               └───────▶ service-split ──▶ service-local-pools ──▶ …
//! filter-input, filter-forward, filter-output ──▶ service-check, nodeport-check, cluster-ips-check
//! filter-prerouting-pre-dnat, filter-output-pre-dnat ──▶ sources-check
//! filter-prerouting-post-dnat, filter-output-post-dnat ──▶ affinity (only where it is asked for)
//!                              nat-postrouting ──▶ masquerading
//! ```
//!
//! What stands behind `…-pools` is the mode's ([`DataPath`](super::data_path::DataPath)); the picture shows
//! `draw`, as in the nftables mode. By concern: `hooks` (base chains), `services` (from the hook to a pool),
//! `sources` (pods and this node), `draw` (from a pool to an endpoint), `affinity`, `checks` (who is refused
//! or dropped), `masquerading`.

mod affinity;
mod checks;
mod draw;
mod hooks;
mod masquerading;
mod services;
mod sources;
mod writer;

pub(crate) use self::hooks::{DSTNAT, Hooks, MANGLE};
pub(crate) use self::writer::{Conditions, Rules, all};
