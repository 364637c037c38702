//! The answers of the Go kube-proxy 1.36.2 to the same requests.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use http::{Method, Request};
use http_body_util::BodyExt;

use super::routes::answer;
use super::*;
use sluice_telemetry::metrics::IptablesPackets;

const TEXT_TYPE: &str = "content-type: text/plain; charset=utf-8";
const NOSNIFF: &str = "x-content-type-options: nosniff";

fn admin_state(debugging: Debugging) -> AdminState {
    let flags = [("v", "2"), ("bind-address", "0.0.0.0"), ("vmodule", ""), ("cleanup", "false")];
    let flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned()));
    AdminState {
        mode: Mode::Nftables,
        configuration: Arc::new(|| "{\"kind\":\"KubeProxyConfiguration\"}".to_owned()),
        flags: Arc::new(flags.into()),
        debugging,
        started: "2026-11-23T21:49:10.89Z".parse().expect("a time"),
        metrics: Metrics::new(Mode::Nftables),
    }
}

/// Status, headers and body of an answer.
fn ask(state: &AdminState, request: Request<String>) -> (u16, Vec<String>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let answered = runtime.block_on(answer(Admin::new(state.clone()), request));
    let (head, body) = answered.into_parts();
    let body = body.collect().now_or_never().and_then(Result::ok).expect("a whole body");
    let body = String::from_utf8(body.to_bytes().to_vec()).expect("text");
    let text = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
    let headers = head.headers.iter().map(|(name, value)| format!("{name}: {}", text(value)));
    (head.status.as_u16(), headers.collect(), body)
}

fn get(path: &str) -> Request<String> {
    Request::get(path).body(String::new()).expect("a request")
}

fn accepting(path: &str, accept: &str) -> Request<String> {
    Request::get(path).header("accept", accept).body(String::new()).expect("a request")
}

#[test]
fn short_answers_are_byte_for_byte_those_of_the_go_kube_proxy() {
    let state = admin_state(Debugging::Off);
    let plain = vec![TEXT_TYPE, NOSNIFF];
    let table = [
        ("/healthz", 200, plain.clone(), "ok"),
        ("/healthz?verbose", 200, plain.clone(), "[+]ping ok\nhealthz check passed\n"),
        ("/healthz?exclude=ping", 200, plain.clone(), "ok"),
        (
            "/healthz?exclude=foo&verbose",
            200,
            plain.clone(),
            "[+]ping ok\nwarn: some health checks cannot be excluded: no matches for \"foo\"\n\
             healthz check passed\n",
        ),
        ("/healthz/ping", 200, vec![TEXT_TYPE], "ok"),
        ("/healthz/", 404, plain.clone(), "404 page not found\n"),
        ("/", 404, plain.clone(), "404 page not found\n"),
        ("/livez", 404, plain.clone(), "404 page not found\n"),
        ("/debug/flags/v", 404, plain.clone(), "404 page not found\n"),
        ("/debug/pprof/", 404, plain.clone(), "404 page not found\n"),
        ("/proxyMode", 200, plain, "nftables"),
        (
            "/configz",
            200,
            vec!["content-type: application/json", NOSNIFF],
            "{\"kubeproxy.config.k8s.io\":{\"kind\":\"KubeProxyConfiguration\"}}",
        ),
    ];
    for (path, code, headers, body) in table {
        let found = ask(&state, get(path));
        assert_eq!((found.0, found.2.as_str()), (code, body), "{path}");
        assert_eq!(found.1, headers, "{path}");
    }
}

#[test]
fn metrics_come_with_the_type_that_scrapers_expect() {
    let (code, headers, body) = ask(&admin_state(Debugging::Off), get("/metrics"));
    assert_eq!(code, 200);
    assert_eq!(
        headers,
        [
            "content-type: text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
            "process-start-time-unix: 1795470550"
        ]
    );
    assert!(body.contains("# TYPE kubeproxy_sync_proxy_rules_service_changes_total counter\n"));
}

#[test]
fn the_indicators_can_be_reset() {
    let state = admin_state(Debugging::Off);
    ask(&state, get("/healthz"));
    assert!(ask(&state, get("/metrics/slis")).2.contains("kubernetes_healthchecks_total"));
    let delete = Request::delete("/metrics/slis").body(String::new()).expect("a request");
    assert_eq!(ask(&state, delete).2, "metrics reset\n");
    assert!(!ask(&state, get("/metrics/slis")).2.contains("kubernetes_healthchecks_total"));
}

