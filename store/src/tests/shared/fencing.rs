#![allow(clippy::unwrap_used)]
use proto::internal::Delta;

use crate::db::on_engine;
use crate::housekeeping::checkpoint_all;
use crate::testing::{Place, all, apply_retention, counter, step, stories, uplink};
use crate::{ApplicationRow, Readiness, SessionRow, Store, StoreError, StoreOptions};

stories! {
    a_former_owner_writes_no_row_of_the_journal,
    a_former_owner_still_reads_and_changes_no_table,
    what_follows_the_journal_is_the_owners_alone,
}

async fn a_former_owner_writes_no_row_of_the_journal(place: &Place) {
    let store = place.open().await;
    store.journal().commit(vec![uplink(1, 0)], vec![]).await.unwrap();
    place.take_over(&store).await;

    store.journal().submit(step(uplink(1, 1))).await.unwrap();
    let mut readiness = store.readiness();
    let state = readiness.wait_for(|r| !r.is_ready()).await.unwrap().clone();

    let Readiness::NotReady { reason, disk_full: false } = state else { panic!("{state:?}") };
    assert!(reason.contains("another owner"), "{reason}");
    assert_eq!(store.log().head(), 1);
    let closed = store.close().await;
    assert!(matches!(closed, Err(StoreError::Unwritten { submissions: 1 })), "{closed:?}");
}

/// It would end downlinks the owner is about to send.
async fn a_former_owner_still_reads_and_changes_no_table(place: &Place) {
    let store = place.open().await;
    store.journal().commit(vec![uplink(1, 0)], vec![]).await.unwrap();
    place.take_over(&store).await;

    assert_eq!(all(&store).await, [(1, 0)]);
    let row = ApplicationRow { id: "farm".into(), ..ApplicationRow::default() };
    let refused = store.bridge().insert_application(row).await;
    assert!(matches!(refused, Err(StoreError::Fenced { epoch: 1 })), "{refused:?}");
    assert_eq!(store.bridge().application("farm").await.unwrap(), None);
}

/// Its checkpoint would put counters back that the owner has moved since.
async fn what_follows_the_journal_is_the_owners_alone(place: &Place) {
    let store = place.open().await;
    let begin = Delta { sealed_keys: Some(vec![1; 77]), ..counter(1, 1, 5) };
    store.journal().commit(vec![uplink(1, 0)], vec![begin]).await.unwrap();
    checkpoint_all(store.db()).await.unwrap();
    let before = stored(&store).await;
    store.journal().commit(vec![uplink(1, 1)], vec![counter(1, 1, 6)]).await.unwrap();
    place.take_over(&store).await;

    let checkpoint = store.checkpoint().await;
    assert!(matches!(checkpoint, Err(StoreError::Fenced { epoch: 1 })), "{checkpoint:?}");
    let nothing = StoreOptions { retention_max_age_s: 0, retention_max_bytes: 0, ..StoreOptions::default() };
    let removed = crate::retention::pass(store.db(), &nothing, i64::MAX).await;
    assert!(matches!(removed, Err(StoreError::Fenced { epoch: 1 })), "{removed:?}");

    assert_eq!(stored(&store).await, before);
    assert_eq!(on_engine!(store.db(), db => db.journal_ends().await).unwrap(), Some((1, 2)));
    // The owner does both.
    if let Place::Memory(_) = place {
        let owner = place.open().await;
        assert!(apply_retention(&owner, &nothing).await > 0);
        assert_ne!(stored(&owner).await, before);
    }
}

/// The table without the journal behind it.
async fn stored(store: &Store) -> Vec<SessionRow> {
    on_engine!(store.db(), db => db.sessions_after((0, 0)).await).unwrap()
}
