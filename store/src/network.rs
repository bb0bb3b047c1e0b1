//! The network server's tables: what it was told about profiles, devices and gateways, and its sessions.

use proto::v1;

use crate::db::{Db, on_engine};
use crate::session::SessionRow;
use crate::{StoreError, checkpoint};

/// A device as the network server knows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NetworkDeviceRow {
    /// The device.
    pub dev_eui: u64,
    /// Its JoinEUI; 0 for a device that is personalised.
    pub join_eui: u64,
    /// Its profile.
    pub profile_id: String,
    /// Its frames are refused.
    pub disabled: bool,
    /// It may start its counter again.
    pub allow_fcnt_reset: bool,
}

/// The network server's tables. Cheap to clone. Writes are durable when they return; `put` replaces, `delete` tells whether it was there.
#[derive(Clone)]
pub struct NetworkTables {
    pub(crate) db: Db,
}

impl std::fmt::Debug for NetworkTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NetworkTables")
    }
}

impl NetworkTables {
    /// Every session as of the last commit, in no particular order. Call it before the first submission.
    pub async fn load_sessions(&self, each: impl FnMut(SessionRow)) -> Result<(), StoreError> {
        checkpoint::load(&self.db, each).await
    }

    /// Creates or replaces a profile under its id.
    pub async fn put_profile(&self, profile: &v1::Profile) -> Result<(), StoreError> {
        on_engine!(&self.db, db => db.network().put_profile(profile).await)
    }

    /// Forgets a profile.
    pub async fn delete_profile(&self, id: &str) -> Result<bool, StoreError> {
        on_engine!(&self.db, db => db.network().delete_profile(id).await)
    }

    /// All profiles.
    pub async fn load_profiles(&self) -> Result<Vec<v1::Profile>, StoreError> {
        on_engine!(&self.db, db => db.network().load_profiles().await)
    }

    /// Creates or replaces a device.
    pub async fn put_device(&self, device: NetworkDeviceRow) -> Result<(), StoreError> {
        self.put_devices(vec![device]).await
    }

    /// Creates or replaces devices in one transaction. Call it with up to some thousands at a time: the journal waits meanwhile.
    pub async fn put_devices(&self, devices: Vec<NetworkDeviceRow>) -> Result<(), StoreError> {
        on_engine!(&self.db, db => db.network().put_devices(devices).await)
    }

    /// Forgets a device. Its sessions go by a delta of the journal, in order with its uplinks.
    pub async fn delete_device(&self, dev_eui: u64) -> Result<bool, StoreError> {
        on_engine!(&self.db, db => db.network().delete_device(dev_eui).await)
    }

    /// All devices, in order of their DevEUI.
    pub async fn load_devices(&self, each: impl FnMut(NetworkDeviceRow)) -> Result<(), StoreError> {
        on_engine!(&self.db, db => db.network().load_devices(each).await)
    }

    /// Creates or replaces a gateway.
    pub async fn put_gateway(&self, gateway_eui: u64, gateway: &v1::Gateway) -> Result<(), StoreError> {
        on_engine!(&self.db, db => db.network().put_gateway(gateway_eui, gateway).await)
    }

    /// Forgets a gateway.
    pub async fn delete_gateway(&self, gateway_eui: u64) -> Result<bool, StoreError> {
        on_engine!(&self.db, db => db.network().delete_gateway(gateway_eui).await)
    }

    /// All gateways, in order of their EUI.
    pub async fn load_gateways(&self) -> Result<Vec<(u64, v1::Gateway)>, StoreError> {
        on_engine!(&self.db, db => db.network().load_gateways().await)
    }
}
