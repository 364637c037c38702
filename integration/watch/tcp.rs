//! The real client over real connections, in a network namespace of its own.

use std::convert::Infallible;
use std::path::Path;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::LinkUnspec;
use sluice::watch::{ApiServer, ClientError, ClientOptions, ConnectionState, Resource};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::fake::{Fake, SERVICES};
use super::{service, two_services, watch_server};

/// Runs the future on a thread that has a network namespace with a loopback interface.
fn in_namespace(test: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces can be made (run as root)");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime starts").block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().expect("netlink opens");
            let connection = tokio::spawn(connection);
            let up = LinkUnspec::new_with_index(1).up().build();
            handle.link().change(up).execute().await.expect("lo comes up");
            connection.abort();
            let within = std::time::Duration::from_secs(60);
            tokio::time::timeout(within, test).await.expect("the test ends within a minute");
        });
    });
    thread.join().expect("the test passes");
}

/// Serves the fake until the set is dropped or shut down, which also breaks its connections.
async fn serve(fake: &Fake, port: u16) -> (JoinSet<()>, u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
    let port = listener.local_addr().expect("the listener has an address").port();
    let fake = fake.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let fake = fake.clone();
            let service = service_fn(move |request| {
                let answer = fake.answer(&request).expect("this server is never down");
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            connections.spawn(async move {
                let _ = connection.await;
            });
        }
    });
    (tasks, port)
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
fn a_server_that_was_killed_and_comes_back_is_followed_again() {
    in_namespace(async {
        let fake = two_services();
        let (mut serving, port) = serve(&fake, 0).await;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig(port)).expect("a file");
        let options = ClientOptions { kubeconfig: Some(path), master: None };
        let server = ApiServer::new(&options).await.expect("plain HTTP needs no certificates");
        let mut watching = watch_server(&server);
        assert_eq!(watching.services().await, ["a", "b"]);

        serving.shutdown().await;
        let lost = async {
            while !matches!(watching.connection(Resource::Services).await, ConnectionState::Lost(_))
            {
            }
        };
        lost.await;
        fake.put(SERVICES, service("c", "10.0.0.3"));
        let (_serving, _) = serve(&fake, port).await;
        watching.service_change().await;
        let agent = format!("sluice/{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(fake.world().user_agents.iter().collect::<Vec<_>>(), [&agent]);
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
        (good.replace("current-context: c\n", ""), "current-context is not set"),
        (good.replace("current-context: c", "current-context: x"), "current-context names \"x\""),
        (good.replace("cluster: k,", "cluster: y,"), "names cluster \"y\""),
        (good.replace(server, "{}"), "has no server"),
        (good.replace(server, missing_ca), "certificate-authority of the cluster"),
        (
            good.replace(server, "{server: 'https://h', certificate-authority-data: '!'}"),
            "certificate-authority of the cluster",
        ),
    ];
    for (i, (text, expected)) in table.into_iter().enumerate() {
        let path = directory.path().join(i.to_string());
        std::fs::write(&path, &text).expect("a file");
        let options = ClientOptions { kubeconfig: Some(path.clone()), master: None };
        let error = error_of(options).await.to_string();
        assert!(error.contains(expected), "{error}\n{text}");
        assert!(error.contains(&path.display().to_string()), "{error}");
    }

    let missing = Path::new("/nonexistent/kubeconfig").to_owned();
    let error =
        error_of(ClientOptions { kubeconfig: Some(missing), master: None }).await.to_string();
    assert!(error.contains("/nonexistent/kubeconfig") && error.contains("--kubeconfig"), "{error}");

    let master = Some("localhost:6443".to_owned());
    let error = error_of(ClientOptions { kubeconfig: None, master }).await.to_string();
    assert!(error.contains("https://host:6443"), "{error}");
}

#[tokio::test]
async fn the_master_address_overrides_the_kubeconfig() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("kubeconfig");
    std::fs::write(&path, kubeconfig(1)).expect("a file");
    let options =
        ClientOptions { kubeconfig: Some(path), master: Some("http://192.0.2.7:8080/".to_owned()) };
    let server = ApiServer::new(&options).await.expect("both are usable");
    assert_eq!(server.url, "http://192.0.2.7:8080");
}
