//! Ports: what one role asks of another. Each has two implementations, in process and over gRPC; `cli` chooses.
//!
//! The messages are those of `loam.internal.v1`, so that both implementations carry exactly the same thing.

use async_trait::async_trait;

use crate::internal as pb;
use crate::v1;

/// Why a call to another role brought no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PortError {
    /// What exists already stays as it was.
    #[error("{0}")]
    AlreadyExists(String),
    /// The caller sent something that cannot be.
    #[error("{0}")]
    InvalidArgument(String),
    /// The thing named is not known.
    #[error("{0}")]
    NotFound(String),
    /// The state of the thing forbids it.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The other role is not reachable or not ready; trying again later may help.
    #[error("{0}")]
    Unavailable(String),
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

impl From<PortError> for tonic::Status {
    fn from(error: PortError) -> Self {
        match error {
            PortError::AlreadyExists(m) => Self::already_exists(m),
            PortError::InvalidArgument(m) => Self::invalid_argument(m),
            PortError::NotFound(m) => Self::not_found(m),
            PortError::FailedPrecondition(m) => Self::failed_precondition(m),
            PortError::Unavailable(m) => Self::unavailable(m),
            PortError::Internal(m) => Self::internal(m),
        }
    }
}

impl From<tonic::Status> for PortError {
    fn from(status: tonic::Status) -> Self {
        let source = std::error::Error::source(&status);
        if source.is_some_and(|source| source.is::<tonic::transport::Error>()) {
            return Self::Unavailable("the connection to another role broke: try again".to_owned());
        }
        let message = status.message().to_owned();
        #[allow(clippy::wildcard_enum_match_arm, reason = "gRPC has many codes, loam uses six")]
        match status.code() {
            tonic::Code::AlreadyExists => Self::AlreadyExists(message),
            tonic::Code::InvalidArgument => Self::InvalidArgument(message),
            tonic::Code::NotFound => Self::NotFound(message),
            tonic::Code::FailedPrecondition => Self::FailedPrecondition(message),
            tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => {
                Self::Unavailable(message)
            }
            _ => Self::Internal(message),
        }
    }
}

/// The reason a network server gives when the device's next uplink did not acknowledge a confirmed downlink.
pub const NOT_ACKNOWLEDGED: &str = "not_acknowledged";

/// What the network server and the app-bridge ask of the join server.
#[async_trait]
pub trait JoinPort: Send + Sync + 'static {
    /// Answers a Join-Request. DevNonce, JoinNonce and the answer are durable when this returns; the same request gets the same answer.
    async fn join(&self, request: pb::JoinRequest) -> Result<pb::JoinResponse, PortError>;
    /// Creates or replaces a device that joins over the air. Idempotent.
    async fn put_join_device(&self, request: pb::PutJoinDeviceRequest) -> Result<(), PortError>;
    /// Forgets a device and destroys its keys. Nonces used stay known until then. Idempotent.
    async fn delete_join_device(&self, dev_eui: u64) -> Result<(), PortError>;
    /// Which keys a device has; `None` when it is not known.
    async fn join_keys_status(&self, dev_eui: u64) -> Result<Option<v1::GetKeysStatusResponse>, PortError>;
}

/// What the app-bridge asks of the network server.
#[async_trait]
pub trait NetworkPort: Send + Sync + 'static {
    /// Creates or replaces a profile. Idempotent; durable when it returns, like all below.
    async fn put_profile(&self, profile: v1::Profile) -> Result<(), PortError>;
    /// Forgets a profile.
    async fn delete_profile(&self, id: &str) -> Result<(), PortError>;
    /// Creates or replaces a device's network settings.
    async fn put_device(&self, device: pb::PutDeviceRequest) -> Result<(), PortError>;
    /// Forgets a device and its sessions.
    async fn delete_device(&self, dev_eui: u64) -> Result<(), PortError>;
    /// Gives a device its ABP session, in place of any other.
    async fn activate(&self, request: pb::ActivateRequest) -> Result<(), PortError>;
    /// The session of a device; `None` when the device is not known.
    async fn device_state(&self, dev_eui: u64) -> Result<Option<v1::DeviceState>, PortError>;
    /// Creates or replaces a gateway.
    async fn put_gateway(&self, gateway: v1::Gateway) -> Result<(), PortError>;
    /// Forgets a gateway.
    async fn delete_gateway(&self, gateway_eui: u64) -> Result<(), PortError>;
    /// One gateway, or all with `None`, in order of their EUI.
    async fn gateways(
        &self,
        gateway_eui: Option<u64>,
    ) -> Result<Vec<v1::list_gateways_response::Item>, PortError>;
    /// Gateways that sent datagrams and are not registered.
    async fn unseen_gateways(&self) -> Result<Vec<v1::list_unseen_gateways_response::Item>, PortError>;
    /// The last refused frames, newest first.
    async fn drops(&self, request: pb::DropsRequest) -> Result<Vec<v1::list_drops_response::Drop>, PortError>;
    /// Tells what waits for devices, so that a window asks for it.
    async fn set_queue_hints(&self, hints: Vec<pb::QueueHint>) -> Result<(), PortError>;
    /// Commits records of the app-bridge to the event log; returns the first one's sequence.
    async fn append_records(&self, records: Vec<pb::Record>) -> Result<u64, PortError>;
    /// Reads the event log after a sequence; waits up to `wait_ms` for the first record.
    async fn read_log(&self, request: pb::ReadLogRequest) -> Result<LogPage, PortError>;
    /// Counters for `GetInfo`.
    async fn stats(&self) -> Result<v1::GetInfoResponse, PortError>;
}

/// A piece of the event log.
#[derive(Clone, Debug, Default)]
pub struct LogPage {
    /// Records with their sequences, rising.
    pub records: Vec<(u64, std::sync::Arc<pb::Record>)>,
    /// The last committed sequence; 0: none.
    pub head_seq: u64,
    /// The first sequence still kept.
    pub earliest_seq: u64,
}

/// What the network server asks of the app-bridge.
#[async_trait]
pub trait PayloadPort: Send + Sync + 'static {
    /// The payload for a window that opens soon, leased durably to (session, FCntDown) before it is answered.
    async fn take_payload(&self, request: pb::TakePayloadRequest)
    -> Result<pb::TakePayloadResponse, PortError>;
}
