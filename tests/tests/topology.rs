//! The three roles in three processes. What one process does, three do: join, talk both ways, stream events; and one of them
//! may be away for a while.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loam_tests::story::{self, GATEWAY, Stream, hex};
use loam_tests::{Client, Loam, eventually};
use mac::crypto::derive_10;
use mac::ids::{DevEui, DevNonce, GatewayEui, JoinEui};
use mac::join_frame::JoinAccept;
use mac::region::RegionId;
use nix::sys::signal::Signal;
use proto::v1::{self, DownlinkState, Region, event, watch_request::Start};
use simulator::device::{RootKeys, VirtualDevice};
use simulator::gateway::{Downlinks, VirtualGateway};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};

const DEV_EUI: u64 = 0x70b3_d57e_d005_0002;
const JOIN_EUI: u64 = 0x70b3_d57e_d000_0001;
const APP_KEY: [u8; 16] = *b"\x8a\x3f\x5c\x1e\x9b\x7d\x20\x46\xe1\xc8\xa9\x7f\x3b\x5d\x60\x24";
const CONSUMER: &str = "business";
/// When a device stops listening for its accept.
const JOIN_ACCEPT_DELAY2: Duration = Duration::from_secs(6);

/// AS-001: joins, uplinks, downlinks and events over three processes; the AppSKey is in one of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_do_what_one_does() {
    let installation = Installation::start().await;
    let client = installation.client();
    let (gateway, mut downlinks) = installation.gateway(&client).await;
    let mut device = installation.device(&client, DEV_EUI).await;
    let mut stream = Stream::earliest(&client).await;

    // The device joins.
    let accept = story::join_over_the_air(&gateway, &mut downlinks, &mut device).await;
    let join = loop {
        if let Some(event::Kind::Join(join)) = stream.event().await.kind {
            break join;
        }
    };
    assert_eq!(join.dev_addr, device.dev_addr().expect("it has joined").to_string());

    // It talks, and is answered with what waited for it.
    let enqueued = enqueue(&client, b"open").await;
    let sent = device.uplink(0, Some((2, b"21.5")), true);
    gateway.push(&[story::heard(&gateway, &sent)]).await.expect("loopback takes a datagram");
    let (event, uplink) = stream.uplink().await;
    assert_eq!(
        (event.dev_eui.as_str(), uplink.payload.as_slice()),
        (&*format!("{DEV_EUI:016x}"), b"21.5".as_slice())
    );
    let heard = device.take_downlink(&next(&mut downlinks).await).expect("a downlink for this device");
    assert!(heard.ack);
    // The payload may leave with the next answer, where the hint came behind this uplink.
    let mut payload = heard.payload;
    while payload.is_none() {
        let sent = device.uplink(0, Some((2, b"21.6")), true);
        gateway.push(&[story::heard(&gateway, &sent)]).await.expect("loopback takes a datagram");
        payload =
            device.take_downlink(&next(&mut downlinks).await).expect("a downlink for this device").payload;
    }
    assert_eq!(payload, Some((9, b"open".to_vec())));
    loop {
        if let Some(event::Kind::Downlink(update)) = stream.event().await.kind
            && update.downlink_id == enqueued
            && update.state == i32::from(DownlinkState::GatewayAcknowledged)
        {
            break;
        }
    }

    // The network server holds the frames and not the key to them; the root key is with the join server alone.
    let opened = JoinAccept::open(&accept, &APP_KEY).expect("an accept").accept;
    let (_, app_s_key) = derive_10(&APP_KEY, opened.join_nonce, opened.net_id, DevNonce::new(1));
    for role in [&installation.network, &installation.join, &installation.bridge] {
        nowhere_in(&role.dir, app_s_key.expose());
        nowhere_in(&role.dir, &APP_KEY);
    }
    let app_kek = fs::read_to_string(installation.bridge.dir.join("app-kek")).expect("the key file");
    let foreign = fs::read_to_string(installation.network.dir.join("app-kek")).unwrap_or_default();
    assert_ne!(app_kek.trim(), foreign.trim(), "the network server cannot unwrap an AppSKey");

    // Strangers are not served between the roles.
    let internal = installation.network.internal();
    let channel =
        tonic::transport::Endpoint::from_shared(format!("http://{internal}")).expect("a URL").connect_lazy();
    let mut stranger = proto::internal::network_service_client::NetworkServiceClient::new(channel);
    let refused = stranger.stats(proto::internal::StatsRequest {}).await.expect_err("there is no token");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);

    for role in [installation.bridge, installation.network, installation.join] {
        assert_eq!(role.loam.expect("it runs").terminate().code(), Some(0), "{}", role.name);
    }
}

