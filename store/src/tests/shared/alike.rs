//! Any series of calls is answered alike by every engine: what no story thought of.
#![allow(clippy::unwrap_used)]
use std::fmt::Debug;

use proptest::prelude::*;
use proto::internal::Record;
use proto::v1;

use crate::testing::{Place, apply_retention, in_memory, uplink};
use crate::{
    ApiKeyRow, AppSessionRow, ApplicationRow, AuditRow, BridgeDeviceRow, DownlinkRow, DownlinkUpdate, Followed,
    JoinCommit, JoinDeviceRow, NetworkDeviceRow, NonceRule, Store, StoreError, StoreOptions,
};

/// One call: which, and small numbers from which its arguments are made.
#[derive(Clone, Copy, Debug)]
struct Call {
    what: u8,
    a: u8,
    b: u8,
    c: u8,
    d: u8,
}

impl Call {
    fn id(number: u8) -> String {
        format!("id{number}")
    }

    /// Identifiers with and without the top bit.
    fn eui(number: u8) -> u64 {
        [1, 2, u64::MAX, 1 << 63][usize::from(number % 4)]
    }

    fn lease(self) -> Option<(u64, u32)> {
        (self.d > 0).then_some((Self::eui(self.c), u32::from(self.d)))
    }

    fn downlink(self) -> DownlinkRow {
        DownlinkRow {
            id: Self::id(self.a),
            dev_eui: Self::eui(self.b % 2),
            f_port: 1,
            payload: vec![7; usize::from(self.a)],
            priority: u32::from(self.c % 3),
            not_after_us: (self.d > 1).then_some(i64::from(self.d % 3)),
            idempotency_key: if even(self.d) { Self::id(self.c) } else { String::new() },
            state: [1, 10][usize::from(self.c % 2)],
            created_at_us: i64::from(self.b) * 3,
            ..DownlinkRow::default()
        }
    }

    fn update(self) -> DownlinkUpdate {
        DownlinkUpdate {
            id: Self::id(self.a),
            state: i32::from(self.b % 5) + 1,
            never_left: even(self.d),
            reason: Self::id(self.d),
            at_us: i64::from(self.c),
            finished: self.b % 5 == 4,
            announced: even(self.c),
            only_lease: self.lease(),
        }
    }

    fn bridge_device(self) -> BridgeDeviceRow {
        BridgeDeviceRow {
            dev_eui: Self::eui(self.a),
            join_eui: u64::from(self.d),
            application_id: Self::id(self.b % 3),
            profile_id: Self::id(self.c % 3),
            tags: [(Self::id(self.b), Self::id(self.c))].into(),
            disabled: even(self.d),
            provisioned: self.d > 2,
            created_at_us: i64::from(self.d),
            ..BridgeDeviceRow::default()
        }
    }

    fn app_session(self) -> AppSessionRow {
        let (dev_eui, started_at_us) = (Self::eui(self.b % 2), i64::from(self.c) * 2);
        AppSessionRow { session_id: Self::eui(self.a), dev_eui, sealed_key: vec![self.d], started_at_us }
    }

    fn profile(self) -> v1::Profile {
        v1::Profile { id: Self::id(self.a % 3), mac_version: i32::from(self.b % 2), ..v1::Profile::default() }
    }
}

fn even(number: u8) -> bool {
    number.is_multiple_of(2)
}

/// What a call answers; an error is an error, whatever the engine's words.
fn told<T: Debug>(answer: Result<T, StoreError>) -> String {
    answer.map_or_else(|_| "refused".into(), |answer| format!("{answer:?}"))
}

