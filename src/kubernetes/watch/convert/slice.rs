//! EndpointSlices: `pkg/proxy/endpointslicecache.go` upstream.

use std::sync::Arc;

use super::{Converted, Interner, Notes, undecodable};
use crate::watch::lenient::{Lenient, Text};
use crate::watch::object::Object;
use crate::watch::wire::{self, Time};
use sluice_core::model::{
    Condition, Endpoint, EndpointPort, EndpointSlice, Endpoints, Hints, ServiceName, SliceName,
};
use sluice_core::net::{Family, Protocol};

/// Converts an EndpointSlice as the node `node_name` sees it. Slices of host names, of headless
/// Services and of no Service have no value.
pub(in crate::watch) fn slice(
    object: Object<'_>,
    node_name: &str,
    names: &mut Interner,
) -> Converted<SliceName, EndpointSlice> {
    let object: wire::EndpointSlice<'_> = match object.decode() {
        Ok(object) => object,
        Err(error) => return undecodable("EndpointSlice", &error),
    };
    let mut notes = match Notes::of("EndpointSlice", &object.metadata) {
        Ok(notes) => notes,
        Err(nameless) => return nameless,
    };
    let name = SliceName::new(notes.namespace, notes.name);
    let (Some(service), Some(family)) =
        (service_of(&mut notes), family(object.address_type, &mut notes))
    else {
        return notes.done(Some(name), None);
    };
    let value = EndpointSlice {
        name: name.clone(),
        service,
        family,
        ports: ports(object.ports, &mut notes, names),
        endpoints: endpoints(object.endpoints, family, node_name, &mut notes, names),
        trigger_time: trigger_time(&mut notes),
    };
    notes.done(Some(name), Some(value))
}

fn service_of(notes: &mut Notes<'_>) -> Option<ServiceName> {
    let field = format_args!("metadata.labels[kubernetes.io/service-name]");
    if let Lenient::Is(labels) = &notes.meta.labels {
        if labels.headless != Lenient::Absent {
            return None;
        }
        let service = notes.take(field, labels.service_name.clone());
        if let Some(service) = service.filter(|service| !service.0.is_empty()) {
            return Some(ServiceName::new(notes.namespace, &service.0));
        }
    }
    notes.warn(field, "names no Service; the slice is ignored");
    None
}

fn family(value: Lenient<Text<'_>>, notes: &mut Notes<'_>) -> Option<Family> {
    let field = format_args!("addressType");
    let text = notes.take(field, value).unwrap_or_default();
    match &*text.0 {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        // Allowed by the API, and never for a proxy.
        "FQDN" => None,
        other => {
            notes.warn(field, format!("{other:?} is no known type; the slice is ignored"));
            None
        }
    }
}

fn trigger_time(notes: &mut Notes<'_>) -> Option<i64> {
    let Lenient::Is(annotations) = &notes.meta.annotations else { return None };
    let field =
        format_args!("metadata.annotations[endpoints.kubernetes.io/last-change-trigger-time]");
    let time = notes.take_time(field, annotations.trigger_time.clone().map(Time::Text));
    time.map(jiff::Timestamp::as_millisecond)
}

fn ports(
    value: Lenient<Vec<Lenient<wire::EndpointPort<'_>>>>,
    notes: &mut Notes<'_>,
    names: &mut Interner,
) -> Arc<[EndpointPort]> {
    let entries = notes.take(format_args!("ports"), value).unwrap_or_default();
    let mut ports = Vec::with_capacity(entries.len());
    for (i, entry) in entries.into_iter().enumerate() {
        let Some(entry) = notes.take_entry(format_args!("ports[{i}]"), entry) else { continue };
        let name = notes.take(format_args!("ports[{i}].name"), entry.name).unwrap_or_default();
        let protocol = notes.take(format_args!("ports[{i}].protocol"), entry.protocol);
        let protocol_name = protocol.as_ref().map(|text| &*text.0);
        let Some(protocol) = Protocol::from_api(protocol_name) else {
            let unknown = protocol_name.unwrap_or_default();
            let problem = format!("{unknown:?} is no known protocol; the port is ignored");
            notes.warn(format_args!("ports[{i}].protocol"), problem);
            continue;
        };
        // Null means "all ports" in the API, which no Service port can ask for: upstream skips it.
        let Some(port) = notes.take_port(format_args!("ports[{i}].port"), entry.port) else {
            continue;
        };
        let port = EndpointPort { name: names.name(&name.0), protocol, port };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    names.ports(ports)
}

fn endpoints(
    value: Lenient<Vec<Lenient<wire::Endpoint<'_>>>>,
    family: Family,
    node_name: &str,
    notes: &mut Notes<'_>,
    names: &mut Interner,
) -> Endpoints {
    let entries = notes.take(format_args!("endpoints"), value).unwrap_or_default();
    let usable = entries.into_iter().enumerate().filter_map(|(i, entry)| {
        let entry = notes.take_entry(format_args!("endpoints[{i}]"), entry)?;
        endpoint(i, entry, family, node_name, notes, names)
    });
    usable.collect()
}

fn endpoint(
    i: usize,
    entry: wire::Endpoint<'_>,
    family: Family,
    node_name: &str,
    notes: &mut Notes<'_>,
    names: &mut Interner,
) -> Option<Endpoint> {
    let field = format_args!("endpoints[{i}].addresses");
    let first = notes.take(field, entry.addresses).and_then(|addresses| addresses.0);
    let Some(text) =
        notes.take(format_args!("endpoints[{i}].addresses[0]"), first.unwrap_or_default())
    else {
        notes.warn(field, "has no address; the endpoint is ignored");
        return None;
    };
    let address = notes.usable_ip(format_args!("endpoints[{i}].addresses[0]"), &text.0)?;
    if Family::of(address) != family {
        let problem = format!("{} is not an {family} address; the endpoint is ignored", text.0);
        notes.warn(format_args!("endpoints[{i}].addresses[0]"), problem);
        return None;
    }
    let conditions =
        notes.take(format_args!("endpoints[{i}].conditions"), entry.conditions).unwrap_or_default();
    let mut condition = |name: &str, value: Lenient<bool>| {
        notes.take(format_args!("endpoints[{i}].conditions.{name}"), value)
    };
    let condition = Condition::new(
        condition("ready", conditions.ready),
        condition("serving", conditions.serving),
        condition("terminating", conditions.terminating),
    );
    let node = notes.take(format_args!("endpoints[{i}].nodeName"), entry.node_name);
    let local = !node_name.is_empty() && node.is_some_and(|node| node.0 == node_name);
    let hints = hints(i, entry.hints, notes, names);
    Some(Endpoint { address, condition, local, hints })
}

fn hints(
    i: usize,
    value: Lenient<wire::Hints<'_>>,
    notes: &mut Notes<'_>,
    names: &mut Interner,
) -> Option<Arc<Hints>> {
    let hints = notes.take(format_args!("endpoints[{i}].hints"), value)?;
    let mut list = |field: &str, value: Lenient<Vec<Lenient<wire::Named<'_>>>>| -> Vec<Arc<str>> {
        let field = format_args!("endpoints[{i}].hints.{field}");
        let entries = notes.take(field, value).unwrap_or_default();
        let named = entries.into_iter().filter_map(|entry| {
            let entry = notes.take_entry(field, entry)?;
            let name = notes.take_entry(field, entry.name)?;
            Some(names.name(&name.0))
        });
        named.collect()
    };
    let hints = Hints {
        zones: list("forZones", hints.for_zones),
        nodes: list("forNodes", hints.for_nodes),
    };
    (hints != Hints::default()).then(|| names.hints(hints))
}
