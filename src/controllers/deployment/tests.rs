//! Rollouts step by step: the sets' status is what a table says, and what follows is compared.

use serde_json::{Value, json};

use super::*;
use crate::fixtures::{deployment, with};

/// The set of a Deployment for an image.
fn set(owner: &Value, image: &str, revision: i64, replicas: i64, available: i64) -> Value {
    let owner = with(owner.clone(), |d| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
    let Action::Create(mut set) = create_set(&owner, &[]) else { panic!("a set is created") };
    set["metadata"]["annotations"][REVISION] = json!(revision.to_string());
    set["metadata"]["uid"] = json!(image);
    set["spec"]["replicas"] = json!(replicas);
    set["status"] = json!({"replicas": replicas, "availableReplicas": available});
    set
}

fn web(replicas: u32, image: &str) -> Value {
    with(deployment("web", "web", replicas), |d| {
        d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        d["metadata"]["annotations"] = json!({REVISION: "2"});
    })
}

/// Which image is scaled to what.
fn scaled(actions: &[Action]) -> Vec<(&str, i64)> {
    let updates = actions.iter().filter_map(|action| match action {
        Action::Update(set) if set["kind"] == "ReplicaSet" => {
            let image = text(&set["spec"]["template"]["spec"]["containers"][0]["image"]);
            Some((image, number(&set["spec"]["replicas"])))
        }
        _ => None,
    });
    updates.collect()
}

#[test]
fn a_new_deployment_gets_a_set_named_after_its_template() {
    let web = deployment("web", "web", 3);
    let actions = reconcile(&web, &[], "t");
    let Action::Create(set) = &actions[0] else { panic!("{actions:?}") };
    let hash = text(&set["metadata"]["labels"][HASH]);
    assert_eq!(name(set), format!("web-{hash}"));
    assert_eq!(set["spec"]["selector"]["matchLabels"], json!({"app": "web", HASH: hash}));
    assert_eq!(set["spec"]["template"]["metadata"]["labels"][HASH], hash);
    assert_eq!(set["metadata"]["annotations"][REVISION], "1");
    assert_eq!(set["spec"]["replicas"], 3);
    let other = with(web, |d| d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("y"));
    let Action::Create(other) = &reconcile(&other, &[], "t")[0] else { panic!("a second set") };
    assert_ne!(name(set), name(other));
}

/// What it is, replicas wanted and ready of the old and the new set, and the sets to scale.
type Row = (&'static str, (i64, i64), (i64, i64), &'static [(&'static str, i64)]);

#[test]
fn a_rollout_goes_on_as_far_as_surge_and_availability_allow() {
    // Of 4, with 25 %: 5 at most, 3 available at least.
    let table: [Row; 6] = [
        ("one more", (4, 4), (0, 0), &[("new", 1)]),
        ("one fewer of the old", (4, 4), (1, 0), &[("old", 3)]),
        ("the new one serves", (3, 3), (1, 1), &[("new", 2)]),
        ("nothing serves of the new ones: stop", (3, 3), (2, 0), &[]),
        ("old ones that do not serve go first", (3, 1), (2, 2), &[("old", 1)]),
        ("done", (0, 0), (4, 4), &[]),
    ];
    let web = web(4, "new");
    for (what, old, new, expected) in table {
        let old = set(&web, "old", 1, old.0, old.1);
        let new = set(&web, "new", 2, new.0, new.1);
        assert_eq!(scaled(&reconcile(&web, &[&old, &new], "t")), expected, "{what}");
    }
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let web = with(web(2, "new"), |d| d["spec"]["strategy"] = json!({"type": "Recreate"}));
    let (old, new) = (set(&web, "old", 1, 2, 2), set(&web, "new", 2, 0, 0));
    assert_eq!(scaled(&reconcile(&web, &[&old, &new], "t")), [("old", 0)]);
    let ending = with(set(&web, "old", 1, 0, 0), |s| s["status"]["replicas"] = json!(1));
    assert_eq!(scaled(&reconcile(&web, &[&ending, &new], "t")), []);
    let gone = set(&web, "old", 1, 0, 0);
    assert_eq!(scaled(&reconcile(&web, &[&gone, &new], "t")), [("new", 2)]);
}

#[test]
fn the_number_follows_the_deployment_without_a_new_set() {
    let web = web(5, "new");
    let new = set(&web, "new", 2, 2, 2);
    assert_eq!(scaled(&reconcile(&web, &[&new], "t")), [("new", 5)]);
    let fewer = with(web, |d| d["spec"]["replicas"] = json!(0));
    assert_eq!(scaled(&reconcile(&fewer, &[&new], "t")), [("new", 0)]);
}

#[test]
fn a_way_back_makes_the_old_set_the_newest_revision() {
    let web = with(web(1, "old"), |d| d["metadata"]["annotations"] = json!({REVISION: "2"}));
    let (old, new) = (set(&web, "old", 1, 0, 0), set(&web, "new", 2, 1, 1));
    let actions = reconcile(&web, &[&old, &new], "t");
    let [Action::Update(set), Action::Update(itself), ..] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(set["metadata"]["annotations"][REVISION], "3");
    assert_eq!(itself["metadata"]["annotations"][REVISION], "3");
}

#[test]
fn a_paused_deployment_begins_no_rollout() {
    let web = with(web(2, "new"), |d| d["spec"]["paused"] = json!(true));
    let old = set(&web, "old", 1, 2, 2);
    let actions = reconcile(&web, &[&old], "t");
    assert!(matches!(&actions[..], [Action::UpdateStatus(_)]), "{actions:?}");
}

#[test]
fn no_more_old_sets_are_kept_than_asked_for() {
    let web = with(web(1, "new"), |d| d["spec"]["revisionHistoryLimit"] = json!(1));
    let new =
        with(set(&web, "new", 4, 1, 1), |s| s["metadata"]["annotations"][REVISION] = json!("4"));
    let web = with(web, |d| d["metadata"]["annotations"] = json!({REVISION: "4"}));
    let old = [("a", 3), ("b", 1), ("c", 2)].map(|(image, r)| set(&web, image, r, 0, 0));
    let actions = reconcile(&web, &[&old[0], &old[1], &old[2], &new], "t");
    let gone: Vec<&str> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Delete { object, .. } => Some(text(&object["metadata"]["uid"])),
            _ => None,
        })
        .collect();
    assert_eq!(gone, ["b", "c"]);
}

#[test]
fn a_rollout_that_is_through_says_so_and_writes_no_more() {
    let web = web(2, "new");
    let new = set(&web, "new", 2, 2, 2);
    let actions = reconcile(&web, &[&new], "t");
    let [Action::UpdateStatus(done)] = &actions[..] else { panic!("{actions:?}") };
    let reasons: Vec<&str> = done["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|condition| text(&condition["reason"]))
        .collect();
    assert_eq!(reasons, ["MinimumReplicasAvailable", "NewReplicaSetAvailable"]);
    assert_eq!(done["status"]["updatedReplicas"], 2);
    assert_eq!(reconcile(done, &[&new], "later"), []);
}
