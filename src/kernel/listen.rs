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

/// After so many successes an error is news again.
const GOOD_ROW: u32 = 100;

/// Whether an error of accept(2) or recvfrom(2) is about one peer, so that the next call does better
/// (accept(2), "Error handling"). All others may last: no descriptor or memory is left, a security module
/// forbids it, the socket is broken.
pub fn is_passing(error: &io::Error) -> bool {
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
pub struct Troubles {
    /// What cannot be done, after "cannot".
    what: String,
    said: Option<String>,
    good: u32,
}

impl Troubles {
    /// None yet; `what` follows "cannot" in messages.
    pub fn new(what: String) -> Troubles {
        Troubles { what, said: None, good: 0 }
    }

    /// It worked.
    pub fn none(&mut self) {
        if self.said.is_some() {
            self.good += 1;
            if self.good >= GOOD_ROW {
                self.said = None;
            }
        }
    }

    /// It failed. Returns when it should be tried again.
    pub async fn met(&mut self, error: &io::Error) {
        let what = &self.what;
        if is_passing(error) {
            tracing::debug!(%error, "cannot {what}");
            return;
        }
        self.good = 0;
        let reason = error.to_string();
        if self.said.as_ref() != Some(&reason) {
            let way_out = if is_shortage(error) {
                "; raise the limit of open files (LimitNOFILE, ulimit -n)"
            } else {
                ""
            };
            tracing::warn!("cannot {what}: {reason}{way_out}; trying again every {PAUSE:?}");
            self.said = Some(reason);
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
pub async fn rests(taking_in: impl Future<Output = ()>) -> bool {
    let mut looks = 0;
    let busy = std::future::poll_fn(|_| {
        looks += 1;
        let spins = looks > 10_000;
        if spins { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    });
    tokio::select! {
        () = taking_in => panic!("it ended"),
        () = busy => false,
        () = tokio::time::sleep(PAUSE * 20) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_error_that_lasts_is_said_once_until_all_was_well_for_long() {
        let mut troubles = Troubles::new("do it".to_owned());
        let error = |number| io::Error::from_raw_os_error(number);
        troubles.met(&error(libc::ECONNABORTED)).await;
        assert_eq!(troubles.said, None, "it was one peer's");
        troubles.met(&error(libc::EPERM)).await;
        let said = troubles.said.clone();
        assert!(said.is_some());
        (1..GOOD_ROW).for_each(|_| troubles.none());
        troubles.met(&error(libc::EPERM)).await;
        (1..GOOD_ROW).for_each(|_| troubles.none());
        assert_eq!(troubles.said, said, "it comes and goes");
        troubles.none();
        assert_eq!(troubles.said, None, "it would be news");
    }
}
