//! Downlinks one can trust.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mac::crypto::{Direction, crypt_frm_payload};
use mac::ids::DevAddr;
use proto::internal as pb;
use proto::port::PortError;
use proto::v1;
use proto::v1::DownlinkState;
use proto::v1::enqueue_downlink_request::Content;
use tonic::{Code, Status};

use super::world::{APP_S_KEY, DEV_ADDR, DEV_EUI, SESSION, World, config, from_earliest, until, uplink};
use crate::clock::now_us;
use proto::port::NOT_ACKNOWLEDGED;

use crate::Config;

async fn world() -> World {
    World::new().await.with_application("none").await.with_joined_device().await
}

fn item(payload: &[u8]) -> v1::EnqueueDownlinkRequest {
    v1::EnqueueDownlinkRequest {
        dev_eui: format!("{DEV_EUI:016x}"),
        f_port: 10,
        content: Some(Content::Payload(payload.to_vec())),
        ..v1::EnqueueDownlinkRequest::default()
    }
}

async fn enqueue(world: &World, request: v1::EnqueueDownlinkRequest) -> Result<v1::Downlink, Status> {
    Ok(world.downlinks().enqueue_downlink(request).await?.into_inner().downlink.unwrap())
}

async fn take_in(
    world: &World,
    fcnt_down: u32,
    room_rx1: u32,
    room_rx2: u32,
) -> Result<pb::TakePayloadResponse, PortError> {
    let request = pb::TakePayloadRequest {
        dev_eui: DEV_EUI,
        session_id: SESSION,
        dev_addr: DEV_ADDR,
        fcnt_down,
        room_rx1,
        room_rx2,
    };
    world.bridge.payload_port().take_payload(request).await
}

async fn take(world: &World, fcnt_down: u32) -> pb::TakePayloadResponse {
    take_in(world, fcnt_down, 222, 51).await.unwrap()
}

async fn state(world: &World, id: &str) -> v1::Downlink {
    let request = v1::ListDownlinksRequest {
        dev_eui: format!("{DEV_EUI:016x}"),
        include_finished: true,
        ..v1::ListDownlinksRequest::default()
    };
    let list = world.downlinks().list_downlinks(request).await.unwrap().into_inner().downlinks;
    list.into_iter().find(|item| item.id == id).unwrap()
}

async fn reaches(world: &World, id: &str, wanted: DownlinkState) -> v1::Downlink {
    until(wanted.as_str_name(), || async { state(world, id).await.state() == wanted }).await;
    state(world, id).await
}

async fn log_tells(world: &World, id: &str, states: &[DownlinkState]) {
    until(&format!("the log tells {states:?}"), || async { world.network.states_of(id) == states }).await;
}

/// AS-006.
#[tokio::test]
async fn an_item_is_durable_when_enqueue_returns_and_the_same_key_makes_no_second_one() {
    let world = world().await;
    let request = v1::EnqueueDownlinkRequest { idempotency_key: "open-7".to_owned(), ..item(b"open") };
    let first = world.downlinks().enqueue_downlink(request.clone()).await.unwrap().into_inner();
    assert!(!first.duplicate);

    let world = world.restart().await;
    let second = world.downlinks().enqueue_downlink(request).await.unwrap().into_inner();
    assert!(second.duplicate);
    assert_eq!(second.downlink.unwrap().id, first.downlink.clone().unwrap().id);
    let taken = take(&world, 0).await;
    assert_eq!(taken.item_id, first.downlink.unwrap().id);
    assert!(!taken.more_pending);
    assert!(!take(&world, 1).await.has_payload);
}

#[tokio::test]
async fn the_payload_leaves_sealed_with_the_counter_it_was_asked_for() {
    let world = world().await;
    enqueue(&world, item(b"open")).await.unwrap();
    let taken = take(&world, 9).await;
    assert_eq!((taken.has_payload, taken.f_port, taken.confirmed), (true, 10, false));
    assert_ne!(taken.frm_payload, b"open");
    let mut plain = taken.frm_payload.clone();
    crypt_frm_payload(&APP_S_KEY, Direction::Down, DevAddr::new(DEV_ADDR), 9, &mut plain);
    assert_eq!(plain, b"open");
}

