//! One activation of one device, as the network keeps it.
//!
//! A [`Session`] is small, because a million of them live in memory. What must survive a restart is its keys, its three
//! counters and what [`Session::pack`] writes; the rest is learned again from the traffic.

mod pack;
mod profile;

pub use pack::StateError;
pub use profile::{EXTRA_CHANNELS_MAX, JoinSettings, Profile, ProfileError, RX_DELAY_S_DEFAULT};
pub(crate) use profile::{ExtraSlots, Fnv, extra_channels};

use crate::adr::AdrHistory;
use crate::dedup::Counter;
use crate::drop_reason::DropReason;
use crate::ids::{DevAddr, DevEui, FCntDown, FCntUp, SessionId};
use crate::join_frame::DlSettings;
use crate::keys::NetworkKeys;
use crate::region::{CfList, Channel, ChannelMask, DataRate, RECEIVE_DELAY1_S, RX2_AFTER_RX1_S, Region};
use crate::request::{Asked, Kind, Refusals};
use crate::units::{Hz, Timestamp};
use crate::uplink::contains_rekey_ind;
use crate::verify::VerifiedUplink;
use crate::version::MacVersion;

/// How a session came to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Activation {
    /// By personalisation: device and network were given the same session.
    Abp,
    /// Over the air.
    Otaa,
}

/// Which class a 1.1 device said it is in (TS001-1.1 §18).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DeviceClass {
    /// Listens after its uplinks only.
    #[default]
    A,
    /// Listens always.
    C,
}

/// What a device told about itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceStatus {
    /// 0: external power; 1 to 254: level; 255: the device cannot tell.
    pub battery: u8,
    /// Signal-to-noise ratio of the last downlink in dB, -32 to 31.
    pub margin_db: i8,
}

/// One activation of one device.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its number.
    pub id: SessionId,
    /// The device.
    pub dev_eui: DevEui,
    /// Its address; many sessions may share one.
    pub dev_addr: DevAddr,
    /// How it came to be.
    pub activation: Activation,
    /// The version both sides speak.
    pub version: MacVersion,
    /// The network's session keys.
    pub keys: NetworkKeys,
    /// Last uplink counter taken.
    pub fcnt_up: Option<FCntUp>,
    /// Next FCntDown (1.1: NFCntDown). `u32::MAX` is never used: the counter is exhausted there.
    pub n_fcnt_down: u32,
    /// Next AFCntDown of a 1.1 session.
    pub a_fcnt_down: u32,
    /// What both sides have agreed on. Durable.
    pub mac: MacState,
    /// Signal and losses of the last uplinks. In memory only.
    pub adr: AdrHistory,
    /// Data rate of the last uplink. In memory only.
    pub last_dr: Option<DataRate>,
    /// When the last uplink was applied. In memory only.
    pub last_seen: Option<Timestamp>,
    pub(crate) recent: Recent,
}

/// What is known of the last uplink and the last downlink. In memory only.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Recent {
    /// Content of the last uplink; 0: not known.
    pub(crate) content: u64,
    /// Content of the uplinks before it, cut to 32 bits; 0: none. For devices that may start their counter again, whose
    /// late copies would pass for a start.
    pub(crate) older: [u32; OLDER],
    /// How often the last uplink was sent.
    pub(crate) transmissions: u8,
    /// The excess of repetitions was told.
    pub(crate) excess_told: bool,
    /// The kinds of requests that went out with the last downlink, by [`Kind::bit`].
    pub(crate) sent_kinds: u8,
    /// The counter was reset, and no step has told so yet.
    pub(crate) reset_untold: bool,
    /// The confirmed downlink before the last one, should that turn out not to have left.
    pub(crate) confirmed_before: Option<FCntDown>,
    /// Requests of each kind without an answer, in a row.
    pub(crate) silent: [u8; Kind::COUNT],
}

