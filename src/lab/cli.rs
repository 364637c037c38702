//! The command line of `sluice-lab`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{demo, measure};

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
