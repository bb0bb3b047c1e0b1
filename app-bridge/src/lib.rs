//! The application bridge: decrypts and decodes what the network server committed, serves it as durable streams, keeps the
//! queue of downlinks, and is the API of the whole server.
//!
//! ```text
//! event log ─▶ follower ─▶ session keys, states of downlinks      (durable, with the position)
//!           ├▶ head ─▶ decrypt, codec, encode ─▶ ring ─▶ watchers  (once per event for all of them)
//!           └▶ pages ─▶ a watcher that is behind
//! API ─▶ registry ─▶ network server, join server
//! API ─▶ queue ─▶ lease ─▶ a window of the network server
//! ```
//!
//! It reads the log and tells the other roles through their ports, so that it runs in their process or in its own.

#![cfg_attr(
    not(test),
    deny(
        clippy::allow_attributes_without_reason,
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod api;
mod auth;
mod cache;
mod clock;
pub mod codec;
mod consumers;
mod cursor;
mod decode;
mod error;
mod event;
mod filter;
mod follower;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod grpc;
mod head;
mod keys;
mod log;
mod metrics;
mod queue;
mod registry;
mod serve;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code, reason = "the fuzz targets need a part of it"))]
mod testing;
#[cfg(test)]
mod tests;
mod validate;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use proto::mark::Mark;
use proto::port::{JoinPort, NetworkPort, PayloadPort};
use proto::v1::application_service_server::ApplicationService;
use proto::v1::codec_service_server::CodecService;
use proto::v1::device_service_server::DeviceService;
use proto::v1::downlink_service_server::DownlinkService;
use proto::v1::event_service_server::EventService;
use proto::v1::gateway_service_server::GatewayService;
use proto::v1::profile_service_server::ProfileService;
use store::{BridgeTables, Sealer};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use api::event::EventStream;
pub use api::system::Backup;
pub use error::BridgeError;
pub use grpc::{PayloadGate, RemoteNetwork, payload_service};

use api::event::EventGate;
use api::provision::Provisioner;
use auth::Auth;
use codec::CodecPool;
use consumers::Consumers;
use decode::Decoder;
use follower::Follower;
use head::Head;
use keys::Keys;
use log::Log;
use metrics::Metrics;
use queue::{PayloadSource, Queue, QueueParts};
use registry::Registry;
use watch::Streams;

/// How an app-bridge runs. The default is that of a small server.
#[derive(Clone)]
pub struct Config {
    /// Threads that run codecs; at least 1.
    pub codec_threads: usize,
    /// What one call of a codec may use.
    pub codec_limits: codec::Limits,
    /// What runs scripts.
    pub interpreter: codec::Interpreter,
    /// Encoded events kept for watchers at the head of the log, bytes.
    pub head_ring_bytes: usize,
    /// Streams open at a time, at most; one more is refused with `RESOURCE_EXHAUSTED`.
    pub streams_max: usize,
    /// Silence after which a stream gets a heartbeat, so that proxies keep it.
    pub heartbeat_period: Duration,
    /// How long a downlink may be leased or sent without word of its outcome before it ends as `unknown`.
    pub outcome_patience: Duration,
    /// How often deadlines and missing outcomes are looked after.
    pub sweep_period: Duration,
    /// How long finished downlinks and the audit trail are kept, seconds.
    pub history_max_age_s: u64,
    /// The roles that run in this process, as `GetInfo` tells them.
    pub roles: Vec<String>,
    /// Copies the database; `None` where there is nothing to copy.
    pub backup: Option<Backup>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            codec_threads: 1,
            codec_limits: codec::Limits::default(),
            interpreter: codec::Interpreter::default(),
            head_ring_bytes: 2 * 1024 * 1024,
            streams_max: 1_000,
            heartbeat_period: Duration::from_secs(15),
            outcome_patience: Duration::from_secs(60),
            sweep_period: Duration::from_secs(1),
            history_max_age_s: 90 * 24 * 3_600,
            roles: Vec::new(),
            backup: None,
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("codec_threads", &self.codec_threads).finish_non_exhaustive()
    }
}

/// A running app-bridge. Cheap to clone; [`Self::stop`] ends it for all clones.
#[derive(Clone)]
pub struct AppBridge {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for AppBridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppBridge")
    }
}

