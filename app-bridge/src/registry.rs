//! What events need to know of a device: its application, name, tags and codec. Compact, bounded, read in batches.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use store::{BridgeDeviceRow, BridgeTables};

use crate::cache::Cache;
use crate::codec::{Codec, CodecRef};
use crate::error::BridgeError;

/// Devices held at most.
const DEVICES_MAX: usize = 200_000;
/// Names held once for all their devices, at most; then they are collected anew.
const NAMES_MAX: usize = 10_000;

/// The codec id of raw payloads.
pub(crate) const NO_CODEC: &str = "none";
/// The codec id of Cayenne LPP.
pub(crate) const CAYENNE_LPP: &str = "cayenne-lpp";

/// A device as events name it.
#[derive(Clone, Debug)]
pub(crate) struct DeviceEntry {
    pub(crate) application_id: Arc<str>,
    pub(crate) name: Box<str>,
    pub(crate) tags: Box<[(Box<str>, Box<str>)]>,
    pub(crate) codec: CodecChoice,
}

/// How a device's payloads are decoded.
#[derive(Clone, Debug)]
pub(crate) enum CodecChoice {
    Known(CodecRef),
    /// A codec of this id was named and is gone.
    Missing(Arc<str>),
}

impl CodecChoice {
    /// Why a codec that is not there decodes nothing.
    pub(crate) fn missing_words(id: &str) -> String {
        format!("codec {id} does not exist; set it, or name another one for the device or its profile")
    }
}

/// The devices, as the streams and the queue look them up.
pub(crate) struct Registry {
    tables: BridgeTables,
    devices: Mutex<Cache<u64, Option<Arc<DeviceEntry>>>>,
    parts: Mutex<Parts>,
}

/// What many devices share.
#[derive(Default)]
struct Parts {
    /// Rises with each invalidation.
    version: u64,
    names: HashSet<Arc<str>>,
    /// The codec id of each profile.
    profile_codecs: HashMap<String, String>,
    codecs: HashMap<String, CodecChoice>,
}

impl Registry {
    pub(crate) fn new(tables: BridgeTables) -> Self {
        Self { tables, devices: Mutex::new(Cache::new(DEVICES_MAX)), parts: Mutex::default() }
    }

    /// The devices of these DevEUIs, in the order asked for; `None` for one that is not registered.
    pub(crate) async fn devices(&self, dev_euis: &[u64]) -> Result<Vec<Option<Arc<DeviceEntry>>>, BridgeError> {
        let (found, version) = {
            let mut devices = self.devices.lock();
            let found: Vec<Option<Option<Arc<DeviceEntry>>>> = dev_euis
                .iter()
                .map(|&dev_eui| if dev_eui == 0 { Some(None) } else { devices.find(dev_eui) })
                .collect();
            (found, devices.version())
        };
        let mut missing: Vec<u64> = dev_euis
            .iter()
            .zip(&found)
            .filter(|(_, entry)| entry.is_none())
            .map(|(&dev_eui, _)| dev_eui)
            .collect();
        if missing.is_empty() {
            return Ok(found.into_iter().map(Option::flatten).collect());
        }
        missing.sort_unstable();
        missing.dedup();
        let mut read: HashMap<u64, Option<Arc<DeviceEntry>>> =
            missing.iter().map(|&dev_eui| (dev_eui, None)).collect();
        for row in self.tables.devices_by_eui(missing).await? {
            let dev_eui = row.dev_eui;
            let entry = self.entry(row).await?;
            read.insert(dev_eui, Some(Arc::new(entry)));
        }
        let answer = dev_euis
            .iter()
            .zip(found)
            .map(|(dev_eui, entry)| entry.unwrap_or_else(|| read.get(dev_eui).cloned().flatten()))
            .collect();
        self.devices.lock().fill(version, read.into_iter());
        Ok(answer)
    }

    /// One device.
    pub(crate) async fn device(&self, dev_eui: u64) -> Result<Option<Arc<DeviceEntry>>, BridgeError> {
        Ok(self.devices(&[dev_eui]).await?.pop().flatten())
    }

    /// The codec of an id: `""` and `none` are none.
    pub(crate) async fn codec(&self, id: &str) -> Result<CodecChoice, BridgeError> {
        match id {
            "" | NO_CODEC => return Ok(CodecChoice::Known(Arc::new(Codec::None))),
            CAYENNE_LPP => return Ok(CodecChoice::Known(Arc::new(Codec::CayenneLpp))),
            _ => {}
        }
        let version = {
            let parts = self.parts.lock();
            if let Some(codec) = parts.codecs.get(id) {
                return Ok(codec.clone());
            }
            parts.version
        };
        // One that is not there is not remembered: whoever asks may make up names without end.
        let Some(row) = self.tables.codec(id).await? else {
            return Ok(CodecChoice::Missing(Arc::from(id)));
        };
        let codec = CodecChoice::Known(Arc::new(Codec::Script {
            id: row.id,
            revision: row.revision,
            source: Arc::from(row.script),
        }));
        let mut parts = self.parts.lock();
        if parts.version == version {
            parts.codecs.insert(id.to_owned(), codec.clone());
        }
        Ok(codec)
    }

    /// Forgets what is known of a device, after it was written.
    pub(crate) fn device_changed(&self, dev_eui: u64) {
        self.devices.lock().invalidate(dev_eui);
    }

    /// Forgets everything, after a profile or a codec was written.
    pub(crate) fn parts_changed(&self) {
        let mut parts = self.parts.lock();
        let version = parts.version.wrapping_add(1);
        *parts = Parts { version, ..Parts::default() };
        drop(parts);
        self.devices.lock().invalidate_all();
    }

    async fn entry(&self, row: BridgeDeviceRow) -> Result<DeviceEntry, BridgeError> {
        let codec_id =
            if row.codec_id.is_empty() { self.profile_codec(&row.profile_id).await? } else { row.codec_id };
        Ok(DeviceEntry {
            application_id: self.name(&row.application_id),
            name: row.name.into_boxed_str(),
            tags: row
                .tags
                .into_iter()
                .map(|(key, value)| (key.into_boxed_str(), value.into_boxed_str()))
                .collect(),
            codec: self.codec(&codec_id).await?,
        })
    }

    async fn profile_codec(&self, profile_id: &str) -> Result<String, BridgeError> {
        let version = {
            let parts = self.parts.lock();
            if let Some(codec_id) = parts.profile_codecs.get(profile_id) {
                return Ok(codec_id.clone());
            }
            parts.version
        };
        let codec_id =
            self.tables.profile(profile_id).await?.map(|profile| profile.codec_id).unwrap_or_default();
        let mut parts = self.parts.lock();
        if parts.version == version {
            parts.profile_codecs.insert(profile_id.to_owned(), codec_id.clone());
        }
        Ok(codec_id)
    }

    fn name(&self, text: &str) -> Arc<str> {
        let mut parts = self.parts.lock();
        if parts.names.len() >= NAMES_MAX {
            parts.names.clear();
        }
        Arc::clone(parts.names.get_or_insert_with(text, |text| Arc::from(text)))
    }
}

impl DeviceEntry {
    #[cfg(test)]
    pub(crate) fn for_tests(application_id: &str, tags: &[(&str, &str)]) -> Self {
        Self {
            application_id: Arc::from(application_id),
            name: "device".into(),
            tags: tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            codec: CodecChoice::Known(Arc::new(Codec::None)),
        }
    }
}
