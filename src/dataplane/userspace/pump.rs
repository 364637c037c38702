//! Copies bytes between two connections until both directions have ended or one of them breaks.
//!
//! Short bursts are copied through a buffer that all connections of a thread share, so that an idle
//! connection has no buffer. Continuous streams are spliced through a pipe, without copies to this process.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::counters::Count;
use super::relay::Shared;
use sluice_kernel::sockets::Pipe;

/// What is read at a time.
const BUFFER: usize = 64 * 1024;

/// After so many full buffers without a pause, splicing begins.
const FULL_BUFFERS: usize = 2;

/// How long a pause may be before the pipe is given back.
const PAUSE: Duration = Duration::from_millis(200);

/// After so many rounds without a wait, others get their turn.
const ROUNDS: usize = 32;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// Joins two connections: returns when both have ended in order.
///
/// # Errors
/// If one of them broke; the other is to be reset.
pub(super) async fn join(
    shared: &Shared,
    client: &TcpStream,
    endpoint: &TcpStream,
) -> io::Result<()> {
    let counters = &shared.counters;
    let mut up = pin!(pump(shared, client, endpoint, &counters.bytes_to_endpoints));
    let mut down = pin!(pump(shared, endpoint, client, &counters.bytes_to_clients));
    // A side that has closed its sending half may still reset.
    tokio::select! {
        ended = &mut up => {
            ended?;
            tokio::select! {
                ended = &mut down => ended,
                broken = broken(client) => broken.map(drop),
            }
        }
        ended = &mut down => {
            ended?;
            tokio::select! {
                ended = &mut up => ended,
                broken = broken(endpoint) => broken.map(drop),
            }
        }
    }
}

/// Returns when a connection has broken: never in order.
async fn broken(stream: &TcpStream) -> io::Result<Infallible> {
    let error = || stream.take_error()?.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock));
    Err(stream.async_io(Interest::ERROR, error).await?)
}

/// Waits until a connection takes more, or the other one, from which that comes, has broken.
async fn writable(to: &TcpStream, from: &TcpStream) -> io::Result<()> {
    tokio::select! {
        ready = to.writable() => ready,
        broken = broken(from) => broken.map(drop),
    }
}

/// What one turn of copying came to.
enum Turn {
    /// All that was read was written; whether the buffer was full.
    Moved { full: bool },
    /// This is left to be written.
    Rest(Vec<u8>),
    /// There is nothing to read now.
    Nothing,
    /// There is nothing more to read.
    End,
}

/// One direction, to its end.
async fn pump(shared: &Shared, from: &TcpStream, to: &TcpStream, moved: &Count) -> io::Result<()> {
    let (mut full_buffers, mut rounds) = (0, 0);
    loop {
        match turn(from, to, moved)? {
            Turn::Moved { full } => {
                full_buffers = if full { full_buffers + 1 } else { 0 };
            }
            Turn::Rest(rest) => {
                let mut rest = rest.as_slice();
                while !rest.is_empty() {
                    writable(to, from).await?;
                    rest = &rest[try_write(to, rest)?..];
                }
                full_buffers += 1;
            }
            Turn::Nothing => {
                (full_buffers, rounds) = (0, 0);
                from.readable().await?;
            }
            Turn::End => return finish(to),
        }
        if full_buffers >= FULL_BUFFERS
            && let Some(mut borrowed) = shared.pipes.borrow(&shared.descriptors)
        {
            let Some(pipe) = borrowed.pipe() else { continue };
            if splice(pipe, from, to, moved).await? == Flow::Ended {
                return finish(to);
            }
            full_buffers = 0;
        }
        rounds += 1;
        if rounds == ROUNDS {
            rounds = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Reads once, and writes as much as possible without blocking.
fn turn(from: &TcpStream, to: &TcpStream, moved: &Count) -> io::Result<Turn> {
    SCRATCH.with_borrow_mut(|buffer| {
        let read = match from.try_read(buffer) {
            Ok(0) => return Ok(Turn::End),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turn::Nothing),
            Err(error) => return Err(error),
        };
        moved.add(read);
        let mut written = 0;
        while written < read {
            match try_write(to, &buffer[written..read])? {
                0 => return Ok(Turn::Rest(buffer[written..read].to_vec())),
                more => written += more,
            }
        }
        Ok(Turn::Moved { full: read == buffer.len() })
    })
}

/// Writes what goes without waiting, which may be nothing.
fn try_write(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match to.try_write(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        done => done,
    }
}

/// How splicing ended.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    /// There was a pause.
    Paused,
    /// There is nothing more to come.
    Ended,
}

/// Moves bytes through a pipe until there is a pause or an end; the pipe is empty then.
async fn splice(
    pipe: &mut Pipe,
    from: &TcpStream,
    to: &TcpStream,
    moved: &Count,
) -> io::Result<Flow> {
    let mut rounds = 0;
    loop {
        match from.try_io(Interest::READABLE, || pipe.fill(from.as_fd())) {
            Ok(0) => return Ok(Flow::Ended),
            Ok(more) => moved.add(more),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match tokio::time::timeout(PAUSE, from.readable()).await {
                    Ok(ready) => ready?,
                    Err(_) => return Ok(Flow::Paused),
                }
                continue;
            }
            Err(error) => return Err(error),
        }
        while pipe.held() > 0 {
            match to.try_io(Interest::WRITABLE, || pipe.drain(to.as_fd())) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    writable(to, from).await?;
                }
                Err(error) => return Err(error),
            }
        }
        rounds += 1;
        if rounds == ROUNDS {
            rounds = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Passes on that one side has closed its sending half.
fn finish(to: &TcpStream) -> io::Result<()> {
    match sluice_kernel::sockets::finish(to) {
        // It has been reset or closed meanwhile; the reader gets that error.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        done => done,
    }
}
