//! Scrapes. Collecting metrics may block on the kernel or on a program, so it runs on a thread that may
//! block, one scrape at a time: concurrent requests get the same text.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use sluice_telemetry::metrics::Metrics;

/// Scrapers that may wait at a time. Each holds a connection that cannot be sent away.
const MOST: usize = 64;

/// The scrapes of some metrics.
#[derive(Clone)]
pub(super) struct Scrapes {
    metrics: Metrics,
    /// The requests that wait for the current scrape.
    under_way: Arc<Mutex<Option<watch::Sender<Option<Bytes>>>>>,
}

/// There is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoText {
    /// Too many wait for it.
    TooMany,
    /// It could not be made.
    Failed,
}

impl Scrapes {
    pub(super) fn new(metrics: Metrics) -> Scrapes {
        Scrapes { metrics, under_way: Arc::default() }
    }

    /// The text of `/metrics`. Must be called within a Tokio runtime.
    pub(super) async fn text(&self) -> Result<Bytes, NoText> {
        let mut told = self.join()?;
        let text = told.wait_for(Option::is_some).await.map_err(|_| NoText::Failed)?;
        text.clone().ok_or(NoText::Failed)
    }

    /// Waits for the current scrape, or starts one.
    fn join(&self) -> Result<watch::Receiver<Option<Bytes>>, NoText> {
        let mut under_way = self.under_way();
        if let Some(tell) = &*under_way {
            let full = tell.receiver_count() >= MOST;
            return if full { Err(NoText::TooMany) } else { Ok(tell.subscribe()) };
        }
        let (tell, told) = watch::channel(None);
        *under_way = Some(tell.clone());
        // A runtime that ends drops the task here and now, and `Ends` takes the lock.
        drop(under_way);
        let (metrics, ends) = (self.metrics.clone(), Ends(self.clone()));
        tokio::task::spawn_blocking(move || {
            let text = Bytes::from(metrics.text());
            drop(ends);
            tell.send_replace(Some(text));
        });
        Ok(told)
    }

    /// The number of requests that wait for the current scrape.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.under_way().as_ref().map_or(0, watch::Sender::receiver_count)
    }

    fn under_way(&self) -> MutexGuard<'_, Option<watch::Sender<Option<Bytes>>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After this is dropped, the next request starts a scrape, however the last one ended.
struct Ends(Scrapes);

impl Drop for Ends {
    fn drop(&mut self) {
        *self.0.under_way() = None;
    }
}
