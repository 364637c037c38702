//! Instruction counts of the hot paths, compared with counts that were accepted:
//! `make bench-guard`, and `make bench-guard UPDATE=1` to accept what is counted now.
//!
//! Instructions are counted by `valgrind --tool=callgrind`, so that a busy machine counts the same as
//! an idle one. Each path runs once in a process of its own, and only what happens within
//! [`counted_region`] counts. docs/benchmarks-micro.md explains it.

#![allow(clippy::print_stdout, clippy::print_stderr)] // it reports to people

#[path = "../pipeline.rs"]
mod pipeline;

mod accepted;
mod paths;

use std::process::{Command, ExitCode};

use accepted::{Accepted, verdict};
use paths::Path;

/// The argument after which the name of a path says to run it.
const RUN: &str = "--run-path";
/// One change at ten times as many Services may take so much more: trees are a little deeper.
const MOST_GROWTH: f64 = 1.10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == RUN) {
        let path = arguments.get(at + 1).and_then(|name| Path::named(name));
        path.expect("a path has this name").run();
        return ExitCode::SUCCESS;
    }
    match guard(std::env::var("UPDATE").is_ok_and(|text| !text.is_empty() && text != "0")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Counts all paths, prints the results, and writes the counts if requested.
fn guard(update: bool) -> Result<(), String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("the accepted counts are of x86_64; this machine is another".to_owned());
    }
    let mut accepted = Accepted::read()?;
    let mut problems = Vec::new();
    println!("{:<28} {:>15} {:>15} {:>9}", "path", "instructions", "accepted", "change");
    let mut counts = Vec::new();
    for path in Path::ALL {
        let counted = count(path)?;
        counts.push((path, counted));
        let before = accepted.instructions.get(path.name()).copied();
        println!("{}", accepted::line(path, counted, before));
        problems.extend(verdict(path, counted, before, accepted.tolerance_percent));
    }
    let of = |wanted: Path| counts.iter().find(|(path, _)| *path == wanted).map(|(_, n)| *n);
    let growth = grows(of(Path::ChangeAtThousand), of(Path::ChangeAtTenThousand));
    if let Some(problem) = growth {
        return Err(format!("\n{problem}"));
    }
    if update {
        accepted.instructions =
            counts.iter().map(|(path, n)| (path.name().to_owned(), *n)).collect();
        accepted.write()?;
        println!("accepted: {}", accepted::FILE);
        return Ok(());
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(format!("\n{}", problems.join("\n"))),
    }
}

/// What is wrong if a change costs more in a larger cluster, which no update accepts.
fn grows(small: Option<u64>, large: Option<u64>) -> Option<String> {
    // Counts are far below what would lose a digit.
    #[allow(clippy::cast_precision_loss)]
    let factor = large? as f64 / small? as f64;
    println!("one change at 10,000 Services takes {factor:.3} times what it takes at 1,000");
    (factor > MOST_GROWTH).then(|| {
        format!(
            "a change costs {factor:.2} times as much at 10,000 Services as at 1,000: something in it \
             does work for the cluster, not for the change. This must be repaired, not accepted. To \
             see what grew:\n  {}",
            profile(Path::ChangeAtTenThousand)
        )
    })
}

/// The command that shows where the instructions of a path are spent.
pub(crate) fn profile(path: Path) -> String {
    let program = std::env::current_exe().unwrap_or_default();
    format!(
        "valgrind --tool=callgrind --toggle-collect='{}' --callgrind-out-file=callgrind.out {} {RUN} {} \
         && callgrind_annotate callgrind.out | head -n 60",
        paths::REGION,
        program.display(),
        path.name(),
    )
}

/// How many instructions a path takes.
fn count(path: Path) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|e| format!("who am I? {e}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect={}", paths::REGION))
        .arg(program)
        .args([RUN, path.name()])
        .output()
        .map_err(|e| {
            format!("cannot run valgrind: {e}; install it with integration/setup.sh guard")
        })?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected =
        text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        Some(count) if output.status.success() && count > 0 => Ok(count),
        _ => Err(format!("valgrind did not count {}:\n{text}", path.name())),
    }
}
