//! What operators can set and see stands in docs/: flags and metrics. (Fields of the configuration file are
//! compared with the page by the tests of `sluice-config`, with what a change of each does.) And the pages
//! hold together: links lead somewhere, decisions have their form.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{pages, root, sources};

fn page(name: &str) -> String {
    let path = root().join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between backquotes in a text.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// Quoted words in the first column of the tables of a part of a page.
fn first_column(text: &str) -> BTreeSet<&str> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| quoted(row.split('|').nth(1).unwrap_or_default())).collect()
}

/// Names of flags in a help text.
fn flags_of(program: &str, arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(program).args(arguments).output().expect("the program runs");
    let help = String::from_utf8_lossy(&output.stdout);
    let options = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let flags = options.filter_map(|line| line.split_whitespace().find(|w| w.starts_with("--")));
    let name = |flag: &str| -> String {
        flag.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect()
    };
    let mut flags: BTreeSet<String> = flags.map(name).collect();
    flags.remove("--help");
    assert!(!flags.is_empty(), "{program} {arguments:?} says what flags it has:\n{help}");
    flags
}

/// `--flag` of what stands as `--flag=value` or `--flag value` in a page.
fn flags_in(text: &str) -> BTreeSet<String> {
    let flag = |word: &str| {
        let end = word.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(word.len());
        word[..end].to_owned()
    };
    let names_one = |word: &&str| {
        let name = word
            .strip_prefix("--")
            .is_some_and(|n| n.starts_with(|c: char| c.is_ascii_lowercase()));
        name && !word.contains('…')
    };
    quoted(text).into_iter().filter(names_one).map(flag).collect()
}

#[test]
fn every_flag_is_documented() {
    let mut flags = flags_of(env!("CARGO_BIN_EXE_sluice-under-test"), &["--help"]);
    // Those that are accepted without effect are left out of the help text.
    let table = sources().into_iter().find(|source| source.path.ends_with("flag_table.rs"));
    let table = table.expect("a table of flags").text;
    let rows = table.split("flag(\"").skip(1).filter_map(|rest| rest.split('"').next());
    flags.extend(rows.map(|name| format!("--{name}")));
    let written = flags_in(&page("configuration.md"));
    let missing: Vec<&String> = flags.difference(&written).collect();
    assert!(missing.is_empty(), "docs/configuration.md lacks {missing:?}");
    let unknown: Vec<&String> = written.difference(&flags).collect();
    assert!(unknown.is_empty(), "docs/configuration.md has flags that are not there: {unknown:?}");
    let bench = flags_of(env!("CARGO_BIN_EXE_sluice-lab-under-test"), &["bench", "--help"]);
    let written = flags_in(&page("benchmarks.md"));
    let missing: Vec<&String> = bench.difference(&written).collect();
    assert!(missing.is_empty(), "docs/benchmarks.md lacks {missing:?}");
}

/// Names of metrics in the source of the daemon, and in the list that a test compares with a running one.
fn metrics() -> BTreeSet<String> {
    let prefixes = ["kubeproxy_", "sluice_", "rest_client_", "process_", "kubernetes_"];
    let is_name = |word: &&str| {
        let plain = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        plain && prefixes.iter().any(|p| word.starts_with(p) && word.len() > p.len())
    };
    let mut found = BTreeSet::new();
    for source in
        sources().into_iter().filter(|s| s.krate() == "daemon" || s.krate() == "telemetry")
    {
        let texts = source.text.split('"').filter(is_name);
        found.extend(texts.map(str::to_owned));
    }
    let golden = root().join("integration/golden/metrics.txt");
    let golden = fs::read_to_string(golden).expect("the golden list of metrics");
    let types = golden.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    found.extend(types.filter_map(|line| line.split(' ').next()).map(str::to_owned));
    found
}

