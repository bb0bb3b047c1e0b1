//! A server for the command line to talk to: it remembers what it was asked and answers from what the test put in.

#![allow(clippy::unwrap_used, dead_code, reason = "each test file uses a part")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::StreamExt as _;
use proto::v1::*;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

/// The API key the fake knows.
pub(crate) const KEY: &str = "sesame";

/// What the fake knows and what it was told.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) applications: Vec<Application>,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) devices: Vec<Device>,
    pub(crate) root_keys: Vec<(String, RootKeys)>,
    pub(crate) activations: Vec<ActivateDeviceRequest>,
    pub(crate) gateways: Vec<list_gateways_response::Item>,
    pub(crate) unseen: Vec<list_unseen_gateways_response::Item>,
    pub(crate) drops: Vec<list_drops_response::Drop>,
    pub(crate) enqueued: Vec<EnqueueDownlinkRequest>,
    pub(crate) tests: Vec<TestCodecRequest>,
    pub(crate) test_answer: TestCodecResponse,
    pub(crate) backups: Vec<String>,
    pub(crate) watches: Vec<WatchRequest>,
    pub(crate) acknowledged: Vec<AcknowledgeRequest>,
    /// What each stream sends; behind the last message of a `Hold` the stream stays open.
    pub(crate) streams: VecDeque<(Vec<WatchResponse>, Ending)>,
}

/// What comes behind the last message of a stream.
#[derive(Clone, Copy)]
pub(crate) enum Ending {
    Close,
    Hold,
}

/// A running fake; it stops when it is dropped.
pub(crate) struct Fake {
    pub(crate) addr: SocketAddr,
    state: Shared,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<State>>);

impl Fake {
    pub(crate) fn start() -> Self {
        let state = Shared::default();
        let service_state = state.clone();
        let (stop, stopped) = oneshot::channel();
        let (ready, bound) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let incoming =
                    tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
                ready.send(incoming.local_addr().unwrap()).unwrap();
                macro_rules! guarded {
                    ($server:ty) => {
                        <$server>::with_interceptor(service_state.clone(), check_key)
                    };
                }
                let serving = tonic::transport::Server::builder()
                    .add_service(guarded!(application_service_server::ApplicationServiceServer<_>))
                    .add_service(guarded!(codec_service_server::CodecServiceServer<_>))
                    .add_service(guarded!(device_service_server::DeviceServiceServer<_>))
                    .add_service(guarded!(downlink_service_server::DownlinkServiceServer<_>))
                    .add_service(guarded!(event_service_server::EventServiceServer<_>))
                    .add_service(guarded!(gateway_service_server::GatewayServiceServer<_>))
                    .add_service(guarded!(profile_service_server::ProfileServiceServer<_>))
                    .add_service(guarded!(system_service_server::SystemServiceServer<_>))
                    .serve_with_incoming(incoming);
                tokio::select! {
                    result = serving => result.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        let addr = bound.recv().unwrap();
        Self { addr, state, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    /// The command, pointed at the fake with the right key.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = loam(arguments);
        command.env("LOAM_SERVER", self.addr.to_string()).env("LOAM_API_KEY", KEY);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).output().unwrap())
    }

    /// An application `farm` and a profile `soil`.
    pub(crate) fn with_farm(self) -> Self {
        self.state().applications.push(Application { id: "farm".to_owned(), ..Application::default() });
        self.state().profiles.push(Profile { id: "soil".to_owned(), ..Profile::default() });
        self
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().unwrap().join();
    }
}

/// What a finished command left.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Fails unless the exit code is this one and every part stands on standard error.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        let told = words(&self.stderr);
        for part in parts {
            assert!(told.contains(part), "{part:?} is missing in {told:?}");
        }
        assert!(!told.contains("panicked"), "{told}");
    }

    #[track_caller]
    pub(crate) fn succeeded(&self) -> &str {
        assert_eq!(self.code, 0, "{}", self.stderr);
        &self.stdout
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.succeeded()).unwrap()
    }
}

/// The text with every run of white space as one space: where lines break depends on the width.
pub(crate) fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The binary in an empty environment and an empty directory of its own.
pub(crate) fn loam(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loam"));
    command
        .args(arguments)
        .env_clear()
        .env("TZ", "UTC")
        .current_dir(Path::new(env!("CARGO_TARGET_TMPDIR")))
        .stdin(Stdio::null());
    command
}

