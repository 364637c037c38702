//! The real client over real connections to the lab's API server, in a network namespace of its own.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rtnetlink::LinkUnspec;
use serde_json::Value;
use sluice_cluster::api::{
    Access, ApiServer as LabServer, Identity, Options, Outage, ProtobufSupport,
    Resource as LabResource, StreamingLists, Token, Verb, WatchEnd,
};
use sluice_core::model::Change;
use sluice_kubernetes::watch::{
    ApiServer, ClientError, ClientOptions, ConnectionState, Resource, Update,
};

use super::{Watching, service, slice, watch_server};

/// Runs the future on a thread that has a network namespace with a loopback interface.
pub(super) fn in_namespace(test: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces can be made (run as root)");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime starts").block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().expect("netlink opens");
            let connection = tokio::spawn(connection);
            let up = LinkUnspec::new_with_index(1).up().build();
            handle.link().change(up).execute().await.expect("lo comes up");
            connection.abort();
            let within = Duration::from_secs(300);
            tokio::time::timeout(within, test).await.expect("the test ends within five minutes");
        });
    });
    thread.join().expect("the test passes");
}

/// A server that gives the bearer of `secret` the rights of kube-proxy and no more.
pub(super) fn lab_server() -> LabServer {
    lab_on(TcpListener::bind(("127.0.0.1", 0)).expect("a port is free"))
}

fn lab_on(listener: TcpListener) -> LabServer {
    let token = Token { secret: "secret".to_owned(), identity: Identity::NodeProxier };
    let options = Options { access: Access::Tokens(vec![token]), ..Options::default() };
    LabServer::start(listener, options).expect("the server starts")
}

fn lab_object(kind: &str, mut object: Value) -> Value {
    object["kind"] = kind.into();
    object["apiVersion"] = match kind {
        "EndpointSlice" => "discovery.k8s.io/v1".into(),
        _ => "v1".into(),
    };
    object
}

pub(super) fn put(lab: &LabServer, kind: &str, object: Value) {
    lab.write_unchecked(&lab_object(kind, object)).expect("it is an object");
}

async fn watch_lab(lab: &LabServer) -> Watching {
    watch_port(lab.address().port()).await
}

async fn watch_port(port: u16) -> Watching {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("kubeconfig");
    std::fs::write(&path, kubeconfig(port)).expect("a file");
    let options =
        ClientOptions { kubeconfig: Some(path), master: None, ..ClientOptions::default() };
    watch_server(&ApiServer::new(&options).await.expect("plain HTTP needs no certificates"))
}

async fn until_lost(watching: &mut Watching) {
    while !matches!(watching.connection(Resource::Services).await, ConnectionState::Lost(_)) {}
}

