//! The connection to a server's API: where it is, who we are, and what its refusals mean.

use std::fmt::Write as _;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::v1::application_service_client::ApplicationServiceClient;
use proto::v1::codec_service_client::CodecServiceClient;
use proto::v1::device_service_client::DeviceServiceClient;
use proto::v1::downlink_service_client::DownlinkServiceClient;
use proto::v1::event_service_client::EventServiceClient;
use proto::v1::gateway_service_client::GatewayServiceClient;
use proto::v1::profile_service_client::ProfileServiceClient;
use proto::v1::system_service_client::SystemServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::args::Globals;
use crate::config::{Config, Origins};
use crate::exit::{Exit, Failure, complain};
use crate::output::Output;
use crate::serve::ENDPOINTS;

/// What a command is given: the global options, and the configuration they point to.
pub(crate) struct Context {
    pub(crate) globals: Globals,
    pub(crate) output: Output,
}

impl Context {
    /// The configuration of the server on this machine: file, environment, `--data-dir`.
    pub(crate) fn config(&self) -> Result<(Config, Origins), Failure> {
        load_config(&self.globals)
    }

    /// Connects to the server.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let target = self.target()?;
        Client::connect(target).await
    }

    /// Where the server is and with which key, without asking it.
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        let (config, _) = self.config()?;
        let (url, url_is_ours) = match &self.globals.server {
            Some(url) => (complete_url(url)?, false),
            None => (own_url(&config, served_at(&config.server.data_dir)), true),
        };
        let host = host_of(&url);
        let is_local = url_is_ours || is_loopback(host);
        let key_file = config.server.data_dir.join("admin.key");
        let key = match &self.globals.api_key {
            Some(secret) => ApiKey::Given(secret.read("--api-key")?),
            // The admin key of this machine is nothing for a stranger's server, unless it was pointed at.
            None if is_local || self.globals.data_dir.is_some() => read_key_file(&key_file)?,
            None => ApiKey::NotForStrangers,
        };
        if !is_local && url.starts_with("http://") && !matches!(key, ApiKey::NotForStrangers) {
            complain(&format!(
                "warning: the API key travels unencrypted to {url}; use https:// where the way is not yours"
            ));
        }
        Ok(Target { url, key, ca: self.globals.ca.clone(), data_dir: config.server.data_dir, is_local })
    }
}

/// Reads the configuration the global options name.
pub(crate) fn load_config(globals: &Globals) -> Result<(Config, Origins), Failure> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let (mut config, mut origins) = Config::load(globals.config.as_deref(), environment)
        .map_err(|error| Failure::usage(format!("configuration: {error}")))?;
    if let Some(directory) = &globals.data_dir {
        config.server.data_dir.clone_from(directory);
        origins.set("server.data_dir", crate::config::Origin::CommandLine("--data-dir"));
    }
    Ok((config, origins))
}

/// A server and what it is told about us.
#[derive(Debug)]
pub(crate) struct Target {
    /// With scheme, without a trailing slash.
    pub(crate) url: String,
    key: ApiKey,
    ca: Option<PathBuf>,
    /// Where the server's files are, if it runs on this machine.
    pub(crate) data_dir: PathBuf,
    /// Whether the server runs on this machine.
    pub(crate) is_local: bool,
}

enum ApiKey {
    /// Read from the data directory.
    Found { key: String, file: PathBuf },
    /// By `--api-key` or the environment.
    Given(String),
    /// There is no key file.
    Missing { file: PathBuf },
    /// The server is elsewhere; the key of this machine stays here.
    NotForStrangers,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

/// Puts the API key on every request.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// What the service clients speak through.
pub(crate) type Connection = InterceptedService<Channel, Bearer>;

/// A connected client.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    bearer: Bearer,
    target: std::sync::Arc<Target>,
}

macro_rules! services {
    ($($name:ident: $client:ident,)*) => {
        $(pub(crate) fn $name(&self) -> $client<Connection> {
            $client::with_interceptor(self.channel.clone(), self.bearer.clone())
        })*
    };
}

