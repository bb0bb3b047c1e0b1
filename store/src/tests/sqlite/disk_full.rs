#![allow(clippy::unwrap_used)]
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::Row;

use crate::testing::{all, open, step, until, uplink};
use crate::{Readiness, Store, StoreError, Submission};

/// Lets the database grow by so many pages and no further.
async fn limit(store: &Store, pages: i64) {
    let used: i64 = store
        .sqlite()
        .write(|connection| {
            Box::pin(async move {
                let row = sqlx::query("PRAGMA page_count").fetch_one(connection).await;
                row.map(|row| row.get(0)).map_err(StoreError::sql("count pages"))
            })
        })
        .await
        .unwrap();
    let pragma = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {}", used + pages));
    store
        .sqlite()
        .write(|connection| {
            Box::pin(async move {
                sqlx::query(pragma).execute(connection).await.map(drop).map_err(StoreError::sql("limit"))
            })
        })
        .await
        .unwrap();
}

/// OPS-003.
#[tokio::test]
async fn a_full_disk_keeps_every_step_until_there_is_space_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    store.journal().commit(vec![uplink(1, 0)], vec![]).await.unwrap();
    limit(&store, 0).await;

    // A thousand uplinks find no space.
    let done = Arc::new(AtomicU64::new(0));
    for n in 1..=1000 {
        let done = Arc::clone(&done);
        let effect = move |_| {
            done.fetch_add(1, Ordering::SeqCst);
        };
        store
            .journal()
            .submit(Submission { done: Some(Box::new(effect)), ..step(uplink(1, n)) })
            .await
            .unwrap();
    }
    let mut readiness = store.readiness();
    let state = readiness.wait_for(|r| !r.is_ready()).await.unwrap().clone();

    // Nothing is said to be durable that is not, and reading goes on.
    assert!(matches!(state, Readiness::NotReady { disk_full: true, .. }), "{state:?}");
    assert_eq!(done.load(Ordering::SeqCst) + 1, store.log().head());
    assert!(store.log().head() < 1000);
    assert_eq!(all(&store).await.len() as u64, store.log().head());
    let refused = store.bridge().put_codec("c", &"x".repeat(100_000), 0).await;
    assert!(refused.unwrap_err().is_disk_full(), "a person is told why");

    // With space, all of it goes through, in order and once, without a restart.
    limit(&store, 100_000).await;
    readiness.wait_for(Readiness::is_ready).await.unwrap();
    until("all effects", async || done.load(Ordering::SeqCst) == 1000).await;
    assert!(all(&store).await.into_iter().eq((0..=1000).map(|n| (u64::from(n) + 1, n))));
    assert!(store.metrics().commit_failures > 0);
    store.close().await.unwrap();
}

#[tokio::test]
async fn readiness_comes_back_by_itself_when_nothing_is_submitted_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    limit(&store, 0).await;
    // Two of them in one transaction, so that the second one finds what the first one left.
    let refused = store.bridge().put_codec("c", &"x".repeat(100_000), 0).await;
    assert!(refused.unwrap_err().is_disk_full());
    store.shared().readiness.send_replace(Readiness::NotReady { reason: "full".into(), disk_full: true });

    let mut readiness = store.readiness();
    limit(&store, 100_000).await;

    let waited =
        tokio::time::timeout(std::time::Duration::from_secs(20), readiness.wait_for(Readiness::is_ready));
    assert!(waited.await.unwrap().is_ok());
    assert!(store.bridge().put_codec("c", &"x".repeat(100_000), 0).await.is_ok());
}

#[tokio::test]
async fn closing_on_a_full_disk_ends_and_tells_what_was_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    limit(&store, 0).await;
    let big = vec![uplink(1, 0); 2000];
    store.journal().submit(Submission { records: big, ..Submission::default() }).await.unwrap();
    store.journal().submit(step(uplink(1, 1))).await.unwrap();
    store.readiness().wait_for(|r| !r.is_ready()).await.unwrap();

    let closed = store.close().await;

    assert!(matches!(closed, Err(StoreError::Unwritten { submissions: 2 })), "{closed:?}");
    let store = open(directory.path()).await;
    assert_eq!(store.log().head(), 0, "neither half of it is there");
}