/// What network and device have agreed on, what the network has asked, and what the device refused. Durable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MacState {
    /// Seconds from the end of an uplink to RX1, 1 to 15; RX2 is a second later.
    pub rx1_delay_s: u8,
    /// Offset between the data rates of uplink and RX1.
    pub rx1_dr_offset: u8,
    /// Data rate of RX2.
    pub rx2_dr: DataRate,
    /// Frequency of RX2.
    pub rx2_freq: Hz,
    /// Data rate the device was sent to and has agreed to; `None`: its own choice.
    pub dr: Option<DataRate>,
    /// Index of the device's transmit power.
    pub tx_power: u8,
    /// Transmissions of each unconfirmed uplink (from 1.0.4 on: of each uplink), 1 to 15.
    pub nb_trans: u8,
    /// Uplink channels that are on.
    pub channels: ChannelMask,
    /// Channels the device has beside the default ones of a dynamic plan.
    pub(crate) extra: ExtraSlots,
    /// Whether the device keeps the uplink dwell limit of 400 ms.
    pub uplink_dwell: bool,
    /// Whether downlinks keep the dwell limit of 400 ms.
    pub downlink_dwell: bool,
    /// Index of the largest radiated power that was told; `None`: as the device booted.
    pub(crate) eirp_index: Option<u8>,
    /// The class the device said it is in.
    pub class: DeviceClass,
    /// Offered by a Join-Accept; no uplink has proved yet that the device has it (1.1: none with RekeyInd).
    pub pending: bool,
    /// The last confirmed downlink that went out; a 1.1 device names it in the MIC of its ACK.
    pub(crate) confirmed_down: Option<FCntDown>,
    /// Whether the device still owes the answer to it.
    pub(crate) confirmed_open: bool,
    /// The last status the device told.
    pub status: Option<DeviceStatus>,
    /// When it told it, or when asking for it was put off, seconds since the Unix epoch.
    pub(crate) status_at_s: u32,
    /// When the session began, seconds since the Unix epoch.
    pub started_at_s: u32,
    /// The profile that refusals belong to.
    pub(crate) profile_tag: u16,
    /// What the device refused.
    pub(crate) refusals: Refusals,
    /// What was asked and not answered yet.
    pub(crate) asked: Option<Box<Asked>>,
}

/// What a new session over the air begins with.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "fields are named after what they hold")]
pub struct OtaaParams {
    pub id: SessionId,
    pub dev_eui: DevEui,
    pub dev_addr: DevAddr,
    /// The version the join negotiated.
    pub version: MacVersion,
    pub keys: NetworkKeys,
    /// What the Join-Accept says, byte by byte: a repeated answer may say something else than the profile does by then.
    pub dl_settings: DlSettings,
    pub rx_delay_s: u8,
    pub cf_list: Option<[u8; 16]>,
}

/// What a personalised session begins with.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "fields are named after what they hold")]
pub struct AbpParams {
    pub id: SessionId,
    pub dev_eui: DevEui,
    pub dev_addr: DevAddr,
    pub version: MacVersion,
    pub keys: NetworkKeys,
    /// The last counter the device has used; `None`: none yet.
    pub fcnt_up: Option<FCntUp>,
    /// The next downlink counter; both counters of a 1.1 session begin there.
    pub fcnt_down: u32,
}

impl Session {
    /// The session a Join-Accept leaves: counters at 0, everything else as the device boots, except what the accept says
    /// (TS001-1.1 §6.2.3). It is pending until an uplink proves that the device has it.
    pub fn new_otaa(profile: &Profile, params: OtaaParams, now: Timestamp) -> Self {
        let mut mac = MacState::boot(profile, now);
        mac.rx1_delay_s = params.rx_delay_s.clamp(RECEIVE_DELAY1_S, RX_DELAY_S_MAX);
        mac.rx1_dr_offset = params.dl_settings.rx1_dr_offset;
        mac.rx2_dr = DataRate::new(params.dl_settings.rx2_dr);
        mac.pending = true;
        match params.cf_list.and_then(CfList::from_bytes) {
            Some(CfList::Frequencies(frequencies)) if !profile.region().is_fixed_plan() => {
                for (slot, freq) in mac.extra.iter_mut().zip(frequencies) {
                    *slot = Hz::new(freq.raw().saturating_mul(profile.region().freq_unit_hz()));
                }
                mac.channels = mac.defined_channels(profile.region());
            }
            Some(CfList::Masks(mask)) if profile.region().is_fixed_plan() => mac.channels = mask,
            Some(_) | None => {}
        }
        Self {
            id: params.id,
            dev_eui: params.dev_eui,
            dev_addr: params.dev_addr,
            activation: Activation::Otaa,
            version: params.version,
            keys: params.keys,
            fcnt_up: None,
            n_fcnt_down: 0,
            a_fcnt_down: 0,
            mac,
            adr: AdrHistory::default(),
            last_dr: None,
            last_seen: None,
            recent: Recent::default(),
        }
    }

