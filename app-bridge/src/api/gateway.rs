//! Gateways: registered here, kept by the network server.

use std::sync::Arc;

use async_trait::async_trait;
use proto::internal as pb;
use proto::port::NetworkPort;
use proto::v1;
use proto::v1::gateway_service_server::GatewayService;
use store::BridgeTables;
use tonic::{Request, Response, Status};

use super::Audit;
use crate::clock::now_us;
use crate::event::hex;
use crate::validate;

pub(crate) struct GatewayApi {
    pub(crate) network: Arc<dyn NetworkPort>,
    pub(crate) tables: BridgeTables,
}

#[async_trait]
impl GatewayService for GatewayApi {
    async fn create_gateway(
        &self,
        request: Request<v1::CreateGatewayRequest>,
    ) -> Result<Response<v1::CreateGatewayResponse>, Status> {
        let audit = Audit::of(&request);
        let mut gateway = validate::required("gateway", request.into_inner().gateway)?;
        let eui = validate::gateway_eui("gateway.gateway_eui", &gateway.gateway_eui)?;
        validate::display_name("gateway.name", &gateway.name)?;
        region(gateway.region)?;
        decibels("gateway.antenna_gain_dbi", gateway.antenna_gain_dbi, -20.0..=30.0)?;
        decibels("gateway.max_power_dbm", gateway.max_power_dbm, 0.0..=40.0)?;
        if !self.network.gateways(Some(eui)).await?.is_empty() {
            return Err(Status::already_exists(format!("gateway {eui:016x} is registered already")));
        }
        gateway.gateway_eui = hex(eui, 16);
        gateway.created_at_us = now_us();
        self.network.put_gateway(gateway.clone()).await?;
        audit.write(&self.tables, "gateway.create", &gateway.gateway_eui, &gateway.name).await?;
        Ok(Response::new(v1::CreateGatewayResponse { gateway: Some(gateway) }))
    }

    async fn get_gateway(
        &self,
        request: Request<v1::GetGatewayRequest>,
    ) -> Result<Response<v1::GetGatewayResponse>, Status> {
        let eui = validate::gateway_eui("gateway_eui", &request.into_inner().gateway_eui)?;
        let item = self.network.gateways(Some(eui)).await?.into_iter().next().ok_or_else(|| unknown(eui))?;
        Ok(Response::new(v1::GetGatewayResponse { gateway: item.gateway, status: item.status }))
    }

    async fn list_gateways(
        &self,
        request: Request<v1::ListGatewaysRequest>,
    ) -> Result<Response<v1::ListGatewaysResponse>, Status> {
        let request = request.into_inner();
        let size = usize::try_from(validate::page_size(request.page_size)?).unwrap_or(usize::MAX);
        let after = validate::page_token_number(&request.page_token)?;
        let mut gateways = self.network.gateways(None).await?;
        let start = after.map_or(0, |after| gateways.partition_point(|item| eui_of(item) <= after));
        gateways.drain(..start);
        let more = gateways.len() > size;
        gateways.truncate(size);
        let next_page_token =
            gateways.last().filter(|_| more).map(|item| hex(eui_of(item), 16)).unwrap_or_default();
        Ok(Response::new(v1::ListGatewaysResponse { gateways, next_page_token }))
    }

    async fn delete_gateway(
        &self,
        request: Request<v1::DeleteGatewayRequest>,
    ) -> Result<Response<v1::DeleteGatewayResponse>, Status> {
        let audit = Audit::of(&request);
        let eui = validate::gateway_eui("gateway_eui", &request.into_inner().gateway_eui)?;
        if self.network.gateways(Some(eui)).await?.is_empty() {
            return Err(unknown(eui));
        }
        self.network.delete_gateway(eui).await?;
        audit.write(&self.tables, "gateway.delete", &hex(eui, 16), "").await?;
        Ok(Response::new(v1::DeleteGatewayResponse {}))
    }

    async fn list_unseen_gateways(
        &self,
        _: Request<v1::ListUnseenGatewaysRequest>,
    ) -> Result<Response<v1::ListUnseenGatewaysResponse>, Status> {
        let gateways = self.network.unseen_gateways().await?;
        Ok(Response::new(v1::ListUnseenGatewaysResponse { gateways }))
    }
}

impl GatewayApi {
    /// The last refused frames; they are the network server's to tell.
    pub(crate) async fn drops(
        network: &dyn NetworkPort,
        request: v1::ListDropsRequest,
    ) -> Result<v1::ListDropsResponse, Status> {
        let optional_eui = |field, text: &str, parse: fn(&str, &str) -> Result<u64, Status>| {
            if text.is_empty() { Ok(0) } else { parse(field, text) }
        };
        let request = pb::DropsRequest {
            gateway_eui: optional_eui("gateway_eui", &request.gateway_eui, validate::gateway_eui)?,
            dev_eui: optional_eui("dev_eui", &request.dev_eui, validate::dev_eui)?,
            limit: match request.limit {
                0 => 50,
                limit @ 1..=1000 => limit,
                limit => return Err(validate::invalid("limit", format!("{limit} is above 1000"))),
            },
        };
        Ok(v1::ListDropsResponse { drops: network.drops(request).await? })
    }
}

fn eui_of(item: &v1::list_gateways_response::Item) -> u64 {
    item.gateway
        .as_ref()
        .and_then(|gateway| u64::from_str_radix(&gateway.gateway_eui, 16).ok())
        .unwrap_or_default()
}

fn region(number: i32) -> Result<(), Status> {
    match v1::Region::try_from(number) {
        Ok(v1::Region::Unspecified) => {
            Err(validate::invalid("gateway.region", "is missing; name the region the gateway transmits in"))
        }
        Ok(_) => Ok(()),
        Err(_) => Err(validate::invalid("gateway.region", format!("{number} is no region known here"))),
    }
}

fn decibels(field: &str, value: f32, range: std::ops::RangeInclusive<f32>) -> Result<(), Status> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(validate::invalid(field, format!("{value} is outside of {} to {}", range.start(), range.end())))
}

fn unknown(eui: u64) -> Status {
    Status::not_found(format!("gateway {eui:016x} is not registered"))
}
