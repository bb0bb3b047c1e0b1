//! Records of the log become messages of the stream: decrypted, decoded, encoded.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mac::crypto::{Direction, crypt_frm_payload};
use mac::ids::DevAddr;
use mac::keys::AppSKey;
use prost::Message;
use proto::internal::{self as pb, record};
use proto::mark::Mark;
use proto::v1;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::clock::now_us;
use crate::codec::{Codec, CodecPool, DecodeJob};
use crate::cursor;
use crate::error::BridgeError;
use crate::event::{self, Content};
use crate::filter::{Filter, Traits};
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::registry::{CodecChoice, DeviceEntry, Registry};

/// Decoded events of a stretch of the log.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The position just before the stretch.
    pub(crate) after_seq: u64,
    /// The last record of the stretch.
    pub(crate) last_seq: u64,
    /// In order of their sequence; records that were filtered out have none.
    pub(crate) entries: Vec<Entry>,
    /// Memory the entries hold.
    pub(crate) bytes: usize,
}

/// One event, ready to be sent to any number of watchers.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) traits: Traits,
    pub(crate) device: Option<Arc<DeviceEntry>>,
    /// An encoded `WatchResponse`.
    pub(crate) message: Bytes,
}

/// Turns records into events.
pub(crate) struct Decoder {
    pub(crate) registry: Arc<Registry>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) codecs: CodecPool,
    /// The sequence up to which the keys in the log are stored.
    pub(crate) followed: Mark,
    /// Where records of what happened here go. A full queue loses one, and says so.
    pub(crate) notes: mpsc::Sender<pb::Record>,
    pub(crate) metrics: Arc<Metrics>,
}

/// One record on its way.
struct Item<'a> {
    seq: u64,
    record: &'a pb::Record,
    traits: Traits,
    device: Option<Arc<DeviceEntry>>,
    content: Content,
}

impl Decoder {
    /// Decodes a page of records that follows `after_seq`; nothing is skipped but what the filter keeps out.
    ///
    /// An error is one of ours (store, codec threads) and says that the same page may be tried again later.
    pub(crate) async fn decode(
        &self,
        after_seq: u64,
        records: &[(u64, Arc<pb::Record>)],
        filter: Option<&Filter>,
    ) -> Result<Chunk, BridgeError> {
        let started = Instant::now();
        let mut items = self.select(records, filter).await?;
        self.decrypt(&mut items).await?;
        self.run_codecs(&mut items).await;
        let chunk = encode(after_seq, records.last().map_or(after_seq, |(seq, _)| *seq), items);
        self.metrics.events_decoded.inc_by(chunk.entries.len() as u64);
        self.metrics.decode_seconds.observe(started.elapsed().as_secs_f64());
        Ok(chunk)
    }

