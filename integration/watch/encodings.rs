//! Which encoding a server is asked for, and what becomes of answers in another or in none.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluice_core::model::Change;
use sluice_kubernetes::watch::{ConnectionState, Content, Resource, Update};
use tokio::time::Instant;

use super::fake::{Asked, CIDRS, Fake, NODES, Protobuf, SERVICES, SLICES, Streaming, speak};
use super::generated;
use super::lists::{all_connected, asked, one_of_each};
use super::{service, two_services, watch, watch_server};

/// The encodings that were asked for so far, which are forgotten.
fn accepted(fake: &Fake) -> Vec<String> {
    std::mem::take(&mut fake.world().accepted)
}

fn asked_for_protobuf(accepted: &[String]) -> usize {
    accepted.iter().filter(|accept| accept.contains("protobuf")).count()
}

#[tokio::test(start_paused = true)]
async fn protobuf_is_asked_for_unless_the_configuration_says_otherwise() {
    let table = [
        ("", "", "application/vnd.kubernetes.protobuf, */*"),
        ("application/json", "", "application/json, */*"),
        ("application/vnd.kubernetes.protobuf", "application/json", "application/json"),
    ];
    for (content_type, accept, expected) in table {
        let fake = one_of_each();
        let mut server = fake.server();
        server.content = Content::new(content_type, accept);
        let mut watching = watch_server(&server);
        all_connected(&mut watching).await;
        let accepted = accepted(&fake);
        assert!(accepted.iter().all(|accept| accept == expected), "{accepted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_accept_protobuf_is_asked_for_json_from_then_on() {
    for code in [406, 415] {
        speak(Protobuf::Refuses(code));
        for streaming in [Streaming::Knows, Streaming::Refuses(400)] {
            let fake = one_of_each();
            fake.world().streaming = streaming;
            let began = Instant::now();
            let mut watching = watch(&fake);
            all_connected(&mut watching).await;
            assert!(began.elapsed() < Duration::from_secs(1), "{code}: {:?}", began.elapsed());
            // All four may ask before the first hears of it.
            let first = accepted(&fake);
            assert!(asked_for_protobuf(&first) <= 4, "{code}: {first:#?}");
            fake.close();
            fake.put(SERVICES, service("b", "10.0.0.2"));
            watching.service_change().await;
            let later = accepted(&fake);
            assert_eq!(asked_for_protobuf(&later), 0, "{code}: {later:#?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_away_is_asked_for_protobuf_again() {
    // Another one, or a newer, may have come back; and one that has no more protobuf.
    for (before, after) in [
        (Protobuf::Refuses(406), Protobuf::Speaks),
        (Protobuf::Speaks, Protobuf::Refuses(406)),
        (Protobuf::Speaks, Protobuf::Lacks),
        (Protobuf::Lacks, Protobuf::Speaks),
    ] {
        speak(before);
        let fake = two_services();
        let mut watching = watch(&fake);
        all_connected(&mut watching).await;
        watching.all_within(Duration::from_secs(5)).await;
        fake.world().down = true;
        fake.cut();
        watching.all_within(Duration::from_secs(60)).await;
        accepted(&fake);
        fake.world().protobuf = after;
        fake.world().down = false;
        fake.put(SERVICES, service("c", "10.0.0.3"));
        assert!(matches!(watching.service_change().await, Change::Service(_)), "{before:?}");
        fake.delete(SERVICES, "default/a");
        assert!(matches!(watching.service_change().await, Change::ServiceGone(_)), "{before:?}");
        assert!(asked_for_protobuf(&accepted(&fake)) > 0, "{before:?} {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_only_labelled_as_protobuf_leads_to_json() {
    speak(Protobuf::Garbles);
    for streaming in [Streaming::Knows, Streaming::Refuses(400)] {
        let fake = two_services();
        fake.world().streaming = streaming;
        let mut watching = watch(&fake);
        assert_eq!(watching.services().await, ["a", "b"]);
        all_connected(&mut watching).await;
    }
    // In the middle of a watch as well.
    speak(Protobuf::Speaks);
    let fake = two_services();
    let mut watching = watch(&fake);
    all_connected(&mut watching).await;
    watching.all_within(Duration::from_secs(5)).await;
    fake.send(&Bytes::from_static(b"\0\0\0\x03abc"));
    let ConnectionState::Lost(reason) = watching.connection(Resource::Services).await else {
        panic!("that is no event");
    };
    assert!(reason.contains("no Kubernetes protobuf"), "{reason}");
    accepted(&fake);
    fake.put(SERVICES, service("c", "10.0.0.3"));
    watching.service_change().await;
    assert_eq!(asked_for_protobuf(&accepted(&fake)), 0);
}

#[tokio::test(start_paused = true)]
async fn half_a_frame_and_a_length_without_a_frame_cost_a_paged_list() {
    speak(Protobuf::Speaks);
    // One byte more than 64 MiB, 4 GiB, and 256 bytes of which three come.
    for head in [&b"\x04\0\0\x01"[..], b"\xff\xff\xff\xff", b"\0\0\x01\0abc"] {
        let fake = two_services();
        fake.world().streaming = Streaming::Says(head);
        let began = Instant::now();
        let mut watching = watch(&fake);
        assert_eq!(watching.services().await, ["a", "b"], "{head:?}");
        assert!(began.elapsed() < Duration::from_secs(1), "{head:?}: {:?}", began.elapsed());
        let requests = asked(&fake);
        assert!(requests.iter().any(|r| r.contains("&limit=500")), "{requests:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_malformed_object_costs_a_warning_and_no_other_object() {
    speak(Protobuf::Speaks);
    let fake = two_services();
    let mut watching = watch(&fake);
    all_connected(&mut watching).await;
    watching.all_within(Duration::from_secs(5)).await;
    // The frame and the envelope are whole; the metadata of the object is longer than the object.
    let envelope = b"k8s\0\x12\x04\x0a\x7fab";
    let mut event = b"\x0a\x05ADDED\x12\x0c\x0a\x0a".to_vec();
    event.extend_from_slice(envelope);
    let mut frame = u32::try_from(event.len()).expect("short").to_be_bytes().to_vec();
    frame.extend_from_slice(&event);
    fake.send(&frame.into());
    let told = watching.warnings().await;
    assert!(told[0].problem.contains("cut off or malformed"), "{told:?}");
    asked(&fake);
    fake.put(SERVICES, service("c", "10.0.0.3"));
    watching.service_change().await;
    assert_eq!(asked(&fake), [""; 0], "the watch goes on");
}

#[tokio::test(start_paused = true)]
async fn refusals_in_protobuf_are_read() {
    speak(Protobuf::Speaks);
    let fake = two_services();
    fake.refuse(Asked::All, 403, None, usize::MAX);
    let mut watching = watch(&fake);
    let ConnectionState::Lost(reason) = watching.connection(Resource::Services).await else {
        panic!("the server refuses");
    };
    assert_eq!(reason, "the server answers 403: the test says so");
}

/// What a server with these objects is understood to say, in one encoding.
async fn understood(
    protobuf: Protobuf,
    streaming: Streaming,
    objects: &[(&'static str, Value)],
) -> Vec<Update> {
    speak(protobuf);
    let fake = Fake::default();
    fake.world().streaming = streaming;
    for (n, (path, object)) in objects.iter().enumerate() {
        let mut object = object.clone();
        // The own Node keeps its name.
        if *path != NODES {
            object["metadata"]["name"] = json!(format!("{n}"));
        }
        fake.put(path, object);
    }
    let mut updates = watch(&fake).all_within(Duration::from_secs(5)).await;
    updates.retain(|update| !matches!(update, Update::Connection { .. }));
    // Tasks may be heard in any order.
    updates.sort_by_key(|update| format!("{update:?}"));
    updates
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn objects_mean_the_same_in_both_encodings(
        services in prop::collection::vec(generated::a_service(), 0..6),
        slices in prop::collection::vec(generated::a_slice(), 0..6),
        node in generated::a_node(),
        cidrs in prop::collection::vec(generated::a_cidr(), 0..3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime starts");
        let mut objects: Vec<(&'static str, Value)> = vec![(NODES, node)];
        objects.extend(services.into_iter().map(|object| (SERVICES, object)));
        objects.extend(slices.into_iter().map(|object| (SLICES, object)));
        objects.extend(cidrs.into_iter().map(|object| (CIDRS, object)));
        for streaming in [Streaming::Knows, Streaming::Refuses(400)] {
            let json = runtime.block_on(understood(Protobuf::Lacks, streaming, &objects));
            let protobuf = runtime.block_on(understood(Protobuf::Speaks, streaming, &objects));
            prop_assert_eq!(json, protobuf);
        }
    }
}
