//! The ports of the app-bridge over gRPC, for roles in processes of their own.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::internal as pb;
use proto::internal::network_service_client::NetworkServiceClient;
use proto::internal::payload_service_server::{PayloadService, PayloadServiceServer};
use proto::link::RoleChannel;
use proto::port::{LogPage, NetworkPort, PayloadPort, PortError};
use proto::v1;
use tonic::{Request, Response, Status};

/// How long a call to the network server may take beyond the wait that was asked for.
const CALL_MS_MAX: u64 = 10_000;

/// The largest answer taken from the network server, bytes: it holds all gateways with their status.
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;

/// Serves a [`PayloadPort`] over gRPC, for a network server in another process.
pub fn payload_service(port: Arc<dyn PayloadPort>) -> PayloadServiceServer<PayloadGate> {
    PayloadServiceServer::new(PayloadGate { port })
}

/// The gRPC side of a [`PayloadPort`].
pub struct PayloadGate {
    port: Arc<dyn PayloadPort>,
}

#[async_trait]
impl PayloadService for PayloadGate {
    async fn take_payload(
        &self,
        request: Request<pb::TakePayloadRequest>,
    ) -> Result<Response<pb::TakePayloadResponse>, Status> {
        Ok(Response::new(self.port.take_payload(request.into_inner()).await?))
    }
}

/// A network server in another process.
///
/// Each call has a deadline; one that is not answered ends in [`PortError::Unavailable`].
#[derive(Clone, Debug)]
pub struct RemoteNetwork {
    client: NetworkServiceClient<RoleChannel>,
}

impl RemoteNetwork {
    /// Talks to the network server behind `channel`, which may connect later.
    pub fn new(channel: RoleChannel) -> Self {
        Self { client: NetworkServiceClient::new(channel).max_decoding_message_size(ANSWER_LEN_MAX) }
    }
}

/// Waits for an answer, not longer than the deadline of a call plus `extra_ms`.
async fn answer<T>(
    extra_ms: u64,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, PortError> {
    let deadline = Duration::from_millis(CALL_MS_MAX.saturating_add(extra_ms));
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(PortError::from(status)),
        Err(_) => Err(PortError::Unavailable(format!(
            "the network server has not answered for {} ms",
            deadline.as_millis()
        ))),
    }
}

#[async_trait]
impl NetworkPort for RemoteNetwork {
    async fn put_profile(&self, profile: v1::Profile) -> Result<(), PortError> {
        let request = pb::PutProfileRequest { profile: Some(profile) };
        answer(0, self.client.clone().put_profile(request)).await.map(drop)
    }

    async fn delete_profile(&self, id: &str) -> Result<(), PortError> {
        let request = pb::DeleteProfileRequest { id: id.to_owned() };
        answer(0, self.client.clone().delete_profile(request)).await.map(drop)
    }

    async fn put_device(&self, device: pb::PutDeviceRequest) -> Result<(), PortError> {
        answer(0, self.client.clone().put_device(device)).await.map(drop)
    }

    async fn delete_device(&self, dev_eui: u64) -> Result<(), PortError> {
        let request = pb::DeleteDeviceRequest { dev_eui };
        answer(0, self.client.clone().delete_device(request)).await.map(drop)
    }

    async fn activate(&self, request: pb::ActivateRequest) -> Result<(), PortError> {
        answer(0, self.client.clone().activate(request)).await.map(drop)
    }

    async fn device_state(&self, dev_eui: u64) -> Result<Option<v1::DeviceState>, PortError> {
        let request = pb::DeviceStateRequest { dev_eui };
        answer(0, self.client.clone().device_state(request)).await.map(|response| response.state)
    }

    async fn put_gateway(&self, gateway: v1::Gateway) -> Result<(), PortError> {
        let request = pb::PutGatewayRequest { gateway: Some(gateway) };
        answer(0, self.client.clone().put_gateway(request)).await.map(drop)
    }

    async fn delete_gateway(&self, gateway_eui: u64) -> Result<(), PortError> {
        let request = pb::DeleteGatewayRequest { gateway_eui };
        answer(0, self.client.clone().delete_gateway(request)).await.map(drop)
    }

    async fn gateways(
        &self,
        gateway_eui: Option<u64>,
    ) -> Result<Vec<v1::list_gateways_response::Item>, PortError> {
        let request = pb::GatewaysRequest { gateway_eui: gateway_eui.unwrap_or(0) };
        answer(0, self.client.clone().gateways(request)).await.map(|response| response.gateways)
    }

    async fn unseen_gateways(&self) -> Result<Vec<v1::list_unseen_gateways_response::Item>, PortError> {
        let request = pb::UnseenGatewaysRequest {};
        answer(0, self.client.clone().unseen_gateways(request)).await.map(|response| response.gateways)
    }

    async fn drops(&self, request: pb::DropsRequest) -> Result<Vec<v1::list_drops_response::Drop>, PortError> {
        answer(0, self.client.clone().drops(request)).await.map(|response| response.drops)
    }

    async fn set_queue_hints(&self, hints: Vec<pb::QueueHint>) -> Result<(), PortError> {
        let request = pb::SetQueueHintRequest { hints };
        answer(0, self.client.clone().set_queue_hint(request)).await.map(drop)
    }

    async fn append_records(&self, records: Vec<pb::Record>) -> Result<u64, PortError> {
        let request = pb::AppendRecordsRequest { records };
        answer(0, self.client.clone().append_records(request)).await.map(|response| response.first_seq)
    }

    async fn read_log(&self, request: pb::ReadLogRequest) -> Result<LogPage, PortError> {
        let extra_ms = u64::from(request.wait_ms);
        let response = answer(extra_ms, self.client.clone().read_log(request)).await?;
        let records = (response.first_seq..).zip(response.records.into_iter().map(Arc::new)).collect();
        Ok(LogPage { records, head_seq: response.head_seq, earliest_seq: response.earliest_seq })
    }

    async fn stats(&self) -> Result<v1::GetInfoResponse, PortError> {
        let response = answer(0, self.client.clone().stats(pb::StatsRequest {})).await?;
        response.info.ok_or_else(|| PortError::Internal("the network server sent no counters".to_owned()))
    }
}
