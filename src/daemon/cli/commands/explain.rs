//! `sluice explain FROM TO`: why a connection goes where it goes.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::truth::{Gathered, api, objects, settings};
use sluice_config::Config;
use sluice_explain::render::{Style, comparison, text};
use sluice_explain::{Known, Looked, Origin, Question, client, question, what_if};
use sluice_kubernetes::watch::manifests;

/// Why a connection to a Service goes where it goes, or does not. It computes with the code that programs the
/// kernel. Exit codes: 0 reachable, 10 unreachable, 11 mixed, 12 undetermined, 1 could not run, 2 usage.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Who connects: `pod/NAME[.NAMESPACE]`, `node/NAME`, or an IP address (`IP@DEVICE` names where it comes in).
    from: String,
    /// To what: `svc/NAME[.NAMESPACE][:PORT]`, a name or URL, `IP:PORT[/udp]`, or `node/NAME:PORT`.
    to: String,
    /// Objects: a file or directory of manifests, what `kubectl get -o yaml` prints, or `-`. May be repeated.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Ask the API server of this kubeconfig for the objects.
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    kubeconfig: Option<PathBuf>,
    /// The node's KubeProxyConfiguration. Otherwise the ConfigMap kube-system/kube-proxy counts if it is among
    /// the objects, else the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Whose rules the node has: with kube-proxy, nothing is said about the kernel's objects.
    #[arg(long = "as", value_name = "PROXY")]
    proxy: Option<Proxy>,
    /// What the Go kube-proxy of the node shows at 127.0.0.1:10249/configz, a file or `-`.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    configz: Option<PathBuf>,
    /// The node that decides. Otherwise the one that FROM is on, or the only one.
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
    /// What would change: `pod/NAME gone`, `IP gone`, `svc/NAME gone`, `svc/NAME FIELD=VALUE`, or a file of
    /// objects. May be repeated.
    #[arg(long, value_name = "CHANGE")]
    what_if: Vec<String>,
    /// The form of the answer.
    #[arg(short = 'o', long, value_name = "FORM", default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Proxy {
    /// This program.
    Sluice,
    /// The Go kube-proxy.
    KubeProxy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Explain {
    /// Prints the answer; the exit code is its result's.
    pub(super) fn run(&self) -> Result<ExitCode> {
        let question = Question::new(&self.from, &self.to);
        // What cannot be read needs no truth.
        let from = question::from(&question.from)?;
        let to = question::to(&question.to)?;
        let Gained { objects, known, origin } = self.objects()?;
        let config = self.settings(&objects)?;
        let node = self.node(&known, &from, &to, &objects, &config)?;
        let gathered = Gathered::new(&objects, known, &node, config, origin);
        for warning in &gathered.warnings {
            crate::log::say(&format!("sluice: {}", escaped(&warning.to_string())));
        }
        let answer = gathered.explain(&question)?;
        if self.what_if.is_empty() {
            let code = answer.result.exit_code();
            self.print(&answer, |style| text(&answer, style))?;
            return Ok(ExitCode::from(code));
        }
        let after = self.changed(&gathered, &objects)?;
        let differing: Vec<String> = gathered.differing(&after).into_iter().collect();
        let kernel = match differing.as_slice() {
            [] => "nothing would be written".to_owned(),
            names => format!("the objects of {} would be written", names.join(", ")),
        };
        let after = after.explain(&question)?;
        let compared = what_if::compare(&self.what_if.join(", "), answer, after, kernel);
        self.print(&compared, |style| comparison(&compared, style))?;
        Ok(ExitCode::from(compared.after.result.exit_code()))
    }

    fn objects(&self) -> Result<Gained> {
        let other_proxy = self.proxy == Some(Proxy::KubeProxy) || self.configz.is_some();
        let origin = |source: &str, text: String| Origin {
            source: source.to_owned(),
            text,
            other_proxy,
            ..Origin::default()
        };
        if let Some(kubeconfig) = &self.kubeconfig {
            let listed = api::objects(kubeconfig)?;
            let mut known = objects::known(&listed.objects);
            (known.without_slices, known.without_service_cidrs) = (false, false);
            if let Some(why) = listed.without_pods {
                known.pods = Looked::Not(why);
            }
            let origin = origin("api", format!("API server {}", listed.url));
            return Ok(Gained { objects: listed.objects, known, origin });
        }
        if self.files.is_empty() {
            bail!(
                "there is nothing to explain from: give objects with -f (kubectl get \
                 services,endpointslices,nodes,pods -A -o yaml), or a cluster with --kubeconfig"
            );
        }
        let (mut all, mut count) = (Vec::new(), 0);
        for path in &self.files {
            for file in expanded(path)? {
                all.append(&mut read_objects(&file)?);
                count += 1;
            }
        }
        let known = objects::known(&all);
        let files = if count == 1 { "file" } else { "files" };
        let origin = origin("files", format!("{count} {files}, {} objects", all.len()));
        Ok(Gained { objects: all, known, origin })
    }

    fn settings(&self, objects: &[Value]) -> Result<Config> {
        if let Some(path) = &self.configz {
            return settings::of_configz(&bounded(path)?, &path.display().to_string());
        }
        match &self.config {
            Some(path) => settings::of_file(path),
            None => match settings::of_objects(objects)? {
                Some(config) => Ok(config),
                None => settings::defaults(),
            },
        }
    }

    fn node(
        &self,
        known: &Known,
        from: &question::FromText,
        to: &question::ToText,
        objects: &[Value],
        config: &Config,
    ) -> Result<String> {
        let nodes = manifests::nodes(objects);
        if let Some(on) = &self.on {
            let there = nodes.is_empty() || nodes.contains(on.as_str());
            anyhow::ensure!(there, "there is no node {on}; there are {}", listed(&nodes));
            return Ok(on.clone());
        }
        let asked = match &to.host {
            question::Host::Node(name) => Some(name.as_str()),
            _ => None,
        };
        let found = client::node_of(known, from).or(asked).or(config.hostname_override.as_deref());
        let only = || nodes.iter().next().copied().filter(|_| nodes.len() == 1);
        match found.or_else(only) {
            Some(node) => Ok(node.to_owned()),
            None if nodes.is_empty() => {
                bail!("there is no Node among the objects: name the node that decides with --on")
            }
            None => bail!("several nodes could decide: name one with --on, of {}", listed(&nodes)),
        }
    }

    /// The state after the changes.
    fn changed(&self, before: &Gathered, objects: &[Value]) -> Result<Gathered> {
        let mut snapshot = before.snapshot.clone();
        for change in &self.what_if {
            if is_file(change) {
                let mut all = objects.to_vec();
                all.extend(
                    read_objects(Path::new(change))?.into_iter().map(|it| kept(it, objects)),
                );
                snapshot = manifests::snapshot(&all, &before.node).0;
                continue;
            }
            let what_if = what_if::parse(change)?;
            snapshot = what_if::apply(&snapshot, &before.known, &what_if, change)?.0;
        }
        Ok(before.with(snapshot))
    }

    fn print(
        &self,
        answer: &impl serde::Serialize,
        text: impl FnOnce(Style) -> String,
    ) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let printed = match self.output {
            Output::Json => {
                let mut json = serde_json::to_string_pretty(answer).context("write JSON")?;
                json.push('\n');
                json
            }
            Output::Text => text(style(&out)),
        };
        // A reader that has seen enough, such as `head`, is no failure.
        let _ = out.write_all(printed.as_bytes());
        Ok(())
    }
}

