//! Lists and watches over HTTP: raw ones, kube-rs's watcher, and the daemon's own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt, TryStreamExt};
use http::Request;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::core::WatchEvent;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use sluice_cluster::api::{
    ApiServer, GoneForm, Options, Outage, Part, Patch, Resource, StreamingLists, Verb, WatchEnd,
};
use sluice_core::model::Change;
use sluice_kubernetes::watch::{Message, Update, WatchOptions, start as start_daemon_watches};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::setup::{DEADLINE, client, eventually, get, names, run, soon, start, web};

pub(crate) fn pages_show_the_version_of_the_first() {
    let api = start(Options::default());
    api.bulk_create((0..25).map(|n| web(&format!("s-{n:02}"))).collect()).expect("valid");
    run(async {
        let client = client(&api);
        let page = async |token: &str| {
            let path = format!("/api/v1/namespaces/default/services?limit=10&continue={token}");
            get(&client, &path).await
        };
        let first = page("").await.expect("a page");
        assert_eq!(names(&first).len(), 10);
        assert_eq!(first["metadata"]["remainingItemCount"], 15);
        let token = first["metadata"]["continue"].as_str().expect("there is more").to_owned();
        api.delete(Resource::Services, "default", "s-12").expect("it is there");
        api.create(&web("s-19a")).expect("valid");
        let second = page(&token).await.expect("a page");
        assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let expected: Vec<String> = (10..20).map(|n| format!("s-{n:02}")).collect();
        assert_eq!(names(&second), expected, "as it was when the list began");
        api.compact();
        assert_eq!(
            page(&token).await.expect_err("the history is gone"),
            (410, "Expired".to_owned())
        );
        let exact = "/api/v1/services?resourceVersionMatch=Exact&resourceVersion=5";
        assert_eq!(get(&client, exact).await.expect_err("too old").0, 410);
        let old = "/api/v1/services?resourceVersionMatch=NotOlderThan&resourceVersion=5";
        assert_eq!(names(&get(&client, old).await.expect("newer is fine")).len(), 25);
    });
}

fn services(api: &ApiServer) -> Api<Service> {
    Api::namespaced(client(api), "default")
}

fn name_of(service: &Service) -> String {
    service.metadata.name.clone().unwrap_or_default()
}

/// The objects of the next complete list.
async fn next_list(
    stream: &mut (impl Stream<Item = watcher::Result<Event<Service>>> + Unpin),
) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        match soon("a watcher's event", stream.next()).await.expect("watchers never end") {
            Ok(Event::Init) => found.clear(),
            Ok(Event::InitApply(service)) => found.push(name_of(&service)),
            Ok(Event::InitDone) => return found,
            Ok(_) | Err(_) => {}
        }
    }
}

pub(crate) fn both_strategies_list_then_follow() {
    for config in
        [watcher::Config::default().page_size(2), watcher::Config::default().streaming_lists()]
    {
        let api = start(Options::default());
        api.bulk_create(["a", "b", "c"].map(web).into()).expect("valid");
        run(async {
            let mut stream = pin!(watcher(services(&api), config));
            assert_eq!(next_list(&mut stream).await, ["a", "b", "c"]);
            api.create(&web("d")).expect("valid");
            let event = soon("an event", stream.next()).await.expect("goes on").expect("no error");
            assert!(matches!(event, Event::Apply(s) if name_of(&s) == "d"));
            api.delete(Resource::Services, "default", "a").expect("it is there");
            let event = soon("an event", stream.next()).await.expect("goes on").expect("no error");
            assert!(matches!(event, Event::Delete(s) if name_of(&s) == "a"));
        });
    }
}

/// Breaks the open watches of Services, and makes the version that they had reached one that is
/// gone while the clients are away. Service `before` becomes `after`.
async fn lose_history(api: &ApiServer, before: &str, after: &str) {
    let open = |count| move || api.requests().open_watches(Resource::Services) == count;
    eventually("a watch", open(1)).await;
    api.faults().set_outage(Outage::Disconnected);
    eventually("no watch", open(0)).await;
    api.create(&web(after)).expect("valid");
    api.delete(Resource::Services, "default", before).expect("it is there");
    api.compact();
    api.faults().set_outage(Outage::None);
}

