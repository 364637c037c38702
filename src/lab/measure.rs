//! `sluice-lab bench`: the proxy modes measured side by side in a lab of network namespaces.

#![allow(clippy::print_stdout, clippy::print_stderr)] // the table, and what is being done

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::bench::results::{LeftOut, Program, Quantity, Results, SCHEMA, Subject};
use crate::bench::{self, Direct, Plan, Scale, report};
use crate::duration::duration;
use crate::fleet::{self, FleetFlags};
use sluice_cluster::cluster::daemon_program;
use sluice_cluster::{Isolation, prepare};
use sluice_config::Mode;

/// The default quantities.
const MODES: &str = "nftables,iptables,ipvs,userspace,direct";

/// Flags of the benchmark.
#[derive(Debug, Args)]
pub(crate) struct BenchFlags {
    /// Proxy modes, and `direct` for connections straight to the endpoints.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = MODES)]
    modes: Vec<Way>,
    /// Numbers of Services; one after the other is measured.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1000")]
    services: Vec<u32>,
    /// Endpoints of each Service.
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    endpoints: u32,
    /// The Go kube-proxy's program, measured in the same modes.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// What to measure, by the names that the JSON file has: coldStart, changeLatency, ….
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = quantity)]
    quantities: Vec<Quantity>,
    /// Repetitions of starts, restarts and windows of traffic.
    #[arg(long, value_name = "NUMBER", default_value_t = 5,
          value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Changes whose latency is measured.
    #[arg(long, value_name = "NUMBER", default_value_t = 50,
          value_parser = clap::value_parser!(u16).range(1..))]
    changes: u16,
    /// Changes a second of other Services, beside which the change latency in a busy cluster is measured.
    #[arg(long, value_name = "NUMBER", default_value_t = 50,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    busy_rate: u16,
    /// minSyncPeriod of all programs; what each has by itself if unset: a second in kube-proxy, none in
    /// Sluice.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    min_sync_period: Option<Duration>,
    /// The time between two changes of one program; minSyncPeriod (or a second) and 100 ms if unset.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    spacing: Option<Duration>,
    /// The length of a window of bulk traffic or connections.
    #[arg(long, value_name = "DURATION", default_value = "700ms", value_parser = duration)]
    window: Duration,
    /// The whole run. What does not fit is left out, and the results say so.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration)]
    time_limit: Duration,
    /// One start, change or restart. Who takes longer drops out, and the results say so.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    step_limit: Duration,
    /// Writes the results to this file; `-` is standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes a report with plots to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Measures nothing and reports what these files of earlier runs hold, joined into one.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    report_from: Vec<PathBuf>,
    /// Labels the results as those of a guest with this machine's kernel: their times compare among
    /// themselves only.
    #[arg(long)]
    in_guest: bool,
    #[command(flatten)]
    fleet: FleetFlags,
}

/// A way to the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Proxied(Mode),
}

impl std::str::FromStr for Way {
    type Err = String;

    fn from_str(name: &str) -> Result<Way, String> {
        match name {
            "direct" => Ok(Way::Direct),
            "" => Err(format!("the name of a mode is missing; there are {MODES}")),
            name => {
                let mode = Mode::from_name(name).map(Way::Proxied);
                mode.ok_or_else(|| format!("there is no such mode; there are {MODES}"))
            }
        }
    }
}

fn quantity(name: &str) -> Result<Quantity, String> {
    let known = |quantity: &Quantity| serde_json::to_value(quantity).unwrap_or_default();
    let found = Quantity::ALL.into_iter().find(|quantity| known(quantity) == name);
    found.ok_or_else(|| {
        let names: Vec<String> =
            Quantity::ALL.iter().filter_map(|q| known(q).as_str().map(str::to_owned)).collect();
        format!("it is not measured; there are {}", names.join(","))
    })
}

/// Measures, or reads what was measured, and shows it.
pub(crate) fn run(flags: &BenchFlags, daemon: Option<&Path>) -> Result<()> {
    if !flags.fleet.fleet.is_empty() {
        return measure_fleet(flags);
    }
    let results = if flags.report_from.is_empty() {
        measure(flags, daemon)?
    } else {
        join(&flags.report_from)?
    };
    if let Some(path) = &flags.json {
        let text = serde_json::to_string_pretty(&results)? + "\n";
        write(path, &text)?;
    }
    if let Some(path) = &flags.html {
        write(path, &report::html(&results))?;
    }
    if flags.json.as_deref() != Some(Path::new("-")) {
        print!("{}", report::table(&results));
    }
    Ok(())
}

