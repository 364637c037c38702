//! Who owns a lab's namespaces, so that a run that was killed does not litter the machine for ever.
//!
//! A lab holds a lock (`flock`) on `/run/sluice-lab/<lab>.lock` for as long as it lives. The kernel
//! drops the lock when the process ends, however it ends, and pid reuse cannot confuse it. The names
//! of namespaces contain the lab's: names without a locked file are leftovers.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::netns::{self, NETNS_DIR};

/// Where the locks of living labs are.
pub const LOCK_DIR: &str = "/run/sluice-lab";

/// What the names of a lab's namespaces start with.
const NAME_PREFIX: &str = "sluice-";

/// Why a lab could not be claimed, or leftovers could not be removed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum Error {
    /// The directory for locks could not be made.
    #[error("create the directory {LOCK_DIR} for the lab's lock: {0}")]
    CreateLockDir(#[source] io::Error),
    /// A lock file could not be opened, locked or compared.
    #[error("lock {path}: {source}")]
    Lock { path: String, source: io::Error },
    /// The names of namespaces could not be listed.
    #[error("list {NETNS_DIR} for leftovers of earlier labs: {0}")]
    List(#[source] io::Error),
    /// A leftover namespace could not be removed.
    #[error("remove a leftover of an earlier lab: {0}")]
    Remove(#[source] netns::Error),
}

/// Identifies a lab on this machine: the process and, when a process has several labs, which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabId {
    pid: u32,
    number: u32,
}

impl LabId {
    /// The name of one of this lab's namespaces, `sluice-<lab>-<host>`.
    pub fn namespace_name(self, host: &str) -> String {
        format!("{NAME_PREFIX}{self}-{host}")
    }

    /// The lab that a namespace belongs to, or `None` if the name is not a lab's.
    pub fn of_namespace(name: &str) -> Option<LabId> {
        let (id, _host) = name.strip_prefix(NAME_PREFIX)?.split_once('-')?;
        let (pid, number) = id.split_once('.').unwrap_or((id, "1"));
        Some(LabId { pid: pid.parse().ok()?, number: number.parse().ok()? })
    }

    fn lock_path(self) -> PathBuf {
        Path::new(LOCK_DIR).join(format!("{self}.lock"))
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            1 => write!(f, "{}", self.pid),
            number => write!(f, "{}.{number}", self.pid),
        }
    }
}

/// A lab's claim to its names; dropping it gives them up.
#[derive(Debug)]
pub struct Claim {
    id: LabId,
    /// Open for as long as the claim stands: closing it gives up the lock.
    _lock: File,
}

impl Claim {
    /// Claims the first free number for this process.
    pub fn new() -> Result<Claim, Error> {
        fs::create_dir_all(LOCK_DIR).map_err(Error::CreateLockDir)?;
        let mut id = LabId { pid: std::process::id(), number: 1 };
        loop {
            if let Some(lock) = try_lock(id)? {
                return Ok(Claim { id, _lock: lock });
            }
            id.number += 1;
        }
    }

    /// Whose names these are.
    pub fn id(&self) -> LabId {
        self.id
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // While the lock is still held, so that no other lab uses the path yet. A file that stays is
        // harmless: the next lab that finds it locks and removes it.
        let _ = fs::remove_file(self.id.lock_path());
    }
}

/// Removes the namespaces of labs that no longer live, and returns their names.
pub fn remove_leftovers() -> Result<Vec<String>, Error> {
    let names = namespace_names().map_err(Error::List)?;
    let labs: BTreeSet<LabId> = names.iter().filter_map(|n| LabId::of_namespace(n)).collect();
    let mut removed = Vec::new();
    for id in labs {
        // Taking the dead lab's claim keeps other processes from cleaning up the same names, and
        // dropping it removes the lock file.
        fs::create_dir_all(LOCK_DIR).map_err(Error::CreateLockDir)?;
        let Some(lock) = try_lock(id)? else { continue };
        let _claim = Claim { id, _lock: lock };
        for name in names.iter().filter(|n| LabId::of_namespace(n) == Some(id)) {
            netns::remove_name(name).map_err(Error::Remove)?;
            removed.push(name.clone());
        }
    }
    Ok(removed)
}

fn namespace_names() -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(NETNS_DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Takes a lab's lock if it is free.
fn try_lock(id: LabId) -> Result<Option<File>, Error> {
    let path = id.lock_path();
    let failed = |source| Error::Lock { path: path.display().to_string(), source };
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // Between open and lock the holder may have removed the file: then the lock is on a file that
        // no other lab can open, and excludes none.
        let locked = file.metadata().map_err(failed)?;
        match fs::metadata(&path) {
            Ok(found) if found.ino() == locked.ino() && found.dev() == locked.dev() => {
                return Ok(Some(file));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_lab() {
        let first = LabId { pid: 77, number: 1 };
        let second = LabId { pid: 77, number: 2 };
        assert_eq!(first.namespace_name("node-a"), "sluice-77-node-a");
        assert_eq!(second.namespace_name("web-1"), "sluice-77.2-web-1");
        assert_eq!(LabId::of_namespace("sluice-77-node-a"), Some(first));
        assert_eq!(LabId::of_namespace("sluice-77.2-web-1"), Some(second));
        for foreign in ["sluice", "sluice-", "sluice-77", "sluice-x-node", "cni-77-node", "blue"] {
            assert_eq!(LabId::of_namespace(foreign), None, "{foreign}");
        }
    }
}