/// kube's watcher does not recover from 410 as an HTTP status: it asks for the same version again.
pub(crate) fn a_watcher_recovers_when_its_version_is_gone() {
    let api = start(Options::default());
    api.create(&web("a")).expect("valid");
    run(async {
        let config = watcher::Config::default();
        let mut stream = pin!(watcher(services(&api), config));
        assert_eq!(next_list(&mut stream).await, ["a"]);
        let (list, ()) = tokio::join!(next_list(&mut stream), lose_history(&api, "a", "b"));
        assert_eq!(list, ["b"]);
    });
}

fn words(event: WatchEvent<Value>) -> (&'static str, Value) {
    match event {
        WatchEvent::Added(object) => ("ADDED", object),
        WatchEvent::Modified(object) => ("MODIFIED", object),
        WatchEvent::Deleted(object) => ("DELETED", object),
        WatchEvent::Bookmark(bookmark) => ("BOOKMARK", json!(bookmark)),
        WatchEvent::Error(status) => ("ERROR", json!(status)),
    }
}

/// The events of a raw watch, as the API words them: type and object.
async fn raw_watch(
    client: &kube::Client,
    path: &str,
) -> Result<impl Stream<Item = (&'static str, Value)> + Unpin + use<>, u16> {
    let request = Request::get(path).body(Vec::new()).expect("valid");
    match client.request_events::<Value>(request).await {
        Ok(events) => {
            let whole = events.take_while(|event| std::future::ready(event.is_ok()));
            Ok(Box::pin(whole.filter_map(async |event| event.ok().map(words))))
        }
        Err(kube::Error::Api(status)) => Err(status.code),
        Err(other) => panic!("{path}: {other}"),
    }
}

async fn next(
    stream: &mut (impl Stream<Item = (&'static str, Value)> + Unpin),
) -> (&'static str, Value) {
    soon("an event", stream.next()).await.expect("the stream goes on")
}

pub(crate) fn a_selector_turns_changes_into_additions_and_deletions() {
    let api = start(Options::default());
    run(async {
        let client = client(&api);
        let path = "/api/v1/services?watch=1&labelSelector=app%3Da,!hidden";
        let mut stream = raw_watch(&client, path).await.expect("a watch");
        api.create(&web("a")).expect("valid");
        api.create(&web("b")).expect("valid");
        let (kind, object) = next(&mut stream).await;
        assert_eq!((kind, &object["metadata"]["name"]), ("ADDED", &json!("a")));
        let label = |value: Value| {
            let patch = Patch::Merge(json!({"metadata": {"labels": {"hidden": value}}}));
            api.patch(Resource::Services, "default", "a", Part::Whole, &patch).expect("patched")
        };
        let written = label(json!("yes"));
        let (kind, object) = next(&mut stream).await;
        assert_eq!(kind, "DELETED");
        assert_eq!(object["metadata"]["labels"], json!({"app": "a"}), "as it was when it matched");
        assert_eq!(object["metadata"]["resourceVersion"], written.version.to_string());
        label(Value::Null);
        assert_eq!(next(&mut stream).await.0, "ADDED");
        label(Value::Null);
        api.delete(Resource::Services, "default", "a").expect("it is there");
        assert_eq!(next(&mut stream).await.0, "DELETED", "the empty change made no event");
    });
}

pub(crate) fn bookmarks_carry_the_newest_version() {
    let interval = Duration::from_millis(20);
    let api = start(Options { bookmark_interval: interval, ..Options::default() });
    run(async {
        let client = client(&api);
        let version = api.resource_version();
        let path =
            format!("/api/v1/services?watch=1&allowWatchBookmarks=true&resourceVersion={version}");
        let mut stream = raw_watch(&client, &path).await.expect("a watch");
        api.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}))
            .expect("valid");
        let newest = api.resource_version().to_string();
        loop {
            let (kind, object) = next(&mut stream).await;
            assert_eq!(kind, "BOOKMARK");
            if object["metadata"]["resourceVersion"] == newest {
                break;
            }
        }
        let path = "/api/v1/services?watch=1&resourceVersion=1&timeoutSeconds=1";
        let mut ended = raw_watch(&client, path).await.expect("a watch");
        assert_eq!(soon("the end", ended.next()).await, None, "no bookmark was asked for");
    });
}

