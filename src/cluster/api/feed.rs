//! What happens to objects, for controllers in this process: a position in the store's history, as a watch has.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::Shared;
use super::resources::Resource;
use super::store::{Change, Object};

/// How many events are read at a time.
const BATCH: usize = 4096;

/// That an object was written or removed.
#[derive(Debug, Clone)]
pub struct Notice {
    /// What it is.
    pub resource: Resource,
    /// The object now; nothing if it was removed.
    pub now: Option<Arc<Object>>,
    /// The object before; nothing if it is new.
    pub before: Option<Arc<Object>>,
}

/// The objects of some resources, then every change to them, in order.
#[derive(Debug)]
pub struct Feed {
    shared: Arc<Shared>,
    /// Up to which version each resource has been told; nothing before its objects have been.
    told: BTreeMap<Resource, Option<u64>>,
    changes: watch::Receiver<u64>,
}

impl Feed {
    pub(super) fn new(shared: Arc<Shared>, resources: &[Resource]) -> Feed {
        let changes = shared.store.changes();
        let told = resources.iter().map(|resource| (resource.stored_as(), None)).collect();
        Feed { shared, told, changes }
    }

    /// What is new since the last call, oldest first; empty if nothing is.
    pub fn take(&mut self) -> Vec<Notice> {
        self.changes.mark_unchanged();
        let mut notices: Vec<(u64, Notice)> = Vec::new();
        let mut more = false;
        let state = self.shared.store.read();
        for (&resource, told) in &mut self.told {
            // A history that has been compacted is begun again with what is there.
            let events = told.and_then(|told| state.events_after(resource, told, BATCH).ok());
            let all = match events {
                Some(events) => {
                    let full = events.len() == BATCH;
                    more |= full;
                    let last = events.last().map(|event| event.version);
                    notices.extend(events.into_iter().map(|event| {
                        let gone = event.change == Change::Deleted;
                        let now = (!gone).then_some(event.object);
                        (event.version, Notice { resource, now, before: event.previous })
                    }));
                    last.filter(|_| full)
                }
                None => {
                    let objects = state.objects(resource).values().map(Arc::clone);
                    notices.extend(objects.map(|object| {
                        let notice =
                            Notice { resource, now: Some(Arc::clone(&object)), before: None };
                        (object.version, notice)
                    }));
                    None
                }
            };
            *told = Some(all.unwrap_or_else(|| state.version()));
        }
        drop(state);
        if more {
            self.changes.mark_changed();
        }
        notices.sort_by_key(|(version, _)| *version);
        notices.into_iter().map(|(_, notice)| notice).collect()
    }

    /// Waits until [`Feed::take`] may have something. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        let unfinished = self.told.values().any(Option::is_none);
        if !unfinished {
            // The other end lives in the same state.
            let _ = self.changes.changed().await;
        }
    }
}
