//! People and programs around the server: who registers devices, who orders downlinks, who reads the stream.

use std::sync::Arc;
use std::time::Duration;

use app_bridge::AppBridge;
use mac::ids::DevEui;
use proto::v1::application_service_server::ApplicationService as _;
use proto::v1::codec_service_server::CodecService as _;
use proto::v1::device_service_server::DeviceService as _;
use proto::v1::downlink_service_server::DownlinkService as _;
use proto::v1::event_service_server::EventService as _;
use proto::v1::gateway_service_server::GatewayService as _;
use proto::v1::profile_service_server::ProfileService as _;
use proto::v1::watch_response::Item;
use proto::v1::{self, MacVersion};
use tokio_stream::StreamExt as _;
use tonic::{Request, Status};

use crate::account::Delivered;
use crate::air::{self, Device};
use crate::scene::Scene;
use crate::schedule::{ConsumerSpec, Kind};
use crate::states::State;

/// Registers everything there is.
pub(crate) async fn register(scene: &Scene, bridge: &AppBridge) -> Result<(), Status> {
    let request = v1::CreateApplicationRequest { id: "world".to_owned(), name: "World".to_owned() };
    bridge.application_service().create_application(Request::new(request)).await?;
    let request = v1::SetCodecRequest { id: CODEC.to_owned(), script: "simulated".to_owned() };
    bridge.codec_service().set_codec(Request::new(request)).await?;
    let gateways: Vec<u64> = scene.open().gateways.iter().map(|gateway| gateway.eui.value()).collect();
    for eui in gateways {
        let gateway = v1::Gateway {
            gateway_eui: format!("{eui:016x}"),
            region: v1::Region::Eu868.into(),
            ..v1::Gateway::default()
        };
        let request = v1::CreateGatewayRequest { gateway: Some(gateway) };
        bridge.gateway_service().create_gateway(Request::new(request)).await?;
    }
    let devices: Vec<(Profile, u64)> =
        scene.open().devices.iter().map(|device| (Profile::of(device), device.dev_eui.value())).collect();
    let mut known = std::collections::BTreeSet::new();
    for (number, (profile, dev_eui)) in devices.into_iter().enumerate() {
        if known.insert(profile.id.clone()) {
            let request = v1::CreateProfileRequest { profile: Some(profile.clone()) };
            bridge.profile_service().create_profile(Request::new(request)).await?;
        }
        register_device(scene, bridge, number, dev_eui, &profile.id).await?;
    }
    Ok(())
}

type Profile = v1::Profile;

trait ProfileOf {
    fn of(device: &Device) -> Self;
}

impl ProfileOf for Profile {
    fn of(device: &Device) -> Self {
        let spec = &device.spec;
        let version = match spec.kind {
            Kind::Abp | Kind::Otaa103 => MacVersion::MacVersion103,
            Kind::Otaa104 => MacVersion::MacVersion104,
            Kind::Otaa11 => MacVersion::MacVersion110,
        };
        let region = spec.region.number();
        Self {
            id: format!("p{region}-{}-{}-{}", version as i32, spec.rx_delay_s, u8::from(spec.codec)),
            region,
            mac_version: version.into(),
            rx_delay_s: u32::from(spec.rx_delay_s),
            codec_id: if spec.codec { CODEC.to_owned() } else { "none".to_owned() },
            ..Self::default()
        }
    }
}

