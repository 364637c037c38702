//! A page that needs nothing else: no script, no other file. Names come from files and from an API, so everything is
//! escaped, and control characters are written out.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::lines::printable;
use super::words::{self, MOST, place};
use crate::compared::Comparison;
use crate::explanation::{Explanation, Outcome, Stage};
use crate::findings::Finding;
use crate::truth::Object;

const STYLE: &str = include_str!("style.css");

/// Nothing is fetched and nothing runs, whatever a name contains.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// An explanation as a page.
pub fn page(explanation: &Explanation) -> String {
    let asked = printable(&words::asked(explanation));
    whole(&asked, html! { (answer(explanation)) })
}

/// What a change would change, as a page.
pub fn comparison_page(compared: &Comparison) -> String {
    let asked = printable(&words::asked(&compared.before));
    let title = format!("{asked}, if {}", printable(&compared.what_if));
    let body = html! {
        (changes(compared))
        details { summary { "Before" } (answer(&compared.before)) }
        details { summary { "After" } (answer(&compared.after)) }
    };
    whole(&title, body)
}

fn whole(title: &str, body: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { main { h1 { (title) } (body) } }
        }
    };
    page.into_string()
}

fn answer(explanation: &Explanation) -> Markup {
    let stages = explanation.stages.iter().enumerate();
    html! {
        p.quiet { (printable(&words::truth(explanation))) }
        p class=(format!("result {}", class(explanation.result))) { (printable(&explanation.summary)) }
        @if !explanation.findings.is_empty() {
            ul.findings { @for finding in &explanation.findings { (found(finding)) } }
        }
        ol.stages {
            @for (index, it) in stages {
                (stage(it, words::sentence(&explanation.stages[..index], it)))
            }
        }
    }
}

fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Reachable => "good",
        Outcome::Unreachable => "bad",
        Outcome::Mixed | Outcome::Undetermined => "attention",
    }
}

fn found(finding: &Finding) -> Markup {
    html! {
        li class=(finding.severity.to_string()) {
            p { strong { (finding.severity.to_string()) " " code { (finding.code.as_str()) } } " "
                (printable(&finding.text)) }
            @if let Some(fix) = &finding.fix { pre { (printable(fix)) } }
            p.quiet { "docs/findings.md#" (finding.code.as_str()) }
        }
    }
}

fn stage(stage: &Stage, sentence: &str) -> Markup {
    let (class, mark) = match stage.ok {
        Some(true) => ("good", ""),
        Some(false) => ("bad", " ✗"),
        None => ("none", ""),
    };
    html! {
        li class=(class) {
            h2 { (stage.stage) (mark) (rules(&stage.rules)) }
            p { (printable(sentence)) }
            (endpoints(stage))
            @if !stage.path.is_empty() { p.path { (printable(&stage.path.join(" → "))) } }
            (objects(&stage.objects, "", ""))
            (objects(&stage.missing, "bad", "missing"))
            (objects(&stage.extra, "bad", "too many"))
            @for note in &stage.notes { p { (printable(note)) } }
        }
    }
}

fn rules(rules: &[String]) -> Markup {
    html! { @if !rules.is_empty() { " " span.rule { (printable(&rules.join(" "))) } } }
}

fn endpoints(stage: &Stage) -> Markup {
    html! {
        @if !stage.used.is_empty() || !stage.unused.is_empty() {
            ul.endpoints {
                @for one in stage.used.iter().take(MOST) {
                    li.good { "✓ " code { (printable(&one.endpoint)) } " "
                        (printable(&place(&one.pod, &one.node))) }
                }
                @if let Some(text) = words::more(stage.used.len(), "used") { li.quiet { (text) } }
                @for one in stage.unused.iter().take(MOST) {
                    li.none {
                        @if let Some(endpoint) = &one.endpoint { "✗ " code { (printable(endpoint)) } }
                        @else { "· pod" }
                        " " (printable(&place(&one.pod, &one.node))) ": "
                        (printable(&words::why_not(one))) (rules(&one.rules))
                    }
                }
                @if let Some(text) = words::more(stage.unused.len(), "not used") { li.quiet { (text) } }
            }
        }
    }
}

fn objects(objects: &[Object], class: &str, word: &str) -> Markup {
    html! {
        @if !objects.is_empty() {
            ul.objects {
                @for object in objects.iter().take(MOST) {
                    li class=(class) { code { (printable(&object.set)) "  " (printable(&object.element)) }
                        " " (word) }
                }
            }
        }
    }
}

fn changes(compared: &Comparison) -> Markup {
    html! {
        @for (name, one) in [("before", &compared.before), ("after", &compared.after)] {
            p class=(format!("result {}", class(one.result))) { strong { (name) } " " (printable(&one.summary)) }
        }
        @if compared.changes.is_empty() { p { "Nothing changes for this connection." } }
        @else {
            ol.stages {
                @for change in &compared.changes {
                    li { h2 { (change.stage) } p.quiet { "before: " (printable(&change.before)) }
                        p { "after: " (printable(&change.after)) } }
                }
            }
        }
        h2 { "kernel" }
        p { (printable(&compared.kernel)) }
        ul.objects { @for line in compared.in_other_modes() { li { (line) } } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::World;

    #[test]
    fn a_page_runs_nothing_that_a_name_contains() {
        let mut world = World::usual();
        let evil = "</style><script>alert(1)</script>\u{1b}[31m\u{0}\u{202e}'\"&";
        world.known.endpoints[0].pod = Some(evil.to_owned());
        world.origin.text = evil.to_owned();
        let page = page(&world.answer("pod/shell", "svc/web"));
        assert!(
            page.contains("&lt;script&gt;alert(1)&lt;/script&gt;\\u{1b}[31m\\u{0}\\u{202e}"),
            "{page}"
        );
        assert!(!page.contains("<script"), "{page}");
        let inside = page.split_once("<body>").expect("a body").1;
        assert!(!inside.contains(|c: char| c.is_control() || c == '\u{202e}'), "{inside:?}");
        assert_eq!(inside.matches("</style>").count(), 0);
    }

    #[test]
    fn a_page_says_what_text_says() {
        let world = World::usual();
        for (from, to) in
            [("pod/shell", "svc/web"), ("pod/shell", "svc/wbe"), ("pod/shell", "svc/web:81")]
        {
            let answer = world.answer(from, to);
            let page = page(&answer);
            let unescaped = page.replace("&quot;", "\"").replace("&amp;", "&");
            let fixes = answer.findings.iter().filter_map(|finding| finding.fix.as_ref());
            let texts = answer.findings.iter().map(|finding| &finding.text).chain(fixes);
            for text in
                texts.chain([&answer.summary]).chain(answer.stages.iter().flat_map(|s| &s.rules))
            {
                assert!(unescaped.contains(text.as_str()), "{text}: {page}");
            }
            assert_eq!(page.matches("<h2>").count(), 10, "stages: {page}");
        }
    }
}
