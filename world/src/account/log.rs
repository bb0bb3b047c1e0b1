//! The event log against what was on air.

use std::collections::{BTreeMap, BTreeSet};

use proto::internal::record::Kind as RecordKind;
use proto::internal::{Record, UplinkRecord};

use super::{Account, Arrival, Invariant, TOGETHER_MS};
use crate::schedule::Kind;
use crate::states::{State, States};

#[derive(Debug, Default)]
pub(super) struct LogAccount {
    /// The last sequence looked at.
    pub(super) seen: u64,
    uplinks: BTreeMap<(u64, u32), u64>,
    /// The last FCntUp in the log, by session.
    last: BTreeMap<u64, u32>,
    /// Which device each sequence speaks of, and what an uplink's payload was; for the consumers' account.
    pub(super) entries: BTreeMap<u64, Entry>,
}

/// What the log says at one sequence.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) dev_eui: u64,
    /// The frame of an uplink.
    pub(super) frame: Option<usize>,
    /// A note between the roles, which consumers do not get.
    pub(super) internal: bool,
}

impl LogAccount {
    /// Devices with an uplink after a sequence.
    pub(super) fn uplinks_after(&self, seq: u64, devices: &BTreeMap<u64, usize>) -> BTreeSet<usize> {
        let entries = self.entries.range(seq + 1..).filter(|(_, entry)| entry.frame.is_some());
        entries.filter_map(|(_, entry)| devices.get(&entry.dev_eui).copied()).collect()
    }
}

impl Account {
    /// The last sequence of the log that was looked at.
    pub(crate) fn log_seen(&self) -> u64 {
        self.log.seen
    }

    /// The log has grown by a record.
    pub(crate) fn logged(&mut self, seq: u64, record: &Record, states: &mut States) {
        if seq != self.log.seen + 1 {
            let detail = format!("the log goes from sequence {} to {seq}", self.log.seen);
            self.violate(Invariant::I5, detail);
        }
        self.log.seen = seq;
        let internal = matches!(&record.kind, Some(RecordKind::Downlink(d)) if d.item_id.is_empty());
        let mut entry = Entry { dev_eui: record.dev_eui, frame: None, internal };
        match &record.kind {
            Some(RecordKind::Uplink(uplink)) => {
                entry.frame = self.uplink_logged(seq, record.dev_eui, uplink, states)
            }
            Some(RecordKind::Receptions(_)) => states.reach(State::CopyAfterWindow),
            Some(RecordKind::Join(join)) => self.join_logged(record.dev_eui, join),
            Some(RecordKind::Downlink(downlink)) => self.downlink_logged(record.dev_eui, downlink, states),
            Some(RecordKind::DeviceStatus(_) | RecordKind::Gateway(_) | RecordKind::Error(_)) | None => {}
        }
        self.log.entries.insert(seq, entry);
    }

    /// Whatever order copies come in, the event has the receptions of all gateways whose copies came together.
    fn check_receptions(&mut self, number: usize, uplink: &UplinkRecord) {
        let told: BTreeSet<u64> = uplink.receptions.iter().map(|reception| reception.gateway_eui).collect();
        let copies = self.copies.get(&number).map(Vec::as_slice).unwrap_or_default();
        let is_told = |copy: &&Arrival| told.contains(&copy.gateway_eui);
        let Some(first) = copies.iter().find(is_told) else { return };
        // What a life before this one heard is not in the event.
        if copies.iter().any(|copy| copy.life != first.life) {
            return;
        }
        let together = first.at_ms.max(self.trouble_until_ms)..=first.at_ms + TOGETHER_MS;
        // An activation ends the session's windows.
        let mut activations = self.activations.get(&self.frames[number].device).into_iter().flatten();
        if activations.any(|(from_ms, until_ms)| from_ms <= together.end() && first.at_ms <= *until_ms) {
            return;
        }
        let missing = copies.iter().find(|copy| together.contains(&copy.at_ms) && !is_told(copy));
        if let Some(Arrival { gateway_eui: eui, at_ms, .. }) = missing {
            let detail = format!(
                "the event of FCntUp {} does not tell that gateway {eui:016x} heard it, whose copy came at {at_ms} ms",
                uplink.fcnt_up
            );
            self.violate(Invariant::I1, detail);
        }
    }

