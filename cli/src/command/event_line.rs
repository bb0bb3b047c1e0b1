//! An event as one line of JSON: the form `loam events tail --output json` writes (docs/cli.md lists the fields).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::v1::{self, event::Kind, modulation};
use serde_json::{Map, Value, json};

use crate::output::{text_or_null, utc_time};
use crate::words::{self, DOWNLINK_STATES, MAC_VERSIONS};

/// The line of an event. `cursor` is where a stream goes on after it.
pub(crate) fn event(event: &v1::Event, cursor: &[u8]) -> String {
    let mut line = Map::new();
    let mut put = |name: &str, value: Value| {
        line.insert(name.to_owned(), value);
    };
    put("id", json!(event.id));
    put("kind", json!(kind_word(event)));
    put("received_at", utc_time(event.received_at_us));
    put("application", text_or_null(&event.application_id));
    put("dev_eui", text_or_null(&event.dev_eui));
    put("device_name", text_or_null(&event.device_name));
    put("tags", json!(event.tags.iter().collect::<BTreeMap<_, _>>()));
    put("cursor", json!(STANDARD.encode(cursor)));
    if let Some(kind) = &event.kind {
        for (name, value) in kind_fields(kind) {
            put(name, value);
        }
    }
    Value::Object(line).to_string()
}

/// The line of a gap: events that are gone because they are older than what is kept.
pub(crate) fn gap(gap: &v1::Gap, cursor: &[u8]) -> String {
    json!({
        "kind": "gap",
        "from": gap.from,
        "to": gap.to,
        "count": gap.count,
        "cursor": STANDARD.encode(cursor),
    })
    .to_string()
}

/// The word for what an event is.
pub(crate) fn kind_word(event: &v1::Event) -> &'static str {
    match &event.kind {
        Some(Kind::Uplink(_)) => "uplink",
        Some(Kind::Receptions(_)) => "receptions",
        Some(Kind::Join(_)) => "join",
        Some(Kind::Downlink(_)) => "downlink",
        Some(Kind::DeviceStatus(_)) => "device-status",
        Some(Kind::Gateway(_)) => "gateway",
        Some(Kind::Error(_)) => "error",
        None => "unknown",
    }
}

fn kind_fields(kind: &Kind) -> Vec<(&'static str, Value)> {
    match kind {
        Kind::Uplink(up) => vec![
            ("session_id", json!(up.session_id.to_string())),
            ("dev_addr", json!(up.dev_addr)),
            ("fcnt_up", json!(up.fcnt_up)),
            ("f_port", json!(up.f_port)),
            ("data", json!(STANDARD.encode(&up.payload))),
            ("decoded", decoded(&up.object_json)),
            ("warnings", json!(up.warnings)),
            ("errors", json!(up.errors)),
            ("confirmed", json!(up.confirmed)),
            ("adr", json!(up.adr)),
            ("receptions", receptions(&up.receptions)),
            ("modulation", up.modulation.as_ref().map_or(Value::Null, modulation_json)),
            ("frequency_hz", json!(up.frequency_hz)),
            ("airtime_us", json!(up.airtime_us)),
            ("raw_reason", text_or_null(&up.raw_reason)),
            (
                "encrypted_data",
                if up.raw_reason.is_empty() {
                    Value::Null
                } else {
                    json!(STANDARD.encode(&up.encrypted_payload))
                },
            ),
        ],
        Kind::Receptions(late) => vec![
            ("session_id", json!(late.session_id.to_string())),
            ("fcnt_up", json!(late.fcnt_up)),
            ("receptions", receptions(&late.receptions)),
        ],
        Kind::Join(join) => vec![
            ("session_id", json!(join.session_id.to_string())),
            ("dev_addr", json!(join.dev_addr)),
            ("join_eui", json!(join.join_eui)),
            ("dev_nonce", json!(join.dev_nonce)),
            ("mac_version", json!(words::word(MAC_VERSIONS, join.mac_version))),
            ("receptions", receptions(&join.receptions)),
        ],
        Kind::Downlink(update) => vec![
            ("downlink_id", json!(update.downlink_id)),
            ("state", json!(words::word(DOWNLINK_STATES, update.state))),
            ("reason", text_or_null(&update.reason)),
            ("fcnt_down", json!(update.fcnt_down)),
            ("gateway_eui", text_or_null(&update.gateway_eui)),
        ],
        Kind::DeviceStatus(status) => {
            vec![("battery", json!(status.battery)), ("margin_db", json!(status.margin_db))]
        }
        Kind::Gateway(gateway) => vec![
            ("gateway_eui", json!(gateway.gateway_eui)),
            ("online", json!(gateway.online)),
            ("detail", text_or_null(&gateway.detail)),
        ],
        Kind::Error(note) => vec![("code", json!(note.code)), ("message", json!(note.message))],
    }
}

