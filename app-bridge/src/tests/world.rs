//! The world of a story: a bridge that serves, a store, and the other roles.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mac::crypto::{Direction, crypt_frm_payload};
use mac::ids::DevAddr;
use proto::internal::{self as pb, record};
use proto::v1;
use proto::v1::application_service_client::ApplicationServiceClient;
use proto::v1::codec_service_client::CodecServiceClient;
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::downlink_service_client::DownlinkServiceClient;
use proto::v1::event_service_client::EventServiceClient;
use proto::v1::profile_service_client::ProfileServiceClient;
use proto::v1::watch_response::Item;
use store::{Location, Store, StoreOptions};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::keys::tests::{TRANSPORT_KEK, wrap};
use crate::testing::{FakeJoin, FakeNetwork};
use crate::{AppBridge, Config};

pub(super) const APP_S_KEY: [u8; 16] = [0x5a; 16];
pub(super) const DEV_ADDR: u32 = 0x2601_1bda;
pub(super) const DEV_EUI: u64 = 0x70b3_d57e_d000_0001;
pub(super) const SESSION: u64 = 0x0123_4567_89ab_cdef;
/// How long a story waits for what must happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) type Client = InterceptedService<Channel, WithKey>;

/// Adds the API key to each call.
#[derive(Clone)]
pub(super) struct WithKey(MetadataValue<Ascii>);

impl Interceptor for WithKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

pub(super) struct World {
    pub(super) store: Store,
    pub(super) network: Arc<FakeNetwork>,
    pub(super) join: Arc<FakeJoin>,
    pub(super) bridge: AppBridge,
    pub(super) address: std::net::SocketAddr,
    pub(super) channel: Channel,
    key: WithKey,
    directory: tempfile::TempDir,
    fcnt_up: AtomicU32,
}

/// A configuration whose clocks do not make a story wait.
pub(super) fn config() -> Config {
    Config { sweep_period: Duration::from_millis(20), ..Config::default() }
}

impl World {
    pub(super) async fn new() -> Self {
        Self::with(config()).await
    }

    pub(super) async fn with(config: Config) -> Self {
        let store = Store::open(Location::Memory, StoreOptions::default()).await.unwrap();
        Self::on(store, FakeNetwork::new(), Arc::default(), config).await
    }

