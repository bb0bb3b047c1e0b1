#![allow(clippy::unwrap_used)]
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::testing::{all, in_memory, open, open_with, step, until, uplink};
use crate::{Committed, StoreError, StoreOptions, Submission};

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart_with_its_sequences() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let first = store.journal().commit(vec![uplink(1, 0), uplink(1, 1)], vec![]).await.unwrap();
    let second = store.journal().commit(vec![uplink(1, 2)], vec![]).await.unwrap();
    assert_eq!((first, second), (1, 3));
    store.close().await.unwrap();

    let store = open(directory.path()).await;

    assert_eq!(store.log().head(), 3);
    assert_eq!(all(&store).await, [(1, 0), (2, 1), (3, 2)]);
    assert_eq!(store.journal().commit(vec![uplink(1, 3)], vec![]).await.unwrap(), 4);
    assert_eq!(store.epoch(), 2);
}

#[tokio::test]
async fn effects_leave_after_the_commit_in_the_order_of_the_sequences() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let seen = Arc::new(Mutex::new(Vec::new()));

    for n in 0..1000 {
        let (seen, log) = (Arc::clone(&seen), store.log());
        // Every third step has no record and changes a session alone.
        let records = if n % 3 == 0 { vec![] } else { vec![uplink(1, n); 2] };
        let count = records.len() as u64;
        let done = move |committed: Committed| {
            assert!(log.head() + 1 >= committed.first_seq + count, "the effect came before the commit");
            seen.lock().push((n, committed.first_seq));
        };
        store
            .journal()
            .submit(Submission { records, deltas: vec![], done: Some(Box::new(done)) })
            .await
            .unwrap();
    }
    until("all effects", async || seen.lock().len() == 1000).await;

    let mut next_seq = 1;
    for (position, (n, first_seq)) in (0..).zip(seen.lock().iter()) {
        assert_eq!((position, next_seq), (*n, *first_seq));
        next_seq += if n % 3 == 0 { 0 } else { 2 };
    }
    let metrics = store.metrics();
    assert_eq!((metrics.submissions, metrics.records), (1000, 1332));
    assert!(metrics.commits < 300, "under load steps share commits, not {}", metrics.commits);
    assert_eq!(metrics.commit_latency.iter().sum::<u64>(), metrics.commits);
}

#[tokio::test]
async fn a_panic_in_an_effect_stops_nothing() {
    let store = in_memory().await;
    let done: crate::Done = Box::new(|_| panic!("a fault of the effect"));
    store.journal().submit(Submission { done: Some(done), ..step(uplink(1, 0)) }).await.unwrap();

    assert_eq!(store.journal().commit(vec![uplink(1, 1)], vec![]).await.unwrap(), 2);
}