/// AS-003: the bridge dies, frames come in, the bridge comes back: its readers go on behind what they acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_was_away_delivers_what_came_meanwhile() {
    let mut installation = Installation::start().await;
    let client = installation.client();
    let (gateway, mut downlinks) = installation.gateway(&client).await;
    let mut device = installation.device(&client, DEV_EUI).await;
    story::join_over_the_air(&gateway, &mut downlinks, &mut device).await;
    let mut stream = consume(&client).await;
    let mut sent = BTreeSet::new();
    for _ in 0..3 {
        sent.insert(send(&gateway, &mut device).await);
        let (_, uplink) = stream.uplink().await;
        assert!(sent.contains(&uplink.fcnt_up));
    }
    let cursor = stream.cursor.clone();
    let acknowledge = v1::AcknowledgeRequest { consumer: CONSUMER.into(), cursor };
    client.clone().events.acknowledge(acknowledge).await.expect("a position is kept");
    drop(stream);

    installation.bridge.kill();
    let mut meanwhile = Vec::new();
    for _ in 0..5 {
        meanwhile.push(send(&gateway, &mut device).await);
    }
    // They are accepted without anybody who could decode them.
    eventually("the network server has committed them", async || {
        let (_, metrics) = story::http_get(installation.network.api(), "/metrics").await;
        metrics.lines().any(|line| line == "loam_uplinks_total 8").then_some(())
    })
    .await;
    installation.start_bridge().await;

    let client = installation.client();
    let mut stream = consume(&client).await;
    let arrived: Vec<_> = stream.uplinks(5).await.into_iter().map(|(_, uplink)| uplink).collect();
    assert_eq!(arrived.iter().map(|uplink| uplink.fcnt_up).collect::<Vec<_>>(), meanwhile);
    assert!(arrived.iter().all(|uplink| uplink.payload == b"21.5"), "its keys came back with it");
    // And it goes on.
    let fcnt = send(&gateway, &mut device).await;
    assert_eq!(stream.uplink().await.1.fcnt_up, fcnt);
    enqueue(&client, b"shut").await;
    loop {
        let sent = device.uplink(0, Some((2, b"21.5")), true);
        gateway.push(&[story::heard(&gateway, &sent)]).await.expect("loopback takes a datagram");
        let heard = device.take_downlink(&next(&mut downlinks).await).expect("a downlink for this device");
        if let Some((port, payload)) = heard.payload {
            assert_eq!((port, payload.as_slice()), (9, b"shut".as_slice()));
            break;
        }
    }
}

/// BACKEND-033: without the join server nobody joins, and whoever has joined goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_join_server_sessions_go_on_and_joins_are_refused_by_name() {
    let mut installation = Installation::start().await;
    let client = installation.client();
    let (gateway, mut downlinks) = installation.gateway(&client).await;
    let mut device = installation.device(&client, DEV_EUI).await;
    let mut newcomer = installation.device(&client, DEV_EUI + 1).await;
    story::join_over_the_air(&gateway, &mut downlinks, &mut device).await;

    installation.join.kill();
    let request = newcomer.join_request(0);
    gateway.push(&[story::heard(&gateway, &request)]).await.expect("loopback takes a datagram");
    story::drops_reach(&client, "join_server_unavailable", 1).await;
    let told = story::drops(&client).await;
    let drop = told.iter().find(|d| d.reason == "join_server_unavailable").expect("a person sees it");
    assert_eq!(drop.dev_eui, newcomer.dev_eui().to_string());
    assert!(drop.hint.contains("join server"), "{drop:?}");
    let mut stream = Stream::latest(&client).await;
    let fcnt = send(&gateway, &mut device).await;
    assert_eq!(stream.uplink().await.1.fcnt_up, fcnt);
    let mut registrar = client.clone();
    let create = v1::CreateDeviceRequest { device: Some(otaa_message(DEV_EUI + 2)), keys: Some(root_keys()) };
    let refused = registrar.devices.create_device(create).await.expect_err("nobody can keep its key");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    let get = v1::GetDeviceRequest { dev_eui: format!("{:016x}", DEV_EUI + 2) };
    assert_eq!(registrar.devices.get_device(get).await.expect_err("not half").code(), tonic::Code::NotFound);

    // It comes back, and the device that asked again is answered.
    installation.start_join().await;
    story::join_over_the_air(&gateway, &mut downlinks, &mut newcomer).await;
    let fcnt = send(&gateway, &mut newcomer).await;
    let (event, uplink) = stream.uplink().await;
    assert_eq!((event.dev_eui, uplink.fcnt_up), (newcomer.dev_eui().to_string(), fcnt));
}