pub(crate) fn a_streaming_list_ends_with_a_bookmark() {
    const STREAM: &str = "/api/v1/services?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let api = start(Options::default());
    api.bulk_create(["a", "b"].map(web).into()).expect("valid");
    run(async {
        let client = client(&api);
        let mut stream = raw_watch(&client, STREAM).await.expect("a watch");
        for name in ["a", "b"] {
            let (kind, object) = next(&mut stream).await;
            assert_eq!((kind, &object["metadata"]["name"]), ("ADDED", &json!(name)));
        }
        let (kind, object) = next(&mut stream).await;
        assert_eq!(kind, "BOOKMARK");
        assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        assert_eq!(object["metadata"]["resourceVersion"], api.resource_version().to_string());
        api.create(&web("c")).expect("valid");
        assert_eq!(next(&mut stream).await.0, "ADDED");
        let bad = "/api/v1/services?watch=1&sendInitialEvents=true";
        assert_eq!(
            raw_watch(&client, bad).await.err(),
            Some(422),
            "resourceVersionMatch is missing"
        );
        let future = format!("{STREAM}&resourceVersion=999999");
        assert_eq!(raw_watch(&client, &future).await.err(), Some(504));
    });
}

pub(crate) fn old_servers_refuse_streaming_lists_in_their_ways() {
    const STREAM: &str = "/api/v1/services?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let api = start(Options::default());
    api.create(&web("a")).expect("valid");
    run(async {
        let client = client(&api);
        api.faults().set_streaming_lists(StreamingLists::Forbidden);
        assert_eq!(raw_watch(&client, STREAM).await.err(), Some(422));
        api.faults().set_streaming_lists(StreamingLists::BadRequest);
        assert_eq!(raw_watch(&client, STREAM).await.err(), Some(400));
        api.faults().set_streaming_lists(StreamingLists::Ignored);
        let mut stream = raw_watch(&client, STREAM).await.expect("a plain watch");
        assert_eq!(next(&mut stream).await.0, "ADDED");
        api.create(&web("b")).expect("valid");
        let (kind, object) = next(&mut stream).await;
        assert_eq!((kind, &object["metadata"]["name"]), ("ADDED", &json!("b")), "no bookmark");
        api.faults().set_streaming_lists(StreamingLists::Failed);
        let mut stream = raw_watch(&client, STREAM).await.expect("it begins");
        let (kind, status) = next(&mut stream).await;
        assert_eq!((kind, &status["code"]), ("ERROR", &json!(500)));
        api.faults().set_streaming_lists(StreamingLists::Cut);
        let mut stream = raw_watch(&client, STREAM).await.expect("it begins");
        assert_eq!(next(&mut stream).await.0, "ADDED");
        assert_eq!(next(&mut stream).await.0, "ADDED");
    });
}

pub(crate) fn watches_end_as_told() {
    let api = start(Options::default());
    run(async {
        let client = client(&api);
        let open = async || {
            let path = "/api/v1/services?watch=1&resourceVersion=1";
            let request = Request::get(path).body(Vec::new()).expect("valid");
            client.request_events::<Value>(request).await.expect("a watch")
        };
        let mut clean = pin!(open().await);
        api.faults().end_watches(Some(Resource::Pods), WatchEnd::Broken);
        api.faults().end_watches(Some(Resource::Services), WatchEnd::Clean);
        assert!(soon("the end", clean.try_next()).await.expect("a proper end").is_none());
        api.faults().refuse_next_watches_as_gone(1);
        let path = format!("/api/v1/services?watch=1&resourceVersion={}", api.resource_version());
        let mut gone = raw_watch(&client, &path).await.expect("the error is in the stream");
        let (kind, status) = next(&mut gone).await;
        assert_eq!((kind, &status["code"]), ("ERROR", &json!(410)));
        assert_eq!(soon("the end", gone.next()).await, None);
    });
    let mut broken = raw_connection(&api, "/api/v1/services?watch=1");
    run(eventually("a watch", || api.requests().open_watches(Resource::Services) == 1));
    api.faults().end_watches(None, WatchEnd::Broken);
    let mut text = Vec::new();
    broken.read_to_end(&mut text).expect("the connection is closed");
    assert!(text.starts_with(b"HTTP/1.1 200 OK") && !text.ends_with(LAST_CHUNK));
}

/// The end of a response that is complete.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

/// A connection on which this path was requested.
fn raw_connection(api: &ApiServer, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(api.address()).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a positive time");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    stream
}

