//! The tables of docs/architecture.md, enforced: which crate and which module may use which, where
//! words of the outside world may stand, and what the daemon's program is built from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A source file below `src`.
struct Source {
    /// Its path below `src`.
    path: PathBuf,
    text: String,
}

impl Source {
    fn krate(&self) -> String {
        let first = self.path.components().next().expect("a file has a name");
        first.as_os_str().to_string_lossy().into_owned()
    }

    /// The module that it belongs to: the crate itself if that is one module. `None` for a crate's root
    /// file, which only names the modules.
    fn module(&self) -> Option<String> {
        let krate = self.krate();
        if WHOLE.contains(&krate.as_str()) {
            return Some(krate);
        }
        let second = self.path.components().nth(1).expect("a crate is a folder");
        let name = second.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        (name != "lib" && name != "main").then_some(name)
    }
}

/// Crates that are one module.
const WHOLE: [&str; 5] = ["config", "kernel", "dataplane", "cluster", "lab"];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let inside = path.strip_prefix(root().join("src")).expect("below src");
                let text = fs::read_to_string(&path).expect("source is text");
                found.push(Source { path: inside.to_owned(), text });
            }
        }
    }
    found
}

/// Rows of the table in docs/architecture.md whose heading line starts so.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).expect("the page is there");
    let lines = text.lines().skip_while(|line| !line.starts_with(heading)).skip(2);
    let rows: Vec<Vec<String>> = lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect())
        .collect();
    assert!(!rows.is_empty(), "docs/architecture.md has a table that starts with {heading:?}");
    rows
}

fn names(cell: &str) -> BTreeSet<String> {
    let name = |word: &str| word.trim().trim_matches('`').to_owned();
    cell.split(',').map(name).filter(|name| !name.is_empty() && name != "–").collect()
}

/// Code without comments and string contents would be ideal; without comments is enough here.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Whether a line has a word that is not the end of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    let continues = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(continues))
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// Modules that a line of a crate names: after `crate::` those of the crate itself, after `sluice_…` those
/// of another one, or the other crate if it is one module.
fn used(krate: &str, line: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !WHOLE.contains(&krate) {
        found.extend(line.split("crate::").skip(1).map(identifier));
    }
    for rest in line.split("sluice_").skip(1) {
        let other = identifier(rest);
        if WHOLE.contains(&other.as_str()) {
            found.push(other);
        } else if let Some(inside) = rest[other.len()..].strip_prefix("::") {
            found.push(identifier(inside));
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let rows = table("| crate | lines |");
    let mut written = BTreeSet::new();
    for row in rows {
        let krate = row[0].trim_matches('`').trim_start_matches("src/").to_owned();
        let manifest = fs::read_to_string(root().join(format!("src/{krate}/Cargo.toml")))
            .unwrap_or_else(|error| panic!("src/{krate}: {error}"));
        let dependencies = manifest
            .split("\n[")
            .find_map(|section| section.strip_prefix("dependencies]"))
            .unwrap_or_default();
        let found: BTreeSet<String> = dependencies
            .lines()
            .filter(|line| line.starts_with("sluice"))
            .map(|line| line.split(['.', ' ']).next().unwrap_or_default().replace("sluice-", ""))
            .collect();
        assert_eq!(found, names(&row[2]), "dependencies of src/{krate}/Cargo.toml");
        written.insert(krate);
    }
    let there: BTreeSet<String> = sources().iter().map(Source::krate).collect();
    assert_eq!(written, there, "the crates in the table, and those in src");
}

#[test]
fn the_sizes_of_crates_are_about_what_the_table_says() {
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources() {
        *lines.entry(source.krate()).or_default() += source.text.lines().count();
    }
    for row in table("| crate | lines |") {
        let krate = row[0].trim_matches('`').trim_start_matches("src/");
        let said: usize = row[1].replace(',', "").parse().expect("a number of lines");
        let found = lines[krate];
        let allowed = (said / 10).max(200);
        assert!(
            found.abs_diff(said) <= allowed,
            "src/{krate} has {found} lines, docs/architecture.md says {said}"
        );
    }
}

#[test]
fn modules_use_only_what_the_layering_table_allows() {
    let allowed: BTreeMap<String, BTreeSet<String>> = table("| layer | module |")
        .into_iter()
        .map(|row| (row[1].trim_matches('`').to_owned(), names(&row[2])))
        .collect();
    let mut violations = Vec::new();
    for source in sources() {
        let Some(module) = source.module() else { continue };
        let Some(allowed) = allowed.get(&module) else {
            violations.push(format!("{}: its module is not in the table", source.path.display()));
            continue;
        };
        for (number, line) in code(&source.text) {
            let used = used(&source.krate(), line);
            for other in used.iter().filter(|m| **m != module && !allowed.contains(*m)) {
                let place = format!("src/{}:{number}", source.path.display());
                violations.push(format!("{place}: {module} may not use {other}"));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// `use crate::{a, b}` hides what is used from a search for `crate::a`, and from the test above.
#[test]
fn a_use_names_the_module_on_its_own_line() {
    let groups = [
        "use crate::{",
        "use sluice_core::{",
        "use sluice_telemetry::{",
        "use sluice_kubernetes::{",
    ];
    let mut violations = Vec::new();
    for source in sources() {
        for (number, line) in code(&source.text) {
            if groups.iter().any(|group| line.contains(group))
                && !WHOLE.contains(&source.krate().as_str())
            {
                violations.push(format!("src/{}:{number}: {line}", source.path.display()));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn words_of_the_outside_world_stand_only_where_the_table_says() {
    let mut violations = Vec::new();
    let all = sources();
    for row in table("| words |") {
        let (words, places) = (names(&row[0]), names(&row[1]));
        for source in &all {
            let path = source.path.to_string_lossy();
            if places.iter().any(|place| path.starts_with(place.as_str())) {
                continue;
            }
            for (number, line) in code(&source.text) {
                for word in words.iter().filter(|word| contains_word(line, word)) {
                    violations.push(format!("src/{path}:{number}: {word} ({})", row[2]));
                }
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// What runs with CAP_NET_ADMIN on every node holds nothing of the laboratory.
#[test]
fn the_daemon_is_built_from_nothing_of_the_laboratory() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-p", "sluice", "-e", "normal", "--prefix", "none"])
        .args(["--format", "{p}"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let packages: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    let ours: BTreeSet<&str> =
        packages.iter().copied().filter(|p| p.starts_with("sluice")).collect();
    let expected = [
        "sluice",
        "sluice-config",
        "sluice-core",
        "sluice-dataplane",
        "sluice-kernel",
        "sluice-kubernetes",
        "sluice-telemetry",
    ];
    assert_eq!(ours, BTreeSet::from(expected));
    for other in ["maud", "json-patch", "proptest", "nftables", "libtest-mimic", "plotters"] {
        assert!(!packages.contains(other), "the daemon is built with {other}");
    }
}

#[test]
fn files_stay_readable() {
    const LINES: usize = 600;
    let long: Vec<String> = sources()
        .into_iter()
        .map(|source| (source.text.lines().count(), source.path))
        .filter(|(lines, _)| *lines > LINES)
        .map(|(lines, path)| format!("src/{}: {lines} lines; split it by idea", path.display()))
        .collect();
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}
