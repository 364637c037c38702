//! A daemon that lacks what a process usually has: a reader of its log, descriptors.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice_cluster::api::ApiServer;

use super::api;
use super::http::{HEALTHZ, METRICS, get};
use super::support::daemon::{Daemon, config, program};
use super::support::{Outcome, eventually, run};

/// What a pipe holds (pipe(7)).
const PIPE: usize = 65_536;

/// A daemon whose standard error is full from the beginning.
struct Stuck {
    child: Child,
    reader: PipeReader,
}

impl Stuck {
    fn start(api: &ApiServer) -> Result<Stuck, std::io::Error> {
        let (reader, mut writer): (PipeReader, PipeWriter) = std::io::pipe()?;
        writer.write_all(&[b'\n'; PIPE])?;
        let mut command = Command::new(program());
        command.args(["--config", "/dev/stdin", "--master", &api.url(), "-v", "4"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(writer);
        let mut child = command.spawn()?;
        let text = config("nftables: {minSyncPeriod: 1ms}");
        child.stdin.take().expect("it is piped").write_all(text.as_bytes())?;
        Ok(Stuck { child, reader })
    }

    /// Ends it, and gives its exit code.
    fn terminate(&mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it is ours");
        eventually("the end of the daemon", || self.child.try_wait().expect("it is ours")).code()
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_served() {
    eventually("health", || get(HEALTHZ, "/livez").ok().filter(|reply| reply.code == 200));
    eventually("metrics", || get(METRICS, "/metrics").ok().filter(|reply| reply.code == 200));
    for family in ["ip", "ip6"] {
        let table = || run("nft", &["list", "tables", family]);
        eventually("rules", || table().contains("kube-proxy").then_some(()));
    }
}

pub(crate) fn nobody_reads() -> Outcome {
    let api = api();
    let mut stuck = Stuck::start(&api)?;
    is_served();
    assert_eq!(stuck.terminate(), Some(0), "it ends as well");
    Ok(())
}

pub(crate) fn read_late() -> Outcome {
    let api = api();
    let mut stuck = Stuck::start(&api)?;
    is_served();
    let mut reader = stuck.reader.try_clone()?;
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    assert_eq!(stuck.terminate(), Some(0));
    let text = reading.join().expect("no panic")?;
    for words in ["starting", "first sync done", "stopped; the rules stay in force"] {
        assert!(text.contains(words), "{words} is missing: {}", text.trim());
    }
    assert!(!text.contains("lost"), "{}", text.trim());
    Ok(())
}

/// A daemon with a limit of open files.
fn limited(api: &ApiServer, limit: &str) -> Result<(Daemon, tempfile::TempDir), std::io::Error> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("config");
    let more = "nftables: {minSyncPeriod: 1ms}\nmetricsBindAddress: 0.0.0.0:10249";
    std::fs::write(&file, config(more))?;
    let mut command = Command::new("sh");
    let script = format!("{limit}; exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(program()).arg("--config").arg(&file);
    command.args(["--master", &api.url()]);
    Ok((Daemon::start_as(&mut command), folder))
}

/// Descriptors that this process hands down to others.
fn inherited() -> usize {
    let listed = run("ls", &["/proc/self/fd"]);
    // Its three standard ones, and the one that it lists with.
    listed.lines().filter_map(|name| name.parse().ok()).filter(|fd: &u32| *fd < 20).count() - 4
}

pub(crate) fn few_files() -> Outcome {
    let api = api();
    let limit = 20 + inherited();
    let (daemon, _folder) = limited(&api, &format!("ulimit -n {limit}"))?;
    daemon.wait_for_first_sync("IPv4");
    daemon.wait_for_first_sync("IPv6");
    let line = daemon.wait_for(&format!("may have {limit} open files"));
    assert!(line.contains("WARN") && line.contains("LimitNOFILE"), "{line}");
    let live = |host: &str| {
        let at = format!("{host}:10256");
        eventually("health", || get(&at, "/livez").ok().filter(|reply| reply.code == 200));
    };
    live("127.0.0.1");
    live("[::1]");
    // Programs that use the remaining descriptors do not keep them.
    let connect =
        || TcpStream::connect_timeout(&HEALTHZ.parse().ok()?, Duration::from_secs(10)).ok();
    let guests: Vec<TcpStream> = (0..30).filter_map(|_| connect()).collect();
    live("127.0.0.1");
    live("[::1]");
    drop(guests);
    let said = daemon.lines_with("cannot accept").len();
    assert!(said <= 2, "it is said once for each server: {said}");
    Ok(())
}

pub(crate) fn raised() -> Outcome {
    let api = api();
    let (daemon, _folder) = limited(&api, "ulimit -S -n 20")?;
    daemon.wait_for_first_sync("IPv4");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid()))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).collect();
    assert_eq!(numbers.first(), numbers.get(1), "soft and hard: {line}");
    assert_eq!(daemon.lines_with("open files and needs").len(), 0);
    Ok(())
}
