//! Applications.

use async_trait::async_trait;
use proto::v1;
use proto::v1::application_service_server::ApplicationService;
use store::{ApplicationRow, BridgeTables, Removal, Written};
use tonic::{Request, Response, Status};

use super::{Audit, cut_page, exists, in_use, unknown};
use crate::clock::now_us;
use crate::error::BridgeError;
use crate::validate;

const APPLICATION: &str = "application";

pub(crate) struct ApplicationApi {
    pub(crate) tables: BridgeTables,
}

impl ApplicationApi {
    async fn message(&self, row: ApplicationRow) -> Result<v1::Application, Status> {
        let device_count = self.tables.application_device_count(&row.id).await.map_err(BridgeError::from)?;
        Ok(v1::Application { id: row.id, name: row.name, created_at_us: row.created_at_us, device_count })
    }
}

#[async_trait]
impl ApplicationService for ApplicationApi {
    async fn create_application(
        &self,
        request: Request<v1::CreateApplicationRequest>,
    ) -> Result<Response<v1::CreateApplicationResponse>, Status> {
        let audit = Audit::of(&request);
        let v1::CreateApplicationRequest { id, name } = request.into_inner();
        validate::slug("id", &id)?;
        validate::display_name("name", &name)?;
        let row = ApplicationRow { id, name, created_at_us: now_us() };
        match self.tables.insert_application(row.clone()).await.map_err(BridgeError::from)? {
            Written::Done => {}
            Written::Exists(id) | Written::Missing(id) => return Err(exists(APPLICATION, &id)),
        }
        audit.write(&self.tables, "application.create", &row.id, &row.name).await?;
        let application = self.message(row).await?;
        Ok(Response::new(v1::CreateApplicationResponse { application: Some(application) }))
    }

    async fn get_application(
        &self,
        request: Request<v1::GetApplicationRequest>,
    ) -> Result<Response<v1::GetApplicationResponse>, Status> {
        let id = request.into_inner().id;
        validate::slug("id", &id)?;
        let row = self.tables.application(&id).await.map_err(BridgeError::from)?;
        let application = self.message(row.ok_or_else(|| unknown(APPLICATION, &id))?).await?;
        Ok(Response::new(v1::GetApplicationResponse { application: Some(application) }))
    }

    async fn list_applications(
        &self,
        request: Request<v1::ListApplicationsRequest>,
    ) -> Result<Response<v1::ListApplicationsResponse>, Status> {
        let request = request.into_inner();
        let size = validate::page_size(request.page_size)?;
        let after = validate::page_token_id(&request.page_token)?;
        let mut rows =
            self.tables.applications(after, size.saturating_add(1)).await.map_err(BridgeError::from)?;
        let more = cut_page(&mut rows, size);
        let next_page_token = rows.last().filter(|_| more).map(|row| row.id.clone()).unwrap_or_default();
        let mut applications = Vec::with_capacity(rows.len());
        for row in rows {
            applications.push(self.message(row).await?);
        }
        Ok(Response::new(v1::ListApplicationsResponse { applications, next_page_token }))
    }

    async fn delete_application(
        &self,
        request: Request<v1::DeleteApplicationRequest>,
    ) -> Result<Response<v1::DeleteApplicationResponse>, Status> {
        let audit = Audit::of(&request);
        let id = request.into_inner().id;
        validate::slug("id", &id)?;
        match self.tables.delete_application(&id).await.map_err(BridgeError::from)? {
            Removal::InUse(devices) => return Err(in_use(APPLICATION, &id, devices)),
            Removal::NotFound => return Err(unknown(APPLICATION, &id)),
            Removal::Removed => {}
        }
        audit.write(&self.tables, "application.delete", &id, "").await?;
        Ok(Response::new(v1::DeleteApplicationResponse {}))
    }
}
