//! Clients that keep sending datagrams from fixed ports.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sluice_cluster::Host;

/// Between two datagrams of a flow: short against the time that rules take to come into force.
const PAUSE: Duration = Duration::from_millis(1);

/// One flow of datagrams.
struct Sender {
    way: String,
    socket: UdpSocket,
    /// The pod that answered last.
    answered_by: Mutex<Option<String>>,
}

/// Flows that continue until this is dropped.
pub(crate) struct Senders {
    flows: Arc<Vec<Sender>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Senders {
    /// Starts so many flows on each way.
    pub(crate) fn start(
        ways: &[(&Host, SocketAddr)],
        each: usize,
    ) -> Result<Senders, libtest_mimic::Failed> {
        let mut flows = Vec::new();
        for (from, to) in ways.iter().flat_map(|way| std::iter::repeat_n(way, each)) {
            let (at, to) = (SocketAddr::new(from.ip(super::Family::of(to.ip())), 0), *to);
            let open = move || -> std::io::Result<UdpSocket> {
                let socket = UdpSocket::bind(at)?;
                socket.connect(to)?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            let socket = from.namespace().run(open)??;
            let way = format!("{} -> {to}", from.name());
            flows.push(Sender { way, socket, answered_by: Mutex::default() });
        }
        let (flows, stop) = (Arc::new(flows), Arc::new(AtomicBool::new(false)));
        let (all, stopped) = (Arc::clone(&flows), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                all.iter().for_each(Sender::exchange);
                std::thread::sleep(PAUSE);
            }
        });
        Ok(Senders { flows, stop, thread: Some(thread) })
    }

    /// The ways on which this pod has not answered last.
    pub(crate) fn not_answered_by(&self, pod: &str) -> Vec<&str> {
        let others = |flow: &&Sender| {
            let by = flow.answered_by.lock().unwrap_or_else(PoisonError::into_inner);
            by.as_deref() != Some(pod)
        };
        self.flows.iter().filter(others).map(|flow| flow.way.as_str()).collect()
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

impl Sender {
    fn exchange(&self) {
        // A refusal is no reason to stop.
        let _ = self.socket.send(b"hello\n");
        let mut buffer = [0; 512];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let line = String::from_utf8_lossy(&buffer[..length]);
            // A pod's answer begins with its name.
            let by = line.split_whitespace().next().map(str::to_owned);
            *self.answered_by.lock().unwrap_or_else(PoisonError::into_inner) = by;
        }
    }
}
