//! `/flagz` and `/statusz` (KEP-4828, KEP-4827), as text, JSON and YAML.

use std::fmt::Write as _;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WARNING};
use http::{Response, StatusCode};
use jiff::Timestamp;

use super::AdminState;
use super::negotiate::{Form, Syntax, Version, form};
use crate::http::server::{Answer, TEXT, bare};
use sluice_config::KUBERNETES;

const NAME: &str = "kube-proxy";

/// What the text form begins with.
const CAUTION: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting \
                       compatibility guarantees and is for debugging purposes only.\n";

/// The paths that `/statusz` lists, as upstream.
const PATHS: [&str; 5] = ["/configz", "/flagz", "/healthz", "/metrics", "/proxyMode"];

/// What stands where Go's version does.
const LANGUAGE: &str = "none (Rust)";

/// A page as values: keys with texts, numbers, lists or further keys.
enum Value<'a> {
    Text(&'a str),
    Number(i64),
    List(&'a [&'a str]),
    Keys(Vec<(&'a str, Value<'a>)>),
}

/// All flags.
pub(super) fn flagz(state: &AdminState, headers: &HeaderMap) -> Answer {
    let flags = state.flags.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    match form(headers, "Flagz") {
        Form::Text => {
            let mut body = format!("\n{NAME} flagz\n{CAUTION}");
            flags.for_each(|(name, value)| {
                let _ = writeln!(body, "{name}={value}");
            });
            bare(StatusCode::OK, TEXT, body)
        }
        Form::Structured(syntax, version) => {
            let flags = flags.map(|(name, value)| (name, Value::Text(value))).collect();
            structured("Flagz", syntax, version, vec![("flags", Value::Keys(flags))])
        }
        Form::Refused(syntax) => refused(syntax),
    }
}

/// Which program this is, and since when it runs.
pub(super) fn statusz(state: &AdminState, headers: &HeaderMap) -> Answer {
    let started = state.started;
    let (major, minor, patch) = KUBERNETES;
    let emulated = format!("{major}.{minor}");
    let binary = format!("{emulated}.{patch}");
    let up = Timestamp::now().duration_since(started).as_secs().max(0);
    match form(headers, "Statusz") {
        Form::Text => {
            let since = started.strftime("%a %b %e %H:%M:%S UTC %Y");
            let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
            let body = format!(
                "\n{NAME} statusz\n{CAUTION}\nStarted  {since}\n\
                 Up  {hours} hr {minutes:02} min {seconds:02} sec\nGo version  {LANGUAGE}\n\
                 Binary version  {binary}\nEmulation version  {emulated}\n\
                 Paths  {}\n",
                PATHS.join(" ")
            );
            bare(StatusCode::OK, TEXT, body)
        }
        Form::Structured(syntax, version) => {
            let since = started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let values = vec![
                ("startTime", Value::Text(&since)),
                ("uptimeSeconds", Value::Number(up)),
                ("goVersion", Value::Text(LANGUAGE)),
                ("binaryVersion", Value::Text(&binary)),
                ("emulationVersion", Value::Text(&emulated)),
                ("paths", Value::List(&PATHS)),
            ];
            structured("Statusz", syntax, version, values)
        }
        Form::Refused(syntax) => refused(syntax),
    }
}

