//! The network server's ports over gRPC: its own, served to an app-bridge in another process, and the app-bridge's
//! [`PayloadPort`], called there.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::internal as pb;
use proto::internal::network_service_server::{NetworkService, NetworkServiceServer};
use proto::internal::payload_service_client::PayloadServiceClient;
use proto::link::RoleChannel;
use proto::port::{NetworkPort, PayloadPort, PortError};
use tonic::{Request, Response, Status};

use crate::budget::PAYLOAD_MS;

/// Serves a [`NetworkPort`] as `loam.internal.v1.NetworkService`. Guard it with a role token.
pub fn network_service(port: Arc<dyn NetworkPort>) -> NetworkServiceServer<impl NetworkService> {
    NetworkServiceServer::new(ServedNetwork(port))
}

struct ServedNetwork(Arc<dyn NetworkPort>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl NetworkService for ServedNetwork {
    async fn put_profile(&self, r: Request<pb::PutProfileRequest>) -> Answer<pb::PutProfileResponse> {
        let profile = r.into_inner().profile.ok_or_else(|| Status::invalid_argument("profile is missing"))?;
        self.0.put_profile(profile).await?;
        Ok(Response::new(pb::PutProfileResponse {}))
    }

    async fn delete_profile(&self, r: Request<pb::DeleteProfileRequest>) -> Answer<pb::DeleteProfileResponse> {
        self.0.delete_profile(&r.into_inner().id).await?;
        Ok(Response::new(pb::DeleteProfileResponse {}))
    }

    async fn put_device(&self, r: Request<pb::PutDeviceRequest>) -> Answer<pb::PutDeviceResponse> {
        self.0.put_device(r.into_inner()).await?;
        Ok(Response::new(pb::PutDeviceResponse {}))
    }

    async fn delete_device(&self, r: Request<pb::DeleteDeviceRequest>) -> Answer<pb::DeleteDeviceResponse> {
        self.0.delete_device(r.into_inner().dev_eui).await?;
        Ok(Response::new(pb::DeleteDeviceResponse {}))
    }

    async fn activate(&self, r: Request<pb::ActivateRequest>) -> Answer<pb::ActivateResponse> {
        self.0.activate(r.into_inner()).await?;
        Ok(Response::new(pb::ActivateResponse {}))
    }

    async fn device_state(&self, r: Request<pb::DeviceStateRequest>) -> Answer<pb::DeviceStateResponse> {
        let state = self.0.device_state(r.into_inner().dev_eui).await?;
        Ok(Response::new(pb::DeviceStateResponse { state }))
    }

    async fn put_gateway(&self, r: Request<pb::PutGatewayRequest>) -> Answer<pb::PutGatewayResponse> {
        let gateway = r.into_inner().gateway.ok_or_else(|| Status::invalid_argument("gateway is missing"))?;
        self.0.put_gateway(gateway).await?;
        Ok(Response::new(pb::PutGatewayResponse {}))
    }

    async fn delete_gateway(&self, r: Request<pb::DeleteGatewayRequest>) -> Answer<pb::DeleteGatewayResponse> {
        self.0.delete_gateway(r.into_inner().gateway_eui).await?;
        Ok(Response::new(pb::DeleteGatewayResponse {}))
    }

    async fn gateways(&self, r: Request<pb::GatewaysRequest>) -> Answer<pb::GatewaysResponse> {
        let wanted = Some(r.into_inner().gateway_eui).filter(|eui| *eui != 0);
        let gateways = self.0.gateways(wanted).await?;
        Ok(Response::new(pb::GatewaysResponse { gateways }))
    }

    async fn unseen_gateways(
        &self,
        _: Request<pb::UnseenGatewaysRequest>,
    ) -> Answer<pb::UnseenGatewaysResponse> {
        let gateways = self.0.unseen_gateways().await?;
        Ok(Response::new(pb::UnseenGatewaysResponse { gateways }))
    }

    async fn drops(&self, r: Request<pb::DropsRequest>) -> Answer<pb::DropsResponse> {
        let drops = self.0.drops(r.into_inner()).await?;
        Ok(Response::new(pb::DropsResponse { drops }))
    }

    async fn set_queue_hint(&self, r: Request<pb::SetQueueHintRequest>) -> Answer<pb::SetQueueHintResponse> {
        self.0.set_queue_hints(r.into_inner().hints).await?;
        Ok(Response::new(pb::SetQueueHintResponse {}))
    }

    async fn append_records(&self, r: Request<pb::AppendRecordsRequest>) -> Answer<pb::AppendRecordsResponse> {
        let first_seq = self.0.append_records(r.into_inner().records).await?;
        Ok(Response::new(pb::AppendRecordsResponse { first_seq }))
    }

    async fn read_log(&self, r: Request<pb::ReadLogRequest>) -> Answer<pb::ReadLogResponse> {
        let page = self.0.read_log(r.into_inner()).await?;
        Ok(Response::new(pb::ReadLogResponse {
            first_seq: page.records.first().map_or(0, |(seq, _)| *seq),
            records: page.records.iter().map(|(_, record)| record.as_ref().clone()).collect(),
            head_seq: page.head_seq,
            earliest_seq: page.earliest_seq,
        }))
    }

    async fn stats(&self, _: Request<pb::StatsRequest>) -> Answer<pb::StatsResponse> {
        Ok(Response::new(pb::StatsResponse { info: Some(self.0.stats().await?) }))
    }
}

/// The app-bridge in another process.
#[derive(Clone, Debug)]
pub struct RemotePayload {
    client: PayloadServiceClient<RoleChannel>,
}

impl RemotePayload {
    /// Calls the app-bridge over `channel`, which may connect later.
    pub fn new(channel: RoleChannel) -> Self {
        Self { client: PayloadServiceClient::new(channel) }
    }
}

#[async_trait]
impl PayloadPort for RemotePayload {
    async fn take_payload(
        &self,
        request: pb::TakePayloadRequest,
    ) -> Result<pb::TakePayloadResponse, PortError> {
        let mut request = Request::new(request);
        request.set_timeout(Duration::from_millis(PAYLOAD_MS));
        Ok(self.client.clone().take_payload(request).await?.into_inner())
    }
}
