//! Lines of text: wrapping, columns, colours, and nothing that could steer a terminal.

use super::Style;

/// A colour of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Good,
    Bad,
    Attention,
    Faint,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Colour::Plain => "",
            Colour::Good => "\u{1b}[32m",
            Colour::Bad => "\u{1b}[31m",
            Colour::Attention => "\u{1b}[33m",
            Colour::Faint => "\u{1b}[2m",
        }
    }
}

/// Text in lines of a certain width.
pub(super) struct Lines {
    style: Style,
    text: String,
}

impl Lines {
    pub(super) fn new(style: Style) -> Lines {
        Lines { style, text: String::new() }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    pub(super) fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A paragraph with a first line that begins otherwise than those below it, and something at the right of
    /// the first line.
    pub(super) fn put(
        &mut self,
        colour: Colour,
        lead: &str,
        indent: usize,
        body: &str,
        right: &str,
    ) {
        let (lead, body, right) = (printable(lead), printable(body), printable(right));
        let width = self.style.width;
        let reserved = if right.is_empty() { 0 } else { length(&right) + 2 };
        let lead_length = length(&lead).max(indent);
        let first = width.saturating_sub(lead_length + reserved);
        let rest = width.saturating_sub(indent);
        let mut wrapped = wrap(&body, first.max(10), rest.max(10)).into_iter();
        let head = wrapped.next().unwrap_or_default();
        let mut line = format!("{lead:<indent$}{head}");
        if !right.is_empty() {
            let gap = width.saturating_sub(length(&line) + length(&right)).max(2);
            line.push_str(&" ".repeat(gap));
            line.push_str(&right);
        }
        self.line(colour, &line);
        for more in wrapped {
            self.line(colour, &format!("{:indent$}{more}", ""));
        }
    }

    fn line(&mut self, colour: Colour, line: &str) {
        let line = line.trim_end();
        let code = colour.code();
        if self.style.colour && !code.is_empty() && !line.is_empty() {
            self.text.push_str(code);
            self.text.push_str(line);
            self.text.push_str("\u{1b}[0m");
        } else {
            self.text.push_str(line);
        }
        self.text.push('\n');
    }
}

/// Characters on a terminal, as far as names of Kubernetes go.
fn length(text: &str) -> usize {
    text.chars().count()
}

/// Names come from files and from an API: control characters and invisible ones of Unicode are written as escapes.
pub(super) fn printable(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    if !text.contains(steers) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// Words in lines of `first`, then `rest` characters. A longer word is broken.
fn wrap(text: &str, first: usize, rest: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut room = first;
    for word in text.split_inclusive(' ') {
        let mut word = word;
        let used = length(lines.last().map_or("", String::as_str));
        if used > 0 && used + length(word.trim_end()) > room {
            lines.push(String::new());
            room = rest;
        }
        while length(word.trim_end()) > room {
            let cut = word.char_indices().nth(room).map_or(word.len(), |(at, _)| at);
            let (head, tail) = word.split_at(cut);
            lines.last_mut().into_iter().for_each(|line| line.push_str(head));
            lines.push(String::new());
            (word, room) = (tail, rest);
        }
        lines.last_mut().into_iter().for_each(|line| line.push_str(word));
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(width: usize, lead: &str, body: &str, right: &str) -> String {
        let mut lines = Lines::new(Style { width, colour: false });
        lines.put(Colour::Bad, lead, 6, body, right);
        lines.finish()
    }

    #[test]
    fn lines_are_wrapped_and_have_a_right_column() {
        assert_eq!(put(30, " 1 a", "one two", "S-1"), " 1 a  one two              S-1\n");
        assert_eq!(put(20, " 1 a", "one two three four", ""), " 1 a  one two three\n      four\n");
        let long = put(20, "", &"x".repeat(40), "");
        assert!(long.lines().all(|line| line.chars().count() <= 20), "{long}");
        assert_eq!(long.matches('x').count(), 40);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        let text = put(80, "", "a\u{1b}[31mb\u{202e}c\u{7}\r\n", "");
        assert_eq!(text, "      a\\u{1b}[31mb\\u{202e}c\\u{7}\\u{d}\\u{a}\n");
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let mut lines = Lines::new(Style { width: 40, colour: true });
        lines.put(Colour::Bad, "", 0, "red", "");
        lines.put(Colour::Plain, "", 0, "plain", "");
        assert_eq!(lines.finish(), "\u{1b}[31mred\u{1b}[0m\nplain\n");
    }
}
