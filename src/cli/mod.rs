//! The command line: without a command, the daemon itself, as the Go kube-proxy is started.

mod demo;
mod mode;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Sluice, a Kubernetes service proxy.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows what a Service does, in a lab of network namespaces.
    Demo,
}

/// Flags of the daemon, named as the Go kube-proxy names them.
#[derive(Debug, Args)]
struct RunFlags {
    /// A KubeProxyConfiguration file; flags that stand for its fields are ignored with it, but not
    /// --hostname-override.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A kubeconfig file that says where the API server is.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The URL of the API server, in place of the kubeconfig's.
    #[arg(long, value_name = "URL")]
    master: Option<String>,
    /// The name of the Node object, if it is not this host's name.
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,
    /// The proxy mode.
    #[arg(long, value_name = "MODE")]
    proxy_mode: Option<String>,
    /// The shape of the rules of the iptables mode: `compact` has fewer of them and finds a Service
    /// through prefixes; `classic` is as in the Go kube-proxy, for study and comparison.
    #[arg(long, value_name = "LAYOUT", default_value = "compact")]
    iptables_layout: IptablesLayout,
    /// End TCP connections to endpoints that are no longer part of their Service: the client's next
    /// segment is answered by a reset. Otherwise they live for as long as the endpoint answers.
    #[arg(long)]
    reset_removed_tcp_endpoints: bool,
    /// In userspace mode: for how many seconds connections may go on when the daemon is told to end,
    /// while new ones are refused.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    userspace_drain: u64,
    /// How much is logged: 0 for operators, 4 and more for developers.
    #[arg(short = 'v', long = "v", value_name = "LEVEL")]
    verbosity: Option<u32>,
}

/// Shapes of the rules of the iptables mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IptablesLayout {
    /// Fewer rules, found through prefixes.
    Compact,
    /// As in the Go kube-proxy.
    Classic,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        None => run::run(arguments.run),
        Some(Command::Demo) => demo::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// The one sentence that says why the program ended.
#[allow(clippy::print_stderr)] // the log may be what could not be set up
fn complain(error: &anyhow::Error) {
    eprintln!("sluice: {error:#}");
}
