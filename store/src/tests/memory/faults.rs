//! Steps that take time or are refused.
#![allow(clippy::unwrap_used)]
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::world::{after_ms, at_once, open, open_by, open_with, read_after_ms};
use crate::testing::{all, apply_retention, counter, step, uplink};
use crate::{
    ApplicationRow, Committed, MemoryDisk, ReadFate, Readiness, Store, StoreError, StoreOptions, Submission,
    WriteKind, WriteOutcome, Written,
};

fn application(id: &str) -> ApplicationRow {
    ApplicationRow { id: id.into(), ..ApplicationRow::default() }
}

/// Submits uplinks whose effects say when they ran, in milliseconds.
async fn submit(store: &Store, count: u32) -> Arc<Mutex<Vec<(u64, u64)>>> {
    let (effects, begun) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
    for n in 0..count {
        let effects = Arc::clone(&effects);
        let done = move |committed: Committed| {
            let at_ms = u64::try_from(begun.elapsed().as_millis()).unwrap();
            effects.lock().push((committed.first_seq, at_ms));
        };
        let submission = Submission { done: Some(Box::new(done)), ..step(uplink(1, n)) };
        store.journal().submit(submission).await.unwrap();
    }
    effects
}

#[tokio::test(start_paused = true)]
async fn submissions_that_come_together_share_a_row() {
    let (store, plan) = open(&MemoryDisk::default()).await;
    plan.journal([after_ms(20)]);

    let first = submit(&store, 3).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let second = submit(&store, 300).await;
    store.log().subscribe().wait_for(|head| *head == 303).await;

    let journal = |submissions| WriteKind::Journal { submissions };
    assert_eq!(plan.asked(), [journal(3), journal(256), journal(44)]);
    assert_eq!(*first.lock(), [(1, 20), (2, 20), (3, 20)]);
    // A full batch goes at once; what is left waits until 5 ms after it.
    let expected = (0..300).map(|n| (4 + n, if n < 256 { 10 } else { 15 }));
    assert!(second.lock().iter().copied().eq(expected), "{:?}", second.lock());
}

