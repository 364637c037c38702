//! Lists: streamed if the server supports it, else paged.

use std::time::Duration;

use serde_json::json;
use sluice_kubernetes::watch::{ConnectionState, Resource};
use tokio::time::Instant;

use super::fake::{ALL, Asked, CIDRS, Fake, NODES, SERVICES, SLICES, Streaming};
use super::{Watching, in_both_encodings, node, service, slice, two_services, watch};

in_both_encodings! {
    whatever_ends_a_streamed_list_leads_to_pages_from_then_on,
    a_client_that_is_not_known_yet_gets_pages_and_then_streams,
    a_stream_that_nobody_or_a_busy_server_refuses_is_tried_again,
    a_paged_list_says_how_new_it_must_be,
    one_resource_that_cannot_be_streamed_says_nothing_about_the_others,
    what_says_nothing_about_streaming_is_not_remembered,
    a_server_that_works_on_a_page_for_most_of_a_minute_is_waited_for,
    a_list_whose_token_is_out_of_date_comes_in_one_piece,
    an_html_page_in_place_of_events_is_quoted_and_costs_no_list_later,
}

/// One object of each kind.
pub(super) fn one_of_each() -> Fake {
    let fake = Fake::default();
    fake.put(SERVICES, service("a", "10.0.0.1"));
    fake.put(SLICES, slice("s", "a", "10.1.0.1"));
    fake.put(NODES, node("here", 1));
    fake.put(CIDRS, json!({ "metadata": { "name": "k" }, "spec": { "cidrs": ["10.0.0.0/16"] } }));
    fake
}

/// Waits until changes of all resources arrive.
pub(super) async fn all_connected(watching: &mut Watching) {
    let mut missing = Vec::from(Resource::ALL);
    while !missing.is_empty() {
        let (of, state) = watching.next_connection().await;
        match state {
            ConnectionState::Connected => missing.retain(|resource| *resource != of),
            ConnectionState::Lost(_) if !missing.contains(&of) => missing.push(of),
            ConnectionState::Lost(_) => {}
        }
    }
}

/// Takes the requests so far.
pub(super) fn asked(fake: &Fake) -> Vec<String> {
    std::mem::take(&mut fake.world().requests)
}

/// Whether a request is a watch that goes on from a version.
pub(super) fn is_watch(request: &str) -> bool {
    request.contains("&watch=true") && request.contains("&resourceVersion=")
}

fn streamed(requests: &[String]) -> usize {
    requests.iter().filter(|r| r.contains("sendInitialEvents")).count()
}

fn pages(requests: &[String]) -> usize {
    requests.iter().filter(|r| !r.contains("watch=true")).count()
}

/// Makes every resource be listed anew.
async fn relist(fake: &Fake, watching: &mut Watching) -> Vec<String> {
    watching.all_within(Duration::from_secs(5)).await;
    asked(fake);
    fake.compact();
    fake.close();
    watching.all_within(Duration::from_secs(90)).await;
    asked(fake)
}

async fn whatever_ends_a_streamed_list_leads_to_pages_from_then_on() {
    let codes = [400, 405, 406, 410, 422, 500, 501, 502, 503, 504];
    let others = [
        Streaming::Ignores,
        Streaming::IgnoresWithBookmarks,
        Streaming::Breaks,
        Streaming::Ends,
        Streaming::Silent,
        Streaming::Mute,
        Streaming::Html,
    ];
    let refusals = codes.into_iter().map(Streaming::Refuses);
    for streaming in refusals.chain(codes.into_iter().map(Streaming::Errs)).chain(others) {
        let fake = one_of_each();
        fake.world().streaming = streaming;
        let began = Instant::now();
        let mut watching = watch(&fake);
        let connected =
            tokio::time::timeout(Duration::from_secs(600), all_connected(&mut watching));
        assert!(connected.await.is_ok(), "{streaming:?}: never listed");
        let most = match streaming {
            Streaming::Mute => 35,
            Streaming::Silent | Streaming::Ignores => 15,
            _ => 1,
        };
        assert!(
            began.elapsed() < Duration::from_secs(most),
            "{streaming:?}: {:?}",
            began.elapsed()
        );
        let requests = asked(&fake);
        // It may be protobuf that is not acceptable.
        let tries = match streaming {
            Streaming::Refuses(406) => 8,
            _ => 4,
        };
        let counted = (streamed(&requests), pages(&requests));
        assert_eq!(counted, (tries, 4), "{streaming:?}: {requests:#?}");

        let requests = relist(&fake, &mut watching).await;
        assert_eq!((streamed(&requests), pages(&requests)), (0, 4), "{streaming:?}: {requests:#?}");
        fake.put(SERVICES, service("b", "10.0.0.2"));
        watching.service_change().await;
    }
}

/// What a server says of the client, or of a path, it says of pages as well.
async fn a_client_that_is_not_known_yet_gets_pages_and_then_streams() {
    for code in [401, 403, 404] {
        for streaming in [Streaming::Refuses(code), Streaming::Errs(code)] {
            let fake = one_of_each();
            fake.world().streaming = streaming;
            let mut watching = watch(&fake);
            all_connected(&mut watching).await;
            let requests = asked(&fake);
            let counted = (streamed(&requests), pages(&requests));
            assert_eq!(counted, (4, 4), "{streaming:?}: {requests:#?}");
            fake.world().streaming = Streaming::Knows;
            let requests = relist(&fake, &mut watching).await;
            let counted = (streamed(&requests), pages(&requests));
            assert_eq!(counted, (4, 0), "{streaming:?}: {requests:#?}");
        }
    }
}

