//! FROM and TO as people write them.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;
use sluice_core::net::Protocol;

/// Names in Kubernetes are not longer.
const LONGEST: usize = 253;

/// What is asked: where would a new connection go?
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Question {
    /// `pod/NAME[.NAMESPACE]`, `node/NAME`, or an IP address, also with `@DEVICE`.
    pub from: String,
    /// `svc/NAME[.NAMESPACE][:PORT]`, a name or URL, `IP:PORT[/udp]`, or `node/NAME:PORT`.
    pub to: String,
}

impl Question {
    /// A question.
    pub fn new(from: impl Into<String>, to: impl Into<String>) -> Question {
        Question { from: from.into(), to: to.into() }
    }
}

/// FROM, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromText {
    /// A pod; the name may end in its namespace.
    Pod(String),
    /// A node, by itself.
    Node(String),
    /// An address, and the interface that it comes in by.
    Ip(IpAddr, Option<String>),
}

/// TO, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToText {
    /// The host.
    pub host: Host,
    /// Its port, if one is named.
    pub port: Option<PortText>,
    /// The protocol, if one is named.
    pub protocol: Option<Protocol>,
}

/// What TO names besides the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A Service object.
    Service {
        /// Its name.
        name: String,
        /// Its namespace, if one is named.
        namespace: Option<String>,
    },
    /// A name for DNS.
    Name(String),
    /// A node's address.
    Node(String),
}

/// A port as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortText {
    /// A number.
    Number(u16),
    /// The name of a Service port.
    Name(String),
}

/// Understands FROM.
///
/// # Errors
/// If it is none of what is allowed.
pub fn from(text: &str) -> Result<FromText, Refusal> {
    let wrong = |hint: &str| Refusal::From { text: shown(text), hint: hint.to_owned() };
    let text = text.trim();
    if let Some(name) = after(text, &["pod/", "pods/", "po/"]) {
        return named(name).map(|name| FromText::Pod(name.to_owned())).ok_or_else(|| wrong(""));
    }
    if let Some(name) = after(text, &["node/", "nodes/", "no/"]) {
        return named(name).map(|name| FromText::Node(name.to_owned())).ok_or_else(|| wrong(""));
    }
    let (address, device) = match text.split_once('@') {
        Some((address, device)) => (address, named(device).map(str::to_owned)),
        None => (text, None),
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(ip) => Ok(FromText::Ip(ip.to_canonical(), device)),
        Err(_) if named(text).is_some() => Err(wrong(&format!("; do you mean pod/{text}?"))),
        Err(_) => Err(wrong("")),
    }
}

/// Understands TO.
///
/// # Errors
/// If it is none of what is allowed.
pub fn to(text: &str) -> Result<ToText, Refusal> {
    let wrong = |reason: &str| Refusal::To { text: shown(text), reason: reason.to_owned() };
    let text = text.trim();
    let (rest, scheme_port) = match text.split_once("://") {
        Some((scheme, rest)) => {
            let port = match scheme.to_ascii_lowercase().as_str() {
                "http" | "ws" => Some(80),
                "https" | "wss" => Some(443),
                _ => None,
            };
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            (rest[..end].rsplit('@').next().unwrap_or_default(), port)
        }
        None => (text, None),
    };
    let is_url = text.contains("://");
    let (rest, protocol) = match rest.rsplit_once('/') {
        Some((before, last)) if !is_url && before.contains([':', '/']) => (
            before,
            Some(protocol(last).ok_or_else(|| {
                wrong(&format!("{} is no protocol; there are tcp, udp and sctp", shown(last)))
            })?),
        ),
        _ => (rest, None),
    };
    let (host, port) = split_port(rest).ok_or_else(|| wrong("its port is not 1 to 65535"))?;
    let port = port.or_else(|| scheme_port.map(PortText::Number));
    let host = host_of(host).ok_or_else(|| wrong("it names nothing"))?;
    if port.is_none() && matches!(host, Host::Ip(_) | Host::Node(_)) {
        return Err(wrong("an address needs a port"));
    }
    if let (Host::Ip(_) | Host::Node(_), Some(PortText::Name(name))) = (&host, &port) {
        return Err(wrong(&format!("{name} is no number, and only Services have named ports")));
    }
    Ok(ToText { host, port, protocol })
}

fn host_of(text: &str) -> Option<Host> {
    if let Some(name) = after(text, &["svc/", "service/", "services/"]) {
        let (name, namespace) = match named(name)?.split_once('.') {
            Some((name, namespace)) => (name, Some(named(namespace)?.to_owned())),
            None => (name, None),
        };
        return named(name).map(|name| Host::Service { name: name.to_owned(), namespace });
    }
    if let Some(name) = after(text, &["node/", "nodes/", "no/"]) {
        return named(name).map(|name| Host::Node(name.to_owned()));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(ip) => Some(Host::Ip(ip.to_canonical())),
        Err(_) => {
            named(text).map(|name| Host::Name(name.trim_end_matches('.').to_ascii_lowercase()))
        }
    }
}

