//! Tells the other roles of devices and profiles.
//!
//! A device's row says whether they were told. What a crash or an absent role left unfinished is finished by [`Provisioner::run`].
//! Whoever writes a row and tells of it has the device's turn, or the profiles', so that what is told last is what was
//! written last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mac::keys::{AppKey, NwkKey};
use proto::internal as pb;
use proto::port::{JoinPort, NetworkPort, PortError};
use store::{BridgeDeviceRow, BridgeTables};
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio_util::sync::CancellationToken;

use crate::error::BridgeError;
use crate::event::hex;

const RETRY_PAUSE: Duration = Duration::from_secs(2);
const DEVICES_AT_ONCE: u32 = 256;
const PROFILES_AT_ONCE: u32 = 256;
const TURNS: u64 = 64;

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
    turns: Vec<Mutex<()>>,
    profiles_turn: Mutex<()>,
    /// Something is left to tell.
    unfinished: AtomicBool,
    wake: Notify,
}

impl Provisioner {
    pub(crate) fn new(tables: BridgeTables, network: Arc<dyn NetworkPort>, join: Arc<dyn JoinPort>) -> Self {
        Self {
            tables,
            network,
            join,
            turns: (0..TURNS).map(|_| Mutex::default()).collect(),
            profiles_turn: Mutex::default(),
            // The earlier run may have ended in the middle of something.
            unfinished: AtomicBool::new(true),
            wake: Notify::new(),
        }
    }

    /// Waits for the turn of a device: nobody else changes its registration while the guard lives.
    #[allow(clippy::indexing_slicing, reason = "the remainder is below the number of turns")]
    pub(crate) async fn turn(&self, dev_eui: u64) -> MutexGuard<'_, ()> {
        let index = usize::try_from((dev_eui ^ (dev_eui >> 32)) % TURNS).unwrap_or(0);
        self.turns[index].lock().await
    }

    /// Waits for the turn of the profiles: nobody else changes one while the guard lives.
    pub(crate) async fn profiles_turn(&self) -> MutexGuard<'_, ()> {
        self.profiles_turn.lock().await
    }

    /// Tells both roles of a device and notes that they know. Without keys the join server keeps those it has. The caller has
    /// the device's turn.
    pub(crate) async fn provision(
        &self,
        row: &BridgeDeviceRow,
        mac_version: i32,
        keys: Option<&RootKeys>,
    ) -> Result<(), BridgeError> {
        self.tell_both(row, mac_version, keys).await?;
        self.tables.set_provisioned(vec![row.dev_eui]).await?;
        Ok(())
    }

    async fn tell_both(
        &self,
        row: &BridgeDeviceRow,
        mac_version: i32,
        keys: Option<&RootKeys>,
    ) -> Result<(), BridgeError> {
        self.put_network_device(row).await?;
        if row.join_eui != 0 {
            self.put_join_device(row, mac_version, keys).await?;
        }
        seam::crash_point("bridge.device.told");
        Ok(())
    }

    async fn put_network_device(&self, row: &BridgeDeviceRow) -> Result<(), BridgeError> {
        let request = pb::PutDeviceRequest {
            dev_eui: row.dev_eui,
            join_eui: row.join_eui,
            profile_id: row.profile_id.clone(),
            disabled: row.disabled,
            allow_fcnt_reset: row.allow_fcnt_reset,
        };
        match self.network.put_device(request.clone()).await {
            // It does not have the profile. It is not told with each device: it looks at all its devices then.
            Err(PortError::FailedPrecondition(_)) => {
                self.tell_profile(&row.profile_id).await?;
                Ok(self.network.put_device(request).await?)
            }
            told => Ok(told?),
        }
    }

    /// Tells the network server what a profile says now.
    pub(crate) async fn tell_profile(&self, id: &str) -> Result<(), BridgeError> {
        let _turn = self.profiles_turn().await;
        if let Some(profile) = self.tables.profile(id).await? {
            self.network.put_profile(profile).await?;
        }
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

    /// Tells what is left. What another role refuses, or lacks its keys, is logged and left until it is changed, so that it
    /// holds up nobody else.
    async fn finish(&self) -> Result<(), BridgeError> {
        let mut after = String::new();
        loop {
            let profiles = self.tables.profiles(&after, PROFILES_AT_ONCE).await?;
            let Some(last) = profiles.last() else {
                break;
            };
            after.clone_from(&last.id);
            for profile in profiles {
                if let Err(error) = self.tell_profile(&profile.id).await {
                    let error = refusal(error)?;
                    tracing::warn!(%error, profile = %profile.id, "the network server refuses a profile; change it");
                }
            }
        }
        loop {
            let rows = self.tables.unprovisioned_devices(DEVICES_AT_ONCE).await?;
            let mut left = 0_usize;
            for row in &rows {
                let dev_eui = hex(row.dev_eui, 16);
                match self.finish_device(row.dev_eui).await {
                    Ok(Finished::Whole) => {}
                    Ok(Finished::KeysMissing) => {
                        tracing::warn!(%dev_eui, "the creation of a device was cut off before its root keys were kept; create it again or set its keys");
                        left = left.saturating_add(1);
                    }
                    Err(error) => {
                        let error = refusal(error)?;
                        tracing::warn!(%error, %dev_eui, "another role refuses a device; change it or its profile");
                        left = left.saturating_add(1);
                    }
                }
            }
            if left == rows.len() {
                return Ok(());
            }
        }
    }

    async fn finish_device(&self, dev_eui: u64) -> Result<Finished, BridgeError> {
        let _turn = self.turn(dev_eui).await;
        // Read in its turn: whoever had it before may have finished or deleted the device.
        let row = self.tables.device(dev_eui).await?;
        let Some(row) = row.filter(|row| !row.provisioned) else {
            return Ok(Finished::Whole);
        };
        let profile = self.tables.profile(&row.profile_id).await?.unwrap_or_default();
        self.tell_both(&row, profile.mac_version, None).await?;
        if row.join_eui != 0 {
            let keys = self.join.join_keys_status(dev_eui).await?;
            if !keys.is_some_and(|keys| keys.has_app_key) {
                // It stays unfinished, so that a second creation takes it over instead of finding it there already.
                return Ok(Finished::KeysMissing);
            }
        }
        self.tables.set_provisioned(vec![dev_eui]).await?;
        let dev_eui = hex(dev_eui, 16);
        tracing::info!(%dev_eui, "a device that was left half told is known to all roles");
        Ok(Finished::Whole)
    }
}

/// How far a device came that was left half told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Finished {
    /// All roles know it, and nobody but whoever created it has its root keys.
    KeysMissing,
    Whole,
}

/// A refusal stands until what was refused is changed; after any other error the same may be tried again.
fn refusal(error: BridgeError) -> Result<PortError, BridgeError> {
    match error {
        BridgeError::Port(
            refused @ (PortError::AlreadyExists(_)
            | PortError::FailedPrecondition(_)
            | PortError::InvalidArgument(_)
            | PortError::NotFound(_)),
        ) => Ok(refused),
        BridgeError::File { .. } | BridgeError::Port(_) | BridgeError::Store(_) => Err(error),
    }
}
