//! A changed configuration file, while the daemon runs.
//!
//! The file is read again every second and compared. Notification by the kernel would have to follow
//! a mounted ConfigMap through two symlinks (`..data` is swapped), does not work on every file system,
//! and fails on nodes that have run out of inotify instances, where kube-proxy does not even start.
//! A small file that is in the page cache costs three system calls.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::node::NodeSettings;
use super::options::{Settled, from_file};
use super::{RunFlags, log};
use sluice_config::Config;
use sluice_config::change::Change;

/// How often the file is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Watches the file until `stop`, which it also cancels when a change needs a restart. Only what can be read
/// twice is watched: not a pipe.
pub(super) async fn follow(
    flags: RunFlags,
    first: Settled,
    config: watch::Sender<Config>,
    shown: watch::Sender<String>,
    settings: NodeSettings,
    stop: CancellationToken,
) {
    let Some(path) = flags.config.clone() else { return };
    if !tokio::fs::metadata(&path).await.is_ok_and(|metadata| metadata.is_file()) {
        return;
    }
    let (text, current) = (Text::default(), first);
    let mut file = File { flags, path, text, current, config, shown, settings, stop };
    file.text.begin(tokio::fs::read_to_string(&file.path).await);
    let stop = file.stop.clone();
    let mut ticks = tokio::time::interval(PERIOD);
    // After a pause, one look is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // A file system that stands still must hold up neither the end nor anybody else: files are
        // read, and the node is set up, on threads for what blocks.
        tokio::select! {
            () = stop.cancelled() => return,
            () = file.look() => {}
        }
    }
}

/// What was read, so that a file is acted on once, and not while it is being written.
#[derive(Debug, Default)]
struct Text {
    seen: Option<Result<String, String>>,
    /// Whether `seen` has been acted on.
    done: bool,
}

impl Text {
    fn begin(&mut self, text: std::io::Result<String>) {
        self.seen = Some(text.map_err(|error| error.to_string()));
        self.done = true;
    }

    /// Gives a text that is new, and was the same at two looks in a row.
    fn settled(&mut self, text: std::io::Result<String>) -> Option<Result<String, String>> {
        let text = text.map_err(|error| error.to_string());
        if self.seen.as_ref() != Some(&text) {
            self.seen = Some(text);
            self.done = false;
            return None;
        }
        if std::mem::replace(&mut self.done, true) { None } else { Some(text) }
    }
}

struct File {
    flags: RunFlags,
    path: PathBuf,
    text: Text,
    current: Settled,
    config: watch::Sender<Config>,
    /// What `/configz` shows.
    shown: watch::Sender<String>,
    settings: NodeSettings,
    stop: CancellationToken,
}

impl File {
    async fn look(&mut self) {
        let read = tokio::fs::read_to_string(&self.path).await;
        match self.text.settled(read) {
            None => {}
            Some(Ok(text)) => self.take(&text).await,
            Some(Err(error)) => tracing::error!(
                "cannot read the changed configuration file {}: {error}; the configuration in force stays",
                self.path.display()
            ),
        }
    }

    async fn take(&mut self, text: &str) {
        let new = match from_file(&self.flags, text, &self.path) {
            Ok(new) => new,
            Err(error) => {
                tracing::error!("{error:#}; the configuration in force stays");
                return;
            }
        };
        new.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let change = Change::between(&self.current.wire, &new.wire);
        if !change.restart.is_empty() {
            tracing::warn!(
                fields = change.restart.join(" "),
                "the configuration file has changed in what needs a restart; ending to be started again, \
                 the rules stay in force"
            );
            self.stop.cancel();
            return;
        }
        self.apply(&new, &change).await;
        self.shown.send_replace(new.shown());
        self.current = new;
    }

    async fn apply(&self, new: &Settled, change: &Change) {
        let ignored = change.never.join(" ");
        if change.live.is_empty() {
            tracing::info!(ignored, "the configuration file has changed, without effect");
            return;
        }
        log::set_verbosity(new.config.logging.verbosity);
        let of_the_node = |name: &String| name.starts_with("conntrack.") || name == "oomScoreAdj";
        if change.live.iter().any(of_the_node) {
            let (settings, config) = (self.settings.clone(), new.config.clone());
            if tokio::task::spawn_blocking(move || settings.set_up(&config)).await.is_err() {
                tracing::error!("the node could not be set up anew; its settings stay");
            }
        }
        new.config.remarks().iter().for_each(|remark| tracing::warn!("{remark}"));
        self.config.send_replace(new.config.clone());
        tracing::info!(
            fields = change.live.join(" "),
            ignored,
            "the configuration file has changed; its new values count"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_counts_when_it_has_come_to_rest() {
        let mut text = Text::default();
        let ok = |text: &str| Ok(text.to_owned());
        text.begin(ok("a"));
        assert_eq!(text.settled(ok("a")), None, "known");
        assert_eq!(text.settled(ok("a half")), None, "being written");
        assert_eq!(text.settled(ok("b")), None, "new");
        assert_eq!(text.settled(ok("b")), Some(Ok("b".to_owned())));
        assert_eq!(text.settled(ok("b")), None, "acted on");
        let gone = || Err(std::io::Error::from(std::io::ErrorKind::NotFound));
        assert_eq!(text.settled(gone()), None, "between two symlinks");
        assert_eq!(text.settled(ok("b")), None);
        assert_eq!(text.settled(ok("b")), Some(Ok("b".to_owned())), "which changes nothing");
    }
}
