//! An explanation as text for a terminal or a file, and as a page of HTML: the same words of the same values.

mod comparison;
mod html;
mod lines;
mod text;
mod words;

pub use comparison::comparison;
pub use html::{comparison_page, page};
pub use text::text;

/// How text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// The most characters of a line; longer lines are wrapped.
    pub width: usize,
    /// Whether colours are used.
    pub colour: bool,
}

impl Style {
    /// No line is longer, on the widest terminal.
    pub const WIDEST: usize = 100;
    /// Below this, text is not readable; the terminal wraps it.
    pub const NARROWEST: usize = 40;

    /// For a terminal of so many columns, or for a file.
    pub fn new(columns: Option<usize>, colour: bool) -> Style {
        let width = columns.unwrap_or(Style::WIDEST).clamp(Style::NARROWEST, Style::WIDEST);
        Style { width, colour }
    }
}