/// AS-006: order is priority, then age.
#[tokio::test]
async fn items_go_by_priority_and_then_by_age() {
    let world = world().await;
    for (payload, priority) in [(b"a", 0), (b"b", 0), (b"c", 50), (b"d", 50)] {
        enqueue(&world, v1::EnqueueDownlinkRequest { priority, ..item(payload) }).await.unwrap();
    }
    let mut order = Vec::new();
    for fcnt_down in 0..4 {
        let taken = take(&world, fcnt_down).await;
        assert_eq!(taken.more_pending, fcnt_down < 3);
        let mut plain = taken.frm_payload;
        crypt_frm_payload(&APP_S_KEY, Direction::Down, DevAddr::new(DEV_ADDR), fcnt_down, &mut plain);
        order.extend(plain);
    }
    assert_eq!(order, b"cdab");
}

/// FCNT-010, FCNT-011.
#[tokio::test]
async fn one_counter_seals_at_most_one_payload() {
    let world = world().await;
    enqueue(&world, item(b"one")).await.unwrap();
    enqueue(&world, item(b"two")).await.unwrap();
    assert!(take(&world, 5).await.has_payload);
    for used in [5, 4, 0] {
        let refused = take_in(&world, used, 222, 222).await;
        assert!(matches!(refused, Err(PortError::FailedPrecondition(_))), "{refused:?}");
    }
    let world = world.restart().await;
    assert!(take_in(&world, 5, 222, 222).await.is_err(), "a restart forgets no counter");
    assert!(take(&world, 6).await.has_payload);
}

/// FCNT-010.
#[tokio::test]
async fn concurrent_windows_never_get_the_same_item_or_counter() {
    let world = world().await;
    for _ in 0..5 {
        enqueue(&world, item(b"x")).await.unwrap();
    }
    let windows = (0..10).map(|window| take_in(&world, window % 5 + 1, 222, 222));
    let answers = futures_util::future::join_all(windows).await;
    let mut items: Vec<String> = answers
        .into_iter()
        .flatten()
        .filter(|answer| answer.has_payload)
        .map(|answer| answer.item_id)
        .collect();
    let count = items.len();
    items.sort();
    items.dedup();
    assert_eq!(items.len(), count);
    assert!((1..=5).contains(&count), "{count}");
}

/// RXWIN-007.
#[tokio::test]
async fn an_item_too_long_for_the_window_waits_for_a_better_one() {
    let world = world().await;
    let long = enqueue(&world, item(&[7; 60])).await.unwrap();
    for fcnt_down in 0..2 {
        assert!(!take_in(&world, fcnt_down, 51, 51).await.unwrap().has_payload);
    }
    reaches(&world, &long.id, DownlinkState::Deferred).await;
    let taken = take_in(&world, 2, 51, 115).await.unwrap();
    assert!(taken.has_payload && taken.rx2_only);
    // It was told once that it waits.
    log_tells(&world, &long.id, &[DownlinkState::Queued, DownlinkState::Deferred, DownlinkState::Leased]).await;
}

