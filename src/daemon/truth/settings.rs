//! The settings of a node: a configuration file, the ConfigMap that kubeadm makes, or what the Go kube-proxy shows at
//! `/configz`.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use sluice_config::{Config, parse};
use sluice_kubernetes::watch::manifests::kind_of;

const HEADER: [(&str, &str); 2] =
    [("apiVersion", "kubeproxy.config.k8s.io/v1alpha1"), ("kind", "KubeProxyConfiguration")];

/// The configuration of a file.
pub(crate) fn of_file(path: &Path) -> Result<Config> {
    Ok(sluice_config::load(path)?.config)
}

/// The configuration in the ConfigMap `kube-proxy` if it is among the objects, else the defaults.
pub(crate) fn of_objects(objects: &[Value]) -> Result<Config> {
    let is_it = |object: &&Value| {
        kind_of(object) == "ConfigMap"
            && object["metadata"]["name"] == "kube-proxy"
            && object["metadata"]["namespace"] == "kube-system"
    };
    let map = objects.iter().find(is_it).unwrap_or(&Value::Null);
    match ["config.conf", "config"].into_iter().find_map(|key| map["data"][key].as_str()) {
        Some(text) => Ok(parse(text, Path::new("ConfigMap kube-system/kube-proxy"))?.config),
        None => of_fields(&Value::Null, "the defaults"),
    }
}

/// The configuration of a file's fields; all others have their defaults.
pub(crate) fn of_fields(fields: &Value, source: &str) -> Result<Config> {
    let mut written = header();
    written.extend(fields.as_object().cloned().unwrap_or_default());
    Ok(parse(&Value::Object(written).to_string(), Path::new(source))?.config)
}

fn header() -> Map<String, Value> {
    HEADER.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect()
}

/// The configuration that the Go kube-proxy shows at `/configz`: its internal type, whose fields are written as Go names
/// them, or the file's own fields. Only what decides about traffic is taken.
pub(crate) fn of_configz(text: &str, file: &str) -> Result<Config> {
    let tree: Value = serde_json::from_str(text)
        .with_context(|| format!("{file} is not what kube-proxy shows at /configz"))?;
    let all = tree.get("kubeproxy.config.k8s.io");
    let all = all.with_context(|| {
        format!("{file} has no kubeproxy.config.k8s.io: is it /configz of a kube-proxy?")
    })?;
    let mut wire = header();
    let mut take = |field: &str, value: Option<&Value>| {
        let value = value.filter(|value| !value.is_null());
        wire.extend(value.map(|value| (field.to_owned(), value.clone())));
    };
    for field in ["mode", "detectLocalMode", "nodePortAddresses", "hostnameOverride", "bindAddress"]
    {
        take(field, get(all, field));
    }
    let detect = get(all, "detectLocal");
    let cidrs = detect.and_then(|detect| get(detect, "clusterCIDRs")).and_then(Value::as_array);
    let cidrs =
        cidrs.map(|list| list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
    let cidrs = cidrs.map(Value::from);
    take("clusterCIDR", cidrs.as_ref().or_else(|| get(all, "clusterCIDR")));
    if let Some(detect) = detect {
        let field = |name| get(detect, name).cloned().unwrap_or_default();
        let section = json!({
            "bridgeInterface": field("bridgeInterface"),
            "interfaceNamePrefix": field("interfaceNamePrefix"),
        });
        take("detectLocal", Some(&section));
    }
    for section in ["iptables", "nftables"] {
        let Some(found) = get(all, section) else { continue };
        let mut fields = Map::new();
        for field in ["masqueradeBit", "masqueradeAll", "localhostNodePorts"] {
            let value = get(found, field).filter(|value| !value.is_null());
            let known = section == "iptables" || field != "localhostNodePorts";
            fields.extend(value.filter(|_| known).map(|value| (field.to_owned(), value.clone())));
        }
        take(section, Some(&Value::Object(fields)));
    }
    Ok(parse(&Value::Object(wire).to_string(), Path::new(file))?.config)
}

/// A field, whatever the case of its letters.
fn get<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = object.as_object()?;
    fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_config::{DetectLocal, Mode, NodePortAddresses};

    #[test]
    fn settings_of_the_go_kube_proxy_are_taken_from_configz() {
        let internal = r#"{"kubeproxy.config.k8s.io": {"Mode": "ipvs", "DetectLocalMode": "ClusterCIDR",
            "DetectLocal": {"BridgeInterface": "", "ClusterCIDRs": ["10.244.0.0/16"], "InterfaceNamePrefix": ""},
            "NodePortAddresses": ["192.0.2.0/24"], "SyncPeriod": 30000000000,
            "IPTables": {"MasqueradeBit": 15, "MasqueradeAll": true, "LocalhostNodePorts": true},
            "NFTables": {"MasqueradeBit": 14, "MasqueradeAll": false}}}"#;
        let config = of_configz(internal, "configz").expect("it is used");
        assert_eq!(
            (config.mode, config.masquerade_bit, config.masquerade_all),
            (Mode::Ipvs, 15, true)
        );
        let net = |text: &str| vec![text.parse().expect("a prefix")];
        assert_eq!(config.detect_local, DetectLocal::ClusterCidr(net("10.244.0.0/16")));
        assert_eq!(config.node_port_addresses, NodePortAddresses::Cidrs(net("192.0.2.0/24")));
        let versioned = r#"{"kubeproxy.config.k8s.io": {"mode": "iptables", "clusterCIDR": "10.0.0.0/8",
            "nodePortAddresses": null}}"#;
        let config = of_configz(versioned, "configz").expect("it is used");
        assert_eq!(config.detect_local, DetectLocal::ClusterCidr(net("10.0.0.0/8")));
        let error = of_configz("{}", "x").expect_err("not of a kube-proxy").to_string();
        assert!(error.contains("has no kubeproxy.config.k8s.io"), "{error}");
    }
}
