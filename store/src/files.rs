//! Small files of the data directory that must be whole or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::StoreError;

/// Reads a small text file; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io(path, e)),
    }
}

/// Replaces a file by way of a temporary one, readable by its owner only. After a crash the old or the new content is there.
pub(crate) fn replace(path: &Path, content: &str) -> Result<(), StoreError> {
    let temporary = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary).map_err(|e| StoreError::io(&temporary, e))?;
    file.write_all(content.as_bytes())
        .and_then(|()| file.sync_all())
        .inspect(|()| seam::crash_point("store.file.before_rename"))
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|e| StoreError::io(path, e))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|d| d.sync_all()).map_err(|e| StoreError::io(directory, e))
}
