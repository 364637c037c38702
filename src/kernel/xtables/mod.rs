//! iptables through its programs: rules are read with `iptables-save` and written with `iptables-restore`;
//! the variant in use on this node is detected.
//!
//! There is no stable interface below the programs: `iptables-legacy` replaces whole tables through a socket
//! option, `iptables-nft` writes nf_tables objects in its own format.

mod chain_graph;
mod counters;
mod legacy;
mod variant;

use std::fmt;
use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};

use sluice_core::net::Family;

pub use self::chain_graph::ChainGraph;
pub use self::counters::CountedRule;
pub use self::legacy::{legacy_programs, legacy_tables};
pub use self::variant::Variant;

/// How many seconds a program may wait for the xtables lock (upstream: `pkg/util/iptables`,
/// WaitSecondsValue).
pub const LOCK_SECONDS: u32 = 5;

/// The exit status for lack of a resource: memory, or the lock (`PARAMETER_PROBLEM` is 2,
/// `RESOURCE_PROBLEM` is 4 in `include/xtables.h`).
const RESOURCE_PROBLEM: i32 = 4;

/// A table of iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Accept, reject, drop.
    Filter,
    /// Address translation of the first packet of each connection.
    Nat,
    /// Changes of packets; here only to notice a foreign flush.
    Mangle,
}

impl Table {
    /// All of them, in the order in which they are written.
    pub const ALL: [Table; 3] = [Table::Filter, Table::Nat, Table::Mangle];

    /// Its name in iptables.
    pub fn name(self) -> &'static str {
        match self {
            Table::Filter => "filter",
            Table::Nat => "nat",
            Table::Mangle => "mangle",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What went wrong with a program of iptables.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum XtablesError {
    /// It could not be started.
    #[error("start {program}: {source}; install the package iptables or set another proxy mode")]
    Start { program: String, source: std::io::Error },
    /// Another program held the lock all the time.
    #[error(
        "{program}: another program has held the xtables lock for {LOCK_SECONDS} s; trying again"
    )]
    Locked { program: String },
    /// A line was refused, so nothing of its table was applied.
    #[error("{program} refuses line {line}: {message}")]
    Refused {
        program: String,
        /// The line's number in what was written, from 1.
        line: usize,
        message: String,
    },
    /// The table has rules that it cannot print, so it printed none.
    #[error(
        "{program} cannot print the table {table}: another program has put a native nf_tables rule into it"
    )]
    Incompatible { program: String, table: Table },
    /// Nothing works without extensions that are not there.
    #[error(
        "mode iptables cannot work here without {what}, which the kernel or the package iptables lacks; \
         load the module or set another proxy mode"
    )]
    Lacking {
        /// The extensions.
        what: String,
    },
    /// It failed for another reason.
    #[error("{program} failed: {message}")]
    Failed { program: String, message: String },
}

/// The programs of one IP family and variant, in the current network namespace.
#[derive(Debug, Clone, Copy)]
pub struct Xtables {
    family: Family,
    variant: Variant,
}

impl Xtables {
    /// The variant that is in use on this node.
    ///
    /// # Errors
    /// If no program of iptables is installed.
    pub fn open(family: Family) -> Result<Xtables, XtablesError> {
        Ok(Xtables { family, variant: Variant::detect()? })
    }

    /// A given variant.
    pub fn new(family: Family, variant: Variant) -> Xtables {
        Xtables { family, variant }
    }

    /// The variant.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// The rules of a table, as `iptables-save` prints them.
    ///
    /// # Errors
    /// If the program fails, or cannot print this table: see [`Xtables::chain_graph`].
    pub fn save(&self, table: Table) -> Result<String, XtablesError> {
        let program = self.program("-save");
        let output = run(&program, &["-t", &table.to_string()], None)?;
        finished(&program, &output)?;
        let saved = text(&output.stdout);
        if chain_graph::is_incompatible(&saved) {
            return Err(XtablesError::Incompatible { program, table });
        }
        Ok(saved)
    }