impl Client {
    async fn connect(target: Target) -> Result<Self, Failure> {
        let bearer = Bearer(match &target.key {
            ApiKey::Given(key) | ApiKey::Found { key, .. } => Some(bearer_value(key)?),
            ApiKey::Missing { .. } | ApiKey::NotForStrangers => None,
        });
        let endpoint = endpoint(&target)?;
        let channel = endpoint.connect().await.map_err(|error| unreachable(&target.url, &error))?;
        Ok(Self { channel, bearer, target: std::sync::Arc::new(target) })
    }

    services! {
        applications: ApplicationServiceClient,
        codecs: CodecServiceClient,
        devices: DeviceServiceClient,
        downlinks: DownlinkServiceClient,
        events: EventServiceClient,
        gateways: GatewayServiceClient,
        profiles: ProfileServiceClient,
        system: SystemServiceClient,
    }

    /// Where the server is.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Waits for an answer, at most [`ANSWER_DEADLINE`], and says what a refusal means.
    pub(crate) async fn ask<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        self.ask_within(ANSWER_DEADLINE, call).await
    }

    /// The same with another deadline.
    pub(crate) async fn ask_within<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.refusal(&status)),
            Err(_) => Err(Failure::new(
                Exit::Unreachable,
                format!(
                    "{} did not answer within {} s; what was asked may have been done, look before asking again",
                    self.target.url,
                    deadline.as_secs()
                ),
            )),
        }
    }

    /// What a gRPC status means for the person, and the exit code for it.
    pub(crate) fn refusal(&self, status: &Status) -> Failure {
        let message = status.message();
        // A transport error never reached the server's code; its text is for developers.
        if let Some(source) = std::error::Error::source(status)
            && source.downcast_ref::<tonic::transport::Error>().is_some()
        {
            let url = &self.target.url;
            let hint =
                if url.starts_with("http://") { "; a server with a certificate wants https://" } else { "" };
            let cause = innermost(source);
            return Failure::new(Exit::Unreachable, format!("the connection to {url} broke: {cause}{hint}"));
        }
        match status.code() {
            Code::NotFound => Failure::new(Exit::NotFound, message),
            Code::InvalidArgument | Code::OutOfRange => Failure::usage(message),
            Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted | Code::ResourceExhausted => {
                Failure::new(Exit::Refused, message)
            }
            Code::Unauthenticated => Failure::new(Exit::Unauthenticated, self.who_we_are_not()),
            Code::PermissionDenied => {
                Failure::new(Exit::Unauthenticated, format!("the API key may not do this: {message}"))
            }
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                Failure::new(Exit::Unreachable, format!("{} cannot answer: {message}", self.target.url))
            }
            Code::Unimplemented => Failure::error(format!(
                "{} does not know this request; it may be of another version than this program ({}) or no loam server",
                self.target.url,
                env!("CARGO_PKG_VERSION")
            )),
            Code::Ok | Code::Unknown | Code::DataLoss | Code::Internal => {
                Failure::error(format!("{} reports a fault of its own: {message}", self.target.url))
            }
        }
    }

    fn who_we_are_not(&self) -> String {
        let url = &self.target.url;
        match &self.target.key {
            ApiKey::Given(_) => {
                format!("{url} does not know the API key of --api-key (LOAM_API_KEY)")
            }
            ApiKey::Found { file, .. } => format!(
                "{url} does not know the API key in {}; does another server run there? Name its data directory with --data-dir, \
                 or a key with --api-key",
                file.display()
            ),
            ApiKey::Missing { file } => format!(
                "{url} wants an API key, and there is no {}; name the server's data directory with --data-dir, or a key with \
                 --api-key (LOAM_API_KEY)",
                file.display()
            ),
            ApiKey::NotForStrangers => {
                format!("{url} wants an API key; pass it with --api-key (LOAM_API_KEY)")
            }
        }
    }
}

