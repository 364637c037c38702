//! `sluice explain` as people use it: the outputs of docs/explain.md and README.md are what the program prints, and what it
//! is given may be wrong in every way.

mod changes;
mod inputs;
mod recorded;
mod schema;
mod shown;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use sluice_explain::Code;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sluice-under-test");

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Runs the program where the objects of this test are.
fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .current_dir(root().join("integration/explain"))
        .env_remove("COLUMNS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // It may end without reading.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("the program ends")
}

/// Words of a command line, with those in quotes as one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// The page with the output of each `$ sluice explain …` in it.
fn filled(page: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for line in page.lines() {
        if line.starts_with("```") {
            inside = false;
        }
        if !inside {
            out.push_str(line);
            out.push('\n');
        }
        if let Some(command) = line.strip_prefix("$ sluice explain ") {
            let words = words(command);
            let arguments: Vec<&str> =
                ["explain"].into_iter().chain(words.iter().map(String::as_str)).collect();
            let output = run(&arguments, "");
            let text = String::from_utf8_lossy(&output.stdout);
            let long = text.lines().find(|line| line.chars().count() > 100);
            assert_eq!(long, None, "{command}: at most 100 columns");
            out.push_str(&text);
            out.push_str(&String::from_utf8_lossy(&output.stderr));
            inside = true;
        }
    }
    out
}

#[test]
fn pages_show_what_the_program_prints() {
    for name in ["docs/explain.md", "README.md"] {
        let path: PathBuf = root().join(name);
        let page = std::fs::read_to_string(&path).expect("the page is there");
        assert!(page.contains("$ sluice explain "), "{name} has examples");
        let expected = filled(&page);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &expected).expect("the page is written");
        } else {
            assert_eq!(page, expected, "{name}; UPDATE_GOLDEN=1 rewrites it");
        }
    }
}

#[test]
fn every_finding_has_a_section() {
    let page = std::fs::read_to_string(root().join("docs/findings.md")).expect("the page is there");
    let written: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(written, codes, "sections of docs/findings.md, and codes");
    for section in page.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap_or_default();
        for part in ["**Cause.**", "**See it.**", "**Fix.**"] {
            assert!(section.contains(part), "{title} says {part}");
        }
    }
}

const SHOP: &[&str] = &["-f", "shop.yaml", "--config", "config.yaml"];

fn ask(from: &str, to: &str, more: &[&str]) -> Output {
    let arguments = [&["explain", from, to][..], SHOP, more].concat();
    run(&arguments, "")
}

#[test]
fn exit_codes_are_for_scripts() {
    for (from, to, more, code) in [
        ("pod/shell", "http://web", &[][..], 0),
        ("pod/shell", "http://cart", &[], 10),
        ("pod/shell", "https://example.com.org.net", &[], 12),
        ("pod/shel", "http://web", &[], 1),
        ("shell", "http://web", &[], 2),
        ("pod/shell", "web:0", &[], 2),
        ("pod/shell", "web", &["--nonsense"], 2),
        ("pod/shell", "http://web", &["--what-if", "svc/web type=NodePort"], 2),
        ("pod/shell", "http://web", &["--what-if", "svc/web gone"], 10),
        ("203.0.113.7", "svc/web", &[], 1),
        ("203.0.113.7", "svc/web", &["--on", "node-a"], 0),
        ("203.0.113.7", "svc/web", &["--on", "node-c"], 1),
    ] {
        let output = ask(from, to, more);
        assert_eq!(output.status.code(), Some(code), "{from} {to} {more:?}: {output:?}");
    }
}

