//! From the bodies that Go clients send: `kubectl create service` and `kubectl create namespace` do, and so does
//! any client-go program that records Events. An object becomes the same JSON that the client would have
//! sent otherwise: Go leaves out empty values.

use serde_json::{Map, Value, json};

use super::MAGIC;
use super::tables::Count::{Many, One};
use super::tables::Kind::{
    Flag, JsonText, Message, Number, NumberOrText, OptionalFlag, OptionalMessage, OptionalNumber,
    OptionalText, OptionalTime, Text, TextMap, Time,
};
use super::tables::{
    DELETE_OPTIONS, EVENT, Field, Kind, NAMESPACE, NEW_EVENT, RAW, SERVICE, UNKNOWN,
};

/// The object in a body; nothing if it is malformed or of a kind that has no table here.
pub(in crate::api) fn decode(body: &[u8]) -> Option<Value> {
    let envelope = body.strip_prefix(MAGIC)?;
    let head = message(envelope, UNKNOWN)?;
    let about = &head["type"];
    let table = match (about["apiVersion"].as_str()?, about["kind"].as_str()?) {
        ("v1", "Namespace") => NAMESPACE,
        ("v1", "Service") => SERVICE,
        ("v1", "Event") => EVENT,
        ("events.k8s.io/v1", "Event") => NEW_EVENT,
        (_, "DeleteOptions") => DELETE_OPTIONS,
        _ => return None,
    };
    let raw = parts(envelope)?.into_iter().find(|(number, _)| *number == RAW);
    let raw = match raw {
        Some((_, Part::Bytes(raw))) => raw,
        _ => &[],
    };
    let mut object = message(raw, table)?;
    object["apiVersion"] = about["apiVersion"].clone();
    object["kind"] = about["kind"].clone();
    Some(object)
}

/// What is on the wire for a field.
#[derive(Clone, Copy)]
enum Part<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message as they are on the wire.
fn parts(mut bytes: &[u8]) -> Option<Vec<(u64, Part<'_>)>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let part = match tag & 7 {
            0 => Part::Number(varint(&mut bytes)?),
            1 => {
                bytes = bytes.get(8..)?;
                continue;
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (content, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Part::Bytes(content)
            }
            5 => {
                bytes = bytes.get(4..)?;
                continue;
            }
            _ => return None,
        };
        parts.push((tag >> 3, part));
    }
    Some(parts)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn message(bytes: &[u8], table: &[Field]) -> Option<Value> {
    let mut fields = Map::new();
    for (number, part) in parts(bytes)? {
        let Some((_, name, kind, count)) = table.iter().find(|f| f.0 == number) else { continue };
        if matches!(kind, TextMap) {
            let Part::Bytes(entry) = part else { return None };
            let entry = message(entry, &[(1, "key", Text, One), (2, "value", Text, One)])?;
            let key = entry["key"].as_str().unwrap_or_default();
            let map = fields.entry(*name).or_insert_with(|| json!({}));
            map[key] = json!(entry["value"].as_str().unwrap_or_default());
            continue;
        }
        let value = content(part, *kind)?;
        match count {
            Many => {
                let list = fields.entry(*name).or_insert_with(|| json!([]));
                list.as_array_mut()?.push(value);
            }
            One if is_empty(&value, *kind) => {}
            One => {
                fields.insert((*name).to_owned(), value);
            }
        }
    }
    Some(Value::Object(fields))
}

/// What Go's `omitempty` leaves out.
fn is_empty(value: &Value, kind: Kind) -> bool {
    let optional = matches!(kind, OptionalText | OptionalNumber | OptionalFlag);
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && !optional,
        Value::Number(number) => number.as_u64() == Some(0) && !optional,
        Value::Bool(flag) => !flag && !optional,
        Value::Object(_) | Value::Array(_) => false,
    }
}

fn content(part: Part<'_>, kind: Kind) -> Option<Value> {
    Some(match (kind, part) {
        (Text | OptionalText, Part::Bytes(text)) => json!(std::str::from_utf8(text).ok()?),
        // Negative numbers are written as their two's complement in 64 bits.
        (Number | OptionalNumber, Part::Number(number)) => json!(number.cast_signed()),
        (Flag | OptionalFlag, Part::Number(flag)) => json!(flag != 0),
        (Message(table) | OptionalMessage(table), Part::Bytes(bytes)) => message(bytes, table)?,
        (NumberOrText, Part::Bytes(bytes)) => {
            let fields: &[Field] =
                &[(1, "type", Number, One), (2, "number", Number, One), (3, "text", Text, One)];
            let mut value = message(bytes, fields)?;
            let held = if value["type"] == 1 { "text" } else { "number" };
            value[held].take()
        }
        (Time | OptionalTime, Part::Bytes(bytes)) => time(bytes)?,
        (JsonText, Part::Bytes(bytes)) => {
            let value = message(bytes, &[(1, "json", Text, One)])?;
            serde_json::from_str(value["json"].as_str()?).ok()?
        }
        _ => return None,
    })
}

fn time(bytes: &[u8]) -> Option<Value> {
    let fields: &[Field] = &[(1, "seconds", Number, One), (2, "nanos", Number, One)];
    let value = message(bytes, fields)?;
    let Some(seconds) = value["seconds"].as_i64() else { return Some(Value::Null) };
    let nanos = i32::try_from(value["nanos"].as_i64().unwrap_or_default()).ok()?;
    let Ok(time) = jiff::Timestamp::new(seconds, nanos) else { return Some(Value::Null) };
    let form = if nanos == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
    Some(json!(time.strftime(form).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).expect("a short test message");
        [&[number << 3 | 2, length], content].concat()
    }

    #[test]
    fn a_service_is_decoded_into_the_json_that_go_would_write() {
        let target = [&[0x08, 0x01][..], &field(3, b"http")].concat();
        let port = [&field(2, b"TCP")[..], &[0x18, 80], &field(4, &target), &[0x28, 0]].concat();
        let label = [field(1, b"app"), field(2, b"web")].concat();
        let spec = [field(1, &port), field(2, &label), field(3, b""), vec![0xa0, 1, 0]].concat();
        let object = [field(1, &field(1, b"web")), field(2, &spec)].concat();
        let head = [field(1, b"v1"), field(2, b"Service")].concat();
        let body = [MAGIC.to_vec(), field(1, &head), field(2, &object), field(3, b"")].concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http"}],
                "selector": {"app": "web"},
                "allocateLoadBalancerNodePorts": false,
            },
        });
        assert_eq!(decode(&body), Some(expected));
        for end in 0..body.len() {
            decode(&body[..end]); // Truncated bodies are refused or shorter, never a panic.
        }
    }
}
