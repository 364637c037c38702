//! The errors of the API and their `Status` objects
//! (`k8s.io/apimachinery/pkg/api/errors`).

use std::fmt;

use serde_json::{Value, json};

use super::resources::{Resource, Verb};

/// Why a field is not accepted; the names are those of `StatusCause.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CauseReason {
    /// The value is malformed or taken.
    Invalid,
    /// The field must be given.
    Required,
    /// Another field or entry has the same value.
    Duplicate,
    /// The value is none of the known ones.
    NotSupported,
    /// The field may not be given here.
    Forbidden,
}

impl CauseReason {
    fn code(self) -> &'static str {
        match self {
            CauseReason::Invalid => "FieldValueInvalid",
            CauseReason::Required => "FieldValueRequired",
            CauseReason::Duplicate => "FieldValueDuplicate",
            CauseReason::NotSupported => "FieldValueNotSupported",
            CauseReason::Forbidden => "FieldValueForbidden",
        }
    }
}

/// One field of an object that is not accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// What is wrong.
    pub reason: CauseReason,
    /// Path of the field, such as `spec.ports[0].nodePort`.
    pub field: String,
    /// The sentence without the field, such as `Invalid value: 80: provided port is …`.
    pub message: String,
}

impl Cause {
    /// The value of a field is malformed or taken.
    pub fn invalid(field: impl Into<String>, value: &Value, why: impl fmt::Display) -> Cause {
        let message = format!("Invalid value: {value}: {why}");
        Cause { reason: CauseReason::Invalid, field: field.into(), message }
    }

    /// A field must be given.
    pub fn required(field: impl Into<String>, why: &str) -> Cause {
        let message = match why {
            "" => "Required value".to_owned(),
            why => format!("Required value: {why}"),
        };
        Cause { reason: CauseReason::Required, field: field.into(), message }
    }

    /// Another entry has the same value.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Cause {
        let message = format!("Duplicate value: {value}");
        Cause { reason: CauseReason::Duplicate, field: field.into(), message }
    }

    /// The value is none of the known ones.
    pub fn not_supported(field: impl Into<String>, value: &Value, known: &[&str]) -> Cause {
        let known: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
        Cause { reason: CauseReason::NotSupported, field: field.into(), message }
    }

    /// The field may not be given here.
    pub fn forbidden(field: impl Into<String>, why: impl fmt::Display) -> Cause {
        let message = format!("Forbidden: {why}");
        Cause { reason: CauseReason::Forbidden, field: field.into(), message }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A request that was refused. The sentences are the API's own, since clients print them and
/// tests compare them; so they do not follow the style of this project's other errors.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// 400.
    #[error("{0}")]
    BadRequest(String),
    /// 401.
    #[error("Unauthorized")]
    Unauthorized,
    /// 403: the identity may not do this.
    #[error("{} is forbidden: User {user:?} cannot {verb} resource {:?} in API group {:?} {place}",
        resource.qualified(), resource.info().plural, resource.info().group)]
    Forbidden {
        /// The user.
        user: &'static str,
        /// What for.
        verb: Verb,
        /// Of what.
        resource: Resource,
        /// `at the cluster scope` or `in the namespace "x"`.
        place: String,
    },
    /// 403: the server's own state forbids it.
    #[error("{resource} {name:?} is forbidden: {why}")]
    Refused {
        /// Of what.
        resource: Resource,
        /// Name of the object.
        name: String,
        /// The reason, for people.
        why: String,
    },
    /// 404: no such object.
    #[error("{resource} {name:?} not found")]
    NotFound {
        /// Of what.
        resource: Resource,
        /// Name of the object.
        name: String,
    },
    /// 404: no such path.
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    /// 405.
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// 406.
    #[error("only the following media types are accepted: application/json")]
    NotAcceptable,
    /// 409: the name is taken.
    #[error("{resource} {name:?} already exists")]
    AlreadyExists {
        /// Of what.
        resource: Resource,
        /// Name of the object.
        name: String,
    },
    /// 409: the object has changed since, or a precondition does not hold.
    #[error("Operation cannot be fulfilled on {resource} {name:?}: {why}")]
    Conflict {
        /// Of what.
        resource: Resource,
        /// Name of the object.
        name: String,
        /// The reason, for people.
        why: String,
    },
    /// 410: the history does not reach back that far.
    #[error("{0}")]
    Expired(String),
    /// 410 for a paged list, with a token to continue with the current objects.
    #[error(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter."
    )]
    ContinueExpired {
        /// The token.
        inconsistent: String,
    },
    /// 415.
    #[error("the body of the request was in an unknown format - accepted media types include: {0}")]
    UnsupportedMediaType(&'static str),
    /// 422.
    #[error("{} {name:?} is invalid: {}", resource.qualified_kind(), join(causes))]
    Invalid {
        /// Of what.
        resource: Resource,
        /// Name of the object, empty when it has none yet.
        name: String,
        /// The fields, at least one.
        causes: Vec<Cause>,
    },
    /// 422 for a patch that cannot be applied.
    #[error("the server rejected our request due to an error in our request")]
    UnprocessablePatch(String),
    /// 422 for the parameters of a list or watch.
    #[error("ListOptions.meta.k8s.io \"\" is invalid: {}", join(causes))]
    InvalidOptions {
        /// The parameters, at least one.
        causes: Vec<Cause>,
    },
    /// 429.
    #[error("too many requests, please try again later")]
    TooManyRequests,
    /// 500.
    #[error("Internal error occurred: {0}")]
    Internal(String),
    /// 503.
    #[error("{0}")]
    Unavailable(String),
    /// 504: the requested version does not exist yet.
    #[error("Too large resource version: {asked}, current: {current}")]
    VersionTooLarge {
        /// The requested version.
        asked: u64,
        /// The newest version there is.
        current: u64,
    },
}