/// Measures fleets, and shows what they asked for.
fn measure_fleet(flags: &BenchFlags) -> Result<()> {
    let services = *flags.services.first().context("--services names no number")?;
    let scale = Scale { services, endpoints: flags.endpoints };
    let progress = Progress::new();
    let show = |text: &str| progress.show(text);
    let results = fleet::run(&flags.fleet, scale, flags.time_limit, command_line(), &show)?;
    progress.end();
    if let Some(path) = &flags.json {
        write(path, &(serde_json::to_string_pretty(&results)? + "\n"))?;
    }
    if flags.json.as_deref() != Some(Path::new("-")) {
        print!("{}", bench::fleet::table(&results));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    if path == Path::new("-") {
        return Ok(std::io::stdout().write_all(text.as_bytes())?);
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn measure(flags: &BenchFlags, daemon: Option<&Path>) -> Result<Results> {
    // Files are looked for where the user is; the lab changes what is below /run only.
    let against = match &flags.against {
        Some(path) => Some(fs::canonicalize(path).with_context(|| {
            format!("--against {}: the program of the Go kube-proxy", path.display())
        })?),
        None => None,
    };
    let program = daemon_program(daemon)?;
    prepare(Isolation::Private)?;
    sluice_kernel::sockets::raise_descriptor_limit()?;
    let guest = flags.in_guest.then(kernel_release).transpose()?;
    let asked: Vec<Mode> = flags.modes.iter().filter_map(|way| way.mode()).collect();
    let lacking: Vec<(Mode, String)> =
        asked.iter().filter_map(|mode| Some((*mode, bench::missing(*mode)?))).collect();
    let modes: Vec<Mode> =
        asked.into_iter().filter(|mode| lacking.iter().all(|(l, _)| l != mode)).collect();
    let direct =
        if flags.modes.contains(&Way::Direct) { Direct::Measured } else { Direct::LeftOut };
    if modes.is_empty() && direct == Direct::LeftOut {
        let reasons: Vec<String> = lacking.iter().map(|(mode, why)| left(*mode, why)).collect();
        bail!("nothing can be measured: {}", reasons.join("; "));
    }
    let plan = Plan {
        program,
        modes,
        direct,
        services: flags.services.clone(),
        endpoints: flags.endpoints,
        against,
        repeat: flags.repeat.into(),
        changes: flags.changes.into(),
        quantities: match flags.quantities.is_empty() {
            true => Quantity::ALL.into(),
            false => flags.quantities.iter().copied().collect::<BTreeSet<Quantity>>(),
        },
        busy_rate: flags.busy_rate.into(),
        min_sync: flags.min_sync_period,
        spacing: flags.spacing,
        window: flags.window,
        time_limit: flags.time_limit,
        step_limit: flags.step_limit,
        guest,
    };
    let progress = Progress::new();
    let mut results = bench::run(&plan, command_line(), &|text| progress.show(text))?;
    progress.end();
    for (mode, why) in lacking {
        let subject =
            Subject { program: Program::Sluice, mode: mode.to_string(), guest: plan.guest.clone() };
        let reason = left(mode, &why);
        results.left_out.push(LeftOut { subject, quantity: None, services: None, reason });
    }
    Ok(results)
}

impl Way {
    fn mode(self) -> Option<Mode> {
        match self {
            Way::Direct => None,
            Way::Proxied(mode) => Some(mode),
        }
    }
}

/// Why a mode is left out, and how to measure it nevertheless.
fn left(mode: Mode, why: &str) -> String {
    format!(
        "{why}; in the repository, `make bench` measures mode {mode} in a guest that has it \
         (integration/guest/run sluice-lab bench --in-guest --modes nftables,{mode},direct)"
    )
}

fn kernel_release() -> Result<String> {
    let path = "/proc/sys/kernel/osrelease";
    Ok(fs::read_to_string(path).with_context(|| format!("read {path}"))?.trim().to_owned())
}

/// The command line, without the folders of this machine.
fn command_line() -> String {
    let mut words: Vec<String> = vec!["sluice-lab".to_owned()];
    words.extend(std::env::args_os().skip(1).map(|word| {
        let name = Path::new(&word).file_name().unwrap_or(&word);
        let path = word.to_string_lossy();
        if path.contains('/') && !path.starts_with('-') {
            name.to_string_lossy().into_owned()
        } else {
            OsStr::to_string_lossy(&word).into_owned()
        }
    }));
    words.join(" ")
}

/// Joins the results of several runs. The machine is that of the first.
fn join(paths: &[PathBuf]) -> Result<Results> {
    let mut joined: Option<Results> = None;
    for path in paths {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let results: Results = serde_json::from_str(&text)
            .with_context(|| format!("{}: not a file that `--json` wrote", path.display()))?;
        ensure!(
            results.schema == SCHEMA,
            "{}: its format is {}, this program reads {SCHEMA}",
            path.display(),
            results.schema
        );
        joined = Some(match joined {
            None => results,
            Some(joined) => joined.and(results),
        });
    }
    joined.context("no file was named")
}

/// Lines on standard error; on a terminal one line that is written over.
struct Progress {
    begun: Instant,
    terminal: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { begun: Instant::now(), terminal: std::io::stderr().is_terminal() }
    }

    fn show(&self, text: &str) {
        let seconds = self.begun.elapsed().as_secs();
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        if self.terminal {
            eprint!("\r\x1b[K{minutes:>3}:{seconds:02}  {text}");
        } else {
            eprintln!("{minutes:>3}:{seconds:02}  {text}");
        }
    }

    fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
