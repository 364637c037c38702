//! Paths of the admin socket. All of them only tell.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use super::answers::{Answers, NoAnswer, change};
use super::wire::Failure;
use super::{Body, FOLLOWERS, LONGEST, dump, explain};
use crate::sync::Synced;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const EVENTS: &str = "text/event-stream";

/// Every path of this version, for whoever asks for another one.
const PATHS: &str = "/v1/status /v1/services /v1/table/v4 /v1/table/v6 /v1/changes /v1/relays \
                     /v1/rules /v1/kernel /v1/explain /v1/dump";

/// A request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// Nothing if it was too long.
    pub(super) body: Option<String>,
}

/// The answer. `follows` takes a place among those who follow, and returns whether the client is still there.
pub(super) async fn answer(
    answers: &Arc<Answers>,
    asked: Asked,
    followers: &Arc<Semaphore>,
    follows: impl FnOnce(OwnedSemaphorePermit) -> bool,
) -> Response<Body> {
    let Asked { method, uri, body } = asked;
    if body.is_none() {
        let error = format!("the request has more than {LONGEST} bytes");
        return failure(StatusCode::PAYLOAD_TOO_LARGE, error);
    }
    let path = uri.path();
    let Some(path) = path.strip_prefix("/v1/") else {
        let error = format!("this daemon answers version 1 only ({PATHS}); {path} is none of it");
        return failure(StatusCode::NOT_FOUND, error);
    };
    let Some(question) = question(path, uri.query().unwrap_or_default()) else {
        return failure(
            StatusCode::NOT_FOUND,
            format!("there is no /v1/{path}; there are {PATHS}"),
        );
    };
    if method != Method::GET {
        let error =
            format!("{method} is not allowed for /v1/{path}: this socket tells and never does");
        let mut answer = failure(StatusCode::METHOD_NOT_ALLOWED, error);
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    if question == Question::Follow {
        let Ok(place) = Arc::clone(followers).try_acquire_owned() else {
            let error = format!("{FOLLOWERS} clients follow already; end one of them");
            return failure(StatusCode::SERVICE_UNAVAILABLE, error);
        };
        follows(place);
        return follow(answers.follow());
    }
    // Not on the thread that answers probes.
    let answers = Arc::clone(answers);
    let told = tokio::task::spawn_blocking(move || tell(&answers, &question)).await;
    told.unwrap_or_else(|_| {
        failure(StatusCode::INTERNAL_SERVER_ERROR, "the answer failed; see the log".to_owned())
    })
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Question {
    Status,
    Services(Option<String>),
    Table(&'static str),
    Changes,
    Follow,
    Relays,
    Rules { service: String, mode: String },
    Kernel { service: String },
    Explain { from: String, to: String },
    Dump { redact: bool },
}

fn question(path: &str, query: &str) -> Option<Question> {
    let value = |name: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    Some(match path {
        "status" => Question::Status,
        "services" => Question::Services(value("service")),
        "table/v4" => Question::Table("v4"),
        "table/v6" => Question::Table("v6"),
        "changes" if value("follow").is_some_and(|follow| follow != "false") => Question::Follow,
        "changes" => Question::Changes,
        "relays" => Question::Relays,
        "rules" => Question::Rules {
            service: value("service").unwrap_or_default(),
            mode: value("mode").unwrap_or_default(),
        },
        "kernel" => Question::Kernel { service: value("service").unwrap_or_default() },
        "explain" => Question::Explain {
            from: value("from").unwrap_or_default(),
            to: value("to").unwrap_or_default(),
        },
        "dump" => Question::Dump { redact: value("redact").is_some_and(|on| on != "false") },
        _ => return None,
    })
}

fn tell(answers: &Answers, question: &Question) -> Response<Body> {
    match question {
        Question::Status => json(&answers.status()),
        Question::Services(None) => json(&answers.services()),
        Question::Services(Some(service)) => told(answers.service(service)),
        Question::Table(family) => told(answers.table(family)),
        Question::Changes | Question::Follow => json(&answers.changes()),
        Question::Relays => json(&answers.relays()),
        Question::Rules { service, mode } => told(answers.rules(service, mode)),
        Question::Kernel { service } => told(answers.kernel(service)),
        Question::Explain { from, to } => told(explain::explain(answers, from, to)),
        Question::Dump { redact } => text(StatusCode::OK, YAML, dump::text(answers, *redact)),
    }
}

fn told<T: Serialize>(answer: Result<T, NoAnswer>) -> Response<Body> {
    match answer {
        Ok(answer) => json(&answer),
        Err(NoAnswer::Unknown(error)) => failure(StatusCode::NOT_FOUND, error),
        Err(NoAnswer::Malformed(error)) => failure(StatusCode::BAD_REQUEST, error),
    }
}

/// Each change as an event, from now on; one that missed some is told so.
fn follow(changes: broadcast::Receiver<Arc<Synced>>) -> Response<Body> {
    let events = futures::stream::unfold(changes, |mut changes| async {
        let event = match changes.recv().await {
            Ok(synced) => {
                let change = serde_json::to_string(&change(&synced)).unwrap_or_default();
                format!("event: change\nid: {}\ndata: {change}\n\n", synced.number)
            }
            Err(RecvError::Lagged(missed)) => format!("event: missed\ndata: {missed}\n\n"),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), changes))
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(Box::pin(events))));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    answer
}

fn json<T: Serialize>(answer: &T) -> Response<Body> {
    let mut body = serde_json::to_string_pretty(answer).unwrap_or_default();
    body.push('\n');
    text(StatusCode::OK, JSON, body)
}

fn failure(status: StatusCode, error: String) -> Response<Body> {
    let mut body = serde_json::to_string(&Failure { error }).unwrap_or_default();
    body.push('\n');
    text(status, JSON, body)
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut answer = Response::new(Full::new(Bytes::from(body)).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
