//! Decides from routes and conntrack whether a relay may use the client's source address: replies must come
//! back through this node, and no other connection may have the same addresses and ports.
//!
//! The kernel answers these queries synchronously and may block while it is busy. So they run on separate
//! threads, in a few probers with their own sockets; after [`PATIENCE`] a caller continues without an answer,
//! and the endpoint sees this node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use sluice_core::net::Protocol;
use sluice_kernel::conntrack::Lookup;
use sluice_kernel::route_lookup::{Route, RouteLookup};
use sluice_kernel::sockets;

/// How long a client waits for the kernel's answers. Usually they take some ten microseconds.
const PATIENCE: Duration = Duration::from_millis(250);

/// The number of concurrent queries.
const PROBERS: usize = 4;

/// How many ports are tried to find an unused one.
const PORTS: usize = 9;

/// How many ports are tried for one connection, used ones included.
pub(super) const MOST_TRIES: usize = 2 * PORTS;

/// A query.
pub(super) trait Kernel: Send {
    /// The route of a packet that this host sends to an address.
    fn route(&mut self, to: IpAddr) -> io::Result<Route>;
    /// Whether there is a flow in which packets go from one of these ends to the other as they are.
    fn knows(
        &mut self,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> io::Result<bool>;
}

/// Over netlink.
struct Netlink {
    routes: RouteLookup,
    flows: Lookup,
}

impl Kernel for Netlink {
    fn route(&mut self, to: IpAddr) -> io::Result<Route> {
        self.routes.to(to).map_err(io::Error::other)
    }

    fn knows(
        &mut self,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> io::Result<bool> {
        self.flows.knows(protocol, source, destination).map_err(io::Error::other)
    }
}

/// Whether a relay may use a client's address towards an endpoint, and with which port.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub(super) protocol: Protocol,
    pub(super) client: SocketAddr,
    pub(super) endpoint: SocketAddr,
}

type Probers = Arc<Mutex<Vec<Box<dyn Kernel>>>>;

/// Asks the kernel.
pub(super) struct PathProbe {
    /// Those that are not asking now; one may be taken with each permit.
    idle: Probers,
    permits: Arc<Semaphore>,
    /// Ports that no program of this node counts on.
    free: RangeInclusive<u16>,
    /// There was no answer the last time.
    mute: AtomicBool,
}

impl std::fmt::Debug for PathProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PathProbe").field("free", &self.free).finish_non_exhaustive()
    }
}

impl PathProbe {
    /// Opens the sockets to ask.
    pub(super) fn open() -> io::Result<PathProbe> {
        let mut probers: Vec<Box<dyn Kernel>> = Vec::new();
        for _ in 0..PROBERS {
            let routes = RouteLookup::open().map_err(io::Error::other)?;
            let flows = Lookup::open().map_err(io::Error::other)?;
            probers.push(Box::new(Netlink { routes, flows }));
        }
        Ok(PathProbe::with(probers, sockets::ephemeral_ports()))
    }

    fn with(probers: Vec<Box<dyn Kernel>>, free: RangeInclusive<u16>) -> PathProbe {
        let permits = Arc::new(Semaphore::new(probers.len()));
        let idle = Arc::new(Mutex::new(probers));
        PathProbe { idle, permits, free, mute: AtomicBool::new(false) }
    }

    /// Where a relay may stand before the endpoint in the name of the client, none of the places that
    /// were `tried`; `None` if the endpoint is to see this node.
    pub(super) async fn source(
        &self,
        question: Question,
        tried: &[SocketAddr],
    ) -> Option<SocketAddr> {
        let candidates = self.candidates(question.client, tried);
        let answer = tokio::time::timeout(PATIENCE, self.ask(question, candidates)).await;
        let problem = match answer {
            Ok(Ok(source)) => {
                if self.mute.swap(false, Relaxed) {
                    tracing::info!("the kernel answers queries of routes and flows again");
                }
                return source;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {PATIENCE:?}"),
        };
        if !self.mute.swap(true, Relaxed) {
            tracing::warn!(
                "cannot query routes and flows: {problem}; until it answers, endpoints see \
                 this node in place of clients"
            );
        }
        None
    }

    /// Asks on a thread that may wait. An prober that waits for ever is not asked again.
    async fn ask(
        &self,
        question: Question,
        candidates: Vec<SocketAddr>,
    ) -> io::Result<Option<SocketAddr>> {
        let permits = Arc::clone(&self.permits);
        let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
        let idle = Arc::clone(&self.idle);
        let asked = tokio::task::spawn_blocking(move || {
            let all = || idle.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(mut kernel) = all().pop() else { return Ok(None) };
            let answer = question.answer(&mut *kernel, &candidates);
            all().push(kernel);
            drop(permit);
            answer
        });
        asked.await.map_err(io::Error::other)?
    }

    /// The client's port, if no program of this node can count on it, and then any others.
    fn candidates(&self, client: SocketAddr, tried: &[SocketAddr]) -> Vec<SocketAddr> {
        let own = Some(client.port()).filter(|port| self.free.contains(port));
        let others = std::iter::repeat_with(|| fastrand::u16(self.free.clone())).take(PORTS - 1);
        let at = |port| SocketAddr::new(client.ip(), port);
        own.into_iter().chain(others).map(at).filter(|source| !tried.contains(source)).collect()
    }
}

impl Question {
    /// The first candidate that is unused, or else the first.
    ///
    /// Ports from which the client has a direct connection to the endpoint are avoided: the two could not be
    /// told apart, and the endpoint would reset one of them. Old UDP flows of the client look the same, so
    /// such ports are not excluded.
    fn answer(
        self,
        kernel: &mut dyn Kernel,
        candidates: &[SocketAddr],
    ) -> io::Result<Option<SocketAddr>> {
        if !self.is_between(kernel)? {
            return Ok(None);
        }
        for source in candidates {
            if !kernel.knows(self.protocol, *source, self.endpoint)? {
                return Ok(Some(*source));
            }
        }
        Ok(candidates.first().copied())
    }

