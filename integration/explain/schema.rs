//! The JSON form: docs/schemas/explain.v1alpha1.json says what is in it, every answer is as it says, and fields that are there
//! stay.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sluice_explain::compared::{Comparison, compare};
use sluice_explain::explanation::{Reason, Unused, Used};
use sluice_explain::truth::Object;
use sluice_explain::{Code, Explanation, Finding, Outcome, Severity, StageName};

use crate::{ask, root};

fn schema() -> Value {
    let path = root().join("docs/schemas/explain.v1alpha1.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the schema")).expect("it is JSON")
}

/// Checks a value against those keywords of JSON Schema that the schema has; any other is an error here. Fields that it
/// does not name are errors, too, although readers must expect them.
struct Schema {
    whole: Value,
    /// The fields that were met, as paths.
    met: BTreeSet<String>,
}

impl Schema {
    fn new() -> Schema {
        Schema { whole: schema(), met: BTreeSet::new() }
    }

    fn referred(&self, rule: &Value) -> Value {
        let Some(name) = rule["$ref"].as_str() else { return rule.clone() };
        let pointer = name.strip_prefix('#').expect("a reference within the schema");
        self.whole.pointer(pointer).unwrap_or_else(|| panic!("{name} is there")).clone()
    }

    fn check(&mut self, kind: &str, value: &Value) {
        let rule = json!({ "$ref": format!("#/$defs/{kind}") });
        self.value(&rule, value, "");
    }

    fn value(&mut self, rule: &Value, value: &Value, at: &str) {
        let rule = self.referred(rule);
        for (keyword, says) in rule.as_object().expect("a rule is an object") {
            match keyword.as_str() {
                "description" | "required" | "items" => {}
                "const" => assert_eq!(value, says, "{at}"),
                "enum" => {
                    assert!(says.as_array().expect("a list").contains(value), "{at}: {value}");
                }
                "type" => {
                    let types = says.as_array().cloned().unwrap_or_else(|| vec![says.clone()]);
                    assert!(types.contains(&json!(type_of(value))), "{at}: {value} is no {says}");
                }
                "properties" => self.fields(&rule, says.as_object().expect("fields"), value, at),
                other => panic!("{at}: the keyword {other} is not known here"),
            }
        }
        for item in value.as_array().into_iter().flatten() {
            self.value(&rule["items"], item, &format!("{at}[]"));
        }
    }

    fn fields(&mut self, rule: &Value, fields: &Map<String, Value>, value: &Value, at: &str) {
        let value = value.as_object().unwrap_or_else(|| panic!("{at} is an object"));
        for name in rule["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(value.contains_key(name), "{at} has {name}");
        }
        for (name, inside) in value {
            let at = format!("{at}.{name}");
            let rule = fields.get(name).unwrap_or_else(|| panic!("the schema has {at}"));
            self.met.insert(at.clone());
            self.value(rule, inside, &at);
        }
    }

    /// Every field that the schema has below a definition.
    fn paths(&self, rule: &Value, at: &str, out: &mut BTreeSet<String>) {
        let rule = self.referred(rule);
        for (name, inside) in rule["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            out.insert(at.clone());
            self.paths(inside, &at, out);
        }
        if !rule["items"].is_null() {
            self.paths(&rule["items"], &format!("{at}[]"), out);
        }
    }

    fn all_paths(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        self.paths(&json!({ "$ref": "#/$defs/comparison" }), "", &mut paths);
        paths
    }

