//! The daemon's answers, and its refusals.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::support::daemon::program;
use super::support::{Outcome, eventually};
use super::world::{World, from_file, links};

/// What follows from the state of the API: all but the kernel and what is said of the source.
fn computed(answer: &Value) -> Value {
    let mut answer = answer.clone();
    let stages = answer["stages"].as_array_mut().expect("a list");
    stages.retain(|stage| !["kernel", "way", "others"].iter().any(|live| stage["stage"] == *live));
    answer["truth"].take();
    answer
}

pub(crate) fn as_its_dump() -> Outcome {
    links();
    let world = World::new("nftables", "");
    let dump = world.dump();
    let questions = [
        ("10.244.1.9", "svc/web.default"),
        ("fd00:10:244:1::9", "svc/web.default:http"),
        ("10.244.1.9", "web.shop:80"),
        ("10.244.1.9", "svc/empty"),
        ("2001:db8:9::9", "svc/empty"),
        ("10.244.1.9", "svc/shut:81"),
        ("10.244.1.9", "10.96.0.80:80/udp"),
        ("192.0.2.9", "198.51.100.1:80"),
        ("203.0.113.9", "198.51.100.1:80"),
        ("2001:db8:1::9", "[2001:db8::1]:80"),
        ("192.0.2.9", "node/node-a:30080"),
        ("192.0.2.9", "192.0.2.1:30099"),
        ("node/node-a", "http://web.default"),
        ("10.244.1.9", "10.96.0.99:80"),
    ];
    for (from, to) in questions {
        let told = world.explained(from, to);
        assert_eq!(told["truth"]["source"], "daemon", "{from} {to}: {told}");
        assert_eq!(computed(&told), computed(&from_file(from, to, &dump)), "{from} {to}");
    }
    let changed = ["explain", "10.244.1.9", "svc/web.default", "--what-if", "10.244.1.2 gone"];
    let output = world.ask(&changed);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("after   reachable: a new connection goes to 10.244.2.2"), "{output:?}");
    let output = world.ask(&["explain", "10.244.1.9", "svc/web.default"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let truth = text.lines().nth(1).expect("a second line");
    assert!(truth.starts_with("truth: running daemon, mode nftables, last sync "), "{text}");
    assert!(output.status.success(), "{output:?}");
    Ok(())
}

/// The one error, and the exit code.
#[track_caller]
fn refused(output: &Output, code: i32, words: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(error.lines().count(), 1, "{error}");
    for word in words {
        assert!(error.contains(word), "{word}: {error}");
    }
}

pub(crate) fn refusals() -> Outcome {
    let mut world = World::new("nftables", "");
    let table: [(&[&str], i32, &[&str]); 10] = [
        (&["pod/shell", "svc/web.default"], 1, &["a daemon is not told of pods", "IP address"]),
        (&["10.0.0.1", "svc/web"], 1, &["several Services are called web", "default, shop"]),
        (&["node/node-b", "svc/empty"], 1, &["a daemon knows only its own node"]),
        (&["10.0.0.1", "node/node-b:30080"], 1, &["a daemon knows only its own node"]),
        (&["10.0.0.1", "svc/empty", "--on", "node-b"], 1, &["is that of node node-a"]),
        (&["10.0.0.1", "svc/empty", "--config", "none"], 1, &["has its own settings"]),
        (&["10.0.0.1", "svc/empty", "--as", "kube-proxy"], 1, &["has its own settings"]),
        (&["10.0.0.1", "svc/empty:0"], 2, &["port"]),
        (&["shell", "svc/empty"], 2, &["do you mean pod/shell?"]),
        (&["10.0.0.1", "svc/em\u{1b}pty"], 2, &["is not understood"]),
    ];
    for (arguments, code, words) in table {
        refused(&world.ask(&[&["explain"], arguments].concat()), code, words);
    }
    let absent = world.explained("10.0.0.1", "svc/emty");
    let text = absent["findings"][0]["text"].as_str().expect("a finding");
    assert!(text.contains("as far as this proxy is told") && text.contains("empty"), "{text}");
    world.daemon.stop();
    refused(&world.ask(&["explain", "10.0.0.1", "svc/web"]), 1, &["no daemon answers at", "-f"]);
    for (status, body, words) in [
        (
            "404 Not Found",
            "{\"error\": \"there is no /v1/explain; there are /v1/status\"}",
            "is older",
        ),
        ("200 OK", "{\"kind\": \"Answer\"}", "it is another version"),
        ("500 Oh", "<html>", "is it another version?"),
    ] {
        let socket = world.folder.path().join("other.sock");
        let answer = answer_once(&socket, status, body);
        let mut command = Command::new(program());
        command.args(["explain", "10.0.0.1", "svc/web", "--socket"]).arg(&socket);
        refused(&command.output().expect("the program runs"), 1, &[words]);
        answer.join().expect("it answered");
        std::fs::remove_file(&socket).expect("it is removed");
    }
    Ok(())
}

/// A daemon of another version.
fn answer_once(socket: &Path, status: &str, body: &str) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("it listens");
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it is asked");
        let mut request = [0; 4096];
        let read = stream.read(&mut request).expect("a request");
        assert!(request[..read].starts_with(b"GET /v1/explain?from=10.0.0.1&to=svc%2Fweb "));
        stream.write_all(answer.as_bytes()).expect("it is taken");
    })
}

pub(crate) fn age() -> Outcome {
    links();
    let mut world = World::new("nftables", "");
    drop(world.api.take());
    let told = eventually("a daemon that hears nothing", || {
        let told = world.explained("10.244.1.9", "svc/web.default");
        told["truth"]["staleSeconds"].is_u64().then_some(told)
    });
    let text = told["truth"]["text"].as_str().expect("a text");
    assert!(text.contains("no changes of ") && text.contains("mode nftables"), "{text}");
    assert_eq!(told["result"], "reachable", "the last known state counts");
    Ok(())
}
