//! Devices and their keys.

use std::sync::Arc;

use async_trait::async_trait;
use mac::keys::{AppKey, AppSKey, FNwkSIntKey, NwkKey, NwkSEncKey, SNwkSIntKey};
use mac::version::MacVersion;
use proto::internal as pb;
use proto::v1;
use proto::v1::device_service_server::DeviceService;
use store::{BridgeDeviceRow, Written};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};

use super::codec::require_codec;
use super::provision::{Provisioner, RootKeys};
use super::{Audit, cut_page, exists, to_its_end, unknown};
use crate::clock::now_us;
use crate::error::BridgeError;
use crate::event::hex;
use crate::keys::Keys;
use crate::queue::Queue;
use crate::registry::Registry;
use crate::validate::{self, invalid};

const DEVICE: &str = "device";

#[derive(Clone)]
pub(crate) struct DeviceApi {
    pub(crate) provisioner: Arc<Provisioner>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) tasks: TaskTracker,
}

#[async_trait]
impl DeviceService for DeviceApi {
    async fn create_device(
        &self,
        request: Request<v1::CreateDeviceRequest>,
    ) -> Result<Response<v1::CreateDeviceResponse>, Status> {
        let (api, audit) = (self.clone(), Audit::of(&request));
        to_its_end(&self.tasks, async move { api.create(request.into_inner(), &audit).await })
            .await
            .map(Response::new)
    }

    async fn get_device(
        &self,
        request: Request<v1::GetDeviceRequest>,
    ) -> Result<Response<v1::GetDeviceResponse>, Status> {
        let row = self.row(validate::dev_eui("dev_eui", &request.into_inner().dev_eui)?).await?;
        let state = self.provisioner.network.device_state(row.dev_eui).await?;
        let pending =
            self.provisioner.tables.pending_downlinks_of(row.dev_eui).await.map_err(BridgeError::from)?;
        Ok(Response::new(v1::GetDeviceResponse {
            device: Some(message(row)),
            state,
            queued_downlinks: u64::from(pending.count),
        }))
    }

    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Result<Response<v1::ListDevicesResponse>, Status> {
        let request = request.into_inner();
        let size = validate::page_size(request.page_size)?;
        let after = validate::page_token_number(&request.page_token)?;
        let application_id = match request.application_id.as_str() {
            "" => None,
            id => {
                validate::slug("application_id", id)?;
                Some(id)
            }
        };
        let listed = self.provisioner.tables.devices(application_id, after, size.saturating_add(1)).await;
        let mut rows = listed.map_err(BridgeError::from)?;
        let more = cut_page(&mut rows, size);
        let next_page_token = rows.last().filter(|_| more).map(|row| hex(row.dev_eui, 16)).unwrap_or_default();
        let devices = rows.into_iter().map(message).collect();
        Ok(Response::new(v1::ListDevicesResponse { devices, next_page_token }))
    }

    async fn update_device(
        &self,
        request: Request<v1::UpdateDeviceRequest>,
    ) -> Result<Response<v1::UpdateDeviceResponse>, Status> {
        let (api, audit) = (self.clone(), Audit::of(&request));
        to_its_end(&self.tasks, async move { api.update(request.into_inner(), &audit).await })
            .await
            .map(Response::new)
    }

    async fn delete_device(
        &self,
        request: Request<v1::DeleteDeviceRequest>,
    ) -> Result<Response<v1::DeleteDeviceResponse>, Status> {
        let (api, audit) = (self.clone(), Audit::of(&request));
        to_its_end(&self.tasks, async move { api.delete(request.into_inner(), &audit).await })
            .await
            .map(Response::new)
    }

    async fn activate_device(
        &self,
        request: Request<v1::ActivateDeviceRequest>,
    ) -> Result<Response<v1::ActivateDeviceResponse>, Status> {
        let (api, audit) = (self.clone(), Audit::of(&request));
        to_its_end(&self.tasks, async move { api.activate(request.into_inner(), &audit).await })
            .await
            .map(Response::new)
    }

    async fn set_keys(
        &self,
        request: Request<v1::SetKeysRequest>,
    ) -> Result<Response<v1::SetKeysResponse>, Status> {
        let (api, audit) = (self.clone(), Audit::of(&request));
        to_its_end(&self.tasks, async move { api.set_root_keys(request.into_inner(), &audit).await })
            .await
            .map(Response::new)
    }

