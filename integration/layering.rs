//! The tables of docs/architecture.md, enforced: which module may use which, and where words of the
//! outside world may stand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file and the top-level module it belongs to.
struct Source {
    path: PathBuf,
    module: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
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
                let first = inside.components().next().expect("a file has a name");
                let module = first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).expect("source is text");
                found.push(Source { path: inside.to_owned(), module, text });
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

/// Modules that follow `crate::` in a line.
fn used(line: &str) -> impl Iterator<Item = String> {
    line.split("crate::").skip(1).filter_map(|rest| {
        let name: String =
            rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        (!name.is_empty()).then_some(name)
    })
}

#[test]
fn modules_use_only_what_the_layering_table_allows() {
    let allowed: BTreeMap<String, BTreeSet<String>> = table("| layer | module |")
        .into_iter()
        .map(|row| (row[1].trim_matches('`').to_owned(), names(&row[2])))
        .collect();
    let mut violations = Vec::new();
    for source in sources() {
        if source.module == "lib" || source.module == "main" {
            continue;
        }
        let Some(allowed) = allowed.get(&source.module) else {
            violations.push(format!("{}: its module is not in the table", source.path.display()));
            continue;
        };
        for (number, line) in code(&source.text) {
            for module in used(line).filter(|m| *m != source.module && !allowed.contains(m)) {
                let place = format!("src/{}:{number}", source.path.display());
                violations.push(format!("{place}: {} may not use {module}", source.module));
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
