//! Traces of changes, with the real daemon and a collector of a few lines. Only with the feature `otel`:
//! `cargo test --features integration/otel --test traces`.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

use serde_json::json;
use sluice_cluster::api::ApiServer;
use sluice_cluster::{Isolation, prepare};

use support::daemon::{Daemon, config, program};
use support::objects::api_server;
use support::{Outcome, eventually, trial};

fn main() -> ExitCode {
    prepare(Isolation::Private).expect("namespaces of our own");
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = vec![
        trial("a_change_is_one_trace_from_the_watch_event_to_the_kernel", one_change),
        trial("a_collector_that_is_away_does_not_matter", no_collector),
        trial("an_endpoint_that_is_none_is_named", bad_endpoint),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The parts of a span that the test checks.
#[derive(Debug, Clone, PartialEq)]
struct Span {
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    name: String,
}

type Collected = Arc<Mutex<Vec<Span>>>;

/// Takes what is sent to it by OTLP over HTTP.
fn collector() -> (u16, Collected) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is up");
    let port = listener.local_addr().expect("it is bound").port();
    let collected = Collected::default();
    let spans = Arc::clone(&collected);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, spans) = (stream.expect("a connection"), Arc::clone(&spans));
            std::thread::spawn(move || while let Ok(()) = take(&mut stream, &spans) {});
        }
    });
    (port, collected)
}

/// One request of a connection.
fn take(stream: &mut TcpStream, into: &Mutex<Vec<Span>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
    let length = length.and_then(|text| text.parse().ok()).expect("it says how long it is");
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("service.name") && text.contains("kube-proxy"), "{text}");
    into.lock().expect("nobody panicked").extend(spans_of(&body));
    Ok(())
}

/// Spans of an ExportTraceServiceRequest (opentelemetry-proto's `collector/trace/v1` and `trace/v1`):
/// resource_spans 1, scope_spans 2, spans 2; of a span trace_id 1, span_id 2, parent_span_id 4, name 5.
fn spans_of(request: &[u8]) -> Vec<Span> {
    let inside = |list: Vec<Vec<u8>>, number| {
        list.iter().flat_map(|bytes| fields(bytes, number)).collect::<Vec<_>>()
    };
    let spans = inside(inside(fields(request, 1), 2), 2);
    let span = |bytes: &Vec<u8>| {
        let one = |number| fields(bytes, number).into_iter().next().unwrap_or_default();
        let name = String::from_utf8(one(5)).expect("a name is text");
        Span { trace: one(1), id: one(2), parent: one(4), name }
    };
    spans.iter().map(span).collect()
}

/// The fields of a message with this number whose values are bytes.
fn fields(mut message: &[u8], wanted: u64) -> Vec<Vec<u8>> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (first, rest) = bytes.split_first().expect("a number ends");
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let length = match tag & 7 {
            0 => {
                varint(&mut message);
                continue;
            }
            1 => 8,
            5 => 4,
            2 => usize::try_from(varint(&mut message)).expect("a length"),
            other => panic!("wire type {other}"),
        };
        let (value, rest) = message.split_at(length);
        message = rest;
        if tag & 7 == 2 && tag >> 3 == wanted {
            found.push(value.to_vec());
        }
    }
    found
}

/// The daemon, and the folder of its configuration.
fn daemon(api: &ApiServer, endpoint: &str) -> (Daemon, tempfile::TempDir) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, config("nftables: {minSyncPeriod: 1ms}")).expect("a file");
    let mut command = Command::new(program());
    command.arg("--config").arg(&file).args(["--master", &api.url(), "-v", "4"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let daemon = Daemon::start_as(&mut command);
    if !endpoint.contains(' ') {
        daemon.wait_for_first_sync("IPv4");
        daemon.wait_for_first_sync("IPv6");
    }
    (daemon, folder)
}

fn service() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.96.0.80", "ports": [{"port": 80}]},
    })
}

fn one_change() -> Outcome {
    let api = api_server(&["127.0.0.1"]);
    let (port, collected) = collector();
    let (mut daemon, _folder) = daemon(&api, &format!("http://127.0.0.1:{port}"));
    // What was listed at the start is no change.
    assert_eq!(*collected.lock().expect("nobody panicked"), []);
    api.create(&service())?;
    daemon.wait_for("synced family=IPv4");
    daemon.stop();
    let spans = collected.lock().expect("nobody panicked").clone();
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (span.id.clone(), span)).collect();
    // Each span as the way to it from the root.
    let mut ways: Vec<String> = Vec::new();
    for span in &spans {
        assert_eq!(span.trace, spans[0].trace, "one change is one trace: {spans:?}");
        let mut way = span.name.clone();
        let mut at = span;
        while !at.parent.is_empty() {
            at = by_id[&at.parent];
            way = format!("{} > {way}", at.name);
        }
        ways.push(way);
    }
    ways.sort();
    let family = "watch event > sync > sync family";
    assert_eq!(
        ways,
        [
            "watch event".to_owned(),
            "watch event > apply to snapshot".to_owned(),
            "watch event > sync".to_owned(),
            family.to_owned(),
            family.to_owned(),
            format!("{family} > diff"),
            format!("{family} > diff"),
            format!("{family} > kernel transaction"),
            format!("{family} > plan"),
            format!("{family} > plan"),
        ]
    );
    Ok(())
}

fn no_collector() -> Outcome {
    let api = api_server(&["127.0.0.1"]);
    let (mut daemon, _folder) = daemon(&api, "http://127.0.0.1:9");
    api.create(&service())?;
    daemon.wait_for("synced family=IPv4");
    daemon.stop();
    Ok(())
}

fn bad_endpoint() -> Outcome {
    let api = api_server(&["127.0.0.1"]);
    let (mut daemon, _folder) = daemon(&api, "no place");
    assert_eq!(daemon.exit_code(), Some(1));
    let said = eventually("it says why", || {
        Some(daemon.log()).filter(|log| log.contains("cannot send traces"))
    });
    assert!(said.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{said}");
    Ok(())
}
