#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aes_kw::{KeyInit, KwAes128};
use futures_util::future::join_all;
use mac::crypto;
use mac::drop_reason::DropReason;
use mac::ids::{DevEui, DevNonce, JoinEui, JoinNonce, NetId};
use mac::join_frame::{AcceptMic, JoinAccept, JoinReqType, JoinRequest};
use mac::keys::{AppKey, NetworkKeys, NwkKey};
use mac::version::MacVersion;
use proto::internal as pb;
use proto::link::RoleToken;
use proto::port::{JoinPort, PortError};
use store::{JoinCommit, JoinCommitted, JoinDeviceRow, Location, NonceRule, Sealer, Store, StoreOptions};
use tokio_stream::wrappers::TcpListenerStream;

use super::*;

mod nonces;

const DEV_EUI: DevEui = DevEui::new(0x70b3_d57e_d005_1122);
const JOIN_EUI: JoinEui = JoinEui::new(0x0004_a30b_001a_2b3c);
const APP_KEY: [u8; 16] = 0x9b1f_02c4_77d0_5e36_a1e8_4c5d_b3f0_6a92_u128.to_be_bytes();
const NWK_KEY: [u8; 16] = 0x5dd0_8e17_c2a9_4bf6_0d3e_71b8_e94c_22f7_u128.to_be_bytes();
const TRANSPORT_KEK: [u8; 16] = *b"transport kek 01";
const OPT_NEG: u32 = 0x80;

struct World {
    store: Store,
    server: JoinServer,
}

impl World {
    async fn new() -> Self {
        Self::at(Location::Memory).await
    }

    async fn at(location: Location) -> Self {
        let store = Store::open(location, StoreOptions::default()).await.unwrap();
        let server = server_of(&store, store.sealer());
        Self { store, server }
    }

    async fn with_device(version: MacVersion) -> Self {
        let world = Self::new().await;
        world.server.put_join_device(device(version)).await.unwrap();
        world
    }

    async fn join(&self, request: pb::JoinRequest) -> Result<pb::JoinAnswer, pb::JoinRefused> {
        match self.server.join(request).await.unwrap().result.unwrap() {
            pb::join_response::Result::Answer(answer) => Ok(answer),
            pb::join_response::Result::Refused(refused) => Err(refused),
        }
    }

    async fn nonces_used(&self) -> u32 {
        self.server.join_keys_status(DEV_EUI.value()).await.unwrap().unwrap().dev_nonces_used
    }
}

