//! Commands: what people ask a daemon, or compute without one.
//!
//! A command is the first argument, so that everything that starts with a flag is the daemon, as in kube-proxy.

mod client;
mod dump;
mod explain;
mod rules;
mod status;
mod what_if;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use super::complain;
use sluice_explain::Refusal;

/// Where the daemon's admin socket is.
pub(super) const SOCKET: &str = "/run/sluice/admin.sock";

/// The name of the program as a plugin: `kubectl sluice status`.
const PLUGIN: &str = "kubectl-sluice";

/// Ask the daemon of this node.
#[derive(Debug, Parser)]
#[command(name = "sluice", args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Why a connection to a Service goes where it goes, or does not, computed with the code that programs the
    /// kernel. Exit codes: 0 reachable, 10 unreachable, 11 mixed, 12 undetermined, 1 could not run, 2 usage.
    Explain(Box<explain::Explain>),
    /// How far the daemon is: which Services are programmed, pending or refused, and since when.
    Status(status::Status),
    /// The rules of a Service in all modes side by side, without touching the kernel.
    Rules(rules::Rules),
    /// All that this node's decisions follow from, for bug reports and for -f.
    Dump(dump::Dump),
    /// A script by which a shell completes commands and flags.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How a daemon is asked.
#[derive(Debug, Args)]
struct Ask {
    /// The daemon's admin socket.
    #[arg(long, value_name = "PATH", default_value = SOCKET, env = "SLUICE_ADMIN_SOCKET", hide_env_values = true)]
    socket: std::path::PathBuf,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Runs the command that the arguments name; none if they start the daemon.
pub(super) fn main(arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let arguments: Vec<OsString> = arguments.collect();
    let program = arguments.first().map(|program| Path::new(program).file_name());
    let plugin = program.flatten() == Some(OsStr::new(PLUGIN));
    let first = arguments.get(1).and_then(|first| first.to_str()).unwrap_or_default();
    let names_one = Cli::command().find_subcommand(first).is_some();
    if !names_one && !plugin {
        return None;
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(answer) => {
            // It may be the help text. If printing fails, there is nobody to report to.
            let _ = answer.print();
            return Some(if answer.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS });
        }
    };
    Some(match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::from(error.downcast_ref::<Refusal>().map_or(1, Refusal::exit_code))
        }
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Explain(explain) => explain.run(),
        Command::Status(status) => status.run(),
        Command::Rules(rules) => rules.run(),
        Command::Dump(dump) => dump.run(),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut script);
            print(&String::from_utf8_lossy(&script));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints an answer. A reader that has seen enough, such as `head`, is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(arguments: &[&str]) -> Option<String> {
        let code = main(arguments.iter().map(OsString::from));
        code.map(|code| format!("{code:?}"))
    }

    #[test]
    fn what_names_no_command_is_the_daemon() {
        for arguments in
            [&["sluice"][..], &["sluice", "--config=a"], &["sluice", ""], &["sluice", "x"]]
        {
            assert_eq!(code(arguments), None, "{arguments:?}");
        }
    }

    #[test]
    fn commands_and_the_plugin_are_known() {
        let usage = Some(format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(&["sluice", "status", "--nothing"]), usage);
        assert_eq!(code(&["/usr/local/bin/kubectl-sluice", "nothing"]), usage);
        let none = ["kubectl-sluice", "status", "--socket=/nowhere/admin.sock"];
        assert_eq!(code(&none), Some(format!("{:?}", ExitCode::FAILURE)));
    }

    #[test]
    fn every_command_is_in_the_scripts_of_every_shell() {
        Cli::command().debug_assert();
        for shell in
            [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish]
        {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut script);
            let script = String::from_utf8(script).expect("it is text");
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }
}
