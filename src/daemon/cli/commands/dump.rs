//! `sluice dump`: all that decisions of this node follow from.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{Ask, client, print};

/// The flags of the command.
#[derive(Debug, Args)]
pub(super) struct Dump {
    #[command(flatten)]
    ask: Ask,
    /// Put other names and addresses in place of those of the cluster, the same for the same.
    #[arg(long)]
    redact: bool,
}

impl Dump {
    pub(super) fn run(self) -> Result<ExitCode> {
        let path = if self.redact { "/v1/dump?redact" } else { "/v1/dump" };
        print(&client::get(&self.ask.socket, path)?);
        Ok(ExitCode::SUCCESS)
    }
}