/// A process that plays some roles says which settings it misses, before it makes anything.
#[test]
fn a_role_without_its_links_is_refused_with_the_keys_to_set() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (role, keys) in [
        (
            "network-server",
            vec!["internal.bind", "internal.token_file", "internal.join_url", "internal.bridge_url"],
        ),
        (
            "app-bridge",
            vec!["internal.bind", "internal.token_file", "internal.join_url", "internal.network_url"],
        ),
        ("join-server", vec!["internal.bind", "internal.token_file"]),
    ] {
        let data_dir = dir.path().join(role);
        let output = std::process::Command::new(loam_tests::binary())
            .args(["serve", "--role", role, "--data-dir"])
            .arg(&data_dir)
            .output()
            .expect("the binary is built");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{err}");
        for key in keys {
            assert!(err.contains(key), "{role}: {key}: {err}");
        }
        assert!(!data_dir.exists(), "nothing is made");
    }
}

/// OPS-001: a token out of an example is no secret; nothing starts with it and nothing is made.
#[test]
fn a_role_token_that_is_a_placeholder_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data_dir = dir.path().join("data");
    let file = dir.path().join("token");
    for placeholder in ["you-must-replace-this", "CHANGE_ME_CHANGE_ME", "0000000000000000"] {
        fs::write(&file, placeholder).expect("a file");
        let output = std::process::Command::new(loam_tests::binary())
            .args(["serve", "--role", "join-server", "--data-dir"])
            .arg(&data_dir)
            .env("LOAM_INTERNAL__BIND", "127.0.0.1:0")
            .env("LOAM_INTERNAL__TOKEN_FILE", &file)
            .stdin(std::process::Stdio::null())
            .output()
            .expect("the binary is built");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{placeholder}: {err}");
        assert!(err.contains(file.to_str().expect("UTF-8")) && err.contains("placeholder"), "{err}");
        assert!(!err.contains(placeholder), "a token is not repeated: {err}");
        assert!(!data_dir.join("endpoints.json").exists(), "nobody is told of a server that is not there");
    }
}

/// BACKEND-033: a join server that takes calls and never answers costs one join its window, and nothing else waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_server_that_stalls_costs_the_joins_and_nothing_else() {
    let installation = Installation::start().await;
    let client = installation.client();
    let (gateway, mut downlinks) = installation.gateway(&client).await;
    let mut device = installation.device(&client, DEV_EUI).await;
    let mut newcomer = installation.device(&client, DEV_EUI + 1).await;
    story::join_over_the_air(&gateway, &mut downlinks, &mut device).await;
    let stalled = installation.join.loam.as_ref().expect("it runs").pid();
    signal(stalled, Signal::SIGSTOP);

    let request = newcomer.join_request(0);
    let asked = Instant::now();
    gateway.push(&[story::heard(&gateway, &request)]).await.expect("loopback takes a datagram");
    let mut stream = Stream::latest(&client).await;
    for _ in 0..10 {
        let sent = device.uplink(0, Some((2, b"21.5")), true);
        gateway.push(&[story::heard(&gateway, &sent)]).await.expect("loopback takes a datagram");
        assert_eq!(stream.uplink().await.1.fcnt_up, sent.fcnt);
        assert!(device.take_downlink(&next(&mut downlinks).await).expect("a downlink for this device").ack);
    }
    story::drops_reach(&client, "join_server_unavailable", 1).await;
    assert!(asked.elapsed() < JOIN_ACCEPT_DELAY2, "{:?}", asked.elapsed());
    let told = story::drops(&client).await;
    let drop = told.iter().find(|d| d.reason == "join_server_unavailable").expect("a person sees it");
    assert_eq!(drop.dev_eui, newcomer.dev_eui().to_string());

    // It wakes up; the device that asks again is answered.
    signal(stalled, Signal::SIGCONT);
    story::join_over_the_air(&gateway, &mut downlinks, &mut newcomer).await;
}

