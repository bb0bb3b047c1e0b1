//! The stamp beside the database: how far it had come, so that a copy from an older time is noticed.

use std::path::{Path, PathBuf};

use crate::{StoreError, files};

/// What the file `stamp` holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Stamp {
    pub(crate) database_id: String,
    /// 0: the database was about to be made and may not exist.
    pub(crate) epoch: u64,
    pub(crate) head_seq: u64,
    pub(crate) writes: u64,
}

impl Stamp {
    pub(crate) fn path(directory: &Path) -> PathBuf {
        directory.join("stamp")
    }

    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, StoreError> {
        let path = Self::path(directory);
        let Some(text) = files::read(&path)? else {
            return Ok(None);
        };
        Self::parse(&text).map(Some).ok_or(StoreError::Damaged { what: "the file stamp" })
    }

    pub(crate) fn write(&self, directory: &Path) -> Result<(), StoreError> {
        files::replace(&Self::path(directory), &self.print())
    }

    /// Why a database that stands at `self` is older than one that reached `seen`; `None` when it is not.
    pub(crate) fn behind(&self, seen: &Self) -> Option<String> {
        let steps = [
            ("start", self.epoch, seen.epoch),
            ("event", self.head_seq, seen.head_seq),
            ("change", self.writes, seen.writes),
        ];
        steps.into_iter().find(|(_, found, seen)| found < seen).map(|(what, found, seen)| {
            format!("it ends with {what} {found}, this directory has seen {what} {seen}")
        })
    }

    pub(crate) fn print(&self) -> String {
        let Self { database_id, epoch, head_seq, writes } = self;
        format!("database {database_id}\nepoch {epoch}\nhead {head_seq}\nwrites {writes}\n")
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned)
        };
        let printable = |id: &String| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic());
        Some(Self {
            database_id: value("database").filter(printable)?,
            epoch: value("epoch")?.parse().ok()?,
            head_seq: value("head")?.parse().ok()?,
            writes: value("writes")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_knows_what_is_older() {
        let seen = Stamp { database_id: "ab".into(), epoch: 3, head_seq: 100, writes: 7 };
        assert_eq!(Stamp::parse(&seen.print()), Some(seen.clone()));
        assert_eq!(seen.behind(&seen), None);
        assert!(Stamp { head_seq: 99, ..seen.clone() }.behind(&seen).is_some());
        assert!(Stamp { writes: 6, ..seen.clone() }.behind(&seen).is_some());
        assert!(Stamp { epoch: 2, head_seq: 200, ..seen.clone() }.behind(&seen).is_some());
        assert_eq!(Stamp { epoch: 4, head_seq: 101, ..seen.clone() }.behind(&seen), None);
        assert_eq!(Stamp::parse("epoch 3"), None);
        for id in ["", "a\r\r", "a b"] {
            assert_eq!(Stamp::parse(&Stamp { database_id: id.into(), ..seen.clone() }.print()), None, "{id:?}");
        }
    }
}
