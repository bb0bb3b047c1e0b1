#![allow(clippy::unwrap_used)]
use proto::v1::{self, DownlinkState};

use crate::testing::{Place, stories};
use crate::{
    ApiKeyRow, AppSessionRow, ApplicationRow, BridgeDeviceRow, BridgeTables, DownlinkInsertion, DownlinkLease,
    DownlinkRow, DownlinkUpdate, Followed, Removal, Store, Written,
};

stories! {
    a_registry_row_reads_back_as_it_was_written,
    a_device_needs_its_application_and_profile,
    an_import_is_whole_or_nothing_and_lists_in_order_of_the_dev_eui,
    devices_the_other_roles_were_not_told_of_are_found,
    codecs_and_keys_and_profiles_read_back,
    a_position_never_moves_back,
    the_queue_hands_out_the_highest_priority_first_and_then_the_oldest,
    an_idempotency_key_makes_one_item_per_device,
    a_counter_is_leased_once_and_never_again,
    an_item_ends_in_exactly_one_terminal_state,
    deadlines_and_unannounced_states_are_found_and_finished_items_leave,
    what_an_event_means_and_the_position_become_durable_together_and_once,
    an_attempt_that_never_left_does_not_count,
    session_keys_stay_until_no_event_needs_them,
    a_session_that_began_by_a_clock_set_back_is_the_newest_all_the_same,
    the_audit_trail_pages_backwards,
}

async fn with_parents(place: &Place) -> (Store, BridgeTables) {
    let store = place.open().await;
    let tables = store.bridge();
    tables.insert_application(ApplicationRow { id: "farm".into(), ..ApplicationRow::default() }).await.unwrap();
    tables.insert_profile(&v1::Profile { id: "soil".into(), ..v1::Profile::default() }).await.unwrap();
    (store, tables)
}

fn device(dev_eui: u64) -> BridgeDeviceRow {
    BridgeDeviceRow {
        dev_eui,
        join_eui: 9,
        application_id: "farm".into(),
        profile_id: "soil".into(),
        name: format!("probe {dev_eui}"),
        tags: [("field".to_owned(), "north".to_owned())].into(),
        allow_fcnt_reset: true,
        created_at_us: 5,
        ..BridgeDeviceRow::default()
    }
}

fn item(id: &str, priority: u32) -> DownlinkRow {
    DownlinkRow {
        id: id.into(),
        dev_eui: 1,
        f_port: 10,
        payload: vec![1, 2, 3],
        priority,
        state: DownlinkState::Queued as i32,
        created_at_us: 100,
        updated_at_us: 100,
        ..DownlinkRow::default()
    }
}

async fn insert(tables: &BridgeTables, row: DownlinkRow) -> DownlinkRow {
    match tables.insert_downlink(row).await.unwrap() {
        DownlinkInsertion::Inserted(row) => row,
        DownlinkInsertion::Duplicate(row) => panic!("a duplicate of {row:?}"),
    }
}

fn ids(rows: &[DownlinkRow]) -> Vec<&str> {
    rows.iter().map(|row| row.id.as_str()).collect()
}

async fn a_registry_row_reads_back_as_it_was_written(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    let row = device(u64::MAX);
    assert_eq!(tables.insert_device(row.clone()).await.unwrap(), Written::Done);
    assert_eq!(tables.device(u64::MAX).await.unwrap(), Some(row.clone()));
    assert_eq!(tables.insert_device(row.clone()).await.unwrap(), Written::Exists("ffffffffffffffff".into()));

    let changed = BridgeDeviceRow { name: "gate".into(), disabled: true, provisioned: true, ..row };
    assert_eq!(tables.update_device(changed.clone()).await.unwrap(), Written::Done);
    assert_eq!(tables.device(u64::MAX).await.unwrap(), Some(changed));

    let absent = tables.update_device(device(7)).await.unwrap();
    assert_eq!(absent, Written::Missing("device 0000000000000007".into()));
    assert!(tables.delete_device(u64::MAX).await.unwrap());
    assert!(!tables.delete_device(u64::MAX).await.unwrap());
}

