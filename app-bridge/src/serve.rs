//! The router of the API, and what runs beside it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::{HeaderName, header};
use proto::internal as pb;
use proto::port::NetworkPort;
use proto::v1::application_service_server::ApplicationServiceServer;
use proto::v1::codec_service_server::CodecServiceServer;
use proto::v1::device_service_server::DeviceServiceServer;
use proto::v1::downlink_service_server::DownlinkServiceServer;
use proto::v1::event_service_server::EventServiceServer;
use proto::v1::gateway_service_server::GatewayServiceServer;
use proto::v1::profile_service_server::ProfileServiceServer;
use proto::v1::system_service_server::SystemServiceServer;
use store::BridgeTables;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::Inner;
use crate::api::application::ApplicationApi;
use crate::api::codec::CodecApi;
use crate::api::device::DeviceApi;
use crate::api::downlink::DownlinkApi;
use crate::api::event::{EventApi, EventGate};
use crate::api::gateway::GatewayApi;
use crate::api::profile::ProfileApi;
use crate::api::system::SystemApi;
use crate::api::{MESSAGE_LEN_MAX, watch_codec};
use crate::auth::require_key;
use crate::clock::now_us;
use crate::consumers::Consumers;
use crate::error::BridgeError;

/// The services of the public API, as reflection names them.
pub(crate) const SERVICES: [&str; 8] = [
    "loam.v1.ApplicationService",
    "loam.v1.CodecService",
    "loam.v1.DeviceService",
    "loam.v1.DownlinkService",
    "loam.v1.EventService",
    "loam.v1.GatewayService",
    "loam.v1.ProfileService",
    "loam.v1.SystemService",
];

/// The services, as a transport or a caller of the same process uses them.
pub(crate) struct Services {
    pub(crate) application: ApplicationApi,
    pub(crate) codec: CodecApi,
    pub(crate) device: DeviceApi,
    pub(crate) downlink: DownlinkApi,
    pub(crate) events: Arc<EventApi>,
    pub(crate) gateway: GatewayApi,
    pub(crate) profile: ProfileApi,
    pub(crate) system: SystemApi,
}

pub(crate) fn services(inner: &Inner) -> Services {
    let tables = &inner.tables;
    Services {
        application: ApplicationApi { tables: tables.clone() },
        codec: CodecApi {
            tables: tables.clone(),
            registry: Arc::clone(&inner.registry),
            codecs: inner.codecs.clone(),
        },
        device: DeviceApi {
            provisioner: Arc::clone(&inner.provisioner),
            registry: Arc::clone(&inner.registry),
            keys: Arc::clone(&inner.keys),
            queue: Arc::clone(&inner.queue),
            tasks: inner.tasks.clone(),
        },
        downlink: DownlinkApi {
            tables: tables.clone(),
            registry: Arc::clone(&inner.registry),
            codecs: inner.codecs.clone(),
            queue: Arc::clone(&inner.queue),
            tasks: inner.tasks.clone(),
        },
        events: Arc::new(EventApi {
            network: Arc::clone(&inner.network),
            consumers: Arc::clone(&inner.consumers),
            streams: Arc::clone(&inner.streams),
            open: Arc::clone(&inner.streams_open),
            streams_max: inner.config.streams_max,
        }),
        gateway: GatewayApi { network: Arc::clone(&inner.network), tables: tables.clone() },
        profile: ProfileApi {
            provisioner: Arc::clone(&inner.provisioner),
            registry: Arc::clone(&inner.registry),
            tasks: inner.tasks.clone(),
        },
        system: SystemApi {
            network: Arc::clone(&inner.network),
            tables: tables.clone(),
            roles: inner.config.roles.clone(),
            started_at_us: inner.started_at_us,
            backup: inner.config.backup.clone(),
        },
    }
}

