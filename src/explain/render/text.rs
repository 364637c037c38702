//! Top to bottom: the question, the stages, the result, the findings.

use super::Style;
use super::lines::{Colour, Lines};
use super::words::{self, MOST, place};
use crate::explanation::{Explanation, Outcome, Reason, Stage, Unused, Used};
use crate::findings::{Finding, Severity};

/// Where the sentence of a stage begins.
const INDENT: usize = 14;

/// An explanation as text.
pub fn text(explanation: &Explanation, style: Style) -> String {
    let mut lines = Lines::new(style);
    lines.put(Colour::Plain, "", 0, &words::asked(explanation), "");
    lines.put(Colour::Faint, "", 0, &words::truth(explanation), "");
    lines.blank();
    for (index, stage) in explanation.stages.iter().enumerate() {
        let sentence = words::sentence(&explanation.stages[..index], stage);
        one(&mut lines, index + 1, stage, sentence);
    }
    lines.blank();
    lines.put(colour_of(explanation.result), "", 0, &explanation.summary, "");
    for finding in &explanation.findings {
        found(&mut lines, finding);
    }
    lines.finish()
}

fn one(lines: &mut Lines, number: usize, stage: &Stage, sentence: &str) {
    let (mark, colour) = match stage.ok {
        Some(true) => (" ", Colour::Plain),
        Some(false) => ("✗", Colour::Bad),
        None => (" ", Colour::Faint),
    };
    let lead = format!("{number:>2}{mark}{}", stage.stage);
    lines.put(colour, &lead, INDENT, sentence, &stage.rules.join(" "));
    endpoints(lines, &stage.used, &stage.unused);
    if !stage.path.is_empty() {
        lines.put(Colour::Plain, "", INDENT, &stage.path.join(" → "), "");
    }
    for object in stage.objects.iter().take(MOST) {
        let text = format!("{}  {}", object.set, object.element);
        let right = if object.state == "desired" { "" } else { &object.state };
        lines.put(Colour::Plain, "", INDENT, &text, right);
    }
    for (objects, word) in [(&stage.missing, "missing"), (&stage.extra, "too many")] {
        for object in objects.iter().take(MOST) {
            let text = format!("✗ {}  {}", object.set, object.element);
            lines.put(Colour::Bad, "", INDENT, &text, word);
        }
    }
    for note in &stage.notes {
        lines.put(Colour::Plain, "", INDENT, note, "");
    }
}

fn endpoints(lines: &mut Lines, used: &[Used], unused: &[Unused]) {
    let widest = used.iter().map(|used| used.endpoint.chars().count());
    let widest =
        widest.chain(unused.iter().filter_map(|u| Some(u.endpoint.as_ref()?.chars().count())));
    let widest = widest.max().unwrap_or(0);
    for one in used.iter().take(MOST) {
        let text = format!("✓ {:widest$}  {}", one.endpoint, place(&one.pod, &one.node));
        lines.put(Colour::Good, "", INDENT, &text, "");
    }
    more(lines, used.len(), "used");
    for one in unused.iter().take(MOST) {
        let why = words::why_not(one);
        let text = match &one.endpoint {
            Some(endpoint) => {
                format!("✗ {endpoint:widest$}  {}   {why}", place(&one.pod, &one.node))
            }
            None => format!("· pod {} is {why}", place(&one.pod, &None)),
        };
        let colour = if one.reason == Reason::NotReady { Colour::Attention } else { Colour::Faint };
        lines.put(colour, "", INDENT, &text, &one.rules.join(" "));
    }
    more(lines, unused.len(), "not used");
}

fn more(lines: &mut Lines, all: usize, what: &str) {
    if let Some(text) = words::more(all, what) {
        lines.put(Colour::Faint, "", INDENT, &text, "");
    }
}

fn found(lines: &mut Lines, finding: &Finding) {
    let colour = match finding.severity {
        Severity::Error => Colour::Bad,
        Severity::Warning => Colour::Attention,
        Severity::Info => Colour::Faint,
    };
    let lead = format!("  {:<8}", finding.severity);
    lines.put(colour, &lead, 10, &format!("{}: {}", finding.code, finding.text), "");
    if let Some(fix) = &finding.fix {
        lines.put(Colour::Plain, "", 10, &format!("fix: {fix}"), "");
    }
    lines.put(Colour::Faint, "", 10, &format!("docs/findings.md#{}", finding.code), "");
}

pub(super) fn colour_of(outcome: Outcome) -> Colour {
    match outcome {
        Outcome::Reachable => Colour::Good,
        Outcome::Unreachable => Colour::Bad,
        Outcome::Mixed | Outcome::Undetermined => Colour::Attention,
    }
}