async fn register_device(
    scene: &Scene,
    bridge: &AppBridge,
    number: usize,
    dev_eui: u64,
    profile_id: &str,
) -> Result<(), Status> {
    let (spec, eui) = {
        let inside = scene.open();
        let device = &inside.devices[number];
        (device.spec, device.dev_eui)
    };
    let joins = spec.kind != Kind::Abp;
    let keys = joins.then(|| v1::RootKeys {
        app_key: hex(&air::app_key(eui)),
        nwk_key: if spec.kind == Kind::Otaa11 { hex(&air::nwk_key(eui)) } else { String::new() },
    });
    let device = v1::Device {
        dev_eui: format!("{dev_eui:016x}"),
        join_eui: if joins { air::join_eui().to_string() } else { String::new() },
        application_id: "world".to_owned(),
        profile_id: profile_id.to_owned(),
        name: format!("device {number}"),
        ..v1::Device::default()
    };
    let devices = bridge.device_service();
    devices.create_device(Request::new(v1::CreateDeviceRequest { device: Some(device), keys })).await?;
    if !joins {
        // It has used the counter before its next one.
        let last = spec.fcnt_up.checked_sub(1);
        let request = v1::ActivateDeviceRequest {
            fcnt_up: last,
            fcnt_down: spec.fcnt_down,
            ..activation(eui, spec.dev_addr)
        };
        devices.activate_device(Request::new(request)).await?;
        scene.open().account.personalised(number, last);
    }
    Ok(())
}

fn activation(eui: DevEui, dev_addr: u32) -> v1::ActivateDeviceRequest {
    v1::ActivateDeviceRequest {
        dev_eui: eui.to_string(),
        dev_addr: format!("{dev_addr:08x}"),
        nwk_s_key: hex(&air::nwk_s_key(eui)),
        app_s_key: hex(&air::app_s_key(eui)),
        ..v1::ActivateDeviceRequest::default()
    }
}

/// Personalises a device again with the keys it has, by somebody who does not know its counters.
pub(crate) async fn activate_again(scene: Arc<Scene>, bridge: AppBridge, device: usize) {
    let request = {
        let mut inside = scene.open();
        inside.account.activating(device);
        let Device { dev_eui, spec, .. } = &inside.devices[device];
        let request = activation(*dev_eui, spec.dev_addr);
        inside.note(&[27, device as u64], || format!("somebody personalises device {device} again"));
        request
    };
    let answer = bridge.device_service().activate_device(Request::new(request)).await;
    let mut inside = scene.open();
    inside.account.activated(device);
    if answer.is_ok() {
        inside.states.reach(State::ActivatedAgain);
    }
    inside.note(&[28, device as u64], || format!("device {device} is personalised again: {}", answer.is_ok()));
}

/// What somebody orders.
#[derive(Clone, Debug)]
pub(crate) struct Ordered {
    pub(crate) device: usize,
    pub(crate) confirmed: bool,
    pub(crate) payload: Vec<u8>,
    pub(crate) lives_ms: u64,
    pub(crate) priority: u32,
    pub(crate) key: u64,
}

/// Orders a downlink; whoever asked may never get an answer.
pub(crate) async fn enqueue(scene: Arc<Scene>, bridge: AppBridge, order: Ordered) {
    let dev_eui = scene.open().devices[order.device].dev_eui;
    let lives_us = i64::try_from(order.lives_ms * 1_000).expect("minutes");
    let request = v1::EnqueueDownlinkRequest {
        dev_eui: dev_eui.to_string(),
        f_port: u32::from(PORT_DOWN),
        content: Some(v1::enqueue_downlink_request::Content::Payload(order.payload.clone())),
        confirmed: order.confirmed,
        priority: order.priority,
        not_after_us: (lives_us > 0).then(|| seam::wall_us() + lives_us),
        idempotency_key: if order.key > 0 { format!("order-{}", order.key) } else { String::new() },
    };
    let answer = bridge.downlink_service().enqueue_downlink(Request::new(request)).await;
    let mut inside = scene.open();
    match answer {
        Ok(answer) => {
            let answer = answer.into_inner();
            let Some(item) = answer.downlink else { return };
            if answer.duplicate {
                inside.states.reach(State::ClientAskedTwice);
                // The first one's words count.
                inside.account.item_promised(&item.id, order.device, item.payload, item.confirmed);
            } else {
                inside.account.item_promised(&item.id, order.device, order.payload, order.confirmed);
            }
            let device = order.device;
            inside.note(&[3, device as u64], || format!("item {} for device {} is promised", item.id, device));
        }
        Err(status) => {
            inside.note(&[4, order.device as u64], || format!("an order is refused: {}", status.message()));
        }
    }
}

