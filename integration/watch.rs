//! The watches against a fake API server: what arrives, in which order, and what is requested.

#[path = "watch/encodings.rs"]
mod encodings;
#[path = "watch/fake.rs"]
mod fake;
#[path = "watch/fleet.rs"]
mod fleet;
#[path = "watch/generated.rs"]
mod generated;
#[path = "watch/lists.rs"]
mod lists;
#[path = "watch/proxy.rs"]
mod proxy;
#[path = "watch/refusals.rs"]
mod refusals;
#[path = "watch/restarts.rs"]
mod restarts;
#[path = "watch/tcp.rs"]
mod tcp;
#[path = "watch/tls.rs"]
mod tls;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use fake::{CIDRS, Fake, NODES, SERVICES, SLICES, Streaming};
use serde_json::{Value, json};
use sluice_core::model::{Change, ServiceName, Warning};
use sluice_kubernetes::watch::{
    ApiServer, ConnectionState, Message, Resource, Update, WatchOptions, start,
};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Makes tests of functions, against a server that speaks protobuf and one that has only JSON.
macro_rules! in_both_encodings {
    ($($name:ident,)*) => {
        mod in_protobuf {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                $crate::fake::speak($crate::fake::Protobuf::Speaks);
                super::$name().await;
            })*
        }
        mod in_json {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                $crate::fake::speak($crate::fake::Protobuf::Lacks);
                super::$name().await;
            })*
        }
    };
}
use in_both_encodings;

in_both_encodings! {
    a_list_is_one_change_and_changes_follow,
    servers_that_refuse_streamed_lists_are_asked_for_pages,
    a_server_that_never_ends_a_streamed_list_is_asked_for_pages,
    an_incomplete_list_changes_nothing,
    a_bad_object_costs_a_warning_and_nothing_else,
    a_forgotten_version_leads_to_a_new_list,
    after_an_outage_the_watch_goes_on_where_it_was,
    an_outage_is_met_with_ever_rarer_tries,
    a_server_that_ends_watches_at_once_is_not_hammered,
    watches_that_end_in_time_are_renewed_without_a_word,
    a_server_that_lost_its_memory_is_listed_anew,
    only_list_and_watch_are_asked_for_with_the_selectors_of_kube_proxy,
    a_cluster_without_service_cidrs_has_none,
    a_refusal_is_reported_and_the_list_comes_once_it_is_lifted,
    the_node_is_reported_when_it_changes_and_when_it_goes,
    ten_thousand_slices_are_one_change,
    cancelling_ends_every_task,
    a_dropped_receiver_ends_every_task,
}

/// In the tests' own time, which passes only while nothing else happens.
const LONG: Duration = Duration::from_secs(3600);

struct Watching {
    updates: Receiver<Message>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn watch(fake: &Fake) -> Watching {
    watch_server(&fake.server())
}

fn watch_server(server: &ApiServer) -> Watching {
    let (send, updates) = channel(8);
    let stop = CancellationToken::new();
    let options = WatchOptions { node_name: "here".to_owned() };
    let tasks = start(server, &options, &send, &stop);
    Watching { updates, stop, tasks }
}

impl Watching {
    /// The first update for which the function has an answer.
    async fn until<T>(&mut self, mut wanted: impl FnMut(&Update) -> Option<T>) -> T {
        let search = async {
            loop {
                let Message { update, .. } =
                    self.updates.recv().await.expect("the watches are running");
                if let Some(found) = wanted(&update) {
                    return found;
                }
            }
        };
        timeout(LONG, search).await.expect("the update comes")
    }

    /// The names in the next complete list of Services.
    async fn services(&mut self) -> Vec<String> {
        self.until(|update| match update {
            Update::Change(Change::Services(list)) => {
                let mut names: Vec<_> = list.iter().map(|s| s.name.name().to_owned()).collect();
                names.sort();
                Some(names)
            }
            _ => None,
        })
        .await
    }

