#![allow(clippy::unwrap_used)]
use crate::testing::{Place, stories};
use crate::{JoinCommit, JoinCommitted, JoinDeviceRow, JoinTables, NonceRule};

stories! {
    every_value_counts_once_up_to_1_0_3,
    values_rise_from_1_0_4_on,
    a_corrected_version_does_not_open_old_requests,
    a_join_nonce_is_never_handed_out_twice_not_even_after_the_device_was_deleted,
    replacing_a_device_keeps_its_keys_and_nonces_and_another_join_eui_counts_anew,
    of_the_same_request_at_the_same_time_one_is_accepted,
    changes_of_keys_are_in_the_audit_trail_without_the_keys,
}

fn device() -> JoinDeviceRow {
    JoinDeviceRow {
        dev_eui: 0xfeed_0000_0000_0001,
        join_eui: 2,
        mac_version: 4,
        sealed_app_key: Some(vec![1; 45]),
        sealed_nwk_key: None,
    }
}

fn join(dev_nonce: u16, rule: NonceRule, join_nonce: u32) -> JoinCommit {
    JoinCommit {
        dev_eui: device().dev_eui,
        join_eui: device().join_eui,
        dev_nonce,
        rule,
        join_nonce,
        request_hash: [dev_nonce.to_be_bytes()[1]; 32],
        answer: vec![9; 200],
    }
}

async fn commit(tables: &JoinTables, dev_nonce: u16, rule: NonceRule, join_nonce: u32) -> JoinCommitted {
    tables.commit_join(join(dev_nonce, rule, join_nonce)).await.unwrap()
}

async fn every_value_counts_once_up_to_1_0_3(place: &Place) {
    let store = place.open().await;
    let tables = store.join();
    tables.put_device(device()).await.unwrap();

    assert_eq!(commit(&tables, 500, NonceRule::UnusedEver, 1).await, JoinCommitted::Committed);
    assert_eq!(commit(&tables, 3, NonceRule::UnusedEver, 2).await, JoinCommitted::Committed);
    assert_eq!(commit(&tables, 500, NonceRule::UnusedEver, 3).await, JoinCommitted::NonceUsed);

    let stored = tables.device(device().dev_eui).await.unwrap().unwrap();
    assert_eq!((stored.join_nonce, stored.last_dev_nonce, stored.nonces_used), (2, Some(3), 2));
    assert_eq!(tables.last_answer(device().dev_eui).await.unwrap(), Some(([3; 32], vec![9; 200])));
}

async fn values_rise_from_1_0_4_on(place: &Place) {
    let store = place.open().await;
    let tables = store.join();
    tables.put_device(device()).await.unwrap();

    assert_eq!(commit(&tables, 0, NonceRule::StrictlyRising, 1).await, JoinCommitted::Committed);
    assert_eq!(commit(&tables, 10, NonceRule::StrictlyRising, 2).await, JoinCommitted::Committed);
    let refused = JoinCommitted::NonceNotRising { last: 10 };
    assert_eq!(commit(&tables, 10, NonceRule::StrictlyRising, 3).await, refused);
    assert_eq!(commit(&tables, 9, NonceRule::StrictlyRising, 3).await, refused);
    assert_eq!(commit(&tables, 11, NonceRule::StrictlyRising, 3).await, JoinCommitted::Committed);
}

async fn a_corrected_version_does_not_open_old_requests(place: &Place) {
    let store = place.open().await;
    let tables = store.join();
    tables.put_device(device()).await.unwrap();
    commit(&tables, 40_000, NonceRule::UnusedEver, 1).await;
    commit(&tables, 7, NonceRule::UnusedEver, 2).await;

    // The counter of 1.0.4 starts low and is not held up by the random values before it.
    assert_eq!(commit(&tables, 1, NonceRule::StrictlyRising, 3).await, JoinCommitted::Committed);
    assert_eq!(commit(&tables, 7, NonceRule::StrictlyRising, 4).await, JoinCommitted::NonceUsed);
    assert_eq!(commit(&tables, 1, NonceRule::UnusedEver, 4).await, JoinCommitted::NonceUsed);
}