    async fn get_keys_status(
        &self,
        request: Request<v1::GetKeysStatusRequest>,
    ) -> Result<Response<v1::GetKeysStatusResponse>, Status> {
        let row = self.row(validate::dev_eui("dev_eui", &request.into_inner().dev_eui)?).await?;
        let status = self.provisioner.join.join_keys_status(row.dev_eui).await?;
        // A device the join server does not know has no keys.
        Ok(Response::new(status.unwrap_or_default()))
    }

    async fn delete_keys(
        &self,
        request: Request<v1::DeleteKeysRequest>,
    ) -> Result<Response<v1::DeleteKeysResponse>, Status> {
        let (api, audit) = (self.clone(), Audit::of(&request));
        to_its_end(&self.tasks, async move { api.delete_root_keys(request.into_inner(), &audit).await })
            .await
            .map(Response::new)
    }
}

impl DeviceApi {
    async fn create(
        &self,
        request: v1::CreateDeviceRequest,
        audit: &Audit,
    ) -> Result<v1::CreateDeviceResponse, Status> {
        let v1::CreateDeviceRequest { device, keys } = request;
        let row = self.checked(validate::required("device", device)?).await?;
        let _turn = self.provisioner.turn(row.dev_eui).await;
        let profile = self.profile(&row).await?;
        let keys = match keys {
            Some(_) if row.join_eui == 0 => {
                return Err(invalid(
                    "device.join_eui",
                    "is empty; a device with root keys joins, and names its JoinEUI",
                ));
            }
            Some(keys) => Some(root_keys(&keys, &profile)?),
            None => None,
        };
        let inserted = self.insert(&row).await?;
        seam::crash_point("bridge.device.written");
        if let Err(error) = self.provisioner.provision(&row, profile.mac_version, keys.as_ref()).await {
            match inserted {
                Inserted::Anew => self.undo_creation(&row).await,
                // It may have sessions and keys that are in use.
                Inserted::TakenOver => self.provisioner.finish_soon(),
            }
            return Err(error.into());
        }
        self.registry.device_changed(row.dev_eui);
        let dev_eui = hex(row.dev_eui, 16);
        audit.write(&self.provisioner.tables, "device.create", &dev_eui, &row.application_id).await?;
        if let Some(weakness) = keys.as_ref().and_then(|keys| weakness(keys, &row)) {
            tracing::warn!(dev_eui = %dev_eui, weakness, "a device has a root key that is easily guessed");
            audit.write(&self.provisioner.tables, "keys.weak", &dev_eui, weakness).await?;
        }
        Ok(v1::CreateDeviceResponse { device: Some(message(row)) })
    }

    async fn update(
        &self,
        request: v1::UpdateDeviceRequest,
        audit: &Audit,
    ) -> Result<v1::UpdateDeviceResponse, Status> {
        let mut row = self.checked(validate::required("device", request.device)?).await?;
        let _turn = self.provisioner.turn(row.dev_eui).await;
        let before = self.row(row.dev_eui).await?;
        if before.join_eui != 0 && row.join_eui == 0 {
            return Err(invalid(
                "device.join_eui",
                "cannot be taken away; delete the device and create it anew",
            ));
        }
        row.created_at_us = before.created_at_us;
        let profile = self.profile(&row).await?;
        match self.provisioner.tables.update_device(row.clone()).await.map_err(BridgeError::from)? {
            Written::Done => {}
            Written::Exists(what) | Written::Missing(what) => return Err(does_not_exist(&what)),
        }
        self.registry.device_changed(row.dev_eui);
        let dev_eui = hex(row.dev_eui, 16);
        if let Err(error) = self.provisioner.provision(&row, profile.mac_version, None).await {
            tracing::warn!(error = &error as &dyn std::error::Error, dev_eui = %dev_eui, "the other roles are told of the device as soon as they answer");
            self.provisioner.finish_soon();
        }
        audit.write(&self.provisioner.tables, "device.update", &dev_eui, "").await?;
        if row.allow_fcnt_reset != before.allow_fcnt_reset {
            let detail = if row.allow_fcnt_reset { "allowed" } else { "refused" };
            audit.write(&self.provisioner.tables, "device.fcnt_reset", &dev_eui, detail).await?;
        }
        Ok(v1::UpdateDeviceResponse { device: Some(message(row)) })
    }

