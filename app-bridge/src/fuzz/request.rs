use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{Request, header};
use parking_lot::Mutex;
use prost::Message;
use proto::v1;
use sha2::{Digest as _, Sha256};
use store::{ApiKeyRow, Location, Store, StoreOptions};
use tokio::runtime::Runtime;
use tonic::codegen::Service as _;
use tonic::{Code, Status};

use crate::testing::{FakeJoin, FakeNetwork};
use crate::{AppBridge, Config};

/// A call of the public API: the first byte chooses the method, the rest is the request. It goes the whole way, over a store in memory.
///
/// Whatever a message asks, the answer is what was asked for or a refusal whose fault is the caller's; it has words, not too many, and
/// none of them is a key. Bytes that are no message are refused.
pub fn api_request(bytes: &[u8]) {
    let Some((&number, message)) = bytes.split_first() else { return };
    let Some(method) = METHODS.get(usize::from(number) % METHODS.len()) else { return };
    if message.len() > MESSAGE_LEN_MAX {
        return;
    }
    let status = with_world(|world| world.call(method.path, message));
    let Some(secrets) = (method.secrets)(message) else {
        assert_ne!(status.code(), Code::Ok, "{}: no message was taken for one", method.path);
        return;
    };
    let expected = match status.code() {
        Code::Ok => return,
        Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::NotFound
        | Code::OutOfRange
        | Code::Unimplemented => true,
        Code::Aborted
        | Code::Cancelled
        | Code::DataLoss
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::Unauthenticated
        | Code::Unavailable
        | Code::Unknown => false,
    };
    assert!(expected, "{}: {status:?}", method.path);
    let words = status.message();
    assert!(
        !words.is_empty() && words.len() <= WORDS_LEN_MAX,
        "{}: {} bytes: {words}",
        method.path,
        words.len()
    );
    for secret in secrets.iter().filter(|secret| secret.len() >= SECRET_LEN_MIN) {
        assert!(!words.contains(secret.as_str()), "{}: a key is shown: {words}", method.path);
    }
}

struct Method {
    path: &'static str,
    /// The keys in a request; `None` when the bytes are no request.
    secrets: fn(&[u8]) -> Option<Vec<String>>,
}

/// A request without keys.
fn none<M: Message + Default>(bytes: &[u8]) -> Option<Vec<String>> {
    M::decode(bytes).ok().map(|_| Vec::new())
}

fn of_keys(keys: Option<v1::RootKeys>) -> Vec<String> {
    keys.map_or_else(Vec::new, |keys| vec![keys.app_key, keys.nwk_key])
}

macro_rules! methods {
    ($($service:ident { $($method:ident($request:ident) $(keys $secrets:expr)?,)* })*) => {
        const METHODS: &[Method] = &[
            $($(Method {
                path: concat!("/loam.v1.", stringify!($service), "/", stringify!($method)),
                secrets: methods!(@secrets $request $($secrets)?),
            },)*)*
        ];
    };
    (@secrets $request:ident) => { none::<v1::$request> };
    (@secrets $request:ident $secrets:expr) => { |bytes| v1::$request::decode(bytes).ok().map($secrets) };
}

methods! {
    ApplicationService {
        CreateApplication(CreateApplicationRequest),
        GetApplication(GetApplicationRequest),
        ListApplications(ListApplicationsRequest),
        DeleteApplication(DeleteApplicationRequest),
    }
    CodecService {
        SetCodec(SetCodecRequest),
        GetCodec(GetCodecRequest),
        ListCodecs(ListCodecsRequest),
        DeleteCodec(DeleteCodecRequest),
        TestCodec(TestCodecRequest),
    }
    DeviceService {
        CreateDevice(CreateDeviceRequest) keys |request| of_keys(request.keys),
        GetDevice(GetDeviceRequest),
        ListDevices(ListDevicesRequest),
        UpdateDevice(UpdateDeviceRequest),
        DeleteDevice(DeleteDeviceRequest),
        ActivateDevice(ActivateDeviceRequest) keys |request| {
            vec![request.nwk_s_key, request.app_s_key, request.s_nwk_s_int_key, request.nwk_s_enc_key]
        },
        SetKeys(SetKeysRequest) keys |request| of_keys(request.keys),
        GetKeysStatus(GetKeysStatusRequest),
        DeleteKeys(DeleteKeysRequest),
    }
    DownlinkService {
        EnqueueDownlink(EnqueueDownlinkRequest),
        ListDownlinks(ListDownlinksRequest),
        CancelDownlink(CancelDownlinkRequest),
    }
    EventService {
        Watch(WatchRequest),
        Acknowledge(AcknowledgeRequest),
        ListConsumers(ListConsumersRequest),
        DeleteConsumer(DeleteConsumerRequest),
        ListDrops(ListDropsRequest),
    }
    GatewayService {
        CreateGateway(CreateGatewayRequest),
        GetGateway(GetGatewayRequest),
        ListGateways(ListGatewaysRequest),
        DeleteGateway(DeleteGatewayRequest),
        ListUnseenGateways(ListUnseenGatewaysRequest),
    }
    ProfileService {
        CreateProfile(CreateProfileRequest),
        GetProfile(GetProfileRequest),
        ListProfiles(ListProfilesRequest),
        UpdateProfile(UpdateProfileRequest),
        DeleteProfile(DeleteProfileRequest),
    }
    SystemService {
        GetInfo(GetInfoRequest),
        Backup(BackupRequest),
    }
}