#[test]
fn every_metric_is_documented() {
    let all = metrics();
    let page = page("metrics.md");
    let with_prefix = |word: &str| {
        let full = ["", "kubeproxy_", "sluice_"].map(|prefix| format!("{prefix}{word}"));
        full.into_iter().find(|name| all.contains(name))
    };
    let written: BTreeSet<String> = quoted(&page).into_iter().filter_map(with_prefix).collect();
    let missing: Vec<&String> = all.difference(&written).collect();
    assert!(missing.is_empty(), "docs/metrics.md lacks {missing:?}");
    let column = first_column(&page);
    let unknown: Vec<&&str> =
        column.iter().filter(|word| !word.contains('…') && with_prefix(word).is_none()).collect();
    assert!(unknown.is_empty(), "docs/metrics.md has metrics that are not there: {unknown:?}");
}

/// The name that forges give to a heading.
fn anchor(heading: &str) -> String {
    let plain = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = plain.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn leads_somewhere(page: &Path, target: &str) -> bool {
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => page.to_owned(),
        file => page.parent().expect("a page is in a folder").join(file),
    };
    if heading.is_empty() {
        return path.exists();
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().any(|line| line.starts_with('#') && anchor(line) == heading)
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("a page is text");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.contains("://") && !leads_somewhere(&page, link) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn decisions_are_short_numbered_and_listed() {
    const LINES: usize = 40;
    let folder = root().join("docs/decisions");
    let index = page("decisions/README.md");
    let entries = fs::read_dir(&folder).expect("the folder is readable");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "README.md")
        .collect();
    names.sort();
    for (number, name) in (1..).zip(&names) {
        let text = page(&format!("decisions/{name}"));
        let number = format!("{number:04}");
        assert!(name.starts_with(&format!("{number}-")), "{name}: the next number is {number}");
        assert!(text.starts_with(&format!("# {number}. ")), "{name}: its heading has its number");
        assert!(text.lines().count() <= LINES, "{name} has more than {LINES} lines");
        for part in ["## Context", "## Decision", "## Measured", "## Consequences"] {
            assert!(text.contains(&format!("\n{part}\n")), "{name} has no {part:?}");
        }
        let title = text.lines().next().and_then(|line| line.split_once(". ")).expect("a title").1;
        let row = format!("| [{number}]({name}) | {title} |");
        assert!(index.contains(&row), "docs/decisions/README.md lacks {row}");
    }
    let rows = index.lines().filter(|line| line.starts_with("| [")).count();
    assert_eq!(rows, names.len(), "rows of docs/decisions/README.md, and decisions");
}

/// What may use what stands in one place, so that no other can contradict it.
#[test]
fn there_is_one_table_of_layers() {
    let mut found: Vec<String> = Vec::new();
    let texts = pages().into_iter().map(|page| {
        let text = fs::read_to_string(&page).expect("a page is text");
        (page, text)
    });
    let code = sources().into_iter().map(|source| (source.path, source.text));
    for (path, text) in texts.chain(code) {
        let tables = text.lines().map(|line| line.trim_start_matches(['/', '!', ' ']));
        let tables = tables.filter(|line| line.starts_with("| layer |"));
        found.extend(tables.map(|_| path.display().to_string()));
    }
    assert_eq!(found.len(), 1, "tables of layers: {found:?}");
}

/// `make` targets in a text: in backquotes, in code blocks, and as steps of a workflow.
fn targets_in(text: &str) -> BTreeSet<String> {
    let code = text.lines().map(|line| line.trim().trim_start_matches("- run: "));
    let commands = quoted(text).into_iter().chain(code).filter_map(|c| c.strip_prefix("make "));
    let word = |command: &str| command.split_whitespace().next().unwrap_or_default().to_owned();
    let is_target = |word: &String| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    commands.map(word).filter(is_target).collect()
}

#[test]
fn make_knows_every_target_that_is_named() {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("a Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split_once(':').map(|(target, _)| target))
        .collect();
    let workflows = fs::read_dir(root().join(".github/workflows")).expect("workflows");
    let workflows = workflows.map(|entry| entry.expect("a workflow").path());
    for path in pages().into_iter().chain(workflows).chain([root().join(".ci/run")]) {
        let text = fs::read_to_string(&path).expect("a text");
        for target in targets_in(&text) {
            assert!(targets.contains(target.as_str()), "{}: make {target}", path.display());
        }
    }
}
