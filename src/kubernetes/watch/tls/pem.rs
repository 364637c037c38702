//! PEM blocks, parsed as Go's `encoding/pem` does: an invalid block does not affect others, and text between
//! blocks is ignored.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What stands between a BEGIN and an END.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// What it calls itself, such as `CERTIFICATE`.
    pub(super) label: String,
    /// The line of its BEGIN; the first line is 1.
    pub(super) line: usize,
    /// Whether there are headers, as a key has that is encrypted in OpenSSL's old way.
    pub(super) headers: bool,
    /// What it holds, unless it is broken.
    pub(super) der: Option<Vec<u8>>,
}

/// A block of which the end has not been seen.
struct Open {
    block: Block,
    base64: Vec<u8>,
}

impl Open {
    fn begin(label: &[u8], line: usize) -> Open {
        let label = String::from_utf8_lossy(label).into_owned();
        Open { block: Block { label, line, headers: false, der: None }, base64: Vec::new() }
    }

    fn add(&mut self, line: &[u8]) {
        if line.contains(&b':') {
            self.block.headers = true;
        } else {
            self.base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
    }

    fn end(self, label: &[u8]) -> Block {
        let whole = self.block.label.as_bytes() == label;
        let der = if whole { STANDARD.decode(&self.base64).ok() } else { None };
        Block { der, ..self.block }
    }
}

/// All blocks, also the broken ones.
pub(super) fn blocks(text: &[u8]) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Open> = None;
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if let Some(label) = between(line, b"-----BEGIN ") {
            found.extend(open.replace(Open::begin(label, index + 1)).map(|open| open.block));
        } else if let Some(label) = between(line, b"-----END ") {
            found.extend(open.take().map(|open| open.end(label)));
        } else if let Some(open) = &mut open {
            open.add(line);
        }
    }
    found.extend(open.map(|open| open.block));
    found
}

fn between<'a>(line: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    line.strip_prefix(start)?.strip_suffix(b"-----")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_block_harms_no_other() {
        let good = "-----BEGIN A-----\nZ29\r\n v\n-----END A-----\n";
        let block = |line, der: Option<&[u8]>| Block {
            label: "A".to_owned(),
            line,
            headers: false,
            der: der.map(<[u8]>::to_vec),
        };
        let whole = |line| block(line, Some(b"goo"));
        let table = [
            (String::new(), vec![]),
            ("words\n".to_owned(), vec![]),
            (good.to_owned(), vec![whole(1)]),
            (format!("words\n{good}{good}"), vec![whole(2), whole(6)]),
            (
                format!("-----BEGIN A-----\n!\n-----END A-----\n{good}"),
                vec![block(1, None), whole(4)],
            ),
            (
                format!("-----BEGIN A-----\nZ29v\n-----END B-----\n{good}"),
                vec![block(1, None), whole(4)],
            ),
            (format!("-----BEGIN A-----\nZ29v\n{good}"), vec![block(1, None), whole(3)]),
            (format!("{good}-----BEGIN A-----\nZ29v"), vec![whole(1), block(5, None)]),
            (format!("-----END A-----\n{good}"), vec![whole(2)]),
        ];
        for (text, expected) in table {
            assert_eq!(blocks(text.as_bytes()), expected, "{text}");
        }
        let [encrypted] =
            &blocks(b"-----BEGIN K-----\nProc-Type: 4,ENCRYPTED\n\nZ29v\n-----END K-----")[..]
        else {
            panic!("there is one");
        };
        assert!(encrypted.headers);
    }
}
