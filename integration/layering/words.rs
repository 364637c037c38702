//! Words that the glossary does not want (its column "not", in backquotes): the field has others for them.

use std::collections::BTreeMap;
use std::fs;

use crate::{found, root, sources};

/// Files that have such a word for another thing, or still have it. The list only shrinks.
const ALLOWED: &[(&str, &[&str])] = &[];

/// Texts about the words themselves, or about former versions.
const EXEMPT: [&str; 3] = ["docs/glossary.md", "docs/changes.md", "integration/layering/words.rs"];

/// The unwanted words, with the one to use.
fn unwanted() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("docs/glossary.md")).expect("the page is there");
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| **")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [word, _, not] = cells[..] else { panic!("docs/glossary.md: three columns: {line}") };
        for other in not.split('`').skip(1).step_by(2) {
            found.insert(other.to_owned(), word.replace('*', ""));
        }
    }
    assert!(!found.is_empty(), "docs/glossary.md has words that are not used");
    found
}

/// Whether a line has a word: not as a part of another one, but for the parts of a type's name (`RetryHelper`
/// has `Helper`).
fn has(line: &str, word: &str) -> bool {
    let part = word.starts_with(char::is_uppercase);
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let joined = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let begins = !joined(before) || (part && before.is_some_and(|c| c.is_lowercase()));
        begins && (!joined(after) || (part && after.is_some_and(char::is_uppercase)))
    })
}

/// All texts of the repository that people read, by their path.
fn texts() -> BTreeMap<String, String> {
    let pages = found(&["docs", "manifests", "integration"], &["md", "rs"]).into_iter();
    let pages = pages.chain([root().join("README.md")]).map(|path| {
        let inside = path.strip_prefix(root()).expect("below the root").display().to_string();
        (inside, fs::read_to_string(&path).expect("a page is text"))
    });
    let code = sources().into_iter().map(|s| (format!("src/{}", s.path.display()), s.text));
    pages.chain(code).filter(|(path, _)| !EXEMPT.contains(&path.as_str())).collect()
}

#[test]
fn no_text_has_a_word_that_the_glossary_does_not_want() {
    let texts = texts();
    let mut found = Vec::new();
    for (word, instead) in unwanted() {
        let allowed: &[&str] =
            ALLOWED.iter().find(|(other, _)| *other == word).map_or(&[], |(_, files)| files);
        for (path, text) in &texts {
            let line = text.lines().position(|line| has(line, &word));
            match (line, allowed.contains(&path.as_str())) {
                (Some(line), false) => {
                    found.push(format!("{path}:{}: `{word}`, say {instead}", line + 1));
                }
                (None, true) => found.push(format!("{path} has no `{word}` any more")),
                _ => {}
            }
        }
        let gone = allowed.iter().filter(|path| !texts.contains_key(**path));
        found.extend(gone.map(|path| format!("{path} is allowed `{word}`, and not there")));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn words_are_whole_or_parts_of_the_names_of_types() {
    let cases = [
        ("a RetryHelper is", "Helper", true),
        ("HelperOfAll", "Helper", true),
        ("Helpers", "Helper", false),
        ("is away.", "is away", true),
        ("this away", "is away", false),
        ("fates", "fate", false),
        ("`fate`", "fate", true),
    ];
    for (line, word, expected) in cases {
        assert_eq!(has(line, word), expected, "{line:?} {word:?}");
    }
}
