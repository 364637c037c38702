//! Other names and addresses in place of those of a cluster, the same ones for the same, so that a dump decides as
//! before: names keep their order, and addresses their prefixes in common.
//!
//! The first byte of an IPv4 address and the first two of an IPv6 address stay, which say what kind of address it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde_json::Value;

use sluice_core::net::fnv1a;

/// Fields whose value is a name, and what the names in its place begin with.
const NAMES: [(&str, &str); 7] = [
    ("name", "name"),
    ("namespace", "namespace"),
    ("nodeName", "name"),
    ("node", "name"),
    ("kubernetes.io/service-name", "name"),
    ("topology.kubernetes.io/zone", "name"),
    ("hostnameOverride", "name"),
];

/// Fields that are left out: paths, identities and messages of the kernel, which may have anything in them.
const LEFT_OUT: [&str; 4] = ["clientConnection", "uid", "reason", "unsettled"];

/// What is put in place of what.
pub(super) struct Redaction {
    names: BTreeMap<(&'static str, String), String>,
    key: u64,
}

fn is_name(field: &str) -> Option<&'static str> {
    NAMES.iter().find(|(name, _)| *name == field).map(|(_, prefix)| *prefix)
}

impl Redaction {
    /// For all that these documents name; no two dumps have the same addresses.
    pub(super) fn of(documents: &[Value]) -> Redaction {
        let mut found = BTreeSet::new();
        documents.iter().for_each(|document| collect(document, &mut found));
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let names = found.into_iter().map(|(prefix, name)| {
            let count = counts.entry(prefix).or_default();
            *count += 1;
            let instead = format!("{prefix}-{count:06}");
            ((prefix, name), instead)
        });
        Redaction { names: names.collect(), key: fastrand::u64(..) }
    }

    /// Redacts.
    pub(super) fn apply(&self, documents: &mut [Value]) {
        documents.iter_mut().for_each(|document| self.value(document));
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                LEFT_OUT.iter().for_each(|field| drop(fields.remove(*field)));
                for (field, value) in fields.iter_mut() {
                    match (is_name(field), &*value) {
                        (Some(prefix), Value::String(name)) if !name.is_empty() => {
                            let instead = self.names.get(&(prefix, name.clone()));
                            *value = instead.cloned().unwrap_or_default().into();
                        }
                        _ => self.value(value),
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.value(value)),
            Value::String(text) => *text = self.text(text),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Addresses and prefixes in a text, which may be a list of them.
    fn text(&self, text: &str) -> String {
        let part = |part: &str| {
            if let Ok(ip) = part.parse::<IpAddr>() {
                return self.address(ip).to_string();
            }
            if let Ok(net) = part.parse::<IpNet>() {
                let to = IpNet::new(self.address(net.network()), net.prefix_len());
                return to.map(|net| net.trunc().to_string()).unwrap_or_default();
            }
            if let Ok(at) = part.parse::<SocketAddr>() {
                return SocketAddr::new(self.address(at.ip()), at.port()).to_string();
            }
            part.to_owned()
        };
        text.split(',').map(part).collect::<Vec<_>>().join(",")
    }

    fn address(&self, ip: IpAddr) -> IpAddr {
        match ip {
            ip if ip.is_unspecified() || ip.is_loopback() => ip,
            IpAddr::V4(ip) => {
                let bits = self.bits(u128::from(u32::from(ip)) << 96, 8, 32) >> 96;
                IpAddr::V4(Ipv4Addr::from(u32::try_from(bits).unwrap_or_default()))
            }
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(self.bits(u128::from(ip), 16, 128))),
        }
    }

    /// Turns each bit over, or not, by what stands before it: what has n bits in common has them afterwards.
    fn bits(&self, bits: u128, from: u32, to: u32) -> u128 {
        let turned = (from..to).fold(0, |turned: u128, at| {
            let before = bits >> (128 - at) << (128 - at);
            let hash =
                fnv1a(&self.key.to_le_bytes()).and(&before.to_le_bytes()).and(&at.to_le_bytes());
            turned | u128::from(hash.fold(1)) << (127 - at)
        });
        bits ^ turned
    }
}

fn collect(value: &Value, found: &mut BTreeSet<(&'static str, String)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                match (is_name(field), value) {
                    (Some(prefix), Value::String(name)) if !name.is_empty() => {
                        found.insert((prefix, name.clone()));
                    }
                    _ => collect(value, found),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn common(a: IpAddr, b: IpAddr) -> u32 {
        let bits = |ip| match ip {
            IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
            IpAddr::V6(ip) => u128::from(ip),
        };
        (bits(a) ^ bits(b)).leading_zeros()
    }

    #[test]
    fn addresses_keep_the_prefixes_that_they_have_in_common() {
        let redaction = Redaction::of(&[]);
        let ips = ["10.244.1.2", "10.244.1.3", "10.244.2.2", "10.96.0.1", "192.0.2.1"];
        let ips = ips.map(|text| text.parse::<IpAddr>().expect("an address"));
        for a in ips {
            for b in ips {
                let (to_a, to_b) = (redaction.address(a), redaction.address(b));
                assert_eq!(
                    common(a, b).min(32),
                    common(to_a, to_b).min(32),
                    "{a} {b} {to_a} {to_b}"
                );
            }
        }
        assert_eq!(redaction.text("0.0.0.0"), "0.0.0.0");
        let nets = redaction.text("10.244.0.0/16,fd00:1::/64");
        let (v4, v6) = nets.split_once(',').expect("two");
        let v4: IpNet = v4.parse().expect("a prefix");
        assert!(v4.contains(&redaction.address(ips[0])), "{v4}");
        assert!(v6.starts_with("fd00:") && v6.ends_with("/64"), "{v6}");
    }

    #[test]
    fn names_are_gone_and_keep_their_order() {
        let object = |namespace: &str, name: &str| {
            let labels = json!({ "kubernetes.io/service-name": name });
            json!({ "kind": "Service", "metadata": { "name": name, "namespace": namespace,
                    "labels": labels, "uid": "secret" }, "spec": { "type": "ClusterIP" } })
        };
        let mut documents =
            vec![object("shop", "web"), object("bank", "pay"), object("shop", "pay")];
        Redaction::of(&documents).apply(&mut documents);
        let text = json!(documents).to_string();
        for secret in ["shop", "bank", "\"web\"", "pay", "secret"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
        let name = |index: usize| documents[index]["metadata"]["name"].as_str().expect("a name");
        assert_eq!((name(0), name(1)), ("name-000002", "name-000001"));
        assert_eq!(name(1), name(2), "the same name");
        assert_eq!(documents[0]["metadata"]["labels"]["kubernetes.io/service-name"], name(0));
        assert_eq!(documents[0]["spec"]["type"], "ClusterIP");
    }
}
