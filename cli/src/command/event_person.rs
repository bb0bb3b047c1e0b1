//! An event as a person reads it running down a terminal.

use proto::v1::{self, event::Kind, modulation};

use super::device::battery_words;
use super::event_line::kind_word;
use crate::output::{local_time, printable};
use crate::words::{self, DOWNLINK_STATES, MAC_VERSIONS};

/// One line: when, what, who, and what it says.
pub(super) fn event(event: &v1::Event) -> String {
    let who = match (event.device_name.as_str(), event.dev_eui.as_str()) {
        ("", eui) => eui.to_owned(),
        (name, eui) if name == eui => name.to_owned(),
        (name, eui) => format!("{name} ({eui})"),
    };
    let said = event.kind.as_ref().map(kind_words).unwrap_or_default();
    let line = [local_time(event.received_at_us), format!("{:<10}", kind_word(event)), who, said]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("  ");
    printable(&line).replace('\n', " ")
}

/// The line of a gap.
pub(super) fn gap(gap: &v1::Gap) -> String {
    format!("{} events are gone: they are older than what the server keeps (store.retention_days)", gap.count)
}

fn kind_words(kind: &Kind) -> String {
    match kind {
        Kind::Uplink(up) => {
            let said = match (up.raw_reason.as_str(), up.object_json.as_str()) {
                ("", "") if up.payload.is_empty() => "no payload".to_owned(),
                ("", "") => format!("0x{}", hex::encode(&up.payload)),
                ("", object) => object.to_owned(),
                (reason, _) => format!("not decrypted: {reason}"),
            };
            let port = up.f_port.map_or_else(String::new, |port| format!(" port {port}"));
            let mut line = format!("#{}{port}  {said}  [{}]", up.fcnt_up, radio(up));
            for error in &up.errors {
                line.push_str(&format!("  codec: {error}"));
            }
            line
        }
        Kind::Receptions(late) => format!("#{} also heard by {}", late.fcnt_up, heard_by(&late.receptions)),
        Kind::Join(join) => format!(
            "joined as {}, LoRaWAN {}, heard by {}",
            join.dev_addr,
            words::word(MAC_VERSIONS, join.mac_version),
            heard_by(&join.receptions)
        ),
        Kind::Downlink(update) => {
            let counter = update.fcnt_down.map_or_else(String::new, |fcnt| format!(" #{fcnt}"));
            let reason = if update.reason.is_empty() { String::new() } else { format!(": {}", update.reason) };
            let state = words::word(DOWNLINK_STATES, update.state);
            format!("{}{counter} {state}{reason}", update.downlink_id)
        }
        Kind::DeviceStatus(status) => {
            format!("battery {}, link margin {} dB", battery_words(status.battery), status.margin_db)
        }
        Kind::Gateway(gateway) => {
            let state = if gateway.online { "online" } else { "offline" };
            format!("{} is {state} {}", gateway.gateway_eui, gateway.detail).trim_end().to_owned()
        }
        Kind::Error(note) => format!("{}: {}", note.code, note.message),
    }
}

fn radio(up: &v1::Uplink) -> String {
    let rate = match up.modulation.as_ref().and_then(|m| m.kind.as_ref()) {
        Some(modulation::Kind::Lora(lora)) => {
            format!("SF{}BW{} ", lora.spreading_factor, lora.bandwidth_hz / 1_000)
        }
        Some(modulation::Kind::Fsk(_)) => "FSK ".to_owned(),
        Some(modulation::Kind::LrFhss(_)) => "LR-FHSS ".to_owned(),
        None => String::new(),
    };
    let freq_mhz = f64::from(up.frequency_hz) / 1e6;
    format!("{rate}{freq_mhz:.1} MHz, {}", heard_by(&up.receptions))
}

fn heard_by(receptions: &[v1::Reception]) -> String {
    let best = receptions.iter().max_by(|a, b| a.rssi_dbm.total_cmp(&b.rssi_dbm));
    let count = match receptions.len() {
        1 => "1 gateway".to_owned(),
        count => format!("{count} gateways"),
    };
    best.map_or_else(|| count.clone(), |best| format!("{count}, {:.0} dBm", best.rssi_dbm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_a_hostile_device_stays_one_harmless_line() {
        let uplink = v1::Uplink {
            object_json: "{\"text\":\"\u{1b}[2J\nrm\"}".to_owned(),
            receptions: vec![v1::Reception { rssi_dbm: -97.4, ..v1::Reception::default() }],
            frequency_hz: 868_100_000,
            fcnt_up: 3,
            f_port: Some(2),
            ..v1::Uplink::default()
        };
        let line = event(&v1::Event {
            device_name: "soil-1".to_owned(),
            dev_eui: "70b3d57ed0000001".to_owned(),
            kind: Some(Kind::Uplink(uplink)),
            ..v1::Event::default()
        });

        assert!(line.contains("soil-1 (70b3d57ed0000001)  #3 port 2"), "{line}");
        assert!(line.contains("868.1 MHz, 1 gateway, -97 dBm"), "{line}");
        assert!(!line.contains(char::is_control), "{line}");
    }
}
