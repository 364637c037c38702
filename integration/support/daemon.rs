//! The real daemon in the network namespace of a test.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;

use sluice_cluster::proxy::{Place, Proxy};

use super::PATIENCE;

/// A daemon that shows its log when a test fails.
pub(crate) struct Daemon(Proxy);

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

/// The daemon's program.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sluice-under-test"))
}

impl Daemon {
    /// Starts it against the API server at `url`.
    #[track_caller]
    pub(crate) fn start(url: &str, config: &str) -> Daemon {
        Daemon(Proxy::start(program(), Place::Here, url, config).expect("the daemon starts"))
    }

    /// Starts it by a command line of the test's own.
    #[track_caller]
    pub(crate) fn start_as(command: &mut Command) -> Daemon {
        Daemon(Proxy::start_as(command).expect("the daemon starts"))
    }

    /// Waits for a line of the log that contains `words`.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) -> String {
        self.wait_for_nth(words, 0)
    }

    /// Waits for one more line with `words` than `before`.
    #[track_caller]
    pub(crate) fn wait_for_nth(&self, words: &str, before: usize) -> String {
        self.0.wait_for(words, before, PATIENCE).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits for the first sync of a family to be done, and gives its line.
    #[track_caller]
    pub(crate) fn wait_for_first_sync(&self, family: &str) -> String {
        self.wait_for(&format!("first sync done family={family}"))
    }

    /// Ends it as Kubernetes does; it must end well.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let status = self.0.terminate(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
        assert!(status.success(), "{status}");
    }

    /// Waits until it has ended by itself, and gives its exit code.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.0.wait_for_exit(PATIENCE).unwrap_or_else(|error| panic!("{error}")).code()
    }
}

impl Deref for Daemon {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.0
    }
}

impl DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Proxy {
        &mut self.0
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.0.log());
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
