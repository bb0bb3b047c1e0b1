#![allow(clippy::unwrap_used)]
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::testing::{Place, all, step, stories, until, uplink};
use crate::{Committed, DownlinkRow, StoreError, StoreOptions, Submission};

stories! {
    what_was_committed_is_there_after_a_restart_with_its_sequences,
    effects_leave_after_the_commit_in_the_order_of_the_sequences,
    a_panic_in_an_effect_stops_nothing,
    a_closed_store_takes_nothing_and_says_so,
    a_write_of_a_table_that_fails_takes_nothing_of_its_neighbours_back,
    table_writes_and_the_journal_do_not_starve_each_other,
}

async fn what_was_committed_is_there_after_a_restart_with_its_sequences(place: &Place) {
    let store = place.open().await;
    let first = store.journal().commit(vec![uplink(1, 0), uplink(1, 1)], vec![]).await.unwrap();
    let second = store.journal().commit(vec![uplink(1, 2)], vec![]).await.unwrap();
    assert_eq!((first, second), (1, 3));
    store.close().await.unwrap();

    let store = place.open().await;

    assert_eq!(store.log().head(), 3);
    assert_eq!(all(&store).await, [(1, 0), (2, 1), (3, 2)]);
    assert_eq!(store.journal().commit(vec![uplink(1, 3)], vec![]).await.unwrap(), 4);
    assert_eq!(store.epoch(), 2);
}

async fn effects_leave_after_the_commit_in_the_order_of_the_sequences(place: &Place) {
    let store = place.open_with(StoreOptions::default()).await;
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

async fn a_panic_in_an_effect_stops_nothing(place: &Place) {
    let store = place.open().await;
    let done: crate::Done = Box::new(|_| panic!("a fault of the effect"));
    store.journal().submit(Submission { done: Some(done), ..step(uplink(1, 0)) }).await.unwrap();

    assert_eq!(store.journal().commit(vec![uplink(1, 1)], vec![]).await.unwrap(), 2);
}

async fn a_closed_store_takes_nothing_and_says_so(place: &Place) {
    let store = place.open().await;
    let journal = store.journal();
    store.close().await.unwrap();
    store.close().await.unwrap();

    assert!(matches!(journal.commit(vec![uplink(1, 0)], vec![]).await, Err(StoreError::Closed)));
    assert!(matches!(store.network().load_devices(|_| {}).await, Err(StoreError::Closed)));
    assert!(matches!(store.network().delete_device(1).await, Err(StoreError::Closed)));
}

async fn a_write_of_a_table_that_fails_takes_nothing_of_its_neighbours_back(place: &Place) {
    let store = place.open().await;
    let good = |id: &str| crate::ApplicationRow { id: id.into(), ..crate::ApplicationRow::default() };
    let item = || DownlinkRow { id: "twice".into(), state: 1, ..DownlinkRow::default() };
    let bridge = store.bridge();
    bridge.insert_downlink(item()).await.unwrap();

    // Queued together, so that they share a transaction.
    let (first, broken, last) = tokio::join!(
        bridge.insert_application(good("a")),
        bridge.insert_downlink(item()),
        bridge.insert_application(good("b")),
    );

    assert_eq!(first.unwrap(), crate::Written::Done);
    assert!(matches!(broken, Err(StoreError::Sql { .. } | StoreError::Io { .. })), "{broken:?}");
    assert_eq!(last.unwrap(), crate::Written::Done);
    let ids: Vec<_> = bridge.applications("", 10).await.unwrap().into_iter().map(|a| a.id).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(bridge.unannounced_downlinks(10).await.unwrap().len(), 1);
}

async fn table_writes_and_the_journal_do_not_starve_each_other(place: &Place) {
    let store = place.open().await;
    let flood: Vec<_> = (0..32)
        .map(|device| {
            let journal = store.journal();
            tokio::spawn(async move { while journal.commit(vec![uplink(device, 0)], vec![]).await.is_ok() {} })
        })
        .collect();

    let tables = store.network();
    for dev_eui in 0..100 {
        let row = crate::NetworkDeviceRow { dev_eui, ..crate::NetworkDeviceRow::default() };
        tokio::time::timeout(Duration::from_secs(10), tables.put_device(row)).await.unwrap().unwrap();
    }
    assert!(store.log().head() > 0, "the journal moved as well");

    flood.iter().for_each(tokio::task::JoinHandle::abort);
}