    async fn delete(
        &self,
        request: v1::DeleteDeviceRequest,
        audit: &Audit,
    ) -> Result<v1::DeleteDeviceResponse, Status> {
        let dev_eui = validate::dev_eui("dev_eui", &request.dev_eui)?;
        let _turn = self.provisioner.turn(dev_eui).await;
        let row = self.row(dev_eui).await?;
        // The row goes last, so that a deletion that was interrupted can be asked for again.
        self.provisioner.network.delete_device(dev_eui).await?;
        self.provisioner.join.delete_join_device(dev_eui).await?;
        self.queue.drop_device(dev_eui, now_us()).await?;
        self.provisioner.tables.delete_device(dev_eui).await.map_err(BridgeError::from)?;
        // What was enqueued meanwhile.
        self.queue.drop_device(dev_eui, now_us()).await?;
        self.registry.device_changed(dev_eui);
        audit.write(&self.provisioner.tables, "device.delete", &hex(dev_eui, 16), &row.application_id).await?;
        Ok(v1::DeleteDeviceResponse {})
    }

    async fn activate(
        &self,
        request: v1::ActivateDeviceRequest,
        audit: &Audit,
    ) -> Result<v1::ActivateDeviceResponse, Status> {
        let dev_eui = validate::dev_eui("dev_eui", &request.dev_eui)?;
        let _turn = self.provisioner.turn(dev_eui).await;
        let row = self.row(dev_eui).await?;
        let dev_addr = validate::dev_addr("dev_addr", &request.dev_addr)?;
        let version = mac_version(&self.profile(&row).await?);
        let app_s_key: AppSKey = validate::key("app_s_key", &request.app_s_key)?;
        let network_keys = session_keys(&request, version)?;
        // 0 stands for "no session" in messages.
        let session_id = seam::random::<u64>().max(1);
        let session = self.keys.seal(session_id, row.dev_eui, &app_s_key, now_us());
        self.provisioner.tables.put_app_session(session).await.map_err(BridgeError::from)?;
        seam::crash_point("bridge.session.key_written");
        self.provisioner
            .network
            .activate(pb::ActivateRequest {
                dev_eui: row.dev_eui,
                session_id,
                dev_addr,
                f_nwk_s_int_key: network_keys.0.expose().to_vec(),
                s_nwk_s_int_key: network_keys.1.expose().to_vec(),
                nwk_s_enc_key: network_keys.2.expose().to_vec(),
                fcnt_up: request.fcnt_up,
                fcnt_down: request.fcnt_down,
            })
            .await?;
        let detail = format!(
            "dev_addr {dev_addr:08x}, fcnt_up {}, fcnt_down {}",
            request.fcnt_up.map_or_else(|| "none".to_owned(), |fcnt| fcnt.to_string()),
            request.fcnt_down
        );
        audit.write(&self.provisioner.tables, "device.activate", &hex(row.dev_eui, 16), &detail).await?;
        Ok(v1::ActivateDeviceResponse { session_id })
    }

    async fn set_root_keys(
        &self,
        request: v1::SetKeysRequest,
        audit: &Audit,
    ) -> Result<v1::SetKeysResponse, Status> {
        let v1::SetKeysRequest { dev_eui, keys } = request;
        let dev_eui = validate::dev_eui("dev_eui", &dev_eui)?;
        let _turn = self.provisioner.turn(dev_eui).await;
        let row = self.row(dev_eui).await?;
        if row.join_eui == 0 {
            return Err(Status::failed_precondition(format!(
                "device {dev_eui:016x} has no JoinEUI, so it does not join; give it one first"
            )));
        }
        let profile = self.profile(&row).await?;
        let keys = root_keys(&validate::required("keys", keys)?, &profile)?;
        self.provisioner.put_join_device(&row, profile.mac_version, Some(&keys)).await?;
        if !row.provisioned {
            // Its creation may have been cut off for want of these keys.
            self.provisioner.finish_soon();
        }
        audit.write(&self.provisioner.tables, "keys.set", &hex(row.dev_eui, 16), "").await?;
        if let Some(weakness) = weakness(&keys, &row) {
            audit.write(&self.provisioner.tables, "keys.weak", &hex(row.dev_eui, 16), weakness).await?;
        }
        Ok(v1::SetKeysResponse {})
    }