fn server_of(store: &Store, sealer: Sealer) -> JoinServer {
    let drawn = AtomicU64::new(100);
    let random: Random = Box::new(move |bytes| {
        bytes.copy_from_slice(&drawn.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    });
    JoinServer::new(store.join(), sealer, TRANSPORT_KEK, "farm".to_owned(), random)
}

fn device(version: MacVersion) -> pb::PutJoinDeviceRequest {
    pb::PutJoinDeviceRequest {
        dev_eui: DEV_EUI.value(),
        join_eui: JOIN_EUI.value(),
        mac_version: version.number(),
        app_key: APP_KEY.to_vec(),
        nwk_key: if version.is_1_1() { NWK_KEY.to_vec() } else { Vec::new() },
    }
}

/// A Join-Request with what the network server adds.
fn asked(dev_nonce: u16, root_key: &[u8; 16]) -> pb::JoinRequest {
    asked_of(JOIN_EUI, DEV_EUI, dev_nonce, root_key)
}

fn asked_of(join_eui: JoinEui, dev_eui: DevEui, dev_nonce: u16, root_key: &[u8; 16]) -> pb::JoinRequest {
    pb::JoinRequest {
        phy_payload: JoinRequest::seal(join_eui, dev_eui, DevNonce::new(dev_nonce), root_key),
        dev_addr: 0x2600_0000 + u32::from(dev_nonce),
        net_id: 0x13,
        mac_version: 0,
        dl_settings: 0x23,
        rx_delay_s: 5,
        cf_list: Vec::new(),
    }
}

fn join_nonce_of(answer: &pb::JoinAnswer, root_key: &[u8; 16]) -> u32 {
    JoinAccept::open(&answer.phy_payload, root_key).unwrap().accept.join_nonce.value()
}

fn unwrap_app_s_key(answer: &pb::JoinAnswer) -> [u8; 16] {
    let mut key = [0; 16];
    KwAes128::new(&TRANSPORT_KEK.into()).unwrap_key(&answer.wrapped_app_s_key, &mut key).unwrap();
    key
}

fn network_keys(answer: &pb::JoinAnswer) -> [&[u8]; 3] {
    [&answer.f_nwk_s_int_key, &answer.s_nwk_s_int_key, &answer.nwk_s_enc_key]
}

fn exposed(keys: &NetworkKeys) -> [&[u8]; 3] {
    [keys.f_nwk_s_int.expose(), keys.s_nwk_s_int.expose(), keys.nwk_s_enc.expose()]
}

/// JOIN-008. Vectors `join-request-chirpstack`, `example-join-accept`, `example-session-keys`.
#[tokio::test]
async fn the_first_join_of_a_known_example_gives_its_frame_and_keys() {
    let world = World::new().await;
    let key: [u8; 16] = hex::decode("0102030405060708090a0b0c0d0e0f10").unwrap().try_into().unwrap();
    // Past the port, which refuses this published key.
    let row = JoinDeviceRow {
        dev_eui: 0x0202_0202_0202_0202,
        join_eui: 0x0101_0101_0101_0101,
        mac_version: MacVersion::V1_0_3.number(),
        sealed_app_key: Some(world.store.sealer().seal("root-app-key", 0x0202_0202_0202_0202, &key)),
        sealed_nwk_key: None,
    };
    world.store.join().put_device(row).await.unwrap();

    let answer = world
        .join(pb::JoinRequest {
            phy_payload: hex::decode("0001010101010101010202020202020202030309b97b32").unwrap(),
            dev_addr: 0x2600_0001,
            net_id: 0x13,
            rx_delay_s: 1,
            cf_list: hex::decode("184f84e85684b85e84886684586e8400").unwrap(),
            ..pb::JoinRequest::default()
        })
        .await
        .unwrap();

    let accept = "20cca2b1002ad348f330d883ad9d836911c3c6c9f6e9393ee918cb2eefd48e855d";
    assert_eq!(hex::encode(&answer.phy_payload), accept);
    assert_eq!(network_keys(&answer).map(hex::encode), ["02ac803f89076e858d9d74630319d366"; 3]);
    assert_eq!(hex::encode(unwrap_app_s_key(&answer)), "d8edc4748db779ca747fc9ce403996c8");
    assert_eq!((answer.dev_addr, answer.rx_delay_s, answer.cf_list.len()), (0x2600_0001, 1, 16));
    assert_eq!((answer.kek_label.as_str(), answer.session_id, answer.repeated_answer), ("farm", 100, false));
}

/// JOIN-008, JOIN-010
#[tokio::test]
async fn a_1_0_device_reads_what_the_network_server_asked_for() {
    let world = World::with_device(MacVersion::V1_0_4).await;
    let answer = world.join(asked(7, &APP_KEY)).await.unwrap();

    assert_eq!(answer.phy_payload.len(), 17);
    let opened = JoinAccept::open(&answer.phy_payload, &APP_KEY).unwrap();
    assert!(opened.verify(&AcceptMic::Plain(&APP_KEY)));
    assert_eq!(opened.accept.net_id, NetId::new(0x13));
    assert_eq!(opened.accept.dev_addr.value(), answer.dev_addr);
    assert_eq!(opened.accept.dl_settings.to_byte(), 0x23);
    assert_eq!(opened.accept.rx_delay_s, 5);
    assert!(!opened.accept.dl_settings.opt_neg);
    let (keys, app_s_key) =
        crypto::derive_10(&APP_KEY, opened.accept.join_nonce, opened.accept.net_id, DevNonce::new(7));
    assert_eq!(network_keys(&answer), exposed(&keys));
    assert_eq!(unwrap_app_s_key(&answer), *app_s_key.expose());
    assert_eq!(answer.wrapped_app_s_key.len(), 24);
    assert!(!answer.wrapped_app_s_key.windows(16).any(|window| window == app_s_key.expose()));
}

/// JOIN-010, CRYPTO-018, CRYPTO-019
#[tokio::test]
async fn a_1_1_device_served_as_1_1_gets_the_keys_of_1_1() {
    let world = World::with_device(MacVersion::V1_1_0).await;
    let mut request = asked(7, &NWK_KEY);
    request.dl_settings |= OPT_NEG;
    let answer = world.join(request).await.unwrap();

    let (nwk_key, app_key) = (NwkKey::new(NWK_KEY), AppKey::new(APP_KEY));
    let opened = JoinAccept::open(&answer.phy_payload, &NWK_KEY).unwrap();
    let js_int_key = crypto::js_int_key(&nwk_key, DEV_EUI);
    let mic = |request, dev_nonce| AcceptMic::OptNeg {
        key: &js_int_key,
        request,
        join_eui: JOIN_EUI,
        dev_nonce: DevNonce::new(dev_nonce),
    };
    assert!(opened.verify(&mic(JoinReqType::Join, 7)));
    assert!(!opened.verify(&mic(JoinReqType::Rejoin0, 7)));
    assert!(!opened.verify(&mic(JoinReqType::Join, 8)));
    assert!(opened.accept.dl_settings.opt_neg);
    let (keys, app_s_key) =
        crypto::derive_11(&nwk_key, &app_key, opened.accept.join_nonce, JOIN_EUI, DevNonce::new(7));
    assert_eq!(network_keys(&answer), exposed(&keys));
    assert_eq!(unwrap_app_s_key(&answer), *app_s_key.expose());
}

/// JOIN-010
#[tokio::test]
async fn a_1_1_device_served_as_1_0_gets_everything_from_its_nwk_key() {
    let world = World::with_device(MacVersion::V1_1_0).await;
    let answer = world.join(asked(7, &NWK_KEY)).await.unwrap();

    let opened = JoinAccept::open(&answer.phy_payload, &NWK_KEY).unwrap();
    assert!(opened.verify(&AcceptMic::Plain(&NWK_KEY)));
    let (keys, app_s_key) =
        crypto::derive_10(&NWK_KEY, opened.accept.join_nonce, NetId::new(0x13), DevNonce::new(7));
    assert_eq!(network_keys(&answer), exposed(&keys));
    assert_eq!(unwrap_app_s_key(&answer), *app_s_key.expose());
}

/// JOIN-010
#[tokio::test]
async fn a_1_0_device_is_never_told_of_1_1() {
    let world = World::with_device(MacVersion::V1_0_3).await;
    let mut request = asked(7, &APP_KEY);
    request.dl_settings |= OPT_NEG;
    assert!(matches!(world.server.join(request).await, Err(PortError::FailedPrecondition(_))));
    assert_eq!(world.nonces_used().await, 0);
}

/// JOIN-001
#[tokio::test]
async fn from_1_0_4_on_dev_nonces_rise() {
    for (version, key) in [(MacVersion::V1_0_4, APP_KEY), (MacVersion::V1_1_0, NWK_KEY)] {
        let world = World::with_device(version).await;
        let mut fresh = Vec::new();
        for dev_nonce in [0, 1, 0, 5, 4, 65535, 0] {
            match world.join(asked(dev_nonce, &key)).await {
                Ok(answer) => fresh.push((dev_nonce, join_nonce_of(&answer, &key))),
                Err(refused) => {
                    assert_eq!(refused.code, DropReason::DevNonceNotRising.code());
                    assert!(refused.message.contains(&format!("DevNonce {dev_nonce} ")), "{}", refused.message);
                }
            }
        }
        assert_eq!(fresh, [(0, 1), (1, 2), (5, 3), (65535, 4)]);
    }
}

/// JOIN-002, JOIN-014
#[tokio::test]
async fn up_to_1_0_3_every_dev_nonce_counts_once_in_any_order() {
    let world = World::with_device(MacVersion::V1_0_2).await;
    // Every value of a permutation of 0..=65535 that runs far up and down.
    let drawn: Vec<u16> = (0..300_u16).map(|n| n.wrapping_mul(40_503).wrapping_add(12_345)).collect();
    for (count, dev_nonce) in drawn.iter().enumerate() {
        let answer = world.join(asked(*dev_nonce, &APP_KEY)).await.unwrap();
        assert_eq!(join_nonce_of(&answer, &APP_KEY), u32::try_from(count).unwrap() + 1);
    }

    let (last, older) = drawn.split_last().unwrap();
    for dev_nonce in older {
        let refused = world.join(asked(*dev_nonce, &APP_KEY)).await.unwrap_err();
        assert_eq!(refused.code, DropReason::DevNonceUsed.code());
    }
    assert!(world.join(asked(*last, &APP_KEY)).await.unwrap().repeated_answer);
    assert_eq!(world.nonces_used().await, 300);
}

/// JOIN-003, JOIN-021, BACKEND-034
#[tokio::test]
async fn the_same_request_gets_the_same_answer_until_the_device_joins_again() {
    let world = World::with_device(MacVersion::V1_0_3).await;
    let first = world.join(asked(7, &APP_KEY)).await.unwrap();

    // The network server has drawn another address meanwhile, and settings changed.
    let mut copy = asked(7, &APP_KEY);
    copy.dev_addr = 0x2700_0000;
    copy.rx_delay_s = 1;
    let again = world.join(copy).await.unwrap();
    assert_eq!(again, pb::JoinAnswer { repeated_answer: true, ..first.clone() });
    assert_eq!(world.nonces_used().await, 1);

    let second = world.join(asked(8, &APP_KEY)).await.unwrap();
    assert_ne!(second.session_id, first.session_id);
    assert_eq!(world.join(asked(7, &APP_KEY)).await.unwrap_err().code, "dev_nonce_used");
}

/// JOIN-021, BACKEND-034
#[tokio::test]
async fn copies_that_come_at_once_use_one_nonce() {
    let world = World::with_device(MacVersion::V1_0_4).await;
    let answers = join_all((0..8).map(|_| world.join(asked(7, &APP_KEY)))).await;

    let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.repeated_answer).count(), 1);
    assert!(answers.iter().all(|answer| answer.phy_payload == answers[0].phy_payload));
    assert!(answers.iter().all(|answer| answer.session_id == answers[0].session_id));
    assert_eq!(world.nonces_used().await, 1);
}