fn endpoint(target: &Target) -> Result<Endpoint, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("--server {}: {error}", target.url));
    let mut endpoint = Endpoint::from_shared(target.url.clone())
        .map_err(|error| wrong(&error))?
        .connect_timeout(CONNECT_DEADLINE)
        // A server that vanished without a word ends a stream within half a minute.
        .http2_keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(15));
    if target.url.starts_with("https://") {
        let tls = ClientTlsConfig::new().ca_certificate(trusted(target.ca.as_deref())?);
        endpoint = endpoint.tls_config(tls).map_err(|error| wrong(&innermost(&error)))?;
    }
    Ok(endpoint)
}

/// The certificates that vouch for a server: those named, else the system's.
fn trusted(ca: Option<&Path>) -> Result<Certificate, Failure> {
    if let Some(path) = ca {
        let pem = std::fs::read(path)
            .map_err(|error| Failure::usage(format!("--ca {}: cannot be read: {error}", path.display())))?;
        return Ok(Certificate::from_pem(pem));
    }
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let places = SYSTEM_CERTIFICATES.iter().map(PathBuf::from);
    named
        .into_iter()
        .chain(places)
        .find_map(|path| std::fs::read(path).ok())
        .map(Certificate::from_pem)
        .ok_or_else(|| {
            Failure::usage(
                "no certificates of trusted authorities are on this machine; name them with --ca FILE",
            )
        })
}

fn unreachable(url: &str, error: &tonic::transport::Error) -> Failure {
    let cause = innermost(error);
    let message = if cause.contains("CaUsedAsEndEntity") {
        format!(
            "the certificate of {url} is one of an authority, which no server may show; make it with \
             `-addext basicConstraints=critical,CA:FALSE` (openssl req -x509)"
        )
    } else if cause.contains("certificate") {
        format!(
            "the certificate of {url} is not trusted ({cause}); name the authority that signed it with --ca FILE"
        )
    } else if url.starts_with("https://") && is_not_tls(&cause) {
        format!(
            "the server at {url} does not speak TLS ({cause}); use http:// or give it a certificate (api.tls_cert)"
        )
    } else {
        format!(
            "no server answers at {url}: is `loam serve` running? Start it, or name another server with --server \
             (LOAM_SERVER) ({cause})"
        )
    };
    Failure::new(Exit::Unreachable, message)
}

fn is_not_tls(cause: &str) -> bool {
    let cause = cause.to_lowercase();
    ["invalidcontenttype", "corrupt message", "handshake eof", "tls"].iter().any(|part| cause.contains(part))
}

