//! As much of an HTTP client as a test needs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Where operators ask.
pub(crate) const METRICS: &str = "127.0.0.1:10249";
/// Where load balancers ask.
pub(crate) const HEALTHZ: &str = "127.0.0.1:10256";

/// A response as it came over the wire.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    /// The status line and the headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    /// A header's value; names are compared as they are written.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks, and reads the whole answer.
pub(crate) fn ask(at: &str, method: &str, path: &str, more: &str, body: &str) -> io::Result<Reply> {
    let at: SocketAddr = at.parse().map_err(io::Error::other)?;
    let patience = Duration::from_secs(30);
    let mut stream = TcpStream::connect_timeout(&at, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: {length}\r\n\
         {more}\r\n{body}"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (code, body) = head_of(&text).ok_or(io::ErrorKind::UnexpectedEof)?;
    let head = text[..text.len() - body.len()].to_owned();
    Ok(Reply { code, head, body: body.to_owned() })
}

/// The code of a whole answer, and its body.
pub(crate) fn head_of(text: &str) -> Option<(u16, &str)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body))
}

/// Asks with GET.
pub(crate) fn get(at: &str, path: &str) -> io::Result<Reply> {
    ask(at, "GET", path, "", "")
}
