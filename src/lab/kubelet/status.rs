//! A Pod's status, from what runs.

use serde_json::{Value, json};

use sluice_controllers::fields::{dated, list};

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Running {
    /// It runs since then.
    Since(String),
    /// It waits for its next start.
    Backoff,
    /// It ended with this code.
    Ended(i32),
}

/// A container.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) state: Running,
    pub(super) ready: bool,
    pub(super) restarts: u64,
}

/// The status of a Pod with these addresses and containers.
pub(super) fn status(
    pod: &Value,
    (host, ips): (&str, &[String]),
    containers: &[Container],
    now: &str,
) -> Value {
    let ready = containers.iter().all(|container| container.ready);
    let mut status = pod["status"].clone();
    status["phase"] = json!(phase(containers));
    status["hostIP"] = json!(host);
    status["hostIPs"] = json!([{"ip": host}]);
    status["podIP"] = json!(ips.first());
    status["podIPs"] = ips.iter().map(|ip| json!({"ip": ip})).collect();
    if status["startTime"].is_null() {
        status["startTime"] = json!(now);
    }
    let mut conditions: Vec<Value> = list(&pod["status"]["conditions"]).to_vec();
    for (kind, holds) in [
        ("PodReadyToStartContainers", true),
        ("Initialized", true),
        ("Ready", ready),
        ("ContainersReady", ready),
    ] {
        conditions.retain(|condition| condition["type"] != kind);
        let mut condition = json!({"type": kind, "status": if holds { "True" } else { "False" }});
        if !holds {
            condition["reason"] = json!("ContainersNotReady");
            let names: Vec<&str> =
                containers.iter().filter(|c| !c.ready).map(|c| c.name.as_str()).collect();
            let message = format!("containers with unready status: [{}]", names.join(" "));
            condition["message"] = json!(message);
        }
        conditions.push(dated(pod, condition, now));
    }
    status["conditions"] = json!(conditions);
    status["containerStatuses"] = containers.iter().map(container).collect();
    status
}

fn phase(containers: &[Container]) -> &'static str {
    let ended = |c: &Container| matches!(c.state, Running::Ended(_));
    if !containers.iter().all(ended) {
        "Running"
    } else if containers.iter().all(|c| c.state == Running::Ended(0)) {
        "Succeeded"
    } else {
        "Failed"
    }
}

fn container(container: &Container) -> Value {
    let state = match &container.state {
        Running::Since(time) => json!({"running": {"startedAt": time}}),
        Running::Backoff => json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        Running::Ended(code) => {
            let reason = if *code == 0 { "Completed" } else { "Error" };
            json!({"terminated": {"exitCode": code, "reason": reason}})
        }
    };
    json!({
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "ready": container.ready,
        "started": matches!(container.state, Running::Since(_)),
        "restartCount": container.restarts,
        "state": state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_ready_when_its_containers_are_and_over_when_all_ended() {
        let one = |state: Running, ready: bool| Container {
            name: "main".to_owned(),
            image: "x".to_owned(),
            state,
            ready,
            restarts: 0,
        };
        let running = || Running::Since("t".to_owned());
        let table = [
            (vec![one(running(), true)], "Running", "True"),
            (vec![one(running(), true), one(running(), false)], "Running", "False"),
            (vec![one(Running::Backoff, false)], "Running", "False"),
            (vec![one(Running::Ended(0), false)], "Succeeded", "False"),
            (vec![one(Running::Ended(0), false), one(Running::Ended(1), false)], "Failed", "False"),
        ];
        let ips = ["10.244.1.2".to_owned(), "fd00::2".to_owned()];
        for (containers, phase, ready) in table {
            let found = status(&json!({}), ("172.18.0.11", &ips), &containers, "t");
            assert_eq!(found["phase"], phase, "{containers:?}");
            let pod = json!({"status": found});
            assert_eq!(sluice_controllers::fields::is_true(&pod, "Ready"), ready == "True");
            assert_eq!(status(&pod, ("172.18.0.11", &ips), &containers, "later"), pod["status"]);
        }
    }
}
