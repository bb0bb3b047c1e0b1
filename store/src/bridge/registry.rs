//! Applications, profiles, codecs and API keys.

use proto::v1;

use super::{BridgeTables, Removal, Written};
use crate::StoreError;
use crate::db::on_engine;

/// An application.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ApplicationRow {
    /// Its key.
    pub id: String,
    /// What people read.
    pub name: String,
    /// Microseconds since the Unix epoch.
    pub created_at_us: i64,
}

/// A payload codec.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CodecRow {
    /// Its key.
    pub id: String,
    /// JavaScript; empty in a list.
    pub script: String,
    /// Rises with each change, from 1.
    pub revision: u32,
    /// Microseconds since the Unix epoch.
    pub updated_at_us: i64,
}

/// An API key, of which only the hash is kept.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ApiKeyRow {
    /// Its key.
    pub name: String,
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// Microseconds since the Unix epoch.
    pub created_at_us: i64,
}

/// Applications.
impl BridgeTables {
    /// Adds an application.
    pub async fn insert_application(&self, row: ApplicationRow) -> Result<Written, StoreError> {
        on_engine!(&self.db, db => db.bridge().insert_application(row).await)
    }

    /// One application.
    pub async fn application(&self, id: &str) -> Result<Option<ApplicationRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().application(id).await)
    }

    /// Applications in order of their id, those after `after_id` (empty: from the first), at most `limit`.
    pub async fn applications(&self, after_id: &str, limit: u32) -> Result<Vec<ApplicationRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().applications(after_id, limit).await)
    }

    /// How many devices an application has.
    pub async fn application_device_count(&self, id: &str) -> Result<u64, StoreError> {
        on_engine!(&self.db, db => db.bridge().application_device_count(id).await)
    }

    /// Removes an application that has no devices.
    pub async fn delete_application(&self, id: &str) -> Result<Removal, StoreError> {
        on_engine!(&self.db, db => db.bridge().delete_application(id).await)
    }
}

/// Profiles.
impl BridgeTables {
    /// Adds a profile under its id.
    pub async fn insert_profile(&self, profile: &v1::Profile) -> Result<Written, StoreError> {
        on_engine!(&self.db, db => db.bridge().insert_profile(profile).await)
    }

    /// Replaces a profile; false: there is none of its id. With another LoRaWAN version its devices count as not told to
    /// the other roles: the join server keeps the version of each.
    pub async fn update_profile(&self, profile: &v1::Profile) -> Result<bool, StoreError> {
        on_engine!(&self.db, db => db.bridge().update_profile(profile).await)
    }

    /// One profile.
    pub async fn profile(&self, id: &str) -> Result<Option<v1::Profile>, StoreError> {
        on_engine!(&self.db, db => db.bridge().profile(id).await)
    }

    /// Profiles in order of their id, those after `after_id` (empty: from the first), at most `limit`.
    pub async fn profiles(&self, after_id: &str, limit: u32) -> Result<Vec<v1::Profile>, StoreError> {
        on_engine!(&self.db, db => db.bridge().profiles(after_id, limit).await)
    }

    /// Removes a profile no device uses.
    pub async fn delete_profile(&self, id: &str) -> Result<Removal, StoreError> {
        on_engine!(&self.db, db => db.bridge().delete_profile(id).await)
    }
}

/// Codecs.
impl BridgeTables {
    /// Creates or replaces a codec; returns it with its revision.
    pub async fn put_codec(&self, id: &str, script: &str, updated_at_us: i64) -> Result<CodecRow, StoreError> {
        on_engine!(&self.db, db => db.bridge().put_codec(id, script, updated_at_us).await)
    }

    /// One codec.
    pub async fn codec(&self, id: &str) -> Result<Option<CodecRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().codec(id).await)
    }

    /// All codecs in order of their id, without the scripts.
    pub async fn codecs(&self) -> Result<Vec<CodecRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().codecs().await)
    }

    /// Removes a codec; devices that name it deliver raw payloads with an error.
    pub async fn delete_codec(&self, id: &str) -> Result<bool, StoreError> {
        on_engine!(&self.db, db => db.bridge().delete_codec(id).await)
    }
}

/// API keys.
impl BridgeTables {
    /// Creates a key, or replaces the one of the same name.
    pub async fn put_api_key(&self, row: ApiKeyRow) -> Result<(), StoreError> {
        on_engine!(&self.db, db => db.bridge().put_api_key(row).await)
    }

    /// All keys in order of their names.
    pub async fn api_keys(&self) -> Result<Vec<ApiKeyRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().api_keys().await)
    }

    /// The key of a hash.
    pub async fn api_key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKeyRow>, StoreError> {
        on_engine!(&self.db, db => db.bridge().api_key_by_hash(hash).await)
    }

    /// Removes a key.
    pub async fn delete_api_key(&self, name: &str) -> Result<bool, StoreError> {
        on_engine!(&self.db, db => db.bridge().delete_api_key(name).await)
    }
}