async fn write(store: &Store, call: Call) -> String {
    let Call { what, a, b, c, d } = call;
    let (bridge, join, network) = (store.bridge(), store.join(), store.network());
    let (id, eui, at_us) = (Call::id(a), Call::eui(a), i64::from(d));
    match what {
        0 => told(
            bridge.insert_application(ApplicationRow { id, created_at_us: at_us, name: Call::id(b) }).await,
        ),
        1 => told(bridge.delete_application(&id).await),
        2 => told(bridge.insert_profile(&call.profile()).await),
        3 => told(bridge.update_profile(&call.profile()).await),
        4 => told(bridge.delete_profile(&id).await),
        5 => {
            told(bridge.insert_devices(vec![call.bridge_device(), Call { a: c, ..call }.bridge_device()]).await)
        }
        6 => told(bridge.insert_device(call.bridge_device()).await),
        7 => told(bridge.update_device(call.bridge_device()).await),
        8 => told(bridge.delete_device(eui).await),
        9 => told(bridge.set_provisioned(vec![eui, Call::eui(b)]).await),
        10 => told(bridge.put_codec(&id, &Call::id(b), at_us).await),
        11 => told(bridge.delete_codec(&id).await),
        12 => told(bridge.put_api_key(ApiKeyRow { name: id, hash: [b; 32], created_at_us: at_us }).await),
        13 => told(bridge.delete_api_key(&id).await),
        14 => told(bridge.put_app_session(call.app_session()).await),
        15 => told(bridge.purge_app_sessions(i64::from(d) * 3).await),
        16 => told(bridge.acknowledge(&id, u64::from(b), at_us).await),
        17 => told(bridge.delete_consumer(&id).await),
        18 => {
            let changes = vec![Followed::AppSession(call.app_session()), Followed::Downlink(call.update())];
            told(bridge.follow(u64::from(a) + u64::from(b), changes).await)
        }
        19..=22 => told(bridge.insert_downlink(call.downlink()).await),
        23 => told(bridge.cancel_downlink(&id, at_us).await),
        24 | 25 => told(bridge.lease_downlink(&id, Call::eui(b), u32::from(c), at_us).await),
        26 | 27 => told(bridge.update_downlinks(vec![call.update(), Call { a: c, ..call }.update()]).await),
        28 => told(bridge.set_announced(vec![(id, i32::from(b)), (Call::id(c), 7)]).await),
        29 => told(bridge.purge_downlinks(at_us).await),
        30 => told(bridge.append_audit(AuditRow { at_us, actor: id, ..AuditRow::default() }).await),
        31 => told(bridge.purge_audit(at_us).await),
        32 | 33 => {
            let sealed = |number: u8| (number > 2).then(|| vec![number; 4]);
            let (sealed_app_key, sealed_nwk_key) = (sealed(b), sealed(c));
            let (join_eui, mac_version) = (u64::from(d % 2), i32::from(c));
            let device = JoinDeviceRow { dev_eui: eui, join_eui, mac_version, sealed_app_key, sealed_nwk_key };
            let other = JoinDeviceRow { dev_eui: Call::eui(b), ..device.clone() };
            told(join.put_devices(vec![device, other]).await)
        }
        34 => told(join.delete_device(eui).await),
        35..=38 => {
            let rule = if even(what) { NonceRule::UnusedEver } else { NonceRule::StrictlyRising };
            let join_commit = JoinCommit {
                dev_eui: eui,
                join_eui: u64::from(b % 2),
                dev_nonce: u16::from(c),
                rule,
                join_nonce: u32::from(d),
                request_hash: [c; 32],
                answer: vec![d],
            };
            told(join.commit_join(join_commit).await)
        }
        39 => told(network.put_profile(&call.profile()).await),
        40 => told(network.delete_profile(&id).await),
        41 => {
            let device = |dev_eui| NetworkDeviceRow {
                dev_eui,
                join_eui: u64::from(c),
                profile_id: Call::id(d),
                disabled: even(c),
                allow_fcnt_reset: even(d),
            };
            told(network.put_devices(vec![device(eui), device(Call::eui(b))]).await)
        }
        42 => told(network.delete_device(eui).await),
        43 => {
            let gateway = v1::Gateway { name: Call::id(b), ..v1::Gateway::default() };
            told(network.put_gateway(eui, &gateway).await)
        }
        _ => told(network.delete_gateway(eui).await),
    }
}