/// JOIN-005
#[tokio::test]
async fn joins_that_come_at_once_never_share_a_join_nonce() {
    let world = World::with_device(MacVersion::V1_0_3).await;
    let answers = join_all((0..40).map(|dev_nonce| world.join(asked(dev_nonce, &APP_KEY)))).await;

    let mut nonces: Vec<_> =
        answers.iter().map(|answer| join_nonce_of(answer.as_ref().unwrap(), &APP_KEY)).collect();
    nonces.sort_unstable();
    assert_eq!(nonces, (1..=40).collect::<Vec<_>>());
}

/// JOIN-005
#[tokio::test]
async fn two_servers_on_one_store_never_share_a_join_nonce() {
    let world = World::with_device(MacVersion::V1_0_3).await;
    let other = server_of(&world.store, world.store.sealer());
    let mut calls = Vec::new();
    for dev_nonce in 0..10 {
        calls.push(world.server.join(asked(dev_nonce, &APP_KEY)));
        calls.push(other.join(asked(1_000 + dev_nonce, &APP_KEY)));
    }
    let mut nonces = Vec::new();
    for response in join_all(calls).await {
        match response {
            Ok(pb::JoinResponse { result: Some(pb::join_response::Result::Answer(answer)) }) => {
                nonces.push(join_nonce_of(&answer, &APP_KEY));
            }
            // Beaten too often: the device asks again.
            other => assert!(matches!(other, Err(PortError::Unavailable(_))), "{other:?}"),
        }
    }
    let all = nonces.len();
    nonces.sort_unstable();
    nonces.dedup();
    assert!(nonces.len() == all && all >= 2, "{all} answers, {} JoinNonces", nonces.len());
}

