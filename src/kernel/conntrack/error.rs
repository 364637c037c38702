//! What can go wrong between this process and connection tracking.

use std::io;

use sluice_core::net::Family;

/// Talking to connection tracking failed.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// There is no socket for it.
    #[error("open a netfilter netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The process may not use it.
    #[error(
        "connection tracking is not permitted: run with the capability CAP_NET_ADMIN in the user namespace that owns this network namespace"
    )]
    NotPermitted,
    /// The kernel does not offer its connections over netlink.
    #[error(
        "this kernel does not show its connections: load the module (modprobe nf_conntrack_netlink)"
    )]
    Unsupported,
    /// A request could not be sent.
    #[error("send to connection tracking: {0}")]
    Send(#[source] io::Error),
    /// An answer could not be received.
    #[error("receive from connection tracking: {0}")]
    Receive(#[source] io::Error),
    /// The kernel did not answer in time.
    #[error("connection tracking did not answer within {seconds} s")]
    Timeout {
        /// How long was waited.
        seconds: u64,
    },
    /// The request to read the table was refused.
    #[error("list the {family} connections: {source}")]
    List {
        /// The family.
        family: Family,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No reading saw the whole table.
    #[error("each of {attempts} readings of the {family} connections was incomplete")]
    Incomplete {
        /// The family.
        family: Family,
        /// How often it was tried.
        attempts: u32,
    },
    /// Some flows could not be removed.
    #[error("remove {failed} stale {family} connection(s): {source}{}", hint(source))]
    Remove {
        /// The family.
        family: Family,
        /// How many of them.
        failed: usize,
        /// What the kernel said about the first one.
        source: io::Error,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EBUSY) => " (a flow table has offloaded it; it ends when it is idle)",
        _ => "",
    }
}
