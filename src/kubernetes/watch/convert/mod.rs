//! From API objects to the model.
//!
//! Every function takes one object, in either encoding, and never fails: invalid fields become a [`Warning`],
//! and the rest of the object is used.

mod node;
mod service;
mod slice;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashSet;

pub(super) use node::{node, service_cidr};
pub(super) use service::service;
pub(super) use slice::slice;

use super::lenient::Lenient;
use super::wire::{self, Time};
use sluice_core::model::{EndpointPort, Hints, Warning};
use sluice_core::net::{parse_cidr, parse_ip};

/// The result for one object.
#[derive(Debug, PartialEq)]
pub(super) struct Converted<K, T> {
    /// The object's name, unless it has none that can be read.
    pub(super) key: Option<K>,
    /// The object, unless it is not one for this proxy.
    pub(super) value: Option<T>,
    /// What was wrong with it.
    pub(super) warnings: Vec<Warning>,
}

/// Warnings of one object are cut off here: a slice may have a thousand endpoints.
const WARNINGS_PER_OBJECT: usize = 10;

/// Collects the warnings of one object.
struct Notes<'a> {
    kind: &'static str,
    meta: &'a wire::Meta<'a>,
    namespace: &'a str,
    name: &'a str,
    warnings: Vec<Warning>,
    untold: usize,
}

impl<'a> Notes<'a> {
    /// Notes on the object with this metadata. Without a name nothing can be done with it.
    fn of<K, T>(
        kind: &'static str,
        meta: &'a Lenient<wire::Meta<'a>>,
    ) -> Result<Notes<'a>, Converted<K, T>> {
        let nameless = |field: &str| {
            let object = object_name(kind, "", "");
            let problem = "is missing or of a wrong type; the object is ignored".to_owned();
            let warning = Warning { object, field: field.to_owned(), problem };
            Err(Converted { key: None, value: None, warnings: vec![warning] })
        };
        let Lenient::Is(meta) = meta else { return nameless("metadata") };
        let name = match &meta.name {
            Lenient::Is(name) if !name.0.is_empty() => &*name.0,
            Lenient::Is(_) | Lenient::Absent | Lenient::Wrong(_) => {
                return nameless("metadata.name");
            }
        };
        let namespace = match &meta.namespace {
            Lenient::Is(namespace) => &*namespace.0,
            Lenient::Absent | Lenient::Wrong(_) => "",
        };
        Ok(Notes { kind, meta, namespace, name, warnings: Vec::new(), untold: 0 })
    }

    fn warn(&mut self, field: fmt::Arguments<'_>, problem: impl Into<String>) {
        if self.warnings.len() == WARNINGS_PER_OBJECT {
            self.untold += 1;
            return;
        }
        let object = object_name(self.kind, self.namespace, self.name);
        self.warnings.push(Warning { object, field: field.to_string(), problem: problem.into() });
    }

    /// The field's value; a value of a wrong type is treated as absent.
    fn take<T>(&mut self, field: fmt::Arguments<'_>, value: Lenient<T>) -> Option<T> {
        match value {
            Lenient::Is(value) => Some(value),
            Lenient::Absent => None,
            Lenient::Wrong(found) => {
                self.warn(
                    field,
                    format!("is {found}, which the API does not allow; it is ignored"),
                );
                None
            }
        }
    }

    /// An entry of a list, which cannot be null.
    fn take_entry<T>(&mut self, field: fmt::Arguments<'_>, value: Lenient<T>) -> Option<T> {
        if matches!(value, Lenient::Absent) {
            self.warn(field, "is null; it is ignored");
        }
        self.take(field, value)
    }

    /// A port number; absent and 0 both mean "none".
    fn take_port(&mut self, field: fmt::Arguments<'_>, value: Lenient<i64>) -> Option<u16> {
        let number = self.take(field, value).filter(|number| *number != 0)?;
        let port = u16::try_from(number).ok();
        if port.is_none() {
            self.warn(field, format!("{number} is not a port (1 to 65535); it is ignored"));
        }
        port
    }

    /// The usable addresses of a list, each once.
    fn take_ips(&mut self, field: &str, list: wire::Texts<'_>) -> Vec<IpAddr> {
        let texts = self.take(format_args!("{field}"), list).unwrap_or_default();
        let mut ips = Vec::with_capacity(texts.len());
        for (i, text) in texts.into_iter().enumerate() {
            let field = format_args!("{field}[{i}]");
            let Some(text) = self.take_entry(field, text) else { continue };
            // Not validated by the API server for external IPs; upstream ignores them silently too.
            if text.0.trim().is_empty() {
                continue;
            }
            if let Some(ip) = self.usable_ip(field, &text.0)
                && !ips.contains(&ip)
            {
                ips.push(ip);
            }
        }
        ips
    }

    /// Parses an address that packets can be sent to.
    fn usable_ip(&mut self, field: fmt::Arguments<'_>, text: &str) -> Option<IpAddr> {
        let Some(ip) = parse_ip(text) else {
            self.warn(field, format!("{text:?} is not an IP address; it is ignored"));
            return None;
        };
        if let Some(kind) = special(ip) {
            self.warn(
                field,
                format!("{text} is {kind} address, which cannot be served; it is ignored"),
            );
            return None;
        }
        Some(ip)
    }

    fn take_cidr(&mut self, field: fmt::Arguments<'_>, text: &str) -> Option<IpNet> {
        let net = parse_cidr(text);
        if net.is_none() {
            self.warn(field, format!("{text:?} is not a prefix like 10.0.0.0/8; it is ignored"));
        }
        net
    }

    fn take_time(
        &mut self,
        field: fmt::Arguments<'_>,
        value: Lenient<Time<'_>>,
    ) -> Option<jiff::Timestamp> {
        match self.take(field, value)? {
            Time::Text(text) => {
                let time = text.0.parse().ok();
                if time.is_none() {
                    self.warn(
                        field,
                        format!("{:?} is not an RFC 3339 time; it is ignored", text.0),
                    );
                }
                time
            }
            Time::Unix(seconds) => {
                let time = jiff::Timestamp::from_second(seconds).ok();
                if time.is_none() {
                    self.warn(
                        field,
                        format!("{seconds} s since 1970 is not a time; it is ignored"),
                    );
                }
                time
            }
        }
    }

    fn done<K, T>(mut self, key: Option<K>, value: Option<T>) -> Converted<K, T> {
        if self.untold > 0 {
            let object = object_name(self.kind, self.namespace, self.name);
            let problem = format!("there are {} more problems", self.untold);
            self.warnings.push(Warning { object, field: "(any)".to_owned(), problem });
        }
        Converted { key, value, warnings: self.warnings }
    }
}

