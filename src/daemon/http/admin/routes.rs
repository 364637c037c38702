//! Routing of requests.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};

use super::scrape::NoText;
use super::{Admin, AdminState, Debugging, debug, pages};
use crate::http::server::{Answer, TEXT, bare, not_found, typed};

/// The type of the metrics' text, as Go's client declares it.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Go's client has the process start time here.
const STARTED: HeaderName = HeaderName::from_static("process-start-time-unix");

/// Answers a request.
pub(super) async fn answer(admin: Arc<Admin>, request: Request<String>) -> Answer {
    let Admin { state, scrapes } = &*admin;
    if request.uri().path() != "/metrics" {
        return at_once(state, &request);
    }
    match scrapes.text().await {
        Ok(text) => metrics(state, text),
        // In the words of Go's `promhttp`.
        Err(NoText::TooMany) => {
            let body = "Limit of concurrent requests reached, try again later.\n".to_owned();
            typed(StatusCode::SERVICE_UNAVAILABLE, TEXT, body)
        }
        Err(NoText::Failed) => {
            let body = "the metrics could not be gathered; the log says why\n".to_owned();
            typed(StatusCode::INTERNAL_SERVER_ERROR, TEXT, body)
        }
    }
}

/// Answers what takes no time. As upstream, the method counts in few places.
fn at_once(state: &AdminState, request: &Request<String>) -> Answer {
    let path = request.uri().path();
    match path {
        "/healthz" => healthz(state, request.uri().query().unwrap_or_default()),
        "/healthz/ping" => bare(StatusCode::OK, TEXT, "ok".to_owned()),
        "/metrics/slis" if request.method() == Method::DELETE => {
            state.metrics.reset_slis();
            bare(StatusCode::OK, TEXT, "metrics reset\n".to_owned())
        }
        "/metrics/slis" => metrics(state, state.metrics.slis().into()),
        "/proxyMode" => typed(StatusCode::OK, TEXT, state.mode.to_string()),
        "/configz" => {
            let configuration = (state.configuration)();
            let body = format!("{{\"kubeproxy.config.k8s.io\":{configuration}}}");
            typed(StatusCode::OK, "application/json", body)
        }
        "/flagz" => pages::flagz(state, request.headers()),
        "/statusz" => pages::statusz(state, request.headers()),
        _ => match &state.debugging {
            Debugging::On(set) => debug::answer(set, request).unwrap_or_else(not_found),
            Debugging::Off => not_found(),
        },
    }
}

/// Whether this server works, which it does if it answers (upstream: `apiserver/pkg/server/healthz`).
fn healthz(state: &AdminState, query: &str) -> Answer {
    state.metrics.pinged();
    let parameters: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let excluded = |name: &str| parameters.iter().any(|(k, v)| k == "exclude" && v == name);
    let others = parameters.iter().filter(|(key, value)| key == "exclude" && value != "ping");
    let unknown: Vec<String> = others.map(|(_, value)| format!("{value:?}")).collect();
    if !parameters.iter().any(|(key, _)| key == "verbose") {
        return typed(StatusCode::OK, TEXT, "ok".to_owned());
    }
    let ping = if excluded("ping") { "[+]ping excluded: ok\n" } else { "[+]ping ok\n" };
    let mut body = ping.to_owned();
    if !unknown.is_empty() {
        let unknown = unknown.join(",");
        body += &format!("warn: some health checks cannot be excluded: no matches for {unknown}\n");
    }
    typed(StatusCode::OK, TEXT, body + "healthz check passed\n")
}

fn metrics(state: &AdminState, text: Bytes) -> Answer {
    let mut answer = bare(StatusCode::OK, METRICS, text);
    let started = HeaderValue::from(state.started.as_second());
    answer.headers_mut().insert(STARTED, started);
    answer
}