#[tokio::test]
async fn what_can_never_be_sent_is_refused_with_the_field() {
    let world = world().await;
    let cases = [
        (item(&[0; 243]), Code::InvalidArgument, "payload: has 243 bytes"),
        (v1::EnqueueDownlinkRequest { f_port: 0, ..item(b"x") }, Code::InvalidArgument, "f_port: 0"),
        (v1::EnqueueDownlinkRequest { f_port: 224, ..item(b"x") }, Code::InvalidArgument, "f_port: 224"),
        (v1::EnqueueDownlinkRequest { priority: 101, ..item(b"x") }, Code::InvalidArgument, "priority: 101"),
        (
            v1::EnqueueDownlinkRequest { not_after_us: Some(1), ..item(b"x") },
            Code::InvalidArgument,
            "not_after_us: 1 has passed",
        ),
        (
            v1::EnqueueDownlinkRequest { content: None, ..item(b"x") },
            Code::InvalidArgument,
            "payload or object_json",
        ),
        (
            v1::EnqueueDownlinkRequest { dev_eui: "70b3".to_owned(), ..item(b"x") },
            Code::InvalidArgument,
            "dev_eui: has 4",
        ),
        (
            v1::EnqueueDownlinkRequest { dev_eui: "0000000000000009".to_owned(), ..item(b"x") },
            Code::NotFound,
            "device 0000000000000009",
        ),
        (
            v1::EnqueueDownlinkRequest { content: Some(Content::ObjectJson("{}".to_owned())), ..item(b"") },
            Code::InvalidArgument,
            "object_json: the device has no codec",
        ),
    ];
    for (request, code, words) in cases {
        let status = enqueue(&world, request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().starts_with(words), "{words} / {}", status.message());
    }
    assert!(!take(&world, 0).await.has_payload, "nothing of it was queued");
}