#[allow(clippy::expect_used, reason = "the descriptors are those the code was generated from")]
pub(crate) fn router(inner: &Inner) -> Router {
    let Services { application, codec, device, downlink, events, gateway, profile, system } = services(inner);
    let (_, health) = tonic_health::server::health_reporter();
    let routes = Routes::new(health)
        .add_service(reflection().build_v1().expect("the descriptors are those the code was generated from"))
        .add_service(
            reflection().build_v1alpha().expect("the descriptors are those the code was generated from"),
        )
        .add_service(ApplicationServiceServer::new(application).max_decoding_message_size(MESSAGE_LEN_MAX))
        .add_service(CodecServiceServer::new(codec).max_decoding_message_size(MESSAGE_LEN_MAX))
        .add_service(DeviceServiceServer::new(device).max_decoding_message_size(MESSAGE_LEN_MAX))
        .add_service(DownlinkServiceServer::new(downlink).max_decoding_message_size(MESSAGE_LEN_MAX))
        .add_service(
            EventServiceServer::new(EventGate(Arc::clone(&events))).max_decoding_message_size(MESSAGE_LEN_MAX),
        )
        .add_service(GatewayServiceServer::new(gateway).max_decoding_message_size(MESSAGE_LEN_MAX))
        .add_service(ProfileServiceServer::new(profile).max_decoding_message_size(MESSAGE_LEN_MAX))
        .add_service(SystemServiceServer::new(system).max_decoding_message_size(MESSAGE_LEN_MAX));
    let watch =
        Router::new().route(watch_codec::WATCH_PATH, axum::routing::any(watch_codec::watch)).with_state(events);
    routes
        .into_axum_router()
        .merge(watch)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&inner.auth), require_key))
        .layer(GrpcWebLayer::new())
        .layer(cors())
}

fn reflection<'b>() -> tonic_reflection::server::Builder<'b> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health");
    SERVICES.into_iter().fold(builder, tonic_reflection::server::Builder::with_service_name)
}

/// Lets pages of any origin call: what they need is an API key, and there are no cookies that would lend them one.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::any())
        .allow_methods([http::Method::POST])
        .expose_headers([
            HeaderName::from_static("grpc-status"),
            HeaderName::from_static("grpc-message"),
            HeaderName::from_static("grpc-status-details-bin"),
        ])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("x-grpc-web"),
            HeaderName::from_static("x-user-agent"),
            HeaderName::from_static("grpc-timeout"),
        ])
        .max_age(Duration::from_secs(3_600))
}

/// Commits the app-bridge's own notes to the log.
pub(crate) async fn write_notes(
    mut noted: mpsc::Receiver<pb::Record>,
    network: Arc<dyn NetworkPort>,
    stop: CancellationToken,
) {
    while let Some(Some(record)) = stop.run_until_cancelled(noted.recv()).await {
        if let Err(error) = network.append_records(vec![record]).await {
            tracing::warn!(%error, "the event log could not be told of a suspended codec");
        }
    }
}

/// Measures the lag of consumers, and removes what nobody needs any more.
pub(crate) async fn keep_house(
    tables: BridgeTables,
    consumers: Arc<Consumers>,
    history_max_age_s: u64,
    stop: CancellationToken,
) {
    let mut rounds = 0_u32;
    while stop.run_until_cancelled(tokio::time::sleep(HOUSE_PERIOD)).await.is_some() {
        if let Err(error) = consumers.measure().await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the lag of consumers cannot be measured"
            );
        }
        rounds = rounds.wrapping_add(1);
        if rounds.is_multiple_of(PURGE_ROUNDS)
            && let Err(error) = purge(&tables, history_max_age_s).await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "old rows cannot be removed");
        }
    }
}

/// Session keys are not among it: a newer key does not mean that the device got its Join-Accept, so an old one may be in use.
async fn purge(tables: &BridgeTables, history_max_age_s: u64) -> Result<(), BridgeError> {
    let age_us = i64::try_from(history_max_age_s.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    let before_us = now_us().saturating_sub(age_us);
    tables.purge_downlinks(before_us).await?;
    tables.purge_audit(before_us).await?;
    Ok(())
}

const HOUSE_PERIOD: Duration = Duration::from_secs(10);
/// A thousand rows of each kind every minute keep up with any farm.
const PURGE_ROUNDS: u32 = 6;