    /// A personalised session: the device is as it boots.
    pub fn new_abp(profile: &Profile, params: AbpParams, now: Timestamp) -> Self {
        Self {
            id: params.id,
            dev_eui: params.dev_eui,
            dev_addr: params.dev_addr,
            activation: Activation::Abp,
            version: params.version,
            keys: params.keys,
            fcnt_up: params.fcnt_up,
            n_fcnt_down: params.fcnt_down,
            a_fcnt_down: params.fcnt_down,
            mac: MacState::boot(profile, now),
            adr: AdrHistory::default(),
            last_dr: None,
            last_seen: None,
            recent: Recent::default(),
        }
    }

    /// Whether uplinks are refused until one carries RekeyInd (TS001-1.1 §5.10).
    pub fn awaits_rekey_ind(&self) -> bool {
        self.mac.pending && self.version.is_1_1() && self.activation == Activation::Otaa
    }

    /// Channels the device has beside the default ones of a dynamic plan, with its numbers for them.
    pub fn extra_channels(&self, profile: &Profile) -> Vec<Channel> {
        extra_channels(profile.region(), &self.mac.extra)
    }

    /// The low half of the counter that the ACK bit of a 1.1 uplink stands for, for the MIC; 0 before the first confirmed
    /// downlink.
    pub fn conf_fcnt(&self) -> u16 {
        self.mac.confirmed_down.map_or(0, |fcnt| fcnt.wire().value())
    }

    /// Puts the beginning behind that of another session of the device, in seconds since the Unix epoch: which session is the newer one
    /// must not depend on a wall clock that was set back between two joins.
    pub fn begin_after(&mut self, other_s: Option<u32>) {
        if let Some(other_s) = other_s {
            self.mac.started_at_s = self.mac.started_at_s.max(other_s.saturating_add(1));
        }
    }

    /// Milliseconds from the end of an uplink to RX2, for the dedup window: until then the device does not repeat a frame.
    pub fn rx2_delay_ms(&self) -> u64 {
        u64::from(self.mac.rx1_delay_s.saturating_add(RX2_AFTER_RX1_S)) * 1_000
    }

    /// The confirmed downlink the device has not answered yet.
    pub fn outstanding_confirmed(&self) -> Option<FCntDown> {
        self.mac.confirmed_down.filter(|_| self.mac.confirmed_open)
    }

    /// Checks a verified uplink against the session's own counter. Nothing changes.
    ///
    /// It was verified against a copy of the counter that may be older than the session. [`Counter::Fresh`]: let the
    /// dedup window take it and, once that has opened, call [`Self::open_uplink`]. [`Counter::Repeat`]: it may be a copy or
    /// a repetition, which the dedup window tells; once that has opened one more, call [`Self::count_repeat`].
    pub fn recheck(&self, uplink: &VerifiedUplink<'_>) -> Result<Counter, DropReason> {
        let frame = uplink.frame();
        if uplink.session() != self.id {
            return Err(DropReason::UnknownDevAddr);
        }
        if frame.f_port == Some(0) && !frame.fopts.is_empty() {
            return Err(DropReason::Fport0WithFopts);
        }
        if self.awaits_rekey_ind() && !contains_rekey_ind(self, uplink) {
            return Err(DropReason::AwaitingRekeyInd);
        }
        let Some(last) = self.fcnt_up else {
            return Ok(Counter::Fresh);
        };
        let same_content = self.recent.content == 0 || self.recent.content == uplink.content();
        if uplink.fcnt() > last {
            Ok(Counter::Fresh)
        } else if uplink.fcnt() < last {
            let starts_again = uplink.may_reset() && !self.recent.older.contains(&short(uplink.content()));
            if starts_again { Ok(Counter::Fresh) } else { Err(DropReason::FcntReplayed) }
        } else if same_content {
            let spent = self.recent.transmissions >= self.transmissions_max(frame.confirmed);
            Ok(if spent { Counter::RepeatExhausted } else { Counter::Repeat })
        } else if uplink.may_reset() {
            Ok(Counter::Fresh)
        } else {
            Err(DropReason::FcntReuse)
        }
    }