#[tokio::test]
async fn an_object_is_encoded_by_the_devices_codec() {
    let world = World::new().await;
    let script = "function encodeDownlink(input) { return { bytes: [input.data.open ? 1 : 0], fPort: 7 }; }";
    let codec = v1::SetCodecRequest { id: "valve".to_owned(), script: script.to_owned() };
    world.codecs().set_codec(codec).await.unwrap();
    let world = world.with_application("valve").await.with_joined_device().await;
    let object = |json: &str, f_port| v1::EnqueueDownlinkRequest {
        content: Some(Content::ObjectJson(json.to_owned())),
        f_port,
        ..item(b"")
    };
    let queued = enqueue(&world, object(r#"{"open":true}"#, 0)).await.unwrap();
    assert_eq!((queued.f_port, queued.payload), (7, vec![1]));
    assert_eq!(enqueue(&world, object(r#"{"open":true}"#, 8)).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(enqueue(&world, object("{", 0)).await.unwrap_err().code(), Code::InvalidArgument);
}

/// AS-007.
#[tokio::test]
async fn an_item_past_its_deadline_expires_once_and_is_not_sent() {
    let world = world().await;
    let soon = now_us() + 50_000;
    let request = v1::EnqueueDownlinkRequest { not_after_us: Some(soon), ..item(b"late") };
    let late = enqueue(&world, request).await.unwrap();
    reaches(&world, &late.id, DownlinkState::Expired).await;
    assert!(!take(&world, 0).await.has_payload);
    let world = world.restart().await;
    log_tells(&world, &late.id, &[DownlinkState::Queued, DownlinkState::Expired]).await;
    until("the hint says that nothing waits", || async {
        world.network.told.lock().hints[&DEV_EUI].pending == 0
    })
    .await;
}

/// AS-007: the answer to the first call was lost, and the second one comes when the deadline has passed.
#[tokio::test]
async fn a_key_that_is_known_returns_its_item_even_past_the_deadline() {
    let world = world().await;
    let soon = now_us() + 50_000;
    let request = v1::EnqueueDownlinkRequest {
        not_after_us: Some(soon),
        idempotency_key: "open-7".to_owned(),
        ..item(b"late")
    };
    let first = enqueue(&world, request.clone()).await.unwrap();
    reaches(&world, &first.id, DownlinkState::Expired).await;
    let again = world.downlinks().enqueue_downlink(request.clone()).await.unwrap().into_inner();
    assert!(again.duplicate);
    let known = again.downlink.unwrap();
    assert_eq!((known.id.as_str(), known.state()), (first.id.as_str(), DownlinkState::Expired));

    let another = v1::EnqueueDownlinkRequest { idempotency_key: "open-8".to_owned(), ..request };
    assert_eq!(enqueue(&world, another).await.unwrap_err().code(), Code::InvalidArgument);
}

/// AS-007: the states an item runs through end in one.
#[tokio::test]
async fn an_unconfirmed_item_ends_when_the_gateway_has_sent_it() {
    let world = world().await;
    let queued = enqueue(&world, item(b"x")).await.unwrap();
    take(&world, 3).await;
    world.told(DownlinkState::Sent, "", &queued.id, 3);
    reaches(&world, &queued.id, DownlinkState::Sent).await;
    world.told(DownlinkState::GatewayAcknowledged, "", &queued.id, 3);
    let ended = reaches(&world, &queued.id, DownlinkState::GatewayAcknowledged).await;
    assert_eq!((ended.fcnt_down, ended.attempts), (Some(3), 1));
    // Whatever is said after the end changes nothing.
    world.told(DownlinkState::Failed, "TX_FREQ", &queued.id, 3);
    world.uplink(&[1]);
    let mut stream = world.watch(from_earliest()).await;
    stream.uplink().await;
    assert_eq!(state(&world, &queued.id).await.state(), DownlinkState::GatewayAcknowledged);
}

/// ACK-004, ACK-007.
#[tokio::test]
async fn a_confirmed_item_is_tried_three_times_with_new_counters_and_then_fails_once() {
    let world = world().await;
    let queued =
        enqueue(&world, v1::EnqueueDownlinkRequest { confirmed: true, ..item(b"open") }).await.unwrap();
    for attempt in 1..=3_u32 {
        until("the item waits", || async { state(&world, &queued.id).await.state() == DownlinkState::Queued })
            .await;
        let taken = take(&world, attempt * 10).await;
        assert_eq!((taken.item_id.as_str(), taken.confirmed), (queued.id.as_str(), true));
        world.told(DownlinkState::GatewayAcknowledged, "", &queued.id, attempt * 10);
        world.answered(DownlinkState::Failed, NOT_ACKNOWLEDGED, attempt * 10);
    }
    let ended = reaches(&world, &queued.id, DownlinkState::Failed).await;
    assert_eq!(ended.attempts, 3);

    // The stream tells one end, and each attempt before it.
    let mut stream = world.watch(from_earliest()).await;
    let mut again = 0;
    loop {
        let update = stream.downlink().await;
        assert_eq!(update.downlink_id, queued.id, "{update:?}");
        if update.state() == DownlinkState::Failed {
            break;
        }
        again += i32::from(update.state() == DownlinkState::Queued && !update.reason.is_empty());
    }
    assert_eq!(again, 2);
    assert!(!take(&world, 99).await.has_payload);
}

/// ACK-007: it was on air, and nobody told of it before the next uplink came without an acknowledgement.
#[tokio::test]
async fn an_attempt_whose_outcome_a_crash_swallowed_counts() {
    let world = world().await;
    let queued =
        enqueue(&world, v1::EnqueueDownlinkRequest { confirmed: true, ..item(b"open") }).await.unwrap();
    for attempt in 1..=3_u32 {
        until("the item waits", || async { state(&world, &queued.id).await.state() == DownlinkState::Queued })
            .await;
        assert!(take(&world, attempt).await.has_payload);
        world.answered(DownlinkState::Failed, NOT_ACKNOWLEDGED, attempt);
    }
    let ended = reaches(&world, &queued.id, DownlinkState::Failed).await;
    assert_eq!(ended.attempts, 3);
    assert!(!take(&world, 4).await.has_payload);
}

/// ACK-006: the device's answer ends the item; another confirmed one waits for it.
#[tokio::test]
async fn one_confirmed_item_is_under_way_at_a_time() {
    let world = world().await;
    let confirmed = |payload: &[u8]| v1::EnqueueDownlinkRequest { confirmed: true, ..item(payload) };
    let first = enqueue(&world, confirmed(b"1")).await.unwrap();
    let second = enqueue(&world, confirmed(b"2")).await.unwrap();
    assert_eq!(take(&world, 0).await.item_id, first.id);
    assert!(!take(&world, 1).await.has_payload);

    // A stray answer to another counter settles nothing.
    world.answered(DownlinkState::DeviceAcknowledged, "", 1);
    assert!(!take(&world, 2).await.has_payload);

    // The uplink that opens the next window brought the answer just before.
    world.answered(DownlinkState::DeviceAcknowledged, "", 0);
    assert_eq!(take(&world, 3).await.item_id, second.id);
    reaches(&world, &first.id, DownlinkState::DeviceAcknowledged).await;
    // The stream tells the answer once, with the item.
    let states = [DownlinkState::Queued, DownlinkState::Leased, DownlinkState::DeviceAcknowledged];
    log_tells(&world, &first.id, &states).await;
    let mut stream = world.watch(from_earliest()).await;
    loop {
        let update = stream.downlink().await;
        assert_ne!(update.downlink_id, "", "{update:?}");
        if update.state() == DownlinkState::DeviceAcknowledged {
            assert_eq!((update.downlink_id, update.fcnt_down), (first.id, Some(0)));
            break;
        }
    }
}

/// ACK-007: a crash between a change of state and its event loses and doubles nothing.
#[tokio::test]
async fn a_state_that_could_not_be_announced_is_announced_after_the_restart_under_one_id() {
    let world = world().await;
    let queued =
        enqueue(&world, v1::EnqueueDownlinkRequest { confirmed: true, ..item(b"open") }).await.unwrap();
    log_tells(&world, &queued.id, &[DownlinkState::Queued]).await;
    take(&world, 1).await;
    log_tells(&world, &queued.id, &[DownlinkState::Queued, DownlinkState::Leased]).await;
    world.network.down.store(true, Ordering::Relaxed);
    let second = enqueue(&world, item(b"unsaid")).await.unwrap();
    world.downlinks().cancel_downlink(v1::CancelDownlinkRequest { id: second.id.clone() }).await.unwrap();
    world.answered(DownlinkState::Failed, NOT_ACKNOWLEDGED, 1);

    let network = world.network.clone();
    let world = world.restart().await;
    assert_eq!(network.states_of(&second.id), []);
    network.down.store(false, Ordering::Relaxed);
    log_tells(&world, &second.id, &[DownlinkState::Cancelled]).await;
    reaches(&world, &queued.id, DownlinkState::Queued).await;
    let states = [DownlinkState::Queued, DownlinkState::Leased, DownlinkState::Queued];
    log_tells(&world, &queued.id, &states).await;
    let mut ids = Vec::new();
    let mut stream = world.watch(from_earliest()).await;
    while ids.len() < 4 {
        let (event, _) = stream.event().await;
        if matches!(event.kind, Some(v1::event::Kind::Downlink(_))) {
            ids.push(event.id);
        }
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "each state has an id of its own: {ids:?}");
    // And the network server knows again what waits.
    until("the hint is told", || async {
        network.told.lock().hints.get(&DEV_EUI).is_some_and(|hint| hint.pending == 1)
    })
    .await;
}

#[tokio::test]
async fn an_item_nobody_tells_of_ends_as_unknown() {
    let world = World::with(Config { outcome_patience: Duration::from_millis(50), ..config() }).await;
    let world = world.with_application("none").await.with_joined_device().await;
    let queued = enqueue(&world, item(b"x")).await.unwrap();
    take(&world, 0).await;
    reaches(&world, &queued.id, DownlinkState::Unknown).await;
    log_tells(&world, &queued.id, &[DownlinkState::Queued, DownlinkState::Leased, DownlinkState::Unknown])
        .await;
}

/// AS-007: what the log says and nobody has read yet is no silence.
#[tokio::test]
async fn an_item_is_not_given_up_while_its_outcome_may_stand_in_the_log() {
    let world = World::with(Config { outcome_patience: Duration::from_millis(20), ..config() }).await;
    let world = world.with_application("none").await.with_joined_device().await;
    world.network.down.store(true, Ordering::Relaxed);
    let queued = enqueue(&world, item(b"x")).await.unwrap();
    world.network.down.store(false, Ordering::Relaxed);
    // The follower hears nothing from here on, but for what the window itself needs.
    take(&world, 0).await;
    world.network.down.store(true, Ordering::Relaxed);
    world.told(DownlinkState::Sent, "", &queued.id, 0);
    world.told(DownlinkState::GatewayAcknowledged, "", &queued.id, 0);
    // Deadlines are looked after before outcomes, so that the next one to expire shows that the patience is over.
    for _ in 0..2 {
        let soon = v1::EnqueueDownlinkRequest { not_after_us: Some(now_us() + 100_000), ..item(b"y") };
        let soon = enqueue(&world, soon).await.unwrap();
        reaches(&world, &soon.id, DownlinkState::Expired).await;
    }
    assert_eq!(state(&world, &queued.id).await.state(), DownlinkState::Leased);

    world.network.down.store(false, Ordering::Relaxed);
    reaches(&world, &queued.id, DownlinkState::GatewayAcknowledged).await;
    assert!(!world.network.states_of(&queued.id).contains(&DownlinkState::Unknown));
}

/// The network server tells what became of an item from the moment it has it.
#[tokio::test]
async fn the_log_has_a_lease_before_what_became_of_it() {
    let world = world().await;
    enqueue(&world, v1::EnqueueDownlinkRequest { priority: 1, ..item(&[7; 60]) }).await.unwrap();
    let queued = enqueue(&world, item(b"short")).await.unwrap();
    log_tells(&world, &queued.id, &[DownlinkState::Queued]).await;
    assert_eq!(take_in(&world, 0, 51, 51).await.unwrap().item_id, queued.id);
    world.told(DownlinkState::Sent, "", &queued.id, 0);
    world.told(DownlinkState::GatewayAcknowledged, "", &queued.id, 0);
    reaches(&world, &queued.id, DownlinkState::GatewayAcknowledged).await;
    let states =
        [DownlinkState::Queued, DownlinkState::Leased, DownlinkState::Sent, DownlinkState::GatewayAcknowledged];
    log_tells(&world, &queued.id, &states).await;
}

/// A caller that goes away between the item and the word of it.
#[tokio::test]
async fn an_item_whose_caller_went_away_is_told_of_and_expires() {
    use proto::v1::downlink_service_server::DownlinkService;

    let world = world().await;
    let inner = &world.bridge.inner;
    let api = crate::api::downlink::DownlinkApi {
        tables: inner.tables.clone(),
        registry: inner.registry.clone(),
        codecs: inner.codecs.clone(),
        queue: inner.queue.clone(),
        tasks: inner.tasks.clone(),
    };
    let deadline = now_us() + 300_000;
    let request = v1::EnqueueDownlinkRequest { not_after_us: Some(deadline), ..item(b"open") };
    let mut call = Box::pin(api.enqueue_downlink(tonic::Request::new(request)));
    let row = loop {
        let answered = futures_util::poll!(&mut call).is_ready();
        let rows = world.store.bridge().downlinks(DEV_EUI, true, 0, 1).await.unwrap();
        if let Some(row) = rows.into_iter().next() {
            break row;
        }
        assert!(!answered, "an answer without an item");
    };
    drop(call);
    log_tells(&world, &row.id, &[DownlinkState::Queued, DownlinkState::Expired]).await;
}

/// A device that is registered again must not get what was meant for the one before.
#[tokio::test]
async fn nothing_is_queued_for_a_device_that_was_deleted_meanwhile() {
    let world = world().await;
    let orphan = store::DownlinkRow { id: "orphan".to_owned(), dev_eui: 9, ..store::DownlinkRow::default() };
    let refused = world.bridge.inner.queue.enqueue(orphan).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    assert!(world.store.bridge().downlink("orphan").await.unwrap().is_none());
}

/// A network server that is slow to take hints holds up neither keys nor states.
#[tokio::test]
async fn the_log_is_followed_while_hints_are_not_taken() {
    let world = world().await;
    let devices = 1..=40_u64;
    for dev_eui in devices.clone() {
        world.create_device(dev_eui).await;
        let request = v1::EnqueueDownlinkRequest { dev_eui: format!("{dev_eui:016x}"), ..item(b"x") };
        world.downlinks().enqueue_downlink(request).await.unwrap();
    }
    let mut items = Vec::new();
    for dev_eui in devices.clone() {
        let request = pb::TakePayloadRequest {
            dev_eui,
            session_id: SESSION,
            dev_addr: DEV_ADDR,
            fcnt_down: u32::try_from(dev_eui).unwrap(),
            room_rx1: 51,
            room_rx2: 51,
        };
        items.push(world.bridge.payload_port().take_payload(request).await.unwrap().item_id);
    }
    until("nothing waits", || async {
        devices.clone().all(|dev_eui| world.network.told.lock().hints[&dev_eui].pending == 0)
    })
    .await;

    world.network.deaf_to_hints.store(true, Ordering::Relaxed);
    for (dev_eui, item_id) in devices.zip(&items) {
        let downlink = pb::DownlinkRecord {
            item_id: item_id.clone(),
            state: DownlinkState::Queued as u32,
            fcnt_down: Some(u32::try_from(dev_eui).unwrap()),
            session_id: SESSION,
            ..pb::DownlinkRecord::default()
        };
        let kind = Some(pb::record::Kind::Downlink(downlink));
        world.network.log_record(pb::Record { at_us: 5, dev_eui, kind });
    }
    let last = items.last().unwrap();
    until("the items wait again", || async {
        world.store.bridge().downlink(last).await.unwrap().unwrap().state == DownlinkState::Queued as i32
    })
    .await;
    let next_session = 42;
    world.join(DEV_EUI, next_session, 2_000);
    world.network.log_record(uplink(DEV_EUI, next_session, 0, &[1]));
    let mut stream = world.watch(from_earliest()).await;
    assert_eq!(stream.uplink().await.payload, [1]);
    world.network.deaf_to_hints.store(false, Ordering::Relaxed);
    until("all hints are made good", || async {
        (1..=40).all(|dev_eui| world.network.told.lock().hints[&dev_eui].pending == 1)
    })
    .await;
}

#[tokio::test]
async fn an_item_that_is_handed_back_waits_again() {
    let world = world().await;
    let queued = enqueue(&world, item(b"x")).await.unwrap();
    take(&world, 0).await;
    world.told(DownlinkState::Queued, "the window was missed", &queued.id, 0);
    reaches(&world, &queued.id, DownlinkState::Queued).await;
    assert_eq!(take(&world, 1).await.item_id, queued.id);
}

#[tokio::test]
async fn a_confirmed_item_of_a_session_that_was_replaced_is_sent_again_in_the_next() {
    let world = world().await;
    let queued =
        enqueue(&world, v1::EnqueueDownlinkRequest { confirmed: true, ..item(b"open") }).await.unwrap();
    take(&world, 0).await;
    world.told(DownlinkState::GatewayAcknowledged, "", &queued.id, 0);
    let next_session = 42;
    world.join(DEV_EUI, next_session, 2_000);
    // A last uplink of the old session settles nothing; the first of the new one does.
    world.uplink(&[1]);
    world.network.log_record(uplink(DEV_EUI, next_session, 0, &[1]));
    let waiting = reaches(&world, &queued.id, DownlinkState::Queued).await;
    assert!(waiting.reason.contains("joined again"), "{}", waiting.reason);
}

#[tokio::test]
async fn an_item_can_be_taken_back_until_it_has_left() {
    let world = world().await;
    let first = enqueue(&world, item(b"1")).await.unwrap();
    let second = enqueue(&world, item(b"2")).await.unwrap();
    let cancel = |id: &str| {
        let request = v1::CancelDownlinkRequest { id: id.to_owned() };
        let mut client = world.downlinks();
        async move { client.cancel_downlink(request).await }
    };
    assert_eq!(
        cancel(&first.id).await.unwrap().into_inner().downlink.unwrap().state(),
        DownlinkState::Cancelled
    );
    cancel(&first.id).await.unwrap();
    log_tells(&world, &first.id, &[DownlinkState::Queued, DownlinkState::Cancelled]).await;
    assert_eq!(take(&world, 0).await.item_id, second.id);
    let status = cancel(&second.id).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("leased"), "{}", status.message());
    assert_eq!(cancel("nothing").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn the_network_server_is_told_what_waits() {
    let world = world().await;
    enqueue(&world, item(&[1; 12])).await.unwrap();
    enqueue(&world, v1::EnqueueDownlinkRequest { priority: 9, ..item(&[1; 5]) }).await.unwrap();
    let hint = |world: &World| world.network.told.lock().hints.get(&DEV_EUI).cloned().unwrap_or_default();
    until("both wait", || async { (hint(&world).pending, hint(&world).next_len) == (2, 5) }).await;
    take(&world, 0).await;
    until("one waits", || async { (hint(&world).pending, hint(&world).next_len) == (1, 12) }).await;

    // A network server that starts anew hears of it too.
    world.network.told.lock().hints.clear();
    let world = world.restart().await;
    until("one waits", || async { (hint(&world).pending, hint(&world).next_len) == (1, 12) }).await;
}

#[tokio::test]
async fn an_item_whose_window_did_not_wait_for_it_goes_with_the_next() {
    let world = world().await;
    let queued = enqueue(&world, item(b"open")).await.unwrap();
    let request = pb::TakePayloadRequest {
        dev_eui: DEV_EUI,
        session_id: SESSION,
        dev_addr: DEV_ADDR,
        fcnt_down: 1,
        room_rx1: 51,
        room_rx2: 51,
    };
    let port = world.bridge.payload_port();
    let mut asked = Box::pin(port.take_payload(request));
    assert!(futures_util::poll!(&mut asked).is_pending());
    drop(asked);
    let states = [DownlinkState::Queued, DownlinkState::Queued];
    log_tells(&world, &queued.id, &states).await;
    assert!(take_in(&world, 1, 51, 51).await.is_err(), "its counter is burnt");
    assert_eq!(take(&world, 2).await.item_id, queued.id);
}

/// The port over gRPC, for a network server in another process.
#[tokio::test]
async fn a_payload_can_be_taken_over_grpc() {
    use proto::internal::payload_service_client::PayloadServiceClient;

    let world = world().await;
    let queued = enqueue(&world, item(b"open")).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = crate::payload_service(world.bridge.payload_port());
    let router = tonic::service::Routes::new(service).into_axum_router();
    tokio::spawn(async move { axum::serve(listener, router).await });

    let mut client = PayloadServiceClient::connect(format!("http://{address}")).await.unwrap();
    let request = pb::TakePayloadRequest {
        dev_eui: DEV_EUI,
        session_id: SESSION,
        dev_addr: DEV_ADDR,
        fcnt_down: 1,
        room_rx1: 51,
        room_rx2: 51,
    };
    assert_eq!(client.take_payload(request).await.unwrap().into_inner().item_id, queued.id);
    let status = client.take_payload(request).await;
    assert!(status.is_ok_and(|answer| !answer.into_inner().has_payload), "nothing waits any more");
    enqueue(&world, item(b"more")).await.unwrap();
    assert_eq!(client.take_payload(request).await.unwrap_err().code(), Code::FailedPrecondition);
}

/// A network server that is not there is told apart from one that refuses.
#[tokio::test]
async fn a_remote_network_server_that_is_away_is_unavailable() {
    use proto::port::NetworkPort;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let token = proto::link::RoleToken::parse("a-token-of-16-characters-and-more").unwrap();
    let remote = crate::RemoteNetwork::new(token.channel(channel));
    let answer = remote.device_state(1).await;
    assert!(matches!(answer, Err(PortError::Unavailable(_))), "{answer:?}");
}