#[test]
fn json_has_the_fields_that_scripts_use() {
    let output = ask("pod/shell", "http://web", &["-o", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(answer["apiVersion"], "sluice.dev/v1alpha1");
    assert_eq!(answer["kind"], "Explanation");
    assert_eq!(answer["result"], "reachable");
    assert_eq!(answer["from"]["pod"], "default/shell");
    assert_eq!(answer["to"]["address"], "10.96.0.80:80/tcp");
    assert_eq!(answer["truth"]["source"], "files");
    let names: Vec<&str> = answer["stages"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|stage| stage["stage"].as_str())
        .collect();
    let all = "name source frontend admission policy endpoints rewrite kernel way others";
    assert_eq!(names.join(" "), all);
    let endpoints = &answer["stages"][5];
    assert_eq!(endpoints["used"][0]["endpoint"], "10.244.1.2:8080");
    assert_eq!(endpoints["unused"][0]["reason"], "not-ready");
    assert_eq!(endpoints["unused"][0]["pod"], "web-3");
    assert_eq!(answer["findings"][0]["code"], "endpoints-not-ready");
    assert_eq!(answer["stages"][7]["path"][0], "nat-prerouting");
}

#[test]
fn every_mode_has_a_path() {
    for (mode, expected) in [
        ("nftables", "services → service-pools → service-draw-2 → dnat"),
        ("iptables", "PREROUTING → KUBE-SERVICES → KUBE-SVC-"),
        ("ipvs", "IPVS TCP 10.96.0.80:80"),
        ("userspace", "relay of default/web http"),
    ] {
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: {mode}\n\
             clusterCIDR: 10.244.0.0/16\n"
        );
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("it is written");
        let path = file.path().to_string_lossy();
        let output =
            run(&["explain", "pod/shell", "svc/web", "-f", "shop.yaml", "--config", &path], "");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(expected), "{mode}: {text} {output:?}");
    }
}

#[test]
fn bad_input_is_one_error_that_names_it() {
    let shop = std::fs::read_to_string(root().join("integration/explain/shop.yaml")).expect("shop");
    let half = &shop[..shop.len() * 2 / 3].trim_end_matches(['\n', ' ', '}']);
    let half = half.rsplit_once(", containers: [").map_or(*half, |(head, _)| head);
    for (input, expected) in [
        ("", "- has no objects"),
        ("{\"a\": ", "- is neither YAML nor JSON"),
        (half, "- is neither YAML nor JSON"),
        ("kind: Service", "document 1 of - has no apiVersion and kind"),
    ] {
        let output = run(&["explain", "pod/shell", "svc/web", "-f", "-"], input);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let output = run(&["explain", "pod/shell", "svc/web", "-f", "none.yaml"], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("none.yaml"), "{output:?}");
    let output = run(&["explain", "pod/shell", "svc/web"], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("-f"), "{output:?}");
}

#[test]
fn a_hundred_megabytes_are_not_read() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(100 << 20).expect("a large file");
    let path = file.path().to_string_lossy();
    let output = run(&["explain", "pod/shell", "svc/web", "-f", &path], "");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("67108864 are read at the most"), "{error}");
}

#[test]
fn names_from_files_do_not_steer_the_terminal() {
    let shop = std::fs::read_to_string(root().join("integration/explain/shop.yaml")).expect("shop");
    let evil = shop.replace("name: web-3}", "name: \"web-\\e[31m3\\a\"}");
    let arguments = ["explain", "pod/shell", "svc/web", "-f", "-", "--config", "config.yaml"];
    let output = run(&arguments, &evil);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("web-\\u{1b}[31m3\\u{7}"), "{text}");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
}

#[test]
fn without_slices_nothing_is_claimed() {
    let shop = std::fs::read_to_string(root().join("integration/explain/shop.yaml")).expect("shop");
    let documents = shop.split("---\n").filter(|text| !text.contains("EndpointSlice"));
    let without = documents.collect::<Vec<_>>().join("---\n");
    let arguments = ["explain", "pod/shell", "svc/web", "-f", "-", "--config", "config.yaml"];
    let output = run(&arguments, &without);
    assert_eq!(output.status.code(), Some(12), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("no EndpointSlice was read"));
}
