//! A record of the log as the event integrators get.
//!
//! The id of an event is made of what happened, not of where it stands in the log, so that it is alike after a failover
//! and on every reading: session, counter and kind where there is a counter, else the device or gateway and its time.

use proto::internal::{self as pb, record};
use proto::port::NOT_ACKNOWLEDGED;
use proto::v1;

use crate::registry::DeviceEntry;

/// What became of the payload of an uplink.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// Decrypted bytes.
    pub(crate) payload: Vec<u8>,
    pub(crate) object_json: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) errors: Vec<String>,
    /// Why the payload is not decrypted; the encrypted bytes are delivered then.
    pub(crate) raw_reason: &'static str,
}

/// The session's key is not here (and no record that would bring it).
pub(crate) const KEY_MISSING: &str = "key_missing";

/// What a device answered to a frame, told with the frame's counter alone: the network server knows no items at that point.
/// The app-bridge tells of the item itself, so this is no event of its own.
pub(crate) fn is_bare_answer(downlink: &pb::DownlinkRecord) -> bool {
    let state = i32::try_from(downlink.state).unwrap_or_default();
    downlink.item_id.is_empty()
        && (state == v1::DownlinkState::DeviceAcknowledged as i32
            || (state == v1::DownlinkState::Failed as i32 && downlink.reason == NOT_ACKNOWLEDGED))
}

/// The kind of a record.
pub(crate) fn kind(record: &pb::Record) -> v1::EventKind {
    match &record.kind {
        Some(record::Kind::Uplink(_)) => v1::EventKind::Uplink,
        Some(record::Kind::Receptions(_)) => v1::EventKind::Receptions,
        Some(record::Kind::Join(_)) => v1::EventKind::Join,
        Some(record::Kind::Downlink(_)) => v1::EventKind::Downlink,
        Some(record::Kind::DeviceStatus(_)) => v1::EventKind::DeviceStatus,
        Some(record::Kind::Gateway(_)) => v1::EventKind::Gateway,
        Some(record::Kind::Error(_)) => v1::EventKind::Error,
        None => v1::EventKind::Unspecified,
    }
}

/// The event of a record; `None` for a record of a kind that is not known here, or that is none of itself.
pub(crate) fn event(record: &pb::Record, device: Option<&DeviceEntry>, content: Content) -> Option<v1::Event> {
    let at_us = record.at_us;
    let dev_eui = record.dev_eui;
    let (id, kind) = match record.kind.as_ref()? {
        record::Kind::Uplink(uplink) => {
            let mut id = counter_id(uplink.session_id, uplink.fcnt_up, "-up");
            if uplink.id_salt != 0 {
                push_hex(&mut id, u64::from(uplink.id_salt), 8);
            }
            (id, v1::event::Kind::Uplink(self::uplink(at_us, uplink, content)))
        }
        record::Kind::Receptions(late) => {
            let mut id = counter_id(late.session_id, late.fcnt_up, "-rx");
            if let Some(first) = late.receptions.first() {
                push_hex(&mut id, first.gateway_eui, 16);
                push_hex(&mut id, u64::from(first.tmst_us), 8);
            }
            let receptions = receptions(at_us, &late.receptions);
            (
                id,
                v1::event::Kind::Receptions(v1::Receptions {
                    session_id: late.session_id,
                    fcnt_up: late.fcnt_up,
                    receptions,
                }),
            )
        }
        record::Kind::Join(join) => {
            let mut id = hex(join.session_id, 16);
            id.push_str("-join");
            let kind = v1::Join {
                session_id: join.session_id,
                dev_addr: hex(u64::from(join.dev_addr), 8),
                join_eui: hex(join.join_eui, 16),
                dev_nonce: join.dev_nonce,
                mac_version: i32::try_from(join.mac_version).unwrap_or_default(),
                receptions: receptions(at_us, &join.receptions),
            };
            (id, v1::event::Kind::Join(kind))
        }
        record::Kind::Downlink(downlink) if is_bare_answer(downlink) => return None,
        record::Kind::Downlink(downlink) => {
            (downlink_id(record, downlink), v1::event::Kind::Downlink(self::downlink(downlink)))
        }
        record::Kind::DeviceStatus(status) => {
            let kind = v1::DeviceStatus { battery: status.battery, margin_db: status.margin_db };
            (time_id(dev_eui, at_us, "-status"), v1::event::Kind::DeviceStatus(kind))
        }
        record::Kind::Gateway(gateway) => {
            let kind = v1::GatewayUpdate {
                gateway_eui: hex(gateway.gateway_eui, 16),
                online: gateway.online,
                detail: gateway.detail.clone(),
            };
            let suffix = if gateway.online { "-on" } else { "-off" };
            (time_id(gateway.gateway_eui, at_us, suffix), v1::event::Kind::Gateway(kind))
        }
        record::Kind::Error(error) => {
            let kind = v1::ErrorNote { code: error.code.clone(), message: error.message.clone() };
            let mut id = time_id(dev_eui, at_us, "-");
            id.push_str(&error.code);
            (id, v1::event::Kind::Error(kind))
        }
    };
    let mut event = v1::Event { id, received_at_us: at_us, kind: Some(kind), ..v1::Event::default() };
    if dev_eui != 0 {
        event.dev_eui = hex(dev_eui, 16);
    }
    if let Some(device) = device {
        device.application_id.as_ref().clone_into(&mut event.application_id);
        device.name.as_ref().clone_into(&mut event.device_name);
        event.tags = device.tags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    }
    Some(event)
}

