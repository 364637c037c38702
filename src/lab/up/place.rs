//! Where a lab that runs in the background is found: a directory by its name, with a lock that its supervisor holds.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// The directory of a lab.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    name: String,
    dir: PathBuf,
}

impl Place {
    /// The place of a lab: below `/run/sluice-lab` for root, otherwise below the user's own runtime directory.
    pub(crate) fn of(name: &str) -> Result<Place> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            (1..=40).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('-'),
            "{name:?} is no name of a lab: use at most 40 small letters, digits and dashes"
        );
        let base = match std::env::var_os("XDG_RUNTIME_DIR") {
            _ if nix::unistd::geteuid().is_root() => PathBuf::from(sluice_cluster::claim::LOCK_DIR),
            Some(own) => Path::new(&own).join("sluice-lab"),
            None => {
                let uid = nix::unistd::geteuid();
                std::env::temp_dir().join(format!("sluice-lab-{uid}"))
            }
        };
        Ok(Place { name: name.to_owned(), dir: base.join(name) })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes the directory and takes the lock, which ends with the process; what a dead lab left there is removed.
    pub(crate) fn claim(&self) -> Result<File> {
        fs::create_dir_all(&self.dir)
            .and_then(|()| fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700)))
            .with_context(|| format!("create {}", self.dir.display()))?;
        let path = self.file("lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let lock = open.with_context(|| format!("open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "lab {:?} is up already; `sluice-lab down --name {}` ends it, and --name gives another one its own name",
                self.name,
                self.name
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if !path.ends_with("lock") && !path.ends_with("supervisor.log") {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(lock)
    }

    /// Whether a supervisor holds the lock.
    pub(crate) fn is_up(&self) -> io::Result<bool> {
        match File::open(self.file("lock")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
            Ok(lock) => match lock.try_lock_shared() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(error)) => Err(error),
            },
        }
    }

    /// Fails unless the lab is up.
    pub(crate) fn expect_up(&self) -> Result<()> {
        let up = self.is_up().with_context(|| format!("look for lab {:?}", self.name))?;
        ensure!(
            up,
            "lab {:?} is not up; `sluice-lab up --name {}` starts it",
            self.name,
            self.name
        );
        Ok(())
    }

    /// Waits until the supervisor has ended.
    pub(crate) fn wait_until_down(&self) -> Result<()> {
        let lock = File::open(self.file("lock"))?;
        lock.lock_shared().context("wait for the lab's end")
    }

    /// Removes everything that is there.
    pub(crate) fn remove(&self) -> Result<bool> {
        match fs::remove_dir_all(&self.dir) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("remove {}", self.dir.display())),
        }
    }
}
