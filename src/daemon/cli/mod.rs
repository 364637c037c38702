//! The command line: without a command, the daemon itself, as the Go kube-proxy is started.

mod cleanup;
mod commands;
mod effective;
mod flag_table;
mod flag_values;
mod flags;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, ValueEnum};

use crate::log;
use crate::run::{self, DataplaneOptions, Options, Share};
use sluice_dataplane::iptables::Layout;

/// Sluice, a Kubernetes service proxy.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    args_override_self = true,
    after_help = "Commands, each with --help: explain, status, rules, dump, completion. Without one, it is the daemon.\n\n\
                  Of the flags that stand for fields of the configuration file, only those for the log count \
                  beside --config."
)]
struct Arguments {
    #[command(flatten)]
    run: RunFlags,
}

/// Flags of the daemon, named as the Go kube-proxy names them.
#[derive(Debug, Clone, Args)]
struct RunFlags {
    /// A KubeProxyConfiguration file. It is watched: see docs/configuration.md for what a change does.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write the effective configuration, with all defaults, to this file, and exit.
    #[arg(long, value_name = "FILE")]
    write_config_to: Option<PathBuf>,
    /// Apply the settings that need full root privileges, and exit. The daemon can then be run with
    /// CAP_NET_ADMIN alone.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = flag_table::switch, value_name = "BOOL")]
    init_only: bool,
    /// Remove everything that kube-proxy, this or the Go one, has in the kernel in any mode, and exit.
    /// The exit code is 1 if something could not be removed.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = flag_table::switch, value_name = "BOOL")]
    cleanup: bool,
    /// The URL of the API server, in place of the kubeconfig's.
    #[arg(long, value_name = "URL")]
    master: Option<String>,
    /// The name of the Node object, if it is not this host's name.
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,
    /// Print the version and exit; `raw` says more of it.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_name = "BOOL|raw")]
    version: version::Query,
    /// The layout of the rules of the iptables mode: `compact` has fewer of them and finds a Service
    /// through prefixes; `classic` is as in the Go kube-proxy, for study and comparison.
    #[arg(long, value_name = "LAYOUT", default_value = "compact")]
    iptables_layout: IptablesLayout,
    /// In nftables mode: count new connections to each address of each Service port, and show them as
    /// `sluice_service_connections_total` among the metrics.
    #[arg(long)]
    service_counters: bool,
    /// Guard cluster IPs in every mode as the nftables mode does: refuse the ports that their Service does
    /// not have, and drop traffic to addresses of the ServiceCIDRs that no Service has. Otherwise mode
    /// ipvs does the former only, and modes iptables and userspace let both pass, as in kube-proxy.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = flag_table::switch, value_name = "BOOL")]
    strict_cluster_ips: bool,
    /// End TCP connections to endpoints that are no longer part of their Service: the client's next
    /// segment is answered by a reset. Otherwise they live for as long as the endpoint answers.
    #[arg(long)]
    reset_removed_tcp_endpoints: bool,
    /// The percentage of one core up to which changes are applied at once, each by a sync of its own; beyond
    /// it there is a pause before the next sync. A minSyncPeriod that is set counts in place of it.
    #[arg(long, value_name = "PERCENT", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    sync_cpu_percent: u32,
    /// In userspace mode: seconds that existing connections have to end after SIGTERM, while new ones are
    /// refused.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    userspace_drain: u64,
    /// In userspace mode: let endpoints on this node see clients' addresses where other modes do.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_parser = flag_table::switch, value_name = "BOOL")]
    userspace_transparent: bool,
    /// Where `sluice status` and others ask this daemon: a Unix socket in a directory of its own, for root and
    /// the daemon's user only. It tells and never does. Nowhere if empty.
    #[arg(long, value_name = "PATH", default_value = commands::SOCKET, env = "SLUICE_ADMIN_SOCKET",
          hide_env_values = true)]
    admin_socket: String,
    #[command(flatten)]
    fields: flags::FieldFlags,
    /// What is no flag; only empty arguments are allowed, which manifests produce.
    #[arg(hide = true, value_parser = nothing)]
    rest: Vec<()>,
}

/// Shapes of the rules of the iptables mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IptablesLayout {
    /// Fewer rules, found through prefixes.
    Compact,
    /// As in the Go kube-proxy.
    Classic,
}

fn nothing(text: &str) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { Err("it is neither a flag nor a command".to_owned()) }
}

/// Runs the program.
pub fn main() -> ExitCode {
    if let Some(code) = commands::main(std::env::args_os()) {
        return code;
    }
    let arguments = match Arguments::try_parse_from(flags::normalized(std::env::args_os())) {
        Ok(arguments) => arguments,
        Err(answer) => {
            // It may be the help text. If printing fails, there is nobody to report to.
            let _ = answer.print();
            return if answer.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    // Even if this ends by a panic.
    let _ending = Ending;
    match execute(arguments.run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Does what the flags ask for: one thing and an end, or the daemon.
fn execute(flags: RunFlags) -> Result<()> {
    if let Some(answer) = version::answer(flags.version) {
        say(&answer);
        return Ok(());
    }
    let effective = effective::effective(&flags)?;
    log::start(&effective.config.logging);
    effective.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if let Some(path) = &flags.write_config_to {
        effective::write(&effective, path)?;
        tracing::info!(file = %path.display(), "wrote the configuration");
        return Ok(());
    }
    if flags.cleanup {
        return cleanup::run(&effective.config);
    }
    effective.config.remarks().iter().for_each(|remark| tracing::warn!("{remark}"));
    if flags.init_only {
        return run::initialize(&effective.config);
    }
    run::run(effective, flags.options())
}

#[allow(clippy::print_stdout)] // it is what was asked for
fn say(answer: &str) {
    println!("{answer}");
}

impl RunFlags {
    /// What the daemon needs to know that is no field of the configuration.
    fn options(self) -> Options {
        Options {
            file: effective::file(&self),
            flags: flag_values::all(&self),
            dataplane: DataplaneOptions {
                iptables_layout: match self.iptables_layout {
                    IptablesLayout::Compact => Layout::Compact,
                    IptablesLayout::Classic => Layout::Classic,
                },
                service_counters: self.service_counters,
                reset_removed_tcp_endpoints: self.reset_removed_tcp_endpoints,
                userspace_drain: Duration::from_secs(self.userspace_drain),
                userspace_transparent: self.userspace_transparent,
            },
            sync_share: Share::of_a_core(self.sync_cpu_percent),
            admin_socket: Some(self.admin_socket)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            master: self.master,
        }
    }
}

/// Lets the last lines of the log out when it is dropped.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        log::end();
    }
}

/// The message about why the program ended.
fn complain(error: &anyhow::Error) {
    log::say(&format!("sluice: {error:#}"));
}