    /// The next change of Services, whichever it is.
    async fn service_change(&mut self) -> Change {
        self.until(|update| match update {
            Update::Change(
                change @ (Change::Service(_) | Change::ServiceGone(_) | Change::Services(_)),
            ) => Some(change.clone()),
            _ => None,
        })
        .await
    }

    async fn connection(&mut self, of: Resource) -> ConnectionState {
        self.until(|update| match update {
            Update::Connection { resource, state } if *resource == of => Some(state.clone()),
            _ => None,
        })
        .await
    }

    /// The next report about any connection.
    async fn next_connection(&mut self) -> (Resource, ConnectionState) {
        self.until(|update| match update {
            Update::Connection { resource, state } => Some((*resource, state.clone())),
            _ => None,
        })
        .await
    }

    async fn warnings(&mut self) -> Vec<Warning> {
        self.until(|update| match update {
            Update::Warnings(warnings) => Some(warnings.clone()),
            _ => None,
        })
        .await
    }

    /// Every update within some time.
    async fn all_within(&mut self, time: Duration) -> Vec<Update> {
        let mut all = Vec::new();
        let end = tokio::time::Instant::now() + time;
        while let Ok(Some(message)) = tokio::time::timeout_at(end, self.updates.recv()).await {
            all.push(message.update);
        }
        all
    }
}

fn service(name: &str, ip: &str) -> Value {
    json!({
        "metadata": { "namespace": "default", "name": name, "managedFields": [{ "x": 1 }] },
        "spec": {
            "clusterIP": ip, "clusterIPs": [ip],
            "ports": [{ "name": "http", "protocol": "TCP", "port": 80, "targetPort": "web" }],
        },
    })
}

fn slice(name: &str, service: &str, ip: &str) -> Value {
    json!({
        "metadata": {
            "namespace": "default", "name": name,
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
        "endpoints": [{ "addresses": [ip], "nodeName": "here" }],
    })
}

fn node(name: &str, heartbeat: u32) -> Value {
    json!({
        "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": "a" } },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }],
            "conditions": [{ "lastHeartbeatTime": heartbeat }],
        },
    })
}

fn two_services() -> Fake {
    let fake = Fake::default();
    fake.put(SERVICES, service("a", "10.0.0.1"));
    fake.put(SERVICES, service("b", "10.0.0.2"));
    fake
}

fn watches_of_services(fake: &Fake) -> Vec<String> {
    let world = fake.world();
    world.requests.iter().filter(|r| r.contains(SERVICES)).cloned().collect()
}

async fn a_list_is_one_change_and_changes_follow() {
    let fake = two_services();
    let mut watching = watch(&fake);
    assert_eq!(watching.services().await, ["a", "b"]);

    fake.put(SERVICES, service("c", "10.0.0.3"));
    let Change::Service(added) = watching.service_change().await else { panic!("not an addition") };
    assert_eq!(added.name, ServiceName::new("default", "c"));
    assert_eq!(added.cluster_ips, ["10.0.0.3".parse::<IpAddr>().expect("an address")]);

    fake.delete(SERVICES, "default/a");
    let gone = Change::ServiceGone(ServiceName::new("default", "a"));
    assert_eq!(watching.service_change().await, gone);

    // The API server would send a deletion; one that does not know the selector sends this.
    let mut foreign = service("b", "10.0.0.2");
    foreign["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": "x" });
    fake.put(SERVICES, foreign);
    let gone = Change::ServiceGone(ServiceName::new("default", "b"));
    assert_eq!(watching.service_change().await, gone);
}

async fn servers_that_refuse_streamed_lists_are_asked_for_pages() {
    for code in [400, 403, 404, 405, 406, 422] {
        let fake = Fake::default();
        for i in 0..1200 {
            let name = format!("s{i:04}");
            fake.put(SERVICES, service(&name, &format!("10.0.{}.{}", i / 250, 1 + i % 250)));
        }
        fake.world().streaming = Streaming::Refuses(code);
        let mut watching = watch(&fake);
        assert_eq!(watching.services().await.len(), 1200, "status {code}");
        assert_eq!(watching.connection(Resource::Services).await, ConnectionState::Connected);
        let asked = watches_of_services(&fake);
        let pages = asked.iter().filter(|r| r.contains("limit=500")).count();
        assert_eq!(pages, 3, "status {code}: {asked:#?}");

        fake.put(SERVICES, service("late", "10.1.0.1"));
        assert!(matches!(watching.service_change().await, Change::Service(_)));
    }
}

