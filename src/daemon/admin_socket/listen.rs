//! The socket's file: in a directory that is only the daemon's, and in place of one that a dead daemon left.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub(super) enum ListenError {
    #[error("the path {0} has no directory; name one, such as /run/sluice/admin.sock")]
    NoDirectory(PathBuf),
    #[error(
        "the directory {directory} has mode {mode:04o} and other files in it; choose a directory for this \
         socket alone, or give it mode 0700"
    )]
    Shared { directory: PathBuf, mode: u32 },
    #[error("{0} is there and no socket; remove it, or choose another path")]
    NoSocket(PathBuf),
    #[error("another daemon answers at {0}; choose another path for this one")]
    Taken(PathBuf),
    #[error("{what} {path}: {source}")]
    Failed { what: &'static str, path: PathBuf, source: io::Error },
}

/// A socket that listens, and the user whose it is.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) listener: UnixListener,
    pub(super) owner: u32,
}

/// Listens at a path: the directory gets mode 0700 and the socket 0600.
pub(super) fn listen(path: &Path) -> Result<Bound, ListenError> {
    let failed = |what| move |source| ListenError::Failed { what, path: path.to_owned(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.ok_or_else(|| ListenError::NoDirectory(path.to_owned()))?;
    own_directory(directory, path)?;
    remove_left_over(path)?;
    let listener = UnixListener::bind(path).map_err(failed("listen at"))?;
    let settle = || -> io::Result<u32> {
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(fs::metadata(path)?.uid())
    };
    let owner = settle().map_err(failed("set up"))?;
    Ok(Bound { listener, owner })
}

/// A directory that only this user can enter. One that is open to others is closed if it is empty but for our
/// socket, as a volume of a pod is; never one that others use.
fn own_directory(directory: &Path, socket: &Path) -> Result<(), ListenError> {
    let failed =
        |what| move |source| ListenError::Failed { what, path: directory.to_owned(), source };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(failed("make the directory"))?;
    let mode = fs::metadata(directory).map_err(failed("look at"))?.mode() & 0o7777;
    if mode & 0o77 == 0 {
        return Ok(());
    }
    let mut entries = fs::read_dir(directory).map_err(failed("look into"))?;
    let others = entries.any(|entry| entry.map_or(true, |entry| entry.path() != socket));
    if others {
        return Err(ListenError::Shared { directory: directory.to_owned(), mode });
    }
    fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(failed("close"))
}

/// Removes the socket of a daemon that is dead, and nothing else.
fn remove_left_over(path: &Path) -> Result<(), ListenError> {
    let failed = |what| move |source| ListenError::Failed { what, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::Taken(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the left-over socket"))
        }
        Err(error) => Err(failed("try")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o777
    }

    #[test]
    fn socket_and_directory_are_the_owners_alone() {
        let root = tempfile::tempdir().expect("a directory");
        for made in [false, true] {
            let directory = root.path().join(format!("sluice-{made}"));
            if made {
                // As an emptyDir of a pod is.
                fs::create_dir(&directory).expect("it is made");
                fs::set_permissions(&directory, Permissions::from_mode(0o777)).expect("opened");
            }
            let path = directory.join("admin.sock");
            let bound = listen(&path).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
            assert_eq!(bound.owner, fs::metadata(&path).expect("it is there").uid());
        }
    }

    #[test]
    fn a_directory_of_others_is_left_alone() {
        let root = tempfile::tempdir().expect("a directory");
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("opened");
        fs::write(root.path().join("others"), "").expect("it is written");
        let error = listen(&root.path().join("admin.sock")).expect_err("it is shared");
        assert!(matches!(error, ListenError::Shared { mode: 0o755, .. }), "{error}");
        assert_eq!(mode(root.path()), 0o755);
    }

    #[test]
    fn a_left_over_socket_is_replaced_and_a_live_one_is_not() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("run/admin.sock");
        let first = listen(&path).expect("it listens");
        let error = listen(&path).expect_err("it is taken");
        assert!(matches!(error, ListenError::Taken(_)), "{error}");
        drop(first);
        listen(&path).expect("a dead daemon's is replaced");
        fs::remove_file(&path).expect("it is removed");
        fs::write(&path, "text").expect("it is written");
        let error = listen(&path).expect_err("it is a file");
        assert!(matches!(error, ListenError::NoSocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("it stays"), "text");
    }
}