    /// Applies a script of `iptables-restore`, without flushing what it does not name. Each table of it
    /// is applied as a whole or not at all, one after the other.
    ///
    /// # Errors
    /// If a line is refused, or the lock is not free in time.
    pub fn restore(&self, script: &str) -> Result<(), XtablesError> {
        let program = self.program("-restore");
        let wait = LOCK_SECONDS.to_string();
        let output = run(&program, &["--noflush", "--wait", &wait], Some(script))?;
        finished(&program, &output)
    }

    /// The rules of chains in the form of `iptables -S`, in the order of `asked`; none where there is no such
    /// chain, or where it has a rule that cannot be printed. One program prints all of them, if it can.
    ///
    /// # Errors
    /// If the programs cannot be run, or the lock is not free in time.
    pub fn chains(&self, asked: &[(Table, &str)]) -> Result<Vec<Option<String>>, XtablesError> {
        match self.together(asked) {
            // It ends at the first chain that it cannot print.
            Err(XtablesError::Refused { .. } | XtablesError::Failed { .. }) => {
                asked.iter().map(|(table, chain)| self.chain(*table, chain)).collect()
            }
            listed => Ok(listed?.into_iter().map(Some).collect()),
        }
    }

    /// Chains as `iptables-restore` prints them if its script asks for that. The script changes nothing.
    fn together(&self, asked: &[(Table, &str)]) -> Result<Vec<String>, XtablesError> {
        let of_table = |asked: &[(Table, &str)]| {
            let chains: String = asked.iter().map(|(_, chain)| format!("-S {chain}\n")).collect();
            let table = asked.first().map(|(table, _)| *table)?;
            Some(format!("*{table}\n{chains}COMMIT\n"))
        };
        let script: String = asked.chunk_by(|a, b| a.0 == b.0).filter_map(of_table).collect();
        let program = self.program("-restore");
        let wait = LOCK_SECONDS.to_string();
        let output = run(&program, &["--noflush", "--wait", &wait], Some(&script))?;
        finished(&program, &output)?;
        let message = "it did not print the chains that it was asked for".to_owned();
        one_by_one(&text(&output.stdout), asked).ok_or(XtablesError::Failed { program, message })
    }

