//! One run: what is wanted, what is found, and how much time is left.

use std::time::Instant;

use super::objects::Scale;
use super::plan::Plan;
use super::record::Record;
use super::results::{Quantity, Subject};
use super::world::{Arena, Error, State};

/// Why a contestant could not be measured any further.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It did not do in time what was waited for.
    #[error("{0}")]
    Late(String),
    /// Something else.
    #[error(transparent)]
    Other(#[from] Error),
}

impl Failure {
    /// The program is not available, for a reason reported before.
    pub(super) fn not_running() -> Failure {
        Failure::Late("it is not running or not ready".to_owned())
    }

    /// What the kernel accounts could not be read: mostly because the process is gone.
    pub(super) fn accounts(source: std::io::Error) -> Failure {
        Failure::Other(Error::Accounts(source))
    }
}

/// A run.
pub(super) struct Session<'a> {
    pub(super) plan: &'a Plan,
    pub(super) record: Record,
    pub(super) progress: &'a dyn Fn(&str),
    /// When all has to be over.
    pub(super) end: Instant,
}

impl Session<'_> {
    /// The earlier of a moment and the end of the run.
    pub(super) fn until(&self, moment: Instant) -> Instant {
        moment.min(self.end)
    }

    /// Tells what is being done.
    pub(super) fn say(&self, what: &str, subject: &Subject, round: usize, rounds: usize) {
        self.note(&format!("{what} {subject} {round}/{rounds}"));
    }

    /// Tells something.
    pub(super) fn note(&self, text: &str) {
        (self.progress)(text);
    }

    /// Adds samples, if they are of what is wanted.
    pub(super) fn add(
        &mut self,
        subject: &Subject,
        quantity: Quantity,
        scale: Scale,
        samples: impl IntoIterator<Item = f64>,
    ) {
        if self.plan.wants(quantity) {
            self.record.add(subject, quantity, scale, samples);
        }
    }

    /// Says so if a wanted quantity has fewer samples than it should.
    pub(super) fn check_count(
        &mut self,
        subject: &Subject,
        quantity: Quantity,
        scale: Scale,
        of: usize,
    ) {
        let services = Some(scale.services);
        let count = self.record.count(subject, quantity, scale);
        if self.plan.wants(quantity) && count < of {
            let reason = format!("{count} of {of} samples were taken before the time limit");
            self.record.leave_out(subject, Some(quantity), services, reason);
        }
    }

    /// Goes on without a contestant.
    pub(super) fn drop_out(&mut self, arena: &mut Arena, scale: Scale, failure: &Failure) {
        let subject = arena.contestant.subject.clone();
        self.note(&format!("{subject} drops out: {failure}"));
        arena.state = State::Out;
        arena.running = None;
        self.record.leave_out(&subject, None, Some(scale.services), failure.to_string());
    }
}
