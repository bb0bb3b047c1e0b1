//! `LinkADRReq`: data rate, power, repetitions and the channels that are on (TS001-1.0.4 §5.2).
//!
//! One block a downlink, all its requests with the same data rate, power and repetitions. A device that does not let the
//! network choose (ADR bit 0) is told its channels only.

use super::{Answered, Asked, REFUSED_MAX, Room, Situation, is_refused};
use crate::adr::{self, Bounds, Need, Setting};
use crate::command::{DownlinkCommand, LinkAdrAns, link_adr_requests};
use crate::region::{ChannelMask, DataRate, link_adr_block};
use crate::session::MacState;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AskedLinkAdr {
    /// `None`: left as it is.
    pub(crate) dr: Option<DataRate>,
    /// `None`: left as it is.
    pub(crate) tx_power: Option<u8>,
    pub(crate) nb_trans: u8,
    pub(crate) channels: ChannelMask,
}

pub(super) fn ask(
    situation: &Situation<'_>,
    mac: &MacState,
    asked: &mut Asked,
    room: &mut Room,
) -> Option<Vec<DownlinkCommand>> {
    let wanted = need(situation, mac)?;
    let steps = link_adr_block(&wanted.channels, &mac.channels, situation.region, situation.profile.revision);
    let dr = wanted.dr.unwrap_or(DataRate::new(KEEP));
    let tx_power = wanted.tx_power.unwrap_or(KEEP);
    let commands: Vec<DownlinkCommand> =
        link_adr_requests(&steps, dr, tx_power, wanted.nb_trans).map(DownlinkCommand::LinkAdrReq).collect();
    room.take(&commands).then(|| {
        asked.link_adr = Some(wanted);
        commands
    })
}

fn need(situation: &Situation<'_>, mac: &MacState) -> Option<AskedLinkAdr> {
    if refuses_everything(mac) {
        return None;
    }
    let steers = situation.profile.adr && situation.adr;
    let now = Setting { dr: situation.dr, tx_power: mac.tx_power, nb_trans: mac.nb_trans };
    let wanted = if steers { steered(situation, mac, now) } else { now };
    let channels = wanted_channels(situation, mac);
    // A device that asks for a sign of life may have taken its power back; telling it all brings both sides together.
    let restate = steers && situation.adr_ack_req;
    if wanted == now && channels == mac.channels && !restate {
        return None;
    }
    // Up to 1.0.3 there is no value for "as it is", so the present ones are told.
    let keep = !steers && situation.version.keep_index_15();
    // The power agreed on may be of another region, which the profile had before.
    let tx_power = wanted.tx_power.min(region_power_max(situation));
    Some(AskedLinkAdr {
        dr: (!keep).then_some(wanted.dr),
        tx_power: (!keep).then_some(tx_power),
        nb_trans: wanted.nb_trans,
        channels,
    })
}

/// Whether the device goes on refusing what was already reduced to what it has: each further request would be a downlink
/// for nothing.
fn refuses_everything(mac: &MacState) -> bool {
    let refusals = &mac.refusals;
    [refusals.channel_mask, refusals.data_rate, refusals.power]
        .into_iter()
        .any(|count| count >= 3 * REFUSED_MAX)
}

fn steered(situation: &Situation<'_>, mac: &MacState, now: Setting) -> Setting {
    let revision = situation.profile.revision;
    let required_snr_db =
        situation.region.modulation_up(now.dr, revision).and_then(|modulation| modulation.required_snr_db());
    let Some(required_snr_db) = required_snr_db else {
        return now;
    };
    let region_dr_max = situation.region.adr_max_dr(revision);
    let region_power_max = region_power_max(situation);
    let bounds = Bounds {
        dr_max: mac.refusals.dr_max.map_or(region_dr_max, |dr| dr.min(region_dr_max)),
        tx_power_max: mac.refusals.tx_power_max.map_or(region_power_max, |power| power.min(region_power_max)),
    };
    let need = if situation.adr_ack_req { Need::Pressing } else { Need::Usual };
    adr::decide(situation.history, now, bounds, required_snr_db, need)
}

fn region_power_max(situation: &Situation<'_>) -> u8 {
    situation.region.tx_power_steps(situation.profile.revision).saturating_sub(1).min(TX_POWER_MAX)
}

/// The sub-bands of the profile in a fixed plan; every channel the device knows in a dynamic one.
fn wanted_channels(situation: &Situation<'_>, mac: &MacState) -> ChannelMask {
    if is_refused(mac.refusals.channel_mask) {
        mac.channels
    } else if situation.region.is_fixed_plan() {
        situation.profile.channel_target()
    } else {
        mac.defined_channels(situation.region)
    }
}

/// Takes the answers to a block, all bits of all of them together: up to 1.0.4 there is one for each request.
pub(super) fn answer(mac: &mut MacState, asked: &mut Asked, ans: LinkAdrAns) -> Answered {
    let Some(wanted) = asked.link_adr.take() else {
        return Answered::Unasked;
    };
    if !ans.accepted() {
        refuse(mac, wanted, ans);
        return Answered::Refused;
    }
    // A mask that only repeats what the device has says nothing about those it refused.
    let kept = if mac.channels == wanted.channels { REFUSED_MAX } else { 0 };
    mac.refusals.channel_mask = mac.refusals.channel_mask.min(kept);
    mac.channels = wanted.channels;
    mac.dr = wanted.dr.or(mac.dr);
    mac.tx_power = wanted.tx_power.unwrap_or(mac.tx_power);
    mac.nb_trans = wanted.nb_trans;
    mac.refusals.data_rate = 0;
    mac.refusals.power = 0;
    Answered::Accepted
}

/// Learns from a refusal, so that the next request is another one: a slower rate, half the step of power.
fn refuse(mac: &mut MacState, wanted: AskedLinkAdr, ans: LinkAdrAns) {
    let refusals = &mut mac.refusals;
    if !ans.channel_mask_ack {
        refusals.channel_mask = refusals.channel_mask.saturating_add(1);
    }
    // With a mask that was not understood there is no channel for any data rate either.
    if let Some(dr) = wanted.dr.filter(|_| !ans.data_rate_ack && ans.channel_mask_ack) {
        refusals.data_rate = refusals.data_rate.saturating_add(1);
        refusals.dr_max =
            Some(DataRate::new(if is_refused(refusals.data_rate) { 0 } else { dr.value().saturating_sub(1) }));
    }
    if let Some(power) = wanted.tx_power.filter(|_| !ans.power_ack) {
        refusals.power = refusals.power.saturating_add(1);
        let halfway = mac.tx_power.midpoint(power.max(mac.tx_power));
        refusals.tx_power_max = Some(if is_refused(refusals.power) { mac.tx_power } else { halfway });
    }
}

/// "Leave as it is", from 1.0.4 on.
const KEEP: u8 = 15;
/// 15 has another meaning from 1.0.4 on.
const TX_POWER_MAX: u8 = 14;