    fn uplink_logged(
        &mut self,
        seq: u64,
        dev_eui: u64,
        uplink: &UplinkRecord,
        states: &mut States,
    ) -> Option<usize> {
        let (id, fcnt) = (uplink.session_id, uplink.fcnt_up);
        if let Some(before) = self.log.uplinks.insert((id, fcnt), seq) {
            let detail = format!("FCntUp {fcnt} of session {id:016x} is in the log at {before} and at {seq}");
            self.violate(Invariant::I2, detail);
        }
        if let Some(last) = self.log.last.insert(id, fcnt)
            && last >= fcnt
        {
            let detail = format!("FCntUp {fcnt} of session {id:016x} follows {last} in the log");
            self.violate(Invariant::I2, detail);
        }
        let Some(&device) = self.devices.get(&dev_eui) else {
            self.violate(Invariant::I2, format!("an uplink of {dev_eui:016x}, which does not exist"));
            return None;
        };
        let Some(number) = self.frame_of(device, uplink) else {
            let detail =
                format!("the log has FCntUp {fcnt} of device {device}, which it did not send like that");
            self.violate(Invariant::I2, detail);
            return None;
        };
        self.check_receptions(number, uplink);
        // A device that was personalised again has another session under the same counters.
        if self.frames[number].committed && self.kinds[device] == Kind::Abp {
            let detail = format!("FCntUp {fcnt} of device {device} is in the log a second time, at {seq}");
            self.violate(Invariant::I2, detail);
        }
        let frame = &mut self.frames[number];
        frame.committed = true;
        let key = (device, frame.session);
        self.bind_session(key, id);
        let session = self.sessions.entry(key).or_default();
        if !session.used {
            session.used = true;
            let older: Vec<u64> =
                self.sessions.range((device, 0)..key).map(|((_, session), _)| *session).collect();
            for session in &older {
                if let Some(session) = self.sessions.get_mut(&(device, *session)) {
                    session.retired = true;
                }
            }
            // Between its arrival and its commit the server has retired them already.
            let arrived_ms = self.expected.iter().find(|expected| expected.frame == number).map(|e| e.at_ms);
            let frames = &self.frames;
            self.expected.retain(|expected| {
                let frame = &frames[expected.frame];
                let is_older = frame.device == device && older.contains(&frame.session);
                !is_older || arrived_ms.is_some_and(|arrived_ms| expected.at_ms < arrived_ms)
            });
            if !older.is_empty() {
                states.reach(State::SessionReplaced);
            }
        }
        let session = self.sessions.entry(key).or_default();
        if session.committed.is_some_and(|last| last <= 0xffff) && fcnt > 0xffff {
            states.reach(State::UplinkCounterWrapped);
        }
        session.committed = session.committed.max(Some(fcnt));
        if fcnt == u32::MAX {
            states.reach(State::UplinkCounterExhausted);
        }
        if uplink.receptions.len() > 1 {
            states.reach(State::CopyJoinedWindow);
        }
        if self.joins.failed_since_use.remove(&device) {
            states.reach(State::OldSessionWentOn);
        }
        Some(number)
    }

    /// The frame of the device that an uplink in the log is: its counter, port and bytes as they were on air.
    fn frame_of(&self, device: usize, uplink: &UplinkRecord) -> Option<usize> {
        let by_session = self.session_of_id.get(&uplink.session_id);
        self.frames.iter().enumerate().rev().find_map(|(number, frame)| {
            let fits = frame.device == device
                && frame.fcnt == uplink.fcnt_up
                && frame.confirmed == uplink.confirmed
                && by_session.is_none_or(|(_, session)| *session == frame.session)
                && frame.payload.as_ref().map(|(port, _)| u32::from(*port)) == uplink.f_port
                && frame.payload.as_ref().map_or(0, |(_, bytes)| bytes.len()) == uplink.frm_payload.len();
            fits.then_some(number)
        })
    }

    fn bind_session(&mut self, key: (usize, u64), id: u64) {
        let known = self.session_of_id.insert(id, key);
        let before = self.sessions.entry(key).or_default().id.replace(id);
        let other_id = before.is_some_and(|before| before != id) && self.kinds[key.0] != Kind::Abp;
        if known.is_some_and(|known| known != key) || other_id {
            let detail = format!("session {} of device {} is {id:016x} and another one", key.1, key.0);
            self.violate(Invariant::I2, detail);
        }
    }
}
