//! `.deny.toml` over what cargo says that everything is built from: licences, second versions, sources,
//! wildcards, bans. `cargo deny` does the same and knows advisories besides, where it can be had; this
//! needs nothing but cargo.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::root;

/// The rules, as far as they are known here.
struct Rules(String);

/// Keys of the file that are checked here, or that only concern `cargo deny`.
const KEYS: [&str; 14] = [
    "targets",
    "all-features",
    "version",
    "yanked",
    "ignore",
    "allow",
    "wildcards",
    "allow-wildcard-paths",
    "multiple-versions",
    "highlight",
    "deny",
    "skip",
    "unknown-registry",
    "unknown-git",
];

impl Rules {
    fn read() -> Rules {
        Rules(fs::read_to_string(root().join(".deny.toml")).expect("rules for dependencies"))
    }

    fn section(&self, name: &str) -> &str {
        let start = format!("\n[{name}]\n");
        let (_, rest) = self.0.split_once(&start).unwrap_or_else(|| panic!("a section {name}"));
        rest.split_once("\n[").map_or(rest, |(section, _)| section)
    }

    fn has(&self, section: &str, line: &str) -> bool {
        let found = self.section(section).lines();
        found.map(|l| l.split('#').next().unwrap_or_default().trim()).any(|l| l == line)
    }

    /// The members of a list: texts, or the crates of tables, which must have a reason.
    fn list(&self, section: &str, key: &str) -> Vec<String> {
        let start = format!("\n{key} = [");
        let text = format!("\n{}", self.section(section));
        let (_, rest) = text.split_once(&start).unwrap_or_else(|| panic!("a list {section}.{key}"));
        let list = rest.split_once(']').expect("a list ends").0;
        let lines = list.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        lines
            .map(|line| {
                if line.starts_with('{') {
                    assert!(line.contains("reason = \""), "{line} has a reason");
                }
                line.split('"').nth(1).expect("a text in quotes").to_owned()
            })
            .collect()
    }
}

/// What cargo says.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--locked", "--all-features"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo speaks UTF-8")
}

/// Everything that is built for a platform, as `NAME vVERSION`. (What `cargo metadata` resolves has more: what
/// only features ask for that are off.)
fn built(platform: &str) -> BTreeSet<String> {
    let tree = ["tree", "--workspace", "--edges", "normal,build,dev", "--prefix", "none"];
    let form = ["--format", "{p}", "--target", platform];
    let text = cargo(&[tree.as_slice(), form.as_slice()].concat());
    let name = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    text.lines().filter(|line| !line.is_empty()).map(name).collect()
}

struct Package {
    name: String,
    version: String,
    licence: String,
    /// None for members of the workspace.
    source: Option<String>,
    /// Of a member: names of what it takes in any version from a registry.
    wildcards: Vec<String>,
}

impl Package {
    fn of(value: &Value) -> Package {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let dependencies = value["dependencies"].as_array().into_iter().flatten();
        // Of what others take the registry has seen to it.
        let ours = value["source"].is_null();
        let wild = dependencies.filter(|d| ours && d["req"] == "*" && d["path"].is_null());
        Package {
            name: text("name"),
            version: text("version"),
            licence: text("license"),
            source: value["source"].as_str().map(str::to_owned),
            wildcards: wild.filter_map(|d| d["name"].as_str()).map(str::to_owned).collect(),
        }
    }
}

/// Everything that is built on the platforms of the rules, each version once.
fn packages() -> &'static [Package] {
    static FOUND: OnceLock<Vec<Package>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let rules = Rules::read();
        let targets: Vec<&str> = rules.section("graph").split('"').skip(1).step_by(2).collect();
        let mut built: BTreeSet<String> = targets.iter().flat_map(|target| built(target)).collect();
        let filters = targets.iter().flat_map(|target| ["--filter-platform", target]);
        let arguments = ["metadata", "--format-version", "1"].into_iter().chain(filters);
        let metadata: Value = serde_json::from_str(&cargo(&arguments.collect::<Vec<_>>()))
            .expect("cargo speaks JSON");
        let all = metadata["packages"].as_array().expect("packages").iter().map(Package::of);
        let found: Vec<Package> =
            all.filter(|p| built.remove(&format!("{} v{}", p.name, p.version))).collect();
        assert!(built.is_empty() && found.len() > 100, "{} packages, not {built:?}", found.len());
        found
    })
}

/// Whether a licence expression (SPDX; an old one has `/` for `OR`) is met by the allowed ones.
fn permits(allowed: &[String], expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(allowed, &words, &mut at);
    met && at == words.len()
}

fn any(allowed: &[String], words: &[&str], at: &mut usize) -> bool {
    let mut met = all(allowed, words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(allowed, words, at);
    }
    met
}

