//! What people do with kubectl, if this machine has one.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use libtest_mimic::Trial;
use serde_json::{Value, json};
use sluice_cluster::api::{ApiServer, Options, Resource};
use tempfile::TempDir;

use super::setup::{eventually, run, service, start, web};

/// The tests, marked as ignored where there is no kubectl.
pub(crate) fn trials() -> Vec<Trial> {
    let tests: [(&str, fn()); 6] = [
        ("get_prints_the_columns_of_the_server", get_prints_the_columns_of_the_server),
        ("apply_creates_changes_and_removes", apply_creates_changes_and_removes),
        ("create_sends_protobuf_and_is_understood", create_sends_protobuf_and_is_understood),
        (
            "patch_label_edit_and_replace_change_objects",
            patch_label_edit_and_replace_change_objects,
        ),
        ("describe_and_wait_find_what_they_need", describe_and_wait_find_what_they_need),
        ("errors_are_the_usual_ones", errors_are_the_usual_ones),
    ];
    let missing = find().is_none();
    let why = if missing { "no kubectl on the path" } else { "" };
    tests
        .into_iter()
        .map(|(name, test)| {
            super::trial(&format!("kubectl::{name}"), test)
                .with_ignored_flag(missing)
                .with_kind(why)
        })
        .collect()
}

