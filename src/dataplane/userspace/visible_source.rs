//! Which source address endpoints see.

/// Which source address endpoints see where the forwarding table keeps the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VisibleSource {
    /// This node's, always. A pool is one socket.
    Node,
    /// The client's, where routing allows it. A pool is two sockets: for traffic whose source is kept,
    /// and for traffic that is masqueraded.
    Client,
}
