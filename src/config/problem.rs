//! Problems of a configuration.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// One problem of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The field as the file spells it: `nftables.masqueradeBit`.
    pub field: String,
    /// The field as upstream's messages spell it, below `KubeProxyConfiguration`.
    path: String,
    kind: Kind,
    /// What is allowed.
    pub rule: String,
}

/// Kinds of problems (`staging/src/k8s.io/apimachinery/pkg/util/validation/field/errors.go`).
#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Invalid(Value),
    Unsupported(Value),
    Required,
    Forbidden,
}

impl fmt::Display for Problem {
    /// Upstream's wording, followed by the field's name in the file in parentheses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KubeProxyConfiguration.{}: ", self.path)?;
        match &self.kind {
            Kind::Invalid(value) => write!(f, "Invalid value: {value}: ")?,
            Kind::Unsupported(value) => write!(f, "Unsupported value: {value}: ")?,
            Kind::Required => f.write_str("Required value: ")?,
            Kind::Forbidden => f.write_str("Forbidden: ")?,
        }
        write!(f, "{} ({})", self.rule, self.field)
    }
}

/// Collects problems while values are read; a field with a problem yields a placeholder value.
#[derive(Default)]
pub(super) struct Checks {
    pub(super) problems: Vec<Problem>,
}

impl Checks {
    fn add(&mut self, field: &str, path: &str, kind: Kind, rule: &str) {
        let (field, path, rule) = (field.to_owned(), path.to_owned(), rule.to_owned());
        self.problems.push(Problem { field, path, kind, rule });
    }

    pub(super) fn invalid(
        &mut self,
        (field, path): (&str, &str),
        value: impl Serialize,
        rule: &str,
    ) {
        let value = serde_json::to_value(value).unwrap_or_default();
        self.add(field, path, Kind::Invalid(value), rule);
    }

    pub(super) fn unsupported(&mut self, (field, path): (&str, &str), value: &str, rule: &str) {
        self.add(field, path, Kind::Unsupported(value.into()), rule);
    }

    pub(super) fn required(&mut self, (field, path): (&str, &str), rule: &str) {
        self.add(field, path, Kind::Required, rule);
    }

    pub(super) fn forbidden(&mut self, (field, path): (&str, &str), rule: &str) {
        self.add(field, path, Kind::Forbidden, rule);
    }
}