/// Takes an order back.
pub(crate) async fn cancel(scene: Arc<Scene>, bridge: AppBridge, id: String) {
    let answer = bridge
        .downlink_service()
        .cancel_downlink(Request::new(v1::CancelDownlinkRequest { id: id.clone() }))
        .await;
    scene.open().note(&[5], || format!("item {id} is taken back: {}", answer.is_ok()));
}

/// Reads the stream as long as the world stands, wherever the server is.
pub(crate) async fn consume(scene: Arc<Scene>, number: usize, spec: ConsumerSpec) {
    loop {
        let front = scene.open().front.clone();
        if let Some((life, bridge)) = front {
            read_stream(&scene, number, spec, life, &bridge).await;
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

async fn read_stream(scene: &Scene, number: usize, spec: ConsumerSpec, life: usize, bridge: &AppBridge) {
    let events = bridge.event_service();
    let name = format!("consumer-{number}");
    let request = v1::WatchRequest { consumer: name.clone(), ..v1::WatchRequest::default() };
    let watched = tokio::time::timeout(PATIENCE, events.watch(Request::new(request))).await;
    let Ok(Ok(stream)) = watched else { return };
    let mut stream = stream.into_inner();
    scene.open().account.stream_opened(number);
    let mut count = 0_u64;
    loop {
        let message = match tokio::time::timeout(PATIENCE, stream.next()).await {
            Ok(Some(Ok(message))) => Some(message),
            Ok(Some(Err(_)) | None) => return,
            Err(_) => None,
        };
        let Some(message) = message else {
            if scene.open().front.as_ref().is_none_or(|(front, _)| *front != life) {
                return;
            }
            continue;
        };
        let cursor = message.cursor.clone();
        let Some(position) = took(scene, number, life, message, count) else { return };
        count += 1;
        if count.is_multiple_of(spec.acknowledges_each) {
            scene.open().account.acknowledging(number, position);
            let request = v1::AcknowledgeRequest { consumer: name.clone(), cursor };
            let told = tokio::time::timeout(PATIENCE, events.acknowledge(Request::new(request))).await;
            if matches!(told, Ok(Ok(_))) {
                scene.open().account.acknowledged(number, position);
            }
        }
        let calm = scene.open().calm;
        if !calm {
            if spec.pause_ms > 0 {
                tokio::time::sleep(Duration::from_millis(spec.pause_ms)).await;
            }
            if spec.leaves_after > 0 && count >= spec.leaves_after {
                return;
            }
        }
    }
}

/// Holds a message against the account; `None` when it came from a server that is gone.
fn took(scene: &Scene, number: usize, life: usize, message: v1::WatchResponse, count: u64) -> Option<u64> {
    let mut inside = scene.open();
    if inside.front.as_ref().is_none_or(|(front, _)| *front != life) {
        return None;
    }
    inside.observe();
    let position = position_of(&message.cursor);
    let delivered = match message.item {
        Some(Item::Event(event)) => Delivered::Event(Box::new(event)),
        Some(Item::Gap(gap)) => Delivered::Gap(gap),
        Some(Item::Heartbeat(_)) | None => Delivered::Heartbeat,
    };
    let crate::scene::Inside { account, states, .. } = &mut *inside;
    account.delivered(number, position, delivered, states);
    if life > 0 && count == 0 && position > 1 {
        inside.states.reach(State::ConsumerResumedAfterCrash);
    }
    if position + 40 < inside.account.log_seen() {
        inside.states.reach(State::ConsumerBehindTheHead);
    }
    inside.note(&[6, number as u64, position], || format!("consumer {number} gets {position}"));
    Some(position)
}

/// The position inside a cursor: its last eight bytes.
fn position_of(cursor: &[u8]) -> u64 {
    cursor.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const CODEC: &str = "guess";
/// The port of every order.
pub(crate) const PORT_DOWN: u8 = 9;
/// How long a client waits for an answer, and looks whether the server is still the same.
const PATIENCE: Duration = Duration::from_secs(3);
