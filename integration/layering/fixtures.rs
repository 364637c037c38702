//! What several tests share is used. The compiler cannot tell: a program that takes its own part of a shared
//! file does not use the rest, and what a feature makes public may be used by anyone.

use std::collections::BTreeSet;
use std::fs;

use crate::{contains_word, found, root, rust};

/// What stands before an item that only tests have.
const FEATURE: &str = "#[cfg(any(test, feature = \"fixtures\"))]";
/// What a file has that is a part of several programs.
const SHARED: &str = "#![allow(dead_code)]";

/// The public items that begin on these lines.
fn items<'a>(lines: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    lines.filter_map(|line| {
        let rest = line.trim_start().strip_prefix("pub")?;
        let rest = rest.strip_prefix("(crate)").unwrap_or(rest).trim_start();
        let rest = rest.strip_prefix("async ").unwrap_or(rest);
        let kinds = ["fn ", "const ", "static ", "struct ", "enum ", "trait ", "type "];
        let name = kinds.iter().find_map(|kind| rest.strip_prefix(kind))?;
        name.split(|c: char| !c.is_alphanumeric() && c != '_').next()
    })
}

/// The items of a file that are there for tests.
fn fixtures(path: &str, text: &str) -> BTreeSet<String> {
    let code = rust::code(text);
    let below_shared = path.starts_with("integration/support/");
    if below_shared || text.contains(SHARED) || path.ends_with("/fixtures.rs") {
        return items(code.lines()).map(str::to_owned).collect();
    }
    let behind = text.lines().zip(text.lines().skip(1));
    let behind = behind.filter(|(line, _)| line.trim() == FEATURE).map(|(_, item)| item);
    items(behind).map(str::to_owned).collect()
}

/// Whether a name stands somewhere else than where it is declared.
fn is_used(name: &str, declared_in: &str, files: &[(String, String)]) -> bool {
    files.iter().any(|(path, code)| {
        let lines = code.lines().filter(|line| contains_word(line, name));
        let declarations = usize::from(path == declared_in);
        lines.filter(|line| is_whole(line, name)).count() > declarations
    })
}

/// Whether a word of a line is this name, and not the beginning of a longer one.
fn is_whole(line: &str, name: &str) -> bool {
    let continues = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        !line[..at].ends_with(continues) && !line[at + name.len()..].starts_with(continues)
    })
}

#[test]
fn what_tests_share_is_used() {
    let texts: Vec<(String, String)> = found(&["src", "integration"], &["rs"])
        .into_iter()
        .filter(|path| !path.starts_with(root().join("integration/layering")))
        .map(|path| {
            let inside = path.strip_prefix(root()).expect("below the root").display().to_string();
            (inside, fs::read_to_string(&path).expect("source is text"))
        })
        .collect();
    let codes: Vec<(String, String)> =
        texts.iter().map(|(path, text)| (path.clone(), rust::code(text))).collect();
    let (mut count, mut unused) = (0, Vec::new());
    for (path, text) in &texts {
        for name in fixtures(path, text) {
            count += 1;
            if !is_used(&name, path, &codes) {
                unused.push(format!("{path}: {name}"));
            }
        }
    }
    assert!(count > 50, "{count} items are shared");
    assert!(unused.is_empty(), "nobody uses:\n{}", unused.join("\n"));
}

#[test]
fn an_item_that_stands_nowhere_else_is_not_used() {
    let shared = "#![allow(dead_code)]\npub(crate) fn used() {}\npub(crate) fn used_not() {}\n";
    let feature = format!("{FEATURE}\npub async fn told() {{}}\npub fn always() {{}}\n");
    assert_eq!(
        fixtures("integration/a.rs", shared),
        ["used", "used_not"].map(str::to_owned).into()
    );
    assert_eq!(fixtures("src/a/b.rs", &feature), ["told".to_owned()].into());
    let files = [("a.rs", shared), ("b.rs", "a::used();")];
    let files = files.map(|(path, code)| (path.to_owned(), code.to_owned()));
    assert!(is_used("used", "a.rs", &files));
    assert!(!is_used("used_not", "a.rs", &files));
}
