//! The sockets to which traffic is redirected, one for each pool of each Service port.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use rustc_hash::FxHashMap;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::client_lru::Clients;
use super::descriptors::Taken;
use super::redirected::RelayKey;
use super::relay::{Shared, SharedChoice, Target};
use super::visible_source::VisibleSource;
use super::{tcp, udp};
use sluice_core::net::Protocol;
use sluice_kernel::sockets;

/// Descriptors of a listener: its own, and one for a connection that waits for more.
const LISTENER: u32 = 2;

/// How often another free port is requested because the kernel's choice is a node port.
const ATTEMPTS: usize = 32;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    /// None left for it.
    #[error("descriptors are used up; raise the limit of open files (LimitNOFILE, ulimit -n)")]
    Descriptors,
    /// The kernel gives only ports that others need.
    #[error("every free port at {0} is a node port; widen net.ipv4.ip_local_port_range")]
    Port(IpAddr),
    /// The kernel refuses.
    #[error("listen at {at}: {source}")]
    Listen { at: IpAddr, source: io::Error },
}

/// One of them; dropping it closes it.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) at: SocketAddr,
    pub(super) target: Arc<Target>,
    task: AbortHandle,
    /// For UDP: clients end with it, while TCP connections continue.
    relay: Option<Arc<udp::Relay>>,
    _taken: Taken,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(relay) = &self.relay {
            relay.clients.dismiss();
        }
    }
}

/// The address at which listeners are opened, with what each of them needs.
#[derive(Debug, Clone)]
pub(super) struct ListenAddress {
    pub(super) ip: IpAddr,
    pub(super) mark: u32,
    pub(super) shared: Arc<Shared>,
    pub(super) runtime: Handle,
}

impl ListenAddress {
    /// Opens a listener on a free port that is not taken.
    pub(super) fn open(
        &self,
        protocol: Protocol,
        (source, choice): (VisibleSource, SharedChoice),
        taken_ports: &TakenPorts,
    ) -> Result<Listener, ListenError> {
        let taken = self.shared.descriptors.try_take_for_listener(LISTENER).ok_or_else(|| {
            self.shared.descriptors.used_up();
            ListenError::Descriptors
        })?;
        let failed = |source| ListenError::Listen { at: self.ip, source };
        let _context = self.runtime.enter();
        // Until there is a good one, the others are kept, so that each try gets another port.
        let mut rejected: Vec<Box<dyn Send>> = Vec::new();
        for _ in 0..ATTEMPTS {
            let target = Arc::new(Target::new(self.mark, source, Arc::clone(&choice)));
            let any = SocketAddr::new(self.ip, 0);
            if protocol == Protocol::Udp {
                let listener = sockets::listen_udp(any).map_err(failed)?;
                let at = listener.local_addr().map_err(failed)?;
                if taken_ports.contains(protocol, at.port()) {
                    rejected.push(Box::new(listener));
                    continue;
                }
                let (clients, shared) = (Clients::default(), Arc::clone(&self.shared));
                let waiting = Mutex::default();
                let relay = udp::Relay { listener, at, clients, waiting, target, shared };
                let relay = Arc::new(relay);
                let task = self.runtime.spawn(udp::listen(Arc::clone(&relay))).abort_handle();
                let target = Arc::clone(&relay.target);
                return Ok(Listener { at, target, task, relay: Some(relay), _taken: taken });
            }
            let listener = sockets::listen_tcp(any).map_err(failed)?;
            let at = listener.local_addr().map_err(failed)?;
            if taken_ports.contains(protocol, at.port()) {
                rejected.push(Box::new(listener));
                continue;
            }
            let (to, shared) = (Arc::clone(&target), Arc::clone(&self.shared));
            let accepting = tcp::listen(listener, at, to, shared);
            let task = self.runtime.spawn(accepting).abort_handle();
            return Ok(Listener { at, target, task, relay: None, _taken: taken });
        }
        Err(ListenError::Port(self.ip))
    }
}

/// Ports of this node that are promised to others: node ports, and those of health checks.
#[derive(Debug, Default)]
pub(super) struct TakenPorts(FxHashMap<(Protocol, u16), usize>);

impl TakenPorts {
    /// Whether a port is needed for another purpose.
    pub(super) fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.0.contains_key(&(protocol, port))
    }

    pub(super) fn add(&mut self, ports: &BTreeSet<(Protocol, u16)>) {
        for port in ports {
            *self.0.entry(*port).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, ports: &BTreeSet<(Protocol, u16)>) {
        for port in ports {
            if let Some(count) = self.0.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(port);
                }
            }
        }
    }
}

/// All listeners of a Service.
pub(super) type Listeners = BTreeMap<RelayKey, Listener>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::userspace::relay::Options;
    use sluice_kernel::listen::{break_for_good, pauses};

    fn shared() -> Arc<Shared> {
        let minute = std::time::Duration::from_secs(60);
        let options = Options {
            udp_timeout: minute,
            udp_answered_timeout: minute,
            drain: minute,
            visible: VisibleSource::Node,
        };
        Arc::new(Shared::new(options, 1000, None))
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_at_which_every_call_fails_takes_no_processor() {
        for ip in ["127.0.0.1", "::1"] {
            let at = SocketAddr::new(ip.parse().expect("an address"), 0);
            let target = Arc::new(Target::new(0, VisibleSource::Node, SharedChoice::default()));
            let (listener, to) = (sockets::listen_tcp(at).expect("a socket"), Arc::clone(&target));
            break_for_good(&listener);
            assert!(pauses(tcp::listen(listener, at, to, shared())).await, "TCP at {ip}");
            let listener = sockets::listen_udp(at).expect("a socket");
            break_for_good(&listener);
            let (clients, waiting) = (Clients::default(), Mutex::default());
            let shared = shared();
            let relay = udp::Relay { listener, at, clients, waiting, target, shared };
            assert!(pauses(udp::listen(Arc::new(relay))).await, "UDP at {ip}");
        }
    }
}
