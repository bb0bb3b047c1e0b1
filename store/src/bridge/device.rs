//! The registry of devices.

use std::collections::BTreeMap;

use super::{BridgeTables, Written};
use crate::StoreError;
use crate::db::on_engine;

/// A device as the API knows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BridgeDeviceRow {
    /// Its key.
    pub dev_eui: u64,
    /// 0 for a device that is personalised.
    pub join_eui: u64,
    /// The application it belongs to.
    pub application_id: String,
    /// Its profile.
    pub profile_id: String,
    /// What people read.
    pub name: String,
    /// What streams filter by.
    pub tags: BTreeMap<String, String>,
    /// Empty: the profile's.
    pub codec_id: String,
    /// Its frames are refused.
    pub disabled: bool,
    /// It may start its counter again.
    pub allow_fcnt_reset: bool,
    /// The network server, and the join server where it joins over the air, have this row. False from a change until both were told.
    pub provisioned: bool,
    /// Microseconds since the Unix epoch.
    pub created_at_us: i64,
}

/// Devices.
impl BridgeTables {
    /// Adds a device.
    pub async fn insert_device(&self, row: BridgeDeviceRow) -> Result<Written, StoreError> {
        self.insert_devices(vec![row]).await
    }

    /// Adds devices: all of them, or none when one exists or names what is missing. Call it with up to some thousands at a time: the
    /// journal waits meanwhile.
    pub async fn insert_devices(&self, rows: Vec<BridgeDeviceRow>) -> Result<Written, StoreError> {
        on_engine!(&self.db, db => db.bridge().insert_devices(rows).await)
    }

    /// Replaces a device; [`Written::Missing`] also when it is not there.
    pub async fn update_device(&self, row: BridgeDeviceRow) -> Result<Written, StoreError> {
        on_engine!(&self.db, db => db.bridge().update_device(row).await)
    }

    /// Removes a device; false: it was not there. Its session keys stay until its last event is gone.
    pub async fn delete_device(&self, dev_eui: u64) -> Result<bool, StoreError> {
        on_engine!(&self.db, db => db.bridge().delete_device(dev_eui).await)
    }

    /// One device.
    pub async fn device(&self, dev_eui: u64) -> Result<Option<BridgeDeviceRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().device(dev_eui).await)
    }

    /// Devices in order of their DevEUI, those after `after` (`None`: from the first), of one application or of all, at most `limit`.
    pub async fn devices(
        &self,
        application_id: Option<&str>,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Vec<BridgeDeviceRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().devices(application_id, after, limit).await)
    }

    /// Devices of which the other roles were not told, at most `limit`; for the start after a crash between the roles.
    pub async fn unprovisioned_devices(&self, limit: u32) -> Result<Vec<BridgeDeviceRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().unprovisioned_devices(limit).await)
    }

    /// Notes that the other roles were told of these devices.
    pub async fn set_provisioned(&self, dev_euis: Vec<u64>) -> Result<(), StoreError> {
        on_engine!(&self.db, db => db.bridge().set_provisioned(dev_euis).await)
    }

    /// How many devices there are.
    pub async fn device_count(&self) -> Result<u64, StoreError> {
        on_engine!(&self.db, db => db.bridge().device_count().await)
    }
}
