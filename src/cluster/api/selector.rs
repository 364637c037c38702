//! Label and field selectors (`k8s.io/apimachinery/pkg/labels` and `…/fields`).

use serde_json::Value;

use super::resources::Resource;
use super::status::ApiError;
use super::store::Object;

/// Which objects of a collection a request is about.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    /// Empty for all namespaces.
    pub(super) namespace: String,
    labels: Vec<LabelTerm>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelTerm {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Greater(String, i64),
    Less(String, i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    field: &'static str,
    value: String,
    wanted: Wanted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Equal,
    Different,
}

impl Selector {
    /// The selector of a request; empty texts select everything.
    pub(super) fn parse(
        resource: Resource,
        namespace: &str,
        labels: &str,
        fields: &str,
    ) -> Result<Selector, ApiError> {
        Ok(Selector {
            namespace: namespace.to_owned(),
            labels: parse_labels(labels)?,
            fields: parse_fields(resource, fields)?,
        })
    }

    /// Whether it lets some objects of its namespace out.
    pub(super) fn is_selective(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    /// Whether the object is selected.
    pub(super) fn matches(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || self.namespace == object.key.namespace)
            && self.labels.iter().all(|term| label_matches(term, object))
            && (self.fields.is_empty() || self.fields_match(object))
    }

    fn fields_match(&self, object: &Object) -> bool {
        let mut parsed = None;
        self.fields.iter().all(|term| {
            let equal = match term.field {
                "metadata.name" => object.key.name == term.value,
                "metadata.namespace" => object.key.namespace == term.value,
                field => {
                    let value = parsed.get_or_insert_with(|| object.value());
                    field_text(value, field) == term.value
                }
            };
            equal == (term.wanted == Wanted::Equal)
        })
    }
}

fn label_matches(term: &LabelTerm, object: &Object) -> bool {
    let number = |name: &str| object.label(name).and_then(|v| v.parse::<i64>().ok());
    match term {
        LabelTerm::Exists(name) => object.label(name).is_some(),
        LabelTerm::Absent(name) => object.label(name).is_none(),
        LabelTerm::In(name, values) => {
            object.label(name).is_some_and(|v| values.iter().any(|w| w == v))
        }
        LabelTerm::NotIn(name, values) => {
            object.label(name).is_none_or(|v| values.iter().all(|w| w != v))
        }
        LabelTerm::Greater(name, bound) => number(name).is_some_and(|n| n > *bound),
        LabelTerm::Less(name, bound) => number(name).is_some_and(|n| n < *bound),
    }
}

fn parse_labels(text: &str) -> Result<Vec<LabelTerm>, ApiError> {
    split_outside_parentheses(text)
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| {
            parse_label(part).ok_or_else(|| {
                ApiError::BadRequest(format!("unable to parse requirement: found {part:?}"))
            })
        })
        .collect()
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .collect()
}

fn parse_label(part: &str) -> Option<LabelTerm> {
    if let Some(name) = part.strip_prefix('!') {
        return Some(LabelTerm::Absent(label_name(name)?));
    }
    if let Some(list) = part.strip_suffix(')') {
        let (head, values) = list.split_once('(')?;
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        let name = label_name(words.next()?)?;
        return match (words.next()?, words.next()) {
            ("in", None) => Some(LabelTerm::In(name, values)),
            ("notin", None) => Some(LabelTerm::NotIn(name, values)),
            _ => None,
        };
    }
    for operator in ["!=", "==", "=", ">", "<"] {
        if let Some((name, value)) = part.split_once(operator) {
            let name = label_name(name)?;
            let value = value.trim().to_owned();
            return match operator {
                "!=" => Some(LabelTerm::NotIn(name, vec![value])),
                ">" => Some(LabelTerm::Greater(name, value.parse().ok()?)),
                "<" => Some(LabelTerm::Less(name, value.parse().ok()?)),
                _ => Some(LabelTerm::In(name, vec![value])),
            };
        }
    }
    Some(LabelTerm::Exists(label_name(part)?))
}

fn label_name(text: &str) -> Option<String> {
    let text = text.trim();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    (!text.is_empty() && text.bytes().all(allowed)).then(|| text.to_owned())
}

