//! How answers are shown: on a terminal, in a file, in a browser.

use std::process::{Command, Output};

use crate::{PROGRAM, SHOP, ask, root, run};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The questions of this test, with something to wrap in each.
const QUESTIONS: [(&str, &str, &[&str]); 4] = [
    ("pod/shell", "http://web", &[]),
    ("pod/shell", "http://cart", &[]),
    ("192.0.2.9", "198.51.100.1:80", &["--on", "node-a"]),
    ("203.0.113.7", "node/node-b:30080", &["--what-if", "svc/web externalTrafficPolicy=Local"]),
];

/// Runs the program on a terminal of so many columns; none if there is no program that makes terminals.
#[allow(clippy::print_stderr)] // says why nothing was tested
fn on_terminal(columns: u16, set: &str, arguments: &[&str]) -> Option<String> {
    let quoted: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
    let command = format!("stty cols {columns}; {set} {PROGRAM} {}", quoted.join(" "));
    let script = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(root().join("integration/explain"))
        .env("TERM", "xterm")
        .env_remove("COLUMNS")
        .env_remove("NO_COLOR")
        .stdin(std::process::Stdio::null())
        .output();
    match script {
        Ok(output) => Some(text(&output).replace('\r', "")),
        Err(error) => {
            eprintln!("not run: script(1) cannot be started: {error}");
            None
        }
    }
}

fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    out + rest
}

#[test]
fn lines_are_as_long_as_the_terminal_and_not_longer_than_a_hundred() {
    for columns in [40, 60, 80, 200] {
        for (from, to, more) in QUESTIONS {
            let arguments = [&["explain", from, to][..], SHOP, more].concat();
            let Some(shown) = on_terminal(columns, "", &arguments) else { return };
            assert!(shown.contains('→'), "{shown}");
            let widest = plain(&shown).lines().map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(widest <= usize::from(columns.min(100)), "{columns}: {widest}\n{shown}");
        }
    }
}

#[test]
fn colours_are_for_terminals_and_only_if_they_are_wanted() {
    let arguments = [&["explain", "pod/shell", "http://web"][..], SHOP].concat();
    let Some(coloured) = on_terminal(80, "", &arguments) else { return };
    assert!(coloured.contains("\u{1b}[32m"), "{coloured:?}");
    for set in ["NO_COLOR=1", "TERM=dumb"] {
        let shown = on_terminal(80, set, &arguments).expect("it was there before");
        assert!(!shown.contains('\u{1b}'), "{set}: {shown:?}");
        assert_eq!(plain(&coloured), shown, "{set}: the same words");
    }
    assert!(
        !text(&ask("pod/shell", "http://web", &[])).contains('\u{1b}'),
        "a pipe has no colours"
    );
}

#[test]
fn a_file_has_a_hundred_columns_and_columns_narrows_it() {
    for (from, to, more) in QUESTIONS {
        let whole = text(&ask(from, to, more));
        assert!(whole.lines().all(|line| line.chars().count() <= 100), "{whole}");
        let arguments = [&["explain", from, to][..], SHOP, more].concat();
        let narrow = Command::new("env")
            .arg("COLUMNS=50")
            .arg(PROGRAM)
            .args(&arguments)
            .current_dir(root().join("integration/explain"))
            .output()
            .expect("the program starts");
        let narrow = text(&narrow);
        assert!(narrow.lines().all(|line| line.chars().count() <= 50), "{narrow}");
        let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
        assert_eq!(letters(&whole), letters(&narrow), "nothing is left out:\n{narrow}");
    }
}

#[test]
fn what_is_not_looked_at_is_said_once() {
    let shown = text(&ask("pod/shell", "http://web", &[]));
    assert_eq!(shown.matches("files and an API server").count(), 1, "{shown}");
    assert_eq!(shown.matches("not looked at either").count(), 2, "{shown}");
}

#[test]
fn pages_are_whole_and_need_nothing() {
    for (from, to, more) in QUESTIONS {
        let output = ask(from, to, &[more, &["-o", "html"]].concat());
        let page = text(&output);
        assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{page}");
        assert!(page.ends_with("</html>"), "{page}");
        for fetched in ["<script", "src=", "href=", "url(", "@import", "<link", "<img"] {
            assert!(!page.contains(fetched), "{fetched}: {page}");
        }
        assert!(page.contains("prefers-color-scheme: dark"), "{page}");
        assert!(page.contains("width=device-width"), "{page}");
        balanced(&page);
        let asked = ask(from, to, more);
        assert_eq!(output.status.code(), asked.status.code(), "the same exit code");
    }
}

/// Every element that is opened is closed, in order.
fn balanced(page: &str) {
    const EMPTY: [&str; 2] = ["meta", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    for part in page.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap_or_else(|| panic!("a tag ends: {part}"));
        let name = tag.split(' ').next().expect("a name");
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{page}");
        } else if !EMPTY.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}: {page}");
}

#[test]
fn names_from_files_are_no_part_of_a_page() {
    let shop = std::fs::read_to_string(root().join("integration/explain/shop.yaml")).expect("shop");
    let evil = shop.replace("name: web-3}", "name: \"</p><script>web-\\e[31m3\\a</script>&\"}");
    assert_ne!(shop, evil);
    let arguments =
        ["explain", "pod/shell", "svc/web", "-f", "-", "--config", "config.yaml", "-o", "html"];
    let page = text(&run(&arguments, &evil));
    let written = "&lt;/p&gt;&lt;script&gt;web-\\u{1b}[31m3\\u{7}&lt;/script&gt;&amp;";
    assert!(page.contains(written), "{page}");
    assert!(!page.contains("<script"), "{page}");
    assert!(!page.contains(|c: char| c.is_control() && c != '\n'), "{page:?}");
    balanced(&page);
}
