//! `loam serve`: puts the roles together, opens the ports last, and ends in the reverse order.

mod front;
mod logs;
mod metrics;
mod parts;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use app_bridge::AppBridge;
use network_server::{Host, NetworkServer};
use prometheus_client::registry::Registry;
use proto::port::JoinPort;
use store::{Location, Store, StoreOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::ServeArgs;
use crate::config::{Config, Role};
use front::{Bound, Front};

/// Everything that was accepted is on disk this long after SIGTERM, or the process ends anyway and says so.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Runs the server until SIGTERM or Ctrl-C.
pub(crate) fn run(config: Config, args: ServeArgs) -> anyhow::Result<()> {
    logs::start(&config.server)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut end = End::listen()?;
        if seam::HAS_CRASH_POINTS {
            tracing::warn!("this binary is made for tests: LOAM_CRASH_AT ends it at a named point");
        }
        let running = start(&config, args.insecure).await?;
        tracing::info!(api = %running.api, udp = %running.udp, "loam is ready");
        end.wait().await;
        tracing::info!("ending: windows are closed, commits finished, streams ended");
        match tokio::time::timeout(STOP_MAX, running.stop()).await {
            Ok(ended) => ended,
            Err(_) => {
                anyhow::bail!(
                    "not everything ended within {} s; what was committed is safe",
                    STOP_MAX.as_secs()
                )
            }
        }
    });
    // A thread that waits for a disk that refuses is not waited for.
    runtime.shutdown_background();
    ended
}

/// A running server.
pub(crate) struct Running {
    /// Where the API answers; the operations pages alone without the app-bridge.
    pub(crate) api: SocketAddr,
    /// Where gateways send to; 0.0.0.0:0 without the network server.
    pub(crate) udp: SocketAddr,
    /// The admin key; empty without the app-bridge.
    pub(crate) admin_key: String,
    store: Store,
    network: Option<NetworkServer>,
    bridge: Option<AppBridge>,
    fronts: Vec<Front>,
    endpoints: PathBuf,
}

/// Starts the roles of the configuration.
///
/// # Errors
/// What could not be opened and what to do about it; nothing is running then.
pub(crate) async fn start(config: &Config, insecure: bool) -> anyhow::Result<Running> {
    let data_dir = &config.server.data_dir;
    let endpoints = data_dir.join(ENDPOINTS);
    let store = Store::open(Location::Directory(data_dir.clone()), store_options(config)).await?;
    // A file an earlier process left names ports that are gone.
    let _ = std::fs::remove_file(&endpoints);
    let started = start_roles(config, insecure, &store, endpoints).await;
    if started.is_err()
        && let Err(error) = store.close().await
    {
        tracing::error!(%error, "the store did not close well");
    }
    started
}

async fn start_roles(
    config: &Config,
    insecure: bool,
    store: &Store,
    endpoints: PathBuf,
) -> anyhow::Result<Running> {
    let links = parts::Links::read(config)?;
    // Ports are taken before anything starts: a server that cannot be reached must not take frames.
    let insecure = insecure || config.api.insecure;
    let public = Bound::public(&config.api, insecure).await?;
    let internal = match config.internal.bind {
        Some(bind) => Some(Bound::internal(bind, insecure).await?),
        None => None,
    };
    let join: Arc<dyn JoinPort> =
        if config.has_role(Role::JoinServer) { parts::join_server(config, store) } else { links.join()? };
    let network = if config.has_role(Role::NetworkServer) {
        Some(
            NetworkServer::start(parts::network_config(config)?, store, Arc::clone(&join), Host::Machine)
                .await?,
        )
    } else {
        None
    };
    let network_port = match &network {
        Some(network) => network.port(),
        None if config.has_role(Role::AppBridge) => links.network()?,
        None => parts::no_network(),
    };
    let mut admin_key = String::new();
    let bridge = if config.has_role(Role::AppBridge) {
        let bridge = parts::app_bridge(config, store, network_port, Arc::clone(&join)).await?;
        let path = config.server.data_dir.join("admin.key");
        bridge.ensure_admin_key(&path).await?;
        admin_key = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?
            .trim()
            .to_owned();
        Some(bridge)
    } else {
        None
    };
    if let Some(network) = &network {
        match &bridge {
            Some(bridge) => network.set_payload_port(bridge.payload_port()),
            None => {
                if let Some(port) = links.payload()? {
                    network.set_payload_port(port);
                }
            }
        }
    }

    let mut registry = Registry::default();
    metrics::register_store(store.clone(), &mut registry);
    if let Some(network) = &network {
        network.register_metrics(&mut registry);
    }
    if let Some(bridge) = &bridge {
        bridge.register_metrics(&mut registry);
    }
    let pages = front::pages(registry, store.readiness());
    let router = match &bridge {
        Some(bridge) => bridge.router().merge(pages),
        None => pages,
    };
    let mut fronts = vec![public.serve(router)];
    if let Some(internal) = internal {
        let router = links.internal_router(
            network.as_ref().map(NetworkServer::port),
            config.has_role(Role::JoinServer).then_some(join),
            bridge.as_ref().map(AppBridge::payload_port),
        )?;
        fronts.push(internal.serve(router));
    }
    let api = fronts.first().map_or(UNSPECIFIED, Front::local_addr);
    let udp = network.as_ref().map_or(UNSPECIFIED, NetworkServer::local_addr);
    let internal_addr = fronts.get(1).map(Front::local_addr);
    write_endpoints(&endpoints, api, udp, internal_addr)?;
    Ok(Running { api, udp, admin_key, store: store.clone(), network, bridge, fronts, endpoints })
}

impl Running {
    /// Ends streams, closes the windows, finishes the commits.
    ///
    /// # Errors
    /// What the store could not write.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let _ = std::fs::remove_file(&self.endpoints);
        for front in &self.fronts {
            front.refuse_new();
        }
        // First what brings frames in, then what hands events out, then the disk.
        if let Some(network) = self.network {
            network.stop().await;
        }
        if let Some(bridge) = self.bridge {
            bridge.stop().await;
        }
        for front in self.fronts {
            front.ended().await;
        }
        self.store.close().await.context("the store did not close well")
    }
}

fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        retention_max_age_s: u64::from(config.store.retention_days) * 86_400,
        retention_max_bytes: config.store.retention_max_bytes,
        group_max_steps: usize::try_from(config.store.group_commit_max_steps).unwrap_or(usize::MAX),
        group_max_delay_ms: u64::from(config.store.group_commit_max_delay_ms),
        checkpoint_period_s: u64::from(config.store.checkpoint_period_s),
        ..StoreOptions::default()
    }
}

/// The signals that end the server; heard from before it starts.
struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Tells where this process listens: commands on this machine and tests read it. It is there when the server is ready.
fn write_endpoints(
    path: &Path,
    api: SocketAddr,
    udp: SocketAddr,
    internal: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let text = serde_json::json!({
        "api": api.to_string(),
        "udp": udp.to_string(),
        "internal": internal.map(|address| address.to_string()),
        "pid": std::process::id(),
    });
    let half = path.with_extension("half");
    std::fs::write(&half, text.to_string()).with_context(|| format!("{} cannot be written", half.display()))?;
    std::fs::rename(&half, path).with_context(|| format!("{} cannot be written", path.display()))
}

/// The file in the data directory that says where the server listens.
pub(crate) const ENDPOINTS: &str = "endpoints.json";

const UNSPECIFIED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
