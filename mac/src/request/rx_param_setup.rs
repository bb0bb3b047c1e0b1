//! `RXParamSetupReq`: data rate of RX1, data rate and frequency of RX2 (TS001-1.0.4 §5.4). The answer is repeated until a
//! downlink arrives.

use super::{Answered, Asked, Room, Situation, is_refused};
use crate::command::{DownlinkCommand, RxParamSetupAns, RxParamSetupReq, WireFrequency};
use crate::region::DataRate;
use crate::session::MacState;
use crate::units::Hz;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AskedRxParam {
    pub(crate) rx1_dr_offset: u8,
    pub(crate) rx2_dr: DataRate,
    pub(crate) rx2_freq: Hz,
}

pub(super) fn ask(
    situation: &Situation<'_>,
    mac: &MacState,
    asked: &mut Asked,
    room: &mut Room,
) -> Option<Vec<DownlinkCommand>> {
    let profile = situation.profile;
    let wanted = AskedRxParam {
        rx1_dr_offset: profile.rx1_dr_offset,
        rx2_dr: profile.rx2_dr(),
        rx2_freq: profile.rx2_freq(),
    };
    let present = AskedRxParam { rx1_dr_offset: mac.rx1_dr_offset, rx2_dr: mac.rx2_dr, rx2_freq: mac.rx2_freq };
    if wanted == present || is_refused(mac.refusals.rx_param) {
        return None;
    }
    let rx2_freq = WireFrequency::from_hz(wanted.rx2_freq, situation.region.freq_unit_hz())?;
    let commands = vec![DownlinkCommand::RxParamSetupReq(RxParamSetupReq {
        rx1_dr_offset: wanted.rx1_dr_offset,
        rx2_data_rate: wanted.rx2_dr,
        rx2_freq,
    })];
    room.take(&commands).then(|| {
        asked.rx_param = Some(wanted);
        commands
    })
}

pub(super) fn answer(mac: &mut MacState, asked: &mut Asked, ans: RxParamSetupAns) -> Answered {
    let Some(wanted) = asked.rx_param.take() else {
        return Answered::Unasked;
    };
    if !ans.accepted() {
        mac.refusals.rx_param = mac.refusals.rx_param.saturating_add(1);
        return Answered::Refused;
    }
    mac.rx1_dr_offset = wanted.rx1_dr_offset;
    mac.rx2_dr = wanted.rx2_dr;
    mac.rx2_freq = wanted.rx2_freq;
    mac.refusals.rx_param = 0;
    Answered::Accepted
}
