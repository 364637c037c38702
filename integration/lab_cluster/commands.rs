//! The commands of `sluice-lab`, and requests to a lab's API server.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A lab under a name that no other run has.
pub(crate) struct Lab {
    name: String,
    server: String,
    supervisor: i32,
}

/// The proxy modes that this machine has.
#[allow(clippy::print_stderr)] // says why nothing was tested
pub(crate) fn modes() -> Vec<&'static str> {
    let mut modes = vec!["nftables", "userspace"];
    if Command::new("iptables").arg("--version").output().is_ok() {
        modes.push("iptables");
    }
    if Path::new("/proc/net/ip_vs").exists() {
        modes.push("ipvs");
    } else {
        eprintln!("no mode ipvs: this kernel has no IPVS");
    }
    modes
}

/// Runs a command, and gives what it printed, or why it failed.
fn run(words: &[&str], name: &str) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-lab-under-test"));
    command.args(["--daemon", env!("CARGO_BIN_EXE_sluice-under-test")]);
    let split = words.iter().position(|word| *word == "--").unwrap_or(words.len());
    command.args(&words[..split]).args(["--name", name]).args(&words[split..]);
    output(command)
}

fn output(mut command: Command) -> Result<String, String> {
    let output = command.output().expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

impl Lab {
    pub(crate) fn up(name: &str, flags: &[&str]) -> Lab {
        Lab::named(format!("{name}-{}", std::process::id()), flags)
    }

    fn named(name: String, flags: &[&str]) -> Lab {
        let words: Vec<&str> = ["up"].iter().chain(flags).copied().collect();
        run(&words, &name).expect("the lab comes up");
        let status = run(&["status"], &name).expect("it is up");
        let number =
            status.split("supervisor").nth(1).and_then(|rest| rest.split_whitespace().next());
        let supervisor = number.and_then(|n| n.parse().ok()).expect("a process");
        let path = run(&["kubeconfig"], &name).expect("a kubeconfig");
        let text = std::fs::read_to_string(path.trim()).expect("it is there");
        let config: Value = serde_json::from_str(&text).expect("it is JSON");
        let server = config["clusters"][0]["cluster"]["server"].as_str().expect("a URL").to_owned();
        Lab { name, server, supervisor }
    }

    /// Starts a lab of the same name.
    pub(crate) fn up_again(self, flags: &[&str]) -> Lab {
        let name = self.name.clone();
        std::mem::forget(self);
        Lab::named(name, flags)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Result<String, String> {
        run(words, &self.name)
    }

    pub(crate) fn exec(&self, target: &str, words: &[&str]) -> Result<String, String> {
        let all: Vec<&str> = ["exec", target, "--"].iter().chain(words).copied().collect();
        self.command(&all)
    }

    fn request(&self, flags: &[&str], path: &str) -> Value {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body"]).args(flags).arg(format!("{}{path}", self.server));
        let text = output(command).expect("the API server answers");
        serde_json::from_str(&text).expect("it is JSON")
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.request(&[], path)
    }

    pub(crate) fn delete(&self, path: &str) {
        self.request(&["-X", "DELETE"], path);
    }

    pub(crate) fn patch(&self, path: &str, patch: &Value) {
        let kind = "Content-Type: application/merge-patch+json";
        self.request(&["-X", "PATCH", "-H", kind, "-d", &patch.to_string()], path);
    }

    /// Kills the supervisor, and waits until it is gone.
    pub(crate) fn kill(&self) {
        kill(Pid::from_raw(self.supervisor), Signal::SIGKILL).expect("it was alive");
        super::until("the supervisor ends", || match self.command(&["status"]) {
            Err(error) if error.contains("is not up") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// Ends the lab, and finds no directory, no name of a namespace and no process of it.
    pub(crate) fn down_and_look(&self) {
        let directory = PathBuf::from(self.command(&["kubeconfig"]).unwrap_or_default().trim());
        self.command(&["down"]).expect("it goes down");
        assert!(!directory.exists(), "{} is left", directory.display());
        let prefix = format!("sluice-{}-", self.supervisor);
        let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let left: Vec<String> = names
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(&prefix))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let process = PathBuf::from(format!("/proc/{}/cmdline", self.supervisor));
        let command = std::fs::read_to_string(process).unwrap_or_default();
        assert!(!command.contains("supervise"), "{command} still runs");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Of a test that failed.
        let _ = self.command(&["down"]);
    }
}
