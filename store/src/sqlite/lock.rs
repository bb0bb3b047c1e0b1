//! One server per data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::StoreError;

/// The exclusive lock on a data directory; held until it is dropped, and freed by the system when the process dies.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    directory: PathBuf,
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock and writes our process id into it, for whoever comes second.
    pub(crate) fn take(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| StoreError::io(&path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut words = String::new();
                // Whoever holds the lock may be writing its id just now; without one the message is still true.
                let _ = file.read_to_string(&mut words);
                return Err(StoreError::Locked {
                    directory: directory.to_owned(),
                    pid: words.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(e)) => return Err(StoreError::io(&path, e)),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        // A full disk must not keep a server from starting: the id is a courtesy.
        if let Err(error) = written {
            tracing::debug!(%error, "the process id was not written into the lock file");
        }
        Ok(Self { directory: directory.to_owned(), _file: file })
    }

    /// The directory it holds.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}
