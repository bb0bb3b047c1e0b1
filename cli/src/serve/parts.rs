//! Each role made from its section of the configuration, and the links to roles in other processes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use app_bridge::{AppBridge, RemoteNetwork};
use join_server::{JoinServer, RemoteJoin};
use mac::ids::NetId;
use mac::region::RegionId;
use network_server::gateway::UdpConfig;
use network_server::remote::RemotePayload;
use network_server::{NetworkConfig, remote};
use proto::link::{RoleChannel, RoleToken};
use proto::port::{JoinPort, NetworkPort, PayloadPort};
use store::Store;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;

use crate::config::{Config, Role};

pub(crate) fn join_server(config: &Config, store: &Store) -> Arc<dyn JoinPort> {
    let random = Box::new(|bytes: &mut [u8]| rand::Rng::fill_bytes(&mut rand::rng(), bytes));
    let label = config.join.kek_label.clone();
    Arc::new(JoinServer::new(store.join(), store.sealer(), *store.transport_key(), label, random))
}

pub(crate) fn network_config(config: &Config) -> anyhow::Result<NetworkConfig> {
    Ok(NetworkConfig {
        udp: UdpConfig {
            bind: config.gateways.udp_bind,
            receive_buffer_bytes: usize::try_from(config.gateways.receive_buffer_bytes)?,
            threads: usize::try_from(config.gateways.receiver_threads)?,
        },
        net_id: NetId::new(config.network.net_id),
        dedup_window_ms: u64::from(config.network.dedup_window_ms),
        owner_threads: match config.network.owner_threads {
            0 => automatic_owners(),
            threads => usize::try_from(threads)?,
        },
        auto_register: config.gateways.auto_register,
        auto_register_region: config
            .gateways
            .auto_register_region
            .and_then(|region| RegionId::from_number(region.into())),
    })
}

/// One owner for each four cores: deciding takes a small part of an uplink's time.
fn automatic_owners() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 4).max(1))
}

pub(crate) async fn app_bridge(
    config: &Config,
    store: &Store,
    network: Arc<dyn NetworkPort>,
    join: Arc<dyn JoinPort>,
) -> anyhow::Result<AppBridge> {
    let codec = app_bridge::codec::Limits {
        time_ms: config.codec.time_limit_ms,
        memory_bytes: usize::try_from(config.codec.memory_limit_bytes)?,
        stack_bytes: usize::try_from(config.codec.stack_limit_bytes)?,
        ..app_bridge::codec::Limits::default()
    };
    let backed_up = store.clone();
    let bridge_config = app_bridge::Config {
        codec_threads: usize::try_from(config.codec.threads)?,
        codec_limits: codec,
        roles: config.server.roles.iter().map(|role| role_name(*role).to_owned()).collect(),
        backup: Some(Arc::new(move |path| {
            let store = backed_up.clone();
            Box::pin(async move { store.backup(&path).await })
        })),
        ..app_bridge::Config::default()
    };
    let transport_key = store.transport_key();
    Ok(AppBridge::start(bridge_config, store.bridge(), store.sealer(), &transport_key, network, join).await?)
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::AppBridge => "app-bridge",
        Role::JoinServer => "join-server",
        Role::NetworkServer => "network-server",
    }
}

/// A process with the join server alone asks nobody for frames.
#[allow(clippy::expect_used, reason = "the word has 16 characters and more")]
pub(crate) fn no_network() -> Arc<dyn NetworkPort> {
    let nowhere = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    let token = RoleToken::parse("nobody-listens-there").expect("it is long enough");
    Arc::new(RemoteNetwork::new(token.channel(nowhere)))
}

/// The other processes of this installation.
pub(crate) struct Links<'a> {
    config: &'a Config,
    token: Option<RoleToken>,
}

impl<'a> Links<'a> {
    pub(crate) fn read(config: &'a Config) -> anyhow::Result<Self> {
        let token = match &config.internal.token_file {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("internal.token_file {} cannot be read", path.display()))?;
                let token = RoleToken::parse(&text)
                    .with_context(|| format!("internal.token_file {}", path.display()))?;
                Some(token)
            }
        };
        Ok(Self { config, token })
    }

    pub(crate) fn join(&self) -> anyhow::Result<Arc<dyn JoinPort>> {
        let channel = self.channel(self.config.internal.join_url.as_deref(), "join_url", "join server")?;
        Ok(Arc::new(RemoteJoin::new(channel)))
    }

    pub(crate) fn network(&self) -> anyhow::Result<Arc<dyn NetworkPort>> {
        let channel =
            self.channel(self.config.internal.network_url.as_deref(), "network_url", "network server")?;
        Ok(Arc::new(RemoteNetwork::new(channel)))
    }

    /// The app-bridge elsewhere; without one, windows leave without payloads.
    pub(crate) fn payload(&self) -> anyhow::Result<Option<Arc<dyn PayloadPort>>> {
        if self.config.internal.bridge_url.is_none() {
            tracing::warn!("internal.bridge_url is not set: downlinks leave without payloads of applications");
            return Ok(None);
        }
        let channel = self.channel(self.config.internal.bridge_url.as_deref(), "bridge_url", "app-bridge")?;
        Ok(Some(Arc::new(RemotePayload::new(channel))))
    }

    /// What this process offers the others, behind the token.
    pub(crate) fn internal_router(
        &self,
        network: Option<Arc<dyn NetworkPort>>,
        join: Option<Arc<dyn JoinPort>>,
        payload: Option<Arc<dyn PayloadPort>>,
    ) -> anyhow::Result<axum::Router> {
        let guard = self.token()?.guard();
        let mut routes = Routes::builder();
        if let Some(port) = network {
            routes.add_service(InterceptedService::new(remote::network_service(port), guard.clone()));
        }
        if let Some(port) = join {
            routes.add_service(InterceptedService::new(join_server::grpc_service(port), guard.clone()));
        }
        if let Some(port) = payload {
            routes.add_service(InterceptedService::new(app_bridge::payload_service(port), guard));
        }
        Ok(routes.routes().into_axum_router())
    }

    fn channel(&self, url: Option<&str>, key: &str, role: &str) -> anyhow::Result<RoleChannel> {
        let Some(url) = url else {
            bail!(
                "this process does not play the {role}: set internal.{key} to the one that does, or start it with that role too"
            );
        };
        let endpoint = Endpoint::from_shared(url.to_owned())
            .with_context(|| format!("internal.{key} `{url}` is no URL such as http://10.0.0.2:8081"))?
            .connect_timeout(Duration::from_secs(2))
            .tcp_keepalive(Some(Duration::from_secs(20)))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_while_idle(true);
        Ok(self.token()?.channel(endpoint.connect_lazy()))
    }

    fn token(&self) -> anyhow::Result<RoleToken> {
        self.token.clone().context(
            "roles in several processes share a token: set internal.token_file to a file with 16 to 256 random characters",
        )
    }
}
