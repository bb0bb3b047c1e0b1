//! The server itself.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use proto::port::NetworkPort;
use proto::v1;
use proto::v1::system_service_server::SystemService;
use store::{BridgeTables, StoreError};
use tonic::{Request, Response, Status};

use super::Audit;
use crate::error::BridgeError;
use crate::validate;

/// Copies the database to a file that does not exist yet; answers with its size in bytes.
pub type Backup =
    Arc<dyn Fn(PathBuf) -> Pin<Box<dyn Future<Output = Result<u64, StoreError>> + Send>> + Send + Sync>;

pub(crate) struct SystemApi {
    pub(crate) network: Arc<dyn NetworkPort>,
    pub(crate) tables: BridgeTables,
    pub(crate) roles: Vec<String>,
    pub(crate) started_at_us: i64,
    pub(crate) backup: Option<Backup>,
}

#[async_trait]
impl SystemService for SystemApi {
    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Result<Response<v1::GetInfoResponse>, Status> {
        let stats = self.network.stats().await?;
        let devices = self.tables.device_count().await.map_err(BridgeError::from)?;
        Ok(Response::new(v1::GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            roles: self.roles.clone(),
            started_at_us: self.started_at_us,
            devices,
            ..stats
        }))
    }

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<v1::BackupResponse>, Status> {
        let audit = Audit::of(&request);
        let path = request.into_inner().path;
        let Some(backup) = &self.backup else {
            return Err(Status::failed_precondition("this server keeps nothing on disk that could be copied"));
        };
        let file = PathBuf::from(&path);
        if !file.is_absolute() {
            return Err(validate::invalid(
                "path",
                format!("`{path}` is not absolute; it is a file on the server's machine"),
            ));
        }
        if tokio::fs::try_exists(&file).await.unwrap_or(false) {
            return Err(Status::already_exists(format!("{path} exists already; a backup never overwrites")));
        }
        // In a task of its own: of a caller that goes away, half a copy would stay. The end of the server does not wait for it.
        let copied = tokio::spawn(backup(file)).await;
        let copied = copied.map_err(|_| Status::internal("the copy ended with a fault of the server"))?;
        let size_bytes = copied.map_err(BridgeError::from)?;
        audit.write(&self.tables, "system.backup", &path, &format!("{size_bytes} bytes")).await?;
        Ok(Response::new(v1::BackupResponse { size_bytes }))
    }
}
