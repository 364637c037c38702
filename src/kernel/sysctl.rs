//! Kernel settings that are files: below `/proc/sys`, and parameters of modules.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a setting is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// This value.
    Exactly(u64),
    /// This value or a greater one.
    AtLeast(u64),
}

impl Wanted {
    /// The value to write.
    fn value(self) -> u64 {
        match self {
            Wanted::Exactly(value) | Wanted::AtLeast(value) => value,
        }
    }

    fn is_met_by(self, present: u64) -> Option<Outcome> {
        match self {
            Wanted::Exactly(value) | Wanted::AtLeast(value) if present == value => {
                Some(Outcome::Kept)
            }
            Wanted::AtLeast(value) if present > value => Some(Outcome::Exceeds(present)),
            Wanted::Exactly(_) | Wanted::AtLeast(_) => None,
        }
    }
}

/// A setting and what it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The file, from the root: `proc/sys/net/netfilter/nf_conntrack_max`.
    pub file: &'static str,
    /// What is to stand there.
    pub wanted: Wanted,
}

/// The outcome of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was as wanted.
    Kept,
    /// It was changed.
    Changed {
        /// The value before, if it was readable.
        before: Option<u64>,
        /// The value now.
        now: u64,
    },
    /// It is already higher than needed, and was kept.
    Exceeds(u64),
}

/// A setting could not be made.
#[derive(Debug, thiserror::Error)]
#[error("set {path} to {value} (it is {}): {source}", present.map_or_else(|| "not readable".to_owned(), |p| p.to_string()))]
pub struct SysctlError {
    /// The file.
    pub path: PathBuf,
    /// What was wanted.
    pub value: u64,
    /// What is there.
    pub present: Option<u64>,
    /// The error.
    pub source: io::Error,
}

impl SysctlError {
    /// Whether the kernel has no such setting, or not yet: that of a module comes with it.
    pub fn is_absent(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

impl Setting {
    /// Makes the setting in the files below `root`: `/`, or elsewhere in tests. What is right is not
    /// written, so that it may be read-only.
    ///
    /// # Errors
    /// If the file is not there, or not as wanted and not writable.
    pub fn ensure(&self, root: &Path) -> Result<Outcome, SysctlError> {
        let path = root.join(self.file);
        let present = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        if let Some(met) = present.and_then(|present| self.wanted.is_met_by(present)) {
            return Ok(met);
        }
        let value = self.wanted.value();
        match write(&path, value) {
            Ok(()) => Ok(Outcome::Changed { before: present, now: value }),
            Err(source) => Err(SysctlError { path, value, present, source }),
        }
    }
}

/// Writes to a file that must be there: a missing one is a feature that the kernel does not have.
fn write(path: &Path, value: u64) -> io::Result<()> {
    use std::io::Write;
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.to_string().as_bytes())
}

/// How many CPUs this machine has, whatever part of them this process may use: connections of the whole
/// node are tracked (upstream: `pkg/proxy/conntrack/sysctls.go`, detectNumCPU).
pub fn cpus() -> u32 {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    count(&online).unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
    })
}

/// The CPUs in a list like `0-3,8`.
fn count(list: &str) -> Option<u32> {
    let mut total = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        total += last.checked_sub(first)? + 1;
    }
    Some(total)
}

/// Sets how readily the OOM killer takes this process, -1000 to 1000. Making it less than it was takes
/// CAP_SYS_RESOURCE.
///
/// # Errors
/// If the kernel refuses.
pub fn set_oom_score_adj(score: i16) -> io::Result<()> {
    let file = "/proc/self/oom_score_adj";
    let text = score.to_string();
    if fs::read_to_string(file).is_ok_and(|present| present.trim() == text) {
        return Ok(());
    }
    fs::write(file, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted_from_the_kernels_list() {
        let table = [
            ("0\n", Some(1)),
            ("0-3\n", Some(4)),
            ("0-3,8,10-11", Some(7)),
            ("", None),
            ("3-0", None),
        ];
        for (list, expected) in table {
            assert_eq!(count(list), expected, "{list:?}");
        }
        assert!(cpus() > 0);
    }

    #[test]
    fn settings_are_written_only_if_they_differ() {
        let root = tempfile::TempDir::new().expect("a folder");
        let file = root.path().join("max");
        let setting = |wanted| Setting { file: "max", wanted };
        let exactly = setting(Wanted::Exactly(10));
        let error = exactly.ensure(root.path()).expect_err("there is no such file");
        assert_eq!((error.present, error.source.kind()), (None, io::ErrorKind::NotFound));
        assert!(error.is_absent() && !file.exists(), "nothing is made up");
        for (present, wanted, expected, now) in [
            ("10\n", Wanted::Exactly(10), Outcome::Kept, "10\n"),
            ("9\n", Wanted::Exactly(10), Outcome::Changed { before: Some(9), now: 10 }, "10"),
            ("10\n", Wanted::AtLeast(10), Outcome::Kept, "10\n"),
            ("11\n", Wanted::AtLeast(10), Outcome::Exceeds(11), "11\n"),
            ("11\n", Wanted::Exactly(10), Outcome::Changed { before: Some(11), now: 10 }, "10"),
            ("5\n", Wanted::AtLeast(10), Outcome::Changed { before: Some(5), now: 10 }, "10"),
        ] {
            fs::write(&file, present).expect("a file");
            assert_eq!(setting(wanted).ensure(root.path()).ok(), Some(expected));
            let text = fs::read_to_string(&file).expect("a file");
            assert_eq!(text.trim(), now.trim(), "{present} {wanted:?}");
        }
    }
}
