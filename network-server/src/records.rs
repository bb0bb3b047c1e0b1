//! From what was decided to what the journal keeps.

use mac::ids::{DevAddr, DevEui, FCntUp, GatewayEui, SessionId};
use mac::region::{CodingRate, DataRate, Modulation};
use mac::units::Timestamp;
use proto::internal as pb;
use proto::internal::record::Kind;
use proto::v1::DownlinkState;

use crate::gateway::GatewayUplink;

/// A record of the event log.
pub(crate) fn record(at: Timestamp, dev_eui: Option<DevEui>, kind: Kind) -> pb::Record {
    pb::Record { at_us: at.us(), dev_eui: dev_eui.map_or(0, DevEui::value), kind: Some(kind) }
}

/// One gateway's copy, seen from the record's time.
pub(crate) fn reception(copy: &GatewayUplink, at: Timestamp, late: bool) -> pb::ReceptionRecord {
    pb::ReceptionRecord {
        gateway_eui: copy.gateway.value(),
        rssi_ddbm: tenths(copy.rssi_dbm),
        snr_ddb: copy.snr_db.map(tenths),
        tmst_us: copy.tmst_us,
        received_offset_us: copy.received_at.us().saturating_sub(at.us()),
        gateway_time_us: copy.gateway_time.map(Timestamp::us),
        fine_time_ns: copy.fine_time_ns,
        antenna: u32::from(copy.antenna),
        channel: u32::from(copy.channel),
        late,
    }
}

/// The modulation of a frame and its index in the region.
pub(crate) fn modulation(
    modulation: Modulation,
    data_rate: Option<DataRate>,
    coding_rate: CodingRate,
) -> pb::ModulationRecord {
    let mut record = pb::ModulationRecord {
        data_rate_plus_1: data_rate.map_or(0, |dr| u32::from(dr.value()) + 1),
        coding_rate: coding_rate_text(modulation, coding_rate),
        ..pb::ModulationRecord::default()
    };
    match modulation {
        Modulation::Lora { sf, bw_hz } => {
            record.spreading_factor = u32::from(sf);
            record.bandwidth_hz = bw_hz;
        }
        Modulation::Fsk { bit_rate_bps } => record.bit_rate_bps = bit_rate_bps,
        Modulation::LrFhss { ocw_hz, .. } => record.bandwidth_hz = ocw_hz,
    }
    record
}

/// A modulation in the words of the packet forwarder's protocol.
pub(crate) fn data_rate_text(modulation: Modulation) -> String {
    match modulation {
        Modulation::Lora { sf, bw_hz } => format!("SF{sf}BW{}", bw_hz / 1_000),
        Modulation::Fsk { bit_rate_bps } => bit_rate_bps.to_string(),
        Modulation::LrFhss { ocw_hz, .. } => format!("M0CW{}", ocw_hz / 1_000),
    }
}

/// Copies that came after the uplink's own record.
pub(crate) fn late_receptions(
    at: Timestamp,
    dev_eui: DevEui,
    session_id: SessionId,
    fcnt: FCntUp,
    copies: &[GatewayUplink],
) -> pb::Record {
    let receptions = copies.iter().map(|c| reception(c, at, true)).collect();
    record(
        at,
        Some(dev_eui),
        Kind::Receptions(pb::ReceptionsRecord {
            session_id: session_id.value(),
            fcnt_up: fcnt.value(),
            receptions,
        }),
    )
}

/// A step in the life of a downlink.
#[derive(Clone, Debug)]
pub(crate) struct DownlinkNote {
    pub(crate) dev_eui: DevEui,
    pub(crate) session_id: SessionId,
    /// Empty: a frame of the network's own.
    pub(crate) item_id: String,
    pub(crate) fcnt_down: Option<u32>,
    pub(crate) gateway: Option<GatewayEui>,
}

impl DownlinkNote {
    pub(crate) fn record(&self, at: Timestamp, state: DownlinkState, reason: &str) -> pb::Record {
        record(
            at,
            Some(self.dev_eui),
            Kind::Downlink(pb::DownlinkRecord {
                item_id: self.item_id.clone(),
                state: i32::from(state).unsigned_abs(),
                reason: reason.to_owned(),
                fcnt_down: self.fcnt_down,
                gateway_eui: self.gateway.map_or(0, GatewayEui::value),
                session_id: self.session_id.value(),
            }),
        )
    }
}

/// Something a person should see on the stream.
pub(crate) fn error(at: Timestamp, dev_eui: Option<DevEui>, code: &str, message: String) -> pb::Record {
    record(at, dev_eui, Kind::Error(pb::ErrorRecord { code: code.to_owned(), message, item_id: String::new() }))
}

/// A gateway came or went.
pub(crate) fn gateway(at: Timestamp, gateway: GatewayEui, online: bool, detail: &str) -> pb::Record {
    let kind =
        Kind::Gateway(pb::GatewayRecord { gateway_eui: gateway.value(), online, detail: detail.to_owned() });
    record(at, None, kind)
}

/// The address as the log keeps it.
pub(crate) fn address(dev_addr: DevAddr) -> u32 {
    dev_addr.value()
}

/// The coding rate as forwarders write it; FSK has none.
fn coding_rate_text(modulation: Modulation, coding_rate: CodingRate) -> String {
    match modulation {
        Modulation::Lora { .. } => coding_rate.to_string(),
        Modulation::Fsk { .. } => String::new(),
        Modulation::LrFhss { cr, .. } => cr.to_string(),
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the cast saturates; radio values are far inside")]
fn tenths(value: f32) -> i32 {
    (value * 10.0).round() as i32
}