async fn a_server_that_never_ends_a_streamed_list_is_asked_for_pages() {
    let fake = two_services();
    fake.world().streaming = Streaming::Ignores;
    let begun = tokio::time::Instant::now();
    let mut watching = watch(&fake);
    assert_eq!(watching.services().await, ["a", "b"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

async fn an_incomplete_list_changes_nothing() {
    let fake = two_services();
    fake.world().streaming = Streaming::BreaksAfter(1);
    let mut watching = watch(&fake);
    // Services are the only resource with objects here, so it is their list that broke.
    assert_eq!(watching.services().await, ["a", "b"]);
}

async fn a_bad_object_costs_a_warning_and_nothing_else() {
    for streaming in [Streaming::Knows, Streaming::Refuses(400)] {
        let fake = two_services();
        let mut bad = service("bad", "10.0.0.9");
        bad["spec"]["ports"][0]["port"] = json!("abc");
        bad["spec"]["externalIPs"] = json!(5);
        fake.put(SERVICES, bad);
        fake.put(SERVICES, json!({ "metadata": 7, "spec": [] }));
        fake.world().streaming = streaming;

        let mut watching = watch(&fake);
        let mut told = watching.warnings().await;
        if told.len() == 1 {
            told.extend(watching.warnings().await);
        }
        let fields: Vec<String> =
            told.iter().map(|w| format!("{} {}", w.object, w.field)).collect();
        assert!(
            fields.contains(&"Service default/bad spec.ports[0].port".to_owned()),
            "{fields:?}"
        );
        // In protobuf there is no list that is a number, but an entry that is.
        let entry = |field: &String| field.starts_with("Service default/bad spec.externalIPs");
        assert!(fields.iter().any(entry), "{fields:?}");
        assert!(fields.contains(&"Service without a name metadata".to_owned()), "{fields:?}");
        assert_eq!(watching.services().await, ["a", "b", "bad"]);

        // A relist does not repeat known objects.
        fake.compact();
        fake.close();
        assert_eq!(watching.services().await, ["a", "b", "bad"]);
        let rest = watching.all_within(Duration::from_secs(60)).await;
        assert!(!rest.iter().any(|u| matches!(u, Update::Warnings(_))), "{rest:#?}");
    }
}

async fn a_forgotten_version_leads_to_a_new_list() {
    for by_status in [false, true] {
        let fake = two_services();
        fake.world().expired_by_status = by_status;
        let mut watching = watch(&fake);
        assert_eq!(watching.services().await, ["a", "b"]);

        fake.close();
        fake.delete(SERVICES, "default/a");
        fake.compact();
        assert_eq!(watching.services().await, ["b"], "by status: {by_status}");
    }
}

async fn after_an_outage_the_watch_goes_on_where_it_was() {
    let fake = two_services();
    let mut watching = watch(&fake);
    watching.services().await;
    assert_eq!(watching.connection(Resource::Services).await, ConnectionState::Connected);
    let _ = watching.all_within(Duration::from_secs(5)).await;

    fake.world().down = true;
    fake.cut();
    let outage = watching.all_within(Duration::from_secs(600)).await;
    let mut lost = BTreeSet::new();
    for update in outage {
        let Update::Connection { resource, state: ConnectionState::Lost(reason) } = update else {
            panic!("{update:?}");
        };
        assert!(reason.contains("connection refused"), "{reason}");
        assert!(lost.insert(resource), "{resource} is lost twice");
    }
    assert_eq!(lost, BTreeSet::from(Resource::ALL));

    fake.put(SERVICES, service("c", "10.0.0.3"));
    fake.world().requests.clear();
    fake.world().down = false;
    assert!(matches!(watching.service_change().await, Change::Service(_)));
    assert_eq!(watching.connection(Resource::Services).await, ConnectionState::Connected);
    let asked = watches_of_services(&fake);
    assert!(asked.iter().all(|r| lists::is_watch(r)), "{asked:#?}");
}

async fn an_outage_is_met_with_ever_rarer_tries() {
    let fake = two_services();
    fake.world().down = true;
    let mut watching = watch(&fake);
    let _ = watching.all_within(Duration::from_secs(600)).await;
    let tries = watches_of_services(&fake).len();
    // Seven pauses that double up to 51 s, then one try per 15 to 60 s.
    assert!((15..35).contains(&tries), "{tries} tries in ten minutes");
    fake.world().down = false;
    assert_eq!(watching.services().await, ["a", "b"]);
}

async fn a_server_that_ends_watches_at_once_is_not_hammered() {
    let fake = two_services();
    let mut watching = watch(&fake);
    watching.services().await;
    let closing = async {
        loop {
            fake.close();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = closing => panic!("there is always another end"),
        _ = watching.all_within(Duration::from_secs(60)) => {}
    }
    let tries = watches_of_services(&fake).len();
    assert!(tries < 20, "{tries} tries in a minute");
}

async fn watches_that_end_in_time_are_renewed_without_a_word() {
    let fake = two_services();
    let mut watching = watch(&fake);
    watching.services().await;
    let _ = watching.all_within(Duration::from_secs(5)).await;
    fake.world().requests.clear();
    // The fake never ends a watch, so the client must time out.
    let bookmarks = async {
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
            fake.bookmark();
        }
    };
    let updates = tokio::select! {
        () = bookmarks => panic!("there is always another bookmark"),
        updates = watching.all_within(Duration::from_secs(1800)) => updates,
    };
    assert_eq!(updates, []);
    let renewed = watches_of_services(&fake);
    // One per 5 to 10 minutes, and what it takes to believe that the server does not end it.
    assert!((2..6).contains(&renewed.len()), "{renewed:#?} in half an hour");
    assert!(renewed.iter().all(|r| lists::is_watch(r)), "{renewed:#?}");
}

async fn a_server_that_lost_its_memory_is_listed_anew() {
    // Its versions start again from 1, so the client's is from the future. The first thing that
    // happens tells, and if nothing does, the silence.
    for something_happens in [true, false] {
        let fake = two_services();
        let mut watching = watch(&fake);
        assert_eq!(watching.services().await, ["a", "b"]);
        fake.restore_from_backup();
        fake.close();
        if something_happens {
            let _ = watching.all_within(Duration::from_secs(5)).await;
            fake.put(SERVICES, service("new", "10.0.0.10"));
            assert_eq!(watching.services().await, ["new"]);
        } else {
            assert_eq!(watching.services().await, [""; 0]);
        }
    }
}

async fn only_list_and_watch_are_asked_for_with_the_selectors_of_kube_proxy() {
    let fake = two_services();
    fake.world().streaming = Streaming::Refuses(422);
    let mut watching = watch(&fake);
    watching.services().await;
    let _ = watching.all_within(Duration::from_secs(60)).await;
    let selectors = [
        (
            SERVICES,
            "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name\
             &fieldSelector=spec.clusterIP%21%3DNone&",
        ),
        (SLICES, "labelSelector=%21service.kubernetes.io%2Fheadless&"),
        (NODES, "fieldSelector=metadata.name%3Dhere&"),
        (CIDRS, "&"),
    ];
    for request in &fake.world().requests {
        let known = selectors.iter().any(|(path, selector)| {
            request.starts_with(&format!("GET {path}?{selector}"))
                && (request.contains("&limit=") || request.contains("&watch=true&"))
        });
        assert!(known, "{request}");
    }
}

async fn a_cluster_without_service_cidrs_has_none() {
    for code in [403, 404] {
        let fake = two_services();
        fake.world().refused.insert(CIDRS, code);
        let mut watching = watch(&fake);
        let updates = watching.all_within(Duration::from_secs(300)).await;
        let cidrs: Vec<_> = updates
            .iter()
            .filter(|u| matches!(u, Update::Change(Change::ServiceCidrs(_))))
            .collect();
        assert_eq!(cidrs, [&Update::Change(Change::ServiceCidrs(BTreeSet::new()))]);
        let asked = fake.world().requests.iter().filter(|r| r.contains(CIDRS)).count();
        // A server that has just started may answer 403: each attempt is two requests.
        let most = if code == 403 { 14 } else { 2 };
        assert!(asked <= most, "{asked} requests in five minutes");

        fake.world().refused.clear();
        fake.put(
            CIDRS,
            json!({ "metadata": { "name": "k" }, "spec": { "cidrs": ["10.0.0.0/16"] } }),
        );
        let found = watching
            .until(|update| match update {
                Update::Change(Change::ServiceCidrs(cidrs)) => Some(cidrs.clone()),
                _ => None,
            })
            .await;
        assert_eq!(found.len(), 1);
    }
}

async fn a_refusal_is_reported_and_the_list_comes_once_it_is_lifted() {
    let fake = two_services();
    fake.world().refused.insert(SERVICES, 403);
    let mut watching = watch(&fake);
    let ConnectionState::Lost(reason) = watching.connection(Resource::Services).await else {
        panic!("the server refuses");
    };
    assert_eq!(reason, "the server answers 403: the test says so");
    fake.world().refused.clear();
    assert_eq!(watching.services().await, ["a", "b"]);
    assert_eq!(watching.connection(Resource::Services).await, ConnectionState::Connected);
}

async fn the_node_is_reported_when_it_changes_and_when_it_goes() {
    let fake = Fake::default();
    fake.put(NODES, node("here", 1));
    fake.put(NODES, node("elsewhere", 1));
    let mut watching = watch(&fake);
    let next_node = |update: &Update| match update {
        Update::Change(Change::Node(node)) => Some(node.clone()),
        _ => None,
    };
    let found = watching.until(next_node).await.expect("the node is there");
    assert_eq!(found.zone.as_deref(), Some("a"));

    fake.put(NODES, node("here", 2));
    fake.put(NODES, node("elsewhere", 2));
    let rest = watching.all_within(Duration::from_secs(60)).await;
    assert!(!rest.iter().any(|u| next_node(u).is_some()), "{rest:#?}");

    fake.delete(NODES, "here");
    assert_eq!(watching.until(next_node).await, None);
}

async fn ten_thousand_slices_are_one_change() {
    let fake = Fake::default();
    for i in 0..10_000 {
        let ip = format!("10.{}.{}.{}", i / 62_500, (i / 250) % 250, 1 + i % 250);
        fake.put(SLICES, slice(&format!("s{i}"), &format!("svc{}", i % 100), &ip));
    }
    let mut watching = watch(&fake);
    let slices = watching
        .until(|update| match update {
            Update::Change(Change::Slices(slices)) => Some(slices.clone()),
            Update::Change(Change::Slice(slice)) => panic!("{slice:?} comes alone"),
            _ => None,
        })
        .await;
    assert_eq!(slices.len(), 10_000);
    assert!(
        slices.iter().all(|slice| slice.endpoints.iter().next().is_some_and(|first| first.local))
    );
}

async fn cancelling_ends_every_task() {
    let fake = two_services();
    let mut watching = watch(&fake);
    watching.services().await;
    watching.stop.cancel();
    let ended = timeout(LONG, async { while watching.tasks.join_next().await.is_some() {} }).await;
    assert!(ended.is_ok());
}

async fn a_dropped_receiver_ends_every_task() {
    let fake = two_services();
    let mut watching = watch(&fake);
    drop(watching.updates);
    fake.put(NODES, node("here", 1));
    fake.put(SLICES, slice("s", "a", "10.1.0.1"));
    fake.put(CIDRS, json!({ "metadata": { "name": "k" }, "spec": { "cidrs": ["10.0.0.0/16"] } }));
    fake.put(SERVICES, service("c", "10.0.0.3"));
    let ended = timeout(LONG, async { while watching.tasks.join_next().await.is_some() {} }).await;
    assert!(ended.is_ok());
}
