//! Requests by clients: counters and a log, for tests and for students.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::resources::{Resource, Verb};

/// How many requests the log holds.
const LOG_LIMIT: usize = 10_000;

/// One request to a resource.
#[derive(Debug, Clone)]
pub struct Request {
    /// When it arrived.
    pub at: Instant,
    /// The request.
    pub verb: Verb,
    /// Of what.
    pub resource: Resource,
    /// Path and query.
    pub path: String,
    /// `User-Agent` of the client, empty without one.
    pub user_agent: String,
}

/// The record of requests.
#[derive(Debug, Default)]
pub struct Requests {
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    counts: BTreeMap<(Verb, Resource), u64>,
    open_watches: BTreeMap<Resource, usize>,
    log: VecDeque<Request>,
}

impl Requests {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many such requests there have been since the start or the last [`Requests::reset`].
    pub fn count(&self, verb: Verb, resource: Resource) -> u64 {
        self.record().counts.get(&(verb, resource)).copied().unwrap_or_default()
    }

    /// How many watches of a resource are open now.
    pub fn open_watches(&self, resource: Resource) -> usize {
        self.record().open_watches.get(&resource).copied().unwrap_or_default()
    }

    /// All counters.
    pub fn counts(&self) -> BTreeMap<(Verb, Resource), u64> {
        self.record().counts.clone()
    }

    /// The latest 10,000 requests, oldest first.
    pub fn log(&self) -> Vec<Request> {
        self.record().log.iter().cloned().collect()
    }

    /// Sets the counters to zero and empties the log.
    pub fn reset(&self) {
        let mut record = self.record();
        record.counts.clear();
        record.log.clear();
    }

    pub(super) fn add(&self, request: Request) {
        let mut record = self.record();
        *record.counts.entry((request.verb, request.resource)).or_default() += 1;
        if record.log.len() == LOG_LIMIT {
            record.log.pop_front();
        }
        record.log.push_back(request);
    }

    pub(super) fn watch_opened(&self, resource: Resource) {
        *self.record().open_watches.entry(resource).or_default() += 1;
    }

    pub(super) fn watch_closed(&self, resource: Resource) {
        if let Some(count) = self.record().open_watches.get_mut(&resource) {
            *count = count.saturating_sub(1);
        }
    }
}
