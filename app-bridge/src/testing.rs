//! A network server and a join server of paper, for tests of the app-bridge.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use proto::internal::{self as pb, record};
use proto::port::{JoinPort, LogPage, NetworkPort, PortError};
use proto::v1;
use tokio::sync::watch;

/// The network server: an event log in memory, and what it was told.
pub(crate) struct FakeNetwork {
    log: Mutex<FakeLog>,
    head: watch::Sender<u64>,
    pub(crate) told: Mutex<Told>,
    /// While set, every call ends in `Unavailable`.
    pub(crate) down: AtomicBool,
    /// While set, hints are never answered.
    pub(crate) deaf_to_hints: AtomicBool,
    /// Profiles that are refused for what they say.
    pub(crate) refused_profiles: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct FakeLog {
    records: Vec<Arc<pb::Record>>,
    /// Records taken away by retention.
    dropped: usize,
}

/// What the bridge told the network server.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) profiles: BTreeMap<String, v1::Profile>,
    /// How often a profile was told.
    pub(crate) profile_puts: u32,
    pub(crate) devices: BTreeMap<u64, pb::PutDeviceRequest>,
    pub(crate) activations: Vec<pb::ActivateRequest>,
    pub(crate) gateways: BTreeMap<u64, v1::Gateway>,
    pub(crate) hints: BTreeMap<u64, pb::QueueHint>,
}

impl FakeNetwork {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            log: Mutex::default(),
            head: watch::Sender::new(0),
            told: Mutex::default(),
            down: AtomicBool::new(false),
            deaf_to_hints: AtomicBool::new(false),
            refused_profiles: Mutex::default(),
        })
    }

    /// Commits a record; returns its sequence.
    pub(crate) fn log_record(&self, record: pb::Record) -> u64 {
        let mut log = self.log.lock();
        log.records.push(Arc::new(record));
        let head = (log.dropped + log.records.len()) as u64;
        drop(log);
        self.head.send_replace(head);
        head
    }

    /// Takes away everything up to a sequence, as retention does.
    pub(crate) fn forget_up_to(&self, seq: u64) {
        let mut log = self.log.lock();
        let count = usize::try_from(seq).unwrap() - log.dropped;
        log.records.drain(..count);
        log.dropped += count;
    }

    /// All records kept, with their sequence.
    pub(crate) fn records(&self) -> Vec<(u64, Arc<pb::Record>)> {
        let log = self.log.lock();
        (log.dropped as u64 + 1..).zip(log.records.iter().cloned()).collect()
    }

    /// The states the log tells of a downlink item, in order.
    pub(crate) fn states_of(&self, item_id: &str) -> Vec<v1::DownlinkState> {
        self.records()
            .iter()
            .filter_map(|(_, record)| match &record.kind {
                Some(record::Kind::Downlink(downlink)) if downlink.item_id == item_id => {
                    Some(v1::DownlinkState::try_from(i32::try_from(downlink.state).unwrap()).unwrap())
                }
                _ => None,
            })
            .collect()
    }

    fn up(&self) -> Result<(), PortError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(PortError::Unavailable("the network server is away".to_owned()));
        }
        Ok(())
    }

    fn page(&self, after_seq: u64, max_records: u32) -> LogPage {
        let log = self.log.lock();
        let dropped = log.dropped as u64;
        let records = (dropped + 1..)
            .zip(log.records.iter().cloned())
            .filter(|(seq, _)| *seq > after_seq)
            .take(max_records as usize)
            .collect();
        LogPage { records, head_seq: dropped + log.records.len() as u64, earliest_seq: dropped + 1 }
    }
}

