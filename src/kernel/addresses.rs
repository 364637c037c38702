//! The addresses of this node's interfaces, with their changes.
//!
//! Those of [`IPVS_DEVICE`] are ignored: they are local addresses, but cluster IPs.
//!
//! A notification only triggers a read: the whole list is read once for all notifications that have arrived,
//! and again after a pause if that failed or the list changed meanwhile. Notifications are queued in the
//! kernel, which reports an overflow.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::FutureExt;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::constants::{RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR};
use tokio::sync::watch;

use super::netlink::attributes::find;
use super::netlink::{Client, NetlinkError, SocketError, messages};

/// The device that has cluster IPs, in the IPVS mode of this and of the Go kube-proxy.
pub const IPVS_DEVICE: &str = "kube-ipvs0";

/// Pauses after a failure: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The addresses cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No socket for routing messages.
    #[error("open rtnetlink: {0}")]
    Open(#[source] io::Error),
    /// No socket for requests, or the list was refused.
    #[error("list this node's addresses: {0}")]
    List(#[from] NetlinkError),
    /// Notifications have ended.
    #[error("subscribe to changes of this node's addresses: {0}")]
    Hear(#[source] io::Error),
}

/// Lists the addresses of the current network namespace and follows them for as long as the receiver
/// lives. Must be called within a Tokio runtime.
///
/// # Errors
/// If they cannot be read now. Later failures are logged, and what is known stays.
pub async fn follow() -> Result<watch::Receiver<BTreeSet<IpAddr>>, AddressError> {
    let mut kernel = Kernel::open()?;
    let (sender, receiver) = watch::channel(kernel.list().await?);
    tokio::spawn(keep_up(sender, kernel));
    Ok(receiver)
}

/// Where addresses are read: the kernel, or in tests something that fails on demand.
trait Source: Send {
    /// Waits for something that makes the list worth reading again.
    fn changed(&mut self) -> impl Future<Output = Result<(), AddressError>> + Send;
    /// Reads the list.
    fn list(&mut self) -> impl Future<Output = Result<BTreeSet<IpAddr>, AddressError>> + Send;
    /// Starts again after a failure.
    fn reopen(&mut self) -> Result<(), AddressError>;
}

/// Keeps the value of `sender` up to date until all receivers are gone. A failure is logged once, and
/// retried.
async fn keep_up(sender: watch::Sender<BTreeSet<IpAddr>>, mut source: impl Source) {
    let mut pause = None;
    let mut said = None;
    loop {
        let result = tokio::select! {
            () = sender.closed() => return,
            result = look(&mut source, pause) => result,
        };
        match result {
            Ok(now) => {
                pause = None;
                if said.take().is_some() {
                    tracing::info!("this node's addresses are followed again");
                }
                sender.send_if_modified(|known| {
                    let changed = *known != now;
                    *known = now;
                    changed
                });
            }
            Err(error) => {
                pause = Some(pause.map_or(FIRST_PAUSE, |p: Duration| (p * 2).min(LONGEST_PAUSE)));
                let error = error.to_string();
                if said.as_ref() != Some(&error) {
                    tracing::warn!("{error}; trying again, node ports stay on the addresses known");
                    said = Some(error);
                }
            }
        }
    }
}

/// The next list: after a change, or after the pause that follows a failure.
async fn look(
    source: &mut impl Source,
    pause: Option<Duration>,
) -> Result<BTreeSet<IpAddr>, AddressError> {
    match pause {
        None => source.changed().await?,
        Some(pause) => {
            tokio::time::sleep(pause).await;
            source.reopen()?;
        }
    }
    source.list().await
}

/// The kernel, in the network namespace that this was opened in.
struct Kernel {
    events: TokioSocket,
    /// Away while a list is read.
    client: Option<Client>,
}

impl Kernel {
    /// Later changes are notified.
    fn open() -> Result<Kernel, AddressError> {
        let mut events = TokioSocket::new(NETLINK_ROUTE).map_err(AddressError::Open)?;
        let groups = SocketAddr::new(0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR);
        events.socket_mut().bind(&groups).map_err(AddressError::Open)?;
        let client = Client::open(NETLINK_ROUTE).map_err(NetlinkError::from)?;
        Ok(Kernel { events, client: Some(client) })
    }

    /// Whether a notification is relevant.
    async fn hear(&mut self) -> Result<bool, AddressError> {
        match self.events.recv_from_full().await {
            // Any process may write to a netlink port.
            Ok((_, from)) if from.port_number() != 0 => Ok(false),
            Ok((datagram, _)) => Ok(counts(&datagram)),
            // Notifications were lost.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            Err(error) => Err(AddressError::Hear(error)),
        }
    }
}

impl Source for Kernel {
    async fn changed(&mut self) -> Result<(), AddressError> {
        while !self.hear().await? {}
        // What has arrived by now is in the list.
        while let Some(heard) = self.hear().now_or_never() {
            heard?;
        }
        Ok(())
    }

    async fn list(&mut self) -> Result<BTreeSet<IpAddr>, AddressError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => Client::open(NETLINK_ROUTE).map_err(NetlinkError::from)?,
        };
        let reading = tokio::task::spawn_blocking(move || {
            let result = read_list(&mut client);
            (client, result)
        });
        let (client, result) = reading
            .await
            .map_err(|error| NetlinkError::from(SocketError::Receive(io::Error::other(error))))?;
        self.client = Some(client);
        Ok(result?)
    }

    fn reopen(&mut self) -> Result<(), AddressError> {
        *self = Kernel::open()?;
        Ok(())
    }
}

