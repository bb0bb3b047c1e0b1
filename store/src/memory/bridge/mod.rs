//! The app-bridge's tables.

mod audit;
mod device;
mod downlink;
mod registry;
mod stream;

use std::collections::BTreeMap;

use proto::v1;

use self::downlink::DownlinkRows;
use crate::{ApiKeyRow, AppSessionRow, ApplicationRow, BridgeDeviceRow, CodecRow, ConsumerRow};

#[derive(Default)]
pub(super) struct BridgeRows {
    applications: BTreeMap<String, ApplicationRow>,
    profiles: BTreeMap<String, v1::Profile>,
    devices: BTreeMap<u64, BridgeDeviceRow>,
    codecs: BTreeMap<String, CodecRow>,
    api_keys: BTreeMap<String, ApiKeyRow>,
    app_sessions: BTreeMap<u64, AppSessionRow>,
    consumers: BTreeMap<String, ConsumerRow>,
    /// The sequence up to which the queue and the keys follow the event log.
    follow_seq: u64,
    downlinks: DownlinkRows,
}

/// What is behind a key, in order.
fn after<'a, T>(rows: &'a BTreeMap<String, T>, key: &str) -> impl Iterator<Item = &'a T> {
    rows.range::<str, _>((std::ops::Bound::Excluded(key), std::ops::Bound::Unbounded)).map(|(_, row)| row)
}
