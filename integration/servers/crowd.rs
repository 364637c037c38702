//! Each HTTP server answers requests although many other connections are idle or do not read answers.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use super::http::{get, head_of};
use super::support::daemon::Daemon;
use super::support::{Outcome, eventually};
use super::{api, daemon};

/// Guests of each kind; the kernel's own queue has room for all of them.
const GUESTS: usize = 130;

/// Descriptors that a daemon needs without guests, and those that guests may have, with room to spare.
const FILES: usize = 400;

/// Memory that guests may cost.
const KILOBYTES: usize = 48 * 1024;

/// What a guest does.
#[derive(Debug, Clone, Copy)]
enum Guest {
    /// Nothing.
    Silent,
    /// It begins a request.
    HalfRequest,
    /// It sends a header that never ends.
    LongHeader,
    /// It announces a body and sends a part of it.
    HalfBody,
    /// It sends a request, reads the answer, and stays open.
    KeepAlive,
    /// It sends requests repeatedly, and reads nothing.
    Unread,
}

impl Guest {
    const ALL: [Guest; 6] = [
        Guest::Silent,
        Guest::HalfRequest,
        Guest::LongHeader,
        Guest::HalfBody,
        Guest::KeepAlive,
        Guest::Unread,
    ];

    /// The number of connections: unread answers cost the machine most.
    fn number(self) -> usize {
        if matches!(self, Guest::Unread) { GUESTS / 4 } else { GUESTS }
    }

    /// Comes in; the connection may be closed by the server whenever it likes.
    fn enter(self, at: SocketAddr, path: &str) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_nonblocking(matches!(self, Guest::LongHeader | Guest::Unread))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        match self {
            Guest::Silent => {}
            Guest::HalfRequest => stream.write_all(&request.as_bytes()[..request.len() - 2])?,
            Guest::LongHeader => {
                stream.write_all(&request.as_bytes()[..request.len() - 2])?;
                let _ = stream.write(&[b'x'; 1 << 20]);
            }
            Guest::HalfBody => {
                let head =
                    format!("PUT {path} HTTP/1.1\r\nHost: node\r\nContent-Length: 4096\r\n\r\n5");
                stream.write_all(head.as_bytes())?;
            }
            Guest::KeepAlive => {
                stream.write_all(request.as_bytes())?;
                let _ = stream.read(&mut [0; 64])?;
            }
            Guest::Unread => {
                let _ = stream.write(request.repeat(12).as_bytes());
            }
        }
        Ok(stream)
    }
}

/// A Service whose health check port is 31001 in both families.
fn balanced() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                 "ipFamilyPolicy": "RequireDualStack",
                 "healthCheckNodePort": 31001, "ports": [{"port": 80}]},
    })
}

fn files(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map_or(0, Iterator::count)
}

fn kilobytes(daemon: &Daemon) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

pub(crate) fn guests() -> Outcome {
    let api = api();
    api.create(&balanced())?;
    let addresses = "metricsBindAddress: 0.0.0.0:10249\nhealthzBindAddress: 0.0.0.0:10256\n\
                     nodePortAddresses: [0.0.0.0/0, '::/0']";
    let daemon = daemon(&api, addresses);
    let servers = [(10249, "/metrics", 200), (10256, "/livez", 200), (31001, "/", 503)];
    for host in ["127.0.0.1", "[::1]"] {
        for (port, path, code) in servers {
            let at = format!("{host}:{port}");
            eventually("an answer", || get(&at, path).ok().filter(|reply| reply.code == code));
            let before = kilobytes(&daemon);
            let mut inside = Vec::new();
            for guest in Guest::ALL {
                let enter = |_| guest.enter(at.parse().expect("an address"), path);
                // Connections that are replaced at once do not count.
                inside.extend((0..guest.number()).map(enter).filter_map(Result::ok));
                let reply = get(&at, path).map_err(|error| {
                    format!("{at}{path} with {} guests, the last {guest:?}: {error}", inside.len())
                })?;
                assert_eq!(reply.code, code, "{at}{path} beside {guest:?}: {}", reply.head);
            }
            assert!(inside.len() > 4 * GUESTS, "there were guests: {}", inside.len());
            eventually("few files", || (files(&daemon) < FILES).then_some(()));
            let grown = kilobytes(&daemon).saturating_sub(before);
            assert!(grown < KILOBYTES, "{at}{path}: {grown} KiB more");
        }
    }
    Ok(())
}

/// A client may close its half of the connection after the request, and still reads the answer.
pub(crate) fn half_closed() -> Outcome {
    let api = api();
    let _daemon = daemon(&api, "");
    for (at, path) in [("127.0.0.1:10249", "/metrics"), ("127.0.0.1:10256", "/livez")] {
        let mut stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        assert_eq!(head_of(&text).map(|(code, _)| code), Some(200), "{at}{path}: {text}");
    }
    Ok(())
}