fn object_name(kind: &str, namespace: &str, name: &str) -> String {
    match (namespace, name) {
        (_, "") => format!("{kind} without a name"),
        ("", name) => format!("{kind} {name}"),
        (namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}

/// What an object is that is not even an object.
fn undecodable<K, T>(kind: &str, error: &str) -> Converted<K, T> {
    let warning = Warning {
        object: object_name(kind, "", ""),
        field: "(all)".to_owned(),
        problem: format!("cannot be decoded: {error}; it is ignored"),
    };
    Converted { key: None, value: None, warnings: vec![warning] }
}

/// Addresses that no Service and no endpoint can have, as `ValidateEndpointIP` in
/// `pkg/apis/core/validation` decides, with all multicast and the broadcast address.
fn special(ip: IpAddr) -> Option<&'static str> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    match ip {
        _ if ip.is_unspecified() => Some("the unspecified"),
        _ if ip.is_loopback() => Some("a loopback"),
        _ if link_local => Some("a link-local"),
        _ if ip.is_multicast() => Some("a multicast"),
        _ if broadcast => Some("the broadcast"),
        _ => None,
    }
}

/// Shares what the objects of a cluster repeat thousands of times: names of ports and zones, lists of ports, hints.
#[derive(Default)]
pub(super) struct Interner {
    names: Known<str>,
    ports: Known<[EndpointPort]>,
    hints: Known<Hints>,
}

impl Interner {
    fn name(&mut self, text: &str) -> Arc<str> {
        self.names.share(text)
    }

    fn ports(&mut self, ports: Vec<EndpointPort>) -> Arc<[EndpointPort]> {
        self.ports.share(ports)
    }

    fn hints(&mut self, hints: Hints) -> Arc<Hints> {
        self.hints.share(hints)
    }
}

/// Values that are in use, and some that were.
struct Known<T: ?Sized> {
    values: FxHashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Known<T> {
    fn default() -> Known<T> {
        Known { values: FxHashSet::default(), sweep_at: 0 }
    }
}

impl<T: ?Sized + Eq + Hash> Known<T> {
    const SMALLEST_SWEEP: usize = 1024;

    fn share<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(shared) = self.values.get(value.borrow()) {
            return Arc::clone(shared);
        }
        if self.values.len() >= self.sweep_at.max(Self::SMALLEST_SWEEP) {
            self.values.retain(|shared| Arc::strong_count(shared) > 1);
            self.sweep_at = 2 * self.values.len();
        }
        let shared: Arc<T> = value.into();
        self.values.insert(Arc::clone(&shared));
        shared
    }
}
