//! Whether the kernel tracks one certain flow.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use super::ConntrackError;
use super::socket::ConntrackSocket;
use crate::net::Protocol;

/// Asks for single flows in the network namespace that it was opened in; from any thread.
#[derive(Debug)]
pub struct Lookup(Mutex<ConntrackSocket>);

impl Lookup {
    /// Opens the way to ask.
    ///
    /// # Errors
    /// If the kernel has no connection tracking.
    pub fn open() -> Result<Lookup, ConntrackError> {
        ConntrackSocket::open().map(|socket| Lookup(Mutex::new(socket)))
    }

    /// Whether there is a flow in which packets go from one of these ends to the other as they are. A TCP
    /// connection that has ended is none.
    ///
    /// # Errors
    /// If the kernel does not answer, or does not let this process ask.
    pub fn knows(
        &self,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<bool, ConntrackError> {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        socket.knows(protocol, source, destination)
    }
}
