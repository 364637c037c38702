//! The queue of log lines. A separate thread writes them to standard error, so that logging never blocks: if
//! nobody reads, the oldest lines are dropped and counted.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of lines that may wait: some ten thousand lines.
const ROOM: usize = 4 << 20;

/// Bytes that are written at a time, if there are so many.
const BATCH: usize = 16 * 1024;

/// How long to wait when a descriptor that does not block (another process may have set that) takes
/// nothing.
const PAUSE: Duration = Duration::from_millis(10);

/// Lines that wait to be written.
#[derive(Debug)]
pub(super) struct Queue {
    room: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Dropped lines, in total and since the last message about them.
    lost: u64,
    unsaid: u64,
    /// Something is being written.
    writing: bool,
    /// How often something was written.
    written: u64,
}

impl Queue {
    pub(super) const fn new() -> Queue {
        Queue::with_room(ROOM)
    }

    const fn with_room(room: usize) -> Queue {
        let state = State {
            lines: VecDeque::new(),
            bytes: 0,
            lost: 0,
            unsaid: 0,
            writing: false,
            written: 0,
        };
        Queue { room, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines that made way, ever.
    pub(super) fn lost(&self) -> u64 {
        self.state().lost
    }

    /// Adds a line; it never waits.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.state();
        state.bytes += line.len();
        state.lines.push_back(line);
        // The newest one stays in any case.
        while state.bytes > self.room && state.lines.len() > 1 {
            let gone = state.lines.pop_front().map_or(0, |line| line.len());
            state.bytes -= gone;
            state.lost += 1;
            state.unsaid += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Writes queued lines, or waits for some. `say` gets the number of lost lines once others have been
    /// written again; it may push.
    pub(super) fn carry(&self, out: &mut impl Write, say: impl Fn(u64)) {
        let mut state = self.state();
        while state.lines.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut batch = state.lines.pop_front().unwrap_or_default();
        while let Some(next) = state.lines.pop_front_if(|line| batch.len() + line.len() <= BATCH) {
            batch.extend_from_slice(&next);
        }
        state.bytes -= batch.len();
        state.writing = true;
        drop(state);
        write(out, &batch);
        let lost = std::mem::take(&mut self.state().unsaid);
        if lost > 0 {
            say(lost);
        }
        let mut state = self.state();
        state.writing = false;
        state.written += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until everything is written; gives up when nothing could be for as long as `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let mut state = self.state();
        while state.writing || !state.lines.is_empty() {
            let before = state.written;
            let moves = |state: &mut State| {
                state.written == before && (state.writing || !state.lines.is_empty())
            };
            let waited = self.changed.wait_timeout_while(state, patience, moves);
            let (now, ended) = waited.unwrap_or_else(PoisonError::into_inner);
            if ended.timed_out() {
                return;
            }
            state = now;
        }
    }
}

/// Writes everything. If standard error fails permanently, there is nowhere else to report it.
fn write(out: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return,
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Takes what is written when the other end reads it.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(room: usize) -> (&'static Queue, Receiver<Vec<u8>>) {
        let queue: &'static Queue = Box::leak(Box::new(Queue::with_room(room)));
        let (sender, receiver) = sync_channel(0);
        std::thread::spawn(move || {
            let mut pipe = Pipe(sender);
            loop {
                queue.carry(&mut pipe, |lost| queue.push(format!("{lost} lost\n").into_bytes()));
            }
        });
        (queue, receiver)
    }

    fn read(receiver: &Receiver<Vec<u8>>) -> String {
        let bytes = receiver.recv_timeout(Duration::from_secs(60)).expect("something is written");
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn nobody_waits_and_what_made_way_is_said_when_it_flows_again() {
        let (queue, receiver) = queue(60);
        queue.push(b"first\n".to_vec());
        // It is taken out before the others come, and nobody reads it yet.
        while !queue.state().writing {
            std::thread::yield_now();
        }
        for number in 0..1000 {
            queue.push(format!("line {number:04}\n").into_bytes());
        }
        assert_eq!((queue.lost(), queue.state().bytes), (994, 60), "memory is bounded");
        queue.flush(Duration::from_millis(1));
        assert_eq!(read(&receiver), "first\n");
        let mut rest = String::new();
        while !rest.contains("lost") {
            rest += &read(&receiver);
        }
        // The newest lines are there; what is said of the loss took the place of one at the most.
        assert!(rest.contains("line 0999\n") && rest.ends_with("lost\n"), "{rest}");
        assert!(!rest.contains("line 0993\n"), "{rest}");
    }

    #[test]
    fn a_flush_waits_for_the_last_line_for_as_long_as_lines_go_out() {
        let (queue, receiver) = queue(1 << 20);
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            while !text.ends_with("last\n") {
                text += &read(&receiver);
            }
            text
        });
        (0..10_000).for_each(|number| queue.push(format!("{number}\n").into_bytes()));
        queue.push(b"last\n".to_vec());
        queue.flush(Duration::from_secs(60));
        assert!(!queue.state().writing && queue.state().lines.is_empty());
        assert_eq!(reading.join().expect("no panic").lines().count(), 10_001);
    }

    #[test]
    fn a_descriptor_that_does_not_block_is_asked_again() {
        struct Shy(Vec<u8>, bool);
        impl Write for Shy {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1 = !self.1;
                if self.1 {
                    return Err(ErrorKind::WouldBlock.into());
                }
                self.0.push(bytes[0]);
                Ok(1)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut shy = Shy(Vec::new(), false);
        write(&mut shy, b"whole\n");
        assert_eq!(shy.0, b"whole\n");
    }
}
