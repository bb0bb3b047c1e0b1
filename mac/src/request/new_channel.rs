//! `NewChannelReq`: the channels behind the default ones of a dynamic plan (TS001-1.0.4 §5.6). The default channels are
//! read-only, and fixed plans do not know the command.

use super::{Answered, Asked, Room, Situation, is_refused};
use crate::command::{DownlinkCommand, NewChannelAns, NewChannelReq, WireFrequency};
use crate::region::{DataRate, Region};
use crate::session::{ExtraSlots, MacState};

/// The channels that were asked for in one downlink; the answers come in the same order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AskedChannels {
    /// Which places, bit 0 for the first channel behind the default ones.
    pub(crate) places: u8,
    /// By place; zero takes the channel away.
    pub(crate) frequencies: ExtraSlots,
}

pub(super) fn ask(
    situation: &Situation<'_>,
    mac: &MacState,
    asked: &mut Asked,
    room: &mut Room,
) -> Option<Vec<DownlinkCommand>> {
    let region = situation.region;
    if !region.supports_new_channel() {
        return None;
    }
    let dr_max = region.default_channels().first()?.dr_max;
    let frequencies = situation.profile.extra_slots();
    let mut places = 0;
    let mut commands = Vec::new();
    let slots = frequencies.iter().zip(&mac.extra).zip(&mac.refusals.new_channel);
    for ((place, ch_index), ((&wanted, &present), &refused)) in
        (0..).zip(region.first_extra_index()..).zip(slots)
    {
        if wanted == present || is_refused(refused) {
            continue;
        }
        let freq = match wanted.value() {
            0 => Some(WireFrequency::DISABLED),
            _ => WireFrequency::from_hz(wanted, region.freq_unit_hz()),
        };
        let Some(freq) = freq else {
            continue;
        };
        let request = NewChannelReq { ch_index, freq, dr_min: DataRate::new(0), dr_max };
        let command = DownlinkCommand::NewChannelReq(request);
        if !room.take(&[command]) {
            break;
        }
        commands.push(command);
        places |= 1 << place;
    }
    if commands.is_empty() {
        return None;
    }
    asked.new_channels = Some(AskedChannels { places, frequencies });
    Some(commands)
}

/// Takes the answer to the first channel that has none yet.
pub(super) fn answer(mac: &mut MacState, asked: &mut Asked, region: &Region, ans: NewChannelAns) -> Answered {
    let Some(mut channels) = asked.new_channels.take() else {
        return Answered::Unasked;
    };
    // The lowest place first; `take` left something only if a place was open.
    let place = channels.places.trailing_zeros();
    channels.places &= channels.places.wrapping_sub(1);
    if channels.places != 0 {
        asked.new_channels = Some(channels);
    }
    let index = usize::try_from(place).unwrap_or(usize::MAX);
    let (Some(&wanted), Some(slot), Some(refused)) =
        (channels.frequencies.get(index), mac.extra.get_mut(index), mac.refusals.new_channel.get_mut(index))
    else {
        return Answered::Unasked;
    };
    if !ans.accepted() {
        *refused = refused.saturating_add(1);
        return Answered::Refused;
    }
    *refused = 0;
    *slot = wanted;
    if let Ok(offset) = u8::try_from(index) {
        let ch_index = region.first_extra_index().saturating_add(offset);
        // A channel that was defined is on; one that was taken away is off (TS001-1.0.4 §5.6).
        if wanted.value() == 0 {
            mac.channels.remove(ch_index);
        } else {
            mac.channels.insert(ch_index);
        }
    }
    Answered::Accepted
}
