//! What runs in place of an image: a server that says who it is and whom it saw, over HTTP and UDP.
//!
//! `GET /healthz` is 200 until `PUT /healthz` says `off`, then 503 until it says `on`.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use sluice_cluster::Host;
use sluice_core::net::{Family, Protocol};

/// One responder.
pub(super) struct Responder {
    /// The Pod's name.
    pub(super) name: String,
    /// Its node.
    pub(super) node: String,
    /// Where it tells what it was asked.
    pub(super) log: Mutex<std::fs::File>,
    /// What `/healthz` says.
    pub(super) healthy: AtomicBool,
}

impl Responder {
    /// Listens in both families, then serves until the token is cancelled.
    pub(super) async fn listen(
        self: Arc<Self>,
        host: Host,
        ports: Vec<(Protocol, u16)>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let mut serving = JoinSet::new();
        for (protocol, port) in ports {
            for family in Family::BOTH {
                let at = host.socket_addr(family, port);
                match protocol {
                    Protocol::Tcp => {
                        let listener = TcpListener::bind(at).await?;
                        serving.spawn(Arc::clone(&self).accept(listener));
                    }
                    Protocol::Udp => {
                        let socket = UdpSocket::bind(at).await?;
                        serving.spawn(Arc::clone(&self).datagrams(socket));
                    }
                    Protocol::Sctp => {}
                }
            }
        }
        tokio::spawn(async move {
            stop.cancelled().await;
            drop(serving);
        });
        Ok(())
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((stream, peer)) = listener.accept().await {
            while connections.try_join_next().is_some() {}
            let me = Arc::clone(&self);
            connections.spawn(async move {
                let answer = service_fn(|request| Arc::clone(&me).answer(request, peer));
                // That a client leaves is its own business.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    }

    async fn datagrams(self: Arc<Self>, socket: UdpSocket) {
        let mut bytes = [0; 2048];
        while let Ok((_, peer)) = socket.recv_from(&mut bytes).await {
            self.tell(&format!("{peer} UDP"));
            let line = format!("{} on {} saw {peer}\n", self.name, self.node);
            let _ = socket.send_to(line.as_bytes(), peer).await;
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let (status, text) = match (&method, path.as_str()) {
            (&Method::PUT, "/healthz") => self.switch(request).await,
            (_, "/healthz") if self.healthy.load(Ordering::Relaxed) => {
                (StatusCode::OK, "ok\n".to_owned())
            }
            (_, "/healthz") => (StatusCode::SERVICE_UNAVAILABLE, "switched off\n".to_owned()),
            (_, "/hostname") => (StatusCode::OK, self.name.clone()),
            _ => (StatusCode::OK, self.page(&request, peer)),
        };
        self.tell(&format!("{peer} {method} {path} {}", status.as_u16()));
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        Ok(response)
    }

    async fn switch(&self, request: Request<Incoming>) -> (StatusCode, String) {
        let body = request.into_body().collect().await.map(|body| body.to_bytes());
        let healthy = match body.as_deref().map(<[u8]>::trim_ascii) {
            Ok(b"on") => true,
            Ok(b"off") => false,
            _ => return (StatusCode::BAD_REQUEST, "say `on` or `off`\n".to_owned()),
        };
        self.healthy.store(healthy, Ordering::Relaxed);
        (StatusCode::OK, "done\n".to_owned())
    }

    fn page(&self, request: &Request<Incoming>, peer: SocketAddr) -> String {
        let mut page = format!("{} on {} saw {peer}\n", self.name, self.node);
        for (name, value) in request.headers() {
            page.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
        }
        page
    }

    fn tell(&self, line: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // Without room for a log the answer counts more.
        let _ = writeln!(log, "{line}");
    }
}
