//! What all relays share, and what one of them knows.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::around::Around;
use super::choice::Choice;
use super::clients::Crowd;
use super::counters::Counters;
use super::descriptors::Descriptors;
use super::pump::Pipes;
use crate::nftables::Sight;
use sluice_core::net::Family;
use sluice_core::plan::PoolEndpoint;
use sluice_kernel::sockets::Unreachable;

/// What holds for all relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How long a UDP client keeps its socket without any answer.
    pub udp_timeout: Duration,
    /// The same once there was an answer.
    pub udp_answered_timeout: Duration,
    /// How long connections may take to end after the daemon was told to.
    pub drain: Duration,
    /// Whom endpoints see where the source is kept.
    pub sight: Sight,
}

/// What all relays share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    pub(super) descriptors: Descriptors,
    pub(super) pipes: Pipes,
    pub(super) crowd: Crowd,
    /// From its cancellation on, nothing new is taken on.
    pub(super) closing: CancellationToken,
    /// When connections that have not ended are cut.
    pub(super) drain_until: OnceLock<Instant>,
    /// How it is found out what endpoints may see of clients; `None` if they see nothing.
    pub(super) around: Option<Around>,
    unreachable: [OnceLock<Option<Unreachable>>; 2],
}

impl Shared {
    /// For a process that may open `limit` files; with `around`, endpoints may see clients.
    pub(super) fn new(options: Options, limit: u64, around: Option<Around>) -> Shared {
        let counters = Arc::new(Counters::default());
        let descriptors = Descriptors::of(limit, Arc::clone(&counters));
        let crowd = Crowd::new(descriptors.total());
        Shared {
            options,
            counters,
            descriptors,
            pipes: Pipes::default(),
            crowd,
            closing: CancellationToken::new(),
            drain_until: OnceLock::new(),
            around,
            unreachable: [OnceLock::new(), OnceLock::new()],
        }
    }

    /// Tells a UDP client that nobody listens; as far as this process may.
    pub(super) fn tell_unreachable(&self, client: SocketAddr, listener: SocketAddr) {
        let family = Family::of(client.ip());
        let open = || {
            let opened = Unreachable::open(family);
            opened
                .inspect_err(|error| tracing::warn!("UDP clients get no ICMP errors: {error}"))
                .ok()
        };
        if let Some(unreachable) =
            self.unreachable[usize::from(family == Family::V6)].get_or_init(open)
            && let Err(error) = unreachable.tell(client, listener)
        {
            tracing::debug!(%client, %error, "could not pass an ICMP error on");
        }
    }
}

/// The relays of a pool choose together: affinity does not depend on whom endpoints see.
pub(super) type SharedChoice = Arc<Mutex<Choice>>;

/// What a relay knows of its traffic; it changes while the relay runs.
#[derive(Debug)]
pub(super) struct Target {
    choice: SharedChoice,
    /// Endpoints on this node, if they may see clients.
    here: Mutex<BTreeSet<SocketAddr>>,
    /// The endpoints whose connections may go on; `None` is any.
    staying: watch::Sender<Option<BTreeSet<SocketAddr>>>,
    /// Bits of the packet mark by which the kernel knows the relay's own connections.
    pub(super) mark: u32,
    sight: Sight,
}

impl Target {
    pub(super) fn new(mark: u32, sight: Sight, choice: SharedChoice) -> Target {
        Target { choice, here: Mutex::default(), staying: watch::Sender::new(None), mark, sight }
    }

    /// For another relay of the same pool.
    pub(super) fn choice(&self) -> SharedChoice {
        Arc::clone(&self.choice)
    }

    /// Another pool, and for how many seconds clients stay at an endpoint.
    pub(super) fn update(&self, pool: &[PoolEndpoint], affinity: Option<u32>) {
        if self.sight == Sight::Client {
            let here = pool.iter().filter(|endpoint| endpoint.local).map(at).collect();
            *self.here.lock().unwrap_or_else(PoisonError::into_inner) = here;
        }
        let pool: Vec<SocketAddr> = pool.iter().map(at).collect();
        // Before anybody is sent there.
        self.staying.send_if_modified(|staying| {
            staying.iter_mut().for_each(|staying| staying.extend(&pool));
            false
        });
        self.choice.lock().unwrap_or_else(PoisonError::into_inner).update(pool, affinity);
    }

    /// An endpoint for a new connection of a client; those that were tried for it come last.
    pub(super) fn pick(&self, client: IpAddr, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let mut choice = self.choice.lock().unwrap_or_else(PoisonError::into_inner);
        choice.pick(client, Instant::now(), tried, |below| fastrand::usize(..below))
    }

    /// Whom to ask where to stand before an endpoint so that it sees the client's address, if it shall.
    pub(super) fn asks<'a>(
        &self,
        client: IpAddr,
        endpoint: SocketAddr,
        shared: &'a Shared,
    ) -> Option<&'a Around> {
        let single_link = match client {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let here = || {
            let here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
            here.contains(&endpoint)
        };
        // Who asks for itself must not hear from itself.
        let hairpin = client == endpoint.ip();
        let usable = !hairpin && !single_link && !client.is_loopback();
        let shows = self.sight == Sight::Client && usable && here();
        shared.around.as_ref().filter(|_| shows)
    }

    /// Ends what is under way to endpoints that are not among these.
    pub(super) fn only(&self, staying: &BTreeSet<SocketAddr>) {
        self.staying.send_if_modified(|known| {
            let changed = known.as_ref() != Some(staying);
            if changed {
                *known = Some(staying.clone());
            }
            changed
        });
    }

    /// Returns when connections to this endpoint shall end.
    pub(super) async fn outlived(&self, endpoint: SocketAddr) {
        let mut staying = self.staying.subscribe();
        let gone = |staying: &Option<BTreeSet<SocketAddr>>| {
            staying.as_ref().is_some_and(|staying| !staying.contains(&endpoint))
        };
        // The sender lives as long as `self`.
        let _ = staying.wait_for(gone).await;
    }
}

fn at(endpoint: &PoolEndpoint) -> SocketAddr {
    SocketAddr::new(endpoint.ip, endpoint.port)
}
