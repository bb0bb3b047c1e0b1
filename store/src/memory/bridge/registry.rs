//! Applications, profiles, codecs and API keys.

use std::collections::btree_map::Entry;

use proto::v1;

use super::after;
use crate::memory::Bridge;
use crate::{ApiKeyRow, ApplicationRow, CodecRow, Removal, StoreError, Written};

impl Bridge<'_> {
    pub(crate) async fn insert_application(&self, row: ApplicationRow) -> Result<Written, StoreError> {
        self.db.write(move |disk| insert(disk.bridge.applications.entry(row.id.clone()), row)).await
    }

    pub(crate) async fn application(&self, id: &str) -> Result<Option<ApplicationRow>, StoreError> {
        self.db.read(|disk| disk.bridge.applications.get(id).cloned()).await
    }

    pub(crate) async fn applications(
        &self,
        after_id: &str,
        limit: u32,
    ) -> Result<Vec<ApplicationRow>, StoreError> {
        self.db
            .read(|disk| after(&disk.bridge.applications, after_id).take(limit as usize).cloned().collect())
            .await
    }

    pub(crate) async fn application_device_count(&self, id: &str) -> Result<u64, StoreError> {
        self.db.read(|disk| disk.bridge.device_count(|device| device.application_id == id)).await
    }

    pub(crate) async fn delete_application(&self, id: &str) -> Result<Removal, StoreError> {
        let id = id.to_owned();
        self.db
            .write(move |disk| {
                let used = disk.bridge.device_count(|device| device.application_id == id);
                remove(used, || disk.bridge.applications.remove(&id).is_some())
            })
            .await
    }

    pub(crate) async fn insert_profile(&self, profile: &v1::Profile) -> Result<Written, StoreError> {
        let profile = profile.clone();
        self.db.write(move |disk| insert(disk.bridge.profiles.entry(profile.id.clone()), profile)).await
    }

    pub(crate) async fn update_profile(&self, profile: &v1::Profile) -> Result<bool, StoreError> {
        let profile = profile.clone();
        self.db
            .write(move |disk| {
                let Some(stored) = disk.bridge.profiles.get_mut(&profile.id) else { return false };
                let before = std::mem::replace(stored, profile);
                if before.mac_version != stored.mac_version {
                    let devices = disk.bridge.devices.values_mut();
                    devices.filter(|d| d.profile_id == stored.id).for_each(|d| d.provisioned = false);
                }
                true
            })
            .await
    }

    pub(crate) async fn profile(&self, id: &str) -> Result<Option<v1::Profile>, StoreError> {
        self.db.read(|disk| disk.bridge.profiles.get(id).cloned()).await
    }

    pub(crate) async fn profiles(&self, after_id: &str, limit: u32) -> Result<Vec<v1::Profile>, StoreError> {
        self.db
            .read(|disk| after(&disk.bridge.profiles, after_id).take(limit as usize).cloned().collect())
            .await
    }

    pub(crate) async fn delete_profile(&self, id: &str) -> Result<Removal, StoreError> {
        let id = id.to_owned();
        self.db
            .write(move |disk| {
                let used = disk.bridge.device_count(|device| device.profile_id == id);
                remove(used, || disk.bridge.profiles.remove(&id).is_some())
            })
            .await
    }

    pub(crate) async fn put_codec(
        &self,
        id: &str,
        script: &str,
        updated_at_us: i64,
    ) -> Result<CodecRow, StoreError> {
        let (id, script) = (id.to_owned(), script.to_owned());
        self.db
            .write(move |disk| {
                let revision = disk.bridge.codecs.get(&id).map_or(1, |codec| codec.revision.saturating_add(1));
                let codec = CodecRow { id: id.clone(), script, revision, updated_at_us };
                disk.bridge.codecs.insert(id, codec.clone());
                codec
            })
            .await
    }

    pub(crate) async fn codec(&self, id: &str) -> Result<Option<CodecRow>, StoreError> {
        self.db.read(|disk| disk.bridge.codecs.get(id).cloned()).await
    }

    pub(crate) async fn codecs(&self) -> Result<Vec<CodecRow>, StoreError> {
        self.db
            .read(|disk| {
                let unscripted = |codec: &CodecRow| CodecRow { script: String::new(), ..codec.clone() };
                disk.bridge.codecs.values().map(unscripted).collect()
            })
            .await
    }

    pub(crate) async fn delete_codec(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.db.write(move |disk| disk.bridge.codecs.remove(&id).is_some()).await
    }

    pub(crate) async fn put_api_key(&self, row: ApiKeyRow) -> Result<(), StoreError> {
        self.db
            .write(move |disk| {
                // One hash opens one door.
                disk.bridge.api_keys.retain(|_, key| key.hash != row.hash);
                disk.bridge.api_keys.insert(row.name.clone(), row);
            })
            .await
    }

    pub(crate) async fn api_keys(&self) -> Result<Vec<ApiKeyRow>, StoreError> {
        self.db.read(|disk| disk.bridge.api_keys.values().cloned().collect()).await
    }

    pub(crate) async fn api_key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKeyRow>, StoreError> {
        self.db.read(|disk| disk.bridge.api_keys.values().find(|key| key.hash == *hash).cloned()).await
    }

    pub(crate) async fn delete_api_key(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.db.write(move |disk| disk.bridge.api_keys.remove(&name).is_some()).await
    }
}

fn insert<T>(entry: Entry<'_, String, T>, row: T) -> Written {
    match entry {
        Entry::Occupied(entry) => Written::Exists(entry.key().clone()),
        Entry::Vacant(entry) => {
            entry.insert(row);
            Written::Done
        }
    }
}

fn remove(used: u64, remove: impl FnOnce() -> bool) -> Removal {
    match used {
        0 if remove() => Removal::Removed,
        0 => Removal::NotFound,
        used => Removal::InUse(used),
    }
}