    /// Whether the endpoint's replies to the client's address pass through this node's routing: both have an
    /// interface of their own, and the endpoint is directly connected. On a shared bridge, replies would
    /// bypass this node, and local traffic is not routed.
    fn is_between(self, kernel: &mut dyn Kernel) -> io::Result<bool> {
        let Route::OnLink(at) = kernel.route(self.endpoint.ip())? else { return Ok(false) };
        let back = kernel.route(self.client.ip())?;
        Ok(back != Route::Unreachable && back.interface() != Some(at))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A kernel with the flows `used`; it answers on request.
    struct Model {
        go_on: Option<mpsc::Receiver<()>>,
        used: Vec<SocketAddr>,
    }

    impl Kernel for Model {
        fn route(&mut self, to: IpAddr) -> io::Result<Route> {
            if let Some(go_on) = &self.go_on {
                // Until the test ends.
                let _ = go_on.recv();
            }
            Ok(if to == endpoint().ip() { Route::OnLink(2) } else { Route::Via(1) })
        }

        fn knows(&mut self, _: Protocol, from: SocketAddr, _: SocketAddr) -> io::Result<bool> {
            Ok(self.used.contains(&from))
        }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("address and port")
    }

    fn endpoint() -> SocketAddr {
        at("10.244.1.2:8080")
    }

    fn question() -> Question {
        Question { protocol: Protocol::Tcp, client: at("172.18.0.9:40000"), endpoint: endpoint() }
    }

    fn probe_of(models: Vec<Model>) -> PathProbe {
        let boxed = models.into_iter().map(|model| Box::new(model) as Box<dyn Kernel>);
        PathProbe::with(boxed.collect(), 40000..=40009)
    }

    #[tokio::test]
    async fn the_clients_own_port_is_taken_unless_it_is_used_or_was_tried() {
        let own = question().client;
        let free = probe_of(vec![Model { go_on: None, used: Vec::new() }]);
        assert_eq!(free.source(question(), &[]).await, Some(own));
        let other = free.source(question(), &[own]).await.expect("another one");
        assert_eq!((other.ip(), other == own), (own.ip(), false));
        let used = probe_of(vec![Model { go_on: None, used: vec![own] }]);
        let used = used.source(question(), &[]).await.expect("another one");
        assert_ne!(used, own);
    }

    #[tokio::test]
    async fn an_endpoint_without_a_way_back_through_this_node_sees_it() {
        let probe = probe_of(vec![Model { go_on: None, used: Vec::new() }]);
        let neighbour = Question { endpoint: at("10.244.9.9:8080"), ..question() };
        assert_eq!(probe.source(neighbour, &[]).await, None);
    }

    /// The runtime has one thread: if it waited for the kernel, the test would never end.
    #[tokio::test(flavor = "current_thread")]
    async fn a_kernel_that_does_not_answer_holds_nobody_up() {
        let (answer, go_on) = mpsc::channel();
        let probe = probe_of(vec![Model { go_on: Some(go_on), used: Vec::new() }]);
        let others = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            "relayed"
        };
        // The second one does not even find an prober.
        let answers =
            tokio::join!(probe.source(question(), &[]), probe.source(question(), &[]), others);
        assert_eq!(answers, (None, None, "relayed"), "endpoints see the node");
        assert!(probe.mute.load(Relaxed), "it was said");
        // Both ways, and then all is well again.
        drop(answer);
        while probe.permits.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(probe.source(question(), &[]).await, Some(question().client));
        assert!(!probe.mute.load(Relaxed));
    }
}
