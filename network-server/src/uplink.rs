//! What the gateways say of an uplink, and what the event log is told of it.

use mac::dedup::Closed;
use mac::drop_reason::DropReason;
use mac::session::{Profile, Session};
use mac::units::{Mono, Timestamp};
use mac::uplink::{self, DeviceAnswer, RadioContext, Reply, Step};
use proto::internal as pb;
use proto::internal::record::Kind;
use proto::port::NOT_ACKNOWLEDGED;
use proto::v1::DownlinkState;

use crate::budget::GATEWAY_LEAD_MS;
use crate::drops::{DropLog, refusal_of};
use crate::gateway::GatewayUplink;
use crate::owner::VerifiedCopy;
use crate::records::{self, DownlinkNote};

pub(crate) fn radio_context(
    profile: &Profile,
    session: &Session,
    closed: &Closed<VerifiedCopy>,
    now: Mono,
) -> RadioContext {
    let region = profile.region();
    let copies = &closed.receptions;
    let first = copies.first().map(|copy| &copy.uplink);
    let freq = first.map(|uplink| uplink.freq).unwrap_or_default();
    let dr =
        first.and_then(|uplink| region.data_rate_up(uplink.modulation, profile.revision)).unwrap_or_default();
    let in_time = now.plus_ms(GATEWAY_LEAD_MS) <= heard_at(closed).plus_ms(session.rx2_delay_ms());
    RadioContext {
        freq,
        dr,
        channel: region.uplink_channel(freq, dr, &session.extra_channels(profile)),
        snr_db: copies.iter().filter_map(|copy| copy.uplink.snr_db).max_by(f32::total_cmp),
        gateway_count: copies.len(),
        ended_at_gps_us: copies
            .iter()
            .find_map(|copy| gps_time_us(&copy.uplink))
            .or_else(|| first.map(|uplink| mac::gps::gps_from_unix_us(uplink.received_at.us()))),
        reply: if in_time { Reply::Possible } else { Reply::TooLate },
    }
}

/// When the first copy came from its socket; the owner may have seen it later.
pub(crate) fn heard_at(closed: &Closed<VerifiedCopy>) -> Mono {
    closed.receptions.iter().map(|copy| copy.uplink.received).min().unwrap_or(closed.opened_at)
}

/// The gateway's own GPS time of the end of the frame, when the server's clock finds it plausible: a gateway is not
/// authenticated, and a device would believe it.
fn gps_time_us(copy: &GatewayUplink) -> Option<i64> {
    let claimed_us = i64::try_from(copy.gps_time_ms?).ok()?.checked_mul(1_000)?;
    let here_us = mac::gps::gps_from_unix_us(copy.received_at.us());
    (claimed_us.abs_diff(here_us) <= GPS_TRUST_US).then_some(claimed_us)
}

pub(crate) fn uplink_record(
    uplink: &mac::verify::VerifiedUplink<'_>,
    step: &Step,
    closed: &Closed<VerifiedCopy>,
    radio: &RadioContext,
    session: &Session,
    at: Timestamp,
    id_salt: u32,
) -> pb::Record {
    let frame = uplink.frame();
    let payload =
        step.app_payload.as_ref().and_then(|data| frame.msg.get(data.bytes.clone())).unwrap_or_default();
    let copies = &closed.receptions;
    let first = copies.first().map(|copy| &copy.uplink);
    let coding_rate = first.and_then(|uplink| uplink.coding_rate).unwrap_or_default();
    let airtime = first
        .and_then(|uplink| mac::airtime::airtime_us(uplink.modulation, coding_rate, uplink.phy.len(), true));
    let kind = Kind::Uplink(pb::UplinkRecord {
        session_id: session.id.value(),
        dev_addr: records::address(session.dev_addr),
        fcnt_up: uplink.fcnt().value(),
        f_port: frame.f_port.map(u32::from),
        frm_payload: payload.to_vec(),
        confirmed: frame.confirmed,
        adr: frame.adr,
        receptions: copies.iter().map(|copy| records::reception(&copy.uplink, at, false)).collect(),
        frequency_hz: radio.freq.value(),
        airtime_us: airtime.and_then(|us| u32::try_from(us).ok()).unwrap_or(0),
        modulation: first.map(|uplink| records::modulation(uplink.modulation, Some(radio.dr), coding_rate)),
        id_salt,
    });
    records::record(at, Some(session.dev_eui), kind)
}

