//! Whether conntrack has a given flow.

use std::net::SocketAddr;

use super::ConntrackError;
use super::requests::Conntrack;
use sluice_core::net::Protocol;

/// Asks for single flows in the network namespace that it was opened in; from any thread, one at a time.
#[derive(Debug)]
pub struct Lookup(Conntrack);

impl Lookup {
    /// Opens the way to ask.
    ///
    /// # Errors
    /// If the kernel has no connection tracking.
    pub fn open() -> Result<Lookup, ConntrackError> {
        Conntrack::open().map(Lookup)
    }

    /// Whether there is a flow in which packets go from one of these ends to the other as they are. A TCP
    /// connection that has ended is none. Waits for the kernel.
    ///
    /// # Errors
    /// If the kernel does not answer, or does not let this process ask.
    pub fn knows(
        &mut self,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<bool, ConntrackError> {
        self.0.knows(protocol, source, destination)
    }
}
