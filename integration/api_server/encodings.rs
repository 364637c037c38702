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

/// A slice as the EndpointSlice controller of Kubernetes 1.36 writes it, after so many changes of its pods.
fn slice_of_the_controller(endpoints: usize, changes: usize) -> Value {
    let service = "0b6c4a1e-3f0d-4a55-9d1e-7c2f5f1d8a10";
    let trigger = "endpoints.kubernetes.io/last-change-trigger-time";
    let endpoints: Vec<Value> = (0..endpoints)
        .map(|e| {
            json!({
                "addresses": [format!("10.244.{e}.{}", 10 + changes)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("worker-{e}"), "zone": "eu-west-1a",
                "targetRef": {"kind": "Pod", "namespace": "default",
                    "name": format!("web-5d8c7f9b6d-x{e}k2p"),
                    "uid": format!("0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c{e}d")},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "web-x7k2p", "generateName": "web-", "namespace": "default",
            "annotations": {trigger: format!("2026-01-01T00:00:{:02}Z", changes)},
            "labels": {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "web"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web",
                "uid": service, "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [{
                "manager": "kube-controller-manager", "operation": "Update",
                "apiVersion": "discovery.k8s.io/v1", "time": "2026-01-01T00:00:00Z",
                "fieldsType": "FieldsV1",
                "fieldsV1": {
                    "f:addressType": {}, "f:endpoints": {}, "f:ports": {},
                    "f:metadata": {
                        "f:annotations": {".": {}, format!("f:{trigger}"): {}},
                        "f:generateName": {},
                        "f:labels": {".": {}, "f:endpointslice.kubernetes.io/managed-by": {},
                            "f:kubernetes.io/service-name": {}},
                        "f:ownerReferences": {".": {}, format!("k:{{\"uid\":\"{service}\"}}"): {}},
                    },
                },
            }],
        },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// Bytes on a watch for one change of such a slice.
async fn bytes_of_a_change(api: &ApiServer, endpoints: usize, accept: &str) -> usize {
    let path = format!(
        "/apis/discovery.k8s.io/v1/endpointslices?watch=true&resourceVersion={}",
        api.resource_version()
    );
    let request = Request::get(path).header(ACCEPT, accept).header(ACCEPT_ENCODING, "gzip");
    let request = request.body(Body::empty()).expect("a valid request");
    let response = client(api).send(request).await.expect("an answer");
    assert!(!response.headers().contains_key(CONTENT_ENCODING), "watches are never packed");
    let mut body = response.into_body();
    api.update(&slice_of_the_controller(endpoints, 1)).expect("valid");
    let frame = soon("an event", body.frame()).await.expect("it goes on").expect("no fault");
    api.update(&slice_of_the_controller(endpoints, 0)).expect("valid");
    frame.into_data().expect("not trailers").len()
}

pub(crate) fn a_change_costs_each_watcher_little_more_than_half_of_json() {
    let api = start(Options::default());
    api.create(&slice_of_the_controller(1, 0)).expect("valid");
    run(async {
        for endpoints in [1, 5] {
            api.update(&slice_of_the_controller(endpoints, 0)).expect("valid");
            let (json, protobuf) = (
                bytes_of_a_change(&api, endpoints, JSON).await,
                bytes_of_a_change(&api, endpoints, PROTOBUF).await,
            );
            let figures = format!("{json} bytes of JSON, {protobuf} of protobuf");
            println!("a changed slice of its controller with {endpoints} endpoints: {figures}");
            assert!(protobuf * 100 < json * 65, "{endpoints}: {json}, {protobuf}");
        }
    });
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
