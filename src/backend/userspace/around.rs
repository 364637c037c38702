//! What is around this node, as far as it decides whether an endpoint can see a client's address: routes,
//! and what else goes on between the two.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use crate::kernel::conntrack::Lookup;
use crate::kernel::sockets;
use crate::kernel::ways::{Way, Ways};
use crate::net::Protocol;

/// How many ports are tried beside the client's own.
const OTHERS: usize = 8;

/// Asks the kernel.
#[derive(Debug)]
pub(super) struct Around {
    ways: Ways,
    flows: Lookup,
    /// Ports that no program of this node counts on.
    free: RangeInclusive<u16>,
}

impl Around {
    /// Opens the ways to ask.
    pub(super) fn open() -> io::Result<Around> {
        let ways = Ways::open().map_err(io::Error::other)?;
        let flows = Lookup::open().map_err(io::Error::other)?;
        Ok(Around { ways, flows, free: sockets::ephemeral_ports() })
    }

    /// Whether what an endpoint answers to a client's address comes through this node's routing: each
    /// is behind an interface of its own, the endpoint without a router between. Neighbours on a bridge
    /// would talk past this node, and what this node says to itself is not routed.
    pub(super) fn is_between(&self, client: IpAddr, endpoint: IpAddr) -> bool {
        let found = self.ways.to(endpoint).and_then(|to| Ok((to, self.ways.to(client)?)));
        match found {
            Ok((Way::Link(at), back)) => back != Way::Nowhere && back.interface() != Some(at),
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(%error, "cannot ask for routes; an endpoint sees this node");
                false
            }
        }
    }

    /// The client's port, if no program of this node can count on it, and then any others.
    ///
    /// Ports from which the client itself talks to the endpoint come last: the two could not be told
    /// apart, and the endpoint would break one of them off. What a UDP client has left in the kernel's
    /// memory looks like that, too, so these are not left out.
    pub(super) fn sources(
        &self,
        protocol: Protocol,
        client: SocketAddr,
        endpoint: SocketAddr,
    ) -> impl Iterator<Item = SocketAddr> {
        let own = Some(client.port()).filter(|port| self.free.contains(port));
        let at = move |port| SocketAddr::new(client.ip(), port);
        let all = move || {
            let others = std::iter::repeat_with(|| fastrand::u16(self.free.clone())).take(OTHERS);
            own.into_iter().chain(others).map(at)
        };
        let unused = move |source: &SocketAddr| {
            let known = self.flows.knows(protocol, *source, endpoint);
            !known.unwrap_or_else(|error| {
                tracing::debug!(%error, "cannot ask for a flow");
                false
            })
        };
        all().filter(unused).chain(all())
    }
}
