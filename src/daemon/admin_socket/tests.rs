//! The socket among its clients.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::listen::{Bound, listen};
use super::serve::{Bounds, permitted, serve};
use super::*;
use crate::kernel_view::{Kernel, Mechanism};
use crate::sync::{Looking, View};
use sluice_config::Mode;

/// A socket that answers until it is dropped.
struct Socket {
    path: PathBuf,
    _folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Socket {
    fn new(bounds: Bounds) -> Socket {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("sluice/admin.sock");
        let runtime = crate::http::server::runtime().expect("a runtime");
        let Bound { listener, owner } = listen(&path).expect("it listens");
        let answers = Answers {
            view: View::new(Looking::Possible),
            node: "node-a".to_owned(),
            mode: Mode::Nftables,
            started: Timestamp::now(),
            configuration: Arc::new(|| "{\"clusterCIDR\": \"10.244.0.0/16\"}".to_owned()),
            relays: None,
            kernel: Kernel::new(Mechanism::Nftables),
        };
        runtime.spawn(async move {
            let listener = UnixListener::from_std(listener).expect("it is one");
            serve(listener, owner, Arc::new(answers), bounds).await;
        });
        Socket { path, _folder: folder, runtime }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).expect("it answers")
    }

    /// The whole answer to some bytes.
    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        // A server that refuses need not read all of it.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: sluice\r\n\r\n"))
    }
}

fn status_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn paths_methods_and_versions_are_what_they_are() {
    let socket = Socket::new(Bounds::default());
    let table = [
        ("GET", "/v1/status", "200", "\"kind\": \"Status\""),
        ("GET", "/v1/services", "200", "\"kind\": \"Services\""),
        ("GET", "/v1/services?service=web", "404", "there is no Service default/web"),
        ("GET", "/v1/services?service=A%07b", "400", "is no Service's name"),
        ("GET", "/v1/changes", "200", "\"kind\": \"Changes\""),
        ("GET", "/v1/relays", "200", "\"relays\": false"),
        ("GET", "/v1/rules?service=web", "404", "there is no Service default/web"),
        ("GET", "/v1/kernel?service=web", "404", "there is no Service default/web"),
        ("GET", "/v1/explain", "400", "FROM \\\"\\\" is not understood"),
        ("GET", "/v1/explain?from=10.0.0.1&to=web%07", "400", "is not understood"),
        ("GET", "/v1/explain?from=pod/a&to=web", "404", "a daemon is not told of pods"),
        ("GET", "/v1/explain?from=10.0.0.1&to=svc/web", "200", "\"code\": \"no-such-service\""),
        ("POST", "/v1/explain", "405", "tells and never does"),
        ("GET", "/v1/dump", "200", "kind: Dump"),
        ("GET", "/v1/dump?redact", "200", "clusterCIDR"),
        ("GET", "/v1/table/v4", "404", "does not serve IPv4"),
        ("GET", "/v1/nothing", "404", "there is no /v1/nothing; there are /v1/status"),
        ("GET", "/v2/status", "404", "version 1 only"),
        ("GET", "/", "404", "version 1 only"),
        ("POST", "/v1/status", "405", "tells and never does"),
        ("DELETE", "/v1/services", "405", "allow: GET"),
    ];
    for (method, path, status, expected) in table {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let answer = socket.ask(&request);
        assert_eq!(status_of(&answer), status, "{method} {path}: {answer}");
        assert!(answer.contains(expected), "{method} {path}: {answer}");
    }
}

#[test]
fn what_is_too_long_is_refused() {
    let socket = Socket::new(Bounds::default());
    let long = "x".repeat(70 << 10);
    let body = format!(
        "GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{long}",
        long.len()
    );
    assert_eq!(status_of(&socket.ask(&body)), "413");
    let head = format!("GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n");
    assert_eq!(status_of(&socket.ask(&head)), "413");
    assert_eq!(status_of(&socket.get("/v1/status")), "200", "others are answered as before");
}

#[test]
fn who_is_slow_is_cut_off_and_the_next_one_is_answered() {
    let patience = Duration::from_millis(200);
    let socket = Socket::new(Bounds { connections: 2, patience });
    let mut slow = [socket.connect(), socket.connect()];
    slow[0].write_all(b"GET /v1/sta").expect("it is taken");
    // All places are taken until the two are cut off.
    assert_eq!(status_of(&socket.get("/v1/status")), "200");
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("200"), "{rest:?}");
    }
}

#[test]
fn who_follows_takes_no_place_of_those_who_ask() {
    let socket = Socket::new(Bounds { connections: 1, patience: Duration::from_secs(60) });
    let follow = || {
        let mut stream = socket.connect();
        let request = "GET /v1/changes?follow HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it is taken");
        let mut head = [0; 512];
        let read = stream.read(&mut head).expect("it is answered");
        (stream, String::from_utf8_lossy(&head[..read]).into_owned())
    };
    let followers: Vec<_> = (0..FOLLOWERS).map(|_| follow()).collect();
    for (_, head) in &followers {
        assert!(head.contains("200 OK") && head.contains("text/event-stream"), "{head}");
    }
    assert_eq!(status_of(&follow().1), "503", "one too many");
    assert_eq!(status_of(&socket.get("/v1/status")), "200");
}

#[test]
fn only_root_and_the_owner_are_answered() {
    let table =
        [(0, 0, true), (0, 1000, true), (1000, 1000, true), (1000, 0, false), (1001, 1000, false)];
    for (peer, owner, expected) in table {
        assert_eq!(permitted(peer, owner), expected, "{peer} asks {owner}");
    }
}

#[test]
fn a_socket_that_cannot_be_made_is_no_reason_to_end() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("file");
    std::fs::write(&path, "text").expect("it is written");
    let socket = Socket::new(Bounds::default());
    let http = Http::new(socket.runtime.handle().clone(), 64);
    let answers = Answers {
        view: View::new(Looking::Possible),
        node: String::new(),
        mode: Mode::Ipvs,
        started: Timestamp::now(),
        configuration: Arc::new(String::new),
        relays: None,
        kernel: Kernel::new(Mechanism::Nftables),
    };
    start(Some(path.clone()), answers, &http, &CancellationToken::new());
    assert_eq!(std::fs::read_to_string(&path).expect("it stays"), "text");
}
