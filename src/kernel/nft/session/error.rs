//! Errors of nf_tables.

use std::io;

use crate::netlink::SocketError;
use crate::nft::model::TableName;

/// Talking to nf_tables failed as a whole.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum NftError {
    /// The kernel has no nfnetlink at all.
    #[error(
        "open a netfilter netlink socket: {0}; this kernel needs CONFIG_NF_TABLES (modprobe nf_tables)"
    )]
    Open(#[source] io::Error),
    /// A socket option that is needed was refused.
    #[error("set {option} on the netfilter netlink socket: {source}")]
    Option { option: &'static str, source: io::Error },
    /// The process may not use nf_tables.
    #[error(
        "nf_tables is not permitted: run with the capability CAP_NET_ADMIN in the user namespace that owns this network namespace"
    )]
    NotPermitted,
    /// The kernel has nfnetlink without nf_tables.
    #[error(
        "this kernel has no nf_tables: load the module (modprobe nf_tables) or choose another proxy mode"
    )]
    Unsupported,
    /// The batch is larger than the send queue may be.
    #[error(
        "send {bytes} bytes to nf_tables: the send queue is limited; run with CAP_NET_ADMIN in the initial user namespace or raise the sysctl net.core.wmem_max"
    )]
    TooLarge { bytes: usize },
    /// The message could not be sent.
    #[error("send {bytes} bytes to nf_tables: {source}")]
    Send { bytes: usize, source: io::Error },
    /// The kernel would not take the batch as a whole.
    #[error("nf_tables took none of the transaction: {0}")]
    Batch(#[source] io::Error),
    /// The answer could not be received.
    #[error("receive from nf_tables: {0}")]
    Receive(#[source] io::Error),
    /// The kernel did not answer in time.
    #[error(
        "nf_tables did not answer within {seconds} s; a transaction of another process may be blocking it"
    )]
    Timeout { seconds: u64 },
    /// The table changed under the reader again and again.
    #[error("table {table} changed during each of {attempts} attempts to read it")]
    Unstable { table: TableName, attempts: u32 },
    /// A read request was refused.
    #[error("read {what}: {source}")]
    Read { what: String, source: io::Error },
    /// The kernel sent something that does not follow the protocol.
    #[error("decode the kernel's message about {what}: {why}")]
    Malformed { what: String, why: &'static str },
    /// A name, comment or value does not fit into its netlink attribute.
    #[error("encode {object}: {why}")]
    TooLong { object: String, why: &'static str },
}

impl NftError {
    /// Whether what was asked for is not there.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, NftError::Read { source, .. } if source.raw_os_error() == Some(libc::ENOENT))
    }

    /// Whether a reading failed because the table changed meanwhile, or answers were lost.
    pub(super) fn is_passing(&self) -> bool {
        let (NftError::Read { source, .. } | NftError::Receive(source)) = self else {
            return false;
        };
        matches!(
            source.raw_os_error(),
            Some(libc::ENOENT | libc::EINTR | libc::ENOBUFS | libc::EAGAIN)
        )
    }
}

impl From<SocketError> for NftError {
    fn from(error: SocketError) -> NftError {
        match error {
            SocketError::Open(source) => NftError::Open(source),
            SocketError::Option { option, source } => NftError::Option { option, source },
            SocketError::Send { bytes, source } => match source.raw_os_error() {
                Some(libc::EMSGSIZE) => NftError::TooLarge { bytes },
                _ => NftError::Send { bytes, source },
            },
            SocketError::Receive(source) => NftError::Receive(source),
            SocketError::Overrun => NftError::Receive(io::Error::from_raw_os_error(libc::ENOBUFS)),
            SocketError::Timeout { seconds } => NftError::Timeout { seconds },
        }
    }
}

/// A batch was not applied; the kernel is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel refused some of the operations.
    #[error("nf_tables refused {} operation(s), so none was applied: {}", .0.len(), first(.0))]
    Refused(Vec<Refused>),
    /// The batch did not get to the point of being judged.
    #[error(transparent)]
    Transport(#[from] NftError),
}

/// One operation that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Index into the operations given to `apply`.
    pub op: usize,
    /// How many operations from there on it may have been instead: 1 if it is known exactly.
    pub count: usize,
    /// Error number, as in `errno.h`.
    pub errno: i32,
    /// The kernel's own words (extended acknowledgement), if it gave any, else the errno's.
    pub detail: String,
    /// The operation, as [`crate::nft::Op::line`] prints it.
    pub object: String,
}

impl Refused {
    /// Whether the kernel's state is not what the operation took for granted: something is missing,
    /// is there already, or is in use.
    pub fn contradicts_state(&self) -> bool {
        matches!(self.errno, libc::ENOENT | libc::EEXIST | libc::EBUSY)
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.object, self.detail)
    }
}

fn first(refused: &[Refused]) -> String {
    refused.first().map(Refused::to_string).unwrap_or_default()
}
