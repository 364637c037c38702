//! What operators read from the real daemon: its pages, its metrics, and the Events that it sends.

#[path = "../support/mod.rs"]
mod support;

mod crowd;
mod http;
mod metrics;
mod monitoring;
mod starved;

use std::net::TcpListener;
use std::process::ExitCode;

use serde_json::{Value, json};
use sluice_cluster::api::{ApiServer, FailureCode, Outage, Resource, Verb};
use sluice_cluster::{Isolation, prepare};

use http::{HEALTHZ, METRICS, ask, get};
use support::daemon::{Daemon, config};
use support::objects::api_server;
use support::{Outcome, eventually, trial};

fn main() -> ExitCode {
    prepare(Isolation::Private).expect("namespaces of our own");
    let arguments = libtest_mimic::Arguments::from_args();
    let plain = |name: &str, run: fn() -> Outcome| libtest_mimic::Trial::test(name, run);
    let trials = vec![
        trial("operators_read_mode_configuration_flags_and_status", pages),
        trial("what_is_not_served_is_not_found", not_found),
        trial("the_verbosity_changes_while_the_daemon_runs", verbosity),
        trial("a_busy_daemon_is_silent_after_its_start", silent),
        trial("addresses_of_both_families_are_served", families),
        trial("a_taken_metrics_address_ends_the_daemon_or_is_waited_for", taken),
        trial("owners_hear_of_the_start_and_of_what_cannot_be_served", events),
        trial("an_api_server_that_takes_no_events_does_not_matter", no_events),
        trial("who_asks_is_answered_beside_any_number_of_idle_and_slow_connections", crowd::guests),
        trial("who_closes_a_half_is_answered", crowd::half_closed),
        trial("a_log_that_nobody_reads_holds_nothing_up", starved::nobody_reads),
        trial("a_log_that_is_read_late_is_complete", starved::read_late),
        trial("with_few_descriptors_it_serves_and_says_so", starved::few_files),
        trial("the_limit_of_open_files_is_raised", starved::raised),
        trial("metrics_are_those_of_the_golden_file", metrics::golden),
        trial("a_change_moves_what_it_should", metrics::changes),
        trial("an_absent_api_server_shows", metrics::absent),
        plain("dashboard_and_alerts_use_metrics_that_there_are", monitoring::checked),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// An API server with the node `node-a`.
fn api() -> ApiServer {
    api_server(&["127.0.0.1"])
}

/// A daemon that has done its first sync.
fn daemon(api: &ApiServer, more: &str) -> Daemon {
    let daemon =
        Daemon::start(&api.url(), &config(&format!("nftables: {{minSyncPeriod: 1ms}}\n{more}")));
    daemon.wait_for_first_sync("IPv4");
    daemon.wait_for_first_sync("IPv6");
    daemon
}

fn pages() -> Outcome {
    let api = api();
    let _daemon = daemon(&api, "");
    let text = "text/plain; charset=utf-8";
    let table = [
        ("/healthz", text, "ok"),
        ("/healthz?verbose", text, "[+]ping ok\nhealthz check passed\n"),
        ("/healthz/ping", text, "ok"),
        ("/proxyMode", text, "nftables"),
    ];
    for (path, kind, body) in table {
        let reply = get(METRICS, path)?;
        assert_eq!((reply.code, reply.body.as_str()), (200, body), "{path}");
        assert_eq!(reply.header("Content-Type"), Some(kind), "{path}");
    }
    let reply = get(METRICS, "/configz")?;
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
    let configuration = &reply.json()["kubeproxy.config.k8s.io"];
    assert_eq!(configuration["kind"], "KubeProxyConfiguration");
    assert_eq!(configuration["mode"], "nftables");
    assert_eq!(configuration["hostnameOverride"], "node-a");
    let reply = get(METRICS, "/statusz")?;
    assert!(reply.body.contains("\nBinary version  1.36."), "{}", reply.body);
    let accept = "Accept: application/json;v=v1beta1;g=config.k8s.io;as=Flagz\r\n";
    let reply = ask(METRICS, "GET", "/flagz", accept, "")?;
    assert_eq!((reply.code, &reply.json()["kind"]), (200, &json!("Flagz")));
    let reply = ask(METRICS, "GET", "/flagz", "Accept: application/json\r\n", "")?;
    assert_eq!((reply.code, &reply.json()["reason"]), (406, &json!("NotAcceptable")));
    let reply = get(METRICS, "/metrics/slis")?;
    let pings =
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 2\n";
    assert!(reply.body.contains(pings), "{}", reply.body);
    Ok(())
}

fn not_found() -> Outcome {
    let api = api();
    let _daemon = daemon(&api, "");
    // Without enableProfiling there is nothing below /debug.
    for path in ["/", "/livez", "/metrics/", "/debug/flags/v", "/debug/pprof/"] {
        let reply = get(METRICS, path)?;
        assert_eq!((reply.code, reply.body.as_str()), (404, "404 page not found\n"), "{path}");
        assert_eq!(reply.header("X-Content-Type-Options"), Some("nosniff"));
    }
    assert_eq!(ask(METRICS, "PUT", "/debug/flags/v", "", "5")?.code, 404);
    assert_eq!(get(HEALTHZ, "/metrics")?.code, 404);
    Ok(())
}

fn verbosity() -> Outcome {
    let api = api();
    let daemon = daemon(&api, "enableProfiling: true");
    let put = |text: &str| ask(METRICS, "PUT", "/debug/flags/v", "", text);
    assert_eq!(get(METRICS, "/debug/flags/v")?.code, 406);
    assert_eq!(put("loud")?.code, 400);
    let reply = put("0")?;
    assert_eq!(
        (reply.code, reply.body.as_str()),
        (200, "successfully set klog.logging.verbosity to 0\n")
    );
    let service = |port: u16| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("web-{port}")},
            "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                     "healthCheckNodePort": port, "ports": [{"port": 80}]},
        })
    };
    // At level debug it logs that it starts to answer for a Service.
    let listens = |port: u16| {
        eventually("a health check port", || get(&format!("127.0.0.1:{port}"), "/").ok());
    };
    api.create(&service(31001))?;
    listens(31001);
    assert!(daemon.lines_with("answering health checks").is_empty());
    assert_eq!(put("4")?.code, 200);
    api.create(&service(31002))?;
    listens(31002);
    daemon.wait_for("answering health checks");
    let reply = get(METRICS, "/debug/pprof/heap")?;
    assert_eq!(reply.code, 501);
    assert!(reply.body.contains("no profiles"), "{}", reply.body);
    Ok(())
}

