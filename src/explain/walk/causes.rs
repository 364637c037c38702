//! Why a Service has no endpoint: its selector against the pods. Only where pods and selectors are known.

use std::collections::BTreeMap;

use crate::explanation::{Reason, Unused};
use crate::findings::{Code, Finding};
use crate::truth::{Pod, ServiceFacts, Truth};
use sluice_core::plan::Hit;

/// How many pods with a near label are named.
const MOST: usize = 5;

/// What is wrong with selector and target port, and pods that are almost selected.
pub(super) fn causes(truth: &Truth<'_>, hit: &Hit<'_>, none: bool) -> (Vec<Finding>, Vec<Unused>) {
    let Some(pods) = truth.known.pods.seen() else { return (Vec::new(), Vec::new()) };
    let Some(facts) = truth.known.services.get(&hit.service.to_string()) else {
        return (Vec::new(), Vec::new());
    };
    if facts.selector.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let namespace = hit.service.namespace();
    let here = || pods.iter().filter(|pod| pod.namespace == namespace);
    let selected: Vec<&Pod> = here().filter(|pod| matches(&facts.selector, pod)).collect();
    let mut findings = Vec::new();
    if none && selected.is_empty() {
        findings.push(nothing(hit, &facts.selector));
    }
    if none && !selected.is_empty() {
        findings.extend(target_port(hit, facts, &selected));
    }
    let near: Vec<(&Pod, Difference<'_>)> = here()
        .filter(|pod| !selected_by_another(truth, pod))
        .filter_map(|pod| Some((pod, difference(&facts.selector, pod)?)))
        .take(MOST)
        .collect();
    if let Some((pod, difference)) = near.first() {
        findings.push(near_miss(hit, pod, difference));
    }
    let unused = near.iter().map(|(pod, difference)| Unused {
        endpoint: None,
        pod: Some(pod.name.clone()),
        node: Some(pod.node.clone()).filter(|node| !node.is_empty()),
        reason: Reason::NotSelected,
        since: None,
        detail: Some(format!(
            "it has {}={}, the Service wants {}={}",
            difference.has.0, difference.has.1, difference.wants.0, difference.wants.1
        )),
        rules: Vec::new(),
    });
    (findings, unused.collect())
}

fn matches(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
}

/// A pod that is where it belongs is no near miss.
fn selected_by_another(truth: &Truth<'_>, pod: &Pod) -> bool {
    truth.known.services.iter().any(|(name, facts)| {
        let namespace = name.split_once('/').map(|(namespace, _)| namespace);
        namespace == Some(&*pod.namespace)
            && !facts.selector.is_empty()
            && matches(&facts.selector, pod)
    })
}

/// The one label that keeps a pod from being selected.
struct Difference<'a> {
    wants: (&'a str, &'a str),
    has: (&'a str, &'a str),
}

/// If all labels but one are right, and that one is almost right.
fn difference<'a>(selector: &'a BTreeMap<String, String>, pod: &'a Pod) -> Option<Difference<'a>> {
    let mut wrong = selector.iter().filter(|(key, value)| pod.labels.get(*key) != Some(value));
    let (key, value) = wrong.next()?;
    if wrong.next().is_some() {
        return None;
    }
    let near = |a: &str, b: &str| {
        let distance = strsim::damerau_levenshtein(a, b);
        (1..=2).contains(&distance) && distance * 2 < a.chars().count().max(3)
    };
    if let Some(other) = pod.labels.get(key) {
        return near(value, other).then_some(Difference { wants: (key, value), has: (key, other) });
    }
    let mut others = pod.labels.iter().filter(|(other, _)| !selector.contains_key(*other));
    let (other, has) = others.find(|(other, has)| *has == value && near(key, other))?;
    Some(Difference { wants: (key, value), has: (other, has) })
}

fn nothing(hit: &Hit<'_>, selector: &BTreeMap<String, String>) -> Finding {
    let wants: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let (namespace, wants) = (hit.service.namespace(), wants.join(","));
    let text = format!(
        "no pod in namespace {namespace} has the labels {wants} that Service {} selects",
        hit.service
    );
    let fix = format!("kubectl get pods -n {namespace} --show-labels, and compare with {wants}");
    Code::SelectorMatchesNothing.finding(text, Some(fix))
}

fn near_miss(hit: &Hit<'_>, pod: &Pod, Difference { wants, has }: &Difference<'_>) -> Finding {
    let text = format!(
        "pod {} has {}={}, and Service {} selects {}={}: a typo?",
        pod.name, has.0, has.1, hit.service, wants.0, wants.1
    );
    let namespace = &pod.namespace;
    let fix = format!(
        "kubectl label pod -n {namespace} {} {}={} --overwrite, and the same in the template of what made it",
        pod.name, wants.0, wants.1
    );
    Code::SelectorNearMiss.finding(text, Some(fix))
}

/// A target port that is a name which no selected pod has.
fn target_port(hit: &Hit<'_>, facts: &ServiceFacts, selected: &[&Pod]) -> Option<Finding> {
    let protocol = hit.port.protocol.to_string();
    let mut ports = facts.ports.iter();
    let port = ports.find(|port| *port.name == *hit.port.name && port.protocol == protocol)?;
    let is_name = !port.target.is_empty() && port.target.parse::<u16>().is_err();
    if !is_name || selected.iter().any(|pod| pod.port_names.contains(&port.target)) {
        return None;
    }
    let mut has: Vec<&str> =
        selected.iter().flat_map(|pod| &pod.port_names).map(|n| &**n).collect();
    has.sort_unstable();
    has.dedup();
    let has = if has.is_empty() {
        "no named ports".to_owned()
    } else {
        format!("ports {}", has.join(", "))
    };
    let text = format!(
        "Service {} sends to the port called {:?}, and the pods that it selects have {has}",
        hit.service, port.target
    );
    let fix = format!(
        "give the container port the name {:?}, or correct targetPort: kubectl edit service -n {} {}",
        port.target,
        hit.service.namespace(),
        hit.service.name()
    );
    Some(Code::NamedPortMissing.finding(text, Some(fix)))
}
