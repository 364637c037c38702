//! Before and after a change, stage by stage.

use super::Style;
use super::lines::{Colour, Lines};
use super::text::colour_of;
use super::words;
use crate::compared::Comparison;

/// What a change would change, as text.
pub fn comparison(compared: &Comparison, style: Style) -> String {
    let mut lines = Lines::new(style);
    let asked = words::asked(&compared.before);
    lines.put(Colour::Plain, "", 0, &format!("{asked}, if {}", compared.what_if), "");
    lines.blank();
    for change in &compared.changes {
        lines.put(Colour::Faint, &format!("  {}", change.stage), 14, &change.before, "before");
        lines.put(Colour::Plain, "", 14, &change.after, "after");
    }
    if compared.changes.is_empty() {
        lines.put(Colour::Plain, "", 2, "nothing changes for this connection", "");
    }
    lines.blank();
    lines.put(colour_of(compared.before.result), "before", 8, &compared.before.summary, "");
    lines.put(colour_of(compared.after.result), "after", 8, &compared.after.summary, "");
    lines.put(Colour::Plain, "kernel", 8, &compared.kernel, "");
    for line in compared.in_other_modes() {
        lines.put(Colour::Faint, "", 8, &line, "");
    }
    lines.finish()
}