/// At the default verbosity; with `-v=2` it says what each sync does.
fn silent() -> Outcome {
    let api = api();
    let folder = tempfile::TempDir::new()?;
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, config("enableProfiling: true"))?;
    let mut command = std::process::Command::new(support::daemon::program());
    command.arg("--config").arg(&file).args(["--master", &api.url()]);
    let daemon = Daemon::start_as(&mut command);
    daemon.wait_for_first_sync("IPv4");
    daemon.wait_for_first_sync("IPv6");
    // The last words of the start.
    daemon.wait_for("nothing is left of other modes");
    eventually("the servers", || get(METRICS, "/healthz").ok());
    let before = daemon.log();
    let service = |number: u16| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("web-{number}")},
            "spec": {"clusterIP": format!("10.96.7.{number}"), "ports": [{"port": 80}]},
        })
    };
    let in_force = |number: u16| {
        let address = format!("10.96.7.{number}");
        let table = || support::run("nft", &["list", "table", "ip", "kube-proxy"]);
        eventually("a Service in the kernel", || table().contains(&address).then_some(()));
    };
    for number in 1..=20 {
        api.create(&service(number))?;
    }
    in_force(20);
    for number in 1..20 {
        api.delete(Resource::Services, "default", &format!("web-{number}"))?;
    }
    eventually("their end in the kernel", || {
        let table = support::run("nft", &["list", "table", "ip", "kube-proxy"]);
        (!table.contains("10.96.7.19")).then_some(())
    });
    assert_eq!(daemon.log(), before, "nothing was said since the start");
    assert_eq!(ask(METRICS, "PUT", "/debug/flags/v", "", "2")?.code, 200);
    api.create(&service(21))?;
    daemon.wait_for(" synced family=IPv4");
    Ok(())
}

fn families() -> Outcome {
    let api = api();
    let table = [
        ("127.0.0.1:10249", "127.0.0.1:10256", ["127.0.0.1", ""]),
        ("'[::1]:10249'", "'[::1]:10256'", ["[::1]", ""]),
        ("0.0.0.0:10249", "0.0.0.0:10256", ["127.0.0.1", "[::1]"]),
        ("'[::]:10249'", "'[::]:10256'", ["127.0.0.1", "[::1]"]),
    ];
    for (metrics, healthz, served) in table {
        let addresses = format!("metricsBindAddress: {metrics}\nhealthzBindAddress: {healthz}");
        let mut daemon = daemon(&api, &addresses);
        for host in ["127.0.0.1", "[::1]"] {
            let is_served = served.contains(&host);
            let mode = get(&format!("{host}:10249"), "/proxyMode").ok().map(|reply| reply.code);
            let live = get(&format!("{host}:10256"), "/livez").ok().map(|reply| reply.code);
            let expected = is_served.then_some(200);
            assert_eq!((mode, live), (expected, expected), "{host} with {addresses}");
        }
        daemon.stop();
    }
    Ok(())
}

