#![allow(clippy::unwrap_used)]
use proto::internal::Record;

use crate::testing::{Place, all, apply_retention, stories, uplink};
use crate::{Store, StoreOptions};

stories! {
    the_disk_and_the_memory_tell_the_same_story,
    subscribers_hear_of_each_new_head,
    old_rows_leave_by_age_and_a_reader_sees_the_gap,
    the_oldest_rows_leave_when_the_journal_grows_too_large,
    the_last_row_stays_whatever_its_age,
    a_time_is_found_by_when_the_server_received,
}

async fn filled(store: &Store, count: u32) {
    for n in 0..count {
        store.journal().commit(vec![uplink(1, n)], vec![]).await.unwrap();
    }
}

async fn the_disk_and_the_memory_tell_the_same_story(place: &Place) {
    let options = StoreOptions { tail_bytes: 3000, group_max_delay_ms: 0, ..StoreOptions::default() };
    let store = place.open_with(options).await;
    filled(&store, 60).await;

    assert!(store.shared().tail.read(0, 1).is_none(), "the beginning is on disk only");
    assert!(store.shared().tail.read(58, 1).is_some(), "the end is in memory");
    assert!(all(&store).await.into_iter().eq((0..60).map(|n| (u64::from(n) + 1, n))));
    for after in [0, 1, 30, 57, 59] {
        for max in [0, 1, 5, 100] {
            let page = store.log().read(after, max).await.unwrap();
            let seqs: Vec<u64> = page.records.iter().map(|(seq, _)| *seq).collect();
            assert!(seqs.len() <= max);
            assert!(seqs.iter().copied().eq(after + 1..=after + seqs.len() as u64));
            assert_eq!(max == 0, seqs.is_empty());
            assert_eq!((page.head_seq, page.earliest_seq), (60, 1));
        }
    }
    assert!(store.log().read(60, 10).await.unwrap().records.is_empty());
    assert!(store.log().read(u64::MAX, 10).await.unwrap().records.is_empty());
}

async fn subscribers_hear_of_each_new_head(place: &Place) {
    let store = place.open().await;
    let mut head = store.log().subscribe();
    assert_eq!(head.seq(), 0);
    let waiting = tokio::spawn(async move { head.wait_for(|head| *head > 0).await });

    filled(&store, 1).await;

    assert_eq!(waiting.await.unwrap(), 1);
    // A commit without events is none of their business.
    store.journal().commit(vec![], vec![]).await.unwrap();
    assert_eq!(store.log().subscribe().seq(), 1);
}

async fn old_rows_leave_by_age_and_a_reader_sees_the_gap(place: &Place) {
    let store = place.open_with(StoreOptions { tail_bytes: 0, ..StoreOptions::default() }).await;
    // The counter is the time of the record in milliseconds since 1970, so all but what comes from now are old.
    filled(&store, 30).await;
    let now = Record { at_us: seam::wall_us(), ..uplink(1, 30) };
    store.journal().commit(vec![now], vec![]).await.unwrap();

    let removed = apply_retention(&store, &StoreOptions::default()).await;

    assert!(removed > 0);
    assert_eq!((store.log().earliest(), store.log().head()), (31, 31));
    let page = store.log().read(5, 10).await.unwrap();
    assert_eq!((page.earliest_seq, page.head_seq), (31, 31));
    assert_eq!(all(&store).await, [(31, 30)]);
    store.close().await.unwrap();

    let store = place.open().await;
    assert_eq!((store.log().earliest(), store.log().head()), (31, 31));
    assert_eq!(store.journal().commit(vec![uplink(1, 32)], vec![]).await.unwrap(), 32, "sequences go on");
}

async fn the_oldest_rows_leave_when_the_journal_grows_too_large(place: &Place) {
    let store = place.open().await;
    filled(&store, 300).await;
    let bytes = store.metrics().journal_bytes;
    let limit = StoreOptions {
        retention_max_bytes: bytes / 3,
        retention_max_age_s: u64::MAX,
        ..StoreOptions::default()
    };

    apply_retention(&store, &limit).await;

    assert!(store.metrics().journal_bytes <= bytes / 3);
    assert!((195..=206).contains(&store.log().earliest()), "{}", store.log().earliest());
    assert_eq!(apply_retention(&store, &limit).await, 0, "and no more than needed");
    assert_eq!(store.log().head(), 300);
    let kept = store.metrics().journal_bytes;
    store.close().await.unwrap();
    assert_eq!(place.open().await.metrics().journal_bytes, kept);
}

async fn the_last_row_stays_whatever_its_age(place: &Place) {
    let store = place.open().await;
    filled(&store, 3).await;
    let nothing = StoreOptions { retention_max_age_s: 0, retention_max_bytes: 0, ..StoreOptions::default() };
    apply_retention(&store, &nothing).await;
    store.close().await.unwrap();

    let store = place.open().await;
    assert_eq!(store.log().head(), 3);
    assert_eq!(store.log().earliest(), 3);
}

async fn a_time_is_found_by_when_the_server_received(place: &Place) {
    let store = place.open().await;
    assert_eq!(store.log().seq_at_time(0).await.unwrap(), 1, "an empty log begins with what comes");
    // Record n was received at n milliseconds.
    filled(&store, 200).await;

    assert_eq!(store.log().seq_at_time(-5).await.unwrap(), 1);
    assert_eq!(store.log().seq_at_time(0).await.unwrap(), 1);
    assert_eq!(store.log().seq_at_time(100_000).await.unwrap(), 101);
    assert_eq!(store.log().seq_at_time(100_001).await.unwrap(), 102);
    assert_eq!(store.log().seq_at_time(199_000).await.unwrap(), 200);
    assert_eq!(store.log().seq_at_time(199_001).await.unwrap(), 201, "nothing so late: from now on");
}