/// JOIN-005
#[tokio::test]
async fn the_last_join_nonce_is_used_once_and_then_joins_are_refused() {
    let world = World::with_device(MacVersion::V1_0_3).await;
    let commit = JoinCommit {
        dev_eui: DEV_EUI.value(),
        join_eui: JOIN_EUI.value(),
        dev_nonce: 1,
        rule: NonceRule::UnusedEver,
        join_nonce: JoinNonce::MAX.value() - 1,
        request_hash: [0; 32],
        answer: Vec::new(),
    };
    assert_eq!(world.store.join().commit_join(commit).await.unwrap(), JoinCommitted::Committed);

    let last = world.join(asked(2, &APP_KEY)).await.unwrap();
    assert_eq!(join_nonce_of(&last, &APP_KEY), 0x00ff_ffff);
    assert!(world.join(asked(2, &APP_KEY)).await.unwrap().repeated_answer);
    let refused = world.join(asked(3, &APP_KEY)).await.unwrap_err();
    assert_eq!(refused.code, DropReason::JoinNonceExhausted.code());
    assert_eq!(world.nonces_used().await, 2);
}

/// JOIN-003, JOIN-005
#[tokio::test]
async fn after_a_crash_the_answer_is_the_same_and_no_nonce_comes_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut given = Vec::new();
    for round in 0..3_u16 {
        let world = reopened(directory.path()).await;
        if round == 0 {
            world.server.put_join_device(device(MacVersion::V1_0_4)).await.unwrap();
        } else {
            let repeated = world.join(asked(round - 1, &APP_KEY)).await.unwrap();
            let last: &pb::JoinAnswer = given.last().unwrap();
            assert_eq!(repeated, pb::JoinAnswer { repeated_answer: true, ..last.clone() });
        }
        given.push(world.join(asked(round, &APP_KEY)).await.unwrap());
        // Dropped, not closed.
    }
    let nonces: Vec<_> = given.iter().map(|answer| join_nonce_of(answer, &APP_KEY)).collect();
    assert_eq!(nonces, [1, 2, 3]);
}

