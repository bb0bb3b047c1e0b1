//! `TXParamSetupReq`: dwell limits and the largest power, where the region can tell them (TS001-1.0.4 §5.8). Until the
//! device has answered, the limits it booted with are kept.

use super::{Answered, Asked, Room, Situation};
use crate::command::{DownlinkCommand, TxParamSetupReq};
use crate::session::MacState;
use crate::version::MacVersion;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AskedTxParam {
    pub(crate) uplink_dwell: bool,
    pub(crate) downlink_dwell: bool,
    pub(crate) eirp_index: u8,
}

pub(super) fn ask(
    situation: &Situation<'_>,
    mac: &MacState,
    asked: &mut Asked,
    room: &mut Room,
) -> Option<Vec<DownlinkCommand>> {
    let Situation { profile, region, version, .. } = *situation;
    let knows = version >= MacVersion::V1_0_2 && region.supports_tx_param_setup(profile.revision);
    if !knows {
        return None;
    }
    let (uplink_dwell, downlink_dwell) = profile.dwell();
    let request = TxParamSetupReq::new(downlink_dwell, uplink_dwell, eirp_dbm(situation));
    let eirp_differs = match (profile.max_eirp_dbm, mac.eirp_index) {
        (None, None) => false,
        (Some(_), None) => true,
        (_, Some(index)) => index != request.max_eirp_index,
    };
    if (mac.uplink_dwell, mac.downlink_dwell) == (uplink_dwell, downlink_dwell) && !eirp_differs {
        return None;
    }
    let commands = vec![DownlinkCommand::TxParamSetupReq(request)];
    room.take(&commands).then(|| {
        asked.tx_param =
            Some(AskedTxParam { uplink_dwell, downlink_dwell, eirp_index: request.max_eirp_index });
        commands
    })
}

pub(super) fn answer(mac: &mut MacState, asked: &mut Asked) -> Answered {
    let Some(wanted) = asked.tx_param.take() else {
        return Answered::Unasked;
    };
    mac.uplink_dwell = wanted.uplink_dwell;
    mac.downlink_dwell = wanted.downlink_dwell;
    mac.eirp_index = Some(wanted.eirp_index);
    Answered::Accepted
}

/// The profile's limit, else the region's, never above the region's.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "regions allow 0 to 40 dBm; the cast saturates"
)]
fn eirp_dbm(situation: &Situation<'_>) -> u8 {
    let region_dbm = situation.region.max_eirp_dbm().value() as u8;
    situation.profile.max_eirp_dbm.map_or(region_dbm, |eirp_dbm| eirp_dbm.min(region_dbm))
}