    async fn delete_root_keys(
        &self,
        request: v1::DeleteKeysRequest,
        audit: &Audit,
    ) -> Result<v1::DeleteKeysResponse, Status> {
        let dev_eui = validate::dev_eui("dev_eui", &request.dev_eui)?;
        let _turn = self.provisioner.turn(dev_eui).await;
        let row = self.row(dev_eui).await?;
        self.provisioner.join.delete_join_device(row.dev_eui).await?;
        audit.write(&self.provisioner.tables, "keys.delete", &hex(row.dev_eui, 16), "").await?;
        Ok(v1::DeleteKeysResponse {})
    }

    /// Checks a device's fields, and that the codec it names is there.
    async fn checked(&self, device: v1::Device) -> Result<BridgeDeviceRow, Status> {
        let dev_eui = validate::dev_eui("device.dev_eui", &device.dev_eui)?;
        let join_eui = match device.join_eui.as_str() {
            "" => 0,
            text => validate::join_eui("device.join_eui", text)?,
        };
        validate::slug("device.application_id", &device.application_id)?;
        validate::slug("device.profile_id", &device.profile_id)?;
        validate::display_name("device.name", &device.name)?;
        validate::tags(device.tags.iter())?;
        require_codec(&self.registry, "device.codec_id", &device.codec_id).await?;
        Ok(BridgeDeviceRow {
            dev_eui,
            join_eui,
            application_id: device.application_id,
            profile_id: device.profile_id,
            name: device.name,
            tags: device.tags.into_iter().collect(),
            codec_id: device.codec_id,
            disabled: device.disabled,
            allow_fcnt_reset: device.allow_fcnt_reset,
            provisioned: false,
            created_at_us: now_us(),
        })
    }

    /// Adds the row. One that not all roles know of, because its creation or a change was interrupted, is taken over.
    async fn insert(&self, row: &BridgeDeviceRow) -> Result<Inserted, Status> {
        let tables = &self.provisioner.tables;
        let id = match tables.insert_device(row.clone()).await.map_err(BridgeError::from)? {
            Written::Done => return Ok(Inserted::Anew),
            Written::Missing(what) => return Err(does_not_exist(&what)),
            Written::Exists(id) => id,
        };
        let known = tables.device(row.dev_eui).await.map_err(BridgeError::from)?;
        if known.is_none_or(|known| known.provisioned) {
            return Err(exists(DEVICE, &id));
        }
        match tables.update_device(row.clone()).await.map_err(BridgeError::from)? {
            Written::Done => Ok(Inserted::TakenOver),
            Written::Exists(what) | Written::Missing(what) => Err(does_not_exist(&what)),
        }
    }

    /// Takes back a creation that another role refused. What cannot be taken back is logged; creating the device again, or
    /// deleting it, repairs it.
    async fn undo_creation(&self, row: &BridgeDeviceRow) {
        let dev_eui = row.dev_eui;
        if let Err(error) = self.provisioner.tables.delete_device(dev_eui).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                dev_eui = format_args!("{dev_eui:016x}"),
                "a device that was not created stays in the registry"
            );
            return;
        }
        self.registry.device_changed(dev_eui);
        let network = self.provisioner.network.delete_device(dev_eui).await;
        let join = self.provisioner.join.delete_join_device(dev_eui).await;
        if let Err(error) = network.and(join) {
            tracing::warn!(%error, dev_eui = format_args!("{dev_eui:016x}"), "another role may still know of a device that was not created");
        }
        if let Err(error) = self.queue.drop_device(dev_eui, now_us()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                dev_eui = format_args!("{dev_eui:016x}"),
                "downlinks for a device that was not created stay in the queue"
            );
        }
    }

    async fn profile(&self, row: &BridgeDeviceRow) -> Result<v1::Profile, Status> {
        let profile = self.provisioner.tables.profile(&row.profile_id).await.map_err(BridgeError::from)?;
        profile.ok_or_else(|| does_not_exist(&format!("profile {}", row.profile_id)))
    }

    async fn row(&self, dev_eui: u64) -> Result<BridgeDeviceRow, Status> {
        let row = self.provisioner.tables.device(dev_eui).await.map_err(BridgeError::from)?;
        row.ok_or_else(|| unknown(DEVICE, &hex(dev_eui, 16)))
    }
}

