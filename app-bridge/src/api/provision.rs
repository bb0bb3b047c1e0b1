//! Tells the other roles of devices and profiles.
//!
//! A device's row says whether they were told. What a crash or an absent role left unfinished is finished by [`Provisioner::run`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mac::keys::{AppKey, NwkKey};
use proto::internal as pb;
use proto::port::{JoinPort, NetworkPort, PortError};
use proto::v1;
use store::{BridgeDeviceRow, BridgeTables};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::BridgeError;

const RETRY_PAUSE: Duration = Duration::from_secs(2);
const DEVICES_AT_ONCE: u32 = 256;
const PROFILES_AT_ONCE: u32 = 256;

/// Root keys on their way to the join server; wiped when dropped.
pub(crate) struct RootKeys {
    pub(crate) app_key: AppKey,
    pub(crate) nwk_key: Option<NwkKey>,
}

/// The one that tells the other roles.
pub(crate) struct Provisioner {
    pub(crate) tables: BridgeTables,
    pub(crate) network: Arc<dyn NetworkPort>,
    pub(crate) join: Arc<dyn JoinPort>,
    /// Something is left to tell.
    unfinished: AtomicBool,
    wake: Notify,
}

impl Provisioner {
    pub(crate) fn new(tables: BridgeTables, network: Arc<dyn NetworkPort>, join: Arc<dyn JoinPort>) -> Self {
        // The earlier run may have ended in the middle of something.
        Self { tables, network, join, unfinished: AtomicBool::new(true), wake: Notify::new() }
    }

    /// Tells both roles of a device and notes that they know. Without keys the join server keeps those it has.
    pub(crate) async fn provision(
        &self,
        row: &BridgeDeviceRow,
        profile: v1::Profile,
        keys: Option<&RootKeys>,
    ) -> Result<(), BridgeError> {
        let mac_version = profile.mac_version;
        self.network.put_profile(profile).await?;
        self.network
            .put_device(pb::PutDeviceRequest {
                dev_eui: row.dev_eui,
                join_eui: row.join_eui,
                profile_id: row.profile_id.clone(),
                disabled: row.disabled,
                allow_fcnt_reset: row.allow_fcnt_reset,
            })
            .await?;
        if row.join_eui != 0 {
            self.put_join_device(row, mac_version, keys).await?;
        }
        self.tables.set_provisioned(vec![row.dev_eui]).await?;
        Ok(())
    }

    /// Tells the join server of a device.
    pub(crate) async fn put_join_device(
        &self,
        row: &BridgeDeviceRow,
        mac_version: i32,
        keys: Option<&RootKeys>,
    ) -> Result<(), PortError> {
        let nwk_key = keys.and_then(|keys| keys.nwk_key.as_ref());
        self.join
            .put_join_device(pb::PutJoinDeviceRequest {
                dev_eui: row.dev_eui,
                join_eui: row.join_eui,
                mac_version,
                app_key: keys.map(|keys| keys.app_key.expose().to_vec()).unwrap_or_default(),
                nwk_key: nwk_key.map(|key| key.expose().to_vec()).unwrap_or_default(),
            })
            .await
    }

    /// Has what is left told soon.
    pub(crate) fn finish_soon(&self) {
        self.unfinished.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Finishes what is left, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                if self.unfinished.swap(false, Ordering::Relaxed)
                    && let Err(error) = self.finish().await
                {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "devices or profiles are not known to all roles yet"
                    );
                    self.unfinished.store(true, Ordering::Relaxed);
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                self.wake.notified().await;
            }
        })
        .await;
    }

    async fn finish(&self) -> Result<(), BridgeError> {
        let mut after = String::new();
        loop {
            let profiles = self.tables.profiles(&after, PROFILES_AT_ONCE).await?;
            let Some(last) = profiles.last() else {
                break;
            };
            after.clone_from(&last.id);
            for profile in profiles {
                self.network.put_profile(profile).await?;
            }
        }
        loop {
            let rows = self.tables.unprovisioned_devices(DEVICES_AT_ONCE).await?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                // The row names its profile, so it is there; were it not, the device could not be told of.
                let Some(profile) = self.tables.profile(&row.profile_id).await? else {
                    continue;
                };
                self.provision(&row, profile, None).await?;
                tracing::info!(
                    dev_eui = format_args!("{:016x}", row.dev_eui),
                    "a device whose creation was interrupted is known to all roles"
                );
            }
        }
    }
}
