//! Readiness probes, sent from the node: `httpGet`, `tcpSocket`, and `exec` in the pod.

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use sluice_cluster::{Node, Sandbox};
use sluice_controllers::fields::{list, text};

/// A probe and how often it is sent.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    kind: Kind,
    pub(super) delay: Duration,
    pub(super) period: Duration,
    timeout: Duration,
    pub(super) successes: u64,
    pub(super) failures: u64,
}

#[derive(Debug, Clone)]
enum Kind {
    Http { port: u16, path: String },
    Tcp { port: u16 },
    Exec { command: Vec<String> },
}

impl Probe {
    /// The readiness probe of a container; nothing if it has none that the lab can send.
    pub(super) fn of(container: &Value) -> Option<Probe> {
        let probe = &container["readinessProbe"];
        let kind = if probe["httpGet"].is_object() {
            let path = probe["httpGet"]["path"].as_str().unwrap_or("/").to_owned();
            Kind::Http { port: port(&probe["httpGet"]["port"], container)?, path }
        } else if probe["tcpSocket"].is_object() {
            Kind::Tcp { port: port(&probe["tcpSocket"]["port"], container)? }
        } else {
            let command = list(&probe["exec"]["command"]).iter().map(|word| text(word).to_owned());
            Some(command.collect::<Vec<_>>())
                .filter(|c| !c.is_empty())
                .map(|command| Kind::Exec { command })?
        };
        let number = |field: &str, default: u64| probe[field].as_u64().unwrap_or(default);
        Some(Probe {
            kind,
            delay: Duration::from_secs(number("initialDelaySeconds", 0)),
            period: Duration::from_secs(number("periodSeconds", 10).max(1)),
            timeout: Duration::from_secs(number("timeoutSeconds", 1).max(1)),
            successes: number("successThreshold", 1),
            failures: number("failureThreshold", 3),
        })
    }

    /// Sends it once.
    pub(super) async fn send(&self, node: &Node, ip: IpAddr, sandbox: &Sandbox) -> bool {
        let asked = match self.kind.clone() {
            Kind::Http { port, path } => {
                node.namespace().spawn(get(SocketAddr::new(ip, port), path, self.timeout))
            }
            Kind::Tcp { port } => {
                let connect = TcpStream::connect(SocketAddr::new(ip, port));
                let limit = self.timeout;
                node.namespace().spawn(async move {
                    tokio::time::timeout(limit, connect).await.is_ok_and(|done| done.is_ok())
                })
            }
            Kind::Exec { command } => return self.run(&command, sandbox).await,
        };
        match asked {
            Ok(answer) => answer.await.unwrap_or(false),
            Err(_) => false,
        }
    }

    async fn run(&self, words: &[String], sandbox: &Sandbox) -> bool {
        let mut command = tokio::process::Command::from(sandbox.command(&words[0]));
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.kill_on_drop(true);
        let ended = tokio::time::timeout(self.timeout, command.status()).await;
        ended.is_ok_and(|status| status.is_ok_and(|status| status.success()))
    }
}

fn port(port: &Value, container: &Value) -> Option<u16> {
    let named = |name: &str| {
        let found = list(&container["ports"]).iter().find(|port| port["name"] == *name)?;
        found["containerPort"].as_u64()
    };
    let number = port.as_u64().or_else(|| named(port.as_str()?))?;
    u16::try_from(number).ok()
}

/// Whether a GET is answered by a status from 200 to 399.
async fn get(to: SocketAddr, path: String, limit: Duration) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(to).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: kube-probe/1.36\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut start = [0; 12];
        stream.read_exact(&mut start).await?;
        Ok::<_, std::io::Error>(start)
    };
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(start)) => start.starts_with(b"HTTP/1.") && matches!(start[9], b'2' | b'3'),
        _ => false,
    }
}