async fn a_device_needs_its_application_and_profile(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    let lost = BridgeDeviceRow { application_id: "nowhere".into(), ..device(1) };
    assert_eq!(
        tables.insert_device(lost.clone()).await.unwrap(),
        Written::Missing("application nowhere".into())
    );
    tables.insert_device(device(1)).await.unwrap();
    assert_eq!(tables.update_device(lost).await.unwrap(), Written::Missing("application nowhere".into()));

    assert_eq!(tables.delete_application("farm").await.unwrap(), Removal::InUse(1));
    assert_eq!(tables.delete_profile("soil").await.unwrap(), Removal::InUse(1));
    assert_eq!(tables.application_device_count("farm").await.unwrap(), 1);

    tables.delete_device(1).await.unwrap();
    assert_eq!(tables.delete_application("farm").await.unwrap(), Removal::Removed);
    assert_eq!(tables.delete_profile("soil").await.unwrap(), Removal::Removed);
    assert_eq!(tables.delete_profile("soil").await.unwrap(), Removal::NotFound);
}

async fn an_import_is_whole_or_nothing_and_lists_in_order_of_the_dev_eui(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    tables.insert_device(device(300)).await.unwrap();

    let clash = tables.insert_devices((0..500).map(device).collect()).await.unwrap();
    assert_eq!(clash, Written::Exists("000000000000012c".into()));
    let twice = tables.insert_devices(vec![device(1), device(1)]).await.unwrap();
    assert_eq!(twice, Written::Exists("0000000000000001".into()));
    assert_eq!(tables.device_count().await.unwrap(), 1);

    let others = (0..300).chain(1 << 63..(1 << 63) + 10).map(device).collect();
    assert_eq!(tables.insert_devices(others).await.unwrap(), Written::Done);

    let mut listed = Vec::new();
    loop {
        let page = tables.devices(Some("farm"), listed.last().copied(), 50).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page.iter().map(|row| row.dev_eui));
    }
    assert_eq!(listed.len(), 311);
    assert!(listed.is_sorted());
    assert!(tables.devices(Some("barn"), None, 50).await.unwrap().is_empty());
    assert_eq!(tables.devices(None, Some(300), 3).await.unwrap()[0].dev_eui, 1 << 63);
    assert!(tables.devices(None, Some(u64::MAX), 3).await.unwrap().is_empty());
}

async fn devices_the_other_roles_were_not_told_of_are_found(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    tables.insert_devices((0..3).map(device).collect()).await.unwrap();

    tables.set_provisioned(vec![0, 2]).await.unwrap();

    let rest: Vec<u64> = tables.unprovisioned_devices(10).await.unwrap().iter().map(|d| d.dev_eui).collect();
    assert_eq!(rest, [1]);
}

async fn codecs_and_keys_and_profiles_read_back(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    assert_eq!(tables.put_codec("c", "one", 1).await.unwrap().revision, 1);
    let codec = tables.put_codec("c", "two", 2).await.unwrap();
    assert_eq!((codec.revision, codec.script.as_str()), (2, "two"));
    assert_eq!(tables.codec("c").await.unwrap(), Some(codec));
    assert_eq!(tables.codecs().await.unwrap()[0].script, "");
    assert!(tables.delete_codec("c").await.unwrap());
    assert_eq!(tables.codec("c").await.unwrap(), None);

    let key = ApiKeyRow { name: "admin".into(), hash: [3; 32], created_at_us: 1 };
    tables.put_api_key(key.clone()).await.unwrap();
    assert_eq!(tables.api_key_by_hash(&[3; 32]).await.unwrap(), Some(key.clone()));
    assert_eq!(tables.api_key_by_hash(&[4; 32]).await.unwrap(), None);
    let other = ApiKeyRow { hash: [4; 32], ..key };
    tables.put_api_key(other.clone()).await.unwrap();
    assert_eq!(tables.api_keys().await.unwrap(), [other]);
    assert!(tables.delete_api_key("admin").await.unwrap());

    let profile = v1::Profile { id: "soil".into(), rx_delay_s: 5, ..v1::Profile::default() };
    assert!(tables.update_profile(&profile).await.unwrap());
    assert_eq!(tables.profile("soil").await.unwrap(), Some(profile.clone()));
    assert_eq!(tables.profiles("", 10).await.unwrap(), std::slice::from_ref(&profile));
    assert_eq!(tables.insert_profile(&profile).await.unwrap(), Written::Exists("soil".into()));
    let absent = v1::Profile { id: "x".into(), ..profile };
    assert!(!tables.update_profile(&absent).await.unwrap());
}