fn all(allowed: &[String], words: &[&str], at: &mut usize) -> bool {
    let mut met = one(allowed, words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(allowed, words, at);
    }
    met
}

fn one(allowed: &[String], words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any(allowed, words, at);
        *at += 1;
        return met;
    }
    let mut licence = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", words.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
    }
    allowed.contains(&licence)
}

#[test]
fn expressions_of_licences_are_understood() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    let cases = [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("ISC AND (GPL-3.0 OR Zlib)", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("Apache-2.0", false),
        ("", false),
    ];
    for (expression, expected) in cases {
        assert_eq!(permits(&allowed, expression), expected, "{expression:?}");
    }
}

#[test]
fn what_is_built_obeys_the_rules_for_dependencies() {
    let rules = Rules::read();
    let packages = packages();
    let licences = rules.list("licenses", "allow");
    let banned = rules.list("bans", "deny");
    let mut found = Vec::new();
    for Package { name, version, licence, wildcards, .. } in packages {
        if !permits(&licences, licence) {
            found.push(format!("{name} {version}: licence {licence:?} is not allowed"));
        }
        if banned.contains(name) {
            found.push(format!("{name} {version} is banned"));
        }
        for other in wildcards {
            found.push(format!("{name} {version} takes any version of {other}"));
        }
    }
    let mut versions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut skipped: BTreeSet<String> = rules.list("bans", "skip").into_iter().collect();
    for package in packages {
        let exact = format!("{}@{}", package.name, package.version);
        let again = packages.iter().filter(|other| other.name == package.name).count() > 1;
        if !(again && skipped.remove(&exact)) {
            versions.entry(&package.name).or_default().push(exact);
        }
    }
    let twice = versions.values().filter(|versions| versions.len() > 1);
    found.extend(twice.map(|versions| format!("more than one version: {}", versions.join(", "))));
    found.extend(skipped.iter().map(|exact| format!("{exact} is skipped for no other version")));
    assert!(found.is_empty(), ".deny.toml:\n{}", found.join("\n"));
}

#[test]
fn dependencies_come_from_one_registry() {
    let packages = packages();
    let sources: BTreeSet<&str> = packages.iter().filter_map(|p| p.source.as_deref()).collect();
    let all_registries = sources.iter().all(|source| source.starts_with("registry+"));
    assert!(sources.len() == 1 && all_registries, "{sources:?}");
}

#[test]
fn the_rules_for_dependencies_say_what_is_checked() {
    let rules = Rules::read();
    let lines = rules.0.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()));
    let unknown: Vec<&str> = lines
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key)
        .filter(|key| !KEYS.contains(key))
        .collect();
    assert!(unknown.is_empty(), "nobody but cargo deny would know: {unknown:?}");
    for (section, line) in [
        ("bans", "wildcards = \"deny\""),
        ("bans", "multiple-versions = \"deny\""),
        ("sources", "unknown-registry = \"deny\""),
        ("sources", "unknown-git = \"deny\""),
    ] {
        assert!(rules.has(section, line), "[{section}] {line}");
    }
}

/// What a release says of its images (`manifests/image/sbom.sh`) is what cargo links the program from.
#[test]
fn a_bill_of_materials_names_what_the_program_is_linked_from() {
    let output = Command::new(root().join("manifests/image/sbom.sh"))
        .args([env!("CARGO_BIN_EXE_sluice-under-test"), "amd64", "localhost/sluice", "1.2.3"])
        .env("CARGO", env!("CARGO"))
        .current_dir(root())
        .output()
        .expect("the script runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bill: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let components = bill["components"].as_array().expect("components");
    let named: BTreeMap<&str, &Value> =
        components.iter().filter_map(|c| Some((c["name"].as_str()?, c))).collect();
    let edges = ["tree", "--package", "sluice", "--edges", "normal,no-proc-macro"];
    let form = ["--prefix", "none", "--format", "{p}", "--target", "x86_64-unknown-linux-gnu"];
    let output = Command::new(env!("CARGO"))
        .args([edges.as_slice(), form.as_slice()].concat())
        .arg("--locked")
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let linked = String::from_utf8(output.stdout).expect("cargo speaks UTF-8");
    let mut count = 0;
    for name in linked.lines().filter(|l| !l.contains("(/")).filter_map(|l| l.split(' ').next()) {
        let component = named.get(name).unwrap_or_else(|| panic!("the bill lacks {name}"));
        assert!(component["licenses"].is_array(), "{component} has a licence");
        assert!(component["hashes"].is_array(), "{component} has a digest");
        count += 1;
    }
    assert!(count > 50, "{count} crates");
    assert_eq!(named["sluice"]["version"], "1.2.3");
    assert!(!named.contains_key("json-patch"), "nothing of the laboratory");
}