/// An app-bridge that has an application, a profile, a codec and a device.
struct World {
    runtime: Runtime,
    router: Router,
    bridge: AppBridge,
    calls: u32,
}

fn with_world<T>(work: impl FnOnce(&mut World) -> T) -> T {
    static WORLD: Mutex<Option<World>> = Mutex::new(None);
    let mut place = WORLD.lock();
    // What calls have left behind makes room from time to time.
    if let Some(old) = place.take_if(|world| world.calls >= CALLS_PER_WORLD) {
        old.end();
    }
    work(place.get_or_insert_with(World::new))
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let bridge = runtime.block_on(async {
            let options = StoreOptions { group_max_delay_ms: 0, ..StoreOptions::default() };
            let store = Store::open(Location::Memory, options).await.expect("a store in memory");
            let hash = Sha256::digest(TOKEN.as_bytes()).into();
            let key = ApiKeyRow { name: "fuzz".to_owned(), hash, created_at_us: 0 };
            store.bridge().put_api_key(key).await.expect("the key is stored");
            let config = Config {
                codec_limits: crate::codec::Limits { time_ms: 20, ..Default::default() },
                ..Config::default()
            };
            let (network, join) = (FakeNetwork::new(), Arc::new(FakeJoin::default()));
            AppBridge::start(config, store.bridge(), store.sealer(), &[7; 16], network, join).await
        });
        let bridge = bridge.expect("the bridge starts");
        let mut world = Self { runtime, router: bridge.router(), bridge, calls: 0 };
        let application = v1::CreateApplicationRequest { id: "soil".to_owned(), name: "Soil".to_owned() };
        world.set_up("ApplicationService/CreateApplication", &application);
        let codec = v1::SetCodecRequest { id: "soil".to_owned(), script: CODEC.to_owned() };
        world.set_up("CodecService/SetCodec", &codec);
        let profile = v1::Profile {
            id: "probe".to_owned(),
            region: v1::Region::Eu868 as i32,
            codec_id: "soil".to_owned(),
            ..v1::Profile::default()
        };
        world.set_up("ProfileService/CreateProfile", &v1::CreateProfileRequest { profile: Some(profile) });
        let device = v1::Device {
            dev_eui: "70b3d57ed0000001".to_owned(),
            join_eui: "70b3d57ed0000000".to_owned(),
            application_id: "soil".to_owned(),
            profile_id: "probe".to_owned(),
            ..v1::Device::default()
        };
        world.set_up(
            "DeviceService/CreateDevice",
            &v1::CreateDeviceRequest { device: Some(device), keys: None },
        );
        world
    }

    fn set_up(&mut self, method: &str, request: &impl Message) {
        let status = self.call(&format!("/loam.v1.{method}"), &request.encode_to_vec());
        assert_eq!(status.code(), Code::Ok, "{method}: {status:?}");
    }

    fn call(&mut self, path: &str, message: &[u8]) -> Status {
        self.calls += 1;
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).expect("a short message").to_be_bytes());
        body.extend_from_slice(message);
        let request = Request::post(path)
            .version(http::Version::HTTP_2)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
            .body(Body::from(body))
            .expect("a request");
        let response = self.runtime.block_on(async {
            // A router is always ready.
            self.router.call(request).await.unwrap_or_else(|never| match never {})
        });
        assert_eq!(response.status(), http::StatusCode::OK, "{path}");
        Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok(""))
    }

    fn end(self) {
        self.runtime.block_on(self.bridge.stop());
    }
}

const TOKEN: &str = "loam_fuzz_0123456789abcdef";
const CODEC: &str = "
    function decodeUplink(input) { return { data: { len: input.bytes.length, port: input.fPort } }; }
    function encodeDownlink(input) { return { bytes: [input.data.valve ? 1 : 0], fPort: 3 }; }
";
const MESSAGE_LEN_MAX: usize = 65_536;
const WORDS_LEN_MAX: usize = 1_024;
const SECRET_LEN_MIN: usize = 8;
const CALLS_PER_WORLD: u32 = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_api_is_called() {
        let set = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).expect("descriptors");
        let public = set.file.iter().filter(|file| file.package() == "loam.v1");
        let mut known: Vec<String> = public
            .flat_map(|file| &file.service)
            .flat_map(|service| {
                service.method.iter().map(|m| format!("/loam.v1.{}/{}", service.name(), m.name()))
            })
            .collect();
        let mut called: Vec<String> = METHODS.iter().map(|method| method.path.to_owned()).collect();
        known.sort();
        called.sort();
        assert_eq!(called, known);
    }
}
