//! Files that are read again at run time: tokens, CAs and client certificates are renewed in place. As in
//! client-go, an unusable file leaves the last value in use: a file may be missing for a moment, or a pair
//! half-written.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_kernel::files::{Files, Texts};

/// A value that files hold, as it was when they were last good.
pub(super) struct Reread<T> {
    /// For messages, such as `the token`.
    what: &'static str,
    /// None for a value that no file holds.
    files: Option<Mutex<Files>>,
    parse: Box<Parse<T>>,
    state: Mutex<State<T>>,
}

type Parse<T> = dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync;

struct State<T> {
    current: Arc<T>,
    /// Of the files that the value is from.
    fingerprint: Option<u64>,
    fault: Option<Fault>,
}

/// Why the files could not be used when they were last read.
struct Fault {
    reason: String,
    said: bool,
}

impl<T> Reread<T> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// If they cannot be used: which one, and why.
    pub(super) fn open(
        what: &'static str,
        files: Vec<PathBuf>,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Reread<T>, String> {
        let mut files = Files::new(files);
        let texts = files.open()?;
        let value = parse(&texts.parts).map_err(|reason| format!("{}: {reason}", files.names()))?;
        Ok(Reread::new(value, what, Some(files), Some(texts.fingerprint), parse))
    }

    /// Begins with a value that is not from the files.
    pub(super) fn from(
        value: T,
        what: &'static str,
        files: Vec<PathBuf>,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Reread<T> {
        Reread::new(value, what, Some(Files::new(files)), None, parse)
    }

    /// A value that no file holds.
    pub(super) fn fixed(value: T) -> Reread<T> {
        Reread::new(value, "", None, None, |_| Err(String::new()))
    }

    fn new(
        value: T,
        what: &'static str,
        files: Option<Files>,
        fingerprint: Option<u64>,
        parse: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Reread<T> {
        let state = State { current: Arc::new(value), fingerprint, fault: None };
        let (files, parse) = (files.map(Mutex::new), Box::new(parse));
        Reread { what, files, parse, state: Mutex::new(state) }
    }

    /// Whether there is anything to read again.
    pub(super) fn has_files(&self) -> bool {
        self.files.is_some()
    }

    /// Whether the files could not be used when they were last read.
    pub(super) fn is_faulty(&self) -> bool {
        self.state().fault.is_some()
    }

    /// The last good value.
    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.state().current)
    }

    /// Reads the files, and says whether that gave another value. Blocks for as long as the file system
    /// takes, but nobody who asks for the current value.
    pub(super) fn look(&self) -> bool {
        let Some(files) = &self.files else { return false };
        let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(news) = files.look() else { return false };
        match news.texts.and_then(|texts| self.take(texts, &files.names())) {
            Ok(renewed) => renewed,
            Err(reason) => {
                self.note(&mut self.state(), reason);
                false
            }
        }
    }

    /// Uses what was read, and says whether it is another value.
    fn take(&self, texts: Texts, names: &str) -> Result<bool, String> {
        let same = self.state().fingerprint == Some(texts.fingerprint);
        let new = if same {
            None
        } else {
            let value = (self.parse)(&texts.parts);
            Some(Arc::new(value.map_err(|reason| format!("{names}: {reason}"))?))
        };
        let mut state = self.state();
        if state.fault.take().is_some_and(|fault| fault.said) {
            tracing::info!("{} can be read again", self.what);
        }
        let Some(current) = new else { return Ok(false) };
        *state = State { current, fingerprint: Some(texts.fingerprint), fault: None };
        tracing::debug!(files = names, "{} is renewed", self.what);
        Ok(true)
    }

    /// Reports a problem only at the second read in a row: at the first one, the file may be incomplete.
    fn note(&self, state: &mut State<T>, reason: String) {
        let said = match &state.fault {
            Some(fault) if fault.said => true,
            Some(_) => {
                tracing::warn!(
                    "{} cannot be renewed: {reason}; the old one stays in use",
                    self.what
                );
                true
            }
            None => false,
        };
        state.fault = Some(Fault { reason, said });
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Reread<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.state().fault.as_ref().map(|fault| fault.reason.clone());
        f.debug_struct("Reread")
            .field("what", &self.what)
            .field("fault", &fault)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upper(texts: &[Vec<u8>]) -> Result<String, String> {
        let text = texts.concat();
        if text.is_ascii() {
            Ok(String::from_utf8_lossy(&text).to_uppercase())
        } else {
            Err("no".to_owned())
        }
    }

    #[test]
    fn what_cannot_be_used_leaves_the_last_one_in_use() {
        let folder = tempfile::tempdir().expect("a directory");
        let files = ["a", "b"].map(|name| folder.path().join(name));
        let write = |texts: [&[u8]; 2]| {
            files
                .iter()
                .zip(texts)
                .for_each(|(path, text)| std::fs::write(path, text).expect("a file"));
        };
        assert!(Reread::open("it", files.to_vec(), upper).is_err(), "nothing is there");
        write([b"x", b"y"]);
        let value = Reread::open("it", files.to_vec(), upper).expect("both are there");
        let now = || value.current().as_str().to_owned();
        assert_eq!((value.look(), now()), (false, "XY".to_owned()), "nothing has changed");
        write([b"x", b"z"]);
        assert_eq!((value.look(), now()), (true, "XZ".to_owned()));
        for _ in 0..3 {
            write([b"x", b"\xff"]);
            assert_eq!((value.look(), now(), value.is_faulty()), (false, "XZ".to_owned(), true));
        }
        assert!(value.state().fault.as_ref().is_some_and(|fault| fault.said));
        std::fs::remove_file(&files[1]).expect("it was there");
        assert_eq!((value.look(), now(), value.is_faulty()), (false, "XZ".to_owned(), true));
        write([b"x", b"z"]);
        assert_eq!((value.look(), value.is_faulty()), (false, false), "as it was");
        write([b"xz", b""]);
        assert_eq!((value.look(), now()), (true, "XZ".to_owned()), "divided differently");
    }

    #[test]
    fn a_fault_is_said_at_the_second_look_and_then_not_again() {
        let value = Reread::from(0, "it", vec![PathBuf::from("/nonexistent/file")], |_| Ok(1));
        let said = || value.state().fault.as_ref().map(|fault| fault.said);
        let seen: Vec<_> = (0..3).map(|_| (value.look(), said())).collect();
        assert_eq!(seen, [(false, Some(false)), (false, Some(true)), (false, Some(true))]);
    }
}