/// Events beside the uplink itself.
pub(crate) fn step_records(step: &Step, session: &Session, at: Timestamp, out: &mut Vec<pb::Record>) {
    let dev_eui = Some(session.dev_eui);
    if let Some(status) = step.status {
        let kind = Kind::DeviceStatus(pb::DeviceStatusRecord {
            battery: u32::from(status.battery),
            margin_db: i32::from(status.margin_db),
        });
        out.push(records::record(at, dev_eui, kind));
    }
    if let Some(answer) = step.device_answer {
        let (fcnt, state, reason) = match answer {
            DeviceAnswer::Acknowledged(fcnt) => (fcnt, DownlinkState::DeviceAcknowledged, ""),
            DeviceAnswer::NotAcknowledged(fcnt) => (fcnt, DownlinkState::Failed, NOT_ACKNOWLEDGED),
        };
        let note = DownlinkNote {
            dev_eui: session.dev_eui,
            session_id: session.id,
            item_id: String::new(),
            fcnt_down: Some(fcnt.value()),
            gateway: None,
        };
        out.push(note.record(at, state, reason));
    }
    for note in &step.notes {
        out.push(records::error(at, dev_eui, note.code(), note.to_string()));
    }
}

/// A frame that was taken, but not whole, is counted and told beside the refused ones.
pub(crate) fn count_note(
    drops: &DropLog,
    note: uplink::Note,
    copy: &GatewayUplink,
    session: &Session,
    uplink: &mac::verify::VerifiedUplink<'_>,
) {
    let Some(reason) = DropReason::from_code(note.code()) else { return };
    let mut refusal = refusal_of(copy, reason);
    refusal.dev_eui = Some(session.dev_eui);
    refusal.dev_addr = Some(session.dev_addr);
    refusal.fcnt = Some(uplink.fcnt().value());
    refusal.detail = note.to_string();
    drops.refuse(refusal);
}

/// Microseconds modulo 2^32, never 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the low half is meant")]
pub(crate) fn low_half_of_time(at: Timestamp) -> u32 {
    (at.us() as u32).max(1)
}

/// How far a gateway's GPS time may lie from the server's.
const GPS_TRUST_US: u64 = 5_000_000;

#[cfg(test)]
mod tests {
    use mac::ids::GatewayEui;
    use mac::region::Modulation;
    use mac::units::Hz;

    use super::*;

    fn heard(received_at: Timestamp, gps_time_ms: Option<u64>) -> GatewayUplink {
        GatewayUplink {
            gateway: GatewayEui::new(1),
            phy: [0x40; 12].as_slice().into(),
            freq: Hz::new(868_100_000),
            modulation: Modulation::Lora { sf: 7, bw_hz: 125_000 },
            coding_rate: None,
            rssi_dbm: -80.0,
            snr_db: Some(7.0),
            tmst_us: 0,
            antenna: 0,
            board: None,
            channel: 0,
            gateway_time: None,
            gps_time_ms,
            fine_time_ns: None,
            received: Mono::from_us(0),
            received_at,
        }
    }

    /// MAC-035: a device would believe the time it is told, so a gateway's clock counts only near the server's own.
    #[test]
    fn a_gateway_that_claims_another_year_is_not_believed() {
        let received_at = Timestamp::from_us(1_795_500_000_000_000);
        let here_ms = u64::try_from(mac::gps::gps_from_unix_us(received_at.us()) / 1_000).expect("after 1980");
        let near = here_ms - 150;
        assert_eq!(gps_time_us(&heard(received_at, Some(near))), i64::try_from(near * 1_000).ok());
        for lie_ms in [here_ms + 31_536_000_000, here_ms - 31_536_000_000, 0, u64::MAX] {
            assert_eq!(gps_time_us(&heard(received_at, Some(lie_ms))), None);
        }
        assert_eq!(gps_time_us(&heard(received_at, None)), None);
    }
}