async fn a_position_never_moves_back(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    tables.acknowledge("erp", 10, 1).await.unwrap();

    let stands = tables.acknowledge("erp", 5, 2).await.unwrap();

    assert_eq!((stands.position, stands.acknowledged_at_us), (10, 2));
    assert_eq!(tables.consumer("erp").await.unwrap(), Some(stands.clone()));
    assert_eq!(tables.consumers().await.unwrap(), [stands]);
    assert!(tables.delete_consumer("erp").await.unwrap());
    assert_eq!(tables.consumer("erp").await.unwrap(), None);
}

async fn the_queue_hands_out_the_highest_priority_first_and_then_the_oldest(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    for (id, priority) in [("a", 0), ("b", 5), ("c", 5), ("d", 9)] {
        insert(&tables, item(id, priority)).await;
    }
    insert(&tables, DownlinkRow { dev_eui: 2, ..item("other", 9) }).await;

    assert_eq!(ids(&tables.next_downlinks(1, 10).await.unwrap()), ["d", "b", "c", "a"]);
    assert_eq!(ids(&tables.downlinks(1, false, 0, 10).await.unwrap()), ["a", "b", "c", "d"]);
    let second = tables.downlinks(1, false, 0, 2).await.unwrap()[1].position;
    assert_eq!(ids(&tables.downlinks(1, false, second, 10).await.unwrap()), ["c", "d"]);
    let pending = tables.pending_downlinks().await.unwrap();
    assert_eq!(
        pending.iter().map(|p| (p.dev_eui, p.count, p.next_len)).collect::<Vec<_>>(),
        [(1, 4, 3), (2, 1, 3)]
    );
    assert_eq!(tables.pending_downlinks_of(1).await.unwrap(), pending[0]);
    assert_eq!(tables.pending_downlinks_of(3).await.unwrap().count, 0);
    assert_eq!(tables.open_downlink_count(1).await.unwrap(), 4);
}

async fn an_idempotency_key_makes_one_item_per_device(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    let keyed = DownlinkRow { idempotency_key: "k".into(), ..item("a", 0) };
    let first = insert(&tables, keyed.clone()).await;

    let again = tables.insert_downlink(DownlinkRow { id: "b".into(), ..keyed.clone() }).await.unwrap();

    assert_eq!(again, DownlinkInsertion::Duplicate(first));
    insert(&tables, DownlinkRow { id: "c".into(), dev_eui: 2, ..keyed }).await;
    insert(&tables, item("d", 0)).await;
    insert(&tables, item("e", 0)).await;
}

async fn a_counter_is_leased_once_and_never_again(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    insert(&tables, item("a", 0)).await;
    insert(&tables, item("b", 0)).await;
    let queued = |id: &str| DownlinkUpdate {
        id: id.into(),
        never_left: true,
        state: DownlinkState::Queued as i32,
        ..DownlinkUpdate::default()
    };

    let DownlinkLease::Leased(leased) = tables.lease_downlink("a", 70, 5, 200).await.unwrap() else { panic!() };
    assert_eq!((leased.lease, leased.attempts, leased.state), (Some((70, 5)), 1, DownlinkState::Leased as i32));
    assert_eq!(tables.lease_downlink("a", 70, 6, 200).await.unwrap(), DownlinkLease::NotWaiting);
    assert_eq!(tables.lease_downlink("b", 70, 5, 200).await.unwrap(), DownlinkLease::CounterUsed { last: 5 });
    assert_eq!(tables.lease_downlink("b", 70, 4, 200).await.unwrap(), DownlinkLease::CounterUsed { last: 5 });

    // Back in the queue, the item gets another counter; the old one stays burnt for everyone.
    assert_eq!(tables.update_downlinks(vec![queued("a")]).await.unwrap(), [true]);
    assert_eq!(tables.lease_downlink("a", 70, 5, 300).await.unwrap(), DownlinkLease::CounterUsed { last: 5 });
    let DownlinkLease::Leased(leased) = tables.lease_downlink("a", 70, 8, 300).await.unwrap() else { panic!() };
    assert_eq!(leased.attempts, 1);
    assert_eq!(tables.downlink_by_lease(1, 70, 8).await.unwrap().unwrap().id, "a");
    assert_eq!(tables.downlink_by_lease(1, 70, 5).await.unwrap(), None);
    assert_eq!(tables.downlink_by_lease(2, 70, 8).await.unwrap(), None);
    assert_eq!(ids(&tables.downlinks_in_flight(0, 10).await.unwrap()), ["a"]);

    // Another session has its own counters.
    assert!(matches!(tables.lease_downlink("b", 71, 0, 300).await.unwrap(), DownlinkLease::Leased(_)));
    assert_eq!(tables.lease_downlink("zzz", 71, 1, 300).await.unwrap(), DownlinkLease::NotWaiting);
}

