//! The metrics of the real daemon.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluice_cluster::api::{ApiServer, Outage};

use super::http::{HEALTHZ, METRICS, get};
use super::support::{Outcome, eventually};
use super::{api, daemon};

/// The golden list: every family with help, type, labels and buckets; values are masked.
pub(crate) fn golden_file() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("integration/golden/metrics.txt")
}

fn scrape() -> String {
    get(METRICS, "/metrics").expect("metrics are served").body
}

/// The value of a sample.
fn value(text: &str, sample: &str) -> Option<f64> {
    let mut samples = text.lines().filter_map(|line| line.rsplit_once(' '));
    samples.find(|(name, _)| *name == sample)?.1.parse().ok()
}

/// Waits until a sample has a value that will do.
fn wait(sample: &str, good: impl Fn(f64) -> bool) -> f64 {
    eventually(sample, || value(&scrape(), sample).filter(|value| good(*value)))
}

/// A Service with a port of each kind, and a policy that wants an endpoint here.
fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "ipFamilyPolicy": "RequireDualStack", "internalTrafficPolicy": "Local",
            "ports": [{"name": "dns", "protocol": "UDP", "port": 53}],
        },
    })
}

/// A slice of a Service, changed `age` ago.
fn slice(service: &str, family: &str, address: &str, age: jiff::SignedDuration) -> Value {
    let changed = (jiff::Timestamp::now() - age).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_lowercase()),
            "labels": {"kubernetes.io/service-name": service},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": changed},
        },
        "addressType": family,
        "ports": [{"name": "dns", "protocol": "UDP", "port": 53}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "nodeName": "node-b"}],
    })
}

fn both_slices(service: &str, host: u8) -> [Value; 2] {
    // A little in the future: the daemon measures what happened after its start, in whole seconds.
    let age = jiff::SignedDuration::from_secs(-2);
    [
        slice(service, "IPv4", &format!("10.244.1.{host}"), age),
        slice(service, "IPv6", &format!("fd00:10:244:1::{host:x}"), age),
    ]
}

/// Lets everything happen that is measured.
fn let_all_happen(api: &ApiServer) -> Outcome {
    api.create(&service("dns"))?;
    for slice in both_slices("dns", 7) {
        api.create(&slice)?;
    }
    for family in ["IPv4", "IPv6"] {
        let programmed = "kubeproxy_network_programming_duration_seconds_count";
        wait(&format!("{programmed}{{ip_family=\"{family}\"}}"), |count| count >= 1.0);
        let reconciled = "kubeproxy_conntrack_reconciler_sync_duration_seconds_count";
        wait(&format!("{reconciled}{{ip_family=\"{family}\"}}"), |count| count >= 1.0);
        let partial = "kubeproxy_sync_partial_proxy_rules_duration_seconds_count";
        wait(&format!("{partial}{{ip_family=\"{family}\"}}"), |count| count >= 1.0);
    }
    for resource in ["services", "endpointslices", "nodes", "servicecidrs"] {
        wait(&format!("sluice_watch_connected{{resource=\"{resource}\"}}"), |value| value == 1.0);
    }
    wait("sluice_events_total{outcome=\"sent\"}", |count| count >= 1.0);
    assert_eq!(get(HEALTHZ, "/healthz")?.code, 200);
    assert_eq!(get(HEALTHZ, "/livez")?.code, 200);
    Ok(())
}

/// The text without values and without what differs from one machine to the next.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    for line in text.lines() {
        let line = match line.rsplit_once(' ') {
            Some((sample, _)) if !line.starts_with('#') => format!("{sample} _"),
            _ => line.to_owned(),
        };
        let line = ["host", "platform", "version", "git_version"]
            .iter()
            .fold(line, |line, label| without_value(&line, label));
        masked += &format!("{line}\n");
    }
    masked
}

/// A line whose label, if it has it, has no value.
fn without_value(line: &str, label: &str) -> String {
    let find = |start: &str| line.find(&format!("{start}{label}=\"")).map(|at| at + start.len());
    let Some(at) = find("{").or_else(|| find(",")) else { return line.to_owned() };
    let from = at + label.len() + 2;
    let to = line[from..].find('"').map_or(line.len(), |end| from + end);
    format!("{}_{}", &line[..from], &line[to..])
}

