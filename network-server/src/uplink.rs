//! What the gateways say of an uplink, and what the event log is told of it.

use std::time::Duration;

use mac::dedup::Closed;
use mac::drop_reason::DropReason;
use mac::phy::{Frame, parse_uplink};
use mac::session::{Profile, Session};
use mac::units::{Mono, Timestamp};
use mac::uplink::{self, DeviceAnswer, RadioContext, Reply, Step};
use proto::internal as pb;
use proto::internal::record::Kind;
use proto::port::NOT_ACKNOWLEDGED;
use proto::v1::DownlinkState;

use crate::budget::{GATEWAY_LEAD_MS, KEPT_MS};
use crate::drops::{DropLog, refusal_of};
use crate::gateway::{GatewayUplink, Gateways};
use crate::owner::VerifiedCopy;
use crate::records::{self, DownlinkNote};

pub(crate) fn radio_context(
    profile: &Profile,
    session: &Session,
    closed: &Closed<VerifiedCopy>,
    gateways: &Gateways,
    now: Mono,
) -> RadioContext {
    let region = profile.region();
    let copies = &closed.receptions;
    let first = copies.first().map(|copy| &copy.uplink);
    let freq = first.map(|uplink| uplink.freq).unwrap_or_default();
    let dr =
        first.and_then(|uplink| region.data_rate_up(uplink.modulation, profile.revision)).unwrap_or_default();
    let reaches_rx2 = now.plus_ms(GATEWAY_LEAD_MS) <= heard_at(closed).plus_ms(session.rx2_delay_ms());
    let in_time = reaches_rx2 && !copies.iter().all(|copy| was_kept(&copy.uplink));
    RadioContext {
        freq,
        dr,
        channel: region.uplink_channel(freq, dr, &session.extra_channels(profile)),
        snr_db: copies.iter().filter_map(|copy| copy.uplink.snr_db).max_by(f32::total_cmp),
        gateway_count: copies.len(),
        ended_at_gps_us: copies
            .iter()
            .find_map(|copy| gps_time_us(&copy.uplink))
            .or_else(|| first.map(|uplink| arrival_gps_us(uplink, round_trip_ms(uplink, gateways)))),
        reply: if in_time { Reply::Possible } else { Reply::TooLate },
    }
}

/// When the first copy came from its socket; the owner may have seen it later.
pub(crate) fn heard_at(closed: &Closed<VerifiedCopy>) -> Mono {
    closed.receptions.iter().map(|copy| copy.uplink.received).min().unwrap_or(closed.opened_at)
}

/// Whether the gateway says that it kept the frame until its device had stopped listening. A clock that is wrong by more than a
/// day says nothing.
pub(crate) fn was_kept(copy: &GatewayUplink) -> bool {
    let by_gps =
        || Some(mac::gps::unix_from_gps_us(i64::try_from(copy.gps_time_ms?).ok()?.checked_mul(1_000)?));
    let heard_us = copy.gateway_time.map(Timestamp::us).or_else(by_gps);
    let kept_us = heard_us.map_or(0, |heard_us| copy.received_at.us().saturating_sub(heard_us));
    u64::try_from(kept_us).is_ok_and(|kept_us| (KEPT_MS * 1_000..DAY_US).contains(&kept_us))
}

/// The GPS time at which a frame came from its gateway, less the way here: half of what a downlink and its answer take.
fn arrival_gps_us(copy: &GatewayUplink, round_trip_ms: Option<f32>) -> i64 {
    let way_here = Duration::try_from_secs_f32(round_trip_ms.unwrap_or(0.0) / 2_000.0).unwrap_or_default();
    let way_here_us = i64::try_from(way_here.as_micros()).unwrap_or(0);
    mac::gps::gps_from_unix_us(copy.received_at.us().saturating_sub(way_here_us))
}

/// The round trip to the gateway of a frame that may ask for the time; others are not worth the look.
fn round_trip_ms(copy: &GatewayUplink, gateways: &Gateways) -> Option<f32> {
    let Ok(Frame::DataUp(frame)) = parse_uplink(&copy.phy) else { return None };
    let has_commands = !frame.fopts.is_empty() || frame.f_port == Some(0);
    has_commands.then(|| gateways.link(copy.gateway)?.round_trip_ms).flatten()
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
const DAY_US: u64 = 86_400_000_000;

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

    /// MAC-033, MAC-035: without a gateway's GPS the way to the server is taken off, as far as it is known.
    #[test]
    fn the_way_of_a_frame_to_the_server_is_no_part_of_its_time() {
        let received_at = Timestamp::from_us(1_795_500_000_000_000);
        let here_us = mac::gps::gps_from_unix_us(received_at.us());
        for (round_trip_ms, way_here_us) in
            [(None, 0), (Some(0.0), 0), (Some(800.0), 400_000), (Some(f32::NAN), 0), (Some(-1.0), 0)]
        {
            let told = arrival_gps_us(&heard(received_at, None), round_trip_ms);
            assert_eq!(here_us - told, way_here_us, "{round_trip_ms:?}");
        }
    }

    /// RXWIN-012.
    #[test]
    fn a_frame_was_kept_when_its_gateway_says_so_and_its_clock_can_be_believed() {
        let received_at = Timestamp::from_us(1_795_500_000_000_000);
        let kept = |ms: i64| {
            let heard_at = Timestamp::from_us(received_at.us() - ms * 1_000);
            let by_clock = GatewayUplink { gateway_time: Some(heard_at), ..heard(received_at, None) };
            let gps_ms = u64::try_from(mac::gps::gps_from_unix_us(heard_at.us()) / 1_000).expect("after 1980");
            let answers = [was_kept(&by_clock), was_kept(&heard(received_at, Some(gps_ms)))];
            assert_eq!(answers[0], answers[1], "{ms} ms");
            answers[0]
        };
        assert!(kept(3_600_000) && kept(30_000));
        assert!(!kept(29_000) && !kept(0) && !kept(-3_600_000) && !kept(90_000_000));
        assert!(!was_kept(&heard(received_at, None)) && !was_kept(&heard(received_at, Some(u64::MAX))));
    }
}