/// `SLUICE_TEST_KUBECTL` names another version than that on the path.
fn find() -> Option<PathBuf> {
    if let Some(chosen) = std::env::var_os("SLUICE_TEST_KUBECTL") {
        return Some(chosen.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|file| file.is_file())
}

struct Kubectl {
    api: ApiServer,
    home: TempDir,
}

impl Kubectl {
    fn new() -> Kubectl {
        Kubectl { api: start(Options::default()), home: TempDir::new().expect("a directory") }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(find().expect("it was found before"));
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .arg(format!("--server={}", self.api.url()))
            .arg("--request-timeout=20s")
            .args(arguments.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn output(&self, arguments: &str, input: &str) -> Output {
        let mut child = self.command(arguments).spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).expect("kubectl reads its input");
        drop(stdin);
        child.wait_with_output().expect("kubectl ends")
    }

    /// What kubectl prints; it must succeed.
    fn ok(&self, arguments: &str, input: &str) -> String {
        let output = self.output(arguments, input);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn error(&self, arguments: &str, input: &str) -> String {
        let output = self.output(arguments, input);
        assert!(!output.status.success(), "kubectl {arguments} must fail");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn service(&self, name: &str) -> Value {
        self.api.get(Resource::Services, "default", name).expect("it is there").value()
    }
}

/// The words of each line.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

fn get_prints_the_columns_of_the_server() {
    let kubectl = Kubectl::new();
    let mut web = web("web");
    web["spec"]["type"] = json!("NodePort");
    kubectl.api.create(&web).expect("valid");
    let table = kubectl.ok("get svc -o wide", "");
    let rows = rows(&table);
    let header = ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"];
    assert_eq!(rows[0], header);
    assert_eq!(rows[1][..5], ["web", "NodePort", "10.96.1.0", "<none>", "80:30000/TCP"]);
    let resources = kubectl.ok("api-resources -o name", "");
    assert!(resources.contains("endpointslices.discovery.k8s.io"), "{resources}");
    for arguments in ["get no,ns,po,ev,endpointslices,servicecidrs -A", "get all", "version"] {
        kubectl.ok(arguments, "");
    }
    let mut watching =
        kubectl.command("get svc -w --request-timeout=3s").spawn().expect("kubectl starts");
    run(eventually("a watch", || kubectl.api.requests().open_watches(Resource::Services) == 1));
    kubectl.api.delete(Resource::Services, "default", "web").expect("it is there");
    drop(watching.stdin.take());
    let output = watching.wait_with_output().expect("kubectl ends at its timeout");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("10.96.1.0").count(), 2, "listed, then deleted: {text}");
}

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec:
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]
";

fn port_names(service: &Value) -> Vec<&str> {
    let ports = service["spec"]["ports"].as_array().expect("ports");
    ports.iter().filter_map(|p| p["name"].as_str()).collect()
}

fn apply_creates_changes_and_removes() {
    let kubectl = Kubectl::new();
    assert!(kubectl.ok("apply -f -", MANIFEST).contains("service/web created"));
    let address = kubectl.service("web")["spec"]["clusterIP"].clone();
    assert!(kubectl.ok("apply -f -", MANIFEST).contains("service/web unchanged"));
    let other = MANIFEST.replace("  - {name: dns, port: 53, protocol: UDP}\n", "");
    assert!(kubectl.ok("apply -f -", &other).contains("service/web configured"));
    assert_eq!(port_names(&kubectl.service("web")), ["http"]);
    let server_side = "apply --server-side -f -";
    assert!(kubectl.ok(server_side, MANIFEST).contains("service/web serverside-applied"));
    assert_eq!(port_names(&kubectl.service("web")), ["http", "dns"]);
    kubectl.ok(server_side, &other);
    assert_eq!(port_names(&kubectl.service("web")), ["http"]);
    assert_eq!(kubectl.service("web")["spec"]["clusterIP"], address);
    assert!(
        kubectl.ok("delete -f -", MANIFEST).contains("endpointslice.discovery.k8s.io \"web-1\"")
    );
    assert!(kubectl.api.list(Resource::EndpointSlices, "").is_empty());
}

fn create_sends_protobuf_and_is_understood() {
    let kubectl = Kubectl::new();
    kubectl.ok("create namespace team", "");
    kubectl.ok("create service nodeport np --tcp=80:https --node-port=30090", "");
    let spec = kubectl.service("np")["spec"].take();
    assert_eq!((&spec["type"], &spec["ports"][0]["nodePort"]), (&json!("NodePort"), &json!(30090)));
    assert_eq!(spec["ports"][0]["targetPort"], "https");
    kubectl.ok("create service clusterip h --clusterip=None", "");
    assert_eq!(kubectl.service("h")["spec"]["clusterIP"], "None");
    kubectl.ok("create service externalname e --external-name=example.org", "");
    assert_eq!(kubectl.service("e")["spec"]["externalName"], "example.org");
    kubectl.ok("-n team create service loadbalancer lb --tcp=80", "");
    kubectl.ok("delete namespace team", "");
    assert_eq!(kubectl.api.list(Resource::Services, "team").len(), 0);
    kubectl.ok("create -f -", &service("j", json!({"ports": [{"port": 1}]})).to_string());
}

fn patch_label_edit_and_replace_change_objects() {
    let kubectl = Kubectl::new();
    kubectl.api.create(&web("a")).expect("valid");
    kubectl.ok(r#"patch svc a -p {"spec":{"ports":[{"port":80,"targetPort":8080}]}}"#, "");
    kubectl.ok(r#"patch svc a --type=merge -p {"spec":{"type":"NodePort"}}"#, "");
    kubectl.ok(r#"patch svc a --type=json -p [{"op":"add","path":"/spec/externalIPs","value":["192.0.2.7"]}]"#, "");
    let spec = kubectl.service("a")["spec"].take();
    assert_eq!(spec["ports"][0]["targetPort"], 8080);
    assert_eq!((&spec["type"], &spec["externalIPs"]), (&json!("NodePort"), &json!(["192.0.2.7"])));
    kubectl.ok("label svc a tier=front", "");
    kubectl.ok("annotate svc a note=x", "");
    let labelled = kubectl.ok("get svc -l tier=front -o name", "");
    assert_eq!(labelled.trim(), "service/a");
    let text = kubectl.ok("get svc a -o json", "").replace("8080", "9090");
    kubectl.ok("replace -f -", &text);
    assert_eq!(kubectl.service("a")["spec"]["ports"][0]["targetPort"], 9090);
    // `kubectl edit` starts this editor on a file of its own.
    let edited = kubectl.command("edit svc a").env("EDITOR", "sed -i s/9090/7070/").output();
    let edited = edited.expect("kubectl starts");
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(kubectl.service("a")["spec"]["ports"][0]["targetPort"], 7070);
}

fn describe_and_wait_find_what_they_need() {
    let kubectl = Kubectl::new();
    kubectl.ok("apply -f -", MANIFEST);
    let text = kubectl.ok("describe svc web", "");
    assert!(text.contains("10.96.1.0"), "{text}");
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    kubectl.api.create(&node).expect("valid");
    kubectl.ok("describe node n", "");
    kubectl.ok("cordon n", "");
    let mut node = kubectl.api.get(Resource::Nodes, "", "n").expect("it is there").value();
    assert_eq!(node["spec"]["unschedulable"], true);
    let mut waiting = kubectl
        .command("wait --for=condition=Ready node/n --timeout=15s")
        .spawn()
        .expect("kubectl starts");
    run(eventually("a watch", || kubectl.api.requests().open_watches(Resource::Nodes) == 1));
    node["metadata"]["resourceVersion"] = Value::Null;
    node["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    kubectl.api.update_status(&node).expect("valid");
    assert!(waiting.wait().expect("kubectl ends").success());
}

fn errors_are_the_usual_ones() {
    let kubectl = Kubectl::new();
    let error = kubectl.error("get svc nope", "");
    assert_eq!(error.trim(), "Error from server (NotFound): services \"nope\" not found");
    kubectl.ok("create -f -", &web("a").to_string());
    let error = kubectl.error("create -f -", &web("a").to_string());
    assert!(error.contains("(AlreadyExists)"), "{error}");
    let error = kubectl.error(r#"patch svc a --type=merge -p {"spec":{"ports":[{"port":0}]}}"#, "");
    let sentence = "The Service \"a\" is invalid: spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive";
    assert_eq!(error.trim(), sentence);
    let error = kubectl.error("apply -f -", &MANIFEST.replace("selector:", "selektor:"));
    assert!(error.contains("unknown field \"spec.selektor\""), "{error}");
    let error = kubectl.error("get svc --field-selector spec.ports=80", "");
    assert!(error.contains("field label not supported: spec.ports"), "{error}");
}
