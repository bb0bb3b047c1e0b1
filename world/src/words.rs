//! The words of the story.

use proto::internal::Record;
use proto::internal::record::Kind;
use proto::v1::DownlinkState;

/// A record of the log as a sentence.
pub(crate) fn record(seq: u64, record: &Record) -> String {
    let device = record.dev_eui & 0xffff;
    match &record.kind {
        Some(Kind::Uplink(uplink)) => format!(
            "committed {seq}: device {device} FCntUp {} heard by {} gateways",
            uplink.fcnt_up,
            uplink.receptions.len()
        ),
        Some(Kind::Receptions(more)) => {
            format!("committed {seq}: device {device} FCntUp {} heard later too", more.fcnt_up)
        }
        Some(Kind::Join(join)) => {
            format!("committed {seq}: device {device} joins, DevNonce {}", join.dev_nonce)
        }
        Some(Kind::Downlink(downlink)) => {
            let state =
                i32::try_from(downlink.state).ok().and_then(|state| DownlinkState::try_from(state).ok());
            format!(
                "committed {seq}: device {device} item {} {state:?} {} FCntDown {:?}",
                downlink.item_id, downlink.reason, downlink.fcnt_down
            )
        }
        Some(Kind::DeviceStatus(_)) => format!("committed {seq}: device {device} tells its battery"),
        Some(Kind::Gateway(gateway)) => format!(
            "committed {seq}: gateway {:x} {} {}",
            gateway.gateway_eui & 0xff,
            if gateway.online { "online" } else { "offline" },
            gateway.detail
        ),
        Some(Kind::Error(error)) => format!("committed {seq}: {} {}", error.code, error.message),
        None => format!("committed {seq}: nothing"),
    }
}