/// JOIN-004, JOIN-020
#[tokio::test]
async fn a_request_with_a_wrong_mic_learns_and_changes_nothing() {
    let world = World::with_device(MacVersion::V1_0_4).await;
    world.join(asked(10, &APP_KEY)).await.unwrap();
    let before = world.server.join_keys_status(DEV_EUI.value()).await.unwrap();

    let mut refusals = Vec::new();
    // Fresh, last and long used nonces look alike to whoever does not have the key.
    for dev_nonce in [11, 10, 3, 65535] {
        refusals.push(world.join(asked(dev_nonce, &[0x5a; 16])).await.unwrap_err());
    }

    assert!(refusals.iter().all(|refused| *refused == refusals[0]), "{refusals:?}");
    assert_eq!(refusals[0].code, DropReason::JoinMicMismatch.code());
    assert_eq!(world.server.join_keys_status(DEV_EUI.value()).await.unwrap(), before);
}

/// JOIN-007, PARSE-011
#[tokio::test]
async fn what_is_not_a_join_request_is_malformed() {
    let world = World::with_device(MacVersion::V1_0_4).await;
    let good = asked(1, &APP_KEY);
    for len in 0..good.phy_payload.len() {
        let request = pb::JoinRequest { phy_payload: good.phy_payload[..len].to_vec(), ..good.clone() };
        assert_eq!(world.join(request).await.unwrap_err().code, DropReason::Malformed.code());
    }
    let mut long = good.clone();
    long.phy_payload.push(0);
    assert_eq!(world.join(long).await.unwrap_err().code, "malformed");
    for terms in [
        pb::JoinRequest { net_id: 0x0100_0000, ..good.clone() },
        pb::JoinRequest { dl_settings: 256, ..good.clone() },
        pb::JoinRequest { rx_delay_s: 16, ..good.clone() },
        pb::JoinRequest { cf_list: vec![0; 15], ..good },
    ] {
        assert!(matches!(world.server.join(terms).await, Err(PortError::InvalidArgument(_))));
    }
    assert_eq!(world.nonces_used().await, 0);
}