    async fn select<'a>(
        &self,
        records: &'a [(u64, Arc<pb::Record>)],
        filter: Option<&Filter>,
    ) -> Result<Vec<Item<'a>>, BridgeError> {
        let mut items: Vec<Item<'a>> = Vec::with_capacity(records.len());
        for (seq, record) in records {
            let traits = Traits::of(record);
            if filter.is_none_or(|filter| filter.passes_record(traits)) {
                items.push(Item { seq: *seq, record, traits, device: None, content: Content::default() });
            }
        }
        let dev_euis: Vec<u64> = items.iter().map(|item| item.traits.dev_eui).collect();
        let devices = self.registry.devices(&dev_euis).await?;
        for (item, device) in items.iter_mut().zip(devices) {
            item.device = device;
        }
        if let Some(filter) = filter {
            items.retain(|item| filter.passes_device(item.device.as_deref()));
        }
        Ok(items)
    }

    async fn decrypt(&self, items: &mut [Item<'_>]) -> Result<(), BridgeError> {
        let sealed: Vec<(usize, &pb::UplinkRecord)> = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| sealed_uplink(item.record).map(|uplink| (index, uplink)))
            .collect();
        let session_ids: Vec<u64> = sealed.iter().map(|(_, uplink)| uplink.session_id).collect();
        let mut keys = self.keys.of_sessions(&session_ids).await?;
        if keys.iter().any(Option::is_none) {
            // A key comes with a Join record before its first uplink; storing it may be a moment behind.
            let last_needed = sealed
                .iter()
                .zip(&keys)
                .filter(|(_, key)| key.is_none())
                .filter_map(|((index, _), _)| items.get(*index).map(|item| item.seq))
                .max()
                .unwrap_or_default();
            self.wait_for_follower(last_needed).await;
            keys = self.keys.of_sessions(&session_ids).await?;
        }
        for ((index, uplink), key) in sealed.into_iter().zip(keys) {
            let Some(item) = items.get_mut(index) else {
                continue;
            };
            match key {
                Some(key) => item.content.payload = decrypted(&key, uplink),
                None => {
                    self.metrics.keys_missing.inc();
                    item.content.raw_reason = event::KEY_MISSING;
                }
            }
        }
        Ok(())
    }

    /// Waits until everything the log tells about keys up to a sequence is stored. A stream does not go past it: an event
    /// delivered raw by mistake would be acknowledged raw.
    async fn wait_for_follower(&self, seq: u64) {
        loop {
            let followed = self.followed.wait_for(|position| position >= seq);
            if tokio::time::timeout(FOLLOWER_PATIENCE, followed).await.is_ok() {
                return;
            }
            tracing::warn!(seq, "session keys in the event log are not stored yet; a stream waits");
        }
    }

    async fn run_codecs(&self, items: &mut [Item<'_>]) {
        let mut indexes = Vec::with_capacity(items.len());
        let mut calls = Vec::with_capacity(items.len());
        for (index, item) in items.iter_mut().enumerate() {
            let (Some(record::Kind::Uplink(uplink)), Some(device)) = (&item.record.kind, &item.device) else {
                continue;
            };
            let Some(f_port) = uplink.f_port.and_then(|port| u8::try_from(port).ok()).filter(|&port| port > 0)
            else {
                continue;
            };
            if !item.content.raw_reason.is_empty() {
                continue;
            }
            match &device.codec {
                CodecChoice::Missing(id) => item.content.errors.push(CodecChoice::missing_words(id)),
                CodecChoice::Known(codec) if **codec == Codec::None => {}
                CodecChoice::Known(codec) => {
                    indexes.push(index);
                    calls.push(DecodeJob {
                        codec: Arc::clone(codec),
                        bytes: item.content.payload.clone(),
                        f_port,
                        recv_time_us: item.record.at_us,
                    });
                }
            }
        }
        if calls.is_empty() {
            return;
        }
        let decoded = self.codecs.decode_batch(calls).await;
        for (index, decoded) in indexes.into_iter().zip(decoded) {
            let Some(item) = items.get_mut(index) else {
                continue;
            };
            if !decoded.errors.is_empty() {
                self.metrics.codec_errors.inc();
            }
            if decoded.suspension_started {
                self.note_suspension(item);
            }
            item.content.object_json = decoded.object_json;
            item.content.warnings = decoded.warnings;
            item.content.errors = decoded.errors;
        }
    }

    fn note_suspension(&self, item: &Item<'_>) {
        let Some(CodecChoice::Known(codec)) = item.device.as_deref().map(|device| &device.codec) else {
            return;
        };
        let Codec::Script { id, .. } = &**codec else {
            return;
        };
        let error = pb::ErrorRecord {
            code: "codec_suspended".to_owned(),
            message: format!(
                "codec {id} ran into its time limit too often and is left alone for a while; its payloads are delivered raw"
            ),
            item_id: String::new(),
        };
        let record = pb::Record {
            at_us: now_us(),
            dev_eui: item.record.dev_eui,
            kind: Some(record::Kind::Error(error)),
        };
        if self.notes.try_send(record).is_err() {
            tracing::warn!(codec = %id, "a codec is suspended, and the event log could not be told");
        }
    }
}

/// The uplink of a record that carries an application payload.
fn sealed_uplink(record: &pb::Record) -> Option<&pb::UplinkRecord> {
    match &record.kind {
        Some(record::Kind::Uplink(uplink))
            if !uplink.frm_payload.is_empty() && uplink.f_port.is_some_and(|port| port > 0) =>
        {
            Some(uplink)
        }
        _ => None,
    }
}

fn decrypted(key: &AppSKey, uplink: &pb::UplinkRecord) -> Vec<u8> {
    let mut payload = uplink.frm_payload.clone();
    crypt_frm_payload(key.expose(), Direction::Up, DevAddr::new(uplink.dev_addr), uplink.fcnt_up, &mut payload);
    payload
}

#[allow(clippy::expect_used, reason = "a BytesMut grows as needed")]
fn encode(after_seq: u64, last_seq: u64, items: Vec<Item<'_>>) -> Chunk {
    let mut buffer = BytesMut::with_capacity(items.len().saturating_mul(MESSAGE_LEN_GUESS));
    let mut marks = Vec::with_capacity(items.len());
    for item in items {
        let Some(event) = event::event(item.record, item.device.as_deref(), item.content) else {
            continue;
        };
        let response = v1::WatchResponse {
            item: Some(v1::watch_response::Item::Event(event)),
            cursor: cursor::encode(item.seq).to_vec(),
        };
        response.encode(&mut buffer).expect("a BytesMut grows as needed");
        marks.push((buffer.len(), item.seq, item.traits, item.device));
    }
    let bytes = buffer.len().saturating_add(marks.len().saturating_mul(size_of::<Entry>()));
    // One allocation for all messages of a chunk; each entry is a view of it.
    let mut messages = buffer.freeze();
    let mut start = 0;
    let entries = marks
        .into_iter()
        .map(|(end, seq, traits, device)| {
            let message = messages.split_to(end.saturating_sub(start));
            start = end;
            Entry { seq, traits, device, message }
        })
        .collect();
    Chunk { after_seq, last_seq, entries, bytes }
}

const FOLLOWER_PATIENCE: Duration = Duration::from_secs(5);
const MESSAGE_LEN_GUESS: usize = 512;