fn kubeconfig(port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
         clusters: [{{name: k, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n\
         users: [{{name: u, user: {{token: secret}}}}]\n"
    )
}

#[test]
fn the_rights_of_kube_proxy_are_enough() {
    in_namespace(async {
        let lab = lab_server();
        put(&lab, "Service", service("a", "10.96.0.10"));
        put(&lab, "EndpointSlice", slice("a-1", "a", "10.1.0.1"));
        for streaming in [StreamingLists::Served, StreamingLists::Forbidden] {
            lab.faults().set_streaming_lists(streaming);
            let mut watching = watch_lab(&lab).await;
            let mut connected = BTreeSet::new();
            while connected.len() < Resource::ALL.len() {
                let state = watching.until(|update| match update {
                    Update::Connection { resource, state } => Some((*resource, state.clone())),
                    _ => None,
                });
                let (resource, state) = state.await;
                assert_eq!(state, ConnectionState::Connected, "{streaming:?} {resource}");
                connected.insert(resource);
            }
        }
        for request in lab.requests().log() {
            assert!(matches!(request.verb, Verb::List | Verb::Watch), "{request:?}");
            assert_eq!(request.user_agent, format!("sluice/{}", env!("CARGO_PKG_VERSION")));
        }
    });
}

#[test]
fn a_broken_connection_costs_no_list() {
    in_namespace(async {
        let lab = lab_server();
        put(&lab, "Service", service("a", "10.96.0.10"));
        let mut watching = watch_lab(&lab).await;
        assert_eq!(watching.services().await, ["a"]);
        let ends = [(WatchEnd::Broken, "10.96.0.11"), (WatchEnd::Clean, "10.96.0.12")];
        for (end, ip) in ends {
            lab.requests().reset();
            lab.faults().end_watches(None, end);
            put(&lab, "Service", service("b", ip));
            assert!(matches!(watching.service_change().await, Change::Service(_)), "{end:?}");
            assert_eq!(lab.requests().count(Verb::List, LabResource::Services), 0, "{end:?}");
        }
    });
}

#[test]
fn an_outage_is_survived() {
    in_namespace(async {
        let lab = lab_server();
        put(&lab, "Service", service("a", "10.96.0.10"));
        let mut watching = watch_lab(&lab).await;
        assert_eq!(watching.services().await, ["a"]);
        lab.faults().set_outage(Outage::Disconnected);
        until_lost(&mut watching).await;
        put(&lab, "Service", service("b", "10.96.0.11"));
        lab.faults().set_outage(Outage::None);
        assert!(matches!(watching.service_change().await, Change::Service(_)));
        assert_eq!(watching.connection(Resource::Services).await, ConnectionState::Connected);
    });
}

#[test]
fn all_encodings_of_a_server_mean_the_same() {
    in_namespace(async {
        let lab = lab_server();
        for n in 0..1200 {
            put(
                &lab,
                "Service",
                service(&format!("s{n:04}"), &format!("10.96.{}.{}", n / 250, n % 250)),
            );
        }
        put(&lab, "EndpointSlice", slice("s0000-1", "s0000", "10.1.0.1"));
        for streaming in [StreamingLists::Served, StreamingLists::Forbidden] {
            for support in [
                ProtobufSupport::Served,
                ProtobufSupport::Lacking,
                ProtobufSupport::NotAcceptable,
                ProtobufSupport::Unsupported,
            ] {
                lab.faults().set_streaming_lists(streaming);
                lab.faults().set_protobuf(support);
                let mut watching = watch_lab(&lab).await;
                assert_eq!(watching.services().await.len(), 1200, "{streaming:?} {support:?}");
                let ip = format!("10.97.{}.{}", streaming as u8, support as u8);
                put(&lab, "Service", service("s0001", &ip));
                let Change::Service(changed) = watching.service_change().await else {
                    panic!("{streaming:?} {support:?}: one Service changed");
                };
                assert_eq!(changed.cluster_ips[0].to_string(), ip, "{streaming:?} {support:?}");
            }
        }
    });
}

#[test]
fn a_server_that_is_not_there_yet_is_asked_for_no_pages() {
    in_namespace(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let mut watching = watch_port(port).await;
        until_lost(&mut watching).await;
        watching.all_within(Duration::from_secs(2)).await;
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is still free");
        let lab = lab_on(listener);
        while watching.connection(Resource::Services).await != ConnectionState::Connected {}
        for resource in [LabResource::Services, LabResource::EndpointSlices, LabResource::Nodes] {
            assert_eq!(lab.requests().count(Verb::List, resource), 0, "{resource:?}");
        }
    });
}

async fn error_of(options: ClientOptions) -> ClientError {
    match ApiServer::new(&options).await {
        Ok(_) => panic!("{options:?} should not lead to a server"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn errors_name_the_file_the_field_and_the_way_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let good = kubeconfig(1);
    let missing_ca = "{server: 'https://h', certificate-authority: missing.crt}";
    let server = "{server: 'http://127.0.0.1:1'}";
    let table = [
        (": [".to_owned(), "cannot read the kubeconfig"),
        (good.replace("secret}}", "secret}"), "cannot read the kubeconfig"),
        (good.replace("token: secret", "tokenFile: missing"), "cannot read the token file"),
        (good.replace("current-context: c\n", ""), "current-context is not set"),
        (good.replace("current-context: c", "current-context: x"), "current-context names \"x\""),
        (good.replace("cluster: k,", "cluster: y,"), "names cluster \"y\""),
        (good.replace(server, "{}"), "has no server"),
        (good.replace(server, missing_ca), "certificate-authority of the cluster"),
        (
            good.replace(server, "{server: 'http://h', proxy-url: 'ftp://u:secret@p'}"),
            "the proxy that proxy-url of cluster \"k\" in the kubeconfig",
        ),
        (
            good.replace(server, "{server: 'https://h', certificate-authority-data: '!'}"),
            "certificate-authority of the cluster",
        ),
    ];
    for (i, (text, expected)) in table.into_iter().enumerate() {
        let path = directory.path().join(i.to_string());
        std::fs::write(&path, &text).expect("a file");
        let options = ClientOptions {
            kubeconfig: Some(path.clone()),
            master: None,
            ..ClientOptions::default()
        };
        let error = error_of(options).await.to_string();
        assert!(error.contains(expected), "{error}\n{text}");
        assert!(error.contains(&directory.path().display().to_string()), "{error}");
        assert!(!error.contains("secret"), "an error must not quote credentials: {error}");
    }

    let missing = Path::new("/nonexistent/kubeconfig").to_owned();
    let error = error_of(ClientOptions {
        kubeconfig: Some(missing),
        master: None,
        ..ClientOptions::default()
    })
    .await
    .to_string();
    assert!(error.contains("/nonexistent/kubeconfig") && error.contains("--kubeconfig"), "{error}");

    let master = Some("localhost:6443".to_owned());
    let error = error_of(ClientOptions { master, ..ClientOptions::default() }).await.to_string();
    assert!(error.contains("https://host:6443"), "{error}");
}

#[tokio::test]
async fn the_master_address_overrides_the_kubeconfig() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("kubeconfig");
    std::fs::write(&path, kubeconfig(1)).expect("a file");
    let options = ClientOptions {
        kubeconfig: Some(path),
        master: Some("http://192.0.2.7:8080/".to_owned()),
        ..ClientOptions::default()
    };
    let server = ApiServer::new(&options).await.expect("both are usable");
    assert_eq!(server.url, "http://192.0.2.7:8080");
}
