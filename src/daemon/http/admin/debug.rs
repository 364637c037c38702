//! `/debug/`: the log's verbosity, and the answer to requests for Go's profiles.

use http::{Method, Request, StatusCode};

use super::SetVerbosity;
use crate::http::server::{Answer, TEXT, bare, typed};

/// As upstream declares answers about flags.
const FLAG: &str = "text/plain";

/// The page of flags (upstream: `apiserver/pkg/server/routes/flags.go`).
const FLAGS: &str = "<html>\n<head>\n<title>/debug/flags/</title>\n</head>\n<body>\n/debug/flags/<br>\n\
                     <br>\nflags:<br>\n<table>\n<tr>v<br>\n</table>\n<br>\nfull flags configurable<br>\n\
                     </body>\n</html>\n";

/// The answer about profiles, which only Go's runtime has.
const NO_PROFILES: &str = "no profiles are served: this is not a Go program; use perf, for example \
                           `perf record -g -p $(pidof kube-proxy)`\n";

/// Answers below `/debug/`.
pub(super) fn answer(set: &SetVerbosity, request: &Request<String>) -> Option<Answer> {
    match request.uri().path() {
        "/debug/flags/v" => Some(verbosity(set, request)),
        "/debug/flags" | "/debug/flags/" => {
            Some(bare(StatusCode::OK, "text/html; charset=utf-8", FLAGS.to_owned()))
        }
        path if path == "/debug/pprof" || path.starts_with("/debug/pprof/") => {
            Some(typed(StatusCode::NOT_IMPLEMENTED, TEXT, NO_PROFILES.to_owned()))
        }
        _ => None,
    }
}

/// Sets the verbosity (upstream: `component-base/logs`, GlogSetter).
fn verbosity(set: &SetVerbosity, request: &Request<String>) -> Answer {
    if request.method() != Method::PUT {
        let body = "unsupported http method\n".to_owned();
        return typed(StatusCode::NOT_ACCEPTABLE, FLAG, body);
    }
    let text = request.body();
    match parse(text) {
        Ok(level) => {
            set(level);
            let body = format!("successfully set klog.logging.verbosity to {text}\n");
            typed(StatusCode::OK, FLAG, body)
        }
        Err(problem) => {
            let body = format!("strconv.ParseUint: parsing {text:?}: {problem}\n");
            typed(StatusCode::BAD_REQUEST, FLAG, body)
        }
    }
}

/// Reads a level as Go's `strconv.ParseUint(text, 10, 31)` does.
fn parse(text: &str) -> Result<u32, &'static str> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("invalid syntax");
    }
    let level = text.parse::<u32>().ok().filter(|level| i32::try_from(*level).is_ok());
    level.ok_or("value out of range")
}