fn uplink(at_us: i64, record: &pb::UplinkRecord, content: Content) -> v1::Uplink {
    let encrypted_payload = if content.raw_reason.is_empty() { Vec::new() } else { record.frm_payload.clone() };
    v1::Uplink {
        session_id: record.session_id,
        dev_addr: hex(u64::from(record.dev_addr), 8),
        fcnt_up: record.fcnt_up,
        f_port: record.f_port,
        payload: content.payload,
        object_json: content.object_json,
        warnings: content.warnings,
        errors: content.errors,
        confirmed: record.confirmed,
        adr: record.adr,
        receptions: receptions(at_us, &record.receptions),
        modulation: record.modulation.as_ref().map(modulation),
        frequency_hz: record.frequency_hz,
        airtime_us: record.airtime_us,
        raw_reason: content.raw_reason.to_owned(),
        encrypted_payload,
    }
}

fn downlink(record: &pb::DownlinkRecord) -> v1::DownlinkUpdate {
    let reported = i32::try_from(record.state).unwrap_or_default();
    let unanswered = reported == v1::DownlinkState::Failed as i32
        && record.reason == NOT_ACKNOWLEDGED
        && !record.item_id.is_empty();
    v1::DownlinkUpdate {
        downlink_id: record.item_id.clone(),
        state: if unanswered { v1::DownlinkState::Sent as i32 } else { reported },
        reason: record.reason.clone(),
        fcnt_down: record.fcnt_down,
        gateway_eui: if record.gateway_eui == 0 { String::new() } else { hex(record.gateway_eui, 16) },
    }
}

fn downlink_id(record: &pb::Record, downlink: &pb::DownlinkRecord) -> String {
    let mut id = downlink.item_id.clone();
    if let Some(fcnt_down) = downlink.fcnt_down {
        // A counter names a frame only together with its session: an item may leave again in the next one.
        if !id.is_empty() {
            id.push('-');
        }
        push_hex(&mut id, downlink.session_id, 16);
        id.push('-');
        push_hex(&mut id, u64::from(fcnt_down), 8);
    } else if id.is_empty() {
        // A downlink of the network's own that never had a counter: its time names it.
        id = time_id(record.dev_eui, record.at_us, "");
    }
    id.push_str("-dn");
    push_hex(&mut id, u64::from(downlink.state), 2);
    if downlink.reason == NOT_ACKNOWLEDGED {
        id.push_str("-nack");
    }
    id
}

fn receptions(at_us: i64, records: &[pb::ReceptionRecord]) -> Vec<v1::Reception> {
    records
        .iter()
        .map(|reception| v1::Reception {
            gateway_eui: hex(reception.gateway_eui, 16),
            rssi_dbm: tenths(reception.rssi_ddbm),
            snr_db: reception.snr_ddb.map(tenths),
            tmst_us: reception.tmst_us,
            received_at_us: at_us.saturating_add(reception.received_offset_us),
            gateway_time_us: reception.gateway_time_us,
            fine_time_ns: reception.fine_time_ns,
            antenna: reception.antenna,
            channel: reception.channel,
            late: reception.late,
        })
        .collect()
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a level in decibels; f32 holds tenths of it exactly enough"
)]
fn tenths(value: i32) -> f32 {
    (f64::from(value) / 10.0) as f32
}

fn modulation(record: &pb::ModulationRecord) -> v1::Modulation {
    use v1::modulation::{Fsk, Kind, Lora, LrFhss};
    let kind = if record.spreading_factor != 0 {
        Kind::Lora(Lora {
            spreading_factor: record.spreading_factor,
            bandwidth_hz: record.bandwidth_hz,
            coding_rate: record.coding_rate.clone(),
        })
    } else if record.bit_rate_bps != 0 {
        Kind::Fsk(Fsk { bit_rate_bps: record.bit_rate_bps })
    } else {
        Kind::LrFhss(LrFhss {
            occupied_bandwidth_hz: record.bandwidth_hz,
            coding_rate: record.coding_rate.clone(),
        })
    };
    v1::Modulation { data_rate: record.data_rate_plus_1.checked_sub(1), kind: Some(kind) }
}

