//! Endpoints in slices, with as few writes as may be (`reconcileByPortMapping`): endpoints stay in their slice, new
//! ones fill slices that are written anyway, then others that have room.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use sluice_cluster::api::Resource;

use super::Frame;
use super::endpoint::Group;
use crate::action::Action;
use crate::fields::{list, text};

/// The most endpoints in one slice (`--max-endpoints-per-slice`).
const PER_SLICE: usize = 100;

pub(super) fn pack(frame: &Frame<'_>, groups: Vec<Group>, slices: &[&Value]) -> Vec<Action> {
    let mut rest: Vec<&Value> = slices.to_vec();
    let mut result = Packed::default();
    let mut groups = groups;
    if groups.is_empty() {
        // A Service without endpoints has one empty slice of each family.
        groups.push(Group { ports: json!([]), endpoints: Vec::new() });
    }
    for group in groups {
        let own: Vec<&Value> =
            rest.iter().copied().filter(|slice| same_ports(slice, &group.ports)).collect();
        rest.retain(|slice| !same_ports(slice, &group.ports));
        fill(frame, group, &own, &mut result);
    }
    result.surplus.extend(rest.into_iter().cloned());
    result.actions(frame)
}

fn same_ports(slice: &Value, ports: &Value) -> bool {
    list(&slice["ports"]) == list(ports)
}

/// What tells endpoints apart: the Pod, and its address.
fn identity(endpoint: &Value) -> (String, String) {
    (text(&endpoint["targetRef"]["uid"]).to_owned(), endpoint["addresses"].to_string())
}

#[derive(Default)]
struct Packed {
    updates: Vec<Value>,
    /// Ports and endpoints of new slices.
    new: Vec<(Value, Vec<Value>)>,
    surplus: Vec<Value>,
}

impl Packed {
    fn actions(mut self, frame: &Frame<'_>) -> Vec<Action> {
        // A slice that is not needed becomes a new one.
        while !self.new.is_empty()
            && let Some(slice) = self.surplus.pop()
        {
            let (ports, endpoints) = self.new.remove(0);
            self.updates.extend(frame.update(&slice, &ports, &endpoints));
        }
        let new = self.new.iter().map(|(ports, list)| Action::Create(frame.create(ports, list)));
        let updates = self.updates.into_iter().map(Action::Update);
        new.chain(updates).chain(self.surplus.iter().map(remove)).collect()
    }
}

pub(super) fn remove(slice: &Value) -> Action {
    Action::Delete { resource: Resource::EndpointSlices, object: slice.clone() }
}

fn fill(frame: &Frame<'_>, group: Group, slices: &[&Value], result: &mut Packed) {
    let Group { ports, endpoints } = group;
    let placeholder = endpoints.is_empty();
    let order: Vec<_> = endpoints.iter().map(identity).collect();
    let mut missing: BTreeMap<_, Value> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut contents: Vec<(&Value, Vec<Value>)> = Vec::new();
    for slice in slices {
        let kept = list(&slice["endpoints"]).iter();
        contents.push((slice, kept.filter_map(|old| missing.remove(&identity(old))).collect()));
    }
    let mut new: Vec<Value> = order.iter().filter_map(|key| missing.remove(key)).collect();
    // First those that are written anyway, then the fullest.
    contents.sort_by_key(|(slice, kept)| {
        (json!(kept) == slice["endpoints"], std::cmp::Reverse(kept.len()))
    });
    for (_, kept) in &mut contents {
        let room = PER_SLICE.saturating_sub(kept.len()).min(new.len());
        kept.extend(new.drain(..room));
    }
    let mut one = false;
    for (slice, kept) in contents {
        if kept.is_empty() && (one || !placeholder) {
            result.surplus.push(slice.clone());
            continue;
        }
        one = true;
        result.updates.extend(frame.update(slice, &ports, &kept));
    }
    for part in new.chunks(PER_SLICE) {
        result.new.push((ports.clone(), part.to_vec()));
    }
    if placeholder && !one {
        result.new.push((ports, Vec::new()));
    }
}