/// The Events of a reason.
fn of_reason(api: &ApiServer, reason: &str) -> Vec<Value> {
    let events = api.list(Resource::Events, "default");
    let events = events.iter().map(|event| event.value());
    events.filter(|event| event["reason"] == reason).collect()
}

fn taken() -> Outcome {
    let api = api();
    let stranger = TcpListener::bind(METRICS)?;
    let mut hard = Daemon::start(&api.url(), &config("bindAddressHardFail: true"));
    assert_eq!(hard.exit_code(), Some(1));
    let last = hard.log().lines().last().unwrap_or_default().to_owned();
    for words in ["sluice: ", "/metrics", METRICS, "in use", "metricsBindAddress"] {
        assert!(last.contains(words), "{words} is missing: {last}");
    }
    let [event] = &of_reason(&api, "FailedToStartMetricServer")[..] else {
        panic!("the owners of the node heard nothing");
    };
    assert_eq!((&event["type"], &event["action"]), (&json!("Warning"), &json!("StartKubeProxy")));
    assert_eq!(event["involvedObject"]["name"], "node-a");

    let daemon = daemon(&api, "");
    assert_eq!(daemon.lines_with("cannot serve /metrics").len(), 1);
    assert_eq!(get(HEALTHZ, "/livez")?.code, 200, "the other address is served");
    drop(stranger);
    eventually("the address is free", || get(METRICS, "/healthz").ok().filter(|r| r.code == 200));
    Ok(())
}

fn events() -> Outcome {
    let api = api();
    let _stranger = TcpListener::bind("0.0.0.0:31001")?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                 "healthCheckNodePort": 31001, "ports": [{"port": 80}]},
    });
    api.create(&service)?;
    let daemon = daemon(&api, "nodePortAddresses: [0.0.0.0/0]");
    let started = eventually("an Event of the start", || of_reason(&api, "Starting").pop());
    assert_eq!(
        started["involvedObject"],
        json!({"apiVersion": "v1", "kind": "Node", "name": "node-a"})
    );
    assert_eq!(
        (&started["type"], &started["action"]),
        (&json!("Normal"), &json!("StartKubeProxy"))
    );
    assert_eq!(started["reportingComponent"], "kube-proxy");

    let reason = "FailedToStartServiceHealthcheck";
    let failed = eventually("an Event of the Service", || of_reason(&api, reason).pop());
    assert_eq!(failed["involvedObject"]["kind"], "Service");
    assert_eq!(failed["involvedObject"]["name"], "web");
    assert_eq!((&failed["type"], &failed["action"]), (&json!("Warning"), &json!("Listen")));
    let message = failed["message"].as_str().unwrap_or_default();
    let begin = "node node-a failed to start healthcheck \"default/web\" on port 31001: ";
    assert!(message.starts_with(begin), "{message}");

    // The same again is no new Event but a series.
    api.delete(Resource::Services, "default", "web")?;
    daemon.wait_for_nth(" synced family=IPv4", 0);
    api.create(&service)?;
    let series = eventually("a series", || {
        let events = of_reason(&api, reason);
        assert_eq!(events.len(), 1, "{events:?}");
        events.into_iter().find(|event| event["series"]["count"] == 2)
    });
    assert_eq!(series["metadata"]["name"], failed["metadata"]["name"]);
    Ok(())
}

fn no_events() -> Outcome {
    let api = api();
    api.faults().set_outage(Outage::Disconnected);
    let url = api.url();
    let mut waiting = Daemon::start(&url, &config(""));
    waiting.wait_for("cannot reach the API server");
    waiting.stop();

    api.faults().set_outage(Outage::None);
    api.faults().fail_next(Verb::Create, Resource::NewEvents, FailureCode::Forbidden, 100);
    let daemon = daemon(&api, "");
    let failed = eventually("a refused Event", || {
        let text = get(METRICS, "/metrics").ok()?.body;
        text.contains("sluice_events_total{outcome=\"failed\"} 1\n").then_some(text)
    });
    assert!(!failed.contains("outcome=\"sent\""), "{failed}");
    assert!(daemon.lines_with("WARN").iter().all(|line| !line.contains("event")));
    Ok(())
}