/// Everything the tables answer.
async fn read(store: &Store, call: Call) -> Vec<String> {
    let (bridge, join, network) = (store.bridge(), store.join(), store.network());
    let Call { a, b, c, d, .. } = call;
    let (id, eui, limit) = (Call::id(a), Call::eui(a), u32::from(d));
    let mut network_devices = Vec::new();
    let loaded = network.load_devices(|row| network_devices.push(row)).await;
    let mut by_eui = bridge.devices_by_eui(vec![1, 2, 3, u64::MAX]).await.unwrap();
    by_eui.sort_by_key(|row| row.dev_eui);
    let mut by_id = bridge.app_sessions_by_id(vec![1, 2, 3, u64::MAX]).await.unwrap();
    by_id.sort_by_key(|row| row.session_id);
    vec![
        format!("{by_eui:?} {by_id:?} {network_devices:?}"),
        told(loaded),
        told(bridge.application(&id).await),
        told(bridge.applications(&id, limit).await),
        told(bridge.application_device_count(&id).await),
        told(bridge.profile(&id).await),
        told(bridge.profiles("", limit).await),
        told(bridge.device(eui).await),
        told(bridge.devices(None, (a > 1).then_some(eui), limit).await),
        told(bridge.devices(Some(&Call::id(b % 3)), None, 9).await),
        told(bridge.unprovisioned_devices(limit).await),
        told(bridge.device_count().await),
        told(bridge.codec(&id).await),
        told(bridge.codecs().await),
        told(bridge.api_keys().await),
        told(bridge.api_key_by_hash(&[b; 32]).await),
        told(bridge.app_session(eui).await),
        told(bridge.app_sessions(Call::eui(b % 2), limit).await),
        told(bridge.consumer(&id).await),
        told(bridge.consumers().await),
        told(bridge.follow_seq().await),
        told(bridge.downlink(&id).await),
        told(bridge.downlinks(Call::eui(b % 2), even(c), u64::from(a), limit).await),
        told(bridge.open_downlink_count(Call::eui(b % 2)).await),
        told(bridge.next_downlinks(Call::eui(b % 2), limit).await),
        told(bridge.downlink_by_lease(Call::eui(a % 2), Call::eui(b), u32::from(c)).await),
        told(bridge.pending_downlinks().await),
        told(bridge.pending_downlinks_of(Call::eui(b % 2)).await),
        told(bridge.downlinks_in_flight(u64::from(a), limit).await),
        told(bridge.downlinks_past_deadline(i64::from(c), limit).await),
        told(bridge.next_deadline_us().await),
        told(bridge.unannounced_downlinks(limit).await),
        told(bridge.audit(if a > 2 { i64::MAX } else { i64::from(b) }, limit).await),
        told(join.device(eui).await),
        told(join.last_answer(eui).await),
        told(network.load_profiles().await),
        told(network.load_gateways().await),
    ]
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call =
        (0_u8..45, 0_u8..5, 0_u8..5, 0_u8..5, 0_u8..6).prop_map(|(what, a, b, c, d)| Call { what, a, b, c, d });
    proptest::collection::vec(call, 1..80)
}

/// What the journal is asked to hold, in batches of times.
fn batches() -> impl Strategy<Value = Vec<Vec<i64>>> {
    proptest::collection::vec(proptest::collection::vec(0_i64..40, 1..4), 1..40)
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn tables_answer_alike(calls in calls()) {
        // The audit trail bears the time.
        let _simulated = seam::simulate(1, || 1_000);
        block_on(async {
            let stores = [in_memory().await, Place::memory().open().await];
            for (n, call) in (1..).zip(&calls) {
                let call = *call;
                let answers = [write(&stores[0], call).await, write(&stores[1], call).await];
                assert_eq!(answers[0], answers[1], "{call:?}");
                if n % 8 == 0 || n == calls.len() {
                    assert_eq!(read(&stores[0], call).await, read(&stores[1], call).await, "after {call:?}");
                }
            }
        });
    }

    #[test]
    fn the_log_answers_alike(batches in batches(), keep_bytes in 0_u64..2000, keep_us in 0_i64..40) {
        block_on(async {
            let options = StoreOptions { tail_bytes: 0, group_max_delay_ms: 0, ..StoreOptions::default() };
            let sqlite = Store::open(crate::Location::Memory, options.clone()).await.unwrap();
            let memory = Place::memory().open_with(options).await;
            for (n, batch) in (0..).zip(&batches) {
                let records: Vec<Record> =
                    batch.iter().map(|at_us| Record { at_us: *at_us, ..uplink(1, n) }).collect();
                let first = sqlite.journal().commit(records.clone(), vec![]).await.unwrap();
                assert_eq!(memory.journal().commit(records, vec![]).await.unwrap(), first);
            }
            let by_size = StoreOptions {
                retention_max_bytes: keep_bytes,
                retention_max_age_s: u64::MAX,
                ..StoreOptions::default()
            };
            let mut told = [vec![], vec![]];
            for (store, told) in [&sqlite, &memory].into_iter().zip(&mut told) {
                tell_log(store, told).await;
                told.push(format!("{}", apply_retention(store, &by_size).await));
                tell_log(store, told).await;
                let by_age = StoreOptions { retention_max_age_s: 0, ..StoreOptions::default() };
                told.push(format!("{:?}", crate::retention::pass(store.db(), &by_age, keep_us).await.unwrap()));
                tell_log(store, told).await;
            }
            assert_eq!(told[0], told[1]);
        });
    }
}

async fn tell_log(store: &Store, told: &mut Vec<String>) {
    let log = store.log();
    told.push(format!("{} {} {}", log.head(), log.earliest(), store.metrics().journal_bytes));
    for at_us in (-1..41).step_by(3) {
        told.push(format!("{}", log.seq_at_time(at_us).await.unwrap()));
    }
    for after in [0, 1, 5, 20, log.head()] {
        told.push(format!("{:?}", log.read(after, 7).await.unwrap()));
    }
}