fn structured(
    kind: &str,
    syntax: Syntax,
    version: Version,
    values: Vec<(&str, Value<'_>)>,
) -> Answer {
    let api_version = format!("config.k8s.io/{}", version.as_str());
    let mut all = vec![
        ("kind", Value::Text(kind)),
        ("apiVersion", Value::Text(&api_version)),
        ("metadata", Value::Keys(vec![("name", Value::Text(NAME))])),
    ];
    all.extend(values);
    let (media, body) = written(syntax, &mut all);
    let content_type = format!("{media};g=config.k8s.io;v={};as={kind}", version.as_str());
    let mut answer = Response::new(body.into());
    let headers = answer.headers_mut();
    headers.extend(HeaderValue::from_str(&content_type).ok().map(|value| (CONTENT_TYPE, value)));
    if version == Version::Alpha {
        let endpoint = kind.to_lowercase();
        let warning = format!(
            "299 - \"This version of the {endpoint} endpoint is deprecated. Please use a newer version.\""
        );
        headers.extend(HeaderValue::from_str(&warning).ok().map(|value| (WARNING, value)));
    }
    answer
}

fn refused(syntax: Syntax) -> Answer {
    let mut status = vec![
        ("kind", Value::Text("Status")),
        ("apiVersion", Value::Text("v1")),
        ("metadata", Value::Keys(Vec::new())),
        ("status", Value::Text("Failure")),
        (
            "message",
            Value::Text(
                "only the following media types are accepted: application/json, application/yaml, \
                 text/plain",
            ),
        ),
        ("reason", Value::Text("NotAcceptable")),
        ("code", Value::Number(406)),
    ];
    let (media, body) = written(syntax, &mut status);
    bare(StatusCode::NOT_ACCEPTABLE, media, body)
}

/// The values as text, and their media type.
fn written(syntax: Syntax, values: &mut [(&str, Value<'_>)]) -> (&'static str, String) {
    let mut body = String::new();
    match syntax {
        Syntax::Json => {
            json(&mut body, values, 0);
            ("application/json", body)
        }
        Syntax::Yaml => {
            // Upstream makes YAML from a map, which has its keys in order.
            values.sort_by_key(|(key, _)| *key);
            yaml(&mut body, values, 0);
            ("application/yaml", body)
        }
    }
}

/// JSON as Go's encoder indents it.
fn json(out: &mut String, values: &[(&str, Value<'_>)], depth: usize) {
    if values.is_empty() {
        out.push_str("{}");
        return;
    }
    let indent = "  ".repeat(depth + 1);
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    out.push_str("{\n");
    for (index, (key, value)) in values.iter().enumerate() {
        let _ = write!(out, "{indent}{}: ", quoted(key));
        match value {
            Value::Text(text) => out.push_str(&quoted(text)),
            Value::Number(number) => out.push_str(&number.to_string()),
            Value::List(list) => {
                let lines: Vec<String> =
                    list.iter().map(|text| format!("{indent}  {}", quoted(text))).collect();
                let _ = write!(out, "[\n{}\n{indent}]", lines.join(",\n"));
            }
            Value::Keys(keys) => json(out, keys, depth + 1),
        }
        out.push_str(if index + 1 < values.len() { ",\n" } else { "\n" });
    }
    let _ = write!(out, "{}}}", "  ".repeat(depth));
}

/// YAML in which every text that could be read as something else is quoted.
fn yaml(out: &mut String, values: &[(&str, Value<'_>)], depth: usize) {
    let indent = "  ".repeat(depth);
    for (key, value) in values {
        let _ = match value {
            Value::Text(text) => writeln!(out, "{indent}{key}: {}", scalar(text)),
            Value::Number(number) => writeln!(out, "{indent}{key}: {number}"),
            Value::List(list) => {
                let lines: String = list.iter().map(|text| format!("{indent}- {text}\n")).collect();
                write!(out, "{indent}{key}:\n{lines}")
            }
            Value::Keys(keys) if keys.is_empty() => writeln!(out, "{indent}{key}: {{}}"),
            Value::Keys(keys) => {
                let _ = writeln!(out, "{indent}{key}:");
                yaml(out, keys, depth + 1);
                Ok(())
            }
        };
    }
}

/// A text as Go's YAML library writes it: in double quotes what would be read as something else, in
/// single ones what holds signs of the language.
fn scalar(text: &str) -> String {
    let other = matches!(text, "" | "true" | "false" | "null" | "~" | "yes" | "no" | "on" | "off")
        || text.parse::<f64>().is_ok()
        || ["0x", "0o", "0b"].iter().any(|prefix| text.starts_with(prefix));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_/.,:".contains(c);
    if other || text.contains(char::is_control) {
        // JSON's quoting is YAML's.
        serde_json::Value::from(text).to_string()
    } else if text.chars().all(plain) && text.starts_with(|c: char| !"-:,".contains(c)) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_where_they_would_be_read_as_something_else() {
        let table = [
            ("0.0.0.0:10256", "0.0.0.0:10256"),
            ("15m0s", "15m0s"),
            (
                "/etc/machine-id,/var/lib/dbus/machine-id",
                "/etc/machine-id,/var/lib/dbus/machine-id",
            ),
            ("10", "\"10\""),
            ("-999", "\"-999\""),
            ("1.36", "\"1.36\""),
            ("1.36.2", "1.36.2"),
            ("false", "\"false\""),
            ("", "\"\""),
            ("[]", "'[]'"),
            ("it's {x}", "'it''s {x}'"),
        ];
        for (text, expected) in table {
            assert_eq!(scalar(text), expected);
        }
    }
}
