//! Watches while the API server, or the node, starts.

use std::time::Duration;

use serde_json::json;
use sluice_core::model::{Change, Warning};
use sluice_kubernetes::watch::{ConnectionState, Resource, Update};

use super::fake::{CIDRS, NODES};
use super::{in_both_encodings, node, two_services, watch};

in_both_encodings! {
    service_cidrs_stay_while_a_restarted_server_does_not_know_the_roles,
    service_cidrs_come_soon_after_a_server_that_did_not_know_the_roles_at_first,
    after_an_outage_the_first_watch_that_gets_through_rouses_the_others,
    a_node_that_does_not_exist_is_told_once,
}

async fn service_cidrs_stay_while_a_restarted_server_does_not_know_the_roles() {
    let fake = two_services();
    let cidr = |name: &str, prefix: &str| json!({ "metadata": { "name": name }, "spec": { "cidrs": [prefix] } });
    fake.put(CIDRS, cidr("k", "10.0.0.0/16"));
    let mut watching = watch(&fake);
    let change = |update: &Update| match update {
        Update::Change(Change::ServiceCidrs(cidrs)) => Some(cidrs.len()),
        _ => None,
    };
    assert_eq!(watching.until(change).await, 1);

    fake.world().refused.insert(CIDRS, 403);
    fake.cut();
    let refused = watching.all_within(Duration::from_secs(20)).await;
    assert_eq!(refused.iter().filter_map(change).next(), None, "what is known stays");
    fake.world().refused.clear();
    fake.put(CIDRS, cidr("l", "10.1.0.0/16"));
    // No pause between attempts is longer than a minute.
    let soon = watching.all_within(Duration::from_secs(61)).await;
    assert_eq!(soon.iter().filter_map(change).next_back(), Some(2));
}

async fn service_cidrs_come_soon_after_a_server_that_did_not_know_the_roles_at_first() {
    let fake = two_services();
    fake.put(CIDRS, json!({ "metadata": { "name": "k" }, "spec": { "cidrs": ["10.0.0.0/16"] } }));
    fake.world().refused.insert(CIDRS, 403);
    let mut watching = watch(&fake);
    watching.all_within(Duration::from_secs(3)).await;
    fake.world().refused.clear();
    let soon = watching.all_within(Duration::from_secs(10)).await;
    let full = |u: &Update| matches!(u, Update::Change(Change::ServiceCidrs(c)) if c.len() == 1);
    assert!(soon.iter().any(full), "{soon:#?}");
}

async fn after_an_outage_the_first_watch_that_gets_through_rouses_the_others() {
    let fake = two_services();
    let mut watching = watch(&fake);
    for resource in Resource::ALL {
        assert_eq!(watching.connection(resource).await, ConnectionState::Connected);
    }
    fake.world().down = true;
    fake.cut();
    // Long enough for waits that differ by many seconds.
    watching.all_within(Duration::from_secs(300)).await;
    fake.world().down = false;
    let mut back = Vec::new();
    while back.len() < Resource::ALL.len() {
        back.push(
            watching
                .until(|update| match update {
                    Update::Connection { state: ConnectionState::Connected, .. } => {
                        Some(tokio::time::Instant::now())
                    }
                    _ => None,
                })
                .await,
        );
    }
    let apart = back[back.len() - 1] - back[0];
    assert!(apart < Duration::from_secs(3), "they came back within {apart:?}");
}

async fn a_node_that_does_not_exist_is_told_once() {
    let fake = two_services();
    fake.put(NODES, node("elsewhere", 1));
    let mut watching = watch(&fake);
    let about_the_node = |update: &Update| match update {
        Update::Warnings(all) => all.iter().find(|w| w.object == "Node here").cloned(),
        _ => None,
    };
    let told = watching.all_within(Duration::from_secs(2000)).await;
    let told: Vec<Warning> = told.iter().filter_map(about_the_node).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].problem.contains("--hostname-override"), "{told:?}");
    fake.put(NODES, node("here", 1));
    let node = watching.until(|update| match update {
        Update::Change(Change::Node(node)) => Some(node.is_some()),
        _ => None,
    });
    assert!(node.await);
}