pub(crate) fn golden() -> Outcome {
    let api = api();
    let _daemon = daemon(&api, "");
    let_all_happen(&api)?;
    let found = masked(&scrape());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(golden_file(), &found)?;
    }
    let golden = fs::read_to_string(golden_file())?;
    let lines: Vec<_> = found.lines().filter(|line| !golden.lines().any(|g| g == *line)).collect();
    assert!(lines.is_empty(), "new; UPDATE_GOLDEN=1 rewrites: {lines:#?}");
    let lines: Vec<_> = golden.lines().filter(|line| !found.lines().any(|f| f == *line)).collect();
    assert!(lines.is_empty(), "gone; UPDATE_GOLDEN=1 rewrites: {lines:#?}");
    Ok(())
}

pub(crate) fn changes() -> Outcome {
    let api = api();
    let _daemon = daemon(&api, "");
    let before = scrape();
    let was = |sample: &str| value(&before, sample).unwrap_or_default();
    let v4 = |name: &str| format!("{name}{{ip_family=\"IPv4\"}}");
    assert_eq!(value(&before, &v4("kubeproxy_network_programming_duration_seconds_count")), None);
    let_all_happen(&api)?;

    let after = scrape();
    let is = |sample: &str| value(&after, sample).unwrap_or_default();
    let grown = |sample: &str| is(sample) - was(sample);
    assert_eq!(grown("kubeproxy_sync_proxy_rules_service_changes_total"), 1.0);
    assert_eq!(grown("kubeproxy_sync_proxy_rules_endpoint_changes_total"), 2.0);
    assert_eq!(grown(&v4("sluice_services")), 1.0);
    assert_eq!(is("kubeproxy_sync_proxy_rules_service_changes_pending"), 0.0);
    let elements = "sluice_operations_total{ip_family=\"IPv4\",kind=\"element\"}";
    assert!(grown(elements) >= 1.0, "{}", grown(elements));
    let owned = "sluice_kernel_objects{ip_family=\"IPv4\",kind=\"element\"}";
    assert!(grown(owned) >= 1.0, "{}", grown(owned));
    assert!(grown(&v4("kubeproxy_sync_proxy_rules_duration_seconds_count")) >= 1.0);
    let last = v4("kubeproxy_sync_proxy_rules_last_timestamp_seconds");
    assert!(
        is(&last) > was(&last)
            && is(&last) >= is(&v4("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds"))
    );
    let gap = |policy: &str| {
        is(&format!(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{{ip_family=\"IPv4\",traffic_policy=\"{policy}\"}}"
        ))
    };
    assert_eq!((gap("internal"), gap("external")), (1.0, 0.0));
    assert_eq!(grown("kubeproxy_proxy_healthz_total{code=\"200\"}"), 1.0);

    // Another program changes our table.
    super::support::run("nft", &["add", "chain", "ip", "kube-proxy", "strange"]);
    wait(&v4("sluice_drift_repaired_total"), |count| count >= 1.0);
    wait(&v4("sluice_drift_operations_total"), |count| count >= 1.0);
    Ok(())
}

pub(crate) fn absent() -> Outcome {
    let api = api();
    let _daemon = daemon(&api, "");
    let watched = "sluice_watch_connected{resource=\"services\"}";
    wait(watched, |value| value == 1.0);
    let contact = wait("sluice_api_last_contact_timestamp_seconds", |time| time > 1.7e9);
    let opened = wait("sluice_watches_opened_total{resource=\"services\"}", |count| count >= 1.0);
    api.faults().set_outage(Outage::Disconnected);
    wait(watched, |value| value == 0.0);
    let host = api.address().to_string();
    let errors =
        format!("rest_client_requests_total{{code=\"<error>\",host=\"{host}\",method=\"GET\"}}");
    wait(&errors, |count| count >= 1.0);
    api.faults().set_outage(Outage::None);
    wait(watched, |value| value == 1.0);
    wait("sluice_api_last_contact_timestamp_seconds", |time| time > contact);
    wait("sluice_watches_opened_total{resource=\"services\"}", |count| count > opened);
    Ok(())
}
