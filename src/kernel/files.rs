//! Files that are read again while the program runs: what is new in them, told once.
//!
//! Others write them meanwhile. What a look finds may be half of it, or nothing between two symlinks, so
//! it is said whether the next look found the same: then it has come to rest.
//!
//! Notification by the kernel would have to follow a mounted ConfigMap or Secret through two symlinks
//! (`..data` is swapped), does not work on every file system, and fails on nodes that have run out of
//! inotify instances. A small file that is in the page cache costs three system calls.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

/// Some files, and what the last looks at them found.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    key: RandomState,
    /// What the last look found, and how often in a row.
    last: Option<(Found, u32)>,
}

/// A fingerprint of the files, or why they cannot be read. Not the files: they may hold a key.
type Found = Result<u64, String>;

/// What the files hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    /// One text for each file, in their order.
    pub parts: Vec<Vec<u8>>,
    /// The same for the same texts, and for no others, of the same [`Files`].
    pub fingerprint: u64,
}

/// What a look found that is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The files, or why they cannot be read.
    pub texts: Result<Texts, String>,
    /// Whether the look before found the same.
    pub at_rest: bool,
}

impl Files {
    /// Nothing of them has been read yet.
    pub fn new(paths: Vec<PathBuf>) -> Files {
        Files { paths, key: RandomState::new(), last: None }
    }

    /// Where they are, for messages.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        names.join(" and ")
    }

    /// Reads the files for the first time. What they hold is known from now on.
    ///
    /// # Errors
    /// If one of them cannot be read: which one, and why.
    pub fn open(&mut self) -> Result<Texts, String> {
        let texts = self.read();
        self.last = Some((fingerprint(&texts), KNOWN));
        texts
    }

    /// Reads the files. Whatever they hold is news twice at the most: at the first look that finds it, and
    /// at the second one in a row. Blocks for as long as the file system takes.
    pub fn look(&mut self) -> Option<News> {
        let texts = self.read();
        self.compare(texts)
    }

    fn compare(&mut self, texts: Result<Texts, String>) -> Option<News> {
        let found = fingerprint(&texts);
        let looks = match &self.last {
            Some((last, looks)) if *last == found => *looks,
            _ => 0,
        };
        self.last = Some((found, (looks + 1).min(KNOWN)));
        (looks < KNOWN).then_some(News { texts, at_rest: looks == 1 })
    }

    fn read(&self) -> Result<Texts, String> {
        let one = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        Ok(self.texts(self.paths.iter().map(one).collect::<Result<_, _>>()?))
    }

    fn texts(&self, parts: Vec<Vec<u8>>) -> Texts {
        let fingerprint = self.key.hash_one(&parts);
        Texts { parts, fingerprint }
    }
}

/// Looks after which a text is no news any more.
const KNOWN: u32 = 2;

fn fingerprint(texts: &Result<Texts, String>) -> Found {
    texts.as_ref().map(|texts| texts.fingerprint).map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_to_rest_is_news_once_more() {
        let mut files = Files::new(Vec::new());
        let gone = || Err("gone".to_owned());
        let key = files.key.clone();
        let texts = |parts: &[&str]| {
            let parts: Vec<_> = parts.iter().map(|part| part.as_bytes().to_vec()).collect();
            let fingerprint = key.hash_one(&parts);
            Ok(Texts { parts, fingerprint })
        };
        files.last = Some((fingerprint(&texts(&["a"])), KNOWN));
        let mut look = |found: Result<Texts, String>| {
            let news = files.compare(found.clone());
            assert!(news.as_ref().is_none_or(|news| news.texts == found));
            news.map(|news| news.at_rest)
        };
        let steps = [
            (texts(&["a"]), None, "known"),
            (texts(&["a half"]), Some(false), "being written"),
            (texts(&["b"]), Some(false), "new"),
            (texts(&["b"]), Some(true), "at rest"),
            (texts(&["b"]), None, "known"),
            (gone(), Some(false), "between two symlinks"),
            (texts(&["b"]), Some(false), "back"),
            (texts(&["b"]), Some(true), "and at rest"),
            (gone(), Some(false), "gone"),
            (gone(), Some(true), "for good"),
            (gone(), None, "known"),
            (texts(&["b", ""]), Some(false), "divided differently"),
            (texts(&["", "b"]), Some(false), "divided differently again"),
        ];
        for (step, (found, expected, what)) in steps.into_iter().enumerate() {
            assert_eq!(look(found), expected, "step {step}: {what}");
        }
    }

    #[test]
    fn files_are_read_in_their_order() {
        let folder = tempfile::tempdir().expect("a directory");
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        let mut files = Files::new(paths.to_vec());
        let missing = files.open().expect_err("nothing is there");
        assert!(missing.starts_with(&paths[0].display().to_string()), "{missing}");
        for (path, text) in paths.iter().zip(["x", "y"]) {
            std::fs::write(path, text).expect("a file");
        }
        let news = files.look().expect("they are there");
        assert!(!news.at_rest);
        assert_eq!(news.texts.expect("they can be read").parts, [b"x", b"y"]);
    }
}
