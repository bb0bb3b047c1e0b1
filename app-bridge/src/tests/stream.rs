//! The stream integrators get.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::internal::{self as pb, record};
use proto::v1;
use proto::v1::watch_request::Start;
use proto::v1::watch_response::Item;
use tokio::sync::watch;
use tonic::Code;

use super::world::{APP_S_KEY, DEV_EUI, PATIENCE, SESSION, World, config, from_earliest, until, uplink};
use crate::Config;
use crate::keys::tests::wrap;

const CODEC: &str = "function decodeUplink(input) {
    if (input.bytes[0] === 255) { throw new Error('not mine'); }
    return { data: { moisture: input.bytes[0] / 10, port: input.fPort } };
}";

async fn world() -> World {
    let world = World::new().await;
    let codec = v1::SetCodecRequest { id: "moisture".to_owned(), script: CODEC.to_owned() };
    world.codecs().set_codec(codec).await.unwrap();
    world.with_application("moisture").await.with_joined_device().await
}

/// AS-003.
#[tokio::test]
async fn an_uplink_comes_out_decrypted_and_decoded_and_names_its_device() {
    let world = world().await;
    world.uplink(&[215]);

    let mut stream = world.watch(from_earliest()).await;
    let first = stream.message().await;
    assert!(
        matches!(first.item, Some(Item::Heartbeat(_))),
        "the first message comes at once and carries no event"
    );
    let (join, _) = stream.event().await;
    assert!(matches!(join.kind, Some(v1::event::Kind::Join(_))), "{join:?}");
    let (event, _) = stream.event().await;
    assert_eq!(event.application_id, "soil");
    assert_eq!(event.dev_eui, format!("{DEV_EUI:016x}"));
    assert_eq!(event.tags["field"], "north");
    assert_eq!(event.id, format!("{SESSION:016x}-00000000-up"));
    let Some(v1::event::Kind::Uplink(uplink)) = event.kind else { panic!("{:?}", event.kind) };
    assert_eq!(uplink.payload, [215]);
    assert_eq!(uplink.object_json, r#"{"moisture":21.5,"port":2}"#);
    assert_eq!((uplink.raw_reason.as_str(), uplink.encrypted_payload.len()), ("", 0));
    assert_eq!(uplink.receptions[0].gateway_eui, "0000000000000016");

    // What is accepted later follows on the same stream.
    world.uplink(&[10]);
    assert_eq!(stream.uplink().await.fcnt_up, 1);
}

/// AS-004: a second reading, from memory or from pages, names events alike.
#[tokio::test]
async fn every_reading_gives_an_event_the_same_id() {
    let world = world().await;
    for _ in 0..20 {
        world.uplink(&[1]);
    }
    let mut live = world.watch(from_earliest()).await;
    let mut again = world.watch(from_earliest()).await;
    let mut ids = BTreeSet::new();
    for _ in 0..21 {
        let (first, cursor) = live.event().await;
        let (second, other) = again.event().await;
        assert_eq!((&first.id, cursor), (&second.id, other));
        ids.insert(first.id);
    }
    assert_eq!(ids.len(), 21);
}

/// AS-003, AS-005: watchers that come, lag and go see each event once and in order, at the seam between pages and head too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_skipped_or_doubled_where_a_watcher_reaches_the_head_or_falls_behind_it() {
    // A ring that holds a few events only, so that watchers fall out of it again and again.
    let world = std::sync::Arc::new(World::with(Config { head_ring_bytes: 4_000, ..config() }).await);
    let total = 3_000_u32;
    world.network.log_record(join(1));
    let mut readers = Vec::new();
    let (written, _) = watch::channel(0_u32);
    let (read, mut seen) = watch::channel([0_u32; 6]);
    for reader in 0..6_u32 {
        let world = world.clone();
        let (mut written, read) = (written.subscribe(), read.clone());
        readers.push(tokio::spawn(async move {
            let mut stream = world.watch(from_earliest()).await;
            for expected in 0..total {
                let uplink = stream.uplink().await;
                assert_eq!(uplink.fcnt_up, expected, "reader {reader}");
                assert_eq!(uplink.payload, expected.to_be_bytes(), "reader {reader}");
                read.send_modify(|read| read[reader as usize] = expected);
                if expected % 500 == 0 && reader % 2 == 1 {
                    // Falls behind by more than the ring holds.
                    let ahead = (expected + 100 * reader).min(total - 1);
                    written.wait_for(|written| *written >= ahead).await.unwrap();
                }
            }
        }));
    }
    for fcnt in 0..total {
        world.network.log_record(uplink(DEV_EUI, SESSION, fcnt, &fcnt.to_be_bytes()));
        if fcnt % 7 == 0 {
            tokio::task::yield_now().await;
        }
        written.send_replace(fcnt);
        if fcnt % 400 == 0 {
            // Those that do not lag reach the head.
            let reached = seen.wait_for(|read| read.iter().step_by(2).all(|read| *read >= fcnt));
            tokio::time::timeout(PATIENCE, reached).await.expect("readers at the head").unwrap();
        }
    }
    for reader in readers {
        tokio::time::timeout(PATIENCE * 3, reader).await.expect("a reader that gets on").unwrap();
    }
    drop(world);
}

