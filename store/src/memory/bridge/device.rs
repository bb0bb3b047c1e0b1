//! The registry of devices.

use std::collections::BTreeSet;

use super::BridgeRows;
use crate::memory::Bridge;
use crate::{BridgeDeviceRow, StoreError, Written};

impl BridgeRows {
    pub(super) fn device_count(&self, counts: impl Fn(&BridgeDeviceRow) -> bool) -> u64 {
        self.devices.values().filter(|device| counts(device)).count() as u64
    }

    fn insert_devices(&mut self, rows: Vec<BridgeDeviceRow>) -> Written {
        let mut seen = BTreeSet::new();
        if let Some(twice) = rows.iter().find(|row| !seen.insert(row.dev_eui)) {
            return Written::Exists(format!("{:016x}", twice.dev_eui));
        }
        if let Some(missing) = self.missing_parent(&rows) {
            return Written::Missing(missing);
        }
        if let Some(found) = seen.iter().find(|dev_eui| self.devices.contains_key(dev_eui)) {
            return Written::Exists(format!("{found:016x}"));
        }
        self.devices.extend(rows.into_iter().map(|row| (row.dev_eui, row)));
        Written::Done
    }

    fn update_device(&mut self, row: BridgeDeviceRow) -> Written {
        if let Some(missing) = self.missing_parent(std::slice::from_ref(&row)) {
            return Written::Missing(missing);
        }
        let Some(stored) = self.devices.get_mut(&row.dev_eui) else {
            return Written::Missing(format!("device {:016x}", row.dev_eui));
        };
        *stored = BridgeDeviceRow { created_at_us: stored.created_at_us, ..row };
        Written::Done
    }

    /// The first application or profile the rows name that is not there.
    fn missing_parent(&self, rows: &[BridgeDeviceRow]) -> Option<String> {
        let applications: BTreeSet<&str> = rows.iter().map(|row| row.application_id.as_str()).collect();
        let profiles: BTreeSet<&str> = rows.iter().map(|row| row.profile_id.as_str()).collect();
        let application = applications.into_iter().find(|id| !self.applications.contains_key(*id));
        let profile = || profiles.into_iter().find(|id| !self.profiles.contains_key(*id));
        application
            .map(|id| format!("application {id}"))
            .or_else(|| profile().map(|id| format!("profile {id}")))
    }
}

impl Bridge<'_> {
    pub(crate) async fn insert_devices(&self, rows: Vec<BridgeDeviceRow>) -> Result<Written, StoreError> {
        self.db.write(move |disk| disk.bridge.insert_devices(rows)).await
    }

    pub(crate) async fn update_device(&self, row: BridgeDeviceRow) -> Result<Written, StoreError> {
        self.db.write(move |disk| disk.bridge.update_device(row)).await
    }

    pub(crate) async fn delete_device(&self, dev_eui: u64) -> Result<bool, StoreError> {
        self.db.write(move |disk| disk.bridge.devices.remove(&dev_eui).is_some()).await
    }

    pub(crate) async fn device(&self, dev_eui: u64) -> Result<Option<BridgeDeviceRow>, StoreError> {
        self.db.read(|disk| disk.bridge.devices.get(&dev_eui).cloned()).await
    }

    pub(crate) async fn devices(
        &self,
        application_id: Option<&str>,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Vec<BridgeDeviceRow>, StoreError> {
        let Some(from) = after.map_or(Some(0), |after| after.checked_add(1)) else {
            return Ok(Vec::new());
        };
        self.db
            .read(|disk| {
                let rows = disk.bridge.devices.range(from..).map(|(_, row)| row);
                let rows = rows.filter(|row| application_id.is_none_or(|id| row.application_id == id));
                rows.take(limit as usize).cloned().collect()
            })
            .await
    }

    pub(crate) async fn unprovisioned_devices(&self, limit: u32) -> Result<Vec<BridgeDeviceRow>, StoreError> {
        self.db
            .read(|disk| {
                let rows = disk.bridge.devices.values().filter(|row| !row.provisioned);
                rows.take(limit as usize).cloned().collect()
            })
            .await
    }

    pub(crate) async fn set_provisioned(&self, dev_euis: Vec<u64>) -> Result<(), StoreError> {
        self.db
            .write(move |disk| {
                for dev_eui in dev_euis {
                    if let Some(device) = disk.bridge.devices.get_mut(&dev_eui) {
                        device.provisioned = true;
                    }
                }
            })
            .await
    }

    pub(crate) async fn device_count(&self) -> Result<u64, StoreError> {
        self.db.read(|disk| disk.bridge.device_count(|_| true)).await
    }

    pub(crate) async fn devices_by_eui(&self, dev_euis: Vec<u64>) -> Result<Vec<BridgeDeviceRow>, StoreError> {
        let dev_euis: BTreeSet<u64> = dev_euis.into_iter().collect();
        self.db
            .read(|disk| dev_euis.iter().filter_map(|eui| disk.bridge.devices.get(eui)).cloned().collect())
            .await
    }
}
