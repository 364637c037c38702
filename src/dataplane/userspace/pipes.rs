//! Pipes for splicing, shared by all connections.

use std::sync::{Mutex, PoisonError};

use super::descriptors::{Descriptors, Taken};
use sluice_kernel::sockets::Pipe;

/// Pipes that are kept for the next one who needs one.
const SPARE_PIPES: usize = 16;

/// Descriptors of a pipe.
const PIPE: u32 = 2;

/// Empty pipes.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    spare: Mutex<Vec<Lease>>,
}

/// A pipe, with the descriptors that it takes.
#[derive(Debug)]
struct Lease {
    pipe: Pipe,
    _taken: Taken,
}

impl Pipes {
    /// An empty one; none if descriptors are short: copying needs none.
    pub(super) fn borrow(&self, descriptors: &Descriptors) -> Option<Borrowed<'_>> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let lease = spare.or_else(|| {
            let taken = descriptors.try_take(PIPE)?;
            Some(Lease { pipe: Pipe::open().ok()?, _taken: taken })
        })?;
        Some(Borrowed { lease: Some(lease), pipes: self })
    }

    /// Keeps one for later. One that is not empty is closed, with what it holds.
    fn give(&self, lease: Lease) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if lease.pipe.held() == 0 && spare.len() < SPARE_PIPES {
            spare.push(lease);
        }
    }
}

/// A pipe that goes back to the others whatever ends its use.
pub(super) struct Borrowed<'a> {
    lease: Option<Lease>,
    pipes: &'a Pipes,
}

impl Borrowed<'_> {
    /// The pipe; there until this is dropped.
    pub(super) fn pipe(&mut self) -> Option<&mut Pipe> {
        self.lease.as_mut().map(|lease| &mut lease.pipe)
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.pipes.give(lease);
        }
    }
}
