//! What the tests of this crate share.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::internal::{Delta, Record, UplinkRecord, record::Kind};

use crate::{
    Faults, Location, MemoryDisk, ReadFate, Store, StoreError, StoreOptions, Submission, WriteFate, WriteKind,
    housekeeping, retention,
};

/// Where a story happens: what every engine has to stand.
pub(crate) enum Place {
    Directory(tempfile::TempDir),
    Memory(MemoryDisk),
}

impl Place {
    pub(crate) fn directory() -> Self {
        Self::Directory(tempfile::tempdir().unwrap())
    }

    pub(crate) fn memory() -> Self {
        Self::Memory(MemoryDisk::default())
    }

    pub(crate) async fn open(&self) -> Store {
        // Each commit at once: most stories wait for one after the other.
        self.open_with(StoreOptions { group_max_delay_ms: 0, ..StoreOptions::default() }).await
    }

    pub(crate) async fn open_with(&self, options: StoreOptions) -> Store {
        match self {
            Self::Directory(directory) => open_with(directory.path(), options).await,
            Self::Memory(disk) => Store::open_in_memory(disk, options, Arc::new(NoFaults)).await.unwrap(),
        }
    }

    /// Another owner takes the database over.
    pub(crate) async fn take_over(&self, store: &Store) {
        match self {
            // The lock on the directory keeps a second server out; somebody may still edit the file.
            Self::Directory(_) => {
                let epoch = sqlx::query("UPDATE meta SET epoch = epoch + 1");
                store.sqlite().execute("take over", epoch).await.unwrap();
            }
            Self::Memory(_) => drop(self.open().await),
        }
    }
}

/// Tells each story once for every engine, with files in real time and in memory in virtual time.
macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::testing::Place::directory()).await;
            })*
        }
        mod in_memory {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(&crate::testing::Place::memory()).await;
            })*
        }
    };
}
pub(crate) use stories;

/// A world in which everything goes well at once.
pub(crate) struct NoFaults;

impl Faults for NoFaults {
    fn write(&self, _: WriteKind) -> WriteFate {
        WriteFate::DONE
    }

    fn read(&self) -> ReadFate {
        ReadFate::DONE
    }
}

pub(crate) async fn open(directory: &Path) -> Store {
    open_with(directory, StoreOptions::default()).await
}

pub(crate) async fn open_with(directory: &Path, options: StoreOptions) -> Store {
    Store::open(Location::Directory(directory.to_owned()), options).await.unwrap()
}

pub(crate) async fn refused(directory: &Path) -> StoreError {
    Store::open(Location::Directory(directory.to_owned()), StoreOptions::default()).await.unwrap_err()
}

pub(crate) async fn in_memory() -> Store {
    // Each commit at once: these tests wait for one after the other.
    let options = StoreOptions { group_max_delay_ms: 0, ..StoreOptions::default() };
    Store::open(Location::Memory, options).await.unwrap()
}

/// An uplink whose counter says which it is.
pub(crate) fn uplink(dev_eui: u64, fcnt_up: u32) -> Record {
    let uplink = UplinkRecord { session_id: 1, fcnt_up, frm_payload: vec![7; 20], ..UplinkRecord::default() };
    Record { at_us: i64::from(fcnt_up) * 1000, dev_eui, kind: Some(Kind::Uplink(uplink)) }
}

pub(crate) fn fcnt(record: &Record) -> u32 {
    match &record.kind {
        Some(Kind::Uplink(uplink)) => uplink.fcnt_up,
        other => panic!("not an uplink: {other:?}"),
    }
}

pub(crate) fn counter(dev_eui: u64, session_id: u64, fcnt_up: u32) -> Delta {
    Delta { dev_eui, session_id, fcnt_up_plus_1: Some(u64::from(fcnt_up) + 1), ..Delta::default() }
}

pub(crate) fn step(record: Record) -> Submission {
    Submission { records: vec![record], ..Submission::default() }
}

/// Every record of the log as (sequence, FCntUp).
pub(crate) async fn all(store: &Store) -> Vec<(u64, u32)> {
    let mut found = Vec::new();
    loop {
        let after = found.last().map_or(0, |(seq, _)| *seq);
        let page = store.log().read(after, 7).await.unwrap();
        if page.records.is_empty() {
            return found;
        }
        found.extend(page.records.iter().map(|(seq, record)| (*seq, fcnt(record))));
    }
}

/// Waits for a state, with a deadline.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never happened: {what}");
}

/// Removes old events now instead of with the next round of housekeeping; returns how many rows of the journal went.
pub(crate) async fn apply_retention(store: &Store, options: &StoreOptions) -> u64 {
    housekeeping::checkpoint_all(store.db()).await.unwrap();
    let mut removed = 0;
    loop {
        match retention::pass(store.db(), options, seam::wall_us()).await.unwrap() {
            0 => return removed,
            rows => removed += rows,
        }
    }
}