/// The host, and what follows the last colon; an IPv6 address without brackets has no port.
fn split_port(text: &str) -> Option<(&str, Option<PortText>)> {
    if let Ok(at) = text.parse::<SocketAddr>() {
        let host = text.rsplit_once(':')?.0;
        return (at.port() != 0).then_some((host, Some(PortText::Number(at.port()))));
    }
    if text.parse::<IpAddr>().is_ok() || text.ends_with(']') {
        return Some((text, None));
    }
    let Some((host, port)) = text.rsplit_once(':') else { return Some((text, None)) };
    if port.bytes().all(|b| b.is_ascii_digit()) {
        let number = port.parse().ok().filter(|number| *number != 0)?;
        return Some((host, Some(PortText::Number(number))));
    }
    named(port).map(|name| (host, Some(PortText::Name(name.to_owned()))))
}

fn protocol(text: &str) -> Option<Protocol> {
    Protocol::from_api(Some(&text.to_ascii_uppercase())).filter(|_| !text.is_empty())
}

fn after<'a>(text: &'a str, prefixes: &[&str]) -> Option<&'a str> {
    prefixes.iter().find_map(|prefix| text.strip_prefix(prefix))
}

/// A text that can be a name.
fn named(text: &str) -> Option<&str> {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (!text.is_empty() && text.len() <= LONGEST && text.chars().all(letter)).then_some(text)
}

/// A text for a message: cut, without control characters.
fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_written_as_people_write_them() {
        let ip = |text: &str| FromText::Ip(text.parse().expect("an address"), None);
        let table = [
            ("pod/shell", FromText::Pod("shell".into())),
            ("pod/shell.shop", FromText::Pod("shell.shop".into())),
            ("node/node-a", FromText::Node("node-a".into())),
            ("10.0.0.1", ip("10.0.0.1")),
            ("[fd00::1]", ip("fd00::1")),
            ("10.0.0.1@eth0", FromText::Ip([10, 0, 0, 1].into(), Some("eth0".into()))),
        ];
        for (text, expected) in table {
            assert_eq!(from(text), Ok(expected), "{text}");
        }
        let error = from("shell").expect_err("it is no FROM").to_string();
        assert!(error.contains("do you mean pod/shell?"), "{error}");
        for wrong in ["", "pod/", "pod/a b", "10.0.0", "\u{1b}[31mred", &"x".repeat(300)] {
            let error = from(wrong).expect_err(wrong);
            assert_eq!(error.exit_code(), 2);
            assert!(!error.to_string().contains(char::is_control), "{error}");
            assert!(error.to_string().len() < 400, "{error}");
        }
    }

    #[test]
    fn targets_are_written_as_people_write_them() {
        let service = |name: &str, namespace: Option<&str>| Host::Service {
            name: name.into(),
            namespace: namespace.map(Into::into),
        };
        let number = |port| Some(PortText::Number(port));
        let name = |host: &str| Host::Name(host.into());
        let ip = |text: &str| Host::Ip(text.parse().expect("an address"));
        let udp = Some(Protocol::Udp);
        let table = [
            ("svc/web", service("web", None), None, None),
            ("svc/web.shop:80", service("web", Some("shop")), number(80), None),
            ("svc/web:http", service("web", None), Some(PortText::Name("http".into())), None),
            ("svc/dns.kube-system:53/udp", service("dns", Some("kube-system")), number(53), udp),
            ("web", name("web"), None, None),
            (
                "WEB.shop.svc.cluster.local.:80",
                name("web.shop.svc.cluster.local"),
                number(80),
                None,
            ),
            ("http://web", name("web"), number(80), None),
            ("https://me@web.shop/path?x=1:2", name("web.shop"), number(443), None),
            ("http://web:8080/x", name("web"), number(8080), None),
            ("10.96.0.80:80", ip("10.96.0.80"), number(80), None),
            ("10.96.0.10:53/udp", ip("10.96.0.10"), number(53), udp),
            ("[fd00::80]:80/tcp", ip("fd00::80"), number(80), Some(Protocol::Tcp)),
            ("http://[fd00::80]:81/", ip("fd00::80"), number(81), None),
            ("node/node-b:30080", Host::Node("node-b".into()), number(30080), None),
        ];
        for (text, host, port, protocol) in table {
            assert_eq!(to(text), Ok(ToText { host, port, protocol }), "{text}");
        }
        for wrong in [
            "",
            "svc/",
            "10.96.0.80",
            "web:0",
            "web:70000",
            "web:80/quic",
            "10.0.0.1:http",
            "a b",
            "svc/web\u{7}:80",
            "node/a",
        ] {
            let error = to(wrong).expect_err(wrong);
            assert_eq!(error.exit_code(), 2);
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
    }
}
