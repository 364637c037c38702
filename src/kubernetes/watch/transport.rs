//! Requests and the bytes of their responses.

use std::error::Error;
use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, RETRY_AFTER,
};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use kube::client::Body;
use tokio::time::timeout;

use super::content::{JSON, PROTOBUF};
use super::failure::{Failure, believed, causes};
use super::lenient::Lenient;
use super::object::{Encoding, Object};
use super::protobuf;
use super::received::{Received, USUAL_BUFFER};
use super::wire;

/// How long the head of a watch's answer may take. Servers first catch up with their store.
pub(super) const WATCH_ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long the head of a page may take: a busy server works on it for up to a minute
/// (`--request-timeout`), and asking again would only add to its work.
pub(super) const PAGE_ANSWER_WITHIN: Duration = Duration::from_secs(70);
/// How long the body of a refusal may take.
const REFUSAL_WITHIN: Duration = Duration::from_secs(10);
/// How long a page may take.
pub(super) const PAGE_WITHIN: Duration = Duration::from_secs(120);

fn no_answer(error: &(dyn Error + 'static)) -> Failure {
    let mut cause = Some(error);
    let mut refused = false;
    while let Some(error) = cause {
        let system = error.downcast_ref::<std::io::Error>();
        refused |= system.is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
        cause = error.source();
    }
    let text = causes(error);
    if refused { Failure::ConnectionRefused(text) } else { Failure::Unreachable(text) }
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Asking<'a> {
    pub(super) path_and_query: &'a str,
    /// The requested encodings.
    pub(super) accept: HeaderValue,
    /// Whether the answer may be packed.
    pub(super) gzip: bool,
}

impl Asking<'_> {
    /// For JSON as it is.
    pub(super) fn plain(path_and_query: &str) -> Asking<'_> {
        Asking { path_and_query, accept: HeaderValue::from_static(JSON), gzip: false }
    }
}

/// A successful answer.
pub(super) struct Answer {
    pub(super) encoding: Encoding,
    pub(super) received: Received,
}

/// Sends a GET and returns the successful answer, whose head comes within this time.
pub(super) async fn get(
    client: &kube::Client,
    asking: &Asking<'_>,
    within: Duration,
) -> Result<Answer, Failure> {
    let mut request = Request::get(asking.path_and_query).header(ACCEPT, &asking.accept);
    if asking.gzip {
        request = request.header(ACCEPT_ENCODING, "gzip");
    }
    let request = request.body(Body::empty()).map_err(|e| Failure::Malformed(e.to_string()))?;
    let response = timeout(within, client.send(request))
        .await
        .map_err(|_| Failure::Silent(within))?
        .map_err(|e| no_answer(&e))?;
    let (head, body) = response.into_parts();
    let packed = match text_of(&head.headers, CONTENT_ENCODING).as_str() {
        "" | "identity" => false,
        "gzip" | "x-gzip" => true,
        other => {
            let text =
                format!("an answer in the content encoding {other:?}, which was not asked for");
            return Err(Failure::Malformed(text));
        }
    };
    let media = text_of(&head.headers, CONTENT_TYPE);
    let media = media.split(';').next().unwrap_or_default().trim();
    let encoding = if media == PROTOBUF { Encoding::Protobuf } else { Encoding::Json };
    let received = Received::new(body, packed);
    if head.status.is_success() {
        return Ok(Answer { encoding, received });
    }
    let after = retry_after(head.status, &head.headers);
    let body = received.whole(USUAL_BUFFER, REFUSAL_WITHIN).await.unwrap_or_default();
    Err(refusal(head.status, after, encoding, &body))
}

fn text_of(headers: &HeaderMap, name: HeaderName) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().trim().to_ascii_lowercase()
}

/// Retry-After of a refusal. As in client-go, a date is ignored, and only 429 and 5xx are considered.
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return None;
    }
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    believed(seconds)
}

fn refusal(
    status: StatusCode,
    retry_after: Option<Duration>,
    encoding: Encoding,
    body: &[u8],
) -> Failure {
    if status == StatusCode::GONE {
        return Failure::Expired;
    }
    let object = match encoding {
        Encoding::Json => std::str::from_utf8(body).ok().map(Object::Json),
        Encoding::Protobuf => protobuf::open(body).ok().map(Object::Protobuf),
    };
    let message = match object.and_then(|object| object.decode::<wire::Status<'_>>().ok()) {
        Some(wire::Status { message: Lenient::Is(message), .. }) => message.0.into_owned(),
        _ => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    };
    let message = if message.is_empty() {
        status.canonical_reason().unwrap_or("no reason given").to_owned()
    } else {
        message
    };
    Failure::Refused { code: status.as_u16(), message, retry_after }
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;

    use super::super::failure::failure_of;
    use super::*;

    /// An answer with these headers that arrives in these pieces. A real connection gives it kube's type.
    pub(crate) async fn answer(
        headers: &[(&'static str, &str)],
        pieces: Vec<Bytes>,
    ) -> Result<Answer, Failure> {
        let headers: HeaderMap = headers
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| {
                (HeaderName::from_static(name), value.parse().expect("a header's value"))
            })
            .collect();
        let service = tower::service_fn(move |_: Request<Body>| {
            let frames = pieces
                .clone()
                .into_iter()
                .map(|piece| Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(piece)));
            let body = http_body_util::StreamBody::new(futures::stream::iter(frames));
            let mut answer = http::Response::new(body);
            *answer.headers_mut() = headers.clone();
            async move { Ok::<_, std::convert::Infallible>(answer) }
        });
        let client = kube::Client::new(service, "default");
        get(&client, &Asking::plain("/"), WATCH_ANSWER_WITHIN).await
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
            assert_eq!(refusal(status, None, Encoding::Json, body).to_string(), expected);
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
