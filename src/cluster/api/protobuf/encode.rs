//! What this server answers, byte for byte as Go writes it. A value of a wrong type, which only
//! [`write_unchecked`](crate::api::ApiServer::write_unchecked) can store, is written under its field's number in the
//! form that it has.

use serde_json::Value;

use super::MAGIC;
use super::tables::Count::Many;
use super::tables::{
    ENDPOINT_SLICE, Field, Kind, LIST_METADATA, NODE, RAW, SERVICE, SERVICE_CIDR, STATUS,
};
use crate::api::Resource;

/// The table of a resource, if its objects are written here.
fn table(resource: Resource) -> Option<&'static [Field]> {
    Some(match resource {
        Resource::Services => SERVICE,
        Resource::EndpointSlices => ENDPOINT_SLICE,
        Resource::Nodes => NODE,
        Resource::ServiceCidrs => SERVICE_CIDR,
        Resource::Namespaces
        | Resource::Pods
        | Resource::Deployments
        | Resource::ReplicaSets
        | Resource::Events
        | Resource::NewEvents => return None,
    })
}

/// Whether objects of a resource can be answered in protobuf.
pub fn has(resource: Resource) -> bool {
    table(resource).is_some()
}

/// An object's message, without its envelope; empty for a resource without a table.
pub fn message(resource: Resource, object: &Value) -> Vec<u8> {
    table(resource).map(|table| fields(object, table)).unwrap_or_default()
}

/// What a body and the object of an event are: the magic, and a `runtime.Unknown`.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let about = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    // Empty contentEncoding and contentType.
    [MAGIC, &bytes(1, &about), &bytes(RAW, message), &bytes(3, b""), &bytes(4, b"")].concat()
}

/// The body of a list of these messages.
pub fn list<'a>(
    resource: Resource,
    metadata: &Value,
    messages: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut list = bytes(1, &fields(metadata, LIST_METADATA));
    for message in messages {
        put_bytes(&mut list, 2, message);
    }
    envelope(&resource.api_version(), &format!("{}List", resource.info().kind), &list)
}

/// The message of a `Status`, as answers to refused requests have it.
pub fn status(status: &Value) -> Vec<u8> {
    envelope("v1", "Status", &fields(status, STATUS))
}

/// An event of a watch: its length, and a `metav1.WatchEvent`.
pub fn frame(kind: &str, envelope: &[u8]) -> Vec<u8> {
    let event = [bytes(1, kind.as_bytes()), bytes(2, &bytes(1, envelope))].concat();
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[..], &event].concat()
}

fn fields(object: &Value, table: &[Field]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, name, kind, count) in table {
        let value = &object[*name];
        match value {
            Value::Array(entries) if *count == Many => {
                for entry in entries {
                    put(&mut message, *number, *kind, entry);
                }
            }
            Value::Null if *count == Many => {}
            value => put(&mut message, *number, *kind, value),
        }
    }
    message
}

fn put(message: &mut Vec<u8>, number: u64, kind: Kind, value: &Value) {
    match (kind, value) {
        (Kind::Text, Value::Null) => put_bytes(message, number, b""),
        (Kind::Number | Kind::Flag, Value::Null) => put_number(message, number, 0),
        (Kind::Message(table), Value::Null) => {
            put_bytes(message, number, &fields(&Value::Null, table));
        }
        (Kind::Message(table) | Kind::OptionalMessage(table), Value::Object(_)) => {
            put_bytes(message, number, &fields(value, table));
        }
        (Kind::Time, Value::Null) => put_bytes(message, number, b""),
        (Kind::Time | Kind::OptionalTime, Value::String(text)) => {
            put_bytes(message, number, &time(text));
        }
        (Kind::NumberOrText, _) => put_bytes(message, number, &number_or_text(value)),
        (Kind::TextMap | Kind::QuantityMap, Value::Object(entries)) => {
            for (key, value) in entries {
                put_bytes(message, number, &entry(kind, key, value));
            }
        }
        (Kind::JsonText, Value::Object(_)) => {
            put_bytes(message, number, &bytes(1, value.to_string().as_bytes()));
        }
        (_, Value::Null) => {}
        (_, Value::Bool(flag)) => put_number(message, number, u64::from(*flag)),
        (_, Value::Number(value)) => {
            let value = value.as_i64().map_or_else(|| value.as_u64(), |v| Some(v.cast_unsigned()));
            put_number(message, number, value.unwrap_or_default());
        }
        (_, Value::String(text)) => put_bytes(message, number, text.as_bytes()),
        (_, Value::Array(_) | Value::Object(_)) => {
            // No text, and no message either.
            put_bytes(message, number, b"\xff");
        }
    }
}

fn entry(kind: Kind, key: &str, value: &Value) -> Vec<u8> {
    let mut entry = bytes(1, key.as_bytes());
    match (kind, value) {
        (Kind::QuantityMap, Value::String(text)) => {
            put_bytes(&mut entry, 2, &bytes(1, text.as_bytes()));
        }
        _ => put(&mut entry, 2, Kind::Text, value),
    }
    entry
}

/// An `intstr.IntOrString`: its type, and both values.
fn number_or_text(value: &Value) -> Vec<u8> {
    let mut message = Vec::new();
    put_number(&mut message, 1, u64::from(value.is_string()));
    put_number(&mut message, 2, value.as_i64().unwrap_or_default().cast_unsigned());
    put_bytes(&mut message, 3, value.as_str().unwrap_or_default().as_bytes());
    message
}

/// Seconds since 1970. Fractions are not written, as JSON does not have them; `MicroTime` is of Events alone.
fn time(text: &str) -> Vec<u8> {
    let Ok(time) = text.parse::<jiff::Timestamp>() else { return text.as_bytes().to_vec() };
    let mut message = Vec::new();
    put_number(&mut message, 1, time.as_second().cast_unsigned());
    put_number(&mut message, 2, 0);
    message
}

fn bytes(number: u64, content: &[u8]) -> Vec<u8> {
    let mut field = Vec::with_capacity(content.len() + 8);
    put_bytes(&mut field, number, content);
    field
}

fn put_bytes(message: &mut Vec<u8>, number: u64, content: &[u8]) {
    put_varint(message, number << 3 | 2);
    put_varint(message, content.len() as u64);
    message.extend_from_slice(content);
}

fn put_number(message: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(message, number << 3);
    put_varint(message, value);
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.push((value & 0x7f) as u8);
}
