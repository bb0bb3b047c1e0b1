//! Disks of a test's own, which it may fill and break. Mounting needs root.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A small file system of memory; unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it on an empty directory; `None` where that is not allowed.
    pub fn mount(directory: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size},mode=0700");
        runs("mount", &["-t", "tmpfs", "-o", &options, "tmpfs"], directory).then(|| Self(directory.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// A file system whose medium has less room than it promises: when the medium is full, what was written cannot be kept, and the
/// system learns of it when it flushes (EIO).
#[derive(Debug)]
pub struct LyingDisk {
    directory: PathBuf,
    ballast: PathBuf,
    image: PathBuf,
    _medium: SmallDisk,
}

impl LyingDisk {
    /// Mounts it on an empty directory, with its medium on another; `None` where that is not possible.
    pub fn mount(directory: &Path, medium: &Path) -> Option<Self> {
        let small = SmallDisk::mount(medium, "48m")?;
        let image = medium.join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(256 << 20)).ok()?;
        // No journal, which would switch the file system to reading only for good.
        if !runs("mkfs.ext2", &["-q", "-m", "0", "-b", "4096"], &image) {
            return None;
        }
        let disk =
            Self { directory: directory.to_owned(), ballast: medium.join("ballast"), image, _medium: small };
        disk.attach().then_some(disk)
    }

    fn attach(&self) -> bool {
        runs("mount", &["-o", "loop,errors=continue", &self.image.to_string_lossy()], &self.directory)
            && self.write_page_by_page().is_some()
    }

    /// Has each page of 4 KiB written for itself, as SQLite expects of a disk: a write that fails must not take along what was
    /// written to its neighbour before. A longer request does that here.
    fn write_page_by_page(&self) -> Option<()> {
        let found = Command::new("losetup").arg("-j").arg(&self.image).output().ok()?;
        let found = String::from_utf8(found.stdout).ok()?;
        let device = found.split(':').next()?.strip_prefix("/dev/")?;
        std::fs::write(format!("/sys/block/{device}/queue/max_sectors_kb"), "4").ok()
    }

    /// From here on nothing more can be kept.
    pub fn fail(&self) {
        fill(&self.ballast);
    }

    /// Writing works again.
    pub fn mend(&self) {
        // It may be mended already.
        let _ = std::fs::remove_file(&self.ballast);
    }

    /// As if the power had failed and come back: what had not reached the medium is gone. Nobody may have a file open.
    pub fn power_cycle(&self) {
        assert!(runs("umount", &[], &self.directory), "a file is open on {}", self.directory.display());
        self.mend();
        // Corrects the file system's own tables; its word is a status that is not 0.
        runs("e2fsck", &["-y", "-f"], &self.image);
        assert!(self.attach(), "what is left cannot be mounted");
    }
}

impl Drop for LyingDisk {
    fn drop(&mut self) {
        unmount(&self.directory);
    }
}

/// Writes a file as large as there is space.
pub fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).expect("a file");
    for size in [65_536, 4_096, 1] {
        while file.write_all(&vec![0x55; size]).is_ok() {}
    }
}

fn runs(program: &str, arguments: &[&str], last: &Path) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).arg(last).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn unmount(directory: &Path) {
    // Lazily: a server that a failed test left may still have files open.
    runs("umount", &["-l"], directory);
}