/// AS-005: who does not read holds a bounded part of its stream, and nobody else waits.
#[tokio::test]
async fn a_watcher_that_does_not_read_hurts_nobody_and_finds_everything_later() {
    let world = World::with(Config { head_ring_bytes: 10_000, ..config() }).await;
    world.network.log_record(join(1));
    let mut sleeper = world.watch(from_earliest()).await;
    let mut reader = world.watch(from_earliest()).await;
    let total = 5_000;
    for fcnt in 0..total {
        world.network.log_record(uplink(DEV_EUI, SESSION, fcnt, &[0; 50]));
    }
    for expected in 0..total {
        assert_eq!(reader.uplink().await.fcnt_up, expected);
    }
    for expected in 0..total {
        assert_eq!(sleeper.uplink().await.fcnt_up, expected);
    }
}

#[tokio::test]
async fn the_head_is_decoded_only_while_somebody_watches() {
    let world = world().await;
    assert_eq!(world.bridge.watchers_at_head(), 0);
    let mut stream = world.watch(from_earliest()).await;
    stream.event().await;
    until("the watcher is at the head", || async { world.bridge.watchers_at_head() == 1 }).await;
    drop(stream);
    until("nobody watches", || async { world.bridge.watchers_at_head() == 0 }).await;
}

#[tokio::test]
async fn a_consumer_goes_on_where_it_acknowledged() {
    let world = world().await;
    for value in 0..4 {
        world.uplink(&[value]);
    }
    let request = v1::WatchRequest { consumer: "crm".to_owned(), ..v1::WatchRequest::default() };
    let mut stream = world.watch(request.clone()).await;
    let mut cursors = Vec::new();
    for _ in 0..5 {
        cursors.push(stream.event().await.1);
    }
    drop(stream);

    // It has processed the join and two uplinks.
    acknowledge(&world, "crm", &cursors[2]).await.unwrap();
    // An older acknowledgement that comes late moves nothing back.
    acknowledge(&world, "crm", &cursors[0]).await.unwrap();
    let list = world.events().list_consumers(v1::ListConsumersRequest {}).await.unwrap().into_inner();
    assert_eq!((list.consumers[0].position, list.consumers[0].lag, list.head), (3, 2, 5));

    let world = world.restart().await;
    let mut stream = world.watch(request).await;
    assert_eq!(stream.message().await.cursor, cursors[2], "the first message tells the start");
    assert_eq!(stream.uplink().await.fcnt_up, 2);

    world.events().delete_consumer(v1::DeleteConsumerRequest { name: "crm".to_owned() }).await.unwrap();
    let status = world.events().delete_consumer(v1::DeleteConsumerRequest { name: "crm".to_owned() }).await;
    assert_eq!(status.unwrap_err().code(), Code::NotFound);
}