#[async_trait]
impl NetworkPort for FakeNetwork {
    async fn put_profile(&self, profile: v1::Profile) -> Result<(), PortError> {
        self.up()?;
        if self.refused_profiles.lock().contains(&profile.id) {
            return Err(PortError::InvalidArgument("a profile nobody can follow".to_owned()));
        }
        let mut told = self.told.lock();
        told.profile_puts += 1;
        told.profiles.insert(profile.id.clone(), profile);
        Ok(())
    }
    async fn delete_profile(&self, id: &str) -> Result<(), PortError> {
        self.up()?;
        self.told.lock().profiles.remove(id);
        Ok(())
    }
    async fn put_device(&self, device: pb::PutDeviceRequest) -> Result<(), PortError> {
        self.up()?;
        let mut told = self.told.lock();
        if !told.profiles.contains_key(&device.profile_id) {
            return Err(PortError::FailedPrecondition(format!("there is no profile {}", device.profile_id)));
        }
        told.devices.insert(device.dev_eui, device);
        Ok(())
    }
    async fn delete_device(&self, dev_eui: u64) -> Result<(), PortError> {
        self.up()?;
        self.told.lock().devices.remove(&dev_eui);
        Ok(())
    }
    async fn activate(&self, request: pb::ActivateRequest) -> Result<(), PortError> {
        self.up()?;
        self.told.lock().activations.push(request);
        Ok(())
    }
    async fn device_state(&self, dev_eui: u64) -> Result<Option<v1::DeviceState>, PortError> {
        self.up()?;
        Ok(self.told.lock().devices.contains_key(&dev_eui).then(v1::DeviceState::default))
    }
    async fn put_gateway(&self, gateway: v1::Gateway) -> Result<(), PortError> {
        self.up()?;
        let eui = u64::from_str_radix(&gateway.gateway_eui, 16).unwrap();
        self.told.lock().gateways.insert(eui, gateway);
        Ok(())
    }
    async fn delete_gateway(&self, gateway_eui: u64) -> Result<(), PortError> {
        self.up()?;
        self.told.lock().gateways.remove(&gateway_eui);
        Ok(())
    }
    async fn gateways(
        &self,
        gateway_eui: Option<u64>,
    ) -> Result<Vec<v1::list_gateways_response::Item>, PortError> {
        self.up()?;
        let told = self.told.lock();
        let chosen = told.gateways.iter().filter(|(eui, _)| gateway_eui.is_none_or(|asked| asked == **eui));
        Ok(chosen
            .map(|(_, gateway)| v1::list_gateways_response::Item {
                gateway: Some(gateway.clone()),
                status: Some(v1::GatewayStatus::default()),
            })
            .collect())
    }
    async fn unseen_gateways(&self) -> Result<Vec<v1::list_unseen_gateways_response::Item>, PortError> {
        self.up()?;
        Ok(Vec::new())
    }
    async fn drops(&self, _: pb::DropsRequest) -> Result<Vec<v1::list_drops_response::Drop>, PortError> {
        self.up()?;
        Ok(Vec::new())
    }
    async fn set_queue_hints(&self, hints: Vec<pb::QueueHint>) -> Result<(), PortError> {
        self.up()?;
        if self.deaf_to_hints.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let mut told = self.told.lock();
        for hint in hints {
            told.hints.insert(hint.dev_eui, hint);
        }
        Ok(())
    }
    async fn append_records(&self, records: Vec<pb::Record>) -> Result<u64, PortError> {
        self.up()?;
        let count = records.len() as u64;
        let mut last = 0;
        for record in records {
            last = self.log_record(record);
        }
        Ok(last + 1 - count)
    }
    async fn read_log(&self, request: pb::ReadLogRequest) -> Result<LogPage, PortError> {
        self.up()?;
        if request.wait_ms > 0 {
            let mut head = self.head.subscribe();
            let wait = Duration::from_millis(u64::from(request.wait_ms));
            let _ = tokio::time::timeout(wait, head.wait_for(|head| *head > request.after_seq)).await;
        }
        Ok(self.page(request.after_seq, request.max_records))
    }
    async fn stats(&self) -> Result<v1::GetInfoResponse, PortError> {
        self.up()?;
        Ok(v1::GetInfoResponse { uplinks: 3, ..v1::GetInfoResponse::default() })
    }
}

/// The join server: remembers what it was told.
#[derive(Default)]
pub(crate) struct FakeJoin {
    pub(crate) devices: Mutex<BTreeMap<u64, pb::PutJoinDeviceRequest>>,
    /// Devices whose creation fails.
    pub(crate) refused: Mutex<BTreeSet<u64>>,
    /// Whoever holds it keeps devices from being put.
    pub(crate) gate: tokio::sync::Mutex<()>,
}

#[async_trait]
impl JoinPort for FakeJoin {
    async fn join(&self, _: pb::JoinRequest) -> Result<pb::JoinResponse, PortError> {
        Err(PortError::Unavailable("a join server of paper".to_owned()))
    }
    async fn put_join_device(&self, request: pb::PutJoinDeviceRequest) -> Result<(), PortError> {
        if self.refused.lock().contains(&request.dev_eui) {
            return Err(PortError::Unavailable("the join server is away".to_owned()));
        }
        let _open = self.gate.lock().await;
        let mut devices = self.devices.lock();
        let known = devices.insert(request.dev_eui, request.clone());
        // Without keys those that are there stay.
        if let (Some(known), Some(device)) = (known, devices.get_mut(&request.dev_eui))
            && request.app_key.is_empty()
        {
            (device.app_key, device.nwk_key) = (known.app_key, known.nwk_key);
        }
        Ok(())
    }
    async fn delete_join_device(&self, dev_eui: u64) -> Result<(), PortError> {
        self.devices.lock().remove(&dev_eui);
        Ok(())
    }
    async fn join_keys_status(&self, dev_eui: u64) -> Result<Option<v1::GetKeysStatusResponse>, PortError> {
        Ok(self.devices.lock().get(&dev_eui).map(|device| v1::GetKeysStatusResponse {
            has_app_key: !device.app_key.is_empty(),
            has_nwk_key: !device.nwk_key.is_empty(),
            ..v1::GetKeysStatusResponse::default()
        }))
    }
}