    /// One chain.
    fn chain(&self, table: Table, chain: &str) -> Result<Option<String>, XtablesError> {
        let program = self.program("");
        let (wait, table) = (LOCK_SECONDS.to_string(), table.to_string());
        let output = run(&program, &["-w", &wait, "-t", &table, "-S", chain], None)?;
        match finished(&program, &output) {
            Ok(()) => Ok(Some(text(&output.stdout))),
            Err(XtablesError::Failed { .. }) if output.status.code() == Some(1) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn program(&self, suffix: &str) -> String {
        let name = if self.family == Family::V4 { "iptables" } else { "ip6tables" };
        format!("{name}{}{suffix}", self.variant.infix())
    }
}

/// Lets packets from and to 127.0.0.0/8 enter and leave by other interfaces than loopback, which
/// node ports on 127.0.0.1 need.
///
/// # Errors
/// If the setting is not there or not writable.
pub fn route_localnet() -> std::io::Result<()> {
    const PATH: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";
    if std::fs::read_to_string(PATH)?.trim() == "1" {
        return Ok(());
    }
    std::fs::write(PATH, "1")
}

/// Whether connection tracking accepts TCP segments outside of the window instead of calling them
/// invalid (`net.netfilter.nf_conntrack_tcp_be_liberal`); none if it is not there (yet).
pub fn accepts_outside_of_window() -> Option<bool> {
    const PATH: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";
    std::fs::read_to_string(PATH).ok().map(|value| value.trim() != "0")
}

fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Result<Output, XtablesError> {
    let start = |source| XtablesError::Start { program: program.to_owned(), source };
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut command = Command::new(program);
    command.args(arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(start)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // A program that refuses a line stops reading; its output has the reason.
        match stdin.write_all(input.as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(start(error)),
            _ => {}
        }
    }
    child.wait_with_output().map_err(start)
}

fn finished(program: &str, output: &Output) -> Result<(), XtablesError> {
    if output.status.success() {
        return Ok(());
    }
    let program = program.to_owned();
    let said = text(&output.stderr);
    // What is left of the lines are warnings about the other variant and hints at the manual.
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with("Try `"))
        .collect();
    let message = lines.join("; ");
    if output.status.code() == Some(RESOURCE_PROBLEM) && message.contains("xtables lock") {
        return Err(XtablesError::Locked { program });
    }
    Err(match line_number(&message) {
        Some(line) => XtablesError::Refused { program, line, message },
        None => XtablesError::Failed { program, message },
    })
}

/// What was printed of each chain; none if others than these were. Each begins with its policy (`-P`) or with its
/// creation (`-N`).
fn one_by_one(listed: &str, asked: &[(Table, &str)]) -> Option<Vec<String>> {
    let begins = |line: &str| line.starts_with("-P ") || line.starts_with("-N ");
    let lines: Vec<&str> = listed.lines().filter(|line| line.starts_with('-')).collect();
    let chains: Vec<&[&str]> = lines.chunk_by(|_, next| !begins(next)).collect();
    let right = |(chain, (_, name)): (&&[&str], &(Table, &str))| {
        chain.first().is_some_and(|line| begins(line) && line.split(' ').nth(1) == Some(name))
    };
    let all = chains.len() == asked.len() && chains.iter().zip(asked).all(right);
    all.then(|| chains.into_iter().map(|chain| chain.join("\n")).collect())
}

/// The variants say `line 4: RULE_APPEND failed`, `Error occurred at line: 4` or `line 4 failed`.
fn line_number(message: &str) -> Option<usize> {
    message.match_indices("line").find_map(|(at, word)| {
        let rest = message[at + word.len()..].trim_start_matches([':', ' ']);
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_that_were_printed_together_are_told_apart_and_no_others_taken_for_them() {
        let listed =
            "-P OUTPUT ACCEPT\n-A OUTPUT -j A\n-A OUTPUT -j B\n-N KUBE-X\n-P OUTPUT DROP\n";
        let asked = [(Table::Filter, "OUTPUT"), (Table::Nat, "KUBE-X"), (Table::Nat, "OUTPUT")];
        let chains =
            ["-P OUTPUT ACCEPT\n-A OUTPUT -j A\n-A OUTPUT -j B", "-N KUBE-X", "-P OUTPUT DROP"];
        assert_eq!(one_by_one(listed, &asked), Some(chains.map(str::to_owned).into()));
        assert_eq!(one_by_one(listed, &asked[..2]), None, "more than asked for");
        assert_eq!(one_by_one("-P OUTPUT ACCEPT\n-N KUBE-X\n", &asked), None, "less");
        let other = [(Table::Filter, "INPUT"), asked[1], asked[2]];
        assert_eq!(one_by_one(listed, &other), None, "another chain");
        assert_eq!(one_by_one("-A OUTPUT -j A\n", &asked[..1]), None, "no beginning");
    }

    #[test]
    fn the_number_of_a_refused_line_is_found_in_what_each_variant_says() {
        let table = [
            ("iptables-restore v1.8.9 (nf_tables): ; line 4: RULE_APPEND failed", Some(4)),
            ("Couldn't load target `X'; Error occurred at line: 12", Some(12)),
            ("iptables-restore: line 7 failed", Some(7)),
            ("iptables-restore: line 3 failed: No chain/target/match by that name.", Some(3)),
            ("the command line has no number", None),
            ("Permission denied (you must be root)", None),
        ];
        for (message, expected) in table {
            assert_eq!(line_number(message), expected, "{message}");
        }
    }
}