    pub(super) async fn on(
        store: Store,
        network: Arc<FakeNetwork>,
        join: Arc<FakeJoin>,
        config: Config,
    ) -> Self {
        let bridge = AppBridge::start(
            config,
            store.bridge(),
            store.sealer(),
            &TRANSPORT_KEK,
            network.clone(),
            join.clone(),
        )
        .await
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("admin-key");
        bridge.ensure_admin_key(&key_file).await.unwrap();
        let token = std::fs::read_to_string(&key_file).unwrap();
        let key = WithKey(format!("Bearer {}", token.trim()).parse().unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = bridge.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { store, network, join, bridge, address, channel, key, directory, fcnt_up: AtomicU32::new(0) }
    }

    /// Ends the bridge as a crash of its own process would look like from outside, and starts it on the same store.
    pub(super) async fn restart(self) -> Self {
        let Self { store, network, join, bridge, .. } = self;
        bridge.stop().await;
        Self::on(store, network, join, config()).await
    }

    pub(super) fn key_file(&self) -> std::path::PathBuf {
        self.directory.path().join("admin-key")
    }

    pub(super) fn token(&self) -> &MetadataValue<Ascii> {
        &self.key.0
    }

    pub(super) fn applications(&self) -> ApplicationServiceClient<Client> {
        ApplicationServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }
    pub(super) fn codecs(&self) -> CodecServiceClient<Client> {
        CodecServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }
    pub(super) fn devices(&self) -> DeviceServiceClient<Client> {
        DeviceServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }
    pub(super) fn downlinks(&self) -> DownlinkServiceClient<Client> {
        DownlinkServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }
    pub(super) fn events(&self) -> EventServiceClient<Client> {
        EventServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }
    pub(super) fn profiles(&self) -> ProfileServiceClient<Client> {
        ProfileServiceClient::with_interceptor(self.channel.clone(), self.key.clone())
    }

    /// The application `soil` and the EU868 profile `probe` with a codec.
    pub(super) async fn with_application(self, codec_id: &str) -> Self {
        let request = v1::CreateApplicationRequest { id: "soil".to_owned(), name: "Soil".to_owned() };
        self.applications().create_application(request).await.unwrap();
        let profile = v1::Profile {
            id: "probe".to_owned(),
            region: v1::Region::Eu868 as i32,
            codec_id: codec_id.to_owned(),
            ..v1::Profile::default()
        };
        self.profiles().create_profile(v1::CreateProfileRequest { profile: Some(profile) }).await.unwrap();
        self
    }

    pub(super) fn device(&self, dev_eui: u64) -> v1::Device {
        v1::Device {
            dev_eui: format!("{dev_eui:016x}"),
            join_eui: "70b3d57ed0000000".to_owned(),
            application_id: "soil".to_owned(),
            profile_id: "probe".to_owned(),
            name: format!("probe {dev_eui:x}"),
            tags: [("field".to_owned(), "north".to_owned())].into(),
            ..v1::Device::default()
        }
    }

    pub(super) async fn create_device(&self, dev_eui: u64) {
        let keys =
            v1::RootKeys { app_key: "8f3a1c5e7b2d4f60918273645546372a".to_owned(), nwk_key: String::new() };
        let request = v1::CreateDeviceRequest { device: Some(self.device(dev_eui)), keys: Some(keys) };
        self.devices().create_device(request).await.unwrap();
    }

    /// A world with one device that has joined.
    pub(super) async fn with_joined_device(self) -> Self {
        self.create_device(DEV_EUI).await;
        self.join(DEV_EUI, SESSION, 1);
        self
    }

    /// The network server commits a join.
    pub(super) fn join(&self, dev_eui: u64, session_id: u64, at_us: i64) -> u64 {
        let join = pb::JoinRecord {
            session_id,
            dev_addr: DEV_ADDR,
            join_eui: 0x70b3_d57e_d000_0000,
            wrapped_app_s_key: wrap(&APP_S_KEY),
            kek_label: "loam".to_owned(),
            ..pb::JoinRecord::default()
        };
        self.network.log_record(pb::Record { at_us, dev_eui, kind: Some(record::Kind::Join(join)) })
    }

    /// The network server commits an uplink with the next counter.
    pub(super) fn uplink(&self, payload: &[u8]) -> u64 {
        let fcnt_up = self.fcnt_up.fetch_add(1, Ordering::Relaxed);
        self.network.log_record(uplink(DEV_EUI, SESSION, fcnt_up, payload))
    }

    pub(super) fn told(&self, state: v1::DownlinkState, reason: &str, item_id: &str, fcnt_down: u32) -> u64 {
        let downlink = pb::DownlinkRecord {
            item_id: item_id.to_owned(),
            state: state as u32,
            reason: reason.to_owned(),
            fcnt_down: Some(fcnt_down),
            gateway_eui: 0x16,
            session_id: SESSION,
        };
        self.network.log_record(pb::Record {
            at_us: 5,
            dev_eui: DEV_EUI,
            kind: Some(record::Kind::Downlink(downlink)),
        })
    }

    /// What a device answered, as the network server commits it: without the item, which it does not know.
    pub(super) fn answered(&self, state: v1::DownlinkState, reason: &str, fcnt_down: u32) -> u64 {
        self.told(state, reason, "", fcnt_down)
    }

    pub(super) async fn watch(&self, request: v1::WatchRequest) -> Watching {
        Watching { stream: self.events().watch(request).await.unwrap().into_inner() }
    }
}

/// An uplink as the network server commits it.
pub(super) fn uplink(dev_eui: u64, session_id: u64, fcnt_up: u32, payload: &[u8]) -> pb::Record {
    let mut frm_payload = payload.to_vec();
    crypt_frm_payload(&APP_S_KEY, Direction::Up, DevAddr::new(DEV_ADDR), fcnt_up, &mut frm_payload);
    let uplink = pb::UplinkRecord {
        session_id,
        dev_addr: DEV_ADDR,
        fcnt_up,
        f_port: Some(2),
        frm_payload,
        receptions: vec![pb::ReceptionRecord { gateway_eui: 0x16, rssi_ddbm: -900, ..Default::default() }],
        ..pb::UplinkRecord::default()
    };
    pb::Record { at_us: 1_000 + i64::from(fcnt_up), dev_eui, kind: Some(record::Kind::Uplink(uplink)) }
}

pub(super) fn from_earliest() -> v1::WatchRequest {
    v1::WatchRequest { start: Some(v1::watch_request::Start::Earliest(true)), ..v1::WatchRequest::default() }
}

/// A stream that is read.
pub(super) struct Watching {
    stream: Streaming<v1::WatchResponse>,
}

impl Watching {
    pub(super) async fn message(&mut self) -> v1::WatchResponse {
        tokio::time::timeout(PATIENCE, self.stream.message())
            .await
            .expect("a message in time")
            .unwrap()
            .unwrap()
    }

    /// The end of the stream.
    pub(super) async fn end(&mut self) -> Option<Status> {
        loop {
            match tokio::time::timeout(PATIENCE, self.stream.message()).await.expect("an end in time") {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }

    /// The next event, with its cursor; heartbeats are passed over.
    pub(super) async fn event(&mut self) -> (v1::Event, Vec<u8>) {
        loop {
            let message = self.message().await;
            match message.item.unwrap() {
                Item::Event(event) => return (event, message.cursor),
                Item::Heartbeat(_) => {}
                Item::Gap(gap) => panic!("no gap was expected: {gap:?}"),
            }
        }
    }

    pub(super) async fn uplink(&mut self) -> v1::Uplink {
        loop {
            if let Some(v1::event::Kind::Uplink(uplink)) = self.event().await.0.kind {
                return uplink;
            }
        }
    }

    /// The next update of a downlink item.
    pub(super) async fn downlink(&mut self) -> v1::DownlinkUpdate {
        loop {
            if let Some(v1::event::Kind::Downlink(update)) = self.event().await.0.kind {
                return update;
            }
        }
    }
}

/// Waits until something holds.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