fn join(causes: &[Cause]) -> String {
    match causes {
        [one] => one.to_string(),
        many => {
            let many: Vec<String> = many.iter().map(Cause::to_string).collect();
            format!("[{}]", many.join(", "))
        }
    }
}

impl ApiError {
    /// 422 for one object.
    pub fn invalid(resource: Resource, name: &str, causes: Vec<Cause>) -> ApiError {
        ApiError::Invalid { resource, name: name.to_owned(), causes }
    }

    /// The HTTP status code and the `reason` of the `Status` object.
    pub fn code_and_reason(&self) -> (u16, &'static str) {
        match self {
            ApiError::BadRequest(_) => (400, "BadRequest"),
            ApiError::Unauthorized => (401, "Unauthorized"),
            ApiError::Forbidden { .. } | ApiError::Refused { .. } => (403, "Forbidden"),
            ApiError::NotFound { .. } | ApiError::NoSuchPath => (404, "NotFound"),
            ApiError::MethodNotAllowed => (405, "MethodNotAllowed"),
            ApiError::NotAcceptable => (406, "NotAcceptable"),
            ApiError::AlreadyExists { .. } => (409, "AlreadyExists"),
            ApiError::Conflict { .. } => (409, "Conflict"),
            ApiError::Expired(_) | ApiError::ContinueExpired { .. } => (410, "Expired"),
            ApiError::UnsupportedMediaType(_) => (415, "UnsupportedMediaType"),
            ApiError::Invalid { .. }
            | ApiError::InvalidOptions { .. }
            | ApiError::UnprocessablePatch(_) => (422, "Invalid"),
            ApiError::TooManyRequests => (429, "TooManyRequests"),
            ApiError::Internal(_) => (500, "InternalError"),
            ApiError::Unavailable(_) => (503, "ServiceUnavailable"),
            ApiError::VersionTooLarge { .. } => (504, "Timeout"),
        }
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let (code, reason) = self.code_and_reason();
        let mut metadata = json!({});
        if let ApiError::ContinueExpired { inconsistent } = self {
            metadata["continue"] = json!(inconsistent);
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.to_string(),
            "reason": reason,
            "code": code,
        });
        if let Some(details) = self.details() {
            status["details"] = details;
        }
        status
    }

    fn details(&self) -> Option<Value> {
        match self {
            ApiError::NotFound { resource, name }
            | ApiError::AlreadyExists { resource, name }
            | ApiError::Conflict { resource, name, .. }
            | ApiError::Refused { resource, name, .. } => {
                Some(about(resource.info().group, resource.info().plural, name))
            }
            ApiError::Forbidden { resource, .. } => {
                Some(about(resource.info().group, resource.info().plural, ""))
            }
            ApiError::Invalid { resource, name, causes } => {
                let mut details = about(resource.info().group, resource.info().kind, name);
                details["causes"] = causes_json(causes);
                Some(details)
            }
            ApiError::InvalidOptions { causes } => {
                let mut details = about("meta.k8s.io", "ListOptions", "");
                details["causes"] = causes_json(causes);
                Some(details)
            }
            ApiError::UnprocessablePatch(why) => {
                Some(json!({"causes": [{"reason": "UnexpectedServerResponse", "message": why}]}))
            }
            ApiError::TooManyRequests | ApiError::Unavailable(_) => {
                Some(json!({"retryAfterSeconds": 1}))
            }
            ApiError::VersionTooLarge { .. } => Some(json!({
                "causes": [{
                    "reason": "ResourceVersionTooLarge",
                    "message": "Too large resource version",
                }],
                "retryAfterSeconds": 1,
            })),
            _ => None,
        }
    }
}

fn about(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({"kind": kind});
    if !name.is_empty() {
        details["name"] = json!(name);
    }
    if !group.is_empty() {
        details["group"] = json!(group);
    }
    details
}

fn causes_json(causes: &[Cause]) -> Value {
    causes
        .iter()
        .map(|c| json!({"reason": c.reason.code(), "message": c.message, "field": c.field}))
        .collect()
}