/// Whether a notification is of an address that counts.
fn counts(datagram: &[u8]) -> bool {
    // Looked up each time, because the device may be recreated with another index.
    let ignored = nix::net::if_::if_nametoindex(IPVS_DEVICE).ok();
    let mut of_addresses =
        messages(datagram).filter(|m| matches!(m.kind, libc::RTM_NEWADDR | libc::RTM_DELADDR));
    of_addresses.any(|message| {
        read_address(message.payload).is_none_or(|(index, _)| Some(index) != ignored)
    })
}

fn read_list(client: &mut Client) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let all = client.list(question, read_address)?;
    // Asked afterwards: a device that has an address in the list was there before.
    let ignored = nix::net::if_::if_nametoindex(IPVS_DEVICE).ok();
    Ok(all.into_iter().filter(|(index, _)| Some(*index) != ignored).map(|(_, ip)| ip).collect())
}

/// The number of the interface and the address in a message: `struct ifaddrmsg`, then attributes.
pub(super) fn read_address(content: &[u8]) -> Option<(u32, IpAddr)> {
    const HEADER: usize = 8;
    // The own end of a point-to-point link is IFA_LOCAL, the other one IFA_ADDRESS.
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let index = content.get(4..8)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))?;
    let attributes = content.get(HEADER..)?;
    let bytes = find(attributes, LOCAL).or_else(|| find(attributes, ADDRESS))?;
    let ip = match i32::from(*content.first()?) {
        libc::AF_INET => IpAddr::from(*bytes.first_chunk::<4>()?),
        libc::AF_INET6 => IpAddr::from(*bytes.first_chunk::<16>()?),
        _ => return None,
    };
    Some((index, ip))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// What happens, one after the other: the list as it is read, or a failure.
    struct Script {
        steps: VecDeque<Step>,
        done: tokio::sync::oneshot::Sender<()>,
        reopened: usize,
    }

    enum Step {
        Changed(Result<(), AddressError>),
        List(Result<&'static str, AddressError>),
    }

    fn addresses(text: &str) -> BTreeSet<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().expect("an address")).collect()
    }

    impl Source for Script {
        async fn changed(&mut self) -> Result<(), AddressError> {
            match self.steps.pop_front() {
                Some(Step::Changed(result)) => result,
                Some(Step::List(_)) => panic!("a list is owed and not read"),
                None => {
                    let (sender, _) = tokio::sync::oneshot::channel();
                    let _ = std::mem::replace(&mut self.done, sender).send(());
                    std::future::pending().await
                }
            }
        }

        async fn list(&mut self) -> Result<BTreeSet<IpAddr>, AddressError> {
            match self.steps.pop_front() {
                Some(Step::List(result)) => result.map(addresses),
                _ => panic!("the list is read without a reason"),
            }
        }

        fn reopen(&mut self) -> Result<(), AddressError> {
            self.reopened += 1;
            if self.reopened == 1 {
                Err(AddressError::Open(io::ErrorKind::Other.into()))
            } else {
                Ok(())
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_cannot_be_read_is_owed_until_it_can() {
        let interrupted = || Err(AddressError::List(NetlinkError::Interrupted));
        let steps = [
            Step::Changed(Ok(())),
            Step::List(Ok("192.0.2.1 192.0.2.2")),
            // A notification may be lost in a failure, so the list is read again after a pause.
            Step::Changed(Ok(())),
            Step::List(interrupted()),
            Step::List(interrupted()),
            Step::List(Ok("192.0.2.2")),
            // Notifications have failed: the socket is opened again.
            Step::Changed(Err(AddressError::Hear(io::ErrorKind::Other.into()))),
            Step::List(Ok("192.0.2.3")),
        ];
        let (done, ended) = tokio::sync::oneshot::channel();
        let script = Script { steps: steps.into(), done, reopened: 0 };
        let (sender, mut seen) = watch::channel(addresses("192.0.2.1"));
        let task = tokio::spawn(keep_up(sender, script));
        ended.await.expect("every step is taken");
        assert_eq!(*seen.borrow_and_update(), addresses("192.0.2.3"));
        drop(seen);
        task.await.expect("it ends when nobody looks");
    }
}
