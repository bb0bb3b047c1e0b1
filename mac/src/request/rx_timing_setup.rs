//! `RXTimingSetupReq`: the receive delay (TS001-1.0.4 §5.7). The answer says no more than that it was understood, and is
//! repeated until a downlink arrives.

use super::{Answered, Asked, Room, Situation};
use crate::command::{DownlinkCommand, RxTimingSetupReq};
use crate::session::MacState;

pub(super) fn ask(
    situation: &Situation<'_>,
    mac: &MacState,
    asked: &mut Asked,
    room: &mut Room,
) -> Option<Vec<DownlinkCommand>> {
    let wanted_s = situation.profile.rx_delay_s.clamp(1, 15);
    if mac.rx1_delay_s == wanted_s {
        return None;
    }
    let commands = vec![DownlinkCommand::RxTimingSetupReq(RxTimingSetupReq { del: wanted_s })];
    room.take(&commands).then(|| {
        asked.rx_timing = Some(wanted_s);
        commands
    })
}

pub(super) fn answer(mac: &mut MacState, asked: &mut Asked) -> Answered {
    let Some(delay_s) = asked.rx_timing.take() else {
        return Answered::Unasked;
    };
    mac.rx1_delay_s = delay_s;
    Answered::Accepted
}
