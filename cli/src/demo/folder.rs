//! A directory that is gone when the demo is.

use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// A new, empty directory under the system's temporary one, for this user alone. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn create() -> io::Result<Self> {
        // Two demos of one process id, in two containers that share the directory, still differ.
        let random = std::hash::RandomState::new().build_hasher().finish();
        let name = format!("loam-demo-{}-{:08x}", std::process::id(), random & 0xffff_ffff);
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the demo's directory stays behind; remove it by hand");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_directory_is_new_and_is_removed_with_what_is_in_it() {
        let folder = Folder::create().unwrap();
        let other = Folder::create().unwrap();
        let path = folder.path().to_owned();
        assert_ne!(path, other.path());
        std::fs::write(path.join("loam.db"), "x").unwrap();

        drop(folder);

        assert!(!path.exists());
        assert!(other.path().is_dir());
    }
}