pub(crate) fn outages_are_noticed_and_survived() {
    let api = start(Options::default());
    run(async {
        let client = client(&api);
        let path = "/api/v1/services";
        api.faults().set_outage(Outage::Unavailable);
        let refused = get(&client, path).await.expect_err("an outage");
        assert_eq!(refused, (503, "ServiceUnavailable".to_owned()));
        api.faults().set_outage(Outage::Disconnected);
        let request_to = |path: &str| Request::get(path).body(Vec::new()).expect("valid");
        let result = client.request::<Value>(request_to(path)).await;
        assert!(!matches!(result, Ok(_) | Err(kube::Error::Api(_))), "{result:?}");
        api.faults().set_outage(Outage::None);
        get(&client, path).await.expect("it is back");
        let code = sluice_cluster::api::FailureCode::TooManyRequests;
        api.faults().fail_next(Verb::List, Resource::Services, code, 1);
        assert_eq!(get(&client, path).await.expect_err("once").0, 429);
        get(&client, path).await.expect("and no more");
        api.faults().set_delay(Duration::from_millis(50));
        let begin = Instant::now();
        get(&client, path).await.expect("late, but right");
        assert!(begin.elapsed() >= Duration::from_millis(50));
        let log = api.requests().log();
        assert!(log.iter().all(|r| r.path == path && r.verb == Verb::List));
        assert_eq!(log.len() as u64, api.requests().count(Verb::List, Resource::Services));
    });
}

pub(crate) fn a_slow_watcher_delays_nobody_and_is_told_that_it_is_late() {
    let api = start(Options { history: 50, ..Options::default() });
    let mut slow = raw_connection(&api, "/api/v1/services?watch=1");
    run(eventually("a watch", || api.requests().open_watches(Resource::Services) == 1));
    // More than all buffers between the two take.
    let filler = "x".repeat(200_000);
    for n in 0..200 {
        let mut big = web("big");
        big["metadata"]["annotations"] = json!({"n": n.to_string(), "filler": filler});
        api.update(&big).expect("written, whoever is slow");
    }
    let mut text = Vec::new();
    let mut piece = vec![0; 1 << 16];
    while !text.ends_with(LAST_CHUNK) {
        let read = slow.read(&mut piece).expect("the stream goes on");
        assert!(read > 0, "the stream ends properly");
        text.extend_from_slice(&piece[..read]);
    }
    let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(1000)..]).into_owned();
    assert!(tail.contains(r#""type":"ERROR""#) && tail.contains("410"), "{tail}");
}

/// The daemon's own watches of a server.
struct Daemon {
    updates: Receiver<Message>,
    _tasks: JoinSet<()>,
}

impl Daemon {
    fn start(api: &ApiServer) -> Daemon {
        let server = sluice_kubernetes::watch::ApiServer {
            client: client(api),
            url: api.url(),
            content: Default::default(),
        };
        let (send, updates) = channel(64);
        let options = WatchOptions { node_name: "n".to_owned() };
        let tasks = start_daemon_watches(&server, &options, &send, &CancellationToken::new());
        Daemon { updates, _tasks: tasks }
    }

    /// Waits until a Service has been reported.
    async fn sees(&mut self, name: &str) {
        loop {
            let message = soon(name, self.updates.recv()).await.expect("the watches run");
            let seen = match message.update {
                Update::Change(Change::Services(list)) => {
                    list.iter().any(|s| s.name.name() == name)
                }
                Update::Change(Change::Service(service)) => service.name.name() == name,
                _ => false,
            };
            if seen {
                return;
            }
        }
    }
}

pub(crate) fn the_daemon_sees_what_is_written() {
    let treatments = [
        StreamingLists::Served,
        StreamingLists::Forbidden,
        StreamingLists::BadRequest,
        StreamingLists::Ignored,
        StreamingLists::Failed,
        StreamingLists::Cut,
    ];
    for treatment in treatments {
        let api = start(Options::default());
        api.faults().set_streaming_lists(treatment);
        api.create(&web("first")).expect("valid");
        run(async {
            let mut daemon = Daemon::start(&api);
            daemon.sees("first").await;
            api.create(&web("second")).expect("valid");
            daemon.sees("second").await;
        });
    }
}

pub(crate) fn the_daemon_recovers_when_its_version_is_gone() {
    for form in [GoneForm::Event, GoneForm::Status] {
        let api = start(Options::default());
        api.faults().set_gone_form(form);
        api.create(&web("first")).expect("valid");
        run(async {
            let mut daemon = Daemon::start(&api);
            daemon.sees("first").await;
            tokio::join!(daemon.sees("second"), lose_history(&api, "first", "second"));
        });
    }
}
