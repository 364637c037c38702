//! Errors of conntrack.

use std::io;

use crate::netlink::SocketError;
use sluice_core::net::Family;

/// Talking to connection tracking failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
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
        "this kernel cannot list its connections: load the module (modprobe nf_conntrack_netlink)"
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
    Timeout { seconds: u64 },
    /// The request to read the table was refused.
    #[error("list the {family} connections: {source}")]
    List { family: Family, source: io::Error },
    /// No reading saw the whole table.
    #[error("each of {attempts} readings of the {family} connections was incomplete")]
    Incomplete { family: Family, attempts: u32 },
    /// Some flows could not be removed.
    #[error("remove {failed} stale {family} connection(s): {source}{}", hint(source))]
    Remove {
        family: Family,
        failed: usize,
        /// The error of the first one.
        source: io::Error,
    },
}

impl From<SocketError> for ConntrackError {
    fn from(error: SocketError) -> ConntrackError {
        match error {
            SocketError::Open(source) => match source.raw_os_error() {
                Some(libc::EPROTONOSUPPORT) => ConntrackError::Unsupported,
                _ => ConntrackError::Open(source),
            },
            SocketError::Option { source, .. } => ConntrackError::Open(source),
            SocketError::Send { source, .. } => ConntrackError::Send(source),
            SocketError::Receive(source) => ConntrackError::Receive(source),
            SocketError::Overrun => {
                ConntrackError::Receive(io::Error::from_raw_os_error(libc::ENOBUFS))
            }
            SocketError::Timeout { seconds } => ConntrackError::Timeout { seconds },
        }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EBUSY) => " (a flow table has offloaded it; it ends when it is idle)",
        _ => "",
    }
}
