//! One conntrack entry, reduced to what Services need.

use std::fmt;
use std::net::SocketAddr;

use sluice_core::net::Protocol;

/// A connection that the kernel tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Who began it: the source of its first packet.
    pub source: SocketAddr,
    /// Where its first packet was sent to, before any translation.
    pub destination: SocketAddr,
    /// The source of its replies: the destination after translation.
    pub answered_by: SocketAddr,
    /// Whether there was a packet in the other direction, ever.
    pub replied: bool,
}

/// Which flows of a protocol a reading is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Those without a packet in the other direction so far.
    Unreplied,
    /// Every one.
    All,
}

impl Flow {
    /// Whether its destination is translated to another one.
    pub fn is_redirected(&self) -> bool {
        self.answered_by != self.destination
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flow { protocol, source, destination, answered_by, replied: _ } = self;
        write!(f, "{protocol} {source} to {destination}, answered by {answered_by}")
    }
}