// ---- words of these tests ------------------------------------------------------------------------------------------

/// Three processes; each reaches the others through a [`Relay`], so that one may come back at another port.
struct Installation {
    network: Role,
    join: Role,
    bridge: Role,
    /// Under all of them; removed last.
    dir: TempDir,
}

/// One process and the way the others take to it.
struct Role {
    name: &'static str,
    dir: PathBuf,
    relay: Relay,
    loam: Option<Loam>,
}

impl Installation {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("token"), "a token that all three of them share".replace(' ', "-"))
            .expect("a file");
        let mut installation = Self {
            network: Role::new(dir.path(), "network-server").await,
            join: Role::new(dir.path(), "join-server").await,
            bridge: Role::new(dir.path(), "app-bridge").await,
            dir,
        };
        installation.start_join().await;
        // Both ends of the AppSKey's way have the key that wraps it.
        fs::create_dir(&installation.bridge.dir).expect("a directory");
        fs::copy(installation.join.dir.join("app-kek"), installation.bridge.dir.join("app-kek"))
            .expect("a copy");
        let settings = [
            ("LOAM_INTERNAL__JOIN_URL", installation.join.relay.url()),
            ("LOAM_INTERNAL__BRIDGE_URL", installation.bridge.relay.url()),
        ];
        installation.network.start(installation.dir.path(), &settings);
        installation.start_bridge().await;
        installation
    }

    #[allow(clippy::unused_async, reason = "alike the other one")]
    async fn start_join(&mut self) {
        self.join.start(self.dir.path(), &[]);
    }

    async fn start_bridge(&mut self) {
        let settings = [
            ("LOAM_INTERNAL__JOIN_URL", self.join.relay.url()),
            ("LOAM_INTERNAL__NETWORK_URL", self.network.relay.url()),
        ];
        self.bridge.start(self.dir.path(), &settings);
        // The API answers when the bridge has found the network server.
        let client = self.client();
        eventually("the roles have found each other", async || {
            client.clone().system.get_info(v1::GetInfoRequest {}).await.ok()
        })
        .await;
    }

    fn client(&self) -> Client {
        self.bridge.loam.as_ref().expect("it runs").client()
    }

    /// Registers the basics and connects the one gateway.
    async fn gateway(&self, client: &Client) -> (VirtualGateway, Downlinks) {
        story::register_basics(client, Region::Eu868, &[GATEWAY]).await;
        let udp = self.network.loam.as_ref().expect("it runs").udp;
        VirtualGateway::connect(udp, GatewayEui::new(GATEWAY)).await.expect("a downlink path")
    }

    /// Registers a device that joins.
    async fn device(&self, client: &Client, dev_eui: u64) -> VirtualDevice {
        let create = v1::CreateDeviceRequest { device: Some(otaa_message(dev_eui)), keys: Some(root_keys()) };
        client.clone().devices.create_device(create).await.expect("a new device");
        let root = RootKeys { app_key: APP_KEY, nwk_key: None };
        VirtualDevice::otaa(DevEui::new(dev_eui), JoinEui::new(JOIN_EUI), RegionId::Eu868, root)
    }
}

impl Role {
    async fn new(parent: &Path, name: &'static str) -> Self {
        Self { name, dir: parent.join(name), relay: Relay::open().await, loam: None }
    }