/// JOIN-007, JOIN-020
#[tokio::test]
async fn mixed_up_euis_are_noticed() {
    let world = World::with_device(MacVersion::V1_0_4).await;
    let reversed = |value: u64| value.swap_bytes();
    let (dev_eui, join_eui) = (DEV_EUI.value(), JOIN_EUI.value());
    for (asked_join_eui, asked_dev_eui, code, words) in [
        (join_eui, reversed(dev_eui), "device_unknown", "other byte order"),
        (reversed(join_eui), reversed(dev_eui), "device_unknown", "other byte order"),
        (dev_eui, join_eui, "device_unknown", "swapped"),
        (reversed(dev_eui), reversed(join_eui), "device_unknown", "swapped"),
        (reversed(join_eui), dev_eui, "join_eui_mismatch", "other byte order"),
        (1, dev_eui, "join_eui_mismatch", "Compare both"),
        (join_eui, 1, "device_unknown", "loam events drops"),
    ] {
        let (join_eui, dev_eui) = (JoinEui::new(asked_join_eui), DevEui::new(asked_dev_eui));
        let refused = world.join(asked_of(join_eui, dev_eui, 1, &APP_KEY)).await.unwrap_err();
        assert_eq!(refused.code, code);
        assert!(refused.hint.contains(words), "{join_eui} {dev_eui}: {}", refused.hint);
        assert!(refused.message.contains(&dev_eui.to_string()), "{}", refused.message);
    }
    assert_eq!(world.nonces_used().await, 0);
}

/// JOIN-020
#[tokio::test]
async fn a_flood_of_unknown_devices_is_not_looked_into() {
    let world = World::with_device(MacVersion::V1_0_4).await;
    let mut explained = 0;
    for _ in 0..100 {
        let reversed = DevEui::new(DEV_EUI.value().swap_bytes());
        let refused = world.join(asked_of(JOIN_EUI, reversed, 1, &APP_KEY)).await.unwrap_err();
        explained += u32::from(refused.hint.contains("it was entered in the other byte order"));
    }
    // The seconds may have changed a few times on a slow machine.
    assert!((1..100).contains(&explained), "{explained}");
}

/// JOIN-007, CRYPTO-011
#[tokio::test]
async fn a_key_entered_the_wrong_way_round_is_noticed() {
    let world = World::with_device(MacVersion::V1_1_0).await;
    let mut reversed = NWK_KEY;
    reversed.reverse();
    for (key, words) in
        [(reversed, "the key matches"), (APP_KEY, "was made with the AppKey"), ([0x77; 16], "keys set")]
    {
        let refused = world.join(asked(1, &key)).await.unwrap_err();
        assert_eq!(refused.code, "join_mic_mismatch");
        assert!(refused.hint.contains(words), "{}", refused.hint);
        assert!(refused.message.contains("NwkKey"));
    }
}

