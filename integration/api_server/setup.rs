//! What all tests need: a namespace, a server, a client.

use std::future::Future;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use http::{Method, Request};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, new_connection};
use serde_json::{Value, json};
use sluice_cluster::api::{ApiServer, Options};

/// No test waits longer than this for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Moves the process into a network namespace of its own, with the loopback up.
pub(crate) fn enter_network_namespace() {
    let mut flags = CloneFlags::CLONE_NEWNET;
    if !Uid::effective().is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).expect("a network namespace of its own; run as root or allow user namespaces");
    run(async {
        let (connection, handle, _) = new_connection().expect("a netlink socket");
        let connection = tokio::spawn(connection);
        let up = LinkMessageBuilder::<LinkUnspec>::new().index(1).up().build();
        handle.link().set(up).execute().await.expect("the loopback comes up");
        connection.abort();
    });
}

/// Runs a future on this thread.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

pub(crate) fn start(options: Options) -> ApiServer {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    ApiServer::start(listener, options).expect("the server starts")
}

pub(crate) fn client(api: &ApiServer) -> kube::Client {
    let uri = api.url().parse().expect("an address is a URI");
    let mut config = kube::Config::new(uri);
    config.default_retry = false; // Tests want to see the refusals.
    kube::Client::try_from(config).expect("a client needs no network yet")
}

/// One request; the error is the code and the reason of the Status.
pub(crate) async fn request(
    client: &kube::Client,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Value, (u16, String)> {
    let body = body.map_or_else(Vec::new, |b| b.to_string().into_bytes());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body)
        .expect("a valid request");
    match client.request::<Value>(request).await {
        Ok(value) => Ok(value),
        Err(kube::Error::Api(status)) => Err((status.code, status.reason)),
        Err(other) => panic!("{path}: {other}"),
    }
}

pub(crate) async fn get(client: &kube::Client, path: &str) -> Result<Value, (u16, String)> {
    request(client, Method::GET, path, None).await
}

/// A Service in namespace `default` with this spec.
pub(crate) fn service(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    })
}

/// A Service with one port and a label.
pub(crate) fn web(name: &str) -> Value {
    let mut service = service(name, json!({"ports": [{"port": 80}], "selector": {"app": name}}));
    service["metadata"]["labels"] = json!({"app": name});
    service
}

/// Names of the items of a list.
pub(crate) fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list has items");
    items.iter().filter_map(|i| i["metadata"]["name"].as_str()).collect()
}

/// Polls until the condition holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what} does not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a future within the deadline.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(DEADLINE, future).await;
    result.unwrap_or_else(|_| panic!("{what} does not come in time"))
}
