//! Why the lab's network could not be built or changed.

use super::address::MAX_NODES;
use super::{claim, link, netns, pod, sysctl};

/// Why the lab could not be built or changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Error {
    /// Leftovers, or the lock of the lab's name.
    #[error(transparent)]
    Claim(#[from] claim::Error),
    /// A namespace.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// A link, address or route.
    #[error("on {host}: {source}")]
    Link { host: String, source: link::Error },
    /// A kernel setting.
    #[error("on {host}: {source}")]
    Setting { host: String, source: sysctl::Error },
    /// The responders of a pod.
    #[error("start the responders of pod {pod}: {source}")]
    Responders { pod: String, source: pod::Error },
    /// A name that no namespace can have.
    #[error("{0:?} is no name for a pod: use 1 to 63 of a-z, 0-9, '-' and '.'")]
    BadName(String),
    /// Names are unique in a lab.
    #[error("the lab already has a host named {0}")]
    NameTaken(String),
    /// No such node.
    #[error("the lab has no node named {0}")]
    NoSuchNode(String),
    /// No such pod.
    #[error("the lab has no pod named {0}")]
    NoSuchPod(String),
    /// All node numbers are in use.
    #[error("the lab's address plan ends at {MAX_NODES} nodes")]
    TooManyNodes,
    /// All pod addresses of a node are in use.
    #[error("{0} has no pod address left; use another node, or remove pods")]
    TooManyPods(String),
    /// The client would be cut off.
    #[error("{0} is the client's way into the cluster; call set_client_gateway first")]
    IsClientGateway(String),
}