/// Pages would be refused for the same reason, and cost the server more.
async fn a_stream_that_nobody_or_a_busy_server_refuses_is_tried_again() {
    for busy in [false, true] {
        let fake = one_of_each();
        if busy {
            fake.refuse(Asked::All, 429, None, 3);
        } else {
            fake.world().down = true;
        }
        let mut watching = watch(&fake);
        if !busy {
            watching.all_within(Duration::from_secs(10)).await;
            fake.world().down = false;
        }
        all_connected(&mut watching).await;
        let requests = asked(&fake);
        assert_eq!(pages(&requests), 0, "{requests:#?}");
        assert!(streamed(&requests) >= 4 * 4, "{requests:#?}");
    }
}

/// As `Reflector.list` of client-go: what the watch cache has is enough, if it is not older than what is known.
async fn a_paged_list_says_how_new_it_must_be() {
    let fake = two_services();
    fake.world().streaming = Streaming::Refuses(400);
    let mut watching = watch(&fake);
    assert_eq!(watching.services().await, ["a", "b"]);
    let of_services = |fake: &Fake| {
        let mut requests = asked(fake);
        requests.retain(|r| r.contains(SERVICES) && !r.contains("watch=true"));
        requests
    };
    let first = of_services(&fake);
    assert!(first.len() == 1 && first[0].ends_with("&limit=500&resourceVersion=0"), "{first:?}");

    watching.all_within(Duration::from_secs(5)).await;
    fake.put(SERVICES, service("c", "10.0.0.3"));
    watching.service_change().await;
    let known = fake.version();
    fake.compact();
    fake.close();
    assert_eq!(watching.services().await, ["a", "b", "c"]);
    let later = of_services(&fake);
    let expected = format!("&resourceVersion={known}");
    assert!(later.len() == 1 && later[0].ends_with(&expected), "{later:?}");
    assert!(!later[0].contains("limit="), "{later:?}");

    // The server's store goes back behind what is known.
    watching.all_within(Duration::from_secs(5)).await;
    fake.restore_from_backup();
    fake.world().oldest = u64::MAX;
    fake.close();
    assert_eq!(watching.services().await, [""; 0]);
    let newest = of_services(&fake);
    assert!(newest[0].ends_with("&resourceVersion=4"), "{newest:?}");
    assert!(newest[1].ends_with("&limit=500"), "{newest:?}");
}

async fn one_resource_that_cannot_be_streamed_says_nothing_about_the_others() {
    let fake = one_of_each();
    let streamed_slices = super::fake::Refusal {
        path: SLICES,
        asked: Asked::Streamed,
        code: 500,
        retry_after: None,
        left: usize::MAX,
    };
    fake.world().refusals.push(streamed_slices);
    let mut watching = watch(&fake);
    all_connected(&mut watching).await;
    let requests = relist(&fake, &mut watching).await;
    assert_eq!((streamed(&requests), pages(&requests)), (3, 1), "{requests:#?}");
}

async fn what_says_nothing_about_streaming_is_not_remembered() {
    for trouble in ["nobody answers", "everything is forbidden", "too many requests"] {
        let fake = one_of_each();
        match trouble {
            "nobody answers" => fake.world().down = true,
            "everything is forbidden" => fake.refuse(Asked::All, 403, None, 10),
            _ => fake.refuse(Asked::Streamed, 429, Some(1), 3),
        }
        let mut watching = watch(&fake);
        watching.all_within(Duration::from_secs(20)).await;
        fake.world().down = false;
        // The cluster's role for proxies may be older than ServiceCIDRs: they are requested rarely.
        watching.all_within(Duration::from_secs(1000)).await;
        let requests = relist(&fake, &mut watching).await;
        assert_eq!((streamed(&requests), pages(&requests)), (4, 0), "{trouble}: {requests:#?}");
    }
}

async fn a_server_that_works_on_a_page_for_most_of_a_minute_is_waited_for() {
    let fake = two_services();
    fake.world().streaming = Streaming::Refuses(400);
    fake.world().slow_pages = Duration::from_secs(55);
    let mut watching = watch(&fake);
    let list = tokio::time::timeout(Duration::from_secs(60), watching.services()).await;
    assert_eq!(list.expect("the list comes"), ["a", "b"]);
}

async fn a_list_whose_token_is_out_of_date_comes_in_one_piece() {
    let fake = Fake::default();
    for i in 0..1200 {
        let name = format!("s{i:04}");
        fake.put(SERVICES, service(&name, &format!("10.0.{}.{}", i / 250, 1 + i % 250)));
    }
    fake.world().streaming = Streaming::Refuses(400);
    fake.world().forgets_tokens = true;
    let mut watching = watch(&fake);
    let list = tokio::time::timeout(Duration::from_secs(60), watching.services()).await;
    assert_eq!(list.expect("the list comes").len(), 1200);
}

async fn an_html_page_in_place_of_events_is_quoted_and_costs_no_list_later() {
    let fake = two_services();
    let mut watching = watch(&fake);
    all_connected(&mut watching).await;
    watching.all_within(Duration::from_secs(5)).await;
    fake.world().html = true;
    fake.close();
    let ConnectionState::Lost(reason) = watching.connection(Resource::Services).await else {
        panic!("the server sends no API objects");
    };
    assert!(reason.contains("<html>"), "{reason}");
    watching.all_within(Duration::from_secs(1)).await;
    asked(&fake);
    fake.world().html = false;
    fake.put(SERVICES, service("c", "10.0.0.3"));
    watching.service_change().await;
    let requests = asked(&fake);
    let of_services: Vec<_> = requests.iter().filter(|r| r.contains(ALL[0])).collect();
    assert!(of_services.iter().all(|r| is_watch(r)), "{of_services:#?}");
}