/// Frames are acknowledged by the readiness: without a writer nothing may be.
#[tokio::test]
async fn a_writer_that_is_gone_is_not_ready_for_anything() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let mut readiness = store.readiness();

    let fault = store
        .sqlite()
        .write(|_| -> crate::sqlite::Fut<'_, ()> { Box::pin(async { panic!("a fault of a job") }) });

    assert!(matches!(fault.await, Err(StoreError::Closed)));
    let waited = tokio::time::timeout(Duration::from_secs(20), readiness.wait_for(|r| !r.is_ready()));
    assert!(waited.await.unwrap().is_ok());
    assert!(matches!(store.journal().commit(vec![uplink(1, 0)], vec![]).await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn a_copy_taken_while_the_server_runs_holds_everything_that_was_committed() {
    // What a kill -9 leaves behind: the files as they are, without any closing.
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    for n in 0..50 {
        store.journal().commit(vec![uplink(1, n)], vec![]).await.unwrap();
    }
    let crashed = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        // The shared memory of the WAL is rebuilt; a copy of it would be of another moment.
        if file.file_name() != "loam.db-shm" {
            std::fs::copy(file.path(), crashed.path().join(file.file_name())).unwrap();
        }
    }

    let after = open(crashed.path()).await;

    assert_eq!(all(&after).await.len(), 50);
    assert_eq!(after.log().head(), 50);
}

#[tokio::test]
async fn a_dropped_store_finishes_its_queue_and_frees_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    for n in 0..2000 {
        store.journal().try_submit(step(uplink(1, n))).unwrap();
    }
    drop(store);

    let path = directory.path().to_owned();
    until("the lock is free", async || {
        let location = crate::Location::Directory(path.clone());
        match crate::Store::open(location, StoreOptions::default()).await {
            Ok(store) => {
                assert_eq!(store.log().head(), 2000);
                true
            }
            Err(StoreError::Locked { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    })
    .await;
}

#[tokio::test]
async fn a_closed_store_takes_nothing_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let journal = store.journal();
    store.close().await.unwrap();
    store.close().await.unwrap();

    assert!(matches!(journal.commit(vec![uplink(1, 0)], vec![]).await, Err(StoreError::Closed)));
    assert!(matches!(store.network().load_devices(|_| {}).await, Err(StoreError::Closed)));
    assert!(matches!(store.network().delete_device(1).await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn threads_that_find_the_queue_full_wait_and_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { group_max_steps: 64, ..StoreOptions::default() };
    let store = open_with(directory.path(), options).await;

    let threads: Vec<_> = (0..4)
        .map(|device| {
            let journal = store.journal();
            std::thread::spawn(move || {
                for n in 0..3000 {
                    journal.submit_blocking(step(uplink(device, n))).unwrap();
                }
            })
        })
        .collect();
    let tasks: Vec<_> = (4..6)
        .map(|device| {
            let journal = store.journal();
            tokio::spawn(async move {
                for n in 0..3000 {
                    journal.submit(step(uplink(device, n))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| t.join().unwrap())).await.unwrap();
    store.close().await.unwrap();

    let store = open(directory.path()).await;
    let page = store.log().read(0, 100_000).await.unwrap();
    assert_eq!(page.records.len(), 18_000);
    for device in 0..6 {
        let of_device = page.records.iter().filter(|(_, record)| record.dev_eui == device);
        let counters: Vec<u32> = of_device.map(|(_, record)| crate::testing::fcnt(record)).collect();
        assert!(counters.into_iter().eq(0..3000), "device {device} is out of order");
    }
}

#[tokio::test]
async fn a_write_of_a_table_that_fails_takes_nothing_of_its_neighbours_back() {
    let store = in_memory().await;
    let good = |id: &str| crate::ApplicationRow { id: id.into(), ..crate::ApplicationRow::default() };
    let bridge = store.bridge();

    // Queued together, so that they share a transaction.
    let (first, broken, last) = tokio::join!(
        bridge.insert_application(good("a")),
        store.sqlite().execute("try nonsense", sqlx::query("INSERT INTO application (id) VALUES ('x')")),
        bridge.insert_application(good("b")),
    );

    assert_eq!(first.unwrap(), crate::Written::Done);
    assert!(matches!(broken, Err(StoreError::Sql { doing: "try nonsense", .. })));
    assert_eq!(last.unwrap(), crate::Written::Done);
    let ids: Vec<_> = bridge.applications("", 10).await.unwrap().into_iter().map(|a| a.id).collect();
    assert_eq!(ids, ["a", "b"]);
}

#[tokio::test]
async fn table_writes_and_the_journal_do_not_starve_each_other() {
    let store = in_memory().await;
    let journal = store.journal();
    let flood = tokio::spawn(async move {
        for n in 0.. {
            if journal.submit(step(uplink(1, n))).await.is_err() {
                return;
            }
        }
    });

    let tables = store.network();
    for dev_eui in 0..100 {
        let row = crate::NetworkDeviceRow { dev_eui, ..crate::NetworkDeviceRow::default() };
        tokio::time::timeout(Duration::from_secs(10), tables.put_device(row)).await.unwrap().unwrap();
    }
    let before = store.log().head();
    until("the journal moves", async || store.log().head() > before).await;

    flood.abort();
}