#[test]
fn the_verbosity_is_set_by_put_alone() {
    let said = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&said);
    let state =
        admin_state(Debugging::On(Arc::new(move |level| sink.lock().expect("alone").push(level))));
    let table = [
        (Method::PUT, "5", 200, "successfully set klog.logging.verbosity to 5\n"),
        (Method::PUT, "abc", 400, "strconv.ParseUint: parsing \"abc\": invalid syntax\n"),
        (Method::PUT, "-1", 400, "strconv.ParseUint: parsing \"-1\": invalid syntax\n"),
        (
            Method::PUT,
            "99999999999",
            400,
            "strconv.ParseUint: parsing \"99999999999\": value out of range\n",
        ),
        (Method::PUT, "", 400, "strconv.ParseUint: parsing \"\": invalid syntax\n"),
        (Method::PUT, "2\n", 400, "strconv.ParseUint: parsing \"2\\n\": invalid syntax\n"),
        (Method::POST, "3", 406, "unsupported http method\n"),
        (Method::GET, "", 406, "unsupported http method\n"),
    ];
    for (method, text, code, body) in table {
        let request = Request::builder().method(method).uri("/debug/flags/v");
        let found = ask(&state, request.body(text.to_owned()).expect("a request"));
        assert_eq!((found.0, found.2.as_str()), (code, body));
        assert_eq!(found.1, ["content-type: text/plain", NOSNIFF]);
    }
    assert_eq!(*said.lock().expect("alone"), [5]);
    assert_eq!(ask(&state, get("/debug/flags/")).0, 200);
    let (code, _, body) = ask(&state, get("/debug/pprof/profile"));
    assert_eq!(code, 501);
    assert!(body.contains("no profiles"), "{body}");
}

#[test]
fn pages_for_people_list_everything() {
    let state = admin_state(Debugging::Off);
    let caution = "Warning: This endpoint is not meant to be machine parseable, has no formatting \
                   compatibility guarantees and is for debugging purposes only.\n";
    let (code, headers, body) = ask(&state, get("/flagz"));
    assert_eq!((code, headers), (200, vec![TEXT_TYPE.to_owned()]));
    let flags = "bind-address=0.0.0.0\ncleanup=false\nv=2\nvmodule=\n";
    assert_eq!(body, format!("\nkube-proxy flagz\n{caution}{flags}"));
    let (code, _, body) = ask(&state, accepting("/statusz", "text/html, */*;q=0.8"));
    assert_eq!(code, 200);
    let start =
        format!("\nkube-proxy statusz\n{caution}\nStarted  Mon Nov 23 21:49:10 UTC 2026\nUp  ");
    assert!(body.starts_with(&start), "{body}");
    let end = "Binary version  1.36.2\nEmulation version  1.36\n\
               Paths  /configz /flagz /healthz /metrics /proxyMode\n";
    assert!(body.ends_with(end), "{body}");
}

#[test]
fn programs_get_the_version_that_they_name() {
    let state = admin_state(Debugging::Off);
    let accept = "application/json;v=v1beta1;g=config.k8s.io;as=Flagz";
    let (code, headers, body) = ask(&state, accepting("/flagz", accept));
    assert_eq!(code, 200);
    assert_eq!(headers, ["content-type: application/json;g=config.k8s.io;v=v1beta1;as=Flagz"]);
    assert_eq!(
        body,
        "{\n  \"kind\": \"Flagz\",\n  \"apiVersion\": \"config.k8s.io/v1beta1\",\n  \"metadata\": {\n    \
         \"name\": \"kube-proxy\"\n  },\n  \"flags\": {\n    \"bind-address\": \"0.0.0.0\",\n    \
         \"cleanup\": \"false\",\n    \"v\": \"2\",\n    \"vmodule\": \"\"\n  }\n}"
    );
    let accept = "application/yaml;v=v1alpha1;g=config.k8s.io;as=Flagz";
    let (_, headers, body) = ask(&state, accepting("/flagz", accept));
    let warning = "warning: 299 - \"This version of the flagz endpoint is deprecated. Please use a \
                   newer version.\"";
    assert!(headers.contains(&warning.to_owned()), "{headers:?}");
    assert_eq!(
        body,
        "apiVersion: config.k8s.io/v1alpha1\nflags:\n  bind-address: 0.0.0.0\n  cleanup: \"false\"\n  \
         v: \"2\"\n  vmodule: \"\"\nkind: Flagz\nmetadata:\n  name: kube-proxy\n"
    );
    let accept = "application/json;v=v1beta1;g=config.k8s.io;as=Statusz";
    let (_, _, body) = ask(&state, accepting("/statusz", accept));
    let status: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status["startTime"], "2026-11-23T21:49:10Z");
    assert!(body.ends_with("\"/metrics\",\n    \"/proxyMode\"\n  ]\n}"), "{body}");
}

