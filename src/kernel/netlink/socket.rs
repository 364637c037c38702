//! The socket: bytes out, datagrams of the kernel in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::SocketAddr;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::error::SocketError;

/// The kernel answers before `send` returns, so this is only waited for when it does not answer at
/// all.
const TIME_OUT: Duration = Duration::from_secs(10);
/// The kernel builds dumps in pieces of at most 32 KiB, or as large as the receiver's buffer was
/// the last time, if that is less (`netlink_dump` in `net/netlink/af_netlink.c`).
const RECEIVE: usize = 64 * 1024;

/// A netlink socket in the network namespace that it was opened in.
pub(crate) struct Socket {
    socket: netlink_sys::Socket,
    port: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("port", &self.port).finish_non_exhaustive()
    }
}

/// Whether to wait for a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until the time is out.
    Patiently,
    /// Not at all.
    Not,
}

/// What there is to receive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received<'a> {
    /// A datagram of the kernel.
    Datagram(&'a [u8]),
    /// Some were lost, because the receive queue was full.
    Overrun,
    /// Nothing so far; only if it was not to be waited for.
    Nothing,
}

impl Socket {
    /// Opens a socket of a netlink protocol in the current network namespace.
    pub(crate) fn open(protocol: isize) -> Result<Socket, SocketError> {
        let mut socket = netlink_sys::Socket::new(protocol).map_err(SocketError::Open)?;
        let port = socket.bind_auto().map_err(SocketError::Open)?.port_number();
        let option = |option| move |source| SocketError::Option { option, source };
        socket.set_cap_ack(true).map_err(option("NETLINK_CAP_ACK"))?;
        socket.set_ext_ack(true).map_err(option("NETLINK_EXT_ACK"))?;
        let time_out = TimeVal::new(i64::try_from(TIME_OUT.as_secs()).unwrap_or(10), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &time_out)
            .map_err(|errno| option("SO_RCVTIMEO")(errno.into()))?;
        Ok(Socket { socket, port, buffer: Vec::with_capacity(RECEIVE) })
    }

    /// The socket's address (`nlmsg_pid`).
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Makes room for so many bytes of answers. Without the privilege, the system's limit
    /// (`net.core.rmem_max`) has to do.
    pub(crate) fn enlarge_receive_queue(&mut self, bytes: usize) {
        if setsockopt(&self.socket, sockopt::RcvBufForce, &bytes).is_err() {
            let _ = setsockopt(&self.socket, sockopt::RcvBuf, &bytes);
        }
    }

    /// Receives the notifications of a group from now on.
    pub(crate) fn join(&mut self, group: u32) -> Result<(), SocketError> {
        let option = "NETLINK_ADD_MEMBERSHIP";
        self.socket.add_membership(group).map_err(|source| SocketError::Option { option, source })
    }

    /// Receives no more notifications of a group.
    pub(crate) fn leave(&mut self, group: u32) -> Result<(), SocketError> {
        let option = "NETLINK_DROP_MEMBERSHIP";
        self.socket.drop_membership(group).map_err(|source| SocketError::Option { option, source })
    }

    /// Sends messages in one system call.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), SocketError> {
        let failed = |source| SocketError::Send { bytes: bytes.len(), source };
        let kernel = SocketAddr::new(0, 0);
        let sent = match self.socket.send_to(bytes, &kernel, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                self.enlarge_send_queue(bytes.len());
                self.socket.send_to(bytes, &kernel, 0)
            }
            result => result,
        };
        match sent.map_err(failed)? {
            sent if sent == bytes.len() => Ok(()),
            _ => Err(failed(io::ErrorKind::WriteZero.into())),
        }
    }

    /// The kernel takes messages up to the size of the send queue less some 32 bytes.
    fn enlarge_send_queue(&mut self, bytes: usize) {
        let room = (bytes + 4096).next_power_of_two();
        if setsockopt(&self.socket, sockopt::SndBufForce, &room).is_err() {
            let _ = setsockopt(&self.socket, sockopt::SndBuf, &room);
        }
    }

    /// Receives one datagram of the kernel.
    pub(crate) fn receive(&mut self, wait: Wait) -> Result<Received<'_>, SocketError> {
        let flags = match wait {
            Wait::Patiently => 0,
            Wait::Not => libc::MSG_DONTWAIT,
        };
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, flags) {
                // Only the kernel (port 0) is believed; any process may write to a netlink port.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok((len, _)) => {
                    return Ok(Received::Datagram(&self.buffer[..len.min(self.buffer.len())]));
                }
                Err(error) => match (error.raw_os_error(), wait) {
                    (Some(libc::EINTR), _) => {}
                    (Some(libc::ENOBUFS), _) => return Ok(Received::Overrun),
                    (Some(libc::EAGAIN), Wait::Not) => return Ok(Received::Nothing),
                    (Some(libc::EAGAIN), Wait::Patiently) => {
                        return Err(SocketError::Timeout { seconds: TIME_OUT.as_secs() });
                    }
                    _ => return Err(SocketError::Receive(error)),
                },
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use netlink_sys::protocols::NETLINK_USERSOCK;

    use super::*;

    #[test]
    fn nobody_but_the_kernel_is_believed() {
        let mut ours = Socket::open(NETLINK_USERSOCK).expect("a socket");
        let other = Socket::open(NETLINK_USERSOCK).expect("a socket");
        let to = SocketAddr::new(ours.port(), 0);
        assert_eq!(other.socket.send_to(&[0; 20], &to, 0).expect("it may send"), 20);
        assert_eq!(ours.receive(Wait::Not).expect("it can be read"), Received::Nothing);
    }

    #[test]
    fn a_message_that_is_too_long_for_the_send_queue_makes_it_longer() {
        let mut socket = Socket::open(NETLINK_USERSOCK).expect("a socket");
        setsockopt(&socket.socket, sockopt::SndBuf, &2048).expect("it can be shortened");
        // The kernel looks at the length first, and for a receiver then.
        let error = socket.send(&[0; 60_000]).expect_err("the kernel has no such receiver");
        assert!(
            matches!(&error, SocketError::Send { source, .. } if source.raw_os_error() == Some(libc::ECONNREFUSED)),
            "{error}"
        );
    }
}