struct Inner {
    config: Config,
    tables: BridgeTables,
    network: Arc<dyn NetworkPort>,
    registry: Arc<Registry>,
    keys: Arc<Keys>,
    codecs: CodecPool,
    queue: Arc<Queue>,
    provisioner: Arc<Provisioner>,
    consumers: Arc<Consumers>,
    streams: Arc<Streams>,
    /// Streams that are open, over all transports.
    streams_open: Arc<AtomicUsize>,
    auth: Arc<Auth>,
    metrics: Arc<Metrics>,
    started_at_us: i64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl AppBridge {
    /// Starts the app-bridge: reads what is under way, then follows the log and finishes what an earlier run left unfinished.
    ///
    /// `transport_kek` opens the AppSKeys that come from the join server (RFC 3394). The network server need not answer yet.
    ///
    /// # Errors
    /// [`BridgeError::Store`] when the tables cannot be read.
    pub async fn start(
        config: Config,
        tables: BridgeTables,
        sealer: Sealer,
        transport_kek: &[u8; 16],
        network: Arc<dyn NetworkPort>,
        join: Arc<dyn JoinPort>,
    ) -> Result<Self, BridgeError> {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let metrics = Arc::new(Metrics::default());
        let followed_at = tables.follow_seq().await?;
        let followed = Mark::at(followed_at);
        let log = Arc::new(Log::new(Arc::clone(&network), followed_at));
        let registry = Arc::new(Registry::new(tables.clone()));
        let keys = Arc::new(Keys::new(tables.clone(), sealer, transport_kek));
        let codecs = CodecPool::new(config.codec_threads, config.codec_limits, config.interpreter.clone());
        let (notes, noted) = mpsc::channel(NOTES_MAX);
        let queue = Queue::open(QueueParts {
            tables: tables.clone(),
            network: Arc::clone(&network),
            log: Arc::clone(&log),
            keys: Arc::clone(&keys),
            followed: followed.clone(),
            metrics: Arc::clone(&metrics),
            outcome_patience: config.outcome_patience,
            tasks: tasks.clone(),
        })
        .await?;
        let decoder = Arc::new(Decoder {
            registry: Arc::clone(&registry),
            keys: Arc::clone(&keys),
            codecs: codecs.clone(),
            followed: followed.clone(),
            notes,
            metrics: Arc::clone(&metrics),
        });
        let head = Arc::new(Head::new(config.head_ring_bytes));
        let streams = Arc::new(Streams {
            log: Arc::clone(&log),
            head: Arc::clone(&head),
            decoder: Arc::clone(&decoder),
            metrics: Arc::clone(&metrics),
            heartbeat_period: config.heartbeat_period,
            stop: stop.clone(),
        });
        let consumers = Arc::new(Consumers::new(tables.clone(), Arc::clone(&log), Arc::clone(&metrics)));
        let provisioner = Arc::new(Provisioner::new(tables.clone(), Arc::clone(&network), join));
        let auth = Arc::new(Auth::load(&tables, Arc::clone(&metrics)).await?);
        let follower = Follower {
            tables: tables.clone(),
            log: Arc::clone(&log),
            keys: Arc::clone(&keys),
            queue: Arc::clone(&queue),
            followed,
            metrics: Arc::clone(&metrics),
        };
        tasks.spawn(follower.run(stop.clone()));
        tasks.spawn(head.run(Arc::clone(&log), decoder, stop.clone()));
        tasks.spawn(Arc::clone(&queue).run(config.sweep_period, stop.clone()));
        tasks.spawn(Arc::clone(&provisioner).run(stop.clone()));
        tasks.spawn(serve::write_notes(noted, Arc::clone(&network), stop.clone()));
        tasks.spawn(serve::keep_house(
            tables.clone(),
            Arc::clone(&consumers),
            config.history_max_age_s,
            stop.clone(),
        ));
        let inner = Inner {
            config,
            tables,
            network,
            registry,
            keys,
            codecs,
            queue,
            provisioner,
            consumers,
            streams,
            streams_open: Arc::default(),
            auth,
            metrics,
            started_at_us: clock::now_us(),
            stop,
            tasks,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Makes sure that the admin API key exists and that the file holds it, readable by its owner only.
    ///
    /// # Errors
    /// [`BridgeError::File`] when the file cannot be read or written, [`BridgeError::Store`] when the key cannot be stored.
    pub async fn ensure_admin_key(&self, path: &Path) -> Result<(), BridgeError> {
        self.inner.auth.ensure_admin_key(&self.inner.tables, path, clock::now_us()).await
    }

    /// Where windows of the network server get their payloads.
    pub fn payload_port(&self) -> Arc<dyn PayloadPort> {
        Arc::new(PayloadSource(Arc::clone(&self.inner.queue)))
    }

    /// All services of the API with reflection, health and gRPC-Web, behind API keys.
    ///
    /// The router has a fallback of its own, which answers in gRPC; merge it into one that has none.
    pub fn router(&self) -> axum::Router {
        serve::router(&self.inner)
    }

    /// The applications, for a caller of this process: no transport, no API key.
    pub fn application_service(&self) -> impl ApplicationService + use<> {
        serve::services(&self.inner).application
    }

    /// The codecs, for a caller of this process.
    pub fn codec_service(&self) -> impl CodecService + use<> {
        serve::services(&self.inner).codec
    }

    /// The devices, for a caller of this process.
    pub fn device_service(&self) -> impl DeviceService + use<> {
        serve::services(&self.inner).device
    }

    /// The queue of downlinks, for a caller of this process.
    pub fn downlink_service(&self) -> impl DownlinkService + use<> {
        serve::services(&self.inner).downlink
    }

    /// The event stream and its consumers, for a caller of this process.
    pub fn event_service(&self) -> impl EventService<WatchStream = EventStream> + use<> {
        EventGate(serve::services(&self.inner).events)
    }

    /// The gateways, for a caller of this process.
    pub fn gateway_service(&self) -> impl GatewayService + use<> {
        serve::services(&self.inner).gateway
    }

    /// The profiles, for a caller of this process.
    pub fn profile_service(&self) -> impl ProfileService + use<> {
        serve::services(&self.inner).profile
    }

    /// Adds the counters of the app-bridge to a registry.
    pub fn register_metrics(&self, registry: &mut prometheus_client::registry::Registry) {
        self.inner.metrics.register(registry);
    }

    /// Streams that stand at the head of the log.
    pub fn watchers_at_head(&self) -> usize {
        self.inner.streams.head.watchers()
    }

    /// Ends the streams, finishes what was promised and stops. Call it before the store is closed.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

/// Records of the app-bridge's own that wait for the log.
const NOTES_MAX: usize = 64;
