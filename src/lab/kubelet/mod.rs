//! A small kubelet: it runs the Pods of one node, probes them, ends them, and says so in their status.
//!
//! There are no images. A container with a `command` runs that program of this machine in the Pod's network; one
//! without is a responder ([`responder`]), or cluster DNS if its image is [`DNS_IMAGE`]. An Event says which.

mod pod;
mod probe;
mod responder;
mod status;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use sluice_cluster::api::{ApiServer, Deletion, Feed, Key, Resource};
use sluice_cluster::{Lab, Node};
use sluice_controllers::action::Event;
use sluice_controllers::fields::{is_deleted, is_over, name, namespace, text, uid};
use sluice_controllers::run::now;

pub(crate) use pod::resolver_file;
use pod::{Said, Started};

/// The image for which cluster DNS runs.
pub(crate) const DNS_IMAGE: &str = "sluice-lab/dns";

/// Who tells of Pods.
const BY: &str = "kubelet";

/// What all kubelets of a lab share.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) lab: Arc<Lab>,
    pub(crate) api: Arc<ApiServer>,
    pub(crate) dns: sluice_dns::server::Shared,
    /// Where logs and the Pods' files are.
    pub(crate) dir: PathBuf,
}

/// A kubelet on a thread of its own. Dropping it ends its Pods.
#[derive(Debug)]
pub(crate) struct Kubelet {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// Starts the kubelet of a node.
    pub(crate) fn start(node: Node, around: Surroundings) -> io::Result<Kubelet> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let feed = around.api.feed(&[Resource::Pods]);
        let thread = std::thread::Builder::new().name(format!("kubelet:{}", node.name())).spawn(
            move || {
                let (say, heard) = mpsc::unbounded_channel();
                let pods = BTreeMap::new();
                let mut state = State { node, around, pods, say };
                runtime.block_on(state.run(feed, heard, stopped));
            },
        )?;
        Ok(Kubelet { stop, thread: Some(thread) })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported already.
            let _ = thread.join();
        }
    }
}

struct State {
    node: Node,
    around: Surroundings,
    pods: BTreeMap<Key, Started>,
    say: mpsc::UnboundedSender<Said>,
}

impl State {
    async fn run(
        &mut self,
        mut feed: Feed,
        mut heard: mpsc::UnboundedReceiver<Said>,
        stop: CancellationToken,
    ) {
        loop {
            for notice in feed.take() {
                let Some(object) = notice.now.as_ref().or(notice.before.as_ref()) else { continue };
                let key = object.key.clone();
                self.changed(&key, notice.now.map(|object| object.value())).await;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = feed.changed() => {}
                Some(said) = heard.recv() => self.heard(said).await,
            }
        }
    }

    async fn changed(&mut self, key: &Key, now: Option<Value>) {
        let running = self.pods.get(key);
        let Some(pod) = now.filter(|pod| running.is_none_or(|started| started.uid == uid(pod)))
        else {
            // It is gone without us, or another one of its name is there.
            if let Some(started) = self.pods.remove(key) {
                self.remove(&started);
            }
            return;
        };
        if text(&pod["spec"]["nodeName"]) != self.node.name() {
            return;
        }
        match (self.pods.get_mut(key), is_deleted(&pod)) {
            (None, false) if !is_over(&pod) => self.begin(key, &pod).await,
            (None, true) => self.gone(key, uid(&pod)),
            (Some(started), true) => {
                let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0);
                if started.end(key, grace, &self.say) {
                    self.tell(&pod, "Normal", "Killing", "Stopping the containers".to_owned());
                }
            }
            _ => {}
        }
    }

    async fn begin(&mut self, key: &Key, pod: &Value) {
        match Started::begin(pod, &self.node, &self.around, &self.say).await {
            Ok((started, events)) => {
                for (reason, message) in events {
                    self.tell(pod, "Normal", reason, message);
                }
                self.pods.insert(key.clone(), started);
                self.publish(key);
            }
            Err(error) => {
                tracing::warn!(pod = %name(pod), %error, "a Pod does not start");
                self.tell(pod, "Warning", "Failed", error.to_string());
            }
        }
    }

    async fn heard(&mut self, said: Said) {
        match said {
            Said::Ready { key, uid, container, ready } => {
                if let Some(started) = self.same(&key, &uid) {
                    started.set_ready(container, ready);
                    self.publish(&key);
                }
            }
            Said::Ended { key, uid, container, code } => {
                let say = self.say.clone();
                if let Some(started) = self.same(&key, &uid) {
                    started.ended(&key, container, code, &say);
                    self.publish(&key);
                    self.finish(&key, false);
                }
            }
            Said::Again { key, uid, container } => {
                let say = self.say.clone();
                if let Some(started) = self.same(&key, &uid) {
                    started.again(&key, container, &say);
                    self.publish(&key);
                }
            }
            Said::GraceOver { key, uid } => {
                if self.same(&key, &uid).is_some() {
                    self.finish(&key, true);
                }
            }
        }
    }

    fn same(&mut self, key: &Key, uid: &str) -> Option<&mut Started> {
        self.pods.get_mut(key).filter(|started| started.uid == uid)
    }

    /// Removes a Pod that is being ended and has ended, or whose time is over.
    fn finish(&mut self, key: &Key, now: bool) {
        if self
            .pods
            .get(key)
            .is_some_and(|started| started.is_ending() && (now || started.is_over()))
            && let Some(started) = self.pods.remove(key)
        {
            self.remove(&started);
            self.gone(key, &started.uid);
        }
    }

    fn remove(&self, started: &Started) {
        started.kill();
        if let Err(error) = self.around.lab.remove_pod(&started.host) {
            tracing::warn!(%error, "a Pod's network stays until the lab ends");
        }
    }

    fn gone(&self, key: &Key, uid: &str) {
        let deletion = Deletion::now(uid);
        let gone = self.around.api.delete_if(Resource::Pods, &key.namespace, &key.name, &deletion);
        if let Err(error) = gone {
            tracing::debug!(%error, "the Pod is gone already");
        }
    }

    /// Writes the status, if it differs.
    fn publish(&self, key: &Key) {
        let Some(started) = self.pods.get(key) else { return };
        let Ok(object) = self.around.api.get(Resource::Pods, &key.namespace, &key.name) else {
            return;
        };
        let mut pod = object.value();
        let status = started.status(&pod, &self.node, &now());
        if status == pod["status"] || uid(&pod) != started.uid {
            return;
        }
        pod["status"] = status;
        // What a controller writes meanwhile is not a kubelet's to respect: the status is its own.
        pod["metadata"]["resourceVersion"] = Value::Null;
        if let Err(error) = self.around.api.update_status(&pod) {
            tracing::debug!(%error, "the Pod's status is not written");
        }
    }

    fn tell(&self, pod: &Value, kind: &'static str, reason: &'static str, message: String) {
        let event = match kind {
            "Normal" => Event::normal(pod, BY, reason, message),
            _ => Event::warning(pod, BY, reason, message),
        };
        if let Err(error) = self.around.api.create(&event.object(&now())) {
            tracing::debug!(%error, namespace = %namespace(pod), "an Event is not written");
        }
    }
}
