//! Which form of a page a client accepts (upstream: `apiserver/pkg/server/flagz/negotiate`).

use http::HeaderMap;
use http::header::ACCEPT;

/// Versions of the structured form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// Deprecated.
    Alpha,
    Beta,
}

impl Version {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Version::Alpha => "v1alpha1",
            Version::Beta => "v1beta1",
        }
    }
}

/// How values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Json,
    Yaml,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Text,
    /// For programs that named the version they understand.
    Structured(Syntax, Version),
    /// None that the client accepts; the refusal is written like this.
    Refused(Syntax),
}

/// The first form of the Accept header that there is; `kind` is `Flagz` or `Statusz`.
pub(super) fn form(headers: &HeaderMap, kind: &str) -> Form {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.trim().is_empty() {
        return Form::Text;
    }
    let mut refusal = Syntax::Json;
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let syntax = match media.as_str() {
            "text/plain" | "text/*" | "*/*" => return Form::Text,
            "application/json" => Syntax::Json,
            "application/yaml" => Syntax::Yaml,
            _ => continue,
        };
        let (mut version, mut group, mut named) = (None, "", "");
        for part in parts {
            match part.split_once('=') {
                Some(("v", "v1alpha1")) => version = Some(Version::Alpha),
                Some(("v", "v1beta1")) => version = Some(Version::Beta),
                Some(("g", value)) => group = value,
                Some(("as", value)) => named = value,
                _ => {}
            }
        }
        match version {
            Some(version) if group == "config.k8s.io" && named == kind => {
                return Form::Structured(syntax, version);
            }
            _ => refusal = syntax,
        }
    }
    Form::Refused(refusal)
}