async fn a_join_nonce_is_never_handed_out_twice_not_even_after_the_device_was_deleted(place: &Place) {
    let store = place.open().await;
    let tables = store.join();
    tables.put_device(device()).await.unwrap();
    commit(&tables, 1, NonceRule::UnusedEver, 5).await;
    assert_eq!(commit(&tables, 2, NonceRule::UnusedEver, 5).await, JoinCommitted::JoinNonceStale { last: 5 });

    assert!(tables.delete_device(device().dev_eui).await.unwrap());
    assert!(!tables.delete_device(device().dev_eui).await.unwrap());
    assert_eq!(tables.device(device().dev_eui).await.unwrap(), None);
    assert_eq!(tables.last_answer(device().dev_eui).await.unwrap(), None);
    assert_eq!(commit(&tables, 2, NonceRule::UnusedEver, 6).await, JoinCommitted::DeviceUnknown);
    tables.put_device(device()).await.unwrap();

    assert_eq!(tables.device(device().dev_eui).await.unwrap().unwrap().join_nonce, 5);
    // Its DevNonces are forgotten, which is what deleting is for.
    assert_eq!(commit(&tables, 1, NonceRule::UnusedEver, 6).await, JoinCommitted::Committed);
}

async fn replacing_a_device_keeps_its_keys_and_nonces_and_another_join_eui_counts_anew(place: &Place) {
    let store = place.open().await;
    let tables = store.join();
    tables.put_device(device()).await.unwrap();
    commit(&tables, 10, NonceRule::StrictlyRising, 1).await;

    let keyless = JoinDeviceRow { sealed_app_key: None, sealed_nwk_key: Some(vec![2; 45]), ..device() };
    tables.put_device(keyless).await.unwrap();
    let stored = tables.device(device().dev_eui).await.unwrap().unwrap();
    assert_eq!(stored.row.sealed_app_key, device().sealed_app_key);
    assert_eq!(stored.row.sealed_nwk_key, Some(vec![2; 45]));
    assert_eq!((stored.join_nonce, stored.last_dev_nonce), (1, Some(10)));

    tables.put_device(JoinDeviceRow { join_eui: 3, ..device() }).await.unwrap();
    assert_eq!(commit(&tables, 11, NonceRule::StrictlyRising, 2).await, JoinCommitted::DeviceUnknown);
    let moved = JoinCommit { join_eui: 3, ..join(1, NonceRule::StrictlyRising, 2) };
    assert_eq!(tables.commit_join(moved).await.unwrap(), JoinCommitted::Committed);
}

async fn of_the_same_request_at_the_same_time_one_is_accepted(place: &Place) {
    let store = place.open().await;
    let tables = store.join();
    tables.put_device(device()).await.unwrap();

    let tasks: Vec<_> = (1..=20)
        .map(|join_nonce| {
            let tables = tables.clone();
            tokio::spawn(async move { commit(&tables, 5, NonceRule::UnusedEver, join_nonce).await })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        accepted += u32::from(task.await.unwrap() == JoinCommitted::Committed);
    }

    assert_eq!(accepted, 1);
    store.close().await.unwrap();
    let stored = place.open().await.join().device(device().dev_eui).await.unwrap().unwrap();
    assert_eq!(stored.nonces_used, 1);
}

async fn changes_of_keys_are_in_the_audit_trail_without_the_keys(place: &Place) {
    let store = place.open().await;
    store.join().put_device(device()).await.unwrap();
    store.join().delete_device(device().dev_eui).await.unwrap();

    let trail = store.bridge().audit(i64::MAX, 10).await.unwrap();

    let actions: Vec<&str> = trail.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(actions, ["join_device_delete", "join_device_put"]);
    assert!(trail.iter().all(|row| row.subject == "feed000000000001" && row.at_us > 0));
}