/// The end of a chain of errors: what really happened.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn bearer_value(key: &str) -> Result<MetadataValue<Ascii>, Failure> {
    let mut text = String::from("Bearer ");
    let _ = write!(text, "{key}");
    let mut value: MetadataValue<Ascii> = text.parse().map_err(|_| {
        Failure::usage("the API key has characters that no key has; was something else pasted?")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_key_file(file: &Path) -> Result<ApiKey, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(ApiKey::Found { key: text.trim().to_owned(), file: file.to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(Failure::new(
            Exit::Unauthenticated,
            format!(
                "{} belongs to the server's user; run this as that user (sudo -u …), or pass a key with --api-key (LOAM_API_KEY)",
                file.display()
            ),
        )),
        Err(error) if is_absent(&error) => Ok(ApiKey::Missing { file: file.to_owned() }),
        Err(error) => Err(Failure::error(format!("{} cannot be read: {error}", file.display()))),
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// `host:port` becomes `http://host:port`.
fn complete_url(text: &str) -> Result<String, Failure> {
    let text = text.trim();
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url =
        url.strip_suffix('/').filter(|rest| !rest.ends_with('/')).map_or_else(|| url.clone(), str::to_owned);
    let known_scheme = url.starts_with("http://") || url.starts_with("https://");
    let host = host_of(&url);
    if !known_scheme || host.is_empty() || url.contains('@') || url.contains(char::is_whitespace) {
        return Err(Failure::usage(format!(
            "--server {text:?} is not an address of a server; write it like http://127.0.0.1:8080 or https://loam.example:443"
        )));
    }
    Ok(url)
}

/// Where the server of this configuration is reached from this machine: where it says it listens, else where it was told to.
fn own_url(config: &Config, served_at: Option<SocketAddr>) -> String {
    let bind = served_at.unwrap_or(config.api.bind);
    let scheme = if config.api.tls_cert.is_some() { "https" } else { "http" };
    if !bind.ip().is_unspecified() {
        return format!("{scheme}://{bind}");
    }
    let host = if bind.is_ipv4() { "127.0.0.1" } else { "[::1]" };
    format!("{scheme}://{host}:{}", bind.port())
}

/// What a running server left in its data directory about itself. Without the app-bridge it serves no API.
fn served_at(data_dir: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(data_dir.join(ENDPOINTS)).ok()?;
    let endpoints: serde_json::Value = serde_json::from_str(&text).ok()?;
    let api: SocketAddr = endpoints.get("api")?.as_str()?.parse().ok()?;
    (api.port() != 0).then_some(api)
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// How long an ordinary answer is waited for.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Where systems keep the certificates they trust.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_server_may_be_named_without_a_scheme() {
        assert_eq!(complete_url("10.0.0.2:8080/").unwrap(), "http://10.0.0.2:8080");
        assert_eq!(complete_url("https://loam.example").unwrap(), "https://loam.example");
        for wrong in ["", "ftp://x", "http://", "http://a b", "http://user:pw@host"] {
            assert!(complete_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_server_of_a_configuration_is_reached_on_this_machine() {
        let mut config = Config::default();
        assert_eq!(own_url(&config, None), "http://127.0.0.1:8080");
        config.api.bind = "0.0.0.0:9000".parse().unwrap();
        assert_eq!(own_url(&config, None), "http://127.0.0.1:9000");
        config.api.bind = "[::]:9000".parse().unwrap();
        config.api.tls_cert = Some(PathBuf::from("cert.pem"));
        assert_eq!(own_url(&config, None), "https://[::1]:9000");
        assert_eq!(own_url(&config, Some("127.0.0.1:4711".parse().unwrap())), "https://127.0.0.1:4711");
    }

    #[test]
    fn a_running_server_is_found_where_it_says_it_listens() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(ENDPOINTS);
        assert_eq!(served_at(directory.path()), None);
        std::fs::write(&file, r#"{"api":"127.0.0.1:4711","udp":"0.0.0.0:1700"}"#).unwrap();
        assert_eq!(served_at(directory.path()), Some("127.0.0.1:4711".parse().unwrap()));
        for useless in ["", "{}", r#"{"api":"0.0.0.0:0"}"#, r#"{"api":7}"#] {
            std::fs::write(&file, useless).unwrap();
            assert_eq!(served_at(directory.path()), None, "{useless}");
        }
    }

    #[test]
    fn the_admin_key_of_this_machine_is_nothing_for_a_strangers_server() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("admin.key"), "sesame\n").unwrap();
        let config = directory.path().join("loam.toml");
        std::fs::write(&config, format!("[server]\ndata_dir = {:?}\n", directory.path())).unwrap();
        let target = |server: &str| {
            let globals = Globals {
                server: Some(server.to_owned()),
                api_key: None,
                ca: None,
                data_dir: None,
                config: Some(config.clone()),
                output: crate::output::Format::Table,
            };
            Context { output: Output::new(globals.output), globals }.target().unwrap()
        };

        assert!(matches!(target("http://127.0.0.1:1").key, ApiKey::Found { key, .. } if key == "sesame"));
        assert!(matches!(target("https://loam.example").key, ApiKey::NotForStrangers));
    }

    #[test]
    fn loopback_is_told_from_elsewhere() {
        for url in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://127.1.2.3"] {
            assert!(is_loopback(host_of(url)), "{url}");
        }
        for url in ["http://10.0.0.1:1", "http://localhost.example:1", "http://127.0.0.1.example"] {
            assert!(!is_loopback(host_of(url)), "{url}");
        }
    }
}
