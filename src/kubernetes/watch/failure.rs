//! Why a request or a watch ended.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::Duration;

use super::lenient::Lenient;
use super::wire;

/// The maximum Retry-After that is honoured.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How much is quoted of an answer that makes no sense.
const QUOTED: usize = 60;

/// Why a request or a watch ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No answer.
    #[error("{0}")]
    Unreachable(String),
    /// The connection failed.
    #[error("{0}")]
    ConnectionRefused(String),
    /// No answer in this time, though there is a connection.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// A refusal, with Retry-After.
    #[error("the server answers {code}: {message}")]
    Refused { code: u16, message: String, retry_after: Option<Duration> },
    /// The server no longer has the resource version.
    #[error("the server no longer knows the resource version")]
    Expired,
    /// A streamed list ended before the bookmark that completes it.
    #[error("{0}")]
    Unfinished(String),
    /// A watch ended before its first event.
    #[error("the server ends the watch at once")]
    Brief,
    /// Something that is no Kubernetes API.
    #[error("the answer is not one of the Kubernetes API: {0}")]
    Malformed(String),
    /// Something that is labelled as Kubernetes' protobuf and is none.
    #[error("the server sends what is no Kubernetes protobuf: {0}")]
    NotProtobuf(String),
    /// The receiver is gone.
    #[error("the receiver of the updates is gone")]
    Unheard,
}

impl Failure {
    /// Retry-After.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Failure::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A list that takes too long.
    pub(super) fn not_within(time: Duration) -> Failure {
        Failure::Unreachable(format!("the list did not end within {time:?}"))
    }

    /// Whether the server does not have the requested encodings.
    pub(super) fn is_not_acceptable(&self) -> bool {
        matches!(self, Failure::Refused { code: 406 | 415, .. })
    }

    /// Whether the server has more to do than it can.
    pub(super) fn is_too_many_requests(&self) -> bool {
        matches!(self, Failure::Refused { code: 429, .. })
    }

    /// The error for a body that is not the expected object.
    pub(super) fn malformed(error: impl fmt::Display, text: &str) -> Failure {
        let quoted: String = text.trim().chars().take(QUOTED).collect();
        Failure::Malformed(format!("{error} in {quoted:?}"))
    }
}

/// An error with its causes; libraries put the useful part last.
pub(super) fn causes(error: &dyn Error) -> String {
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

/// A wait of so many seconds, unless it is none.
pub(super) fn believed(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
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