async fn an_item_ends_in_exactly_one_terminal_state(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    insert(&tables, item("a", 0)).await;
    let (row, cancelled) = tables.cancel_downlink("a", 500).await.unwrap().unwrap();
    assert!(cancelled);
    assert_eq!((row.state, row.finished_at_us), (DownlinkState::Cancelled as i32, Some(500)));

    let expired = DownlinkUpdate {
        id: "a".into(),
        state: DownlinkState::Expired as i32,
        at_us: 600,
        finished: true,
        ..DownlinkUpdate::default()
    };
    assert_eq!(tables.update_downlinks(vec![expired]).await.unwrap(), [false]);
    assert!(!tables.cancel_downlink("a", 700).await.unwrap().unwrap().1);
    assert_eq!(tables.cancel_downlink("zzz", 700).await.unwrap(), None);
    assert_eq!(tables.lease_downlink("a", 1, 1, 700).await.unwrap(), DownlinkLease::NotWaiting);
    assert_eq!(tables.downlink("a").await.unwrap().unwrap(), row);
    assert!(tables.next_downlinks(1, 10).await.unwrap().is_empty());
    assert_eq!(ids(&tables.downlinks(1, true, 0, 10).await.unwrap()), ["a"]);
}

async fn deadlines_and_unannounced_states_are_found_and_finished_items_leave(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    insert(&tables, DownlinkRow { not_after_us: Some(1000), ..item("a", 0) }).await;
    insert(&tables, DownlinkRow { not_after_us: Some(3000), ..item("b", 0) }).await;
    insert(&tables, item("c", 0)).await;

    assert_eq!(tables.next_deadline_us().await.unwrap(), Some(1000));
    assert_eq!(ids(&tables.downlinks_past_deadline(2000, 10).await.unwrap()), ["a"]);
    assert_eq!(ids(&tables.unannounced_downlinks(10).await.unwrap()), ["a", "b", "c"]);

    tables.cancel_downlink("a", 2000).await.unwrap();
    assert_eq!(tables.next_deadline_us().await.unwrap(), Some(3000));
    let queued = DownlinkState::Queued as i32;
    let announced = ["a", "b", "c"].map(|id| (id.to_owned(), queued)).to_vec();
    tables.set_announced(announced).await.unwrap();
    assert_eq!(ids(&tables.unannounced_downlinks(10).await.unwrap()), ["a"], "it has changed since");
    assert_eq!(tables.purge_downlinks(9000).await.unwrap(), 0, "nobody was told yet");

    tables.set_announced(vec![("a".into(), DownlinkState::Cancelled as i32)]).await.unwrap();
    assert_eq!(tables.purge_downlinks(2000).await.unwrap(), 0);
    assert_eq!(tables.purge_downlinks(2001).await.unwrap(), 1);
    assert_eq!(tables.downlink("a").await.unwrap(), None);
}

async fn what_an_event_means_and_the_position_become_durable_together_and_once(place: &Place) {
    let store = place.open().await;
    let tables = store.bridge();
    insert(&tables, item("a", 0)).await;
    tables.lease_downlink("a", 70, 5, 200).await.unwrap();
    let sent = |fcnt| DownlinkUpdate {
        id: "a".into(),
        state: DownlinkState::Sent as i32,
        at_us: 300,
        announced: true,
        only_lease: Some((70, fcnt)),
        ..DownlinkUpdate::default()
    };
    let session = AppSessionRow { session_id: 70, dev_eui: 1, sealed_key: vec![1; 45], started_at_us: 10 };

    let changes = vec![Followed::AppSession(session.clone()), Followed::Downlink(sent(4))];
    assert!(tables.follow(12, changes).await.unwrap());
    assert_eq!(
        tables.downlink("a").await.unwrap().unwrap().state,
        DownlinkState::Leased as i32,
        "of another counter"
    );
    assert!(tables.follow(13, vec![Followed::Downlink(sent(5))]).await.unwrap());
    let later = AppSessionRow { sealed_key: vec![2; 45], ..session.clone() };
    assert!(!tables.follow(13, vec![Followed::AppSession(later)]).await.unwrap());
    store.close().await.unwrap();

    let store = place.open().await;
    let tables = store.bridge();
    assert_eq!(tables.follow_seq().await.unwrap(), 13);
    assert_eq!(tables.app_session(70).await.unwrap(), Some(session));
    assert_eq!(tables.downlink("a").await.unwrap().unwrap().state, DownlinkState::Sent as i32);
}

