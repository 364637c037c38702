//! The addresses of this node's interfaces, followed as they change.
//!
//! Those of [`VIRTUAL`] do not count: this node answers to them, but they are Services', not its own.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::{StreamExt, TryStreamExt};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_sys::{AsyncSocket, SocketAddr};
use rtnetlink::Handle;
use rtnetlink::constants::{RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR};
use tokio::sync::watch;

/// The device that has cluster IPs, in the IPVS mode of this and of the Go kube-proxy.
pub const VIRTUAL: &str = "kube-ipvs0";

/// The addresses cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No socket for routing messages.
    #[error("open rtnetlink: {0}")]
    Open(#[source] std::io::Error),
    /// The list was refused.
    #[error("list this node's addresses: {0}")]
    List(#[source] rtnetlink::Error),
}

/// Lists the addresses of the current network namespace and follows them for as long as the receiver
/// lives. Must be called within a Tokio runtime.
pub async fn follow() -> Result<watch::Receiver<BTreeSet<IpAddr>>, AddressError> {
    let (mut connection, handle, mut messages) =
        rtnetlink::new_connection().map_err(AddressError::Open)?;
    let groups = SocketAddr::new(0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR);
    connection.socket_mut().socket_mut().bind(&groups).map_err(AddressError::Open)?;
    tokio::spawn(connection);

    let (sender, receiver) = watch::channel(list(&handle).await?);
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let counts = match &message.payload {
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewAddress(about) | RouteNetlinkMessage::DelAddress(about),
                ) => !is_virtual(about),
                NetlinkPayload::Overrun(_) => true,
                _ => false,
            };
            if !counts || sender.is_closed() {
                continue;
            }
            match list(&handle).await {
                Ok(now) => {
                    sender.send_if_modified(|known| {
                        let changed = *known != now;
                        *known = now;
                        changed
                    });
                }
                Err(error) => tracing::warn!("{error}; node ports stay on the addresses known"),
            }
        }
    });
    Ok(receiver)
}

fn is_virtual(address: &AddressMessage) -> bool {
    // Asked each time, because the device may be made anew with another number.
    nix::net::if_::if_nametoindex(VIRTUAL) == Ok(address.header.index)
}

async fn list(handle: &Handle) -> Result<BTreeSet<IpAddr>, AddressError> {
    let mut found = BTreeSet::new();
    let mut replies = handle.address().get().execute();
    let ignored = nix::net::if_::if_nametoindex(VIRTUAL).ok();
    while let Some(message) = replies.try_next().await.map_err(AddressError::List)? {
        if ignored == Some(message.header.index) {
            continue;
        }
        // IFA_LOCAL is the own end of a point-to-point link, IFA_ADDRESS the other one.
        let attribute = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
            message.attributes.iter().find_map(wanted)
        };
        let local = attribute(|a| match a {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
        let address = attribute(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        });
        found.extend(local.or(address));
    }
    Ok(found)
}
