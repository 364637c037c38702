//! The daemons of a lab: one on each node, in a mode that can be changed while it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use sluice_cluster::proxy::Place;
use sluice_cluster::{Node, Proxy};
use sluice_core::net::Family;

/// How long a daemon may take for its first sync, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The daemons by node.
#[derive(Debug)]
pub(super) struct Proxies {
    program: PathBuf,
    url: String,
    running: BTreeMap<String, (String, Proxy)>,
}

impl Proxies {
    pub(super) fn new(program: PathBuf, url: String) -> Proxies {
        Proxies { program, url, running: BTreeMap::new() }
    }

    /// Starts daemons in a mode, or those that run again in it, and waits until their rules are in place. A daemon
    /// removes what the mode before left.
    pub(super) fn set_mode(&mut self, nodes: &[Node], mode: &str) -> Result<()> {
        let mut started = Vec::new();
        for node in nodes {
            if let Some((_, mut proxy)) = self.running.remove(node.name()) {
                proxy.terminate(PATIENCE)?;
            }
            let configuration = format!(
                "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                 hostnameOverride: {}\nmode: {mode}\nclusterCIDR: 10.244.0.0/16,fd00:10:244::/48\n\
                 detectLocalMode: ClusterCIDR\n",
                node.name()
            );
            let proxy = Proxy::start(&self.program, Place::On(node), &self.url, &configuration)?;
            started.push((node.name().to_owned(), proxy));
        }
        for (node, proxy) in started {
            for family in Family::BOTH {
                let words = format!("first sync done family={family}");
                let synced = proxy.wait_for(&words, 0, PATIENCE);
                synced.with_context(|| format!("{node} in mode {mode}"))?;
            }
            self.running.insert(node, (mode.to_owned(), proxy));
        }
        Ok(())
    }

    /// The mode of a node's daemon.
    pub(super) fn mode(&self, node: &str) -> Option<&str> {
        self.running.get(node).map(|(mode, _)| mode.as_str())
    }

    /// The log of a node's daemon so far.
    pub(super) fn log(&self, node: &str) -> Option<String> {
        self.running.get(node).map(|(_, proxy)| proxy.log())
    }
}
