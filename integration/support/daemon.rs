//! The real daemon as a process, with a configuration file and a log that can be waited for.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::eventually;

/// A daemon that is running, in the network namespace of the thread that started it.
pub(crate) struct Daemon {
    child: Child,
    folder: TempDir,
}

/// The configuration of a node called `node-a`; `more` are further lines of YAML.
pub(crate) fn config(more: &str) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
         kind: KubeProxyConfiguration\n\
         mode: nftables\n\
         hostnameOverride: node-a\n\
         clusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
         detectLocalMode: ClusterCIDR\n\
         {more}\n"
    )
}

impl Daemon {
    /// Starts it against the API server at `url`.
    pub(crate) fn start(url: &str, config: &str) -> Daemon {
        let folder = TempDir::new().expect("a temporary folder");
        fs::write(folder.path().join("config.yaml"), config).expect("the folder is writable");
        let log = fs::File::create(folder.path().join("log")).expect("the folder is writable");
        let child = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .arg("--config")
            .arg(folder.path().join("config.yaml"))
            .args(["--master", url, "-v", "4"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        Daemon { child, folder }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The whole log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Lines of the log that contain `words`.
    pub(crate) fn lines_with(&self, words: &str) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }

    /// Waits for a line that contains `words`.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) -> String {
        self.wait_for_nth(words, 0)
    }

    /// Waits for one more line with `words` than `before`.
    #[track_caller]
    pub(crate) fn wait_for_nth(&self, words: &str, before: usize) -> String {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            if let Some(line) = self.lines_with(words).into_iter().nth(before) {
                return line;
            }
            let late = std::time::Instant::now() > deadline;
            assert!(!late, "no line with {words:?} in the log:\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Waits for the first sync of a family to be done, and gives its line.
    #[track_caller]
    pub(crate) fn wait_for_first_sync(&self, family: &str) -> String {
        self.wait_for(&format!("first sync done family={family}"))
    }

    /// The process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process number"))
    }

    /// Ends it as Kubernetes does.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        kill(self.pid(), Signal::SIGTERM).expect("the daemon is running");
        self.wait_for_exit()
    }

    /// Ends it as a crash does.
    pub(crate) fn crash(&mut self) {
        kill(self.pid(), Signal::SIGKILL).expect("the daemon is running");
        self.wait_for_exit();
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        eventually("the daemon ends", || self.child.try_wait().expect("it is our child"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// A number `name=N` in a line of the log.
#[track_caller]
pub(crate) fn number(line: &str, name: &str) -> usize {
    let rest = line.split(&format!("{name}=")).nth(1);
    let rest = rest.unwrap_or_else(|| panic!("no {name} in {line:?}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number {name} in {line:?}"))
}
