//! The queue of downlinks, as callers see it.

use std::sync::Arc;

use async_trait::async_trait;
use proto::v1;
use proto::v1::downlink_service_server::DownlinkService;
use proto::v1::enqueue_downlink_request::Content;
use store::{BridgeTables, DownlinkRow};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::profile::downlink_len_max;
use super::{cut_page, to_its_end, unknown};
use crate::clock::now_us;
use crate::codec::CodecPool;
use crate::error::BridgeError;
use crate::event::hex;
use crate::queue::Queue;
use crate::registry::{CodecChoice, Registry};
use crate::validate::{self, invalid};

/// The ports applications may use (TS001-1.0.4 §4.3.2): 0 is the network's, 224 and up are kept for tests and protocols.
const F_PORTS: std::ops::RangeInclusive<u32> = 1..=223;
const PRIORITY_MAX: u32 = 100;
const IDEMPOTENCY_KEY_LEN_MAX: usize = 128;
const OBJECT_LEN_MAX: usize = 64 * 1024;

pub(crate) struct DownlinkApi {
    pub(crate) tables: BridgeTables,
    pub(crate) registry: Arc<Registry>,
    pub(crate) codecs: CodecPool,
    pub(crate) queue: Arc<Queue>,
    pub(crate) tasks: TaskTracker,
}

#[async_trait]
impl DownlinkService for DownlinkApi {
    async fn enqueue_downlink(
        &self,
        request: Request<v1::EnqueueDownlinkRequest>,
    ) -> Result<Response<v1::EnqueueDownlinkResponse>, Status> {
        let request = request.into_inner();
        let dev_eui = validate::dev_eui("dev_eui", &request.dev_eui)?;
        let now = now_us();
        check(&request)?;
        if let Err(passed) = check_deadline(&request, now) {
            // The first call may have been in time, and its answer lost.
            let known = self.queue.known_item(dev_eui, &request.idempotency_key).await?;
            let downlink = Some(message(known.ok_or(passed)?));
            return Ok(Response::new(v1::EnqueueDownlinkResponse { downlink, duplicate: true }));
        }
        let device = self.tables.device(dev_eui).await.map_err(BridgeError::from)?;
        let device = device.ok_or_else(|| unknown("device", &hex(dev_eui, 16)))?;
        let (f_port, payload) = self.content(dev_eui, request.f_port, request.content).await?;
        let profile =
            self.tables.profile(&device.profile_id).await.map_err(BridgeError::from)?.unwrap_or_default();
        let len_max = downlink_len_max(&profile);
        if payload.len() > len_max {
            let problem = format!(
                "has {} bytes; no data rate of the device's profile {} carries more than {len_max}",
                payload.len(),
                device.profile_id
            );
            return Err(invalid("payload", problem));
        }
        let row = DownlinkRow {
            id: item_id(now),
            dev_eui,
            f_port,
            payload,
            confirmed: request.confirmed,
            priority: request.priority,
            not_after_us: request.not_after_us,
            idempotency_key: request.idempotency_key,
            state: v1::DownlinkState::Queued as i32,
            created_at_us: now,
            updated_at_us: now,
            ..DownlinkRow::default()
        };
        let queue = Arc::clone(&self.queue);
        let (row, duplicate) = to_its_end(&self.tasks, async move { queue.enqueue(row).await }).await?;
        Ok(Response::new(v1::EnqueueDownlinkResponse { downlink: Some(message(row)), duplicate }))
    }

    async fn list_downlinks(
        &self,
        request: Request<v1::ListDownlinksRequest>,
    ) -> Result<Response<v1::ListDownlinksResponse>, Status> {
        let request = request.into_inner();
        let dev_eui = validate::dev_eui("dev_eui", &request.dev_eui)?;
        let size = validate::page_size(request.page_size)?;
        let after = validate::page_token_number(&request.page_token)?.unwrap_or(0);
        let listed =
            self.tables.downlinks(dev_eui, request.include_finished, after, size.saturating_add(1)).await;
        let mut rows = listed.map_err(BridgeError::from)?;
        let more = cut_page(&mut rows, size);
        let next_page_token = rows.last().filter(|_| more).map(|row| hex(row.position, 16)).unwrap_or_default();
        let downlinks = rows.into_iter().map(message).collect();
        Ok(Response::new(v1::ListDownlinksResponse { downlinks, next_page_token }))
    }

