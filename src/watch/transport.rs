//! Requests and the bytes of their answers.

use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use tokio::time::{Instant, timeout, timeout_at};

use super::loose::Loose;
use super::wire;

/// An object of the API is at most 1.5 MiB in etcd; no line of a watch is longer than this.
const LONGEST_LINE: usize = 64 << 20;
/// Servers may ignore `limit`, then a page is the whole list.
const LARGEST_PAGE: usize = 1 << 30;
/// A buffer that one large object has grown is given back above this size.
const USUAL_BUFFER: usize = 64 << 10;
/// How long the head of an answer may take. Servers first catch up with their store.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a page may take.
const PAGE_WITHIN: Duration = Duration::from_secs(120);

/// Why a request or a watch ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No answer.
    #[error("{0}")]
    Unreachable(String),
    /// An answer that says no.
    #[error("the server answers {code}: {message}")]
    Refused { code: u16, message: String },
    /// The server has forgotten the version to go on from.
    #[error("the server no longer knows the resource version")]
    Expired,
    /// The server does not end the initial events of a watch.
    #[error("the server does not stream lists")]
    NoStreaming,
    /// Something that is no Kubernetes API.
    #[error("the server sends what is no Kubernetes API answer: {0}")]
    Malformed(String),
    /// Nobody listens any more.
    #[error("the receiver of the updates is gone")]
    Unheard,
}

/// An error with its causes; libraries put the useful part last.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text
}

/// Sends a GET and returns the body of a successful answer.
pub(super) async fn get(client: &kube::Client, path_and_query: &str) -> Result<Body, Failure> {
    let request = Request::get(path_and_query)
        .header(ACCEPT, "application/json")
        .body(Body::empty())
        .map_err(|e| Failure::Malformed(e.to_string()))?;
    let response = timeout(ANSWER_WITHIN, client.send(request))
        .await
        .map_err(|_| Failure::Unreachable(format!("no answer within {ANSWER_WITHIN:?}")))?
        .map_err(|e| Failure::Unreachable(causes(&e)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response.into_body());
    }
    let body = Limited::new(response.into_body(), USUAL_BUFFER).collect();
    let text = match timeout(ANSWER_WITHIN, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => Bytes::new(),
    };
    Err(refusal(status, &text))
}

fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    if status == StatusCode::GONE {
        return Failure::Expired;
    }
    let message = match serde_json::from_slice::<wire::Status<'_>>(body) {
        Ok(wire::Status { message: Loose::Is(message), .. }) => message.0.into_owned(),
        _ => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    };
    let message = if message.is_empty() {
        status.canonical_reason().unwrap_or("no reason given").to_owned()
    } else {
        message
    };
    Failure::Refused { code: status.as_u16(), message }
}

/// What an ERROR event of a watch means.
pub(super) fn failure_of(status: &wire::Status<'_>) -> Failure {
    let reason = match &status.reason {
        Loose::Is(reason) => &*reason.0,
        Loose::Absent | Loose::Wrong(_) => "",
    };
    let code = match status.code {
        Loose::Is(code) => u16::try_from(code).unwrap_or(500),
        Loose::Absent | Loose::Wrong(_) => 500,
    };
    if code == 410 || matches!(reason, "Expired" | "Gone") {
        return Failure::Expired;
    }
    let message = match &status.message {
        Loose::Is(message) => message.0.clone().into_owned(),
        Loose::Absent | Loose::Wrong(_) => reason.to_owned(),
    };
    Failure::Refused { code, message }
}

/// Reads a whole page.
pub(super) async fn page(body: Body) -> Result<Bytes, Failure> {
    let whole = timeout(PAGE_WITHIN, Limited::new(body, LARGEST_PAGE).collect());
    match whole.await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) => Err(Failure::Unreachable(causes(&*error))),
        Err(_) => Err(Failure::Unreachable(format!("the list did not end within {PAGE_WITHIN:?}"))),
    }
}

/// What came of waiting for a line.
pub(super) enum Line<'a> {
    /// A line without its end.
    Text(&'a str),
    /// Nothing came until the deadline. Nothing is lost; the next call goes on.
    Silence,
    /// The server ended the answer.
    End,
}

