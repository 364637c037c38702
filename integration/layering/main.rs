//! The rules of the repository. Here are the tables of docs/architecture.md: which crate and which module may
//! use which, where words of the outside world may stand, and what the daemon's program is built from.
//! Beside it: [`cycles`] between files, [`dependencies`], what must be [`documented`], [`fixtures`] that
//! nobody uses, and [`words`] that are not used.

mod cycles;
mod dependencies;
mod documented;
mod fixtures;
mod rust;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A source file below `src`.
struct Source {
    /// Its path below `src`.
    path: PathBuf,
    text: String,
    /// The text without comments and texts in quotes.
    code: String,
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
        let mut inside = self.path.components().skip(1);
        let mut next = || {
            let part = inside.next()?.as_os_str().to_string_lossy().into_owned();
            Some(part.trim_end_matches(".rs").to_owned())
        };
        let first = next().expect("a crate is a folder");
        if !ROOMS.contains(&first.as_str()) {
            return (first != "lib" && first != "main").then_some(first);
        }
        next().filter(|room| room != "mod").map(|room| format!("{first}::{room}"))
    }
}

/// Modules that only hold others, which stand in the table one by one.
const ROOMS: [&str; 1] = ["http"];

/// Crates that are one module.
const WHOLE: [&str; 8] =
    ["config", "kernel", "dataplane", "explain", "cluster", "controllers", "dns", "lab"];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn sources() -> Vec<Source> {
    let files = found(&["src"], &["rs"]).into_iter().map(|file| {
        let path = file.strip_prefix(root().join("src")).expect("below src").to_owned();
        let text = fs::read_to_string(&file).expect("source is text");
        let code = rust::code(&text);
        Source { path, text, code }
    });
    files.collect()
}

/// Files in some folders whose names end so.
fn found(folders: &[&str], extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder is readable") {
            let path = entry.expect("the folder is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|other| e == *other)) {
                found.push(path);
            }
        }
    }
    found
}

/// Pages of the repository.
fn pages() -> Vec<PathBuf> {
    let mut pages = found(&["docs", "manifests", "integration"], &["md"]);
    pages.push(root().join("README.md"));
    pages
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

fn numbered(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().map(|(number, line)| (number + 1, line))
}

/// Whether a line has a word that is not the end of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    let continues = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(continues))
}

/// The module that a path names, seen from a crate: after `crate` one of the crate itself, after `sluice_…`
/// one of another crate, or the other crate if that is one module.
fn used(krate: &str, path: &[String]) -> Option<String> {
    let first = path.first()?;
    if first == "crate" {
        let module = path.get(1).filter(|_| !WHOLE.contains(&krate))?;
        let room = path.get(2).filter(|_| ROOMS.contains(&module.as_str()));
        return Some(room.map_or_else(|| module.clone(), |room| format!("{module}::{room}")));
    }
    let other = first.strip_prefix("sluice_")?;
    if WHOLE.contains(&other) { Some(other.to_owned()) } else { path.get(1).cloned() }
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
        let begins = |first: &str| first == "crate" || first.starts_with("sluice_");
        for path in rust::paths(&source.code, begins) {
            let Some(other) = used(&source.krate(), &path.path) else { continue };
            if other != module && !allowed.contains(&other) {
                let place = format!("src/{}:{}", source.path.display(), path.line);
                violations.push(format!("{place}: {module} may not use {other}"));
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
            for (number, line) in numbered(&source.code) {
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
        "sluice-explain",
        "sluice-kernel",
        "sluice-kubernetes",
        "sluice-telemetry",
    ];
    assert_eq!(ours, BTreeSet::from(expected));
    for other in ["json-patch", "proptest", "libtest-mimic", "plotters", "hickory-server"] {
        assert!(!packages.contains(other), "the daemon is built with {other}");
    }
}

/// `cargo test -p CRATE` builds kube with the features of that crate only; it does not compile without a
/// version of the API.
#[test]
fn a_crate_that_is_built_alone_chooses_a_version_of_the_api() {
    let mut chosen = 0;
    for row in table("| crate | lines |") {
        let package = match row[0].trim_matches('`').trim_start_matches("src/") {
            "daemon" => "sluice".to_owned(),
            krate => format!("sluice-{krate}"),
        };
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "-p", &package, "-e", "normal,dev"])
            .args(["--prefix", "none", "--format", "{p} {f}"])
            .current_dir(root())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.lines().filter(|line| line.starts_with("k8s-openapi ")) {
            assert!(line.contains("v1_"), "{package} has {line}");
            chosen += 1;
        }
    }
    assert!(chosen > 0, "kube is built with k8s-openapi");
}

#[test]
fn files_stay_readable() {
    const LINES: usize = 500;
    let long: Vec<String> = sources()
        .into_iter()
        .map(|source| (source.text.lines().count(), source.path))
        .filter(|(lines, _)| *lines > LINES)
        .map(|(lines, path)| format!("src/{}: {lines} lines; split it by idea", path.display()))
        .collect();
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}
