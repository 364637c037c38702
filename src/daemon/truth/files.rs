//! Files: manifests, what `kubectl get -o yaml` prints, or a `sluice dump`.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::settings;
use sluice_config::Config;
use sluice_explain::API_VERSION;
use sluice_kubernetes::watch::manifests;

/// What files say.
pub(crate) struct Files {
    pub(crate) objects: Vec<Value>,
    /// How many files there were.
    pub(crate) count: usize,
    dump: Option<Value>,
}

impl Files {
    /// Reads files and the files of directories; `-` is the standard input.
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Files> {
        let (mut objects, mut count) = (Vec::new(), 0);
        for path in paths {
            for file in expanded(path)? {
                objects.append(&mut read_objects(&file)?);
                count += 1;
            }
        }
        Files::new(objects, count)
    }

    /// What a daemon says of itself.
    pub(crate) fn dump(text: &str) -> Result<Files> {
        Files::new(manifests::read(text, "the daemon's dump")?, 1)
    }

    fn new(objects: Vec<Value>, count: usize) -> Result<Files> {
        let dumps: Vec<&Value> = objects.iter().filter(|it| it["kind"] == "Dump").collect();
        let dump = match dumps.as_slice() {
            [] => None,
            [dump] if dump["apiVersion"] == API_VERSION => Some(Value::clone(dump)),
            [dump] => bail!(
                "the dump says apiVersion {}, and this program reads {API_VERSION}; use the sluice that wrote it",
                dump["apiVersion"]
            ),
            _ => bail!("there are {} dumps; name one, because each is of one node", dumps.len()),
        };
        Ok(Files { objects, count, dump })
    }

    /// Objects that an API server listed.
    pub(crate) fn listed(objects: Vec<Value>) -> Files {
        Files { objects, count: 0, dump: None }
    }

    /// The node whose dump it is.
    pub(crate) fn node(&self) -> Option<&str> {
        self.dump.as_ref()?["node"].as_str()
    }

    /// When a dump was made.
    pub(crate) fn at(&self) -> Option<&str> {
        self.dump.as_ref()?["at"].as_str()
    }

    /// The addresses of the node's interfaces, as a dump has them.
    pub(crate) fn addresses(&self) -> Option<BTreeSet<IpAddr>> {
        let list = self.dump.as_ref()?["addresses"].as_array()?;
        Some(list.iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect())
    }

    /// The node's settings: those of a file if one is named, else those of a dump, of the ConfigMap of kubeadm, or the
    /// defaults.
    pub(crate) fn settings(&self, file: Option<&Path>) -> Result<Config> {
        match (file, &self.dump) {
            (Some(file), _) => settings::of_file(file),
            (None, Some(dump)) => settings::of_fields(&dump["settings"], "the dump's settings"),
            (None, None) => settings::of_objects(&self.objects),
        }
    }
}

/// The node that decides: `on` if it is named, else what follows from the question or the files, else the only one.
/// None if there is no Node.
pub(crate) fn node_of(
    objects: &[Value],
    on: Option<&str>,
    found: Option<&str>,
) -> Result<Option<String>> {
    let nodes = manifests::nodes(objects);
    let listed = || nodes.iter().copied().collect::<Vec<_>>().join(", ");
    if let Some(on) = on {
        if !nodes.is_empty() && !nodes.contains(on) {
            bail!("there is no node {on}; there is {}", listed());
        }
        return Ok(Some(on.to_owned()));
    }
    match (found, nodes.len()) {
        (Some(found), _) => Ok(Some(found.to_owned())),
        (None, 0) => Ok(None),
        (None, 1) => Ok(Some(listed())),
        (None, _) => bail!("several nodes could decide: name one with --on, of {}", listed()),
    }
}

/// Whether this is the name of a file with objects.
pub(crate) fn is_file(change: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|end| change.ends_with(end))
}

/// The files of a directory that can be manifests, sorted; or the file itself.
fn expanded(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("read {}", path.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.with_context(|| format!("read {}", path.display()))?.path();
        if is_file(&file.to_string_lossy()) {
            files.push(file);
        }
    }
    files.sort();
    anyhow::ensure!(
        !files.is_empty(),
        "{} has no file that ends in .yaml, .yml or .json",
        path.display()
    );
    Ok(files)
}

/// The objects of one file.
pub(crate) fn read_objects(path: &Path) -> Result<Vec<Value>> {
    Ok(manifests::read(&bounded(path)?, &path.display().to_string())?)
}

/// The text of a file, or of standard input for `-`; no more of it than is allowed, and a byte.
pub(crate) fn bounded(path: &Path) -> Result<String> {
    let limit = u64::try_from(manifests::LONGEST).unwrap_or(u64::MAX) + 1;
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.with_context(|| format!("read {}", path.display()))?;
    if bytes.len() > manifests::LONGEST {
        let (file, length) = (path.display().to_string(), bytes.len());
        return Err(manifests::ManifestError::TooLong { file, length }.into());
    }
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(text: &str) -> Result<Files> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, text)?;
        Files::read(&[path])
    }

    #[test]
    fn the_node_that_decides_is_known_or_asked_for() {
        let node = |name| format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n");
        let two = format!("{}{}", node("a"), node("b"));
        let dump = format!("apiVersion: {API_VERSION}\nkind: Dump\nnode: b\n{two}");
        let table = [
            (node("a"), None, Ok("a")),
            (two.clone(), Some("b"), Ok("b")),
            (two.clone(), None, Err("name one with --on, of a, b")),
            (two, Some("c"), Err("there is no node c; there is a, b")),
            (dump.clone(), None, Ok("b")),
            (dump.clone(), Some("a"), Ok("a")),
            (dump.replace("v1alpha1\nkind: Dump", "v9\nkind: Dump"), None, Err("use the sluice")),
            (format!("{dump}---\n{dump}"), None, Err("there are 2 dumps")),
        ];
        for (text, on, expected) in table {
            let found = read_of(&text).and_then(|files| node_of(&files.objects, on, files.node()));
            match (found.map_err(|error| error.to_string()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), Some(expected), "{text}"),
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
        let files = read_of(&dump).expect("it can be read");
        assert!(files.settings(None).expect("they are settings").masquerade_all);
        assert_eq!(files.addresses().map(|ips| ips.len()), Some(1));
    }
}
