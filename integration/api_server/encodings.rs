//! Protobuf and gzip: what is sent, and how much of it.

#![allow(clippy::print_stdout)] // the figures of docs/benchmarks.md

use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use sluice_cluster::api::{ApiServer, Options, ProtobufSupport, Resource, protobuf};

use super::setup::{client, run, soon, start, web};

/// An answer: its status, content type and content encoding, and what came on the wire.
struct Answer {
    status: u16,
    media: String,
    packed: bool,
    bytes: Bytes,
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf, */*";
const JSON: &str = "application/json";

async fn ask(api: &ApiServer, path: &str, accept: &str, encoding: &str) -> Answer {
    let request = Request::get(path).header(ACCEPT, accept).header(ACCEPT_ENCODING, encoding);
    let request = request.body(Body::empty()).expect("a valid request");
    let response = client(api).send(request).await.expect("an answer");
    let text = |name| response.headers().get(&name).map_or("", |v| v.to_str().expect("text"));
    let (media, packed) = (text(CONTENT_TYPE).to_owned(), text(CONTENT_ENCODING) == "gzip");
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    Answer { status, media, packed, bytes }
}

/// A slice of a Service with five endpoints, as its controller writes it.
fn slice(n: usize) -> Value {
    let endpoints: Vec<Value> = (0..5)
        .map(|e| {
            json!({
                "addresses": [format!("10.{}.{}.{}", n / 250, n % 250, e + 1)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{e}"),
                "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("web-{n}-{e}"),
                    "uid": "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d"},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("web-{n}-1"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("web-{n}")}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    })
}

pub(crate) fn protobuf_and_gzip_cost_a_fraction_of_json() {
    const COUNT: usize = 10_000;
    let api = start(Options {
        service_cidrs: vec!["10.96.0.0/12".parse().expect("a prefix")],
        ..Options::default()
    });
    api.bulk_create((0..COUNT).map(|n| web(&format!("web-{n}"))).collect()).expect("valid");
    api.bulk_create((0..COUNT).map(slice).collect()).expect("valid");
    run(async {
        let paths = ["/api/v1/services?", "/apis/discovery.k8s.io/v1/endpointslices?"];
        let mut sizes = Vec::new();
        for (accept, encoding) in [(JSON, ""), (JSON, "gzip"), (PROTOBUF, ""), (PROTOBUF, "gzip")] {
            let mut size = 0;
            for path in paths {
                let path = format!("{path}limit=500&resourceVersion=0");
                let answer = ask(&api, &path, accept, encoding).await;
                assert_eq!((answer.status, answer.packed), (200, encoding == "gzip"));
                size += answer.bytes.len();
            }
            println!("10,000 Services and slices: {size} bytes ({accept}, {encoding:?})");
            sizes.push(size);
        }
        let [json, packed_json, protobuf, packed_protobuf] = sizes[..] else {
            panic!("four sizes")
        };
        assert!(protobuf * 10 < json * 6, "{sizes:?}");
        assert!(packed_json * 10 < json && packed_protobuf * 7 < protobuf, "{sizes:?}");
        // Small answers are not worth it.
        let answer = ask(&api, "/api/v1/nodes?", PROTOBUF, "gzip").await;
        assert!(!answer.packed);
    });
    let changed = slice(0);
    let message = protobuf::message(Resource::EndpointSlices, &changed);
    let object = protobuf::envelope("discovery.k8s.io/v1", "EndpointSlice", &message);
    let sizes = (changed.to_string().len() + 30, protobuf::frame("MODIFIED", &object).len());
    println!("a changed slice: {} bytes of JSON, {} of protobuf", sizes.0, sizes.1);
    assert!(sizes.1 * 10 < sizes.0 * 7, "{sizes:?}");
}

pub(crate) fn each_client_gets_the_encoding_that_it_accepts() {
    let api = start(Options::default());
    api.create(&web("a")).expect("valid");
    run(async {
        let protobuf = "application/vnd.kubernetes.protobuf";
        let table = [
            ("/api/v1/services", PROTOBUF, 200, protobuf),
            ("/api/v1/services", "application/json, */*", 200, JSON),
            ("/api/v1/namespaces/default/services/a", PROTOBUF, 200, protobuf),
            ("/api/v1/namespaces/default/services/b", PROTOBUF, 404, protobuf),
            // What has no table is JSON, if that will do.
            ("/api/v1/pods", PROTOBUF, 200, JSON),
            ("/api/v1/pods", protobuf, 406, protobuf),
        ];
        for (path, accept, status, media) in table {
            let answer = ask(&api, path, accept, "").await;
            assert_eq!((answer.status, &*answer.media), (status, media), "{path} {accept}");
            let magic = answer.bytes.starts_with(b"k8s\0");
            assert_eq!(magic, media == protobuf, "{path} {accept}");
        }
        for (support, status) in [
            (ProtobufSupport::Lacking, 200),
            (ProtobufSupport::NotAcceptable, 406),
            (ProtobufSupport::Unsupported, 415),
        ] {
            api.faults().set_protobuf(support);
            let answer = soon("an answer", ask(&api, "/api/v1/services", PROTOBUF, "")).await;
            assert_eq!((answer.status, &*answer.media), (status, JSON), "{support:?}");
        }
    });
}
