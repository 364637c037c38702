//! The command line of `sluice-lab`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{demo, measure, up};
use sluice_cluster::cluster::daemon_program;

/// A laboratory for Kubernetes Services: clusters out of network namespaces, with the real daemon.
#[derive(Debug, Parser)]
#[command(name = "sluice-lab", version, arg_required_else_help = true)]
struct Arguments {
    /// The daemon's program; if unset, the `sluice` beside this program, else the one on the PATH.
    #[arg(long, global = true, value_name = "FILE")]
    daemon: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a cluster in the background: nodes, pods, DNS, an API server. See docs/lab.md.
    Up(up::UpFlags),
    /// Ends it, or removes what a killed one left.
    Down(up::Which),
    /// Prints what is there.
    Status(up::Which),
    /// Prints the path of a kubeconfig for it.
    Kubeconfig(up::Which),
    /// Runs a program on a node, in a pod, or on the client.
    Exec(up::ExecFlags),
    /// Prints the log of a node's daemon or of a pod.
    Logs(up::LogsFlags),
    /// Runs the daemons in another proxy mode.
    Mode(up::ModeFlags),
    /// Holds a cluster; `up` starts it.
    #[command(hide = true)]
    Supervise(up::UpFlags),
    /// Shows what a Service does.
    Demo,
    /// Measures the proxy modes side by side. See docs/benchmarks.md.
    Bench(Box<measure::BenchFlags>),
}

/// Runs the program.
#[allow(clippy::print_stderr)] // the one sentence that says why it ended
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => {
            // It may be the help text. If printing fails, there is nobody to report to.
            let _ = answer.print();
            return if answer.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let daemon = arguments.daemon.as_deref();
    let result = match arguments.command {
        Command::Up(flags) => up::up(&flags, daemon),
        Command::Down(which) => up::down(&which),
        Command::Status(which) => up::status(&which),
        Command::Kubeconfig(which) => up::kubeconfig(&which),
        Command::Exec(flags) => up::exec(flags),
        Command::Logs(flags) => up::logs(flags),
        Command::Mode(flags) => up::mode(flags),
        Command::Supervise(flags) => daemon_program(daemon)
            .map_err(anyhow::Error::from)
            .and_then(|program| up::supervise(&flags, program)),
        Command::Demo => demo::run(daemon),
        Command::Bench(flags) => measure::run(&flags, daemon),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
