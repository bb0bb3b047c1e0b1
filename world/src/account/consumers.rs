//! What consumers got against the log.

use std::collections::BTreeMap;

use proto::v1::{self, event};

use super::{Account, Invariant};
use crate::states::{State, States};

#[derive(Debug, Default)]
pub(super) struct ConsumerAccount {
    by_consumer: Vec<Consumer>,
    id_of: BTreeMap<u64, String>,
    seq_of: BTreeMap<String, u64>,
    /// Uplinks as they were delivered: consumer, device, bytes.
    uplinks: Vec<(usize, usize, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Consumer {
    /// Positions it may stand at: what was acknowledged for sure, and what was tried since.
    acknowledged: u64,
    tried: u64,
    /// The last position of the stream that is open.
    position: Option<u64>,
    /// The highest position it ever got.
    reached: u64,
}

/// A message a consumer got.
#[derive(Debug)]
pub(crate) enum Delivered {
    Event(Box<v1::Event>),
    Gap(v1::Gap),
    Heartbeat,
}

impl Account {
    pub(crate) fn add_consumer(&mut self) {
        self.consumers.by_consumer.push(Consumer::default());
    }

    /// A consumer opens a stream from its own position.
    pub(crate) fn stream_opened(&mut self, consumer: usize) {
        self.consumers.by_consumer[consumer].position = None;
    }

    /// A consumer is about to acknowledge, or was told that it has.
    pub(crate) fn acknowledging(&mut self, consumer: usize, position: u64) {
        let known = &mut self.consumers.by_consumer[consumer];
        known.tried = known.tried.max(position);
    }

    pub(crate) fn acknowledged(&mut self, consumer: usize, position: u64) {
        let known = &mut self.consumers.by_consumer[consumer];
        known.acknowledged = known.acknowledged.max(position);
    }

    /// Where a consumer has got to.
    pub(crate) fn reached(&self, consumer: usize) -> u64 {
        self.consumers.by_consumer[consumer].reached
    }

    /// A consumer got a message that brings it to `position`.
    pub(crate) fn delivered(
        &mut self,
        consumer: usize,
        position: u64,
        message: Delivered,
        states: &mut States,
    ) {
        let seen = self.log.seen;
        let known = &self.consumers.by_consumer[consumer];
        let (acknowledged, tried) = (known.acknowledged, known.tried);
        let before = known.position;
        let from = match (&message, before) {
            (Delivered::Heartbeat, None) => position + 1,
            (_, Some(before)) => before + 1,
            (Delivered::Event(_), None) => position,
            (Delivered::Gap(gap), None) => gap.from,
        };
        let skipped =
            |from: u64| self.log.entries.range(tried.max(acknowledged) + 1..from).any(|(_, e)| !e.internal);
        let too_far = from > tried.max(acknowledged) + 1 && skipped(from);
        if before.is_none() && (from <= acknowledged || too_far) {
            let detail = format!(
                "consumer {consumer} goes on at {from}; it has acknowledged {acknowledged}, perhaps {tried}"
            );
            self.violate(Invariant::I5, detail);
        }
        if position > seen {
            let detail = format!("consumer {consumer} gets sequence {position}, and the log ends at {seen}");
            self.violate(Invariant::I1, detail);
        }
        match &message {
            Delivered::Heartbeat => {
                let between =
                    before.map(|before| self.log.entries.range(before + 1..=position.max(before + 1)));
                let moved = before.is_some_and(|before| position < before)
                    || between.is_some_and(|mut between| {
                        between.any(|(seq, entry)| *seq <= position && !entry.internal)
                    });
                if moved {
                    let detail = format!("a heartbeat moves consumer {consumer} from {before:?} to {position}");
                    self.violate(Invariant::I5, detail);
                }
            }
            Delivered::Gap(gap) => {
                states.reach(State::ConsumerSawGap);
                if gap.from != from || gap.to != position || gap.count != gap.to + 1 - gap.from {
                    let detail = format!("consumer {consumer} at {from} is told of the gap {gap:?}");
                    self.violate(Invariant::I5, detail);
                }
            }
            Delivered::Event(event) => {
                let between = self.log.entries.range(from..position.max(from));
                if position < from || between.clone().any(|(_, entry)| !entry.internal) {
                    let detail = format!("consumer {consumer} gets {position} after {}", from - 1);
                    self.violate(Invariant::I5, detail);
                }
                self.check_event(position, event, states);
                if let Some(event::Kind::Uplink(uplink)) = &event.kind
                    && let Some(device) =
                        self.log.entries.get(&position).and_then(|e| e.frame).map(|f| self.frames[f].device)
                {
                    self.consumers.uplinks.push((consumer, device, uplink.payload.clone()));
                }
            }
        }
        let known = &mut self.consumers.by_consumer[consumer];
        known.position = Some(position);
        known.reached = known.reached.max(position);
    }

    /// The payloads of a device as a consumer got them, in order.
    pub(crate) fn uplinks_of(&self, consumer: usize, device: usize) -> Vec<Vec<u8>> {
        let mine = |(c, d, _): &&(usize, usize, Vec<u8>)| *c == consumer && *d == device;
        self.consumers.uplinks.iter().filter(mine).map(|(_, _, bytes)| bytes.clone()).collect()
    }

    fn check_event(&mut self, seq: u64, event: &v1::Event, states: &mut States) {
        let other_id = self.consumers.id_of.insert(seq, event.id.clone()).filter(|known| *known != event.id);
        let other_seq = self.consumers.seq_of.insert(event.id.clone(), seq).filter(|known| *known != seq);
        // The state of an item, or a late reception, may be told again when nobody knows whether it was; then it is the same event.
        let told_again = matches!(event.kind, Some(event::Kind::Downlink(_) | event::Kind::Receptions(_)));
        if other_id.is_some() || (other_seq.is_some() && !told_again) {
            let detail = format!("event {} at {seq}: before {other_id:?} at {other_seq:?}", event.id);
            self.violate(Invariant::I5, detail);
        }
        let Some(entry) = self.log.entries.get(&seq).cloned() else { return };
        let dev_eui = u64::from_str_radix(&event.dev_eui, 16).unwrap_or(0);
        if dev_eui != entry.dev_eui {
            let detail =
                format!("event {seq} is of {:016x} and is delivered as of {dev_eui:016x}", entry.dev_eui);
            self.violate(Invariant::I5, detail);
        }
        let (Some(event::Kind::Uplink(uplink)), Some(frame)) = (&event.kind, entry.frame) else { return };
        let sent = self.frames[frame].clone();
        let bytes = sent.payload.map(|(_, bytes)| bytes).unwrap_or_default();
        if uplink.fcnt_up != sent.fcnt || uplink.payload != bytes {
            let detail = format!(
                "FCntUp {} of device {} is delivered as {} with other bytes ({})",
                sent.fcnt, sent.device, uplink.fcnt_up, uplink.raw_reason
            );
            self.violate(Invariant::I5, detail);
        }
        if !uplink.errors.is_empty() {
            states.reach(State::CodecFailed);
        }
    }
}