    async fn cancel_downlink(
        &self,
        request: Request<v1::CancelDownlinkRequest>,
    ) -> Result<Response<v1::CancelDownlinkResponse>, Status> {
        let id = request.into_inner().id;
        if id.is_empty() || id.len() > 64 {
            return Err(invalid(
                "id",
                format!("has {} characters; it is the id an enqueue returned", id.chars().count()),
            ));
        }
        let queue = Arc::clone(&self.queue);
        let row = to_its_end(&self.tasks, async move { queue.cancel(&id, now_us()).await }).await?;
        Ok(Response::new(v1::CancelDownlinkResponse { downlink: Some(message(row)) }))
    }
}

impl DownlinkApi {
    /// The port and bytes to send, made by the device's codec where an object was given.
    async fn content(
        &self,
        dev_eui: u64,
        f_port: u32,
        content: Option<Content>,
    ) -> Result<(u8, Vec<u8>), Status> {
        match content {
            None => Err(Status::invalid_argument("payload or object_json: one of them says what to send")),
            Some(Content::Payload(bytes)) => Ok((checked_port(f_port)?, bytes)),
            Some(Content::ObjectJson(json)) if json.len() > OBJECT_LEN_MAX => Err(invalid(
                "object_json",
                format!("has {} bytes; up to {OBJECT_LEN_MAX} are taken", json.len()),
            )),
            Some(Content::ObjectJson(json)) => {
                let device =
                    self.registry.device(dev_eui).await?.ok_or_else(|| unknown("device", &hex(dev_eui, 16)))?;
                let codec = match &device.codec {
                    CodecChoice::Known(codec) => codec,
                    CodecChoice::Missing(id) => {
                        return Err(Status::failed_precondition(CodecChoice::missing_words(id)));
                    }
                };
                let encoded = self.codecs.encode_downlink(codec, &json).await;
                if !encoded.errors.is_empty() {
                    return Err(invalid("object_json", encoded.errors.join("; ")));
                }
                let f_port = match (f_port, encoded.f_port.map(u32::from)) {
                    (0, Some(chosen)) => chosen,
                    (asked, Some(chosen)) if asked != chosen => {
                        return Err(invalid(
                            "f_port",
                            format!("{asked} is asked for and the codec chose {chosen}; leave one out"),
                        ));
                    }
                    (asked, _) => asked,
                };
                Ok((checked_port(f_port)?, encoded.bytes))
            }
        }
    }
}

fn check(request: &v1::EnqueueDownlinkRequest) -> Result<(), Status> {
    if request.priority > PRIORITY_MAX {
        return Err(invalid("priority", format!("{} is above {PRIORITY_MAX}", request.priority)));
    }
    if request.idempotency_key.len() > IDEMPOTENCY_KEY_LEN_MAX {
        let len = request.idempotency_key.len();
        return Err(invalid(
            "idempotency_key",
            format!("has {len} bytes; up to {IDEMPOTENCY_KEY_LEN_MAX} are kept"),
        ));
    }
    Ok(())
}

fn check_deadline(request: &v1::EnqueueDownlinkRequest, now_us: i64) -> Result<(), Status> {
    match request.not_after_us {
        Some(deadline_us) if deadline_us <= now_us => Err(invalid(
            "not_after_us",
            format!(
                "{deadline_us} has passed ({now_us} by the server's clock); give microseconds since the Unix epoch"
            ),
        )),
        Some(_) | None => Ok(()),
    }
}

fn checked_port(f_port: u32) -> Result<u8, Status> {
    let number = u8::try_from(f_port).ok().filter(|_| F_PORTS.contains(&f_port));
    number.ok_or_else(|| invalid("f_port", format!("{f_port} is not an application's; they are 1 to 223")))
}

/// An id that rises with time.
fn item_id(now_us: i64) -> String {
    let mut id = hex(now_us.cast_unsigned(), 14);
    id.push_str(&hex(seam::random(), 16));
    id
}

pub(crate) fn message(row: DownlinkRow) -> v1::Downlink {
    v1::Downlink {
        id: row.id,
        dev_eui: hex(row.dev_eui, 16),
        f_port: u32::from(row.f_port),
        payload: row.payload,
        confirmed: row.confirmed,
        priority: row.priority,
        not_after_us: row.not_after_us,
        idempotency_key: row.idempotency_key,
        state: row.state,
        reason: row.reason,
        created_at_us: row.created_at_us,
        fcnt_down: row.lease.map(|(_, fcnt_down)| fcnt_down),
        attempts: row.attempts,
    }
}
