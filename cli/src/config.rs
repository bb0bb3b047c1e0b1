//! The configuration: one TOML file, overrides from the environment, defaults for everything.
//!
//! `docs/configuration.md` explains each key; a test compares it with the structs here.

mod check;
mod source;
mod text;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use proto::v1::Region;
use serde::{Deserialize, Serialize};

pub(crate) use check::ConfigProblems;
pub(crate) use source::{Origin, Origins};

/// Everything `loam serve` can be told.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The process as a whole.
    pub(crate) server: Server,
    /// What people, programs and the command line talk to.
    pub(crate) api: Api,
    /// What the roles of one installation talk to each other.
    pub(crate) internal: Internal,
    /// The road to the gateways.
    pub(crate) gateways: Gateways,
    /// The network server.
    pub(crate) network: Network,
    /// The join server.
    pub(crate) join: Join,
    /// The database and the event log.
    pub(crate) store: Store,
    /// The JavaScript codecs.
    pub(crate) codec: Codec,
}

/// `[server]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Server {
    /// The roles this process plays; all by default.
    pub(crate) roles: Vec<Role>,
    /// The directory with database, keys and lock; made on the first start.
    pub(crate) data_dir: PathBuf,
    /// How log lines are written.
    pub(crate) log_format: LogFormat,
    /// A level, or a filter such as `info,store=debug`.
    pub(crate) log_level: String,
}

/// `[api]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Api {
    /// gRPC, gRPC-Web, metrics and health.
    #[serde(with = "text::address")]
    pub(crate) bind: SocketAddr,
    /// Certificate chain (PEM); with it the API and the internal port speak TLS.
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM).
    pub(crate) tls_key: Option<PathBuf>,
    /// Allows clear text beyond loopback.
    pub(crate) insecure: bool,
}

/// `[internal]`: only used when the roles run in several processes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Internal {
    /// Where this process serves the other roles.
    #[serde(with = "text::optional_address")]
    pub(crate) bind: Option<SocketAddr>,
    /// A file with the token all processes of the installation share.
    pub(crate) token_file: Option<PathBuf>,
    /// Where the network server is, when another process plays that role.
    pub(crate) network_url: Option<String>,
    /// Where the join server is.
    pub(crate) join_url: Option<String>,
    /// Where the app-bridge is.
    pub(crate) bridge_url: Option<String>,
}

/// `[gateways]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Gateways {
    /// The UDP port of the Semtech packet forwarder protocol.
    #[serde(with = "text::address")]
    pub(crate) udp_bind: SocketAddr,
    /// Receive buffer asked of the kernel.
    pub(crate) receive_buffer_bytes: u64,
    /// Threads that receive datagrams.
    pub(crate) receiver_threads: u32,
    /// Registers a gateway with its first datagram.
    pub(crate) auto_register: bool,
    /// The region of gateways registered so; absent: `network.default_region`.
    #[serde(with = "text::optional_region")]
    pub(crate) auto_register_region: Option<Region>,
}

/// `[network]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Network {
    /// The NetID, 24 bits.
    #[serde(with = "text::net_id")]
    pub(crate) net_id: u32,
    /// How long copies of a frame are waited for after the first one.
    pub(crate) dedup_window_ms: u32,
    /// Tasks that own devices; 0 chooses by the number of processors.
    pub(crate) owner_threads: u32,
    /// The region taken where none is named.
    #[serde(with = "text::region")]
    pub(crate) default_region: Region,
}

/// `[join]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Join {
    /// Names the key that wraps AppSKeys on their way to the app-bridge.
    pub(crate) kek_label: String,
}

/// `[store]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Store {
    /// Days events are kept.
    pub(crate) retention_days: u32,
    /// Bytes of events that are kept.
    pub(crate) retention_max_bytes: u64,
    /// The longest a step waits for company in its commit, under load only.
    pub(crate) group_commit_max_delay_ms: u32,
    /// The most steps in one commit.
    pub(crate) group_commit_max_steps: u32,
    /// How often the session table follows the journal.
    pub(crate) checkpoint_period_s: u32,
}

/// `[codec]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Codec {
    /// Threads that run codecs.
    pub(crate) threads: u32,
    /// The longest one call may take.
    pub(crate) time_limit_ms: u32,
    /// The most memory one engine may hold.
    pub(crate) memory_limit_bytes: u64,
    /// The most stack one call may use.
    pub(crate) stack_limit_bytes: u64,
}

/// A part of the server that can run in a process of its own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Decrypts, decodes, serves the API and the event streams.
    AppBridge,
    /// Holds root keys and answers joins.
    JoinServer,
    /// Talks to gateways and holds the sessions.
    NetworkServer,
}

impl Role {
    /// All of them: one process.
    pub(crate) const ALL: [Self; 3] = [Self::AppBridge, Self::JoinServer, Self::NetworkServer];
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Config {
    /// Whether this process plays the role.
    pub(crate) fn has_role(&self, role: Role) -> bool {
        self.server.roles.contains(&role)
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            roles: Role::ALL.to_vec(),
            data_dir: PathBuf::from("loam-data"),
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            tls_cert: None,
            tls_key: None,
            insecure: false,
        }
    }
}

impl Default for Gateways {
    fn default() -> Self {
        Self {
            udp_bind: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 1700)),
            receive_buffer_bytes: 4 * MIB,
            receiver_threads: 1,
            auto_register: false,
            auto_register_region: None,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self { net_id: 0, dedup_window_ms: 200, owner_threads: 0, default_region: Region::Eu868 }
    }
}

impl Default for Join {
    fn default() -> Self {
        Self { kek_label: "loam".to_owned() }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            retention_days: 7,
            retention_max_bytes: 2 * GIB,
            group_commit_max_delay_ms: 5,
            group_commit_max_steps: 256,
            checkpoint_period_s: 60,
        }
    }
}

impl Default for Codec {
    fn default() -> Self {
        Self { threads: 1, time_limit_ms: 50, memory_limit_bytes: 16 * MIB, stack_limit_bytes: 256 * KIB }
    }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
