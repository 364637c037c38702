//! Requests and the bytes of their answers.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, RETRY_AFTER};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use tokio::time::{Instant, timeout, timeout_at};

use super::lenient::Lenient;
use super::wire;

/// An object of the API is at most 1.5 MiB in etcd; no line of a watch is longer than this.
const LONGEST_LINE: usize = 64 << 20;
/// A server may ignore `limit` and send the whole list as one page.
const LARGEST_PAGE: usize = 1 << 30;
/// A buffer that one large object has grown is given back above this size.
const USUAL_BUFFER: usize = 64 << 10;
/// How long the head of a watch's answer may take. Servers first catch up with their store.
pub(super) const WATCH_ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long the head of a page may take: a busy server works on it for up to a minute
/// (`--request-timeout`), and asking again would only add to its work.
pub(super) const PAGE_ANSWER_WITHIN: Duration = Duration::from_secs(70);
/// How long the body of a refusal may take.
const REFUSAL_WITHIN: Duration = Duration::from_secs(10);
/// How long a page may take.
const PAGE_WITHIN: Duration = Duration::from_secs(120);
/// A longer wait than this is not granted to a server that asks for one.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How much is quoted of an answer that makes no sense.
const QUOTED: usize = 60;

/// Why a request or a watch ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No answer.
    #[error("{0}")]
    Unreachable(String),
    /// No answer in this time, though there is a connection.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// An answer that says no, and for how long the server wants to be left alone.
    #[error("the server answers {code}: {message}")]
    Refused { code: u16, message: String, retry_after: Option<Duration> },
    /// The server has forgotten the version to go on from.
    #[error("the server no longer knows the resource version")]
    Expired,
    /// A streamed list did not get as far as the bookmark that completes it.
    #[error("{0}")]
    Unfinished(String),
    /// A watch was over before it said anything.
    #[error("the server ends the watch at once")]
    Brief,
    /// Something that is no Kubernetes API.
    #[error("the server sends what is no Kubernetes API answer: {0}")]
    Malformed(String),
    /// Nobody listens any more.
    #[error("the receiver of the updates is gone")]
    Unheard,
}

impl Failure {
    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Failure::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the server has more to do than it can.
    pub(super) fn is_too_many_requests(&self) -> bool {
        matches!(self, Failure::Refused { code: 429, .. })
    }

    /// What became of a text that is not what was asked for.
    pub(super) fn malformed(error: impl fmt::Display, text: &str) -> Failure {
        let quoted: String = text.trim().chars().take(QUOTED).collect();
        Failure::Malformed(format!("{error} in {quoted:?}"))
    }
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

/// Sends a GET and returns the body of a successful answer, whose head comes within this time.
pub(super) async fn get(
    client: &kube::Client,
    path_and_query: &str,
    within: Duration,
) -> Result<Body, Failure> {
    let request = Request::get(path_and_query)
        .header(ACCEPT, "application/json")
        .body(Body::empty())
        .map_err(|e| Failure::Malformed(e.to_string()))?;
    let response = timeout(within, client.send(request))
        .await
        .map_err(|_| Failure::Silent(within))?
        .map_err(|e| Failure::Unreachable(causes(&e)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response.into_body());
    }
    let after = retry_after(status, response.headers());
    let body = Limited::new(response.into_body(), USUAL_BUFFER).collect();
    let text = match timeout(REFUSAL_WITHIN, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => Bytes::new(),
    };
    Err(refusal(status, after, &text))
}

/// For how long a refusing server wants to be left alone. As by client-go, a date is not read, and
/// only a refusal counts that is the server's trouble.
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return None;
    }
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    believed(seconds)
}

/// A wait of so many seconds, unless it is none.
fn believed(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

fn refusal(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Failure {
    if status == StatusCode::GONE {
        return Failure::Expired;
    }
    let message = match serde_json::from_slice::<wire::Status<'_>>(body) {
        Ok(wire::Status { message: Lenient::Is(message), .. }) => message.0.into_owned(),
        _ => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    };
    let message = if message.is_empty() {
        status.canonical_reason().unwrap_or("no reason given").to_owned()
    } else {
        message
    };
    Failure::Refused { code: status.as_u16(), message, retry_after }
}

/// What an ERROR event of a watch means.
pub(super) fn failure_of(status: &wire::Status<'_>) -> Failure {
    let reason = match &status.reason {
        Lenient::Is(reason) => &*reason.0,
        Lenient::Absent | Lenient::Wrong(_) => "",
    };
    let code = match status.code {
        Lenient::Is(code) => u16::try_from(code).unwrap_or(500),
        Lenient::Absent | Lenient::Wrong(_) => 500,
    };
    if code == 410 || matches!(reason, "Expired" | "Gone") {
        return Failure::Expired;
    }
    let message = match &status.message {
        Lenient::Is(message) => message.0.clone().into_owned(),
        Lenient::Absent | Lenient::Wrong(_) => reason.to_owned(),
    };
    let retry_after = match &status.details {
        Lenient::Is(wire::StatusDetails { retry_after_seconds: Lenient::Is(seconds) }) => {
            u64::try_from(*seconds).ok().and_then(believed)
        }
        _ => None,
    };
    Failure::Refused { code, message, retry_after }
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
        let body = get(&client, "/", WATCH_ANSWER_WITHIN).await;
        Lines::new(body.expect("the service always answers"))
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
            assert_eq!(refusal(status, None, body).to_string(), expected);
        }
    }

    #[test]
    fn a_refusing_server_is_left_alone_for_as_long_as_it_says_within_reason() {
        let table = [
            (429, "1", Some(1)),
            (503, " 30 ", Some(30)),
            (500, "3600", Some(60)),
            (429, "0", None),
            (429, "-1", None),
            (429, "Fri, 27 Nov 2026 19:00:00 GMT", None),
            (403, "1", None),
        ];
        for (code, text, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("a header's value"));
            let status = StatusCode::from_u16(code).expect("a status");
            assert_eq!(retry_after(status, &headers), expected.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn an_error_event_can_say_for_how_long_as_well() {
        let status = r#"{"code":429,"message":"busy","details":{"retryAfterSeconds":7}}"#;
        let failure = failure_of(&serde_json::from_str(status).expect("a Status"));
        assert_eq!(failure.retry_after(), Some(Duration::from_secs(7)));
        assert!(failure.is_too_many_requests());
    }
}
