//! Changes of the configuration file at run time: it is read every second ([`Files`] explains why it is not
//! watched), and applied when two reads are the same.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::effective::{ConfigFile, EffectiveConfig};
use super::node_setup::NodeSettings;
use crate::log;
use sluice_config::Config;
use sluice_config::change::Change;
use sluice_kernel::files::{Files, Texts};

/// How often the file is read.
const PERIOD: Duration = Duration::from_secs(1);

/// The effective configuration, and the receivers of a new one.
pub(super) struct Reload {
    pub(super) file: ConfigFile,
    pub(super) current: EffectiveConfig,
    /// Who works by it.
    pub(super) configure: watch::Sender<Config>,
    /// What `/configz` shows.
    pub(super) show: watch::Sender<String>,
    pub(super) settings: NodeSettings,
}

impl Reload {
    /// Watches the file until `stop`, which it also cancels when a change needs a restart. Only what can be
    /// read twice is watched: not a pipe.
    pub(super) async fn follow(mut self, stop: CancellationToken) {
        let path = self.file.path.clone();
        if !tokio::fs::metadata(&path).await.is_ok_and(|metadata| metadata.is_file()) {
            return;
        }
        let mut ticks = tokio::time::interval(PERIOD);
        // After a pause, one look is enough.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let looking = async {
            // Its current text is in effect.
            let (mut files, _) = read(Files::new(vec![path]), Files::open).await?;
            loop {
                ticks.tick().await;
                let (same, news) = read(files, Files::look).await?;
                files = same;
                if let Some(news) = news.filter(|news| news.at_rest) {
                    self.take(news.texts, &stop).await;
                }
            }
        };
        let _: Option<()> = tokio::select! {
            () = stop.cancelled() => None,
            ended = looking => ended,
        };
    }

    async fn take(&mut self, texts: Result<Texts, String>, stop: &CancellationToken) {
        match texts.and_then(|texts| self.text(texts)) {
            Ok(text) => self.change(&text, stop).await,
            Err(reason) => tracing::error!(
                "cannot read the changed configuration file {reason}; the current configuration stays"
            ),
        }
    }

    fn text(&self, texts: Texts) -> Result<String, String> {
        let text = String::from_utf8(texts.parts.concat());
        text.map_err(|error| format!("{}: {error}", self.file.path.display()))
    }

    async fn change(&mut self, text: &str, stop: &CancellationToken) {
        let new = match (self.file.interpret)(text) {
            Ok(new) => new,
            Err(error) => {
                tracing::error!("{error:#}; the current configuration stays");
                return;
            }
        };
        new.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let change = Change::between(&self.current.written, &new.written);
        if !change.restart.is_empty() {
            tracing::warn!(
                fields = change.restart.join(" "),
                "the configuration file has changed in what needs a restart; ending to be started again, \
                 the rules stay in force"
            );
            stop.cancel();
            return;
        }
        self.apply(&new, &change).await;
        self.show.send_replace(new.configz());
        self.current = new;
    }

    async fn apply(&self, new: &EffectiveConfig, change: &Change) {
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
                tracing::error!("the node's settings could not be applied again; they stay");
            }
        }
        new.config.remarks().iter().for_each(|remark| tracing::warn!("{remark}"));
        self.configure.send_replace(new.config.clone());
        tracing::info!(
            fields = change.live.join(" "),
            ignored,
            "the configuration file has changed; the new values are in effect"
        );
    }
}

/// Reads on a thread that may block, because a file system may hang.
async fn read<T: Send + 'static>(
    mut files: Files,
    how: impl FnOnce(&mut Files) -> T + Send + 'static,
) -> Option<(Files, T)> {
    let reading = tokio::task::spawn_blocking(move || {
        let found = how(&mut files);
        (files, found)
    });
    reading.await.ok()
}
