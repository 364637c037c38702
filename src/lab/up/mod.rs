//! `sluice-lab up` and the commands for a lab that is up.

#![allow(clippy::print_stdout)] // the answers

mod control;
mod dns;
mod objects;
mod place;
mod proxies;
mod supervisor;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nix::sched::{CloneFlags, setns};

use sluice_cluster::Sandbox;
use sluice_cluster::claim::remove_leftovers;
use sluice_cluster::cluster::daemon_program;

use control::{Door, Request, Response, ask};
use place::Place;
pub(crate) use supervisor::run as supervise;

/// The last line that a supervisor prints when its lab is up.
const READY: &str = "ready";

/// The modes of the daemon.
const MODES: [&str; 4] = ["nftables", "iptables", "ipvs", "userspace"];

/// Which lab.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// The name of the lab.
    #[arg(long, default_value = "lab")]
    name: String,
}

/// Flags of `up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpFlags {
    /// The name of the lab.
    #[arg(long, default_value = "lab")]
    name: String,
    /// How many nodes it has.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=26))]
    nodes: u8,
    /// The proxy mode of the daemons.
    #[arg(long, default_value = "nftables", value_parser = MODES)]
    mode: String,
}

/// Flags of `mode`.
#[derive(Debug, Args)]
pub(crate) struct ModeFlags {
    /// The proxy mode.
    #[arg(value_parser = MODES)]
    mode: String,
    /// The nodes; all if none is named.
    nodes: Vec<String>,
    #[command(flatten)]
    which: Which,
}

/// Flags of `exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecFlags {
    /// A node, a Pod (`POD` or `POD.NAMESPACE`), or `client`.
    target: String,
    #[command(flatten)]
    which: Which,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Flags of `logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsFlags {
    /// A node, for the log of its daemon, or a Pod.
    target: String,
    #[command(flatten)]
    which: Which,
}

/// Starts a lab in the background.
pub(crate) fn up(flags: &UpFlags, daemon: Option<&Path>) -> Result<()> {
    let program = daemon_program(daemon)?;
    let place = Place::of(&flags.name)?;
    drop(place.claim()?);
    let log = place.file("supervisor.log");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--daemon").arg(&program).arg("supervise").args(["--name", &flags.name]);
    command.args(["--nodes", &flags.nodes.to_string(), "--mode", &flags.mode]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(File::create(&log).with_context(|| format!("create {}", log.display()))?);
    let mut supervisor = command.spawn().context("start the lab's supervisor")?;
    for line in supervisor.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        match line?.as_str() {
            READY => return Ok(()),
            line => println!("{line}"),
        }
    }
    supervisor.wait()?;
    let why = std::fs::read_to_string(&log).unwrap_or_default();
    place.remove()?;
    bail!("the lab did not come up\n{}", why.trim_end())
}

/// Ends a lab, or removes what a dead one left.
pub(crate) fn down(which: &Which) -> Result<()> {
    let place = Place::of(&which.name)?;
    if place.is_up()? {
        ask(&place, &Request::Down)?;
        place.wait_until_down()?;
        place.remove()?;
        println!("lab {:?} is down", which.name);
        return Ok(());
    }
    let removed = place.remove()?;
    // Without root the names went with the lab's own mount namespace.
    let names = if nix::unistd::geteuid().is_root() { remove_leftovers()? } else { Vec::new() };
    ensure!(removed, "lab {:?} is not up", which.name);
    println!("lab {:?} was dead; removed its directory and {} namespaces", which.name, names.len());
    Ok(())
}

/// Prints what is there.
pub(crate) fn status(which: &Which) -> Result<()> {
    print(ask(&Place::of(&which.name)?, &Request::Status)?)
}

/// Prints the path of the kubeconfig.
pub(crate) fn kubeconfig(which: &Which) -> Result<()> {
    let place = Place::of(&which.name)?;
    place.expect_up()?;
    println!("{}", place.file("kubeconfig").display());
    Ok(())
}

/// Runs daemons in another mode.
pub(crate) fn mode(flags: ModeFlags) -> Result<()> {
    let request = Request::Mode { mode: flags.mode, nodes: flags.nodes };
    print(ask(&Place::of(&flags.which.name)?, &request)?)
}

/// Prints a log.
pub(crate) fn logs(flags: LogsFlags) -> Result<()> {
    print(ask(&Place::of(&flags.which.name)?, &Request::Logs(flags.target))?)
}

fn print(response: Response) -> Result<()> {
    let Response::Text(text) = response else { bail!("the lab gave another answer: {response:?}") };
    println!("{text}");
    Ok(())
}

/// Becomes a program in a host of the lab.
pub(crate) fn exec(flags: ExecFlags) -> Result<()> {
    let response = ask(&Place::of(&flags.which.name)?, &Request::Enter(flags.target))?;
    let Response::Door(door) = response else { bail!("the lab gave another answer: {response:?}") };
    enter(&door)?;
    let mut command = Command::new(&flags.command[0]);
    let error = command.args(&flags.command[1..]).exec();
    Err(error).with_context(|| format!("run {}", flags.command[0]))
}

/// Goes through the door; this process has one thread.
fn enter(door: &Door) -> Result<()> {
    let of = |kind: &str| File::open(format!("/proc/{}/ns/{kind}", door.pid));
    let same = |kind: &str| {
        let links = [format!("/proc/{}/ns/{kind}", door.pid), format!("/proc/self/ns/{kind}")];
        let [theirs, ours] = links.map(std::fs::read_link);
        theirs.is_ok_and(|theirs| ours.is_ok_and(|ours| theirs == ours))
    };
    let opened = (of("user"), of("mnt"));
    let (user, mounts) = (opened.0?, opened.1?);
    if !same("user") {
        setns(user.as_fd(), CloneFlags::CLONE_NEWUSER).context("enter the lab's user namespace")?;
    }
    if !same("mnt") {
        setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS).context("enter the lab's mounts")?;
    }
    let there = |(file, hidden): &&(PathBuf, PathBuf)| file.exists() && hidden.exists();
    let files: Vec<(PathBuf, PathBuf)> = door.files.iter().filter(there).cloned().collect();
    let sandbox = Sandbox::new(&door.namespace, &files, &door.hostname)?;
    sandbox.enter().with_context(|| format!("enter {}", door.namespace.display()))
}
