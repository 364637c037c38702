//! State shared by all relays, and the state of one.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::choice::Choice;
use super::client_lru::ClientLru;
use super::counters::Counters;
use super::descriptors::Descriptors;
use super::path_probe::PathProbe;
use super::pipes::Pipes;
use super::visible_source::VisibleSource;
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
    /// How long connections may take to end after SIGTERM.
    pub drain: Duration,
    /// Which source endpoints see where it is kept.
    pub visible: VisibleSource,
}

/// What all relays share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    pub(super) descriptors: Descriptors,
    pub(super) pipes: Pipes,
    pub(super) lru: ClientLru,
    /// From its cancellation on, nothing new is taken on.
    pub(super) closing: CancellationToken,
    /// When connections that have not ended are cut.
    pub(super) drain_until: OnceLock<Instant>,
    /// Finds out whether an endpoint may see a client; `None` if none may.
    pub(super) probe: Option<PathProbe>,
    unreachable: [OnceLock<Option<Unreachable>>; 2],
}

impl Shared {
    /// For a process that may open `limit` files; with `probe`, endpoints may see clients.
    pub(super) fn new(options: Options, limit: u64, probe: Option<PathProbe>) -> Shared {
        let counters = Arc::new(Counters::default());
        let descriptors = Descriptors::of(limit, Arc::clone(&counters));
        let lru = ClientLru::new(descriptors.total());
        Shared {
            options,
            counters,
            descriptors,
            pipes: Pipes::default(),
            lru,
            closing: CancellationToken::new(),
            drain_until: OnceLock::new(),
            probe,
            unreachable: [OnceLock::new(), OnceLock::new()],
        }
    }

    /// Sends ICMP port unreachable to a UDP client, if this process may.
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

/// The relays of a pool choose together: affinity does not depend on the source that endpoints see.
pub(super) type SharedChoice = Arc<Mutex<Choice>>;

/// What a relay knows of its traffic; it changes while the relay runs.
#[derive(Debug)]
pub(super) struct Target {
    choice: SharedChoice,
    /// Endpoints on this node, if they may see clients.
    here: Mutex<BTreeSet<SocketAddr>>,
    /// The endpoints whose connections may continue; `None` is any.
    staying: watch::Sender<Option<BTreeSet<SocketAddr>>>,
    /// Bits of the packet mark by which the kernel knows the relay's own connections.
    pub(super) mark: u32,
    source: VisibleSource,
}

impl Target {
    pub(super) fn new(mark: u32, source: VisibleSource, choice: SharedChoice) -> Target {
        Target { choice, here: Mutex::default(), staying: watch::Sender::new(None), mark, source }
    }

    /// For another relay of the same pool.
    pub(super) fn choice(&self) -> SharedChoice {
        Arc::clone(&self.choice)
    }

    /// Another pool, and for how many seconds clients stay at an endpoint.
    pub(super) fn update(&self, pool: &[PoolEndpoint], affinity: Option<u32>) {
        if self.source == VisibleSource::Client {
            let here = pool.iter().filter(|endpoint| endpoint.local).map(at).collect();
            *self.here.lock().unwrap_or_else(PoisonError::into_inner) = here;
        }
        let pool: Vec<SocketAddr> = pool.iter().map(at).collect();
        // Before any client is sent there.
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

    /// What finds out by which address and port a relay can use the client's address towards an endpoint, if
    /// that is to see it.
    pub(super) fn probe<'a>(
        &self,
        client: IpAddr,
        endpoint: SocketAddr,
        shared: &'a Shared,
    ) -> Option<&'a PathProbe> {
        let single_link = match client {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let here = || {
            let here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
            here.contains(&endpoint)
        };
        // A pod that reaches itself through the Service must not see its own address as the source.
        let hairpin = client == endpoint.ip();
        let usable = !hairpin && !single_link && !client.is_loopback();
        let shows = self.source == VisibleSource::Client && usable && here();
        shared.probe.as_ref().filter(|_| shows)
    }

    /// Ends connections to endpoints that are not among these.
    pub(super) fn retain_endpoints(&self, staying: &BTreeSet<SocketAddr>) {
        self.staying.send_if_modified(|known| {
            let changed = known.as_ref() != Some(staying);
            if changed {
                *known = Some(staying.clone());
            }
            changed
        });
    }

    /// Returns when connections to this endpoint must end.
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