#[test]
fn what_nobody_can_read_is_refused() {
    let state = admin_state(Debugging::Off);
    let message = "only the following media types are accepted: application/json, application/yaml, \
                   text/plain";
    let json = format!(
        "{{\n  \"kind\": \"Status\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {{}},\n  \"status\": \
         \"Failure\",\n  \"message\": \"{message}\",\n  \"reason\": \"NotAcceptable\",\n  \"code\": 406\n}}"
    );
    let refused = [
        "application/json",
        "application/xml",
        "text/html",
        "application/json;v=v1;g=config.k8s.io;as=Flagz",
        "application/json;v=v1beta1;g=config.k8s.io;as=Statusz",
    ];
    for accept in refused {
        let found = ask(&state, accepting("/flagz", accept));
        assert_eq!(found, (406, vec!["content-type: application/json".to_owned()], json.clone()));
    }
    let (code, headers, _) = ask(&state, accepting("/statusz", "application/yaml"));
    assert_eq!((code, headers), (406, vec!["content-type: application/yaml".to_owned()]));
}

/// Metrics that are gathered when the test lets them, and how often that was begun.
fn slow_metrics() -> (Metrics, Arc<AtomicU64>, std::sync::mpsc::SyncSender<()>) {
    let metrics = Metrics::new(Mode::Nftables);
    let (begun, (let_go, gate)) = (Arc::new(AtomicU64::new(0)), std::sync::mpsc::sync_channel(0));
    let (count, gate) = (Arc::clone(&begun), Mutex::new(gate));
    metrics.iptables_packets(IptablesPackets::InvalidDropped, move || {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        gate.lock().expect("no panic").recv().ok().map(|()| number)
    });
    (metrics, begun, let_go)
}

#[tokio::test]
async fn a_scrape_that_takes_long_holds_nobody_up_and_is_shared() {
    let (metrics, begun, let_go) = slow_metrics();
    let admin = Admin::new(AdminState { metrics, ..admin_state(Debugging::Off) });
    let scrapers: Vec<_> =
        (0..64).map(|_| tokio::spawn(answer(Arc::clone(&admin), get("/metrics")))).collect();
    while begun.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    for path in ["/healthz", "/metrics/slis", "/configz"] {
        let reply = answer(Arc::clone(&admin), get(path)).now_or_never().expect("at once");
        assert_eq!(reply.status(), 200, "{path}");
    }
    while admin.scrapes.waiting() < 64 {
        tokio::task::yield_now().await;
    }
    let reply = answer(Arc::clone(&admin), get("/metrics")).now_or_never().expect("at once");
    assert_eq!(reply.status(), 503, "not any number of them");
    // A request that is cancelled does not end the scrape of others.
    let mut scrapers = scrapers.into_iter();
    scrapers.next().expect("there are many").abort();
    tokio::task::spawn_blocking(move || let_go.send(()).map(|()| let_go))
        .await
        .expect("no panic")
        .expect("it waits");
    for scraper in scrapers {
        let body =
            scraper.await.expect("no panic").into_body().collect().await.expect("it is whole");
        let text = String::from_utf8(body.to_bytes().to_vec()).expect("text");
        assert!(text.contains("dropped_packets_total 1\n"), "{text}");
    }
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    // The gate is gone with the test's end of it: the next scrape is another one.
    answer(Arc::clone(&admin), get("/metrics")).await;
    assert_eq!(begun.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_scrape_that_fails_is_told_and_tried_again() {
    let (metrics, failing) = (Metrics::new(Mode::Nftables), Arc::new(AtomicU64::new(1)));
    let left = Arc::clone(&failing);
    metrics.lost_log_lines(move || {
        assert_eq!(left.swap(0, Ordering::SeqCst), 0, "this panic is meant");
        7
    });
    let admin = Admin::new(AdminState { metrics, ..admin_state(Debugging::Off) });
    assert_eq!(answer(Arc::clone(&admin), get("/metrics")).await.status(), 500);
    assert_eq!(answer(admin, get("/metrics")).await.status(), 200);
}