fn counter_id(session_id: u64, fcnt: u32, suffix: &str) -> String {
    let mut id = String::with_capacity(56);
    push_hex(&mut id, session_id, 16);
    id.push('-');
    push_hex(&mut id, u64::from(fcnt), 8);
    id.push_str(suffix);
    id
}

fn time_id(eui: u64, at_us: i64, suffix: &str) -> String {
    let mut id = hex(eui, 16);
    id.push('-');
    push_hex(&mut id, at_us.cast_unsigned(), 16);
    id.push_str(suffix);
    id
}

/// The last `digits` hexadecimal digits of a number.
pub(crate) fn hex(value: u64, digits: u32) -> String {
    let mut text = String::with_capacity(16);
    push_hex(&mut text, value, digits);
    text
}

/// Ten strings of this kind are made for each event, hence by hand and not by `format!`.
fn push_hex(text: &mut String, value: u64, digits: u32) {
    for index in (0..digits).rev() {
        let nibble =
            u32::try_from(value.checked_shr(index.saturating_mul(4)).unwrap_or(0) & 0xf).unwrap_or_default();
        text.push(char::from_digit(nibble, 16).unwrap_or('0'));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(at_us: i64, kind: record::Kind) -> pb::Record {
        pb::Record { at_us, dev_eui: 0x70b3, kind: Some(kind) }
    }

    fn uplink_record(fcnt_up: u32) -> record::Kind {
        record::Kind::Uplink(pb::UplinkRecord { session_id: 0xabc, fcnt_up, ..pb::UplinkRecord::default() })
    }

    fn id_of(record: &pb::Record) -> String {
        event(record, None, Content::default()).unwrap().id
    }

    /// AS-004.
    #[test]
    fn an_event_has_the_same_id_wherever_it_was_processed() {
        let here = record(1_000, uplink_record(7));
        let after_a_failover = record(2_000, uplink_record(7));
        assert_eq!(id_of(&here), "0000000000000abc-00000007-up");
        assert_eq!(id_of(&here), id_of(&after_a_failover));
        assert_ne!(id_of(&here), id_of(&record(1_000, uplink_record(8))));
        let receptions = pb::ReceptionsRecord { session_id: 0xabc, fcnt_up: 7, receptions: vec![] };
        assert_ne!(id_of(&here), id_of(&record(1_000, record::Kind::Receptions(receptions))));
    }

    #[test]
    fn a_retried_downlink_has_an_event_of_its_own_for_each_attempt() {
        let sent = |session_id, fcnt_down| {
            record(
                1,
                record::Kind::Downlink(pb::DownlinkRecord {
                    item_id: "item".to_owned(),
                    state: v1::DownlinkState::Sent as u32,
                    fcnt_down: Some(fcnt_down),
                    session_id,
                    ..pb::DownlinkRecord::default()
                }),
            )
        };
        assert_eq!(id_of(&sent(0xabc, 4)), "item-0000000000000abc-00000004-dn03");
        assert_ne!(id_of(&sent(0xabc, 4)), id_of(&sent(0xabc, 5)));
        // The device joined in between, and counters began anew.
        assert_ne!(id_of(&sent(0xabc, 4)), id_of(&sent(0xdef, 4)));
    }

    #[test]
    fn a_missing_acknowledgement_is_not_told_as_the_end_of_the_item() {
        let nack = pb::DownlinkRecord {
            item_id: "item".to_owned(),
            state: v1::DownlinkState::Failed as u32,
            reason: NOT_ACKNOWLEDGED.to_owned(),
            fcnt_down: Some(3),
            ..pb::DownlinkRecord::default()
        };
        assert_eq!(downlink(&nack).state, v1::DownlinkState::Sent as i32);
        let other = pb::DownlinkRecord { reason: "TX_FREQ".to_owned(), ..nack };
        assert_eq!(downlink(&other).state, v1::DownlinkState::Failed as i32);
    }

    #[test]
    fn a_reception_keeps_its_time_and_levels() {
        let reception = pb::ReceptionRecord {
            gateway_eui: 0x0016_c001,
            rssi_ddbm: -1135,
            snr_ddb: Some(-72),
            received_offset_us: 1500,
            ..pb::ReceptionRecord::default()
        };
        let seen = &receptions(1_000_000, &[reception])[0];
        assert_eq!(seen.gateway_eui, "000000000016c001");
        assert!((seen.rssi_dbm + 113.5).abs() < 1e-4 && (seen.snr_db.unwrap() + 7.2).abs() < 1e-4);
        assert_eq!(seen.received_at_us, 1_001_500);
    }
}