async fn an_attempt_that_never_left_does_not_count(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    insert(&tables, item("a", 0)).await;
    let to = |state: DownlinkState, fcnt| DownlinkUpdate {
        id: "a".into(),
        state: state as i32,
        at_us: 300,
        only_lease: Some((70, fcnt)),
        ..DownlinkUpdate::default()
    };

    tables.lease_downlink("a", 70, 5, 200).await.unwrap();
    let handed_back = DownlinkUpdate { never_left: true, ..to(DownlinkState::Queued, 5) };
    tables.follow(1, vec![Followed::Downlink(handed_back)]).await.unwrap();
    assert_eq!(tables.downlink("a").await.unwrap().unwrap().attempts, 0, "it was handed back");

    tables.lease_downlink("a", 70, 6, 200).await.unwrap();
    tables.follow(2, vec![Followed::Downlink(to(DownlinkState::Sent, 6))]).await.unwrap();
    tables.follow(3, vec![Followed::Downlink(to(DownlinkState::Queued, 6))]).await.unwrap();
    assert_eq!(tables.downlink("a").await.unwrap().unwrap().attempts, 1, "it left and was not acknowledged");
}

async fn session_keys_stay_until_no_event_needs_them(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    for (session_id, started_at_us) in [(1, 100), (2, 200), (3, 300)] {
        let row = AppSessionRow { session_id, dev_eui: 1, sealed_key: vec![1], started_at_us };
        tables.put_app_session(row).await.unwrap();
    }

    assert_eq!(
        tables.purge_app_sessions(200).await.unwrap(),
        0,
        "an event of session 1 may come just before 200"
    );
    assert_eq!(tables.purge_app_sessions(250).await.unwrap(), 1);
    assert_eq!(tables.purge_app_sessions(i64::MAX).await.unwrap(), 1, "the last session stays");

    let left: Vec<u64> = tables.app_sessions(1, 10).await.unwrap().iter().map(|s| s.session_id).collect();
    assert_eq!(left, [3]);
}

/// A box without a battery may have been years ahead when the session before began.
async fn a_session_that_began_by_a_clock_set_back_is_the_newest_all_the_same(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    let row = |session_id, started_at_us| AppSessionRow {
        session_id,
        dev_eui: 1,
        sealed_key: vec![1],
        started_at_us,
    };
    tables.put_app_session(row(7, 1_000)).await.unwrap();
    tables.put_app_session(row(3, 500)).await.unwrap();
    tables.put_app_session(AppSessionRow { dev_eui: 2, ..row(4, 500) }).await.unwrap();

    let sessions: Vec<u64> = tables.app_sessions(1, 10).await.unwrap().iter().map(|s| s.session_id).collect();
    assert_eq!(sessions, [3, 7]);
    assert_eq!(tables.app_session(4).await.unwrap().unwrap().started_at_us, 500, "of another device");

    // Its key written again, the older one does not become the newest.
    tables.put_app_session(AppSessionRow { sealed_key: vec![2], ..row(7, 9_000) }).await.unwrap();
    let rewritten = AppSessionRow { sealed_key: vec![2], ..row(7, 1_000) };
    assert_eq!(tables.app_session(7).await.unwrap(), Some(rewritten));
    assert_eq!(tables.purge_app_sessions(i64::MAX).await.unwrap(), 1);
    assert_eq!(tables.app_session(7).await.unwrap(), None);
    assert!(tables.app_session(3).await.unwrap().is_some(), "the live session keeps its key");
}

async fn the_audit_trail_pages_backwards(place: &Place) {
    let (_store, tables) = with_parents(place).await;
    for at_us in 1..=5 {
        let row = crate::AuditRow { at_us, action: format!("a{at_us}"), ..crate::AuditRow::default() };
        tables.append_audit(row).await.unwrap();
    }

    let newest = tables.audit(i64::MAX, 2).await.unwrap();
    let next = tables.audit(newest[1].id, 2).await.unwrap();

    assert_eq!([&newest[0], &newest[1], &next[0], &next[1]].map(|r| r.at_us), [5, 4, 3, 2]);
    assert_eq!(tables.purge_audit(3).await.unwrap(), 2);
    assert_eq!(tables.audit(i64::MAX, 10).await.unwrap().len(), 3);
}