/// What the codec made of the payload; null without a codec. Text that is no JSON stays text rather than getting lost.
fn decoded(object_json: &str) -> Value {
    if object_json.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(object_json).unwrap_or_else(|_| Value::String(object_json.to_owned()))
}

fn receptions(receptions: &[v1::Reception]) -> Value {
    receptions
        .iter()
        .map(|r| {
            json!({
                "gateway_eui": r.gateway_eui,
                "rssi_dbm": r.rssi_dbm,
                "snr_db": r.snr_db,
                "tmst_us": r.tmst_us,
                "received_at": utc_time(r.received_at_us),
                "gateway_time": r.gateway_time_us.map_or(Value::Null, utc_time),
                "fine_time_ns": r.fine_time_ns,
                "antenna": r.antenna,
                "channel": r.channel,
                "late": r.late,
            })
        })
        .collect()
}

fn modulation_json(modulation: &v1::Modulation) -> Value {
    let data_rate = modulation.data_rate;
    match &modulation.kind {
        Some(modulation::Kind::Lora(lora)) => json!({
            "kind": "lora",
            "data_rate": data_rate,
            "spreading_factor": lora.spreading_factor,
            "bandwidth_hz": lora.bandwidth_hz,
            "coding_rate": lora.coding_rate,
        }),
        Some(modulation::Kind::Fsk(fsk)) => {
            json!({ "kind": "fsk", "data_rate": data_rate, "bit_rate_bps": fsk.bit_rate_bps })
        }
        Some(modulation::Kind::LrFhss(fhss)) => json!({
            "kind": "lr-fhss",
            "data_rate": data_rate,
            "occupied_bandwidth_hz": fhss.occupied_bandwidth_hz,
            "coding_rate": fhss.coding_rate,
        }),
        None => json!({ "data_rate": data_rate }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_uplink_is_one_line_with_the_fields_an_integrator_looks_for() {
        let uplink = v1::Uplink {
            fcnt_up: 7,
            f_port: Some(2),
            payload: vec![1, 2],
            object_json: "{\n \"moisture\": 31.5\n}".to_owned(),
            session_id: u64::MAX,
            ..v1::Uplink::default()
        };
        let event_message = v1::Event {
            id: "e1".to_owned(),
            dev_eui: "70b3d57ed0000001".to_owned(),
            received_at_us: 1_700_000_000_000_000,
            kind: Some(Kind::Uplink(uplink)),
            ..v1::Event::default()
        };

        let line = event(&event_message, b"c");

        assert!(!line.contains('\n'));
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["id"], "e1");
        assert_eq!(value["kind"], "uplink");
        assert_eq!(value["dev_eui"], "70b3d57ed0000001");
        assert_eq!(value["fcnt_up"], 7);
        assert_eq!(value["f_port"], 2);
        assert_eq!(value["data"], "AQI=");
        assert_eq!(value["decoded"]["moisture"], 31.5);
        // Numbers above 2^53 would be rounded by many readers of JSON.
        assert_eq!(value["session_id"], u64::MAX.to_string());
        assert_eq!(value["encrypted_data"], Value::Null);
    }
}