    fn words(&self, pointer: &str) -> BTreeSet<String> {
        let found = self.whole.pointer(pointer).and_then(Value::as_array);
        let found = found.unwrap_or_else(|| panic!("{pointer} is a list")).iter();
        found.filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn of_program(from: &str, to: &str, more: &[&str]) -> Value {
    let output = ask(from, to, &[more, &["-o", "json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn every_answer_is_as_the_schema_says() {
    let mut schema = Schema::new();
    for (from, to, more) in [
        ("pod/shell", "http://web", &[][..]),
        ("pod/shell", "http://cart", &[]),
        ("pod/shell", "svc/wbe", &[]),
        ("pod/shell", "svc/web:81", &[]),
        ("pod/shell", "svc/web:80/udp", &[]),
        ("pod/shell", "https://www.example.com", &[]),
        ("192.0.2.9", "198.51.100.1:80", &["--on", "node-a"]),
        ("203.0.113.7", "node/node-b:30080", &[]),
        ("pod/shell", "svc/web", &["--as", "kube-proxy"]),
    ] {
        schema.check("explanation", &of_program(from, to, more));
    }
    for change in ["svc/web externalTrafficPolicy=Local", "pod/web-1 gone", "svc/web gone"] {
        let compared = of_program("pod/shell", "svc/web", &["--what-if", change]);
        schema.check("comparison", &compared);
    }
}

/// An answer in which no field is left out.
fn everything() -> Comparison {
    let mut answer: Explanation =
        serde_json::from_value(of_program("pod/shell", "http://web", &[])).expect("an explanation");
    let some = || Some("x".to_owned());
    (answer.from.pod, answer.from.ip, answer.from.node) = (some(), some(), some());
    (answer.to.service, answer.to.port, answer.to.address) = (some(), some(), some());
    answer.truth.at = some();
    (answer.truth.stale_seconds, answer.truth.pending_seconds) = (Some(1), Some(2));
    answer.truth.other_proxy = true;
    let object = || Object { set: "x".into(), element: "y".into(), state: "missing".into() };
    let rules = vec!["S-60".to_owned()];
    for stage in &mut answer.stages {
        stage.rules.clone_from(&rules);
        stage.used = vec![Used { endpoint: "x".into(), pod: some(), node: some() }];
        stage.unused = vec![Unused {
            endpoint: some(),
            pod: some(),
            node: some(),
            reason: Reason::NotReady,
            since: some(),
            detail: some(),
            rules: rules.clone(),
        }];
        (stage.notes, stage.path, stage.mode) = (rules.clone(), rules.clone(), some());
        (stage.objects, stage.missing, stage.extra) =
            (vec![object()], vec![object()], vec![object()]);
    }
    let findings = Code::ALL.iter().map(|code| Finding {
        code: *code,
        severity: code.severity(),
        text: "x".into(),
        fix: some(),
        rules: rules.clone(),
    });
    answer.findings = findings.collect();
    let after: Explanation = serde_json::from_value(of_program("pod/shell", "http://cart", &[]))
        .expect("an explanation");
    let after =
        Explanation { findings: answer.findings.clone(), truth: answer.truth.clone(), ..after };
    let operations = of_program("pod/shell", "svc/web", &["--what-if", "pod/web-1 gone"]);
    let operations = serde_json::from_value(operations["operations"].clone()).expect("operations");
    compare("x", (answer, after), Some("nftables"), operations)
}

#[test]
fn the_schema_has_what_types_have_and_nothing_else() {
    let mut schema = Schema::new();
    let all = serde_json::to_value(everything()).expect("it can be written");
    schema.check("comparison", &all);
    // One definition is behind both answers, so that the one before stands for both.
    let before = |path: &&String| !path.starts_with(".after");
    let met: Vec<&String> = schema.met.iter().filter(before).collect();
    let all = schema.all_paths();
    assert_eq!(
        met,
        all.iter().filter(before).collect::<Vec<_>>(),
        "fields met, and fields of the schema"
    );

    let text = |values: &[&dyn ToString]| values.iter().map(|v| v.to_string()).collect();
    let names: BTreeSet<String> = StageName::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(schema.words("/$defs/stageName/enum"), names);
    let codes: BTreeSet<String> = Code::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(schema.words("/$defs/finding/properties/code/enum"), codes);
    let severities: BTreeSet<String> =
        text(&[&Severity::Info, &Severity::Warning, &Severity::Error]);
    assert_eq!(schema.words("/$defs/finding/properties/severity/enum"), severities);
    let results = text(&[
        &Outcome::Reachable,
        &Outcome::Unreachable,
        &Outcome::Mixed,
        &Outcome::Undetermined,
    ]);
    assert_eq!(schema.words("/$defs/explanation/properties/result/enum"), results);
}

/// Scripts rely on fields. The list only grows: `UPDATE_GOLDEN=1` adds new ones, and removes none.
#[test]
fn fields_that_are_there_stay() {
    let path = root().join("integration/golden/explain-fields.txt");
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let known: BTreeSet<String> = known.lines().map(str::to_owned).collect();
    let now = Schema::new().all_paths();
    let gone: Vec<&String> = known.difference(&now).collect();
    assert!(gone.is_empty(), "fields that scripts may use are gone: {gone:?}");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let lines: Vec<&str> = now.iter().map(String::as_str).collect();
        std::fs::write(&path, lines.join("\n") + "\n").expect("the list is written");
    } else {
        let new: Vec<&String> = now.difference(&known).collect();
        assert!(new.is_empty(), "new fields; UPDATE_GOLDEN=1 adds them: {new:?}");
    }
}