/// How the row of a device to create came about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Inserted {
    Anew,
    TakenOver,
}

fn does_not_exist(what: &str) -> Status {
    Status::failed_precondition(format!("{what} does not exist; create it first"))
}

fn mac_version(profile: &v1::Profile) -> MacVersion {
    MacVersion::from_number(profile.mac_version).unwrap_or(MacVersion::V1_0_3)
}

fn root_keys(keys: &v1::RootKeys, profile: &v1::Profile) -> Result<RootKeys, Status> {
    let version = mac_version(profile);
    let app_key: AppKey = validate::key("keys.app_key", &keys.app_key)?;
    let nwk_key = match (version.is_1_1(), keys.nwk_key.as_str()) {
        (true, text) => Some(validate::key::<NwkKey>("keys.nwk_key", text)?),
        (false, "") => None,
        (false, _) => {
            return Err(invalid(
                "keys.nwk_key",
                format!(
                    "is of LoRaWAN 1.1 and profile {} says {version}; leave it out or change the profile",
                    profile.id
                ),
            ));
        }
    };
    Ok(RootKeys { app_key, nwk_key })
}

/// The network session keys of a personalised device; 1.0.x has one for all uses.
fn session_keys(
    request: &v1::ActivateDeviceRequest,
    version: MacVersion,
) -> Result<(FNwkSIntKey, SNwkSIntKey, NwkSEncKey), Status> {
    let f_nwk_s_int: FNwkSIntKey = validate::key("nwk_s_key", &request.nwk_s_key)?;
    if version.is_1_1() {
        let s_nwk_s_int = validate::key("s_nwk_s_int_key", &request.s_nwk_s_int_key)?;
        let nwk_s_enc = validate::key("nwk_s_enc_key", &request.nwk_s_enc_key)?;
        return Ok((f_nwk_s_int, s_nwk_s_int, nwk_s_enc));
    }
    for (field, text) in
        [("s_nwk_s_int_key", &request.s_nwk_s_int_key), ("nwk_s_enc_key", &request.nwk_s_enc_key)]
    {
        if !text.is_empty() {
            return Err(invalid(
                field,
                format!("is of LoRaWAN 1.1 and the device's profile says {version}; leave it out"),
            ));
        }
    }
    let (s_nwk_s_int, nwk_s_enc) =
        (SNwkSIntKey::new(*f_nwk_s_int.expose()), NwkSEncKey::new(*f_nwk_s_int.expose()));
    Ok((f_nwk_s_int, s_nwk_s_int, nwk_s_enc))
}

/// What makes a root key easy to guess, if anything. Such keys are taken, for devices come with them, but noted.
fn weakness(keys: &RootKeys, row: &BridgeDeviceRow) -> Option<&'static str> {
    let nwk_key = keys.nwk_key.as_ref().map(NwkKey::expose);
    [Some(keys.app_key.expose()), nwk_key].into_iter().flatten().find_map(|key| {
        let halves = key.split_at(8);
        let is_eui =
            |half: &[u8], eui: u64| eui != 0 && (half == eui.to_be_bytes() || half == eui.to_le_bytes());
        if PUBLISHED_KEYS.contains(key) {
            return Some("published in examples");
        }
        if key.windows(2).all(|pair| pair.first() == pair.last()) {
            return Some("one byte repeated");
        }
        let derived = [halves.0, halves.1]
            .into_iter()
            .any(|half| is_eui(half, row.dev_eui) || is_eui(half, row.join_eui));
        derived.then_some("made of the device's EUIs")
    })
}

/// Keys that stand in well-known examples.
const PUBLISHED_KEYS: [[u8; 16]; 2] = [
    // FIPS-197 appendix B and the example code of the first LoRaWAN stacks.
    [0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c],
    [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f],
];

fn message(row: BridgeDeviceRow) -> v1::Device {
    v1::Device {
        dev_eui: hex(row.dev_eui, 16),
        join_eui: if row.join_eui == 0 { String::new() } else { hex(row.join_eui, 16) },
        application_id: row.application_id,
        profile_id: row.profile_id,
        name: row.name,
        tags: row.tags.into_iter().collect(),
        codec_id: row.codec_id,
        disabled: row.disabled,
        allow_fcnt_reset: row.allow_fcnt_reset,
        created_at_us: row.created_at_us,
    }
}
