//! What the network server was told.

use std::collections::BTreeMap;

use proto::v1;

use super::Network;
use crate::{NetworkDeviceRow, StoreError};

#[derive(Default)]
pub(super) struct NetworkRows {
    profiles: BTreeMap<String, v1::Profile>,
    devices: BTreeMap<u64, NetworkDeviceRow>,
    gateways: BTreeMap<u64, v1::Gateway>,
}

impl Network<'_> {
    pub(crate) async fn put_profile(&self, profile: &v1::Profile) -> Result<(), StoreError> {
        let profile = profile.clone();
        self.db.write(move |disk| drop(disk.network.profiles.insert(profile.id.clone(), profile))).await
    }

    pub(crate) async fn delete_profile(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.db.write(move |disk| disk.network.profiles.remove(&id).is_some()).await
    }

    pub(crate) async fn load_profiles(&self) -> Result<Vec<v1::Profile>, StoreError> {
        self.db.read(|disk| disk.network.profiles.values().cloned().collect()).await
    }

    pub(crate) async fn put_devices(&self, devices: Vec<NetworkDeviceRow>) -> Result<(), StoreError> {
        let devices = devices.into_iter().map(|device| (device.dev_eui, device));
        self.db.write(move |disk| disk.network.devices.extend(devices)).await
    }

    pub(crate) async fn delete_device(&self, dev_eui: u64) -> Result<bool, StoreError> {
        self.db.write(move |disk| disk.network.devices.remove(&dev_eui).is_some()).await
    }

    pub(crate) async fn load_devices(&self, each: impl FnMut(NetworkDeviceRow)) -> Result<(), StoreError> {
        let devices: Vec<_> = self.db.read(|disk| disk.network.devices.values().cloned().collect()).await?;
        devices.into_iter().for_each(each);
        Ok(())
    }

    pub(crate) async fn put_gateway(&self, gateway_eui: u64, gateway: &v1::Gateway) -> Result<(), StoreError> {
        let gateway = gateway.clone();
        self.db.write(move |disk| drop(disk.network.gateways.insert(gateway_eui, gateway))).await
    }

    pub(crate) async fn delete_gateway(&self, gateway_eui: u64) -> Result<bool, StoreError> {
        self.db.write(move |disk| disk.network.gateways.remove(&gateway_eui).is_some()).await
    }

    pub(crate) async fn load_gateways(&self) -> Result<Vec<(u64, v1::Gateway)>, StoreError> {
        self.db.read(|disk| disk.network.gateways.iter().map(|(eui, row)| (*eui, row.clone())).collect()).await
    }
}
