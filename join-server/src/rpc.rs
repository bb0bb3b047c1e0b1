//! The port over gRPC, both ends.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proto::internal as pb;
use proto::internal::join_service_client::JoinServiceClient;
use proto::internal::join_service_server::{JoinService, JoinServiceServer};
use proto::link::RoleChannel;
use proto::port::{JoinPort, PortError};
use proto::v1;
use tonic::{Request, Response, Status};

/// The service a join server offers to the other roles. It answers whoever asks: put authentication before it.
pub fn grpc_service(port: Arc<dyn JoinPort>) -> JoinServiceServer<JoinRpc> {
    JoinServiceServer::new(JoinRpc { port })
}

/// Serves a [`JoinPort`]; made by [`grpc_service`].
pub struct JoinRpc {
    port: Arc<dyn JoinPort>,
}

#[async_trait]
impl JoinService for JoinRpc {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        Ok(Response::new(self.port.join(request.into_inner()).await?))
    }

    async fn put_join_device(
        &self,
        request: Request<pb::PutJoinDeviceRequest>,
    ) -> Result<Response<pb::PutJoinDeviceResponse>, Status> {
        self.port.put_join_device(request.into_inner()).await?;
        Ok(Response::new(pb::PutJoinDeviceResponse {}))
    }

    async fn delete_join_device(
        &self,
        request: Request<pb::DeleteJoinDeviceRequest>,
    ) -> Result<Response<pb::DeleteJoinDeviceResponse>, Status> {
        self.port.delete_join_device(request.into_inner().dev_eui).await?;
        Ok(Response::new(pb::DeleteJoinDeviceResponse {}))
    }

    async fn join_keys_status(
        &self,
        request: Request<pb::JoinKeysStatusRequest>,
    ) -> Result<Response<pb::JoinKeysStatusResponse>, Status> {
        let status = self.port.join_keys_status(request.into_inner().dev_eui).await?;
        Ok(Response::new(pb::JoinKeysStatusResponse { status }))
    }
}

/// A join server in another process.
#[derive(Clone, Debug)]
pub struct RemoteJoin {
    client: JoinServiceClient<RoleChannel>,
}

impl RemoteJoin {
    /// Asks over `channel`, which may connect later.
    pub fn new(channel: RoleChannel) -> Self {
        Self { client: JoinServiceClient::new(channel) }
    }

    /// A call with its deadline: a join that is answered later has missed its windows.
    fn request<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(CALL_TIMEOUT);
        request
    }
}

#[async_trait]
impl JoinPort for RemoteJoin {
    async fn join(&self, request: pb::JoinRequest) -> Result<pb::JoinResponse, PortError> {
        Ok(self.client.clone().join(Self::request(request)).await?.into_inner())
    }

    async fn put_join_device(&self, request: pb::PutJoinDeviceRequest) -> Result<(), PortError> {
        self.client.clone().put_join_device(Self::request(request)).await?;
        Ok(())
    }

    async fn delete_join_device(&self, dev_eui: u64) -> Result<(), PortError> {
        let request = pb::DeleteJoinDeviceRequest { dev_eui };
        self.client.clone().delete_join_device(Self::request(request)).await?;
        Ok(())
    }

    async fn join_keys_status(&self, dev_eui: u64) -> Result<Option<v1::GetKeysStatusResponse>, PortError> {
        let request = pb::JoinKeysStatusRequest { dev_eui };
        Ok(self.client.clone().join_keys_status(Self::request(request)).await?.into_inner().status)
    }
}

const CALL_TIMEOUT: Duration = Duration::from_secs(3);
