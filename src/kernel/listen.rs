//! Listening TCP sockets for one or both families, and the handling of accept errors.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use super::sockets::is_shortage;

/// Connections that may wait in the kernel (its own limit is `net.core.somaxconn`).
const BACKLOG: i32 = 1024;

/// The families of an unspecified address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Its own family.
    OneFamily,
    /// Both, as in Go: `0.0.0.0` also listens on `::`.
    BothFamilies,
}

/// Listens on a TCP address. Must be called within a Tokio runtime.
///
/// # Errors
/// The kernel's error: the address is in use, or not one of this node.
pub fn listen(address: SocketAddr, reach: Reach) -> io::Result<TcpListener> {
    if reach == Reach::OneFamily || !address.ip().is_unspecified() {
        return bind(address, Reach::OneFamily);
    }
    let everywhere = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
    match bind(everywhere, Reach::BothFamilies) {
        // A kernel without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            bind(address, Reach::OneFamily)
        }
        bound => bound,
    }
}

fn bind(address: SocketAddr, reach: Reach) -> io::Result<TcpListener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(reach == Reach::OneFamily)?;
    }
    // Connections of a predecessor that are still closing are no reason to fail.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The pause after an error that is likely to recur.
const PAUSE: Duration = Duration::from_millis(100);

/// After so many successes an error is logged again.
const SUCCESSES_TO_FORGET: u32 = 100;

/// Whether an error of accept(2) or recvfrom(2) is about one peer, so that the next call does better
/// (accept(2), "Error handling"). All others may last: no descriptor or memory is left, a security module
/// forbids it, the socket is broken.
pub fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNREFUSED
                | libc::ECONNRESET
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::EINTR
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EPROTO
        )
    )
}

/// Errors of a receiving socket: logged once, with a pause, so that a persistent error costs only an
/// occasional retry.
#[derive(Debug)]
pub struct SocketErrors {
    /// What failed, for messages: "cannot …".
    action: String,
    logged: Option<String>,
    successes: u32,
}

impl SocketErrors {
    /// None yet. `action` follows "cannot" in messages.
    pub fn new(action: String) -> SocketErrors {
        SocketErrors { action, logged: None, successes: 0 }
    }

    /// Counts a success: after many, the same error is logged again.
    pub fn succeeded(&mut self) {
        if self.logged.is_some() {
            self.successes += 1;
            if self.successes >= SUCCESSES_TO_FORGET {
                self.logged = None;
            }
        }
    }

    /// Logs an error unless it is known, and waits until the next attempt is due.
    pub async fn failed(&mut self, error: &io::Error) {
        let action = &self.action;
        if is_transient(error) {
            tracing::debug!(%error, "cannot {action}");
            return;
        }
        self.successes = 0;
        let reason = error.to_string();
        if self.logged.as_ref() != Some(&reason) {
            let advice = if is_shortage(error) {
                "; raise the limit of open files (LimitNOFILE, ulimit -n)"
            } else {
                ""
            };
            tracing::warn!("cannot {action}: {reason}{advice}; trying again every {PAUSE:?}");
            self.logged = Some(reason);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Breaks a listening or receiving socket for good: it is ready for ever, and every call fails.
#[cfg(any(test, feature = "fixtures"))]
pub fn break_for_good(socket: &impl std::os::fd::AsFd) {
    // An unconnected UDP socket returns an error, but is shut down all the same.
    let _ = socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Both);
}

/// Whether a receive loop pauses when it gets only errors. The clock must be paused: it stands still while a
/// task is busy.
#[cfg(any(test, feature = "fixtures"))]
pub async fn pauses(receiving: impl Future<Output = ()>) -> bool {
    let mut looks = 0;
    let busy = std::future::poll_fn(|_| {
        looks += 1;
        let spins = looks > 10_000;
        if spins { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    });
    tokio::select! {
        () = receiving => panic!("the loop ended"),
        () = busy => false,
        () = tokio::time::sleep(PAUSE * 20) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_error_that_lasts_is_logged_once_until_all_was_well_for_long() {
        let mut errors = SocketErrors::new("do it".to_owned());
        let error = |number| io::Error::from_raw_os_error(number);
        errors.failed(&error(libc::ECONNABORTED)).await;
        assert_eq!(errors.logged, None, "it was one peer's");
        errors.failed(&error(libc::EPERM)).await;
        let logged = errors.logged.clone();
        assert!(logged.is_some());
        (1..SUCCESSES_TO_FORGET).for_each(|_| errors.succeeded());
        errors.failed(&error(libc::EPERM)).await;
        (1..SUCCESSES_TO_FORGET).for_each(|_| errors.succeeded());
        assert_eq!(errors.logged, logged, "it comes and goes");
        errors.succeeded();
        assert_eq!(errors.logged, None, "the next one is logged again");
    }
}
