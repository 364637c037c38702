//! Continuous traffic: single long-lived connections, and many concurrent ones whose failures are
//! counted, for tests of what a restart or a change does to traffic.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::host::Host;
use super::traffic::{Answer, Dialled, Error, Probe, Tally, ask, dial};

/// What is sent over held connections again and again.
const LINE: &str = "are you still there?\n";

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Broken {
    /// The connection could not be used.
    #[error("the connection to {peer} broke: {source}")]
    Io { peer: SocketAddr, source: io::Error },
    /// What came back is not what was sent.
    #[error("the connection to {peer} echoed {echo:?} for {sent:?}")]
    WrongEcho { peer: SocketAddr, sent: String, echo: String },
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum ConnectError {
    /// It could not even be tried.
    #[error(transparent)]
    Probe(#[from] Error),
    /// The network did not let it come about.
    #[error("connect to {destination}: {answer}")]
    NotAnswered { destination: SocketAddr, answer: Answer },
    /// The connection was established, but cannot be used.
    #[error("take over the connection to {destination}: {source}")]
    TakeOver { destination: SocketAddr, source: io::Error },
}

/// A TCP connection to a pod, to be kept while other things happen.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    peer: SocketAddr,
    answer: Answer,
}

impl Connection {
    /// The pod's first answer; always [`Answer::Answered`].
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// Sends a line (without its end) and waits for its echo for the time of the probe's timeout.
    pub fn exchange(&mut self, line: &str) -> Result<(), Broken> {
        let broken = |peer, source| Broken::Io { peer, source };
        let sent = format!("{line}\n");
        let written = self.stream.get_mut().write_all(sent.as_bytes());
        written.map_err(|source| broken(self.peer, source))?;
        let mut echo = String::new();
        self.stream.read_line(&mut echo).map_err(|source| broken(self.peer, source))?;
        if echo.is_empty() {
            return Err(broken(self.peer, io::ErrorKind::UnexpectedEof.into()));
        }
        if echo != sent {
            return Err(Broken::WrongEcho { peer: self.peer, sent, echo });
        }
        Ok(())
    }
}

/// What a load's connections do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadKind {
    /// Each makes a new connection again and again; any protocol.
    NewConnections,
    /// Each is kept, and a line is sent and its echo awaited again and again; TCP only. One that
    /// breaks counts as a failure and is opened again.
    HeldConnections,
}

/// What load to put on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadSpec {
    /// Where to and how; the timeout is that of each exchange.
    pub probe: Probe,
    /// What the connections do.
    pub kind: LoadKind,
    /// How many there are at a time.
    pub connections: usize,
    /// How long each rests between two exchanges.
    pub pause: Duration,
}

/// A load that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: CancellationToken,
    lanes: Vec<tokio::task::JoinHandle<()>>,
    host: Host,
}

impl Load {
    /// What was counted so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets every connection finish its exchange, and gives the final count.
    pub fn stop(mut self) -> Result<Tally, Error> {
        self.stop.cancel();
        let lanes = std::mem::take(&mut self.lanes);
        self.host.namespace().block_on(futures::future::join_all(lanes))?;
        Ok(self.tally())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Host {
    /// Makes a TCP connection to a pod from this host, and keeps it.
    pub fn connect(&self, probe: &Probe) -> Result<Connection, ConnectError> {
        let (host, probe) = (self.clone(), *probe);
        let dialled = self.namespace().block_on(async move { take_over(&host, &probe).await });
        dialled.map_err(Error::from)?
    }

    /// Starts a load from this host.
    pub fn load(&self, spec: LoadSpec) -> Result<Load, Error> {
        let mut load = Load {
            tally: Arc::default(),
            stop: CancellationToken::new(),
            lanes: Vec::new(),
            host: self.clone(),
        };
        for _ in 0..spec.connections {
            let (host, tally) = (self.clone(), Arc::clone(&load.tally));
            let stop = load.stop.clone();
            let lane = async move { exercise(&host, &spec, &tally, &stop).await };
            load.lanes.push(self.namespace().spawn(lane)?);
        }
        Ok(load)
    }
}

async fn take_over(host: &Host, probe: &Probe) -> Result<Connection, ConnectError> {
    let destination = probe.destination;
    let Dialled { stream, answer } = match dial(host, probe).await? {
        Ok(dialled @ Dialled { answer: Answer::Answered { .. }, .. }) => dialled,
        Ok(Dialled { answer, .. }) | Err(answer) => {
            return Err(ConnectError::NotAnswered { destination, answer });
        }
    };
    let take_over = || {
        let stream = stream.into_inner().into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(probe.timeout))?;
        stream.set_write_timeout(Some(probe.timeout))?;
        Ok(Connection { stream: BufReader::new(stream), peer: destination, answer })
    };
    take_over().map_err(|source| ConnectError::TakeOver { destination, source })
}

/// One of a load's connections, until the load is stopped.
async fn exercise(host: &Host, spec: &LoadSpec, tally: &Mutex<Tally>, stop: &CancellationToken) {
    let count = |result: Result<Answer, String>| {
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(answer) => tally.add(&answer),
            Err(failure) => tally.fail(failure),
        }
    };
    let mut held = None;
    while !stop.is_cancelled() {
        match spec.kind {
            LoadKind::NewConnections => {
                count(ask(host, &spec.probe).await.map_err(|error| error.to_string()));
            }
            LoadKind::HeldConnections => {
                let (next, result) = use_held(host, &spec.probe, held.take()).await;
                held = next;
                count(result);
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(spec.pause) => {}
        }
    }
}

/// Opens the connection if there is none, or sends a line over it and waits for the echo. Returns the connection
/// if it is still good.
async fn use_held(
    host: &Host,
    probe: &Probe,
    held: Option<Dialled>,
) -> (Option<Dialled>, Result<Answer, String>) {
    let Some(mut held) = held else {
        return match dial(host, probe).await {
            Ok(Ok(dialled)) => {
                let answer = dialled.answer.clone();
                (Some(dialled), Ok(answer))
            }
            Ok(Err(answer)) => (None, Ok(answer)),
            Err(error) => (None, Err(error.to_string())),
        };
    };
    let exchange = async {
        held.stream.get_mut().write_all(LINE.as_bytes()).await?;
        let mut echo = String::new();
        held.stream.read_line(&mut echo).await?;
        if echo == LINE { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
    };
    match tokio::time::timeout(probe.timeout, exchange).await {
        Ok(Ok(())) => {
            let answer = held.answer.clone();
            (Some(held), Ok(answer))
        }
        Ok(Err(error)) => (None, Err(format!("a held connection broke: {error}"))),
        Err(_) => (None, Err("a held connection went silent".to_owned())),
    }
}
