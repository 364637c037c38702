//! As much of Rust as the rules of the repository ask about: code without comments and texts, the paths
//! in it, and the modules of a crate.

use std::collections::BTreeMap;

/// A path as it is used, with the line where it begins: `crate::net::Family` is `[crate, net, Family]`.
/// A group (`use crate::{a, b::c}`) is one path for each of its members; a glob ends in `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) line: usize,
    pub(crate) path: Vec<String>,
    /// The name that it has from there on.
    pub(crate) name: String,
}

/// The text with blanks in place of comments and of what stands in quotes. Lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    let mut blank = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let hidden = hidden(rest, blank.chars().last());
        let length = if hidden == 0 { first.len_utf8() } else { hidden };
        let (taken, after) = rest.split_at(length);
        if hidden == 0 {
            blank.push_str(taken);
        } else {
            blank.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    blank
}

/// How many bytes of comment or quotation a text begins with.
fn hidden(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    if !before.is_some_and(is_of_name)
        && let Some(raw) = raw_text(text)
    {
        return raw;
    }
    if text.starts_with('"') {
        return closed_by(text, '"');
    }
    // A lifetime has no second quotation mark after one character.
    let is_character = text.strip_prefix('\'').is_some_and(|inside| {
        let mut inside = inside.chars();
        matches!((inside.next(), inside.next()), (Some('\\'), _) | (Some(_), Some('\'')))
    });
    if is_character { closed_by(text, '\'') } else { 0 }
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn raw_text(text: &str) -> Option<usize> {
    let inside = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let marks = inside.len() - inside.trim_start_matches('#').len();
    let inside = inside[marks..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(marks));
    let length = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(text.len() - inside.len() + length)
}

fn closed_by(text: &str, mark: char) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        if c == '\\' {
            characters.next();
        } else if c == mark {
            return at + 1;
        }
    }
    text.len()
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Names and marks of code, with their lines.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_of_name(first) {
                rest.find(|c| !is_of_name(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            found.push((number + 1, &rest[..length]));
            rest = rest[length..].trim_start();
        }
    }
    found
}

/// Every path of the code whose first name is one of these, and every path that a `use` names.
pub(crate) fn paths(code: &str, begins: impl Fn(&str) -> bool) -> Vec<Used> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let continues = at > 0 && tokens[at - 1].1 == "::";
        let leads = tokens.get(at + 1).is_some_and(|token| token.1 == "::");
        if !continues && leads && begins(tokens[at].1) {
            tree(&tokens, at, &mut Vec::new(), &mut found);
        }
    }
    found
}

/// What the `use` declarations of the code bring into its module, under which names.
pub(crate) fn uses(code: &str) -> Vec<Used> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for at in 1..tokens.len() {
        if tokens[at - 1].1 == "use" {
            tree(&tokens, at, &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Reads a path, or a group of them, from a token on; gives the token behind it.
fn tree(
    tokens: &[(usize, &str)],
    mut at: usize,
    prefix: &mut Vec<String>,
    found: &mut Vec<Used>,
) -> usize {
    let token = |at: usize| tokens.get(at).map_or("", |token| token.1);
    let (outer, line) = (prefix.len(), tokens.get(at).map_or(0, |token| token.0));
    while token(at) == "*" || token(at).starts_with(is_of_name) {
        prefix.push(token(at).to_owned());
        at += 1;
        if token(at) != "::" {
            break;
        }
        at += 1;
    }
    if token(at) == "{" && token(at - 1) == "::" {
        at += 1;
        while !matches!(token(at), "}" | "") {
            at = tree(tokens, at, prefix, found);
            at += usize::from(token(at) == ",");
        }
        prefix.truncate(outer);
        return at + 1;
    }
    if prefix.len() == outer {
        return at + 1;
    }
    // In a group `self` is the module before it.
    if prefix.len() > 1 && prefix.last().is_some_and(|last| last == "self") {
        prefix.pop();
    }
    let mut name = prefix.last().cloned().unwrap_or_default();
    if token(at) == "as" {
        token(at + 1).clone_into(&mut name);
        at += 2;
    }
    found.push(Used { line, path: prefix.clone(), name });
    prefix.truncate(outer);
    at
}

/// The modules that this code declares in files of their own, and whether they are for tests only.
pub(crate) fn declared(code: &str) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    let mut for_tests = false;
    for line in code.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let declaration = line.strip_prefix("pub").map_or(line, |rest| {
            let rest = rest.trim_start();
            rest.strip_prefix('(').and_then(|r| r.split_once(')')).map_or(rest, |(_, rest)| rest)
        });
        if let Some(name) =
            declaration.trim().strip_prefix("mod ").and_then(|n| n.strip_suffix(';'))
        {
            found.insert(name.to_owned(), for_tests);
        }
        for_tests = line == "#[cfg(test)]" || (for_tests && line.starts_with("#["));
    }
    found
}

/// The code without the modules for tests that stand in it.
pub(crate) fn without_tests(code: &str) -> String {
    let mut rest = code;
    let mut kept = String::new();
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, tests) = rest.split_at(at);
        kept.push_str(before);
        let body = tests.find(['{', ';']).unwrap_or(tests.len());
        let end = if tests[body..].starts_with('{') { body + block(&tests[body..]) } else { body };
        kept.extend(tests[..end].chars().filter(|c| *c == '\n'));
        rest = &tests[end..];
    }
    kept + rest
}

fn block(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_has_no_comments_and_no_texts() {
        let text = "a // b \"c\nd \"e // f\" g 'h' '\\'' &'i j r#\"k\"# /* l /* m */ n */ o";
        let words: Vec<String> = code(text).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["a", "d", "g", "&'i", "j", "o"]);
        assert_eq!(code(text).lines().count(), text.lines().count());
    }

    #[test]
    fn a_group_is_a_path_for_each_of_its_members() {
        let text = "use crate::{\n    a,\n    b::{self, C as D},\n};\nlet x = crate::e::f::<G>(crate::h());";
        let found = paths(text, |first| first == "crate");
        let found: Vec<(usize, String, &str)> =
            found.iter().map(|u| (u.line, u.path.join("::"), u.name.as_str())).collect();
        let expected = [
            (2, "crate::a", "a"),
            (3, "crate::b", "b"),
            (3, "crate::b::C", "D"),
            (5, "crate::e::f", "f"),
            (5, "crate::h", "h"),
        ];
        let expected: Vec<(usize, String, &str)> =
            expected.iter().map(|(line, path, name)| (*line, (*path).to_owned(), *name)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn modules_for_tests_are_known() {
        let text = "mod a;\n#[cfg(test)]\nmod b;\npub(crate) mod c;\n#[cfg(test)]\nmod d {\n    { }\n}\nfn e() {}";
        let expected = [("a", false), ("b", true), ("c", false)];
        let expected = expected.map(|(name, tests)| (name.to_owned(), tests));
        assert_eq!(declared(text), BTreeMap::from(expected));
        let kept = without_tests(text);
        assert!(kept.contains("fn e()") && !kept.contains("mod d"), "{kept}");
        assert_eq!(kept.lines().count(), text.lines().count());
    }
}
