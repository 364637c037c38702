//! What can go wrong between this process and the kernel.

use std::io;

/// A request was not answered, or refused.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel could not be talked to.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A list changed while it was read, every time.
    #[error("the kernel's list changed while it was read; try again")]
    Interrupted,
    /// The kernel refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

/// The kernel could not be talked to.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum SocketError {
    /// There is no such socket.
    #[error("open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// A socket option that is needed was refused.
    #[error("set {option} on a netlink socket: {source}")]
    Option {
        /// As netlink(7) and socket(7) call it.
        option: &'static str,
        /// The system call's error.
        source: io::Error,
    },
    /// Messages could not be sent.
    #[error("send {bytes} bytes to the kernel: {source}")]
    Send {
        bytes: usize,
        /// The system call's error; `EMSGSIZE` if the send queue may not be as long.
        source: io::Error,
    },
    /// An answer could not be received.
    #[error("receive from the kernel: {0}")]
    Receive(#[source] io::Error),
    /// Answers were lost, because they found no room in the receive queue.
    #[error("the kernel's answers did not fit into the receive queue")]
    Overrun,
    /// No answer came.
    #[error("the kernel did not answer within {seconds} s")]
    Timeout { seconds: u64 },
}

/// The kernel's no to one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A number of `errno.h`.
    pub errno: i32,
    /// What the kernel says beside it (`NLMSGERR_ATTR_MSG`).
    pub text: Option<String>,
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Whether the error means that the kernel's state differs from the expected one: an object exists
    /// already, or does not exist.
    pub fn contradicts_state(&self) -> bool {
        matches!(
            self.errno,
            libc::EEXIST | libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL
        )
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}