/// Objects, and what is known of them.
struct Gained {
    objects: Vec<Value>,
    known: Known,
    origin: Origin,
}

fn style(out: &impl IsTerminal) -> Style {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let dumb = set("TERM").is_none_or(|term| term == "dumb");
    let colour = out.is_terminal() && !dumb && set("NO_COLOR").is_none();
    let columns = set("COLUMNS").and_then(|columns| columns.parse().ok());
    Style::new(columns, colour)
}

fn listed(nodes: &std::collections::BTreeSet<&str>) -> String {
    nodes.iter().copied().collect::<Vec<_>>().join(", ")
}

fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

fn is_file(change: &str) -> bool {
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

fn read_objects(path: &Path) -> Result<Vec<Value>> {
    Ok(manifests::read(&bounded(path)?, &path.display().to_string())?)
}

/// The text of a file, or of standard input for `-`; no more of it than is allowed, and a byte.
fn bounded(path: &Path) -> Result<String> {
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

/// A changed object with what the API server allocated to the one before it.
fn kept(mut object: Value, before: &[Value]) -> Value {
    let same = |other: &&Value| {
        ["kind", "apiVersion"].iter().all(|field| other[*field] == object[*field])
            && ["namespace", "name"]
                .iter()
                .all(|field| other["metadata"][*field] == object["metadata"][*field])
    };
    let Some(old) = before.iter().find(same) else { return object };
    if object["kind"] == "Service" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "healthCheckNodePort"] {
            if object["spec"][field].is_null() && !old["spec"][field].is_null() {
                object["spec"][field] = old["spec"][field].clone();
            }
        }
        if object["status"].is_null() {
            object["status"] = old["status"].clone();
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_applied_object_keeps_its_addresses() {
        let old = serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"clusterIP": "10.96.0.80", "clusterIPs": ["10.96.0.80"]}});
        let new = serde_json::json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"externalTrafficPolicy": "Local"}});
        let kept = kept(new, &[old]);
        assert_eq!(kept["spec"]["clusterIP"], "10.96.0.80");
        assert_eq!(kept["spec"]["externalTrafficPolicy"], "Local");
    }
}