    /// Takes the counter of an uplink that [`Self::recheck`] found fresh, when its dedup window opens: the next copy is a
    /// copy, whatever the database has heard of it.
    ///
    /// A counter that does not rise is a device that lost it, which was allowed: it lost its other settings as well.
    pub fn open_uplink(&mut self, profile: &Profile, uplink: &VerifiedUplink<'_>, now: Timestamp) {
        if self.fcnt_up.is_some_and(|last| uplink.fcnt() <= last) {
            self.mac.reset(profile, now);
            self.adr.clear();
            self.recent = Recent {
                reset_untold: true,
                content: self.recent.content,
                older: self.recent.older,
                ..Recent::default()
            };
        }
        self.fcnt_up = Some(uplink.fcnt());
        if self.recent.content != 0 {
            self.recent.older.rotate_right(1);
            self.recent.older[0] = short(self.recent.content);
        }
        self.recent.content = uplink.content();
        self.recent.transmissions = 1;
        self.recent.excess_told = false;
    }

    /// Counts one more transmission of the last uplink, when its dedup window opens.
    pub const fn count_repeat(&mut self) {
        self.recent.transmissions = self.recent.transmissions.saturating_add(1);
    }

    /// Whether an excess of repetitions is to be told: the first time for each uplink.
    pub const fn tell_excess(&mut self) -> bool {
        let first = !self.recent.excess_told;
        self.recent.excess_told = true;
        first
    }

    /// How often a device may send the last uplink: NbTrans; up to 1.0.3 a confirmed one until it is acknowledged, which
    /// devices do eight times (TS001-1.0.3 §18.4, TS001-1.0.4 §4.3.1.3).
    fn transmissions_max(&self, confirmed: bool) -> u8 {
        if confirmed && self.version <= MacVersion::V1_0_3 {
            return CONFIRMED_TRANSMISSIONS_MAX;
        }
        let asked = self.mac.asked.as_ref().and_then(|asked| asked.link_adr).map_or(1, |asked| asked.nb_trans);
        self.mac.nb_trans.max(asked).max(1)
    }
}

impl MacState {
    /// The settings of a device that has just been switched on.
    pub fn boot(profile: &Profile, now: Timestamp) -> Self {
        let region = profile.region();
        let (rx2_freq, rx2_dr) = region.rx2_default();
        let (uplink_dwell, downlink_dwell) = region.dwell_defaults(profile.revision);
        Self {
            rx1_delay_s: RECEIVE_DELAY1_S,
            rx1_dr_offset: 0,
            rx2_dr,
            rx2_freq,
            dr: None,
            tx_power: 0,
            nb_trans: 1,
            channels: region.default_mask(),
            extra: ExtraSlots::default(),
            uplink_dwell,
            downlink_dwell,
            eirp_index: None,
            class: DeviceClass::A,
            pending: false,
            confirmed_down: None,
            confirmed_open: false,
            status: None,
            status_at_s: 0,
            started_at_s: seconds(now),
            profile_tag: profile.tag(),
            refusals: Refusals::default(),
            asked: None,
        }
    }

    /// Back to the settings of a device that was just switched on. What the network itself remembers stays: the confirmed
    /// downlink, the status, the age of the session.
    pub(crate) fn reset(&mut self, profile: &Profile, now: Timestamp) {
        *self = Self {
            pending: self.pending,
            confirmed_down: self.confirmed_down,
            confirmed_open: self.confirmed_open,
            status: self.status,
            status_at_s: self.status_at_s,
            started_at_s: self.started_at_s,
            ..Self::boot(profile, now)
        };
    }

    /// Every channel the device knows.
    pub(crate) fn defined_channels(&self, region: &Region) -> ChannelMask {
        let mut channels = region.default_mask();
        for channel in extra_channels(region, &self.extra) {
            channels.insert(channel.index);
        }
        channels
    }
}

/// Seconds since the Unix epoch; 0 before it.
pub(crate) fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.us().max(0) / 1_000_000).unwrap_or(u32::MAX)
}

/// Never 0, which stands for none.
#[allow(clippy::cast_possible_truncation, reason = "the low half is what is kept")]
fn short(content: u64) -> u32 {
    (content as u32).max(1)
}

const RX_DELAY_S_MAX: u8 = 15;
const CONFIRMED_TRANSMISSIONS_MAX: u8 = 8;
const OLDER: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_sessions_fit_their_budget() {
        assert!(size_of::<Session>() <= 300, "{}", size_of::<Session>());
    }
}
