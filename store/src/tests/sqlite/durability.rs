#![allow(clippy::unwrap_used)]
use std::time::Duration;

use crate::testing::{all, open, open_with, step, until, uplink};
use crate::{StoreError, StoreOptions};

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
