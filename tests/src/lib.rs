//! What the black-box tests share: the real binary on real sockets, and clients of its API.
//!
//! Nothing here reaches into a crate of the server. A test starts `loam serve` on an empty directory with port 0
//! everywhere, talks UDP and gRPC, and may kill the process at any moment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proto::v1;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

pub mod conformance;
pub mod forwarder;
pub mod story;
pub mod world;

/// No wait in a test is longer.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A running `loam serve`; killed when it is dropped.
#[derive(Debug)]
pub struct Loam {
    child: Child,
    data_dir: PathBuf,
    /// Where gateways send to.
    pub udp: SocketAddr,
    /// Where the API answers.
    pub api: SocketAddr,
}

impl Loam {
    /// Starts the server on `data_dir` and waits until it is ready.
    pub fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// Like [`Loam::start`], with settings as environment variables, for example `("LOAM_GATEWAYS__AUTO_REGISTER", "true")`.
    pub fn start_with(data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        Starting::spawn(data_dir, settings).ready().unwrap_or_else(|status| {
            let log = std::fs::read_to_string(data_dir.with_extension("log")).unwrap_or_default();
            panic!("loam ended with {status} before it was ready:\n{log}")
        })
    }

    /// The command that starts the server; its log goes to a file beside the directory.
    pub fn command(data_dir: &Path, settings: &[(&str, &str)]) -> Command {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(data_dir.with_extension("log"))
            .expect("the test's directory is writable");
        let mut command = Command::new(binary());
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(data_dir)
            .env("LOAM_API__BIND", "127.0.0.1:0")
            .env("LOAM_GATEWAYS__UDP_BIND", "127.0.0.1:0")
            .envs(settings.iter().copied())
            .current_dir(data_dir.parent().expect("a test's directory has a parent"))
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().expect("a file handle can be duplicated")))
            .stderr(Stdio::from(log));
        command
    }

    /// Ends the process as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }

    /// Asks the process to end and waits for it.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status;
            }
            assert!(Instant::now() < deadline, "loam did not end within {DEADLINE:?} of SIGTERM");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("the child is ours");
    }

    /// How the process ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child is ours")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Everything the server has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data_dir.with_extension("log")).unwrap_or_default()
    }

    /// A client with the admin key the server made on its first start.
    pub fn client(&self) -> Client {
        let key =
            std::fs::read_to_string(self.data_dir.join("admin.key")).expect("the first start makes the key");
        Client::new(self.api, key.trim())
    }

    /// Runs a `loam` command against this server; returns exit code, standard output and standard error.
    pub fn cli(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(binary())
            .arg("--server")
            .arg(format!("http://{}", self.api))
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the loam binary is built before the tests");
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

impl Drop for Loam {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `loam serve` that may not be ready yet; killed when it is dropped.
#[derive(Debug)]
pub struct Starting {
    child: Option<Child>,
    data_dir: PathBuf,
}

impl Starting {
    /// Starts the process.
    pub fn spawn(data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        // A file an earlier process left names ports that are gone.
        let _ = std::fs::remove_file(data_dir.join("endpoints.json"));
        let child = Loam::command(data_dir, settings).spawn();
        let child = child.expect("the loam binary is built before the tests");
        Self { child: Some(child), data_dir: data_dir.to_owned() }
    }

    /// Waits until the server is ready.
    ///
    /// # Errors
    /// How the process ended, when it did so before.
    pub fn ready(mut self) -> Result<Loam, ExitStatus> {
        let endpoints = self.data_dir.join("endpoints.json");
        let deadline = Instant::now() + DEADLINE;
        loop {
            let child = self.child.as_mut().expect("only `ready` takes it");
            if let Some((api, udp)) = read_endpoints(&endpoints) {
                let child = self.child.take().expect("it was there");
                return Ok(Loam { child, data_dir: self.data_dir.clone(), udp, api });
            }
            if let Some(status) = child.try_wait().expect("the child is ours") {
                return Err(status);
            }
            assert!(Instant::now() < deadline, "loam was not ready within {DEADLINE:?}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The binary under test: `LOAM_BIN`, or `loam` beside the test's own folder.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("LOAM_BIN") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("a test knows its file");
    let profile = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
    profile.join(format!("loam{}", std::env::consts::EXE_SUFFIX))
}

fn read_endpoints(path: &Path) -> Option<(SocketAddr, SocketAddr)> {
    let text = std::fs::read_to_string(path).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let api = value.get("api")?.as_str()?.parse().ok()?;
    let udp = value.get("udp")?.as_str()?.parse().ok()?;
    Some((api, udp))
}

/// Adds the API key to each call.
#[derive(Clone, Debug)]
pub struct ApiKey(MetadataValue<Ascii>);

impl Interceptor for ApiKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Keyed = InterceptedService<Channel, ApiKey>;

/// The API, one client a service.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the client of the service it is named after")]
pub struct Client {
    pub applications: v1::application_service_client::ApplicationServiceClient<Keyed>,
    pub codecs: v1::codec_service_client::CodecServiceClient<Keyed>,
    pub devices: v1::device_service_client::DeviceServiceClient<Keyed>,
    pub downlinks: v1::downlink_service_client::DownlinkServiceClient<Keyed>,
    pub events: v1::event_service_client::EventServiceClient<Keyed>,
    pub gateways: v1::gateway_service_client::GatewayServiceClient<Keyed>,
    pub profiles: v1::profile_service_client::ProfileServiceClient<Keyed>,
    pub system: v1::system_service_client::SystemServiceClient<Keyed>,
}

impl Client {
    /// Clients of the API at `api`; they connect with their first call.
    pub fn new(api: SocketAddr, key: &str) -> Self {
        let channel =
            Endpoint::from_shared(format!("http://{api}")).expect("an address is a URL").connect_lazy();
        let key = ApiKey(format!("Bearer {key}").parse().expect("a key is ASCII"));
        let keyed = || InterceptedService::new(channel.clone(), key.clone());
        Self {
            applications: v1::application_service_client::ApplicationServiceClient::new(keyed()),
            codecs: v1::codec_service_client::CodecServiceClient::new(keyed()),
            devices: v1::device_service_client::DeviceServiceClient::new(keyed()),
            downlinks: v1::downlink_service_client::DownlinkServiceClient::new(keyed()),
            events: v1::event_service_client::EventServiceClient::new(keyed()),
            gateways: v1::gateway_service_client::GatewayServiceClient::new(keyed()),
            profiles: v1::profile_service_client::ProfileServiceClient::new(keyed()),
            system: v1::system_service_client::SystemServiceClient::new(keyed()),
        }
    }
}

/// Runs `check` until it gives something, at most for [`DEADLINE`].
pub async fn eventually<T, F>(what: &str, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        tokio::task::yield_now().await;
        tokio::time::timeout(Duration::from_millis(10), std::future::pending::<()>())
            .await
            .expect_err("nothing ends it");
    }
}
