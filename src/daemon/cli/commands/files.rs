//! The truth from files: manifests, what `kubectl get -o yaml` prints, or a `sluice dump`.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::admin_socket::wire::API_VERSION;
use crate::sync::host::host;
use sluice_config::Config;
use sluice_core::model::Snapshot;
use sluice_core::net::Family;
use sluice_core::plan::{ForwardingTable, build};
use sluice_kubernetes::watch::manifests;

/// What files say.
pub(super) struct Files {
    pub(super) snapshot: Snapshot,
    pub(super) config: Config,
    node: String,
    /// The addresses of the node's interfaces: those of a dump, or else those of the Node.
    addresses: BTreeSet<IpAddr>,
}

/// Reads files (`-` is the standard input) as the node `on` sees them; `config` counts in place of a dump's settings.
pub(super) fn read(files: &[PathBuf], on: Option<&str>, config: Option<&Path>) -> Result<Files> {
    let mut objects = Vec::new();
    for path in files {
        let shown = path.display().to_string();
        let text = read_text(path).with_context(|| format!("cannot read {shown}"))?;
        objects.extend(manifests::read(&text, &shown)?);
    }
    let is_dump = |object: &&Value| object["kind"] == "Dump";
    let dumps: Vec<&Value> = objects.iter().filter(is_dump).collect();
    let dump = match dumps.as_slice() {
        [] => None,
        [dump] if dump["apiVersion"] == API_VERSION => Some(*dump),
        [dump] => bail!(
            "the dump says apiVersion {}, and this program reads {API_VERSION}; use the sluice that wrote it",
            dump["apiVersion"]
        ),
        _ => bail!("there are {} dumps; name one, because each is of one node", dumps.len()),
    };
    let node = node_name(&objects, dump, on)?;
    let config = match (config, dump) {
        (Some(path), _) => sluice_config::load(path)?.config,
        (None, Some(dump)) => settings(&dump["settings"])?,
        (None, None) => settings(&Value::Null)?,
    };
    let (snapshot, warnings) = manifests::snapshot(&objects, &node);
    for warning in warnings {
        crate::log::say(&format!("sluice: {warning}"));
    }
    let addresses = dump.and_then(|dump| dump["addresses"].as_array());
    let addresses = match addresses {
        Some(list) => list.iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect(),
        None => snapshot.node.iter().flat_map(|node| node.addresses.clone()).collect(),
    };
    Ok(Files { snapshot, config, node, addresses })
}

fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let most = u64::try_from(manifests::LONGEST).unwrap_or(u64::MAX) + 1;
    if path == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(path)?.take(most).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// The node that decides: the named one, a dump's, or the only one.
fn node_name(objects: &[Value], dump: Option<&Value>, on: Option<&str>) -> Result<String> {
    let nodes = manifests::nodes(objects);
    let listed = || nodes.iter().copied().collect::<Vec<_>>().join(", ");
    if let Some(on) = on {
        if !nodes.contains(on) {
            bail!("there is no Node {on} in the files; there is {}", listed());
        }
        return Ok(on.to_owned());
    }
    if let Some(node) = dump.and_then(|dump| dump["node"].as_str()) {
        return Ok(node.to_owned());
    }
    match nodes.len() {
        0 => Ok(String::new()),
        1 => Ok(listed()),
        _ => bail!(
            "there are the Nodes {}; name one with --on, because each decides for itself",
            listed()
        ),
    }
}

/// The meaning of a configuration in JSON; of none, that of the defaults.
fn settings(written: &Value) -> Result<Config> {
    let mut written = match written {
        Value::Object(fields) => fields.clone(),
        _ => serde_json::Map::new(),
    };
    let mut put = |field: &str, value: &str| written.insert(field.to_owned(), value.into());
    put("apiVersion", "kubeproxy.config.k8s.io/v1alpha1");
    put("kind", "KubeProxyConfiguration");
    let text = Value::Object(written).to_string();
    Ok(sluice_config::parse(&text, Path::new("settings"))?.config)
}

impl Files {
    /// What the node does with traffic of a family.
    pub(super) fn table(&self, family: Family) -> ForwardingTable {
        let node = self.snapshot.node.as_ref();
        let host = host(family, &self.config, node, &self.addresses);
        build(family, &self.node, host, &self.snapshot).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(text: &str, on: Option<&str>) -> Result<Files> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, text)?;
        read(&[path], on, None)
    }

    #[test]
    fn the_node_that_decides_is_known_or_asked_for() {
        let node = |name| format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n");
        let two = format!("{}{}", node("a"), node("b"));
        let dump = format!("apiVersion: {API_VERSION}\nkind: Dump\nnode: b\n{two}");
        let table = [
            (node("a"), None, Ok("a")),
            (two.clone(), Some("b"), Ok("b")),
            (two.clone(), None, Err("name one with --on")),
            (two, Some("c"), Err("there is no Node c in the files; there is a, b")),
            (dump.clone(), None, Ok("b")),
            (dump.replace("v1alpha1\nkind: Dump", "v9\nkind: Dump"), None, Err("use the sluice")),
            (format!("{dump}---\n{dump}"), None, Err("there are 2 dumps")),
        ];
        for (text, on, expected) in table {
            let found = read_of(&text, on).map(|files| files.node).map_err(|e| e.to_string());
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn settings_of_a_dump_are_those_of_its_daemon() {
        let dump = format!(
            "apiVersion: {API_VERSION}\nkind: Dump\nnode: a\naddresses: [192.0.2.9]\n\
             settings: {{mode: nftables, nftables: {{masqueradeAll: true}}}}\n"
        );
        let files = read_of(&dump, None).expect("it can be read");
        assert!(files.config.masquerade_all && files.table(Family::V4).host.masquerade_all);
        assert_eq!(files.addresses.len(), 1);
    }
}