#[tokio::test]
async fn a_missing_or_unreadable_key_is_named() {
    let world = World::new().await;
    let without = pb::PutJoinDeviceRequest { app_key: Vec::new(), ..device(MacVersion::V1_0_4) };
    world.server.put_join_device(without).await.unwrap();
    let refused = world.join(asked(1, &APP_KEY)).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.message.contains("no AppKey")), ("no_root_key", true));

    world.server.put_join_device(device(MacVersion::V1_1_0)).await.unwrap();
    let other = server_of(&world.store, Sealer::new(&[9; 32]));
    let response = other.join(asked(1, &NWK_KEY)).await.unwrap();
    let Some(pb::join_response::Result::Refused(refused)) = response.result else {
        panic!("answered");
    };
    assert_eq!((refused.code.as_str(), refused.message.contains("NwkKey")), ("key_unreadable", true));
    assert_eq!(world.nonces_used().await, 0);
}

/// API-005
#[tokio::test]
async fn keys_that_are_no_secret_are_refused_and_nothing_is_written() {
    let world = World::new().await;
    let published = hex::decode("2b7e151628aed2a6abf7158809cf4f3c").unwrap();
    for (app_key, words) in [
        (vec![0; 16], "all zeros"),
        (published, "printed in specifications"),
        (vec![7; 16], "repeats one pattern"),
        (vec![1; 15], "15 bytes"),
        (vec![1; 17], "17 bytes"),
    ] {
        let request = pb::PutJoinDeviceRequest { app_key: app_key.clone(), ..device(MacVersion::V1_0_4) };
        let Err(PortError::InvalidArgument(message)) = world.server.put_join_device(request).await else {
            panic!("took {words}");
        };
        assert!(message.starts_with("the AppKey ") && message.contains(words), "{message}");
        assert!(!message.contains(&hex::encode(&app_key)));
    }
    for request in [
        pb::PutJoinDeviceRequest { dev_eui: 0, ..device(MacVersion::V1_0_4) },
        pb::PutJoinDeviceRequest { mac_version: 0, ..device(MacVersion::V1_0_4) },
        pb::PutJoinDeviceRequest { mac_version: 99, ..device(MacVersion::V1_0_4) },
    ] {
        assert!(matches!(world.server.put_join_device(request).await, Err(PortError::InvalidArgument(_))));
    }
    assert_eq!(world.server.join_keys_status(DEV_EUI.value()).await.unwrap(), None);
}

#[tokio::test]
async fn a_device_is_changed_without_its_keys_and_forgotten_with_them() {
    let world = World::with_device(MacVersion::V1_0_3).await;
    world.join(asked(9, &APP_KEY)).await.unwrap();
    let newer = pb::PutJoinDeviceRequest { app_key: Vec::new(), ..device(MacVersion::V1_0_4) };
    world.server.put_join_device(newer.clone()).await.unwrap();
    world.server.put_join_device(newer).await.unwrap();
    world.join(asked(10, &APP_KEY)).await.unwrap();

    let status = world.server.join_keys_status(DEV_EUI.value()).await.unwrap().unwrap();
    assert!(status.has_app_key && !status.has_nwk_key);
    assert_eq!((status.dev_nonces_used, status.last_dev_nonce, status.join_nonce), (2, Some(10), 2));

    world.server.delete_join_device(DEV_EUI.value()).await.unwrap();
    world.server.delete_join_device(DEV_EUI.value()).await.unwrap();
    assert_eq!(world.server.join_keys_status(DEV_EUI.value()).await.unwrap(), None);
    assert_eq!(world.join(asked(11, &APP_KEY)).await.unwrap_err().code, "device_unknown");

    // The same device again, perhaps with the same keys: its JoinNonces go on.
    world.server.put_join_device(device(MacVersion::V1_0_4)).await.unwrap();
    assert_eq!(join_nonce_of(&world.join(asked(11, &APP_KEY)).await.unwrap(), &APP_KEY), 3);
}

