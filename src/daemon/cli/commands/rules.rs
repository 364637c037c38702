//! `sluice rules`: the rules of a Service in all modes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use super::{Ask, Output, client, print};
use crate::admin_socket::service_name;
use crate::kernel_view::difference::Difference;
use crate::kernel_view::{Kernel, Mechanism};
use crate::rules::{self, Rules as Answer};
use crate::truth::Gathered;
use crate::truth::files::{self, Files};
use sluice_core::model::ServiceName;
use sluice_explain::{Known, Origin};

/// The flags of the command.
#[derive(Debug, Args)]
pub(super) struct Rules {
    /// NAME, NAME.NAMESPACE or NAMESPACE/NAME.
    service: String,
    /// One mode, or all.
    #[arg(long, value_name = "MODE", default_value = "all")]
    mode: String,
    /// What this node's kernel lacks of the Service (-) and has too much (+), in the mode of the daemon, or with -f
    /// in that of the settings. The exit code is 1 if it is not as it should be.
    #[arg(long, conflicts_with = "mode")]
    diff: bool,
    /// Manifests, what `kubectl get -o yaml` prints, or a `sluice dump`, in place of the daemon; `-` is the standard
    /// input.
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The node that decides, if the files have several.
    #[arg(long, value_name = "NODE", requires = "files")]
    on: Option<String>,
    /// A KubeProxyConfiguration file, for the files.
    #[arg(long, value_name = "FILE", requires = "files")]
    config: Option<PathBuf>,
    #[command(flatten)]
    ask: Ask,
    /// How they are printed. JSON has the tables of nftables so that `nft -j -f` loads them.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

impl Rules {
    pub(super) fn run(self) -> Result<ExitCode> {
        if self.diff {
            return self.compare();
        }
        let (truth, answer) = if self.files.is_empty() {
            let (service, mode) = (client::encoded(&self.service), client::encoded(&self.mode));
            let path = format!("/v1/rules?service={service}&mode={mode}");
            let body = client::get(&self.ask.socket, &path)?;
            let answer: Answer = serde_json::from_str(&body)
                .context("the daemon answers in other words; it is another version")?;
            (format!("the daemon at {}", self.ask.socket.display()), answer)
        } else {
            ("files".to_owned(), self.of_files()?)
        };
        match self.output {
            Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&answer)?)),
            Output::Text => print(&format!("# truth: {truth}\n{}", rules::shown(&answer))),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Against the kernel.
    fn compare(&self) -> Result<ExitCode> {
        let (truth, answer) = if self.files.is_empty() {
            let path = format!("/v1/kernel?service={}", client::encoded(&self.service));
            let body = client::get(&self.ask.socket, &path)?;
            let answer: Difference = serde_json::from_str(&body)
                .context("the daemon answers in other words; it is another version")?;
            (format!("the daemon at {}", self.ask.socket.display()), answer)
        } else {
            let (name, truth) = self.planned()?;
            let kernel = Kernel::new(Mechanism::of(&truth.config)?);
            let tables = rules::tables_of(&name, |family| truth.table(family).cloned());
            ("files".to_owned(), Difference::of(&kernel, &name, &tables, |_| None))
        };
        match self.output {
            Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&answer)?)),
            Output::Text => print(&format!("# truth: {truth}\n{}", answer.shown())),
        }
        Ok(if answer.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn of_files(&self) -> Result<Answer> {
        let modes = rules::modes(&self.mode).map_err(anyhow::Error::msg)?;
        let (name, truth) = self.planned()?;
        let tables = rules::tables_of(&name, |family| truth.table(family).cloned());
        Ok(rules::of(&name, &tables, &modes, Some(&truth.config)))
    }

    /// The Service, and what the files come to.
    fn planned(&self) -> Result<(ServiceName, Gathered)> {
        let name = service_name(&self.service).ok_or_else(|| {
            anyhow!(
                "{:?} is no Service's name; expected NAME, NAME.NAMESPACE or NAMESPACE/NAME",
                self.service
            )
        })?;
        let files = Files::read(&self.files)?;
        let config = files.settings(self.config.as_deref())?;
        let node = files::node_of(&files.objects, self.on.as_deref(), files.node())?;
        let facts = (Known::default(), Origin::default(), files.addresses());
        let truth = Gathered::new(&files.objects, facts, &node.unwrap_or_default(), config);
        for warning in &truth.warnings {
            crate::log::say(&format!("sluice: {warning}"));
        }
        if !truth.snapshot.services.contains_key(&name) {
            let mut names: Vec<String> =
                truth.snapshot.services.keys().map(ToString::to_string).collect();
            names.sort_unstable();
            names.truncate(10);
            bail!(
                "there is no Service {name} in the files that has a cluster IP; there is {}",
                names.join(", ")
            );
        }
        Ok((name, truth))
    }
}
