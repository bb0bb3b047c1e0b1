//! `DevStatusReq`: battery and reception, by interval (TS001-1.0.4 §5.5).

use super::{Answered, Asked, Room, Situation};
use crate::command::DownlinkCommand;
use crate::session::{DeviceStatus, MacState, seconds};
use crate::units::Timestamp;

pub(super) fn ask(
    situation: &Situation<'_>,
    mac: &MacState,
    asked: &mut Asked,
    room: &mut Room,
) -> Option<Vec<DownlinkCommand>> {
    let interval_s = situation.profile.device_status_interval_s;
    // Without an age the clock was set back: nobody knows how old the status is.
    let age_s = seconds(situation.now).checked_sub(mac.status_at_s);
    let is_young = mac.status_at_s != 0 && age_s.is_some_and(|age_s| age_s < interval_s);
    if interval_s == 0 || is_young {
        return None;
    }
    let commands = vec![DownlinkCommand::DevStatusReq];
    room.take(&commands).then(|| {
        asked.dev_status = true;
        commands
    })
}

pub(super) fn answer(mac: &mut MacState, asked: &mut Asked, status: DeviceStatus, now: Timestamp) -> Answered {
    mac.status = Some(status);
    mac.status_at_s = seconds(now);
    if std::mem::take(&mut asked.dev_status) { Answered::Accepted } else { Answered::Unasked }
}

/// Asks no more until the next time is due.
pub(super) fn put_off(mac: &mut MacState, now: Timestamp) {
    mac.status_at_s = seconds(now);
    let mut asked = mac.asked.as_deref().copied().unwrap_or_default();
    asked.dev_status = false;
    super::set_asked(mac, asked);
}
