//! `sluice-lab up` as a user runs it: names, connections through a Service in each mode, scaling, a lost pod, and what
//! is left behind.

#[path = "lab_cluster/commands.rs"]
mod commands;

use std::time::{Duration, Instant};

use commands::Lab;
use serde_json::{Value, json};

/// A bound that a busy machine does not reach.
const PATIENCE: Duration = Duration::from_secs(120);

fn until<T>(what: &str, mut found: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match found() {
            Ok(value) => return value,
            Err(last) => assert!(Instant::now() < deadline, "{what}: {last}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Who answers `http://web` to the pod `shell`.
fn page(lab: &Lab) -> Result<String, String> {
    lab.exec("shell", &["curl", "-sS", "--max-time", "5", "http://web"])
}

fn pods(lab: &Lab) -> Vec<String> {
    let list = lab.get("/api/v1/namespaces/default/pods?labelSelector=app%3Dweb");
    let items = list["items"].as_array().expect("a list").iter();
    let living = items.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    living.map(|pod| pod["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

fn ready_endpoints(lab: &Lab) -> usize {
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
                ?labelSelector=kubernetes.io%2Fservice-name%3Dweb";
    let list = lab.get(path);
    let slices = list["items"].as_array().expect("a list").iter();
    let v4 = slices.filter(|slice| slice["addressType"] == "IPv4");
    let endpoints = v4.flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    endpoints.filter(|endpoint: &Value| endpoint["conditions"]["ready"] == true).count()
}

#[test]
fn a_lab_resolves_connects_scales_heals_and_leaves_nothing() {
    let lab = Lab::up("story", &[]);
    let resolved = until("the name of web", || {
        lab.exec("shell", &["getent", "ahostsv4", "web.default.svc.cluster.local"])
    });
    let cluster_ip =
        lab.get("/api/v1/namespaces/default/services/web")["spec"]["clusterIP"].clone();
    assert!(resolved.starts_with(cluster_ip.as_str().expect("an address")), "{resolved}");
    assert!(lab.exec("shell", &["getent", "hosts", "nobody.default.svc.cluster.local"]).is_err());

    for mode in commands::modes() {
        lab.command(&["mode", mode]).expect("the mode is changed");
        let answer = until(mode, || page(&lab));
        assert!(answer.starts_with("web-"), "{mode}: {answer}");
    }

    let scale = "/apis/apps/v1/namespaces/default/deployments/web/scale";
    lab.patch(scale, &json!({"spec": {"replicas": 5}}));
    let five = |lab: &Lab| match (pods(lab).len(), ready_endpoints(lab)) {
        (5, 5) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    until("five pods", || five(&lab));

    let lost = pods(&lab).swap_remove(0);
    lab.delete(&format!("/api/v1/namespaces/default/pods/{lost}"));
    until("another pod in its place", || {
        five(&lab)?;
        if pods(&lab).contains(&lost) { Err(format!("{lost} is there")) } else { Ok(()) }
    });
    until("an answer", || page(&lab));
    lab.down_and_look();
}

#[test]
fn a_pod_that_is_switched_off_is_no_endpoint() {
    let lab = Lab::up("probe", &[]);
    let pod = pods(&lab).swap_remove(0);
    let put = |word: &str| {
        let url = "http://127.0.0.1:8080/healthz";
        let own =
            lab.get(&format!("/api/v1/namespaces/default/pods/{pod}"))["status"]["podIP"].clone();
        let url = url.replace("127.0.0.1", own.as_str().expect("an address"));
        lab.exec(&pod, &["curl", "-sS", "-X", "PUT", "-d", word, &url]).expect("it is switched");
    };
    let endpoints = |count: usize| {
        until("endpoints", || match ready_endpoints(&lab) {
            found if found == count => Ok(()),
            found => Err(found.to_string()),
        });
    };
    put("off");
    endpoints(2);
    put("on");
    endpoints(3);
    lab.down_and_look();
}

#[test]
fn two_labs_live_side_by_side_and_a_name_is_taken_once() {
    let (one, two) = (Lab::up("one", &["--nodes", "1"]), Lab::up("two", &["--nodes", "1"]));
    for lab in [&one, &two] {
        until("an answer", || page(lab));
    }
    let again = one.command(&["up"]).expect_err("the name is taken");
    assert!(again.contains("is up already"), "{again}");
    one.down_and_look();
    until("an answer", || page(&two));
    two.down_and_look();
}

#[test]
fn a_killed_lab_is_removed_by_down_and_by_the_next_up() {
    let lab = Lab::up("killed", &["--nodes", "1"]);
    lab.kill();
    let status = lab.command(&["status"]).expect_err("it is dead");
    assert!(status.contains("is not up"), "{status}");
    let lab = lab.up_again(&["--nodes", "1"]);
    until("an answer", || page(&lab));
    lab.kill();
    lab.down_and_look();
}

#[test]
fn what_is_asked_wrongly_is_answered_by_one_sentence() {
    let lab = Lab::up("wrong", &["--nodes", "1"]);
    for (words, expected) in [
        (
            &["exec", "nobody", "--", "true"][..],
            "there is no node or Pod \"nobody\"; there are node-a, client",
        ),
        (&["logs", "nobody"], "there is no node or Pod \"nobody\""),
        (&["mode", "nftables", "node-z"], "node-z"),
    ] {
        let error = lab.command(words).expect_err("it is wrong");
        assert!(error.contains(expected), "{words:?}: {error}");
    }
    lab.down_and_look();
    let gone = lab.command(&["down"]).expect_err("it is down");
    assert!(gone.contains("is not up"), "{gone}");
}
