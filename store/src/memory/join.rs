//! Root keys, nonces and answers.

use std::collections::{BTreeMap, BTreeSet};

use seam::{Bug, planted};

use super::Join;
use crate::{AuditRow, JoinCommit, JoinCommitted, JoinDevice, JoinDeviceRow, NonceRule, StoreError};

#[derive(Default)]
pub(super) struct JoinRows {
    devices: BTreeMap<u64, Stored>,
    /// (DevEUI, JoinEUI, DevNonce)
    nonces_used: BTreeSet<(u64, u64, u16)>,
    answers: BTreeMap<u64, ([u8; 32], Vec<u8>)>,
    /// Outlives the device: no JoinNonce comes twice.
    join_nonce_floors: BTreeMap<u64, u32>,
}

#[derive(Default)]
struct Stored {
    device: JoinDevice,
    /// The highest DevNonce accepted under the rule that they rise.
    dev_nonce_floor: Option<u16>,
}

impl JoinRows {
    fn put(&mut self, row: JoinDeviceRow) {
        let join_nonce = self.join_nonce_floors.get(&row.dev_eui).copied().unwrap_or(0);
        let stored = self.devices.entry(row.dev_eui).or_insert_with(|| Stored {
            device: JoinDevice {
                row: JoinDeviceRow { join_eui: row.join_eui, ..JoinDeviceRow::default() },
                join_nonce,
                ..JoinDevice::default()
            },
            dev_nonce_floor: None,
        });
        if stored.device.row.join_eui != row.join_eui {
            stored.device.last_dev_nonce = None;
            stored.dev_nonce_floor = None;
        }
        let before = std::mem::take(&mut stored.device.row);
        stored.device.row = JoinDeviceRow {
            sealed_app_key: row.sealed_app_key.or(before.sealed_app_key),
            sealed_nwk_key: row.sealed_nwk_key.or(before.sealed_nwk_key),
            ..row
        };
    }

    fn delete(&mut self, dev_eui: u64) -> bool {
        self.nonces_used.retain(|used| used.0 != dev_eui);
        self.answers.remove(&dev_eui);
        let Some(stored) = self.devices.remove(&dev_eui) else { return false };
        self.join_nonce_floors.insert(dev_eui, stored.device.join_nonce);
        true
    }

    fn commit(&mut self, join: JoinCommit) -> JoinCommitted {
        let stored = self.devices.get_mut(&join.dev_eui).filter(|s| s.device.row.join_eui == join.join_eui);
        let Some(stored) = stored else {
            return JoinCommitted::DeviceUnknown;
        };
        if let (NonceRule::StrictlyRising, Some(last)) = (join.rule, stored.dev_nonce_floor)
            && join.dev_nonce <= last
        {
            return JoinCommitted::NonceNotRising { last };
        }
        let nonce = (join.dev_eui, join.join_eui, join.dev_nonce);
        // Under both rules, so that a device whose version was corrected cannot be joined with what was heard before.
        if self.nonces_used.contains(&nonce) {
            return JoinCommitted::NonceUsed;
        }
        let last = stored.device.join_nonce;
        if join.join_nonce <= last {
            return JoinCommitted::JoinNonceStale { last };
        }
        if !planted(Bug::ForgetDevNonce) {
            self.nonces_used.insert(nonce);
        }
        stored.device.join_nonce = join.join_nonce;
        stored.device.last_dev_nonce = Some(join.dev_nonce);
        stored.device.nonces_used = stored.device.nonces_used.saturating_add(1);
        if join.rule == NonceRule::StrictlyRising && !planted(Bug::ForgetDevNonce) {
            stored.dev_nonce_floor = Some(join.dev_nonce);
        }
        self.answers.insert(join.dev_eui, (join.request_hash, join.answer));
        JoinCommitted::Committed
    }
}

impl Join<'_> {
    pub(crate) async fn put_devices(
        &self,
        devices: Vec<JoinDeviceRow>,
        audit: AuditRow,
    ) -> Result<(), StoreError> {
        self.db
            .write(move |disk| {
                devices.into_iter().for_each(|device| disk.join.put(device));
                disk.append_audit(audit);
            })
            .await
    }

    pub(crate) async fn device(&self, dev_eui: u64) -> Result<Option<JoinDevice>, StoreError> {
        self.db.read(|disk| disk.join.devices.get(&dev_eui).map(|stored| stored.device.clone())).await
    }

    pub(crate) async fn delete_device(&self, dev_eui: u64, audit: AuditRow) -> Result<bool, StoreError> {
        self.db
            .write(move |disk| {
                let there = disk.join.delete(dev_eui);
                if there {
                    disk.append_audit(audit);
                }
                there
            })
            .await
    }

    pub(crate) async fn commit_join(&self, join: JoinCommit) -> Result<JoinCommitted, StoreError> {
        self.db.write(move |disk| disk.join.commit(join)).await
    }

    pub(crate) async fn last_answer(&self, dev_eui: u64) -> Result<Option<([u8; 32], Vec<u8>)>, StoreError> {
        self.db.read(|disk| disk.join.answers.get(&dev_eui).cloned()).await
    }
}