    fn start(&mut self, parent: &Path, links: &[(&str, String)]) {
        let token = parent.join("token");
        let mut settings = vec![
            ("LOAM_SERVER__ROLES", self.name),
            ("LOAM_INTERNAL__BIND", "127.0.0.1:0"),
            ("LOAM_INTERNAL__TOKEN_FILE", token.to_str().expect("UTF-8")),
        ];
        settings.extend(links.iter().map(|(name, value)| (*name, value.as_str())));
        self.loam = Some(Loam::start_with(&self.dir, &settings));
        self.relay.lead_to(self.internal());
    }

    fn kill(&mut self) {
        self.relay.cut();
        self.loam.take().expect("it runs").kill();
    }

    fn api(&self) -> SocketAddr {
        self.loam.as_ref().expect("it runs").api
    }

    /// Where it serves the other roles.
    fn internal(&self) -> SocketAddr {
        let text = fs::read_to_string(self.dir.join("endpoints.json")).expect("it runs");
        let endpoints: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        endpoints["internal"].as_str().and_then(|text| text.parse().ok()).expect("an address")
    }
}

/// A port that stays, in front of one that changes with every start.
struct Relay {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    open: Arc<Mutex<Vec<AbortHandle>>>,
    task: JoinHandle<()>,
}

impl Relay {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let target = Arc::new(Mutex::new(None));
        let open = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(Self::run(listener, Arc::clone(&target), Arc::clone(&open)));
        Self { address, target, open, task }
    }

    async fn run(
        listener: TcpListener,
        target: Arc<Mutex<Option<SocketAddr>>>,
        open: Arc<Mutex<Vec<AbortHandle>>>,
    ) {
        while let Ok((mut near, _)) = listener.accept().await {
            let target = *target.lock().expect("no panic");
            // Nobody is there: the connection ends at once, as at a closed port.
            let Some(target) = target else { continue };
            let connection = tokio::spawn(async move {
                if let Ok(mut far) = TcpStream::connect(target).await {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                }
            });
            open.lock().expect("no panic").push(connection.abort_handle());
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().expect("no panic") = Some(target);
    }

    fn cut(&self) {
        *self.target.lock().expect("no panic") = None;
        for connection in self.open.lock().expect("no panic").drain(..) {
            connection.abort();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

fn otaa_message(dev_eui: u64) -> v1::Device {
    v1::Device { join_eui: format!("{JOIN_EUI:016x}"), ..story::device(dev_eui) }
}

fn root_keys() -> v1::RootKeys {
    v1::RootKeys { app_key: hex(&APP_KEY), nwk_key: String::new() }
}

async fn consume(client: &Client) -> Stream {
    let request = v1::WatchRequest {
        consumer: CONSUMER.into(),
        start: Some(Start::Committed(true)),
        ..v1::WatchRequest::default()
    };
    Stream::open(client, request).await
}

async fn send(gateway: &VirtualGateway, device: &mut VirtualDevice) -> u32 {
    let sent = device.uplink(0, Some((2, b"21.5")), false);
    gateway.push(&[story::heard(gateway, &sent)]).await.expect("loopback takes a datagram");
    sent.fcnt
}

async fn enqueue(client: &Client, payload: &[u8]) -> String {
    let request = v1::EnqueueDownlinkRequest {
        dev_eui: format!("{DEV_EUI:016x}"),
        f_port: 9,
        content: Some(v1::enqueue_downlink_request::Content::Payload(payload.to_vec())),
        ..v1::EnqueueDownlinkRequest::default()
    };
    let answer = client.clone().downlinks.enqueue_downlink(request).await.expect("a place in the queue");
    answer.into_inner().downlink.expect("an item").id
}

fn signal(pid: u32, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
    nix::sys::signal::kill(pid, signal).expect("the child is ours");
}

async fn next(downlinks: &mut Downlinks) -> Vec<u8> {
    let next = tokio::time::timeout(loam_tests::DEADLINE, downlinks.recv()).await;
    next.expect("a downlink before the deadline").expect("the gateway goes on").phy_payload
}

/// Neither as bytes nor in hexadecimal.
fn nowhere_in(directory: &Path, key: &[u8; 16]) {
    let text = hex(key);
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let bytes = fs::read(&path).expect("a file");
        for needle in [key.as_slice(), text.as_bytes()] {
            assert!(!bytes.windows(needle.len()).any(|w| w == needle), "a key is in {}", path.display());
        }
    }
}
