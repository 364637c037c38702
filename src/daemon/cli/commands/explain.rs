//! `sluice explain FROM TO`: why a connection goes where it goes.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::{Ask, client as daemon, what_if};
use crate::truth::files::{self, Files};
use crate::truth::{Gathered, api, objects, settings};
use sluice_config::Config;
use sluice_explain::render::{Style, comparison, comparison_page, page, text};
use sluice_explain::{Explanation, Known, Looked, Origin, Question, client, question};
use sluice_kernel::terminal;

/// Why a connection to a Service goes where it goes, or does not. It computes with the code that programs the
/// kernel. Exit codes: 0 reachable, 10 unreachable, 11 mixed, 12 undetermined, 1 could not run, 2 usage.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Who connects: `pod/NAME[.NAMESPACE]`, `node/NAME`, or an IP address (`IP@DEVICE` names where it comes in).
    from: String,
    /// To what: `svc/NAME[.NAMESPACE][:PORT]`, a name or URL, `IP:PORT[/udp]`, or `node/NAME:PORT`.
    to: String,
    #[command(flatten)]
    ask: Ask,
    /// In place of the daemon, objects: a file or directory of manifests, what `kubectl get -o yaml` prints, or `-`. May be repeated.
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
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
    /// For programs: docs/schemas/explain.v1alpha1.json.
    Json,
    /// For a browser: one page without scripts.
    Html,
}

impl Explain {
    /// Prints the answer; the exit code is its result's.
    pub(super) fn run(&self) -> Result<ExitCode> {
        let question = Question::new(&self.from, &self.to);
        // What cannot be read needs no truth.
        let from = question::from(&question.from)?;
        let to = question::to(&question.to)?;
        if self.asks_daemon() && self.what_if.is_empty() {
            let answer = self.told()?;
            self.print(&answer, |style| text(&answer, style), page)?;
            return Ok(ExitCode::from(answer.result.exit_code()));
        }
        let Gained { known, origin, files } = self.objects()?;
        let config = self.settings(&files)?;
        let node = self.node(&known, (&from, &to), &files, &config)?;
        let facts = (known, origin, files.addresses());
        let gathered = Gathered::new(&files.objects, facts, &node, config);
        for warning in &gathered.warnings {
            crate::log::say(&format!("sluice: {}", escaped(&warning.to_string())));
        }
        let answer = gathered.explain(&question)?;
        if self.what_if.is_empty() {
            let code = answer.result.exit_code();
            self.print(&answer, |style| text(&answer, style), page)?;
            return Ok(ExitCode::from(code));
        }
        let after = what_if::changed(&self.what_if, &gathered, &files.objects)?;
        let compared = what_if::compared(&self.what_if, (&gathered, answer), &after, &question)?;
        self.print(&compared, |style| comparison(&compared, style), comparison_page)?;
        Ok(ExitCode::from(compared.after.result.exit_code()))
    }

    fn asks_daemon(&self) -> bool {
        self.files.is_empty() && self.kubeconfig.is_none()
    }

    /// The answer of the daemon of this node.
    fn told(&self) -> Result<Explanation> {
        self.only_what_a_daemon_is_asked()?;
        let (from, to) = (daemon::encoded(&self.from), daemon::encoded(&self.to));
        let body = daemon::get(&self.ask.socket, &format!("/v1/explain?from={from}&to={to}"))?;
        let answer: Explanation = serde_json::from_str(&body)
            .context("the daemon answers in other words; it is another version")?;
        self.decided_by(&answer.node)?;
        Ok(answer)
    }

    fn only_what_a_daemon_is_asked(&self) -> Result<()> {
        let other =
            self.config.is_some() || self.configz.is_some() || self.proxy == Some(Proxy::KubeProxy);
        if other {
            bail!(
                "--config, --configz and --as say what a node would do: give objects with -f, or a cluster with \
                 --kubeconfig; a daemon has its own settings"
            );
        }
        Ok(())
    }

    /// The daemon must be of the node that is asked for.
    fn decided_by(&self, node: &str) -> Result<()> {
        match &self.on {
            Some(on) if on != node => bail!(
                "the daemon at {} is that of node {node}: ask where the one of {on} runs, or give objects with -f",
                self.ask.socket.display()
            ),
            _ => Ok(()),
        }
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
            return Ok(Gained { known, origin, files: Files::listed(listed.objects) });
        }
        if self.asks_daemon() {
            self.only_what_a_daemon_is_asked()?;
            let files = Files::dump(&daemon::get(&self.ask.socket, "/v1/dump")?)?;
            let node = files.node().unwrap_or_default();
            self.decided_by(node)?;
            let mut known = objects::known(&files.objects);
            known.pods = Looked::Not("a daemon is not told of pods".to_owned());
            known.served_only = true;
            let origin = origin("daemon", format!("what the daemon of {node} knows"));
            return Ok(Gained { known, origin, files });
        }
        let files = Files::read(&self.files)?;
        let known = objects::known(&files.objects);
        let plural = if files.count == 1 { "file" } else { "files" };
        let mut text = format!("{} {plural}, {} objects", files.count, files.objects.len());
        if let (Some(node), Some(at)) = (files.node(), files.at()) {
            text = format!("dump of {node} of {at}");
        }
        Ok(Gained { known, origin: origin("files", text), files })
    }

    fn settings(&self, files: &Files) -> Result<Config> {
        match &self.configz {
            Some(path) => settings::of_configz(&files::bounded(path)?, &path.display().to_string()),
            None => files.settings(self.config.as_deref()),
        }
    }

    fn node(
        &self,
        known: &Known,
        (from, to): (&question::FromText, &question::ToText),
        files: &Files,
        config: &Config,
    ) -> Result<String> {
        let asked = match &to.host {
            question::Host::Node(name) => Some(name.as_str()),
            _ => None,
        };
        let found = files.node().or_else(|| client::node_of(known, from)).or(asked);
        let found = found.or(config.hostname_override.as_deref());
        files::node_of(&files.objects, self.on.as_deref(), found)?
            .context("there is no Node among the objects: name the node that decides with --on")
    }

    fn print<A: serde::Serialize>(
        &self,
        answer: &A,
        text: impl FnOnce(Style) -> String,
        page: impl FnOnce(&A) -> String,
    ) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let printed = match self.output {
            Output::Json => {
                let mut json = serde_json::to_string_pretty(answer).context("write JSON")?;
                json.push('\n');
                json
            }
            Output::Html => page(answer),
            Output::Text => text(style(&out)),
        };
        // A reader that has seen enough, such as `head`, is no failure.
        let _ = out.write_all(printed.as_bytes());
        Ok(())
    }
}

/// Objects, and what is known of them.
struct Gained {
    files: Files,
    known: Known,
    origin: Origin,
}

fn style(out: &(impl IsTerminal + AsFd)) -> Style {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let dumb = set("TERM").is_none_or(|term| term == "dumb");
    let colour = out.is_terminal() && !dumb && set("NO_COLOR").is_none();
    let columns = set("COLUMNS").and_then(|columns| columns.parse().ok());
    let columns = columns.or_else(|| terminal::columns(out));
    Style::new(columns, colour)
}

fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}
