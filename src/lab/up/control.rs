//! What commands ask a running lab, over a socket in its directory: one line of JSON each way.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::place::Place;

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Remove everything and end.
    Down,
    /// What is there.
    Status,
    /// How to get into a node, a Pod or the client.
    Enter(String),
    /// Run daemons in a mode; on all nodes if none is named.
    Mode { mode: String, nodes: Vec<String> },
    /// What a node's daemon or a Pod's containers wrote.
    Logs(String),
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Response {
    /// For people.
    Text(String),
    /// The way in.
    Door(Door),
    /// It did not work.
    Failed(String),
}

/// How to get into a host of the lab.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Door {
    /// A process in the lab's user and mount namespaces.
    pub(super) pid: u32,
    /// The network namespace, as that process sees it.
    pub(super) namespace: PathBuf,
    /// Files, and those that they hide.
    pub(super) files: Vec<(PathBuf, PathBuf)>,
    /// The hostname.
    pub(super) hostname: String,
}

/// Asks a lab.
pub(super) fn ask(place: &Place, request: &Request) -> Result<Response> {
    place.expect_up()?;
    let path = place.file("control");
    let connected = UnixStream::connect(&path);
    let mut stream = connected
        .with_context(|| format!("connect to {}; is the lab still starting?", path.display()))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match serde_json::from_str(&line).context("the lab ended before it answered")? {
        Response::Failed(why) => Err(anyhow!("{why}")),
        response => Ok(response),
    }
}