/// A stream that still runs must not bring back what an operator took away, at a position nobody wants.
#[tokio::test]
async fn a_consumer_that_was_deleted_is_not_made_again_by_its_stream() {
    let world = world().await;
    world.uplink(&[1]);
    let request = v1::WatchRequest { consumer: "crm".to_owned(), ..v1::WatchRequest::default() };
    let mut stream = world.watch(request.clone()).await;
    stream.event().await;
    let (_, cursor) = stream.event().await;
    world.events().delete_consumer(v1::DeleteConsumerRequest { name: "crm".to_owned() }).await.unwrap();
    assert_eq!(acknowledge(&world, "crm", &cursor).await.unwrap_err().code(), Code::NotFound);

    // Watching makes it anew, from the start.
    let mut stream = world.watch(request).await;
    assert_eq!(stream.uplink().await.payload, [1]);
    acknowledge(&world, "crm", &cursor).await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_starts_at_the_latest_event_resumes_from_there() {
    let world = world().await;
    world.uplink(&[1]);
    let latest = v1::WatchRequest {
        consumer: "late".to_owned(),
        start: Some(Start::Latest(true)),
        ..v1::WatchRequest::default()
    };
    let mut stream = world.watch(latest).await;
    stream.message().await;
    drop(stream);
    world.uplink(&[2]);
    let committed = v1::WatchRequest { consumer: "late".to_owned(), ..v1::WatchRequest::default() };
    assert_eq!(world.watch(committed).await.uplink().await.payload, [2]);
}

#[tokio::test]
async fn a_cursor_that_cannot_be_is_refused() {
    let world = world().await;
    let head = 1;
    for (cursor, code) in [
        (vec![], Code::InvalidArgument),
        (b"nonsense".to_vec(), Code::InvalidArgument),
        (vec![0xff; 12], Code::InvalidArgument),
        (crate::cursor::encode(head + 1).to_vec(), Code::OutOfRange),
    ] {
        let request =
            v1::WatchRequest { start: Some(Start::Cursor(cursor.clone())), ..v1::WatchRequest::default() };
        assert_eq!(world.events().watch(request).await.unwrap_err().code(), code, "{cursor:?}");
        assert_eq!(acknowledge(&world, "crm", &cursor).await.unwrap_err().code(), Code::InvalidArgument);
    }
    for name in ["", "a b", "ä", &"x".repeat(65)] {
        let status = acknowledge(&world, name, &crate::cursor::encode(0)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}");
    }
    // Nothing of it made a consumer.
    let list = world.events().list_consumers(v1::ListConsumersRequest {}).await.unwrap().into_inner();
    assert!(list.consumers.is_empty());
}

/// AS-005.
#[tokio::test]
async fn events_that_are_gone_are_reported_as_a_gap() {
    let world = world().await;
    for value in 0..9 {
        world.uplink(&[value]);
    }
    // The retention is days behind the follower.
    until("the key is stored", || async { world.store.bridge().app_session(SESSION).await.unwrap().is_some() })
        .await;
    world.network.forget_up_to(6);

    let cursor = Some(Start::Cursor(crate::cursor::encode(2).to_vec()));
    let mut stream = world.watch(v1::WatchRequest { start: cursor, ..v1::WatchRequest::default() }).await;
    stream.message().await;
    let message = stream.message().await;
    let Some(Item::Gap(gap)) = message.item else { panic!("{message:?}") };
    assert_eq!((gap.from, gap.to, gap.count), (3, 6, 4));
    assert_eq!(message.cursor, crate::cursor::encode(6));
    assert_eq!(stream.uplink().await.payload, [5]);

    // Who asks for the earliest event knows that there were others.
    let mut stream = world.watch(from_earliest()).await;
    assert_eq!(stream.uplink().await.payload, [5]);
}

#[tokio::test]
async fn a_stream_can_start_at_a_time() {
    let world = world().await;
    for value in 0..9 {
        world.uplink(&[value]);
    }
    let start = Some(Start::ReceivedAtUs(1_004));
    let mut stream = world.watch(v1::WatchRequest { start, ..v1::WatchRequest::default() }).await;
    assert_eq!(stream.uplink().await.payload, [4]);
}

#[tokio::test]
async fn filters_choose_and_the_cursor_passes_what_they_keep_out() {
    let world = World::with(Config { heartbeat_period: Duration::from_millis(50), ..config() }).await;
    let world = world.with_application("none").await.with_joined_device().await;
    world.create_device(7).await;
    world.network.log_record(uplink(7, SESSION, 0, &[7]));
    world.uplink(&[1]);
    let filtered =
        |request: v1::WatchRequest| v1::WatchRequest { start: Some(Start::Earliest(true)), ..request };

    let mut one = world
        .watch(filtered(v1::WatchRequest {
            dev_euis: vec![format!("{:016x}", 7)],
            ..v1::WatchRequest::default()
        }))
        .await;
    assert_eq!(one.uplink().await.payload, [7]);
    let uplinks = v1::WatchRequest { kinds: vec![v1::EventKind::Uplink as i32], ..v1::WatchRequest::default() };
    let mut kinds = world.watch(filtered(uplinks)).await;
    assert!(matches!(kinds.event().await.0.kind, Some(v1::event::Kind::Uplink(_))));
    let other = v1::WatchRequest { application_ids: vec!["other".to_owned()], ..v1::WatchRequest::default() };
    let mut nothing = world.watch(filtered(other)).await;
    let (mut last, head) = (vec![], crate::cursor::encode(3).to_vec());
    while last != head {
        let message = nothing.message().await;
        assert!(matches!(message.item, Some(Item::Heartbeat(_))), "{message:?}");
        last = message.cursor;
    }

    // At the head the same filters hold.
    world.network.log_record(uplink(7, SESSION, 1, &[8]));
    assert_eq!(one.uplink().await.payload, [8]);
}

/// CODEC-005.
#[tokio::test]
async fn a_codec_that_throws_does_not_lose_the_uplink() {
    let world = world().await;
    world.uplink(&[255, 1]);
    let mut stream = world.watch(from_earliest()).await;
    let uplink = stream.uplink().await;
    assert_eq!(uplink.payload, [255, 1]);
    assert_eq!(uplink.object_json, "");
    assert!(uplink.errors[0].contains("not mine"), "{:?}", uplink.errors);

    // A codec that is gone is an error of the event too.
    world.codecs().delete_codec(v1::DeleteCodecRequest { id: "moisture".to_owned() }).await.unwrap();
    world.uplink(&[1]);
    let uplink = stream.uplink().await;
    assert_eq!(uplink.payload, [1]);
    assert!(uplink.errors[0].contains("moisture does not exist"), "{:?}", uplink.errors);
}

#[tokio::test]
async fn a_corrected_codec_corrects_the_past() {
    let world = world().await;
    world.uplink(&[215]);
    assert_eq!(world.watch(from_earliest()).await.uplink().await.object_json, r#"{"moisture":21.5,"port":2}"#);
    let script = CODEC.replace("/ 10", "/ 100");
    world.codecs().set_codec(v1::SetCodecRequest { id: "moisture".to_owned(), script }).await.unwrap();
    assert_eq!(world.watch(from_earliest()).await.uplink().await.object_json, r#"{"moisture":2.15,"port":2}"#);
}

/// CODEC-005.
#[tokio::test]
async fn a_codec_that_always_loops_is_suspended_with_an_event() {
    let world = World::with(Config {
        codec_limits: crate::codec::Limits { time_ms: 5, ..crate::codec::Limits::default() },
        ..config()
    })
    .await;
    let script = "function decodeUplink(input) { while (true) {} }".to_owned();
    world.codecs().set_codec(v1::SetCodecRequest { id: "loop".to_owned(), script }).await.unwrap();
    let world = world.with_application("loop").await.with_joined_device().await;
    for value in 0..25 {
        world.uplink(&[value]);
    }
    let mut stream = world.watch(from_earliest()).await;
    let mut uplinks = 0;
    loop {
        match stream.event().await.0.kind {
            Some(v1::event::Kind::Uplink(uplink)) => {
                assert_eq!(uplink.payload, [uplinks]);
                assert!(!uplink.errors.is_empty());
                uplinks += 1;
            }
            Some(v1::event::Kind::Error(note)) => {
                assert_eq!(note.code, "codec_suspended");
                break;
            }
            _ => {}
        }
    }
    assert_eq!(uplinks, 25, "no payload was lost");
}

#[tokio::test]
async fn an_uplink_without_a_key_is_delivered_raw() {
    let world = world().await;
    let unknown_session = 77;
    let record = uplink(DEV_EUI, unknown_session, 3, &[1, 2, 3]);
    world.network.log_record(record.clone());
    let uplink = world.watch(from_earliest()).await.uplink().await;
    let Some(record::Kind::Uplink(sealed)) = record.kind else { panic!() };
    assert_eq!(uplink.raw_reason, "key_missing");
    assert_eq!(uplink.encrypted_payload, sealed.frm_payload);
    assert!(uplink.payload.is_empty() && uplink.object_json.is_empty());
}

#[tokio::test]
async fn a_key_that_comes_right_before_its_first_uplink_is_waited_for() {
    let world = world().await;
    let mut stream = world.watch(from_earliest()).await;
    stream.event().await;
    for session in 1_000..1_050_u64 {
        let wrapped_app_s_key = wrap(&APP_S_KEY);
        let kind =
            record::Kind::Join(pb::JoinRecord { session_id: session, wrapped_app_s_key, ..Default::default() });
        world.network.log_record(pb::Record { at_us: 9, dev_eui: DEV_EUI, kind: Some(kind) });
        world.network.log_record(uplink(DEV_EUI, session, 0, &[33]));
        let uplink = stream.uplink().await;
        assert_eq!((uplink.raw_reason.as_str(), uplink.payload.as_slice()), ("", [33].as_slice()));
    }
}

#[tokio::test]
async fn silence_is_broken_by_heartbeats() {
    let world = World::with(Config { heartbeat_period: Duration::from_millis(30), ..config() }).await;
    let latest = v1::WatchRequest { start: Some(Start::Latest(true)), ..v1::WatchRequest::default() };
    let mut stream = world.watch(latest).await;
    for _ in 0..3 {
        assert!(matches!(stream.message().await.item, Some(Item::Heartbeat(_))));
    }
}

/// OPS-006.
#[tokio::test]
async fn a_server_that_stops_ends_its_streams() {
    let world = world().await;
    let mut stream = world.watch(from_earliest()).await;
    stream.event().await;
    tokio::time::timeout(PATIENCE, world.bridge.stop()).await.expect("an end in time");
    assert_eq!(stream.end().await.map(|status| status.code()), Some(Code::Unavailable));
}

#[tokio::test]
async fn a_stream_outlives_an_absence_of_the_network_server() {
    let world = world().await;
    let mut stream = world.watch(from_earliest()).await;
    stream.event().await;
    world.network.down.store(true, Ordering::Relaxed);
    world.uplink(&[1]);
    world.uplink(&[2]);
    world.network.down.store(false, Ordering::Relaxed);
    assert_eq!(stream.uplink().await.payload, [1]);
    assert_eq!(stream.uplink().await.payload, [2]);
}

fn join(at_us: i64) -> pb::Record {
    let join = pb::JoinRecord {
        session_id: SESSION,
        wrapped_app_s_key: wrap(&APP_S_KEY),
        ..pb::JoinRecord::default()
    };
    pb::Record { at_us, dev_eui: DEV_EUI, kind: Some(record::Kind::Join(join)) }
}

async fn acknowledge(world: &World, consumer: &str, cursor: &[u8]) -> Result<(), tonic::Status> {
    let request = v1::AcknowledgeRequest { consumer: consumer.to_owned(), cursor: cursor.to_vec() };
    world.events().acknowledge(request).await.map(drop)
}