pub(crate) fn run(arguments: &[&str]) -> Outcome {
    Outcome::of(loam(arguments).output().unwrap())
}

fn check_key(request: Request<()>) -> Result<Request<()>, Status> {
    match request.metadata().get("authorization") {
        Some(value) if value.as_bytes() == format!("Bearer {KEY}").as_bytes() => Ok(request),
        _ => Err(Status::unauthenticated("no")),
    }
}

fn missing<T>(what: &str) -> Result<Response<T>, Status> {
    Err(Status::not_found(format!("there is no {what}")))
}

/// Declares methods that answer at once. The signature is the one `async_trait` makes, which does not look into macros.
macro_rules! methods {
    ($($name:ident($request:ident) -> $response:ident = |$state:ident, $message:ident| $body:expr;)*) => {
        $(
            #[allow(unused_variables, unused_mut)]
            fn $name<'a, 'async_trait>(
                &'a self,
                request: Request<$request>,
            ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'async_trait>>
            where
                'a: 'async_trait,
                Self: 'async_trait,
            {
                let mut $state = self.0.lock().unwrap();
                let $message = request.into_inner();
                let mut respond = || $body;
                let response = respond();
                Box::pin(std::future::ready(response))
            }
        )*
    };
}

fn answer<T>(message: T) -> Result<Response<T>, Status> {
    Ok(Response::new(message))
}

#[tonic::async_trait]
impl application_service_server::ApplicationService for Shared {
    async fn create_application(
        &self,
        request: Request<CreateApplicationRequest>,
    ) -> Result<Response<CreateApplicationResponse>, Status> {
        let mut state = self.0.lock().unwrap();
        let message = request.into_inner();
        if state.applications.iter().any(|a| a.id == message.id) {
            return Err(Status::already_exists(format!("application {} exists already", message.id)));
        }
        let application = Application { id: message.id, name: message.name, ..Application::default() };
        state.applications.push(application.clone());
        answer(CreateApplicationResponse { application: Some(application) })
    }
    async fn get_application(
        &self,
        request: Request<GetApplicationRequest>,
    ) -> Result<Response<GetApplicationResponse>, Status> {
        missing(&format!("application {:?}", request.into_inner().id))
    }
    /// One application a page, so that paging is seen.
    async fn list_applications(
        &self,
        request: Request<ListApplicationsRequest>,
    ) -> Result<Response<ListApplicationsResponse>, Status> {
        let state = self.0.lock().unwrap();
        let index: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let more = index + 1 < state.applications.len();
        answer(ListApplicationsResponse {
            applications: state.applications.get(index).cloned().into_iter().collect(),
            next_page_token: if more { (index + 1).to_string() } else { String::new() },
        })
    }
    async fn delete_application(
        &self,
        request: Request<DeleteApplicationRequest>,
    ) -> Result<Response<DeleteApplicationResponse>, Status> {
        let id = request.into_inner().id;
        Err(Status::failed_precondition(format!("application {id} has 3 devices; delete or move them first")))
    }
}

#[tonic::async_trait]
impl codec_service_server::CodecService for Shared {
    methods! {
        set_codec(SetCodecRequest) -> SetCodecResponse = |state, message| answer(SetCodecResponse {
            codec: Some(Codec { id: message.id, script: message.script, revision: 1, updated_at_us: 0 }),
        });
        get_codec(GetCodecRequest) -> GetCodecResponse = |state, message| missing("codec");
        list_codecs(ListCodecsRequest) -> ListCodecsResponse = |state, message| answer(ListCodecsResponse::default());
        delete_codec(DeleteCodecRequest) -> DeleteCodecResponse = |state, message| missing("codec");
        test_codec(TestCodecRequest) -> TestCodecResponse = |state, message| {
            state.tests.push(message);
            answer(state.test_answer.clone())
        };
    }
}

#[tonic::async_trait]
impl device_service_server::DeviceService for Shared {
    methods! {
        create_device(CreateDeviceRequest) -> CreateDeviceResponse = |state, message| {
            let device = message.device.unwrap();
            if device.name == "cursed" {
                return Err(Status::invalid_argument("name: nobody may be called that"));
            }
            if state.devices.iter().any(|d| d.dev_eui == device.dev_eui) {
                return Err(Status::already_exists(format!("device {} exists already", device.dev_eui)));
            }
            if let Some(keys) = message.keys {
                state.root_keys.push((device.dev_eui.clone(), keys));
            }
            state.devices.push(device.clone());
            answer(CreateDeviceResponse { device: Some(device) })
        };
        get_device(GetDeviceRequest) -> GetDeviceResponse = |state, message| {
            let Some(device) = state.devices.iter().find(|d| d.dev_eui == message.dev_eui) else {
                return missing(&format!("device {}", message.dev_eui));
            };
            let activation = state.activations.iter().find(|a| a.dev_eui == message.dev_eui);
            let device_state = activation.map(|a| DeviceState {
                has_session: true,
                dev_addr: a.dev_addr.clone(),
                activation: "abp".to_owned(),
                ..DeviceState::default()
            });
            answer(GetDeviceResponse { device: Some(device.clone()), state: device_state, queued_downlinks: 0 })
        };
        list_devices(ListDevicesRequest) -> ListDevicesResponse = |state, message| answer(ListDevicesResponse {
            devices: state.devices.clone(),
            next_page_token: String::new(),
        });
        update_device(UpdateDeviceRequest) -> UpdateDeviceResponse = |state, message| {
            let device = message.device.unwrap();
            let place = state.devices.iter_mut().find(|d| d.dev_eui == device.dev_eui).unwrap();
            *place = device.clone();
            answer(UpdateDeviceResponse { device: Some(device) })
        };
        delete_device(DeleteDeviceRequest) -> DeleteDeviceResponse = |state, message| {
            missing(&format!("device {}", message.dev_eui))
        };
        activate_device(ActivateDeviceRequest) -> ActivateDeviceResponse = |state, message| {
            state.activations.push(message);
            answer(ActivateDeviceResponse { session_id: 7 })
        };
        set_keys(SetKeysRequest) -> SetKeysResponse = |state, message| {
            state.root_keys.push((message.dev_eui, message.keys.unwrap()));
            answer(SetKeysResponse {})
        };
        get_keys_status(GetKeysStatusRequest) -> GetKeysStatusResponse = |state, message| {
            answer(GetKeysStatusResponse { has_app_key: true, ..GetKeysStatusResponse::default() })
        };
        delete_keys(DeleteKeysRequest) -> DeleteKeysResponse = |state, message| missing("device");
    }
}

#[tonic::async_trait]
impl downlink_service_server::DownlinkService for Shared {
    methods! {
        enqueue_downlink(EnqueueDownlinkRequest) -> EnqueueDownlinkResponse = |state, message| {
            let downlink = Downlink { id: "d1".to_owned(), dev_eui: message.dev_eui.clone(), ..Downlink::default() };
            state.enqueued.push(message);
            answer(EnqueueDownlinkResponse { downlink: Some(downlink), duplicate: false })
        };
        list_downlinks(ListDownlinksRequest) -> ListDownlinksResponse = |state, message| {
            let item = Downlink {
                id: "0661005260e8a75010ee906235fd97".to_owned(),
                f_port: 3,
                payload: vec![7; 40],
                state: DownlinkState::GatewayAcknowledged.into(),
                not_after_us: Some(1_700_000_000_000_000),
                confirmed: true,
                ..Downlink::default()
            };
            answer(ListDownlinksResponse { downlinks: vec![item], next_page_token: String::new() })
        };
        cancel_downlink(CancelDownlinkRequest) -> CancelDownlinkResponse = |state, message| {
            Err(Status::failed_precondition(format!("downlink {} has left already", message.id)))
        };
    }
}

#[tonic::async_trait]
impl event_service_server::EventService for Shared {
    type WatchStream = futures_util::stream::BoxStream<'static, Result<WatchResponse, Status>>;

    methods! {
        acknowledge(AcknowledgeRequest) -> AcknowledgeResponse = |state, message| {
            state.acknowledged.push(message);
            answer(AcknowledgeResponse {})
        };
        list_consumers(ListConsumersRequest) -> ListConsumersResponse = |state, message| answer(ListConsumersResponse {
            consumers: vec![list_consumers_response::Consumer {
                name: "erp".to_owned(),
                position: 5,
                lag: 2,
                ..list_consumers_response::Consumer::default()
            }],
            head: 7,
            earliest: 1,
        });
        delete_consumer(DeleteConsumerRequest) -> DeleteConsumerResponse = |state, message| missing("consumer");
        list_drops(ListDropsRequest) -> ListDropsResponse = |state, message| {
            answer(ListDropsResponse { drops: state.drops.clone() })
        };
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let mut state = self.0.lock().unwrap();
        state.watches.push(request.into_inner());
        let (messages, ending) = state.streams.pop_front().unwrap_or((Vec::new(), Ending::Hold));
        let sent = futures_util::stream::iter(messages.into_iter().map(Ok));
        answer(match ending {
            Ending::Close => sent.boxed(),
            Ending::Hold => sent.chain(futures_util::stream::pending()).boxed(),
        })
    }
}

#[tonic::async_trait]
impl gateway_service_server::GatewayService for Shared {
    methods! {
        create_gateway(CreateGatewayRequest) -> CreateGatewayResponse = |state, message| {
            answer(CreateGatewayResponse { gateway: message.gateway })
        };
        get_gateway(GetGatewayRequest) -> GetGatewayResponse = |state, message| {
            let item = state.gateways.first().cloned().unwrap();
            answer(GetGatewayResponse { gateway: item.gateway, status: item.status })
        };
        list_gateways(ListGatewaysRequest) -> ListGatewaysResponse = |state, message| answer(ListGatewaysResponse {
            gateways: state.gateways.clone(),
            next_page_token: String::new(),
        });
        delete_gateway(DeleteGatewayRequest) -> DeleteGatewayResponse = |state, message| missing("gateway");
        list_unseen_gateways(ListUnseenGatewaysRequest) -> ListUnseenGatewaysResponse = |state, message| {
            answer(ListUnseenGatewaysResponse { gateways: state.unseen.clone() })
        };
    }
}

#[tonic::async_trait]
impl profile_service_server::ProfileService for Shared {
    methods! {
        create_profile(CreateProfileRequest) -> CreateProfileResponse = |state, message| {
            state.profiles.extend(message.profile.clone());
            answer(CreateProfileResponse { profile: message.profile })
        };
        get_profile(GetProfileRequest) -> GetProfileResponse = |state, message| {
            answer(GetProfileResponse { profile: state.profiles.iter().find(|p| p.id == message.id).cloned() })
        };
        list_profiles(ListProfilesRequest) -> ListProfilesResponse = |state, message| answer(ListProfilesResponse {
            profiles: state.profiles.clone(),
            next_page_token: String::new(),
        });
        update_profile(UpdateProfileRequest) -> UpdateProfileResponse = |state, message| {
            state.profiles = message.profile.clone().into_iter().collect();
            answer(UpdateProfileResponse { profile: message.profile })
        };
        delete_profile(DeleteProfileRequest) -> DeleteProfileResponse = |state, message| missing("profile");
    }
}

#[tonic::async_trait]
impl system_service_server::SystemService for Shared {
    methods! {
        get_info(GetInfoRequest) -> GetInfoResponse = |state, message| answer(GetInfoResponse::default());
        backup(BackupRequest) -> BackupResponse = |state, message| {
            state.backups.push(message.path);
            answer(BackupResponse { size_bytes: 4096 })
        };
    }
}

/// An uplink event and its cursor.
pub(crate) fn uplink(number: u8) -> WatchResponse {
    let uplink = Uplink {
        fcnt_up: number.into(),
        f_port: Some(2),
        payload: vec![number],
        object_json: format!("{{\"moisture\":{number}}}"),
        ..Uplink::default()
    };
    let event = Event {
        id: format!("e{number}"),
        dev_eui: "70b3d57ed0000001".to_owned(),
        device_name: "north-1".to_owned(),
        received_at_us: 1_700_000_000_000_000,
        kind: Some(event::Kind::Uplink(uplink)),
        ..Event::default()
    };
    WatchResponse { item: Some(watch_response::Item::Event(event)), cursor: vec![number] }
}

/// The first message of every stream.
pub(crate) fn opening() -> WatchResponse {
    WatchResponse { item: None, cursor: vec![0] }
}