/// The fields that a resource can be selected by: those of the conversion functions in
/// `pkg/apis/*/v1/conversion.go`.
fn selectable(resource: Resource) -> &'static [&'static str] {
    match resource {
        Resource::Services => {
            &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"]
        }
        Resource::Pods => &[
            "metadata.name",
            "metadata.namespace",
            "spec.hostNetwork",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.nominatedNodeName",
            "status.phase",
            "status.podIP",
        ],
        Resource::Nodes => &["metadata.name", "spec.unschedulable"],
        Resource::Namespaces => &["metadata.name", "status.phase"],
        Resource::EndpointSlices | Resource::Deployments => {
            &["metadata.name", "metadata.namespace"]
        }
        Resource::ReplicaSets => &["metadata.name", "metadata.namespace", "status.replicas"],
        Resource::ServiceCidrs => &["metadata.name"],
        Resource::Events => &[
            "involvedObject.apiVersion",
            "involvedObject.fieldPath",
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.resourceVersion",
            "involvedObject.uid",
            "metadata.name",
            "metadata.namespace",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        Resource::NewEvents => &[
            "metadata.name",
            "metadata.namespace",
            "reason",
            "regarding.apiVersion",
            "regarding.fieldPath",
            "regarding.kind",
            "regarding.name",
            "regarding.namespace",
            "regarding.resourceVersion",
            "regarding.uid",
            "reportingController",
            "type",
        ],
    }
}

fn parse_fields(resource: Resource, text: &str) -> Result<Vec<FieldTerm>, ApiError> {
    text.split(',').filter(|part| !part.trim().is_empty()).map(|p| field(resource, p)).collect()
}

fn field(resource: Resource, part: &str) -> Result<FieldTerm, ApiError> {
    let split = ["!=", "==", "="].into_iter().find_map(|op| {
        let wanted = if op == "!=" { Wanted::Different } else { Wanted::Equal };
        part.split_once(op).map(|(name, value)| (name.trim(), value, wanted))
    });
    let Some((name, value, wanted)) = split else {
        let message = format!("invalid selector: '{part}'; can't understand '{part}'");
        return Err(ApiError::BadRequest(message));
    };
    let Some(field) = selectable(resource).iter().copied().find(|f| *f == name) else {
        let message = format!("field label not supported: {name}");
        return Err(ApiError::BadRequest(message));
    };
    Ok(FieldTerm { field, value: value.to_owned(), wanted })
}

/// A field as selectors see it: text, with nothing for an absent one. Stored events have the field
/// names of the core group.
fn field_text(value: &Value, field: &str) -> String {
    let field = match field {
        "source" => "source.component",
        "reportingController" => "reportingComponent",
        other => other,
    };
    let mut at = value;
    for part in field.split('.') {
        at = &at[if part == "regarding" { "involvedObject" } else { part }];
    }
    match at {
        Value::String(text) => text.clone(),
        Value::Null if matches!(field, "spec.hostNetwork" | "spec.unschedulable") => {
            "false".to_owned()
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(labels: &str, fields: &str) -> bool {
        let value = json!({
            "metadata": {"namespace": "web", "name": "front", "labels": {"app": "a", "n": "7"}},
            "spec": {"type": "NodePort", "clusterIP": "10.0.0.1"},
        });
        let object = Object::new(Resource::Services, value, 1);
        let selector = Selector::parse(Resource::Services, "", labels, fields);
        selector.expect("a valid selector").matches(&object)
    }

    #[test]
    fn label_selectors_select_as_documented() {
        let table = [
            ("", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("app=a", true),
            ("app==a,n=7", true),
            ("app!=a", false),
            ("other!=a", true),
            ("app in (b, a)", true),
            ("app notin (b,a),n", false),
            ("other notin (a)", true),
            ("n>6,n<8", true),
            ("n>7", false),
            ("!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless", true),
        ];
        for (labels, expected) in table {
            assert_eq!(matches(labels, ""), expected, "{labels}");
        }
    }

    #[test]
    fn field_selectors_select_as_documented() {
        let table = [
            ("metadata.name=front", true),
            ("metadata.name!=front", false),
            ("metadata.namespace=web,spec.type=NodePort", true),
            ("spec.clusterIP=10.0.0.2", false),
        ];
        for (fields, expected) in table {
            assert_eq!(matches("", fields), expected, "{fields}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (labels, fields) in [("a b", ""), ("app in a", ""), ("", "spec.ports=1"), ("", "x")] {
            let result = Selector::parse(Resource::Services, "", labels, fields);
            let (code, _) = result.expect_err("must be refused").code_and_reason();
            assert_eq!(code, 400, "{labels} {fields}");
        }
    }
}