/// The lines of a watch. At most one of them is in memory, with what arrived together with it.
pub(super) struct Lines {
    body: Body,
    buffer: Vec<u8>,
    /// Where the next line starts in the buffer.
    start: usize,
    /// Up to where the buffer was searched for a line end.
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Body) -> Lines {
        Lines { body, buffer: Vec::new(), start: 0, searched: 0 }
    }

    /// Waits for the next line that is not empty.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Line<'_>, Failure> {
        let (start, end) = loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let (start, end) = (self.start, self.searched + at);
                (self.start, self.searched) = (end + 1, end + 1);
                if start < end {
                    break (start, end);
                }
                continue;
            }
            self.compact();
            match timeout_at(until, self.body.frame()).await {
                Err(_) => return Ok(Line::Silence),
                Ok(None) => return Ok(Line::End),
                Ok(Some(Err(error))) => return Err(Failure::Unreachable(causes(&error))),
                Ok(Some(Ok(frame))) => {
                    // Trailers carry nothing.
                    self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                }
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(Failure::Malformed(format!("a line of over {LONGEST_LINE} bytes")));
            }
        };
        let line = &self.buffer[start..end];
        let text = std::str::from_utf8(line).map_err(|e| Failure::Malformed(e.to_string()))?;
        Ok(Line::Text(text))
    }

    /// Forgets the lines that were read. What is left holds no line end.
    fn compact(&mut self) {
        self.buffer.drain(..self.start);
        if self.buffer.len() < USUAL_BUFFER {
            self.buffer.shrink_to(USUAL_BUFFER);
        }
        (self.start, self.searched) = (0, self.buffer.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that arrives in these pieces. A real connection gives it kube's type.
    async fn lines_of(pieces: Vec<&'static str>) -> Lines {
        let frames = pieces.into_iter().map(|piece| {
            Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(Bytes::from(piece)))
        });
        let body = http_body_util::StreamBody::new(futures::stream::iter(frames));
        let service = tower::service_fn(move |_: Request<Body>| {
            let body = body.clone();
            async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
        });
        let client = kube::Client::new(service, "default");
        Lines::new(get(&client, "/").await.expect("the service always answers"))
    }

    #[tokio::test]
    async fn lines_are_found_wherever_the_pieces_break() {
        let mut lines = lines_of(vec!["ab", "c\n\nd", "\n", "ef", "gh\ni\nrest"]).await;
        let soon = Instant::now() + Duration::from_secs(10);
        for expected in ["abc", "d", "efgh", "i"] {
            let Ok(Line::Text(text)) = lines.next(soon).await else { panic!("no line {expected}") };
            assert_eq!(text, expected);
        }
        // A line without an end was cut off and is no line.
        assert!(matches!(lines.next(soon).await, Ok(Line::End)));
    }

    #[tokio::test]
    async fn a_long_list_is_never_in_memory_as_a_whole() {
        let line: &'static str = Box::leak(format!("{}\n", "x".repeat(4000)).into_boxed_str());
        let mut lines = lines_of(vec![line; 10_000]).await;
        let soon = Instant::now() + Duration::from_secs(60);
        let mut count = 0;
        while let Ok(Line::Text(_)) = lines.next(soon).await {
            count += 1;
            assert!(lines.buffer.capacity() <= USUAL_BUFFER, "{}", lines.buffer.capacity());
        }
        assert_eq!(count, 10_000);
    }

    #[test]
    fn refusals_say_what_the_server_said() {
        let json = br#"{"kind":"Status","message":"services is forbidden","code":403}"#;
        let table: [(u16, &[u8], &str); 4] = [
            (403, json, "the server answers 403: services is forbidden"),
            (
                502,
                b"  <html>bad gateway</html>\n",
                "the server answers 502: <html>bad gateway</html>",
            ),
            (503, b"", "the server answers 503: Service Unavailable"),
            (410, b"{}", "the server no longer knows the resource version"),
        ];
        for (code, body, expected) in table {
            let status = StatusCode::from_u16(code).expect("a status");
            assert_eq!(refusal(status, body).to_string(), expected);
        }
    }
}