/// Root keys and the keys of the last answer alike.
#[tokio::test]
async fn no_key_is_on_disk_in_the_clear() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::at(Location::Directory(directory.path().to_owned())).await;
    world.server.put_join_device(device(MacVersion::V1_1_0)).await.unwrap();
    let mut request = asked(1, &NWK_KEY);
    request.dl_settings |= OPT_NEG;
    let answer = world.join(request).await.unwrap();
    world.store.close().await.unwrap();

    let mut secrets = network_keys(&answer).map(<[u8]>::to_vec).to_vec();
    secrets.extend([APP_KEY.to_vec(), NWK_KEY.to_vec(), unwrap_app_s_key(&answer).to_vec()]);
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for secret in &secrets {
            assert!(!bytes.windows(16).any(|window| window == secret.as_slice()), "{}", path.display());
            let printed = hex::encode(secret);
            assert!(!bytes.windows(32).any(|window| window == printed.as_bytes()), "{}", path.display());
        }
    }
}

#[test]
fn refusals_have_the_codes_and_hints_of_the_drop_reasons() {
    let (dev_eui, join_eui, got) = (DEV_EUI, JOIN_EUI, DevNonce::new(1));
    for refusal in [
        JoinRefusal::DevNonceNotRising { dev_eui, last: got, got },
        JoinRefusal::DevNonceUsed { dev_eui, got },
        JoinRefusal::DeviceUnknown { dev_eui, join_eui, likeness: None },
        JoinRefusal::JoinEuiMismatch { dev_eui, join_eui, registered: join_eui, likeness: None },
        JoinRefusal::JoinMicMismatch { dev_eui, key_name: "AppKey", likeness: None },
        JoinRefusal::JoinNonceExhausted { dev_eui },
        JoinRefusal::KeyUnreadable { dev_eui, key_name: "AppKey" },
        JoinRefusal::Malformed,
        JoinRefusal::NoRootKey { dev_eui, key_name: "AppKey" },
    ] {
        let reason: DropReason = refusal.code().parse().unwrap();
        assert_eq!((reason, reason.hint()), (refusal.reason(), refusal.hint()));
    }
}

#[tokio::test]
async fn the_port_is_the_same_over_grpc() {
    let world = World::new().await;
    let served: Arc<dyn JoinPort> = Arc::new(world.server);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let token = RoleToken::parse("one-token-for-all-roles").unwrap();
    let guard = token.clone().guard();
    let service = tonic::service::interceptor::InterceptedService::new(grpc_service(served), guard);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let remote = RemoteJoin::new(token.channel(channel.clone()));

    remote.put_join_device(device(MacVersion::V1_0_3)).await.unwrap();
    let response = remote.join(asked(1, &APP_KEY)).await.unwrap();
    assert!(matches!(response.result, Some(pb::join_response::Result::Answer(_))));
    assert_eq!(remote.join_keys_status(DEV_EUI.value()).await.unwrap().unwrap().join_nonce, 1);
    assert_eq!(remote.join_keys_status(1).await.unwrap(), None);
    remote.delete_join_device(DEV_EUI.value()).await.unwrap();
    let response = remote.join(asked(2, &APP_KEY)).await.unwrap();
    assert!(matches!(response.result, Some(pb::join_response::Result::Refused(_))));
    let bad = pb::PutJoinDeviceRequest { app_key: vec![0; 16], ..device(MacVersion::V1_0_3) };
    assert!(matches!(remote.put_join_device(bad).await, Err(PortError::InvalidArgument(_))));

    let stranger = RemoteJoin::new(RoleToken::parse("another-token-of-16").unwrap().channel(channel));
    assert!(stranger.join_keys_status(DEV_EUI.value()).await.is_err());
}

/// Opens a directory whose last owner may still be letting go of it.
async fn reopened(directory: &Path) -> World {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Store::open(Location::Directory(directory.to_owned()), StoreOptions::default()).await {
            Ok(store) => {
                let server = server_of(&store, store.sealer());
                return World { store, server };
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}