#[tokio::test(start_paused = true)]
async fn a_refused_row_is_tried_again_until_it_is_written_and_nothing_leaves_before() {
    let (store, plan) = open(&MemoryDisk::default()).await;
    plan.journal([at_once(WriteOutcome::Refused { disk_full: true }); 3]);
    let mut readiness = store.readiness();

    let effects = submit(&store, 2).await;
    let state = readiness.wait_for(|r| !r.is_ready()).await.unwrap().clone();

    assert!(matches!(state, Readiness::NotReady { disk_full: true, .. }), "{state:?}");
    assert_eq!((store.log().head(), effects.lock().len()), (0, 0));
    readiness.wait_for(Readiness::is_ready).await.unwrap();
    assert_eq!(*effects.lock(), [(1, 750), (2, 750)]);
    assert_eq!(all(&store).await, [(1, 0), (2, 1)]);
    assert_eq!((store.metrics().commits, store.metrics().commit_failures), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_row_that_was_applied_though_reported_as_failed_is_there_once() {
    let disk = MemoryDisk::default();
    let (store, plan) = open(&disk).await;
    plan.journal([at_once(WriteOutcome::DoneButReportedFailed), at_once(WriteOutcome::DoneButReportedFailed)]);

    let effects = submit(&store, 2).await;
    store.log().subscribe().wait_for(|head| *head == 2).await;

    assert_eq!(*effects.lock(), [(1, 500), (2, 500)]);
    assert_eq!(store.journal().commit(vec![uplink(1, 2)], vec![]).await.unwrap(), 3);
    drop(store);
    assert_eq!(all(&open(&disk).await.0).await, [(1, 0), (2, 1), (3, 2)]);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_lost_the_disk_never_learns_that_its_last_row_was_applied() {
    let disk = MemoryDisk::default();
    let (former, plan) = open(&disk).await;
    plan.journal([at_once(WriteOutcome::DoneButReportedFailed)]);
    let effects = submit(&former, 1).await;
    former.readiness().wait_for(|r| !r.is_ready()).await.unwrap();

    let (owner, _) = open(&disk).await;
    tokio::time::sleep(Duration::from_secs(60)).await;

    assert_eq!(all(&owner).await, [(1, 0)]);
    assert_eq!((effects.lock().len(), former.log().head()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_change_happens_at_the_end_of_the_time_it_takes() {
    let (store, plan) = open(&MemoryDisk::default()).await;
    plan.tables([after_ms(40)]);
    let bridge = store.bridge();
    let begun = Instant::now();

    let write = tokio::spawn(async move { bridge.insert_application(application("farm")).await });
    tokio::time::sleep(Duration::from_millis(39)).await;
    let before = store.bridge().application("farm").await.unwrap();
    plan.reads([read_after_ms(5)]);
    let after = store.bridge().application("farm").await.unwrap();

    assert_eq!((before, after), (None, Some(application("farm"))));
    assert_eq!(begun.elapsed(), Duration::from_millis(44));
    assert_eq!(write.await.unwrap().unwrap(), Written::Done);
}

#[tokio::test(start_paused = true)]
async fn a_refused_turn_tells_every_write_of_it_and_changes_nothing() {
    let (store, plan) = open(&MemoryDisk::default()).await;
    let bridge = store.bridge();
    plan.tables([at_once(WriteOutcome::Refused { disk_full: true })]);

    let (first, second) =
        tokio::join!(bridge.insert_application(application("a")), bridge.put_codec("c", "", 0));

    assert_eq!(plan.asked(), [WriteKind::Tables { writes: 2 }]);
    assert!(first.unwrap_err().is_disk_full() && second.unwrap_err().is_disk_full());
    assert_eq!(bridge.applications("", 10).await.unwrap(), []);
    assert_eq!(bridge.codecs().await.unwrap(), []);
    // Nobody submits while the store is not ready, so it finds out by itself that there is space.
    assert!(!store.readiness().borrow().is_ready());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(store.readiness().borrow().is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_was_applied_though_reported_as_failed_has_changed_everything() {
    let (store, plan) = open(&MemoryDisk::default()).await;
    let bridge = store.bridge();
    plan.tables([at_once(WriteOutcome::DoneButReportedFailed)]);

    let (first, second) =
        tokio::join!(bridge.insert_application(application("a")), bridge.put_codec("c", "", 0));

    assert!(matches!((&first, &second), (Err(StoreError::Io { .. }), Err(StoreError::Io { .. }))));
    assert_eq!(bridge.applications("", 10).await.unwrap(), [application("a")]);
    assert_eq!(bridge.codecs().await.unwrap().len(), 1);
    // A disk that reports failures is not waited for: the store finds out by itself that it works again.
    assert!(!store.readiness().borrow().is_ready());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(store.readiness().borrow().is_ready());
}

#[tokio::test(start_paused = true)]
async fn table_writes_go_on_while_a_row_is_refused() {
    let (store, plan) = open(&MemoryDisk::default()).await;
    plan.journal([at_once(WriteOutcome::Refused { disk_full: false }); 4]);
    submit(&store, 1).await;
    store.readiness().wait_for(|r| !r.is_ready()).await.unwrap();

    assert_eq!(store.bridge().insert_application(application("a")).await.unwrap(), Written::Done);

    assert!(!store.readiness().borrow().is_ready(), "a table write that fits says nothing about a batch");
    assert_eq!(store.log().head(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_says_so_and_the_next_one_is_answered() {
    let (store, plan) = open(&MemoryDisk::default()).await;
    plan.reads([ReadFate::Failed]);

    assert!(matches!(store.bridge().device_count().await, Err(StoreError::Io { .. })));
    assert_eq!(store.bridge().device_count().await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_retention_removes_during_a_read_is_a_gap_and_no_hole() {
    let options = StoreOptions { tail_bytes: 0, ..StoreOptions::default() };
    let (store, plan) = open_with(&MemoryDisk::default(), options).await;
    for n in 0..10 {
        store.journal().commit(vec![uplink(1, n)], vec![]).await.unwrap();
    }
    plan.reads([read_after_ms(10)]);
    let log = store.log();
    let reading = tokio::spawn(async move { log.read(2, 100).await.unwrap() });
    tokio::task::yield_now().await;

    let nothing = StoreOptions { retention_max_age_s: 0, retention_max_bytes: 0, ..StoreOptions::default() };
    apply_retention(&store, &nothing).await;

    let page = reading.await.unwrap();
    let first = page.records.first().unwrap().0;
    assert_eq!((page.earliest_seq, first), (10, 10), "whoever reads after 2 is told that 3 to 9 are gone");
}

#[tokio::test(start_paused = true)]
async fn a_page_at_the_head_costs_no_read() {
    let (store, plan) = open(&MemoryDisk::default()).await;
    store.journal().commit(vec![uplink(1, 0)], vec![]).await.unwrap();

    assert_eq!(all(&store).await, [(1, 0)]);

    assert_eq!(plan.reads_asked.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_is_refused_takes_nothing_over() {
    let disk = MemoryDisk::default();
    let (owner, plan) = open(&disk).await;
    plan.open([at_once(WriteOutcome::Refused { disk_full: true })]);

    assert!(open_by(&disk, &plan).await.unwrap_err().is_disk_full());

    assert_eq!(owner.journal().commit(vec![uplink(1, 0)], vec![]).await.unwrap(), 1);
    assert_eq!(open(&disk).await.0.epoch(), 2);
}

#[tokio::test(start_paused = true)]
async fn housekeeping_follows_the_journal_in_the_time_of_the_world() {
    let _simulated = seam::simulate(7, || 1_000_000);
    let disk = MemoryDisk::default();
    let (store, plan) = open(&disk).await;
    let begin = proto::internal::Delta { sealed_keys: Some(vec![1]), ..counter(1, 1, 5) };
    store.journal().commit(vec![uplink(1, 1)], vec![begin]).await.unwrap();
    assert_eq!(crate::db::on_engine!(store.db(), db => db.checkpoint().await).unwrap(), 0);
    plan.asked();

    tokio::time::sleep(Duration::from_secs(61)).await;

    assert_eq!(crate::db::on_engine!(store.db(), db => db.checkpoint().await).unwrap(), 1);
    assert_eq!(plan.asked(), [WriteKind::Tables { writes: 1 }, WriteKind::Tables { writes: 1 }]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_store_finishes_its_queue() {
    let disk = MemoryDisk::default();
    let (store, plan) = open(&disk).await;
    plan.journal([after_ms(5)]);
    let effects = submit(&store, 300).await;
    drop(store);

    tokio::time::sleep(Duration::from_secs(1)).await;

    assert_eq!(effects.lock().len(), 300);
    assert_eq!(all(&open(&disk).await.0).await.len(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_closed_on_a_disk_that_refuses_tells_what_was_not_written() {
    let (store, plan) = open(&MemoryDisk::default()).await;
    plan.journal([at_once(WriteOutcome::Refused { disk_full: true }); 100]);
    submit(&store, 3).await;
    store.readiness().wait_for(|r| !r.is_ready()).await.unwrap();

    let closed = store.close().await;

    assert!(matches!(closed, Err(StoreError::Unwritten { submissions: 3 })), "{closed:?}");
    assert!(matches!(store.journal().commit(vec![], vec![]).await, Err(StoreError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn there_is_no_backup_of_a_disk_in_memory() {
    let (store, _) = open(&MemoryDisk::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copy.db");

    let error = store.backup(&path).await.unwrap_err();

    let StoreError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.to_string(), "a store in memory has no file to copy");
    assert!(!path.exists());
}
